"""The training loop: repeatable, resumable after kill -9, phases, selection, errors."""

import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from tiny import splits_of_some, tiny

import vaecf_lib as vc
from vaecf_lib import environment, training
from vaecf_lib.checkpoints import load_tensors
from vaecf_lib.data import HeldOut, Interactions, PairSweep, RowSweep, Split
from vaecf_lib.manifest import read_manifest
from vaecf_lib.models import Model, Phase
from vaecf_lib.systems import SYSTEMS, build
from vaecf_lib.training import Trainer


def small(n_items, **options):
    return vc.models.MultVAE(n_items, latent_dim=8, hidden=20, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def split(planted):
    return vc.split_strong(planted, n_heldout=100)


def test_same_seed_same_weights(split):
    models = [small(split.n_items) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        vc.fit(model, split, epochs=3, seed=seed, device="cpu", progress=False)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_global_generator_is_left_alone(split):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    vc.fit(small(split.n_items), split, epochs=1, device="cpu", progress=False)
    # fit draws from a forked generator; only the model's own construction above used the global one
    torch.manual_seed(5)
    model = small(split.n_items)
    state = torch.get_rng_state()
    vc.fit(model, split, epochs=1, device="cpu", progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a folder"])
def test_best_epoch_is_kept(split, tmp_path, kept):
    model = small(split.n_items, lr=0.1)
    run = vc.fit(model, split, epochs=8, device="cpu", progress=False, out=tmp_path if kept else None)
    curve = run.curve("ndcg@100")
    assert run.best_epoch == curve.index(max(curve)) + 1 < 8, "else the last weights would do"
    assert vc.evaluate(model, split.valid, ("ndcg@100",))["ndcg@100"].mean == pytest.approx(max(curve))


def test_without_validation_the_last_epoch_is_kept(planted):
    weak = vc.split_weak(planted)
    assert weak.valid is None
    run = vc.fit(small(weak.n_items), weak, epochs=3, device="cpu", progress=False)
    assert run.best_epoch == 3 and "ndcg@100" not in run.history[0]


def test_validate_every(split):
    run = vc.fit(small(split.n_items), split, epochs=5, device="cpu", progress=False, validate_every=2)
    assert [("ndcg@100" in row) for row in run.history] == [False, True, False, True, True]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_step_sizes_follow_the_schedule(planted, schedule):
    class Slope(vc.models.MultVAE):
        """Its gradient is one everywhere, so that each of Adam's steps has the length of the step size."""

        def loss(self, batch, progress):
            return self.decoder.output.bias.sum() + 0 * sum(p.sum() for p in self.parameters()), {}

    split = vc.split_weak(planted)  # without a validation part: the last epoch is kept
    model = Slope(split.n_items, latent_dim=2, hidden=2, lr=0.01)
    options = {"batch_size": 500, "device": "cpu", "progress": False, "schedule": schedule}
    vc.fit(model, split, epochs=0, **options)
    before = model.decoder.output.bias.detach().clone()
    vc.fit(model, split, epochs=2, **options)
    steps = 2 * math.ceil(split.train.n_users / 500)
    sizes = [0.5 * (1 + math.cos(math.pi * t / steps)) if schedule == "cosine" else 1.0 for t in range(steps)]
    assert torch.allclose(before - model.decoder.output.bias, torch.full_like(before, 0.01 * sum(sizes)), rtol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_resume_after_an_exception_equals_an_unbroken_run(split, tmp_path, schedule):
    class Stops(vc.models.MultVAE):
        left = 12

        def loss(self, batch, progress):
            Stops.left -= 1
            if Stops.left == 0:
                raise KeyboardInterrupt
            return super().loss(batch, progress)

    options = {"epochs": 5, "device": "cpu", "progress": False, "schedule": schedule}
    unbroken = small(split.n_items)
    vc.fit(unbroken, split, **options)
    with pytest.raises(KeyboardInterrupt):
        vc.fit(Stops(split.n_items, latent_dim=8, hidden=20), split, out=tmp_path, **options)
    resumed = small(split.n_items)
    run = vc.fit(resumed, split, out=tmp_path, **options)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert len(run.history) == 5


SCRIPT = """
import sys, torch, vaecf_lib as vc
torch.set_num_threads(1)
split = vc.split_strong(vc.load_dataset("planted"), n_heldout=100)
model = vc.models.MultDAE(split.n_items, latent_dim=50)
print("start", flush=True)
vc.fit(model, split, epochs=30, device="cpu", out=sys.argv[1], progress=False)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_weights_of_an_unbroken_run(split, tmp_path):
    unbroken = vc.models.MultDAE(split.n_items, latent_dim=50)
    vc.fit(unbroken, split, epochs=30, device="cpu", progress=False)
    kills = 0
    for attempt in range(20):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "start\n"
        if attempt < 4:
            time.sleep(0.25 + 0.13 * attempt)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        output, _ = process.communicate()
        if process.returncode == 0:
            break
    assert output == "done\n" and kills >= 2
    resumed = vc.load_model(tmp_path)
    assert torch.equal(weights(resumed), weights(unbroken))
    _, note = load_tensors(tmp_path / "checkpoint.safetensors")
    assert [row["epoch"] for row in note["history"]] == list(range(1, 31))
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp") and str(process.pid) in p.name]


def test_a_finished_run_is_not_trained_again(split, tmp_path):
    model = small(split.n_items)
    first = vc.fit(model, split, epochs=3, device="cpu", out=tmp_path, progress=False)
    stamp = (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns
    again = small(split.n_items)
    run = vc.fit(again, split, epochs=3, device="cpu", out=tmp_path, progress=False)
    assert (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns == stamp
    assert torch.equal(weights(model), weights(again)) and len(run.history) == 3
    assert run.best == first.best and run.best_epoch == first.best_epoch > 0


def test_a_prepared_run_is_not_written_again(split, tmp_path):
    def stamps():
        return [(tmp_path / name).stat().st_mtime_ns for name in ("best.safetensors", "checkpoint.safetensors")]

    vc.fit(build("popularity", split.n_items), split, out=tmp_path, progress=False)
    before = stamps()
    vc.fit(build("popularity", split.n_items), split, out=tmp_path, progress=False)
    assert stamps() == before


def test_other_settings_are_refused(split, tmp_path):
    vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)
    with pytest.raises(vc.ConfigError, match=r"other settings \(seed: 0 there, 1 now\)"):
        vc.fit(small(split.n_items), split, epochs=2, seed=1, device="cpu", out=tmp_path, progress=False)
    with pytest.raises(vc.ConfigError, match="other data, or on another split"):
        other = vc.split_strong(vc.load_dataset("planted"), n_heldout=100, seed=1)
        vc.fit(small(other.n_items), other, epochs=1, device="cpu", out=tmp_path, progress=False)
    with pytest.raises(vc.ConfigError, match="config: "):
        vc.fit(small(split.n_items, beta=0.5), split, epochs=1, device="cpu", out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 250), ("seed", 1), ("metric", "recall@20"), ("precision", "bf16"), ("validate_every", 2),
     ("schedule", "cosine")],
)  # fmt: skip
def test_every_setting_tells_runs_apart(split, tmp_path, name, value):
    vc.fit(build("popularity", split.n_items), split, out=tmp_path, device="cpu", progress=False)
    with pytest.raises(vc.ConfigError, match=rf"holds a run with other settings \({name}: .* there, {value!r} now\)"):
        vc.fit(build("popularity", split.n_items), split, out=tmp_path, device="cpu", progress=False, **{name: value})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("slug", ["mult-vae", "popularity"])
def test_a_refused_call_changes_no_file_of_a_run(planted, split, tmp_path, slug):
    """Trained or merely prepared: other data, with other ids and the same pattern, leave the run as it is."""
    options = {"latent_dim": 8, "hidden": 20} if slug == "mult-vae" else {}
    vc.fit(build(slug, split.n_items, **options), split, epochs=1, device="cpu", out=tmp_path, progress=False)
    before = content(tmp_path)
    renamed = replace(planted, item_ids=planted.item_ids + 7000)
    for other in (vc.split_strong(planted, n_heldout=100, seed=1), vc.split_strong(renamed, n_heldout=100)):
        with pytest.raises(vc.ConfigError, match="holds a run on other data"):
            vc.fit(build(slug, other.n_items, **options), other, epochs=1, device="cpu", out=tmp_path, progress=False)
        assert content(tmp_path) == before
    assert vc.load_model(tmp_path).item_names == planted.items


@pytest.mark.slow
def test_a_run_that_another_process_writes_is_left_alone(split, tmp_path):
    script = SCRIPT.replace("epochs=30", "epochs=3000")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "checkpoint.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.05)
        with pytest.raises(vc.ConfigError, match="is being written by another process"):
            vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(vc.ConfigError, match="other settings"):  # the lock died with the process
        vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)


@pytest.mark.parametrize("done", [1, 2], ids=["interrupted", "finished"])
def test_the_best_weights_of_another_run_are_not_taken(split, tmp_path, monkeypatch, done):
    """Nor written over: the refusal comes before any training."""
    run_epoch = Trainer.run_epoch

    def stops(trainer):
        if trainer.epoch == done:
            raise KeyboardInterrupt
        return run_epoch(trainer)

    for seed in (0, 1):
        with monkeypatch.context() as patch, nullcontext() if done == 2 else pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "run_epoch", stops)
            out = tmp_path / str(seed)
            vc.fit(small(split.n_items), split, epochs=2, seed=seed, device="cpu", out=out, progress=False)
    shutil.copy(tmp_path / "1" / "best.safetensors", tmp_path / "0" / "best.safetensors")
    before = content(tmp_path / "0")
    with pytest.raises(vc.DataError, match=r"best.safetensors is of another run than checkpoint.safetensors"):
        vc.fit(small(split.n_items), split, epochs=2, device="cpu", out=tmp_path / "0", progress=False)
    assert content(tmp_path / "0") == before


def test_the_best_weights_of_another_run_are_not_written_over(split, tmp_path):
    """A folder of which only the best weights were kept."""
    vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)
    (tmp_path / "checkpoint.safetensors").unlink()
    before = content(tmp_path)
    with pytest.raises(vc.ConfigError, match=r"holds best\.safetensors of another run, without its checkpoint"):
        vc.fit(small(split.n_items), split, epochs=1, seed=1, device="cpu", out=tmp_path, progress=False)
    assert content(tmp_path) == before
    vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)


def test_a_model_is_no_checkpoint(split, tmp_path):
    vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)
    shutil.copy(tmp_path / "best.safetensors", tmp_path / "checkpoint.safetensors")
    with pytest.raises(vc.DataError, match=r"checkpoint.safetensors: a model, not the checkpoint of a training"):
        vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)


def test_other_validation_data_are_other_data(planted, tmp_path):
    """Shares of 80/10/10 and 80/15/5 train on the same ratings, and choose the best epoch by others."""
    log = planted.select(planted.user < 300)
    for options in ({}, {"valid": 0.15, "test": 0.05}, {"valid": 0, "test": 0.2}):
        split = vc.split_ratings(log, **options)
        model = vc.build("dae-cf", split.n_items, latent_dim=8)
        if not options:
            vc.fit(model, split, epochs=1, device="cpu", out=tmp_path, progress=False)
            continue
        with pytest.raises(vc.ConfigError, match="on other data, or on another split"):
            vc.fit(model, split, epochs=1, device="cpu", out=tmp_path, progress=False)


def test_a_warm_start_does_not_take_a_cold_run_for_its_own(split, tmp_path):
    model = small(split.n_items)
    vc.fit(model, split, epochs=1, device="cpu", out=tmp_path, progress=False)
    with pytest.raises(vc.ConfigError, match="warm_start: False there, True now"):
        vc.fit(model, split, epochs=1, device="cpu", out=tmp_path, progress=False, warm_start=True)


def test_numbers_of_numpy_are_numbers(split, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = vc.models.MultVAE(split.n_items, np.int64(4), hidden=np.int32(8), dropout=np.float32(0.5))
        for _ in range(2):
            vc.fit(model, split, epochs=np.int64(1), seed=np.int64(3), device="cpu", out=tmp_path, progress=False)
    assert vc.load_model(tmp_path).config["latent_dim"] == 4


@pytest.mark.parametrize("device", ["meta", "hpu", "xla", None, 1.5])
def test_a_device_that_cannot_be_used_is_refused_in_one_line(device):
    with pytest.raises(vc.ConfigError, match=r"cannot be used here .*Use 'auto' or 'cpu'$"):
        environment.pick_device(device)


def test_peak_memory_is_in_megabytes():
    """Of what a process of a few hundred MB has at least, and of no more than any machine has."""
    held = np.ones(200_000_000, dtype=np.uint8)
    assert len(held) / 1e6 < training.peak_memory_mb("cpu") < 1e6


def test_weights_spoilt_by_the_last_update_are_never_kept(split, tmp_path):
    """The loss of an epoch's last update is finite, what it made of the weights is not: the checkpoint before stays."""

    model = small(split.n_items)
    original = model.phases

    def phases():
        (phase,) = original()

        def after():
            if (tmp_path / "checkpoint.safetensors").exists():
                model.decoder.output.weight.data[0, 0] = math.nan

        phase.after = after
        return [phase]

    model.phases = phases
    with pytest.raises(vc.TrainingError, match=r"the weights decoder\.output\.weight are not finite after epoch 2"):
        vc.fit(model, split, epochs=3, device="cpu", out=tmp_path, progress=False)
    tensors, note = load_tensors(tmp_path / "checkpoint.safetensors")
    assert note["epoch"] == 1 and all(
        t.isfinite().all() for n, t in tensors.items() if n.startswith("model.decoder.output")
    )


def test_warm_start_goes_on_from_the_weights(split):
    model = small(split.n_items)
    vc.fit(model, split, epochs=2, device="cpu", progress=False)
    before = weights(model)
    vc.fit(model, split, epochs=0, device="cpu", progress=False, warm_start=True)
    assert torch.equal(weights(model), before)
    vc.fit(model, split, epochs=0, device="cpu", progress=False)
    assert not torch.equal(weights(model), before)


class Alternating(Model):
    """Records the order of its phases."""

    slug, about = "alternating", "for the tests"

    def __init__(self, n_items, per="epoch"):
        super().__init__(n_items)
        self.a, self.b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
        self.per, self.order = per, []

    def phases(self):
        def loss(name, parameter):
            def of(batch, progress):
                self.order.append(name)
                return (parameter - 1).square().sum() + 0 * self.a.sum() + 0 * self.b.sum(), {}

            return of

        return [
            Phase("a", [self.a], loss("a", self.a), passes=3, per=self.per, after=lambda: self.order.append("|")),
            Phase("b", [self.b], loss("b", self.b), passes=1, per=self.per),
        ]

    def scores(self, batch):
        return torch.zeros(len(batch), self.n_items) + self.a


def test_phases_by_epoch_and_by_batch(split):
    half = -(-split.train.n_users // 2)
    by_epoch = Alternating(split.n_items)
    vc.fit(by_epoch, split, epochs=1, batch_size=half, device="cpu", progress=False)
    assert "".join(by_epoch.order) == "aaaaaa|bb"
    by_batch = Alternating(split.n_items, per="batch")
    run = vc.fit(by_batch, split, epochs=1, batch_size=half, device="cpu", progress=False)
    assert "".join(by_batch.order) == "aaabaaab|"
    assert {"a/loss", "b/loss"} <= set(run.history[0])


def test_a_phase_updates_only_its_own_parameters(split):
    model = Alternating(split.n_items)
    model.phases = lambda: Alternating.phases(model)[:1]
    vc.fit(model, split, epochs=1, device="cpu", progress=False)
    assert model.a.item() != 0 and model.b.item() == 0


@pytest.fixture(scope="module")
def rated():
    """Five users with ratings of 1 and 5, who rate a third item 3: the error of a constant is its distance from 3."""
    history = Interactions.from_pairs([0, 0, 1, 1, 2, 2, 3, 4], [0, 1] * 4, [1, 5] * 4, shape=(5, 3))
    heldout = HeldOut(history, Interactions.from_pairs(range(5), [2] * 5, [3] * 5, shape=(5, 3)))
    return Split("ratings", history, heldout, heldout, np.arange(3))


class Scripted(Model):
    """Does as it is told: runs the phases ``given``, notes each update, and is at ``levels[e]`` after epoch e + 1."""

    slug, about, rates = "scripted", "for the tests", True

    def __init__(self, given=({},), levels=(), step=0.0):
        super().__init__(3)
        self.level, self.step = torch.nn.Parameter(torch.zeros(1)), step
        self.given, self.levels, self.updates, self.calls = given, iter(levels), [], []

    def loss(self, batch, progress):
        self.updates.append((progress, self.level.item()))
        return self.step * self.level.sum(), {"size": float(len(batch)), "users": batch.users.double().mean()}

    def after(self):
        self.level.data.fill_(next(self.levels, self.level.item()))

    def phases(self):
        options = [{"lr": 0.01, "after": None} | phase for phase in self.given]
        options[-1]["after"] = self.after
        return [Phase(str(number), [self.level], self.loss, **phase) for number, phase in enumerate(options)]

    def reset_parameters(self):
        self.calls.append("reset")

    def prepare(self, train):
        self.calls.append("prepare")

    def start(self, train):
        self.calls.append("start")
        self.level.data.fill_(train.values.mean())

    def scores(self, batch):
        return self.level.expand(len(batch), self.n_items)


def train(model, split, epochs, **options):
    return vc.fit(model, split, epochs=epochs, batch_size=2, device="cpu", progress=False, **options)


def test_phases_have_their_spans(rated):
    """Two of five epochs, three with the other phase and its two passes; those beyond the planned ones are like them."""
    model = Scripted([{"span": (0.0, 0.4)}, {"span": (0.4, 1.0), "passes": 2}])
    trainer = Trainer(model, rated, epochs=5, batch_size=2, device="cpu")
    rows = [trainer.run_epoch() for _ in range(5)]
    assert [sorted({name[0] for name in row if "/" in name}) for row in rows] == [["0"]] * 2 + [["1"]] * 3
    assert [progress for progress, _ in model.updates] == pytest.approx([step / 24 for step in range(6 + 18)])
    assert trainer.progress == 1 and trainer.steps == 24
    trainer.run_epoch()
    assert trainer.steps == 30 and trainer.progress == 1


@pytest.mark.parametrize("hands_on", [True, False])
def test_an_epoch_of_the_last_stage_is_kept(rated, hands_on):
    """Though one before was better; the stage starts from the best of the one before, or from its last."""
    model = Scripted([{"span": (0.0, 0.5), "hands_on_best": hands_on}, {"span": (0.5, 1.0)}], levels=[2.0, 1.5, 1.4])
    model.given[0]["after"] = model.after
    run = train(model, rated, epochs=6, metric="rmse")
    assert run.curve("rmse") == pytest.approx([1.0, 1.5, 1.6, *[1.0 if hands_on else 1.6] * 3])
    assert run.best_epoch == 4


@pytest.mark.parametrize(("patience", "epochs"), [(1, 5), (2, 6)])
def test_patience_counts_in_the_last_stage(rated, patience, epochs):
    model = Scripted([{"span": (0.0, 0.5)}, {"span": (0.5, 1.0)}], levels=[2.0])
    run = train(model, rated, epochs=6, metric="rmse", patience=patience)
    assert len(run.history) == epochs and run.best_epoch == 4


@pytest.mark.parametrize(
    "given, updates",
    [
        ([{}], 3),
        ([{"passes": 3}], 9),
        ([{"per": "batch", "passes": 2}, {"per": "batch"}], 9),
        ([{"passes": 2}, {"per": "batch"}, {"per": "batch", "passes": 3}, {}], 6 + 3 + 9 + 3),
        ([{"sweep": "ratings"}, {"sweep": "items", "passes": 2}, {}], 4 + 2 + 3),
        ([{"per": "batch", "sweep": "ratings"}, {"per": "batch", "sweep": "items", "passes": 2}], 4 * 3),
        ([{"per": "batch", "sweep": "items"}, {}, {"per": "batch"}, {"per": "batch", "sweep": "items"}], 1 + 3 + 3 * 2),
    ],
)
def test_progress_goes_from_nothing_to_one_update_before_the_end(rated, given, updates):
    """Annealed weights and the cosine schedule count on it: every update of every phase is the same step further.

    Phases that interleave run over what the first of them runs over, and so many updates they make.
    """
    sweeps = {"ratings": PairSweep(rated.train, 2), "items": RowSweep(rated.train.transposed(), 3), None: None}
    model = Scripted([phase | {"sweep": sweeps[phase.get("sweep")]} for phase in given])
    train(model, rated, epochs=2)
    assert [progress for progress, _ in model.updates] == [t / (2 * updates) for t in range(2 * updates)]


def test_the_history_holds_means_over_users(rated):
    """Batches of 2, 2 and 1 users: the mean over batches would be another number, and change with the order."""
    (row,) = train(Scripted(step=1.0), rated, epochs=1).history
    assert row["users"] == pytest.approx(2.0) and row["size"] == pytest.approx((2 * 2 + 2 * 2 + 1) / 5)


def test_the_loss_of_an_epoch_is_the_sum_over_its_phases(rated):
    class Constant(Scripted):
        def loss(self, batch, progress):
            weight = len(batch) if len(self.given) > 1 else 1.0
            return 0 * self.level.sum() + weight * (10.0 if not self.updates else 1.0), {"size": weight}

    ratings = PairSweep(rated.train, 3)  # 8 ratings: 3, 3 and 2
    model = Constant([{}, {"sweep": ratings}])
    model.updates.append(None)
    (row,) = train(model, rated, epochs=1).history
    assert row["0/loss"] == pytest.approx(9 / 5) and row["1/loss"] == pytest.approx(22 / 8)
    assert row["loss"] == pytest.approx(9 / 5 + 22 / 8)


@pytest.mark.parametrize("warm", [False, True])
def test_a_warm_start_does_not_start_over(rated, warm):
    """start() sets what depends on the data, as the mean rating, which a warm start would lose."""
    model = Scripted()
    model.level.data.fill_(7.0)
    train(model, rated, epochs=0, warm_start=warm)
    assert model.calls == (["prepare"] if warm else ["reset", "prepare", "start"])
    assert model.level.item() == (7.0 if warm else 3.0)


def test_a_phase_has_the_optimiser_it_names(rated):
    """With a gradient of one, Adam's steps are lr, and RMSprop's lr / sqrt(1 - 0.99^t)."""
    for optimiser, size in (("adam", lambda t: 1.0), ("rmsprop", lambda t: (1 - 0.99**t) ** -0.5)):
        model = Scripted([{"optimiser": optimiser}], step=1.0)
        train(model, rated, epochs=1)
        steps = -np.diff([level for _, level in model.updates])
        assert steps == pytest.approx([0.01 * size(t) for t in (1, 2)], rel=1e-4)


def test_cosine_step_sizes_at_a_given_progress(rated):
    """Of every phase's own step size: all of it first, half of it half way, nearly nothing at the end."""
    given = [{"lr": 0.01, "per": "batch"}, {"lr": 0.1, "per": "batch"}]
    model = Scripted(given, step=1.0)
    train(model, rated, epochs=2, schedule="cosine")
    steps = -np.diff([level for _, level in model.updates])
    sizes = [given[t % 2]["lr"] * 0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(11)]
    assert steps == pytest.approx(sizes, rel=1e-3)
    assert steps[0] == pytest.approx(0.01, rel=1e-3) and steps[6] == pytest.approx(0.005, rel=1e-3)


LEVELS = [5.0, 4.0, 3.0, 2.5, 1.0, 3.5]  # errors 2, 1, 0, 1/2, 2, 1/2


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    "epochs, every, best, measured",
    [(6, 1, 3, [1, 2, 3, 4, 5, 6]), (6, 2, 4, [2, 4, 6]), (5, 4, 4, [4, 5]), (2, 5, 2, [2]), (1, 1, 1, [1])],
)
def test_the_epoch_with_the_smallest_error_is_kept(rated, tmp_path, kept, epochs, every, best, measured):
    """Only epochs that were validated compete, the first of equals wins, and the last is always validated."""
    model = Scripted(levels=LEVELS)
    run = train(model, rated, epochs=epochs, validate_every=every, out=tmp_path if kept else None)
    assert run.metric == "rmse" and run.best_epoch == best and run.best["epoch"] == best
    errors = {row["epoch"]: row["rmse"] for row in run.history if "rmse" in row}
    assert errors == pytest.approx({epoch: abs(LEVELS[epoch - 1] - 3) for epoch in measured})
    assert model.level.item() == LEVELS[best - 1], "the weights are that epoch's"
    if kept:
        assert load_tensors(tmp_path / "best.safetensors")[0]["level"].item() == LEVELS[best - 1]


def test_the_epoch_with_the_largest_gain_is_kept(rated):
    """Of the same model by a ranking metric: larger is better, and the first of equals wins."""

    class Ranks(Scripted):
        rates = False

        def scores(self, batch):
            return self.level * torch.tensor([0.0, 1.0, 2.0]).expand(len(batch), 3)

    alone = Interactions.from_pairs([], [], shape=(5, 3))
    split = replace(rated, valid=HeldOut(alone, rated.valid.targets))
    model = Ranks(levels=[-1.0, 1.0, 2.0, -2.0])
    run = train(model, split, epochs=4)
    assert run.curve("ndcg@100") == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert run.best_epoch == 2 and model.level.item() == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_place(split, bad, tmp_path):
    class Breaks(vc.models.MultVAE):
        calls = 0

        def loss(self, batch, progress):
            Breaks.calls += 1
            loss, terms = super().loss(batch, progress)
            return (loss * bad if Breaks.calls == 8 else loss), terms

    with pytest.raises(vc.TrainingError, match=r"the loss is (nan|inf) at update 7 \(epoch 2, phase all, batch 1\)"):
        vc.fit(
            Breaks(split.n_items, latent_dim=8, hidden=20), split, epochs=3, device="cpu", out=tmp_path, progress=False
        )
    _, note = load_tensors(tmp_path / "checkpoint.safetensors")
    assert note["epoch"] == 1, "the last whole epoch is kept"


def test_bf16_trains(split):
    model = small(split.n_items)
    run = vc.fit(model, split, epochs=6, device="cpu", progress=False, precision="bf16")
    assert run.curve("loss")[-1] < run.curve("loss")[0]
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("slug", ["mult-vae", "recvae", "sivae", "vae-vamp", "vae-iaf", "vaegan-avb-d-c"])
def test_bf16_changes_a_loss_by_its_digits_alone(slug, split):
    """Each phase's loss under autocast beside float32's at the same noise; every term of it is float32."""
    torch.manual_seed(0)
    trainer = vc.Trainer(vc.build(slug, split.n_items, latent_dim=8, hidden=20), split, device="cpu")
    batch = split.train.rows(torch.arange(100))
    for phase in trainer.phases:
        found = {}
        for enabled in (False, True):
            torch.manual_seed(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss, terms = phase.loss(batch, 0.5)
            found[enabled] = {"loss": loss, **terms}
        for name, exact in found[False].items():
            if name != "right":  # how often a critic is: of 100 users one or two may change sides
                torch.testing.assert_close(found[True][name], exact, rtol=0.02, atol=0.02)


def test_users_without_clicks_do_not_break_training(split):
    empty = vc.data.Interactions.from_pairs([0, 2], [1, 3], shape=(5, split.n_items))
    from dataclasses import replace

    model = small(split.n_items)
    vc.fit(model, replace(split, train=empty), epochs=2, device="cpu", progress=False)
    assert weights(model).isfinite().all()


def test_bad_arguments_are_named(split):
    with pytest.raises(vc.ConfigError, match=r"build it with n_items=split\.n_items"):
        vc.fit(small(7), split)
    with pytest.raises(vc.ConfigError, match="fit: precision='fp8': choose one of fp32, bf16"):
        vc.fit(small(split.n_items), split, precision="fp8")
    with pytest.raises(vc.ConfigError, match="cannot be used here"):
        vc.fit(small(split.n_items), split, device="nonsense")
    with pytest.raises(vc.ConfigError, match="unknown metric"):
        vc.fit(small(split.n_items), split, metric="accuracy")


def test_plain_progress_lines(split, capsys):
    vc.fit(small(split.n_items), split, epochs=3, device="cpu")
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("threshold 4 on ratings from 1 to 5") and len(lines) == 4
    assert lines[-1].startswith("epoch   3/3  loss ") and "ndcg@100" in lines[-1]


def test_a_resumed_run_says_so(split, tmp_path, capsys):
    vc.fit(small(split.n_items), split, epochs=2, device="cpu", out=tmp_path, progress=False)
    capsys.readouterr()
    vc.fit(small(split.n_items), split, epochs=2, device="cpu", out=tmp_path)
    assert capsys.readouterr().err.endswith("users kept\nepoch 2 of 2 is done\n")


def test_what_is_no_split_is_refused_in_one_line(planted, split):
    """The log itself, and a held-out part."""
    for wrong in (planted, split.test, None):
        with pytest.raises(vc.ConfigError, match=r"^split=.*: must be a split: cut the log, .*split_strong\(log\)$"):
            vc.fit(small(split.n_items), wrong, epochs=1)


def test_the_run_has_the_manifest_of_its_folder(split, tmp_path):
    """From the training on, as load_run has it; a run without a folder has none."""
    for epochs in (1, 1, 2):  # begun, found done, gone on with
        run = vc.fit(small(split.n_items, anneal=0.0), split, epochs=epochs, device="cpu", out=tmp_path, progress=False)
        assert run.manifest == read_manifest(tmp_path) == vc.load_run(tmp_path).manifest
        assert run.manifest["sittings"][-1]["to_epoch"] == epochs
    assert vc.fit(small(split.n_items), split, epochs=0, device="cpu", progress=False).manifest is None


# --- stopping early ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a folder"])
def test_a_callback_sees_every_epoch_and_may_stop(rated, tmp_path, kept):
    """It is called once the epoch is validated and kept; what was best so far stays, and the folder says why."""
    seen = []

    def on_epoch(run):
        checkpoint = load_tensors(tmp_path / "checkpoint.safetensors")[1]["epoch"] if kept else None
        seen.append((len(run.history), run.best_epoch, run.history[-1]["rmse"], checkpoint))
        return len(run.history) == 4

    model = Scripted(levels=LEVELS)
    run = train(model, rated, epochs=6, on_epoch=on_epoch, out=tmp_path if kept else None)
    assert seen == [(e, min(e, 3), abs(LEVELS[e - 1] - 3), e if kept else None) for e in (1, 2, 3, 4)]
    assert run.stopped == "on_epoch asked for it" and run.best_epoch == 3 and model.level.item() == LEVELS[2]
    if kept:
        (sitting,) = read_manifest(tmp_path)["sittings"]
        assert (sitting["to_epoch"], sitting["stopped"]) == (4, run.stopped)


def test_a_callback_that_stops_after_the_last_epoch_stops_nothing(rated):
    run = train(Scripted(levels=LEVELS), rated, epochs=2, on_epoch=lambda run: len(run.history) == 2)
    assert run.stopped is None


def test_a_callback_does_not_change_the_training(split):
    """Whatever it draws, and in whatever mode it leaves the model."""
    models = [small(split.n_items), small(split.n_items)]

    def on_epoch(run):
        run.model.eval()
        torch.rand(3)

    for model, callback in zip(models, (None, on_epoch), strict=True):
        vc.fit(model, split, epochs=3, device="cpu", progress=False, on_epoch=callback)
    assert torch.equal(weights(models[0]), weights(models[1]))


STOPS = {
    "on_epoch": {"on_epoch": lambda run: len(run.history) == 2},
    "stop_after": {"stop_after": 2},
    "patience": {"patience": 1, "metric": "recall@20"},
}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("how", STOPS)
def test_a_run_that_stopped_goes_on_as_if_it_never_had(split, tmp_path, how, schedule):
    """Annealed weights and a cosine included: none of the ways to stop changes what an epoch does."""
    options = {"epochs": 5, "device": "cpu", "progress": False, "schedule": schedule, "metric": "recall@20"}
    if how == "patience" and schedule == "cosine":
        with pytest.raises(vc.ConfigError, match="patience=1 does not fit schedule='cosine'"):
            vc.fit(small(split.n_items), split, **(options | STOPS[how]))
        return
    unbroken, model = small(split.n_items, lr=0.05), small(split.n_items, lr=0.05)
    whole = vc.fit(unbroken, split, **options)
    stopped = vc.fit(model, split, out=tmp_path, **options | STOPS[how])
    assert len(stopped.history) < 5 and stopped.stopped
    resumed = vc.fit(model, split, out=tmp_path, **options)
    assert resumed.stopped is None and resumed.best_epoch == whole.best_epoch
    assert torch.equal(weights(model), weights(unbroken)) and resumed.curve("loss") == whole.curve("loss")


@pytest.mark.parametrize(
    "patience, every, epochs, best",
    [(1, 1, 4, 3), (2, 1, 5, 3), (3, 1, 6, 3), (4, 1, 6, 3), (1, 2, 6, 4), (1, 3, 6, 3)],
)
def test_patience_counts_validations_since_the_best(rated, tmp_path, patience, every, epochs, best):
    """Levels 5, 4, 3, 2.5, 1, 3.5 are at best in epoch 3; the last epoch of all is no early stop."""
    run = train(Scripted(levels=LEVELS), rated, epochs=6, patience=patience, validate_every=every)
    assert (len(run.history), run.best_epoch) == (epochs, best)
    since = patience if epochs < 6 else None
    assert run.stopped == (since and f"no better rmse in {since} validation{'s' * (since > 1)} since epoch 3")


def test_patience_that_is_out_is_out_in_the_next_call_too(rated, tmp_path):
    """A command called again finds its run as it left it; with more patience, or none, the run goes on."""
    first = train(Scripted(levels=LEVELS), rated, epochs=6, patience=1, out=tmp_path)
    before = content(tmp_path)
    again = train(Scripted(levels=LEVELS), rated, epochs=6, patience=1, out=tmp_path)
    assert again.stopped == first.stopped and len(again.history) == 4 and content(tmp_path) == before
    assert len(train(Scripted(levels=LEVELS), rated, epochs=6, patience=3, out=tmp_path).history) == 6


def test_without_validation_nobody_runs_out_of_patience(rated):
    run = train(Scripted(levels=LEVELS), replace(rated, valid=None), epochs=6, patience=1)
    assert run.best_epoch == 6 and run.stopped is None


def test_stop_after_makes_the_first_epochs_of_a_longer_training(split):
    """What is annealed runs over the training that was planned, not over what is made of it."""
    states = []
    part, whole = small(split.n_items, anneal=1.0), small(split.n_items, anneal=1.0)
    vc.fit(part, split, epochs=9, stop_after=2, device="cpu", progress=False)
    vc.fit(whole, split, epochs=9, device="cpu", progress=False, on_epoch=lambda run: states.append(weights(run.model)))
    assert torch.equal(weights(part), states[1])
    run = vc.fit(part, split, epochs=2, stop_after=7, device="cpu", progress=False)
    assert len(run.history) == 2 and run.stopped is None


def test_stop_after_validates_no_epoch_that_the_whole_training_would_not(rated, tmp_path):
    """Every second epoch and the last of all: the third is neither, though this training ends with it."""
    run = train(Scripted(levels=LEVELS), rated, epochs=6, stop_after=3, validate_every=2, out=tmp_path)
    assert [row["epoch"] for row in run.history if "rmse" in row] == [2] and run.best_epoch == 2
    run = train(Scripted(levels=LEVELS[3:]), rated, epochs=6, validate_every=2, out=tmp_path)
    assert [row["epoch"] for row in run.history if "rmse" in row] == [2, 4, 6] and run.best_epoch == 4


def test_stopped_before_the_first_epoch_a_run_is_prepared_and_can_go_on(rated, tmp_path):
    run = train(Scripted(levels=LEVELS), rated, epochs=2, stop_after=0, out=tmp_path)
    assert (run.best_epoch, run.best, run.stopped) == (0, {}, "stop_after=0 of 2 epochs")
    assert load_tensors(tmp_path / "best.safetensors")[0]["level"].item() == 3.0
    assert len(train(Scripted(levels=LEVELS), rated, epochs=2, out=tmp_path).history) == 2


def test_an_early_end_is_printed(rated, capsys):
    vc.fit(Scripted(levels=LEVELS), rated, epochs=6, batch_size=2, patience=1, device="cpu")
    assert capsys.readouterr().err.endswith("stopped after epoch 4: no better rmse in 1 validation since epoch 3\n")


# --- more epochs for a run that is there ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_splits():
    return splits_of_some(300)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_more_epochs_end_with_the_weights_of_an_unbroken_run(tiny_splits, tmp_path, slug):
    """Of every system, where nothing is annealed; and where something is, the run is refused and left as it is.

    A run in stages goes on after one of them with the number of epochs that it was begun with, and no other.
    """
    options = {"batch_size": 100, "device": "cpu", "progress": False}
    unbroken, split = tiny(slug, tiny_splits, anneal=0.0)
    whole = vc.fit(unbroken, split, epochs=3, **options)
    model, _ = tiny(slug, tiny_splits, anneal=0.0)
    staged = any(phase.span != (0, 1) for phase in unbroken.phases())
    for epochs in (1, 3):
        limit = {"epochs": 3, "stop_after": epochs} if staged else {"epochs": epochs}
        run = vc.fit(model, split, out=tmp_path / "exact", **limit, **options)
    if staged:
        other, _ = tiny(slug, tiny_splits, anneal=0.0)
        with pytest.raises(vc.ConfigError, match=rf"3 there, 4 now.*{slug} is trained in stages"):
            vc.fit(other, split, epochs=4, out=tmp_path / "exact", **options)
    assert run.curve("loss") == whole.curve("loss") and run.best_epoch == whole.best_epoch
    for (name, ours), theirs in zip(model.state_dict().items(), unbroken.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    model, _ = tiny(slug, tiny_splits, anneal=0.5)
    if model.anneals:
        vc.fit(model, split, epochs=1, out=tmp_path / "annealed", **options)
        before = content(tmp_path / "annealed")
        with pytest.raises(vc.ConfigError, match=r"epochs: 1 there, 2 now.*anneals a weight of its loss"):
            vc.fit(model, split, epochs=2, out=tmp_path / "annealed", **options)
        assert content(tmp_path / "annealed") == before


@pytest.mark.parametrize("options", [{}, {"anneal": 0.0}, {"anneal": 0.5, "beta": 0.0}, {"anneal": 0.5, "gamma": None},
                                     {"anneal": 0.5, "alpha": 0.0}, {"anneal": 0.5}])  # fmt: skip
def test_a_system_anneals_if_its_losses_read_progress(tiny_splits, options):
    """What ``anneals`` says of every system decides whether a run of it may be extended."""
    for slug in SYSTEMS:
        if slug.startswith(("vaegan", "vasp")) and options.get("gamma", 0) is None:
            continue  # of which gamma is another weight
        model, split = tiny(slug, tiny_splits, **options)
        model.train()
        trainer = Trainer(model, split, batch_size=100, device="cpu")
        reads = False
        for phase in trainer.phases:
            batch = next((phase.sweep or RowSweep(split.train)).shuffled(100))
            losses = []
            for progress in (0.0, 0.1, 0.49, 1.0):
                torch.manual_seed(0)
                losses.append(phase.loss(batch, progress)[0].item())
            reads |= len(set(losses)) > 1
        assert model.anneals == reads or (slug == "deepae" and not reads), (slug, options)


@pytest.mark.parametrize("sittings", [(5,), (3, 5)])
def test_an_annealed_run_is_extended_only_on_demand(rated, tmp_path, sittings):
    """What is annealed then stays at its last value, in however many sittings; the manifest says so."""

    class Anneals(Scripted):
        anneals = True

    train(Anneals(), rated, epochs=2, out=tmp_path)
    before = content(tmp_path)
    with pytest.raises(vc.ConfigError, match=r"epochs: 2 there, 5 now.*extend=True \(--extend\)"):
        train(Anneals(), rated, epochs=5, out=tmp_path)
    assert content(tmp_path) == before
    updates = []
    for stop_after in sittings:
        model = Anneals()
        run = train(model, rated, epochs=5, extend=True, stop_after=stop_after, out=tmp_path)
        updates += [progress for progress, _ in model.updates]
        extended = read_manifest(tmp_path)["sittings"][-1]["extended"]
        assert extended.startswith("begun with epochs=2, and not what epochs=5 in one go would be: scripted anneals")
    assert updates == [1.0] * 9 and len(run.history) == 5
    for epochs, reason in ((5, "epochs: 2 there, 5 now"), (2, "is past epoch 2, at epoch 5")):
        with pytest.raises(vc.ConfigError, match=reason):
            train(Anneals(), rated, epochs=epochs, out=tmp_path)


def test_an_annealed_run_that_stopped_early_anneals_on_as_planned(rated, tmp_path):
    """Extended before its planned end, it first comes to that."""

    class Anneals(Scripted):
        anneals = True

    train(Anneals(), rated, epochs=2, stop_after=1, out=tmp_path)
    model = Anneals()
    train(model, rated, epochs=3, extend=True, out=tmp_path)
    assert [progress for progress, _ in model.updates] == [3 / 6, 4 / 6, 5 / 6, 1.0, 1.0, 1.0]
    train(Anneals(), rated, epochs=4, stop_after=1, out=tmp_path / "shorter")
    with pytest.raises(vc.ConfigError, match=r"epochs: 4 there, 2 now.*Give another folder to train anew$"):
        train(Anneals(), rated, epochs=2, extend=True, out=tmp_path / "shorter")


@pytest.mark.parametrize("extend", [False, True])
def test_a_cosine_has_one_end(split, tmp_path, extend):
    options = {"device": "cpu", "progress": False, "schedule": "cosine", "out": tmp_path, "extend": extend}
    vc.fit(small(split.n_items, anneal=0.0), split, epochs=1, **options)
    with pytest.raises(vc.ConfigError, match=r"fall along a cosine.*Give another folder to train anew$"):
        vc.fit(small(split.n_items, anneal=0.0), split, epochs=2, **options)


def test_an_epoch_that_was_validated_only_as_the_last_is_not_forgotten(rated, tmp_path):
    """Every second epoch counts, and the third did as the last: in a run of six it would not have."""
    train(Scripted(levels=LEVELS), rated, epochs=3, validate_every=2, out=tmp_path)
    with pytest.raises(vc.ConfigError, match="epoch 3 was validated out of turn"):
        train(Scripted(levels=LEVELS[3:]), rated, epochs=6, validate_every=2, out=tmp_path)
    run = train(Scripted(levels=LEVELS[3:]), rated, epochs=6, validate_every=2, out=tmp_path, extend=True)
    assert run.best_epoch == 3 and [row["epoch"] for row in run.history if "rmse" in row] == [2, 3, 4, 6]


def test_fewer_epochs_than_planned_are_the_run_of_so_many(split, tmp_path):
    """Stopped at 2 of 9 and then wanted for 3; never for less than it has done."""
    options = {"device": "cpu", "progress": False}
    unbroken, model = small(split.n_items, anneal=0.0), small(split.n_items, anneal=0.0)
    vc.fit(unbroken, split, epochs=3, **options)
    vc.fit(model, split, epochs=9, stop_after=2, out=tmp_path, **options)
    vc.fit(model, split, epochs=3, out=tmp_path, **options)
    assert torch.equal(weights(model), weights(unbroken))
    with pytest.raises(vc.ConfigError, match=r"is past epoch 2, at epoch 3"):
        vc.fit(model, split, epochs=9, stop_after=2, out=tmp_path, **options)


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_was_trained_when_and_where(split, tmp_path):
    vc.fit(small(split.n_items), split, epochs=3, seed=7, stop_after=1, device="cpu", out=tmp_path, progress=False)
    vc.fit(small(split.n_items), split, epochs=3, seed=7, device="cpu", out=tmp_path, progress=False)
    before = (tmp_path / "manifest.json").read_bytes()
    vc.fit(small(split.n_items), split, epochs=3, seed=7, device="cpu", out=tmp_path, progress=False)
    assert (tmp_path / "manifest.json").read_bytes() == before, "a call that trained nothing is no sitting"
    manifest = read_manifest(tmp_path)
    assert (manifest["model"], manifest["seed"], manifest["config"]["latent_dim"]) == ("mult-vae", 7, 8)
    assert manifest["train_sha256"] == split.train.sha256 and manifest["split"] == split.source
    first, second = manifest["sittings"]
    assert [(s["from_epoch"], s["to_epoch"]) for s in (first, second)] == [(0, 1), (1, 3)]
    assert (first["stopped"], second["stopped"]) == ("stop_after=1 of 3 epochs", None)
    for sitting in (first, second):
        assert sitting["command"] is None and sitting["device"] == "cpu" and sitting["threads"] == 1
        assert sitting["versions"]["torch"] == torch.__version__ and sitting["platform"]
        started, finished = (datetime.fromisoformat(sitting[name]) for name in ("started", "finished"))
        assert started <= finished and started.utcoffset().total_seconds() == 0


def test_a_sitting_that_was_cut_off_is_told_from_one_that_ended(rated, tmp_path):
    class Killed(Scripted):
        def after(self):
            super().after()
            if self.level.item() == 2.5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Killed(levels=LEVELS), rated, epochs=5, out=tmp_path)
    (sitting,) = read_manifest(tmp_path)["sittings"]
    assert (sitting["finished"], sitting["to_epoch"]) == (None, None)
    train(Scripted(levels=LEVELS[3:]), rated, epochs=5, out=tmp_path)
    cut, ended = read_manifest(tmp_path)["sittings"]
    assert (cut["finished"], cut["to_epoch"]) == (None, 3) and ended["finished"] and ended["to_epoch"] == 5


HALF = '{"sittings": [{"started": "2026-01-01", "finished": null}, {"started": "2026-01-02"}]}'


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "7", '{"sittings": []}', '{"sittings": [1]}', '{"sittings": "no"}', HALF]
)
def test_a_damaged_manifest_is_refused_before_anything_is_trained(rated, tmp_path, text):
    train(Scripted(levels=LEVELS), rated, epochs=3, stop_after=1, out=tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    before = content(tmp_path)
    with pytest.raises(vc.DataError, match=r"manifest\.json: damaged"):
        train(Scripted(levels=LEVELS), rated, epochs=3, out=tmp_path)
    assert content(tmp_path) == before
    (tmp_path / "manifest.json").unlink()
    train(Scripted(levels=LEVELS), rated, epochs=3, out=tmp_path)
    assert [s["from_epoch"] for s in read_manifest(tmp_path)["sittings"]] == [1]


def test_a_checkpoint_of_an_older_version_is_refused(split, tmp_path):
    vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)
    tensors, note = load_tensors(tmp_path / "checkpoint.safetensors")
    for missing in ("done.epochs", "model.item_counts"):  # the second a buffer that models did not always have
        some = {name: tensor for name, tensor in tensors.items() if name != missing}
        training.save_tensors(tmp_path / "checkpoint.safetensors", some, note)
        with pytest.raises(vc.DataError, match="written by an older version"):
            vc.fit(small(split.n_items), split, epochs=1, device="cpu", out=tmp_path, progress=False)


def test_a_callback_that_is_none_is_refused_before_any_training(split, tmp_path):
    with pytest.raises(vc.ConfigError, match=r"^fit: on_epoch=5: must be a function of the run so far, or None$"):
        vc.fit(small(split.n_items), split, epochs=1, out=tmp_path / "run", on_epoch=5)
    assert not (tmp_path / "run").exists()


# --- a loop of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["mult-vae", "recvae", "vaegan-avb-d", "biased-mf", "vae-bmf"])
def test_a_loop_over_updates_is_what_fit_does(tiny_splits, slug):
    """Several phases, sweeps over ratings and blocks; with what an own loop may do between two updates."""
    model, split = tiny(slug, tiny_splits)
    own, _ = tiny(slug, tiny_splits)
    split = replace(split, valid=None)
    vc.fit(model, split, epochs=2, batch_size=40, device="cpu", progress=False)
    torch.manual_seed(0)
    trainer = vc.Trainer(own, split, epochs=2, batch_size=40, device="cpu")
    assert trainer.progress == 0
    for _ in range(2):
        for phase, batch in trainer.updates():
            terms = trainer.step(batch, phase)
            assert math.isfinite(terms["loss"]) and not terms["loss"].requires_grad
            own.eval()
    assert trainer.epoch == 2 and trainer.progress == 1 and trainer.steps == 2 * trainer.updates_per_epoch
    for (name, ours), theirs in zip(own.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_one_step_is_one_update_of_one_phase(split):
    model = Alternating(split.n_items)
    trainer = vc.Trainer(model, split, epochs=1, device="cpu")
    batch = split.train.rows(torch.arange(3))
    trainer.step(batch)
    assert "".join(model.order) == "a" and model.a.item() != 0 and model.b.item() == 0 and trainer.steps == 1
    assert set(trainer.step(batch, 1)) == {"loss"} and "".join(model.order) == "ab" and model.b.item() != 0
    with pytest.raises(vc.ConfigError, match="Trainer: batch_size=0: must be a whole number"):
        vc.Trainer(model, split, batch_size=0)
    with pytest.raises(vc.ConfigError, match=r"build it with n_items=split\.n_items"):
        vc.Trainer(small(7), split)


def test_a_state_brings_a_trainer_to_where_another_was(split):
    torch.manual_seed(3)
    first = vc.Trainer(small(split.n_items), split, epochs=4, device="cpu")
    first.run_epoch()
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    rows = [first.run_epoch() for _ in range(2)]
    second = vc.Trainer(small(split.n_items), split, epochs=4, device="cpu")
    second.load_state(state)
    assert (second.epoch, second.steps) == (1, second.updates_per_epoch)
    assert [second.run_epoch() for _ in range(2)] == rows
    assert torch.equal(weights(first.model), weights(second.model)) and second.epoch == 3


@pytest.mark.slow
def test_compiled_losses_train_the_same_model(split):
    """With the same noise: epochs with batches of several sizes differ by rounding alone."""
    found = []
    for compile in (False, True):
        model = vc.build("mult-vae", split.n_items, latent_dim=4, hidden=8)
        run = vc.fit(model, split, epochs=2, batch_size=300, seed=2, device="cpu", progress=False, compile=compile)
        found.append(run.curve("loss"))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.slow
def test_where_nothing_can_be_compiled_that_is_said_in_a_line(split, tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (str(tmp_path / "none"),))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    torch._dynamo.reset()
    with pytest.raises(vc.ConfigError, match=r"compile=True cannot be used here .*: leave it out"):
        vc.fit(small(split.n_items), split, epochs=1, device="cpu", progress=False, compile=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems' allocators have no such threshold")
def test_a_step_finds_the_memory_that_the_last_one_left():
    """Arrays of 40 MB, taken and freed again, are not fetched from the system each time, once there is a trainer."""
    steps = """
import resource, torch, vaecf_lib as vc
split = vc.split_strong(vc.load_dataset("planted"))
vc.Trainer(vc.models.MultVAE(split.n_items), split)
def step():
    torch.empty(10_000_000).fill_(1.0)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment["THP_MEM_ALLOC_ENABLE"] = "0"  # pages of 4 kB, so that a step has ten thousand
    done = subprocess.run([sys.executable, "-c", steps], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000
