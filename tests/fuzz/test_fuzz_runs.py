"""A run's folder after a disk, a sync tool or a person has been at it: used as it was written, or refused in one line."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import Refused, answer, cases, vaecf
from hypothesis import given
from hypothesis import strategies as st

import vaecf_lib as vc

SETTINGS = ["--set", "n_heldout=8", "--set", "threshold=1", "--set", "min_items=1", "--epochs", "2", "--device", "cpu"]


RUNS = ("whole", "half", "seed", "data", "system")


def write_ratings(path, seed):
    rng = np.random.default_rng(seed)
    rows = [(u, i, rng.integers(1, 6)) for u in range(50) for i in rng.choice(14, size=8, replace=False)]
    path.write_text("user,item,rating\n" + "".join(f"p{u},f{i},{r}\n" for u, i, r in rows), encoding="utf-8")


def fit_arguments(run, data, seed=0, slug="mult-vae"):
    small = ["--set", "hidden=6", "--set", "latent_dim=3", "--set", "lr=0.02"] if slug == "mult-vae" else []
    return ["fit", slug, "--interactions", data, *small, *SETTINGS, "--seed", seed, "--json", "--out", run]


def outcome(done):
    """Return what a fit printed, times and memory left out."""
    result, others = json.loads(done.out), ("seconds_per_epoch", "seconds_to_start", "peak_memory_mb")
    return {key: value for key, value in result.items() if key not in others}


class Stopped(vc.models.MultVAE):
    """Mult-VAE that the power fails in its second epoch."""

    def phases(self):
        (phase,) = super().phases()

        def loss(batch, progress):
            if progress >= 0.5:
                raise KeyboardInterrupt
            return phase.loss(batch, progress)

        return [replace(phase, loss=loss)]


class World(SimpleNamespace):
    """What the tests share, short in a report; ``weights`` and ``lists`` are those of each of RUNS."""

    __repr__ = object.__repr__


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A finished run, one broken off after its first of two epochs, and others to take foreign files from."""
    folder = tmp_path_factory.mktemp("runs")
    data, history = folder / "data.csv", folder / "history.txt"
    write_ratings(data, 0)
    write_ratings(folder / "other.csv", 1)
    history.write_text("f3\nf5\n", encoding="utf-8")
    runs = {
        "whole": fit_arguments(folder / "whole", data),
        "seed": fit_arguments(folder / "seed", data, seed=1),
        "data": fit_arguments(folder / "data", folder / "other.csv"),
        "system": fit_arguments(folder / "system", data, slug="popularity"),
    }
    printed = {name: outcome(vaecf(*arguments)) for name, arguments in runs.items()}
    split = vc.split_strong(vc.read_own_file(data), n_heldout=8, threshold=1, min_items=1)
    with pytest.raises(KeyboardInterrupt):
        stopped = Stopped(split.n_items, hidden=6, latent_dim=3, lr=0.02)
        vc.fit(stopped, split, epochs=2, device="cpu", out=folder / "half", progress=False)
    return World(
        folder=folder,
        data=data,
        history=history,
        printed=printed["whole"],
        weights=[vc.load_model(folder / name).state_dict() for name in RUNS],
        lists=[vaecf("recommend", folder / name, "--history", history).out for name in RUNS],
    )


@st.composite
def damages(draw):
    """Draw a function that spoils files of a run; the numbers it draws are shares of what it finds."""
    how = draw(
        st.sampled_from(["cut", "flip", "put", "empty", "remove", "swap", "foreign", "folder", "stray", "old", "junk"])
    )
    which, where, bit = draw(st.floats(0, 0.999)), draw(st.floats(0, 0.999)), draw(st.integers(0, 7))
    early = draw(st.booleans())
    source = draw(st.sampled_from(["seed", "data", "system", "half"]))

    def spoil(run, folder):
        files = sorted(p for p in run.iterdir() if p.name != ".lock")
        file = files[int(which * len(files))]
        content = file.read_bytes()
        at = int(where * min(len(content), 2000 if early else len(content)))
        if how == "cut":
            file.write_bytes(content[:at])
        elif how == "flip":
            file.write_bytes(content[:at] + bytes(b ^ 1 << bit for b in content[at : at + 1]) + content[at + 1 :])
        elif how == "put":
            file.write_bytes(content[:at] + b'"' + content[at:])
        elif how == "empty":
            file.write_bytes(b"")
        elif how == "remove":
            file.unlink()
        elif how == "swap":
            other = files[int(where * len(files))]
            other_content = other.read_bytes()
            other.write_bytes(content)
            file.write_bytes(other_content)
        elif how == "foreign":
            other = folder / source / file.name
            file.write_bytes(other.read_bytes() if other.exists() else b"{}")
        elif how == "folder":
            file.unlink()
            file.mkdir()
        elif how == "stray":
            (run / file.name.replace(".", "-copy.")).write_bytes(content[:at])
        elif how == "old":
            (run / f".{file.name}.123.tmp").write_bytes(content[:at])
        else:
            file.write_bytes(bytes(range(256)) * (1 + bit))

    return spoil


@given(
    start=st.sampled_from(["whole", "half"]),
    damage=st.lists(damages(), min_size=1, max_size=2),
    uses=st.permutations(["fit", "load", "recommend"]),
)
@cases(20)
def test_a_damaged_run_is_used_as_written_or_refused(world, start, damage, uses):
    """Resumed: bit for bit what the sound run gives. Loaded and served: what a sound run gives, if a file of another
    is there whole, that one. Or one line."""
    folder, run = world.folder, world.folder / "tried"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(folder / start, run)
    for spoil in damage:
        if all(p.is_file() for p in run.iterdir()):
            spoil(run, folder)
    for use in uses:
        if use == "fit":
            done = vaecf(*fit_arguments(run, world.data))
            if done.refused is None:
                assert outcome(done) == world.printed
                assert vaecf(*fit_arguments(run, world.data)).refused is None
        elif use == "load":
            model = answer(vc.load_model, run)
            assert isinstance(model, Refused) or any(same(model.state_dict(), w) for w in world.weights)
        else:
            done = vaecf("recommend", run, "--history", world.history)
            assert done.refused is not None or done.out in world.lists


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@given(content=st.binary(max_size=80), name=st.sampled_from(["", "best.safetensors", "checkpoint.safetensors", "x"]))
@cases(20)
def test_any_bytes_as_a_run_are_refused(world, content, name):
    run = world.folder / "bytes"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / (name or "best.safetensors")).write_bytes(content)
    for path in (run, run / name, run / "nowhere"):
        assert isinstance(answer(vc.load_model, path), Refused)
    assert vaecf("recommend", run, "--history", world.history).refused


def test_an_old_best_epoch_put_back_is_refused(world):
    """As a sync tool may do it: the same run's, but of the first epoch, where the second is the best."""
    run = world.folder / "old"
    shutil.copytree(world.folder / "whole", run)
    shutil.copy(world.folder / "half" / "best.safetensors", run)
    assert world.printed["best_epoch"] == 2
    assert "of another epoch than its best" in vaecf(*fit_arguments(run, world.data)).refused
