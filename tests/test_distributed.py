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
from tiny import splits_of_some, tiny

import vaecf_lib as vc
from vaecf_lib import checkpoints, cli, distributed
from vaecf_lib.checkpoints import load_tensors
from vaecf_lib.data import RowSweep
from vaecf_lib.distributed import Place
from vaecf_lib.evaluation import per_user_metrics
from vaecf_lib.systems import SYSTEMS
from vaecf_lib.training import Trainer

NOT_SHARED = {"awae", "biased-mf", "cfgan", "ncf", "cnn-cf", "autorec-i", "vae-bmf"}
WITHOUT_PHASES = {"popularity", "random", "means", "planted-oracle", "itemknn", "ease", "slim", "wmf"}
FIT = {"device": "cpu", "progress": False}


def weights(model):
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def same_everywhere(tensor):
    """Whether all processes hold the same bytes."""
    held = [None] * dist.get_world_size()
    dist.all_gather_object(held, tensor.tolist())
    return all(one == held[0] for one in held)


@contextmanager
def silence():
    """Take all noise away: samples are means or medians, and nothing is dropped out."""
    zeros = lambda *size, device=None: torch.zeros(*size)  # noqa: E731

    def halves(*size, **kind):
        """Return a half everywhere; what is sorted by one number each stays in its order."""
        half = torch.zeros(*size, **kind) + 0.5
        return half + torch.arange(len(half), **kind) / 2**20 if isinstance(size[0], int) and len(size) == 1 else half

    with (
        mock.patch("torch.randn_like", torch.zeros_like),
        mock.patch("torch.randn", zeros),
        mock.patch("torch.nn.functional.dropout", lambda x, *_: x),
        mock.patch("torch.rand", halves),
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
    report, splits = {"updates": {}, "runs": {}}, splits_of_some(301)
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


def torchrun(worker, folder, *arguments, file=__file__, processes=2, restarts=0, **environment):
    """Start a worker of a test file in some processes; return what became of it."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
    ]
    return subprocess.run(
        [*launcher, file, worker, str(folder), *map(str, arguments)],
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
@pytest.mark.parametrize("split", [[], ["--shard-items"]], ids=["whole", "split"])
def test_a_run_goes_on_with_another_number_of_processes(split, tmp_path):
    """The manifest says so: the noise is then another, the order of users is not; its items may have been split."""
    options = [*RECVAE, tmp_path / "run"]
    torchrun("command", tmp_path, *options[:4], "--epochs", "2", *options[6:], *split)
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
    model, split = tiny(slug, splits_of_some(301))
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
        model, split = tiny("mult-vae", splits_of_some(301))
        assert len(vc.fit(model, split, epochs=1, **FIT).history) == 1


def test_the_processes_read_every_user_once():
    """Batch by batch: the shares of a batch of 4, 4 and 2 users among 3 processes."""
    _, split = tiny("mult-vae", splits_of_some(301))
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
