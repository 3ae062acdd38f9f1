"""An output layer whose items are split over processes: the same as one process, its files, its refusals.

What ``torchrun`` starts is this file itself, as in test_distributed.py.
"""

import json
import os
import sys
from itertools import product
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from test_distributed import FIT, NOT_SHARED, WITHOUT_PHASES, silence, tiny, torchrun, weights

import vaecf_lib as vc
from vaecf_lib import distributed, sharding
from vaecf_lib.distributed import OwnRows, Place
from vaecf_lib.nn import ItemLayer, output
from vaecf_lib.systems import SYSTEMS
from vaecf_lib.training import Trainer

N_USERS, N_ITEMS = 9, 131
NO_LAYER = {"autorec-u", "cdae", "dae-cf", "deepae", "hyvae", "lambdanet", "macridvae", "vae", "vae-cf", "warp"}
NO_LAYER |= {"irgan", "vasp", "wmf-linear"}
RUNS = {"mult-dae": {"dropout": 0.0}, "recvae": {}}
METRICS = ("ndcg@100", "recall@20", "coverage@5")


def odd_splits():
    """99 items for two processes, and 15 people held out: 8 for one, 7 for the other."""
    log = vc.load_dataset("planted")
    log = log.select((log.user < 301) & (log.item < 99))
    clicks = {"clicks": vc.split_strong(log, n_heldout=15), "known users": vc.split_weak(log, valid=0.1)}
    return clicks | {"ratings": vc.split_ratings(log)}


# --- workers: what torchrun starts -----------------------------------------------------------------------------------


def gradients(module, n_items):
    """Return the module's gradients, whole in the first process."""
    given = {name: p for name, p in module.named_parameters() if p.grad is not None}
    return {n: distributed.whole(p.grad, n_items) if isinstance(p, OwnRows) else p.grad for n, p in given.items()}


def largest_difference(ours, theirs):
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in zip(ours, theirs, strict=True))


def through(layer, what, h, x):
    """Return log-probabilities, or logits; of counts, and of several vectors a user."""
    if what == "logits":
        return layer(torch.stack([h, 2 * h])).sum(0)
    return layer.log_prob(h, x, "multinomial" if what == "counts" else what)


