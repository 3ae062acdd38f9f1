"""Several processes: the same update as one, evaluation in parts, one writer, killed and silent workers, refusals.

What ``torchrun`` starts is this file itself, with the name of a worker below and a folder for what it finds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

import vaecf_lib as vc
from vaecf_lib import checkpoints, cli, distributed, sharding
from vaecf_lib.checkpoints import load_tensors
from vaecf_lib.data import RowSweep
from vaecf_lib.distributed import Place
from vaecf_lib.evaluation import per_user_metrics
from vaecf_lib.nn import ItemLayer, output
from vaecf_lib.systems import SYSTEMS, build
from vaecf_lib.training import Trainer

TINY = {"latent_dim": 4, "hidden": 8, "critic_hidden": 8, "noise_dim": 4, "code": 8, "concepts": 2, "pseudo_inputs": 3}
NOT_SHARED = {"awae", "biased-mf", "ncf", "cnn-cf", "autorec-i", "vae-bmf"}
WITHOUT_PHASES = {"popularity", "random", "means", "planted-oracle"}
FIT = {"device": "cpu", "progress": False}


def tiny_splits():
    log = vc.load_dataset("planted")
    log = log.select((log.user < 301) & (log.item < 100))
    return {"clicks": vc.split_strong(log, n_heldout=20), "ratings": vc.split_ratings(log)}


def tiny(slug, splits, **options):
    """Return a small system and the split that it can be trained on."""
    known = build(slug, 1).config
    options = {n: v for n, v in (TINY | options).items() if n in known and (n not in TINY or isinstance(known[n], int))}
    split = splits["ratings" if build(slug, 1).rates else "clicks"]
    return build(slug, split.n_items, **options), split


def weights(model):
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def same_everywhere(tensor):
    """Whether all processes hold the same bytes."""
    held = [None] * dist.get_world_size()
    dist.all_gather_object(held, tensor.tolist())
    return all(one == held[0] for one in held)


@contextmanager
def silence():
    """Take all noise away: samples are means, and nothing is dropped out."""
    zeros = lambda *size, device=None: torch.zeros(*size)  # noqa: E731
    with (
        mock.patch("torch.randn_like", torch.zeros_like),
        mock.patch("torch.randn", zeros),
        mock.patch("torch.nn.functional.dropout", lambda x, *_: x),
    ):
        yield


# --- workers: what torchrun starts -----------------------------------------------------------------------------------


def gradients(slug, splits, batches):
    """Return by phase and batch the gradients that one update adds up, and the weights after all updates."""
    torch.manual_seed(0)
    model, split = tiny(slug, splits)
    trainer = Trainer(model, split, **{"device": "cpu"})
    found = []
    for number in range(len(trainer.phases)):
        for users in batches:
            rank, count = distributed.place()
            with silence():
                trainer.step(split.train.rows(torch.tensor(users)[rank::count]), number)
            found.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
    return found, weights(model)


def compare_updates(report, splits):
    """Uneven shares, and a batch of one user, of whom the second process has none."""
    for slug in sorted(SYSTEMS.keys() - NOT_SHARED - WITHOUT_PHASES):
        batches = [[3, 1, 4, 15, 9], [2]]
        with distributed.alone():
            one, _ = gradients(slug, splits, batches)
        with distributed.shared("cpu"):
            two, after = gradients(slug, splits, batches)
        worst = 0.0
        for ours, theirs in zip(two, one, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                worst = max(worst, ((a - b).abs().max() / b.abs().max().clamp_min(1e-6)).item())
        report[slug] = {"gradient": worst, "same weights": same_everywhere(after)}


def together(folder):
    """Compare what two processes do with what one does, in one go: to start processes is what takes the time."""
    report, splits = {"updates": {}, "runs": {}}, tiny_splits()
    compare_updates(report["updates"], splits)
    rank = int(os.environ["RANK"])
    if rank > 0:  # who is not the first must not write
        checkpoints.write_atomically = None
    for slug, options in {"mult-dae": {}, "recvae": {}, "vaegan-avb-d-c": {}, "hyvae": {}, "popularity": {}}.items():
        runs = []
        for kept in (None, folder / slug):
            model, split = tiny(slug, splits, **options)
            with distributed.alone() if kept is None else distributed.shared("cpu"), silence():
                run = vc.fit(
                    model, split, epochs=3, batch_size=31, out=kept, metric="rmse" if model.rates else None, **FIT
                )
                metrics = (
                    ("rmse", "mae") if model.rates else ("ndcg@100", "recall@20", "coverage@5", "gini@5", "novelty@5")
                )
                estimates = vc.evaluate(model, split.test, metrics, 7)
            runs.append([run.history, {name: [e.mean, e.n_users] for name, e in estimates.items()}, run.best_epoch])
        report["runs"][slug] = {"one": runs[0], "two": runs[1], "same weights": same_everywhere(weights(model))}

    torch.manual_seed(rank)
    model, split = tiny("recvae", splits)
    report["weights differ at first"] = not same_everywhere(weights(model))
    vc.fit(model, split, epochs=1, warm_start=True, **FIT)
    report["warm start"] = same_everywhere(weights(model))

    seen = []

    def on_epoch(run):
        seen.append(vc.evaluate(run.model, split.test, ("ndcg@100",))["ndcg@100"].mean)
        torch.rand(3)
        return len(run.history) == 2

    run = vc.fit(model, split, epochs=5, on_epoch=on_epoch, **FIT)
    report["called"] = [None, None]
    dist.all_gather_object(report["called"], [len(seen), len(run.history), run.stopped])
    torch.manual_seed(0)
    with distributed.shared("cpu"):
        before = torch.get_rng_state()
        with distributed.own_noise(3, torch.device("cpu")):
            noise = torch.randn(4)
        with distributed.own_noise(4, torch.device("cpu")):
            later = torch.randn(4)
        report["noise differs by process"] = not same_everywhere(noise)
        report["noise differs by update"] = not torch.equal(noise, later)
        report["common generator stays"] = torch.equal(before, torch.get_rng_state()) and same_everywhere(torch.rand(2))
        with_nan = per_user_metrics(model, split.test, ("ndcg@100",))["ndcg@100"]
    with distributed.alone():
        by_one = per_user_metrics(model, split.test, ("ndcg@100",))["ndcg@100"]
    report["per user"] = torch.allclose(with_nan, by_one, rtol=0, atol=1e-6, equal_nan=True)
    try:
        vc.fit(model, split, seed=rank, **FIT)
        other = None
    except vc.VaecfError as error:
        other = str(error)
    if rank == 1:
        (folder / "other.txt").write_text(str(other), encoding="utf-8")
    else:
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def wholly(parameters, n_items):
    """The gradients of named parameters in the first process, whole also where each process has its own rows."""
    grads = {name: p.grad for name, p in parameters if p.grad is not None}
    split = {name for name, p in parameters if isinstance(p, distributed.OwnRows)}
    return {name: distributed.whole(g, n_items) if name in split else g.clone() for name, g in grads.items()}


def compare_layers(report):
    """Log-probabilities and logits of a split layer, and all gradients, beside those of the whole one, in float64."""
    rank, count = distributed.place()
    generator = torch.Generator().manual_seed(0)
    n_users, n_items = 9, 131
    h = torch.randn(n_users, 6, dtype=torch.float64, generator=generator)
    clicks = (torch.rand(n_users, n_items, generator=generator) < 0.1).double()
    clicks[0], clicks[1], clicks[1, 3], clicks[2:4], clicks[3, 5] = 0, 0, 1, 1, 0  # none, one, all, all but one
    cases = {
        (likelihood, kept): (lambda layer, h, x, likelihood=likelihood: layer.log_prob(h, x, likelihood), clicks)
        for likelihood in ("multinomial", "bernoulli", "n_choose_k")
        for kept in (output.KEPT_BYTES, 8 * 3 * n_items)
    }
    cases["counts", output.KEPT_BYTES] = lambda layer, h, x: layer.log_prob(h, x, "multinomial"), 3 * clicks
    cases["logits", output.KEPT_BYTES] = lambda layer, h, x: layer(h), clicks
    cases["several draws", output.KEPT_BYTES] = lambda layer, h, x: layer(torch.stack([h, 2 * h])).sum(0), clicks
    layer = ItemLayer(6, n_items).double()
    for (name, kept), (call, x) in cases.items():
        found = []
        for users, module in (
            (slice(None), layer),
            (slice(rank, None, count), sharding.SplitItemLayer(layer, torch.device("cpu"))),
        ):
            own, batch = h[users].clone().requires_grad_(), vc.data.Batch.from_dense(x[users])
            layer.zero_grad()
            with mock.patch.object(output, "KEPT_BYTES", kept):
                value = call(module, own, batch)
            weights = torch.linspace(0.5, 2, value.numel() if module is layer else 0, dtype=value.dtype)
            weights = weights.view_as(value) if module is layer else upstream[users]
            upstream = weights
            (value * weights).sum().backward()
            grads = wholly(list(module.named_parameters()), n_items)
            found.append([value.detach(), own.grad, grads["weight"], grads["bias"]])
        theirs, ours = found
        differences = [(a[rank::count] - b).abs().max().item() for a, b in zip(theirs[:2], ours[:2], strict=True)]
        if rank == 0:
            differences += [(a - b).abs().max().item() for a, b in zip(theirs[2:], ours[2:], strict=True)]
        report[f"{name} {kept}"] = max(differences)


def one_update(slug, splits, shard_items, **options):
    """Return losses and whole gradients of updates of each phase; or why its layer cannot be split."""
    torch.manual_seed(0)
    model, split = tiny(slug, splits, **options)
    try:
        trainer = Trainer(model, split, device="cpu", shard_items=shard_items)
    except vc.ConfigError as error:
        return str(error)
    rank, count = distributed.place()
    found = {}
    for users in ([3, 1, 4, 15, 9], [2]):
        for number in range(len(trainer.phases)):
            model.zero_grad()
            with silence():
                loss = trainer.step(split.train.rows(torch.tensor(users)[rank::count]), number)["loss"]
            n_own = len(users[rank::count])
            loss = distributed.sums({"loss": loss.double() * n_own / len(users) if n_own else 0.0}, loss.device)
            found[f"{len(users)} {number} loss"] = loss["loss"].double()
            grads = wholly(list(model.named_parameters()), model.n_items)
            found |= {f"{len(users)} {number} {name}": grad for name, grad in grads.items()}
    return found


def split_items(folder):
    """Compare what two processes do that have half of the items each with what one does."""
    report, splits = {"layers": {}, "updates": {}, "refused": {}, "runs": {}}, tiny_splits()
    rank = int(os.environ["RANK"])
    with distributed.shared("cpu"):
        compare_layers(report["layers"])
    torch.set_default_dtype(torch.float64)
    systems = {(slug, None): {} for slug in sorted(SYSTEMS.keys() - NOT_SHARED - WITHOUT_PHASES)}
    systems |= {("mult-vae", name): {"likelihood": name} for name in ("bernoulli", "n_choose_k")}
    for (slug, likelihood), options in systems.items():
        with distributed.shared("cpu"):
            two = one_update(slug, splits, True, **options)
        if isinstance(two, str):
            report["refused"][slug] = two
            continue
        with distributed.alone():
            one = one_update(slug, splits, True, **options)
        if rank == 0:
            worst = max(((two[n] - one[n]).abs().max() / one[n].abs().max().clamp_min(1e-3)).item() for n in one)
            report["updates"][f"{slug} {likelihood or ''}"] = worst if one.keys() == two.keys() else "other gradients"
    torch.set_default_dtype(torch.float32)

    log = vc.load_dataset("planted")
    split = vc.split_strong(log.select((log.user < 301) & (log.item < 100)), n_heldout=15)  # 8 for one, 7 for the other
    metrics = ("ndcg@100", "recall@20", "coverage@5")
    for slug, options in {"mult-dae": {"dropout": 0.0}, "recvae": {}, "mult-vae": {"likelihood": "n_choose_k"}}.items():
        found = {}
        for how in ("one", "two", "resumed", "memory"):
            two = how != "one"
            model, _ = tiny(slug, {"clicks": split}, **options)
            fit = FIT | {"epochs": 3, "batch_size": 31, "shard_items": True}
            with silence():
                if how == "resumed":  # by half the processes, after one epoch
                    with distributed.shared("cpu"):
                        vc.fit(model, split, out=folder / slug / "cut", stop_after=1, **fit)
                        model, _ = tiny(slug, {"clicks": split}, **options)
                    if rank == 0:
                        with distributed.alone():
                            run = vc.fit(model, split, out=folder / slug / "cut", **fit)
                            found[how] = [run.history, weights(model).tolist()]
                    continue
                with distributed.shared("cpu") if two else distributed.alone():
                    kept = folder / slug / "kept" if how == "two" else None
                    run = vc.fit(model, split, out=kept, **fit)
                    estimates = vc.evaluate(model, split.test, metrics, 7)
                    scores = model.scores(split.test.history.rows(torch.arange(4)))
                    state = model.state_dict()  # whole in the first process
            sizes = [[len(p) for p in model.parameters() if isinstance(p, distributed.OwnRows)]]
            if two:
                sizes = [None, None]
                dist.all_gather_object(sizes, [len(p) for p in model.parameters() if isinstance(p, distributed.OwnRows)])
            if rank == 0:
                found[how] = [run.history, torch.cat([v.double().flatten() for v in state.values()]).tolist()]
                found[f"{how} metrics"] = {name: [e.mean, e.n_users] for name, e in estimates.items()}
                found[f"{how} scores"], found[f"{how} sizes"] = scores.tolist(), sizes
        # The other way round: one process begins, two go on.
        with silence():
            if rank == 0:
                with distributed.alone():
                    vc.fit(tiny(slug, {"clicks": split}, **options)[0], split, out=folder / slug / "alone", stop_after=1, **fit)
            with distributed.shared("cpu"):
                distributed.by_first(lambda: None)
                model, _ = tiny(slug, {"clicks": split}, **options)
                run = vc.fit(model, split, out=folder / slug / "alone", **fit)
                state = model.state_dict()
        if rank == 0:
            found["gone on"] = [run.history, torch.cat([v.double().flatten() for v in state.values()]).tolist()]
        report["runs"][slug] = found

    def on_epoch(run):
        vc.evaluate(run.model, split.test, metrics)

    report["alone"] = []
    for call in (
        lambda: vc.fit(tiny("mult-vae", splits)[0], splits["clicks"], on_epoch=on_epoch, **fit),
        lambda: vc.evaluate(model, split.test, metrics),
        lambda: vc.save_model(model, folder / "model.safetensors"),
        lambda: vc.fit(model, split, **fit),
    ):
        try:
            call()
        except vc.ConfigError as error:
            report["alone"].append(str(error))
    if rank == 0:
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def command(folder):
    """Call the command line with the arguments that are left; the second process may be told to die, or to sleep."""
    real, (how, at) = distributed.own_noise, os.environ.get("AILING", "no 0").split()
    if how == "sleeps":
        dist.init_process_group("gloo", timeout=timedelta(seconds=4))

    def ailing(update, device):
        if update == int(at) and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "sleeps":
                time.sleep(60)
        return real(update, device)

    distributed.own_noise = ailing
    sys.argv = ["vaecf", *sys.argv[3:]]
    cli.main()


def torchrun(worker, folder, *arguments, processes=2, restarts=0, **environment):
    """Start a worker in some processes; return what became of it."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
    ]
    return subprocess.run(
        [*launcher, __file__, worker, str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


# --- the same as one process -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What two processes found; whoever was not the first would have failed on writing a file."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun("together", folder)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found | {"folder": folder, "other": (folder / "other.txt").read_text(encoding="utf-8")}


@pytest.mark.slow
def test_an_update_in_two_parts_is_the_update_of_one_process(report):
    """Of all phases of every system that can be shared out; unequal shares, and one without any user."""
    assert len(report["updates"]) > 20
    for slug, found in report["updates"].items():
        assert found["gradient"] < 2e-4 and found["same weights"], slug


@pytest.mark.slow
def test_a_run_in_two_parts_is_the_run_of_one_process(report):
    """History, validation, best epoch and test metrics, where nothing is random but the order of users."""
    for slug, found in report["runs"].items():
        (history, metrics, best), (ours, our_metrics, our_best) = found["one"], found["two"]
        assert found["same weights"] and our_best == best and len(ours) == len(history), slug
        for row, expected in zip(ours, history, strict=True):
            for name in expected.keys() - {"seconds"}:
                assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3), (slug, name)
        for name, (mean, n_users) in metrics.items():
            assert our_metrics[name] == [pytest.approx(mean, rel=5e-3), n_users], (slug, name)
    assert report["per user"]


@pytest.mark.slow
def test_two_processes_keep_one_run(report):
    """The folder is as one process writes it, and the manifest says how many there were."""
    names = {path.name for path in (report["folder"] / "recvae").iterdir()}
    expected = {
        "best.safetensors",
        "checkpoint.safetensors",
        "history.json",
        "manifest.json",
        "people.safetensors",
        ".lock",
    }
    assert names == expected
    kept = vc.load_run(report["folder"] / "recvae")
    assert [row["epoch"] for row in kept.history] == [1, 2, 3]
    (sitting,) = kept.manifest["sittings"]
    assert sitting["processes"] == 2 and sitting["to_epoch"] == 3


@pytest.mark.slow
def test_all_start_with_the_weights_of_the_first(report):
    """Where each brings its own to a warm start, they would never be one model again."""
    assert report["weights differ at first"] and report["warm start"]


@pytest.mark.slow
def test_a_callback_runs_in_the_first_process_and_stops_all(report):
    """It may evaluate there, and draw random numbers, while the others wait."""
    assert report["called"] == [[2, 2, "on_epoch asked for it"], [0, 2, "on_epoch asked for it"]]


@pytest.mark.slow
def test_each_process_and_update_has_noise_of_its_own(report):
    """While what decides the order of users stays common."""
    assert report["noise differs by process"] and report["noise differs by update"] and report["common generator stays"]


@pytest.mark.slow
def test_processes_with_other_settings_do_not_train_together(report):
    """They would make something that is nobody's run."""
    assert report["other"] == "process 1 has other seed than the first: give all processes the same data and settings"


# --- workers that fail -----------------------------------------------------------------------------------------------

RECVAE = ["fit", "recvae", "--dataset", "planted", "--epochs", "3", "--device", "cpu", "--set", "hidden=8",
          "--set", "latent_dim=4", "--json", "--out"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nothing befell: what it printed, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    done = torchrun("command", folder, *RECVAE, folder)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr
    return json.loads(done.stdout), load_tensors(folder / "checkpoint.safetensors")[0]


def check_same_end(whole, done, folder):
    """The run in ``folder`` was cut off in its second epoch, and ended as the whole one did, weights and noise."""
    result, state = whole
    assert json.loads(done.stdout)["metrics"] == result["metrics"]
    ours = load_tensors(folder / "checkpoint.safetensors")[0]
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, ours[name]), name
    sittings = vc.load_run(folder).manifest["sittings"]
    assert [(s["processes"], s["from_epoch"], s["to_epoch"]) for s in sittings] == [(2, 0, 1), (2, 1, 3)]


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_and_the_run_goes_on(whole, tmp_path):
    """The one that is left says so in one line; the next call ends as if nothing had been."""
    killed = torchrun("command", tmp_path, *RECVAE, tmp_path / "run", AILING="dies 30")
    ours = [line for line in killed.stderr.splitlines() if line.startswith("process 0 of 2: ")]
    assert killed.returncode != 0 and killed.stdout == ""
    assert len(ours) == 1 and ours[0].endswith("with --out the same command goes on from the last checkpoint")
    again = torchrun("command", tmp_path, *RECVAE, tmp_path / "run")
    check_same_end(whole, again, tmp_path / "run")


@pytest.mark.slow
def test_torchrun_may_start_the_processes_again(whole, tmp_path):
    """By itself, after one was killed; the new ones must not look for the old ones' addresses."""
    done = torchrun("command", tmp_path, *RECVAE, tmp_path / "run", restarts=1, AILING="dies 30")
    assert done.returncode == 0, done.stderr
    check_same_end(whole, done, tmp_path / "run")


@pytest.mark.slow
def test_a_silent_worker_ends_the_job_when_time_is_up(tmp_path):
    """Of a process group of one's own, with a time of its own."""
    done = torchrun("command", tmp_path, *RECVAE, tmp_path / "run", AILING="sleeps 30")
    ours = [line for line in done.stderr.splitlines() if line.startswith("process 0 of 2: ")]
    assert done.returncode != 0
    assert len(ours) == 1 and "error: another process was killed, failed or is silent" in ours[0], done.stderr


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """The manifest says so: the noise is then another, the order of users is not."""
    options = [*RECVAE, tmp_path / "run"]
    torchrun("command", tmp_path, *options[:4], "--epochs", "2", *options[6:])
    done = torchrun("command", tmp_path, *options, processes=1)
    assert json.loads(done.stdout)["epochs"] == 3
    assert [s["processes"] for s in vc.load_run(tmp_path / "run").manifest["sittings"]] == [2, 1]


# --- refusals, and what needs no second process ----------------------------------------------------------------------


@pytest.fixture
def second_of_two():
    """Be the second of two processes, as far as that shows without the first."""
    token = distributed._place.set(Place(1, 2))
    yield
    distributed._place.reset(token)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_what_cannot_be_shared_out_is_refused(slug, second_of_two):
    """Systems over items, single ratings or blocks, and one whose loss is of a whole batch; in one line."""
    model, split = tiny(slug, tiny_splits())
    with mock.patch.object(Trainer, "follow_first"):
        if slug in NOT_SHARED:
            with pytest.raises(
                vc.ConfigError,
                match=rf"^{slug} cannot be shared among processes, .*: train it in one, without torchrun$",
            ):
                Trainer(model, split, device="cpu")
        else:
            Trainer(model, split, device="cpu")


def test_alone_nothing_is_shared(second_of_two):
    """The way to say no: what is called inside does everything by itself."""
    assert distributed.place() == (1, 2)
    with distributed.alone(), distributed.shared("cpu"):
        assert distributed.place() == (0, 1)
        model, split = tiny("mult-vae", tiny_splits())
        assert len(vc.fit(model, split, epochs=1, **FIT).history) == 1


def test_the_processes_read_every_user_once():
    """Batch by batch: the shares of a batch of 4, 4 and 2 users among 3 processes."""
    _, split = tiny("mult-vae", tiny_splits())
    train = split.train.rows(torch.arange(10))
    train = vc.data.Interactions.from_pairs(train.rows, train.items, shape=(10, split.n_items))
    shares = []
    for share in ((0, 1), (0, 3), (1, 3), (2, 3)):
        torch.manual_seed(0)
        shares.append([batch.users.tolist() for batch in RowSweep(train, share=share).shuffled(4)])
    for whole, *parts in zip(*shares, strict=True):
        assert [part[0] for part in parts if part] == whole[:3]
        assert sorted(user for part in parts for user in part) == sorted(whole)
    assert [len(part) for *_, part in zip(*shares, strict=True)] == [1, 1, 0]


@pytest.mark.parametrize("words", [["tune", "mult-vae"], ["models"]])
def test_only_fit_shares_its_work(words, monkeypatch, capsys):
    """Every process would do, write and print the same."""
    monkeypatch.setattr(distributed, "launched", lambda: Place(0, 2))
    monkeypatch.setattr(sys, "argv", ["vaecf", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"process 0 of 2: error: only `vaecf fit` shares its work among processes: run `vaecf {words[0]}` "
        "without torchrun\n"
    )


def test_a_process_has_the_gpu_of_its_local_rank(monkeypatch):
    """And is refused where there are fewer."""
    picked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", picked.append)
    monkeypatch.setattr(distributed, "pick_device", torch.device)
    for local, device in (("1", "auto"), ("0", "cuda")):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert distributed._device_of(Place(1, 4), device) == torch.device("cuda", int(local))
    assert picked == [torch.device("cuda:1"), torch.device("cuda:0")]
    assert distributed._device_of(Place(1, 4), "cpu") == torch.device("cpu")
    with pytest.raises(vc.ConfigError, match="only share work on cpu or cuda"):
        distributed._device_of(Place(1, 4), "mps")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(vc.ConfigError, match="there are 2 here"):
        distributed._device_of(Place(2, 4), "cuda")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