def compare_layers(report):
    """People with no click, one, all, and all but one; all rows at once, and three at a time."""
    (rank, count), generator = distributed.place(), torch.manual_seed(0)
    layer = ItemLayer(6, N_ITEMS)
    split = sharding.SplitItemLayer(layer, torch.device("cpu"))
    h, x = torch.randn(N_USERS, 6, generator=generator), torch.rand(N_USERS, N_ITEMS, generator=generator).lt(0.1) * 1.0
    x[:2], x[1, 3], x[2:4], x[3, 5] = 0, 1, 1, 0
    for what, rows in product(("multinomial", "bernoulli", "n_choose_k", "counts", "logits"), (N_USERS, 3)):
        found = []
        for module, users in ((layer, slice(None)), (split, slice(rank, None, count))):
            own = h[users].clone().requires_grad_()
            batch = vc.data.Batch.from_dense((x * (2.0 if what == "counts" else 1.0))[users])
            module.zero_grad()
            with mock.patch.object(output, "KEPT_BYTES", rows * 8 * -(-N_ITEMS // (1 if module is layer else count))):
                value = through(module, what, own, batch)
            counted = torch.linspace(0.5, 2, N_USERS)[users].view(-1, *[1] * (value.ndim - 1))  # rows count unequally
            (value * counted).sum().backward()
            grads = gradients(module, N_ITEMS)
            found.append([value.detach(), own.grad, *(grads.values() if rank == 0 else ())])
        theirs, ours = found
        theirs[:2] = [tensor[rank::count] for tensor in theirs[:2]]
        report[f"{what}, {rows} rows"] = largest_difference(ours, theirs)


def updates(slug, split_items, splits, **options):
    """Return the losses and gradients of two updates of each phase; or why its items cannot be split."""
    torch.manual_seed(0)
    model, split = tiny(slug, splits, **options)
    try:
        trainer = Trainer(model, split, device="cpu", shard_items=split_items)
    except vc.ConfigError as error:
        return str(error)
    (rank, count), found = distributed.place(), []
    for users, number in product(([3, 1, 4, 15, 9], [2]), range(len(trainer.phases))):  # of [2] one process has nobody
        model.zero_grad()
        with silence():
            own = torch.tensor(users)[rank::count]
            loss = trainer.step(split.train.rows(own), number)["loss"]
        found.append(distributed.sums({"loss": loss * len(own)}, loss.device)["loss"] / len(users))
        found += gradients(model, model.n_items).values()
    return found


def compare_updates(report, refused, splits):
    """Of all systems that can be shared out, and of the other two likelihoods."""
    kinds = [(slug, {}) for slug in sorted(SYSTEMS.keys() - NOT_SHARED - WITHOUT_PHASES)]
    kinds += [("mult-vae", {"likelihood": name}) for name in ("bernoulli", "n_choose_k")]
    for slug, options in kinds:
        with distributed.shared("cpu"):
            two = updates(slug, True, splits, **options)
        if isinstance(two, str):
            refused[slug] = two
            continue
        with distributed.alone():
            one = updates(slug, True, splits, **options)
        if distributed.launched().rank == 0:
            report[" ".join([slug, *options.values()])] = largest_difference(two, one)


def one_run(slug, splits, out=None, **options):
    """Train; return the history, test metrics, scores, the weights of the best epoch, and how many items are here."""
    model, split = tiny(slug, splits, **RUNS[slug])
    with silence():
        run = vc.fit(model, split, epochs=3, batch_size=31, out=out, shard_items=True, **FIT, **options)
    if distributed.place().rank == 0 or distributed.place().count > 1:
        estimates = vc.evaluate(model, split.test, METRICS, 7)
        scores = model.scores(split.test.history.rows(torch.arange(4))).tolist()
    whole = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    whole.pop("rating_range")  # infinite
    return {
        "history": [{name: value for name, value in row.items() if name != "seconds"} for row in run.history],
        "metrics": {name: [e.mean, e.n_users] for name, e in estimates.items()},
        "scores": scores,
        "weights": None if distributed.launched().rank else torch.cat([w.flatten() for w in whole.values()]).tolist(),
        "items": [len(p) for p in model.parameters() if isinstance(p, OwnRows)],
    }


def runs_of(slug, splits, folder):
    """One process; two, with and without a folder; two go on where one stopped, and one where two did."""
    found, rank = {}, distributed.launched().rank

    def by_one(out, **options):
        with distributed.alone():
            return one_run(slug, splits, out, **options) if rank == 0 else None

    with distributed.shared("cpu"):
        found["one"] = by_one(None)
        found["one, bf16"] = by_one(None, precision="bf16")
        found["two, bf16"] = one_run(slug, splits, precision="bf16")
        found["two"] = one_run(slug, splits, folder / "two")
        found["no folder"] = one_run(slug, splits)
        by_one(folder / "two go on", stop_after=1)
        distributed.lengths(rank)  # wait for the first
        found["two go on"] = one_run(slug, splits, folder / "two go on")
        one_run(slug, splits, folder / "one goes on", stop_after=1)
        found["one goes on"] = by_one(folder / "one goes on")
        items = [None] * distributed.place().count
        dist.all_gather_object(items, found["two"]["items"])
        found["items"] = items
    return found


def refusals(splits, folder):
    """What one process alone asks of a model that is split."""
    model, split = tiny("mult-vae", splits)
    fit = FIT | {"epochs": 1, "shard_items": True}
    vc.fit(model, split, **fit)
    found = []
    for call in (
        lambda: vc.fit(*tiny("mult-vae", splits), on_epoch=lambda run: vc.evaluate(run.model, split.test), **fit),
        lambda: vc.evaluate(model, split.test),
        lambda: vc.save_model(model, folder / "model"),
        lambda: vc.fit(model, split, **fit),
    ):
        with pytest.raises(vc.ConfigError) as error:
            call()
        found.append(str(error.value))
    return found


def together(folder):
    """All at once: to start processes is what takes the time."""
    report, splits = {"updates": {}, "refused": {}}, odd_splits()
    torch.set_default_dtype(torch.float64)
    compare_updates(report["updates"], report["refused"], splits)
    torch.set_default_dtype(torch.float32)
    report["runs"] = {slug: runs_of(slug, splits, folder / slug) for slug in RUNS}
    report["alone"] = refusals(splits, folder)
    if os.environ["RANK"] == "0":
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def layers(folder):
    """The layers alone, of any number of processes."""
    torch.set_default_dtype(torch.float64)
    report = {}
    with distributed.shared("cpu"):
        compare_layers(report)
        found = [None] * distributed.place().count
        dist.all_gather_object(found, report)
    if os.environ["RANK"] == "0":
        (folder / "report.json").write_text(json.dumps(found), encoding="utf-8")


def reported(worker, folder, **options):
    done = torchrun(worker, folder, file=__file__, **options)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


# --- the same as one process -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("split")


@pytest.fixture(scope="module")
def report(folder):
    """What two processes found."""
    return reported("together", folder)


@pytest.mark.slow
def test_a_split_layer_is_the_whole_one(tmp_path):
    """Values and all gradients in float64, of three processes: uneven numbers of users and of items."""
    for of_process in reported("layers", tmp_path, processes=3):
        assert len(of_process) == 10
        assert max(of_process.values()) < 1e-9, of_process


@pytest.mark.slow
def test_an_update_of_a_split_layer_is_that_of_one_process(report):
    """Losses and all gradients in float64, of every phase of every system whose items can be split."""
    assert report["updates"].keys() >= {"mult-dae", "mult-vae", "mult-vae bernoulli", "mult-vae n_choose_k", "recvae"}
    assert max(report["updates"].values()) < 1e-9, report["updates"]


@pytest.mark.slow
def test_what_has_no_such_layer_is_refused(report):
    """In one line, that names the system."""
    assert report["refused"].keys() == NO_LAYER
    for slug, line in report["refused"].items():
        assert line == f"shard_items: {slug} has no output layer with a likelihood of clicks behind it: leave it out"


@pytest.mark.slow
@pytest.mark.parametrize("slug", RUNS)
@pytest.mark.parametrize("how", ["two", "no folder", "two go on", "one goes on"])
def test_a_run_with_split_items_is_that_of_one_process(report, how, slug):
    """Losses, validation, test metrics, scores and weights, resumed with more or fewer processes, too."""
    found = report["runs"][slug]
    theirs, ours = found["one"], found[how]
    assert len(ours["history"]) == 3
    for row, expected in zip(ours["history"], theirs["history"], strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, (mean, n_users) in theirs["metrics"].items():
        assert ours["metrics"][name] == [pytest.approx(mean, rel=5e-3), n_users], name
    assert n_users == 15
    torch.testing.assert_close(torch.tensor(ours["scores"]), torch.tensor(theirs["scores"]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.tensor(ours["weights"]), torch.tensor(theirs["weights"]), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("slug", RUNS)
def test_split_items_train_in_mixed_precision(report, slug):
    """As one process does, up to the digits of bfloat16."""
    theirs, ours = (report["runs"][slug][f"{how}, bf16"]["history"] for how in ("one", "two"))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=5e-3)
    assert ours[-1]["loss"] != report["runs"][slug]["two"]["history"][-1]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("slug", RUNS)
def test_each_process_has_its_items_alone(report, slug):
    """Weights and biases; one process has all, in the layer that it built."""
    assert report["runs"][slug]["items"] == [[49, 49], [50, 50]]
    assert report["runs"][slug]["one"]["items"] == []


@pytest.mark.slow
@pytest.mark.parametrize("slug", RUNS)
def test_one_process_serves_what_several_trained(report, folder, slug):
    """The folder is as one process writes it: equal scores, equal weights."""
    run = vc.load_run(folder / slug / "two")
    _, split = tiny(slug, odd_splits())
    scores = run.model.scores(split.test.history.rows(torch.arange(4)))
    torch.testing.assert_close(scores, torch.tensor(report["runs"][slug]["two"]["scores"]), rtol=1e-5, atol=1e-5)
    kept = {name: value for name, value in run.model.state_dict().items() if name != "rating_range"}
    kept = torch.cat([value.flatten() for value in kept.values() if value.is_floating_point()])
    assert torch.equal(kept, torch.tensor(report["runs"][slug]["two"]["weights"]))


@pytest.mark.slow
def test_what_is_split_cannot_be_used_by_one_process_alone(report):
    """It would wait for the others for ever, or write half of it."""
    *alone, again = report["alone"]
    line = (
        "the output layer is split among 2 processes: call this in all of them, inside of distributed.shared(), or "
        "load the run's folder, which holds it whole"
    )
    assert alone == [line] * 3
    assert again == "the output layer of this mult-vae is split among processes: build a new one"


# --- what needs no second process ------------------------------------------------------------------------------------


def test_one_process_splits_nothing(planted_split):
    """The same command serves any number: the option gives the very same training."""
    ends = []
    for shard_items in (False, True):
        model = vc.build("mult-dae", planted_split.n_items, latent_dim=4)
        vc.fit(model, planted_split, epochs=1, batch_size=500, shard_items=shard_items, **FIT)
        assert type(model.output) is ItemLayer
        ends.append(weights(model).nan_to_num())
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("slug", "options", "line"),
    [
        ("mult-vae", {"n_sampled": 9}, "shard_items: mult-vae with n_sampled draws from all items: give one of the two"),
        ("recvae", {"implicit_slim": 9}, "shard_items: recvae with implicit_slim renews all items together: give one of the two"),
        ("mult-vae", {}, "shard_items: 1 items for 2 processes: start fewer"),
        ("hyvae", {}, "shard_items: hyvae has no output layer with a likelihood of clicks behind it: leave it out"),
        ("popularity", {}, "shard_items: popularity has no output layer with a likelihood of clicks behind it: leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(slug, options, line):
    token = distributed._place.set(Place(1, 2))
    try:
        with pytest.raises(vc.ConfigError) as error:
            sharding.split_items(vc.build(slug, 1, **options), torch.device("cpu"))
    finally:
        distributed._place.reset(token)
    assert str(error.value) == line


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
