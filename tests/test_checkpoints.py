"""Checkpoints: whole or absent, without pickle, errors that name the file."""

import json
import random
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import vaecf_lib as vc
from vaecf_lib import checkpoints
from vaecf_lib.checkpoints import load_tensors, save_tensors, write_atomically, write_json


def test_tensors_and_note_round_trip(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.rand(4)[::2], "c": torch.tensor(1.5)}
    save_tensors(tmp_path / "x", tensors, {"text": "β", "n": [1, 2]})
    loaded, note = load_tensors(tmp_path / "x")
    assert note == {"text": "β", "n": [1, 2]}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})

    def fails(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "x.json", fails)
    assert (tmp_path / "x.json").read_text() == '{\n "old": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_files_have_the_mode_of_any_new_file(tmp_path):
    """Weights, too: a colleague who may read the folder may read the run."""
    (tmp_path / "any").touch()
    save_tensors(tmp_path / "weights", {"a": torch.ones(2)}, {})
    write_json(tmp_path / "note.json", {})
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {(tmp_path / "any").stat().st_mode}


def test_a_name_that_the_locale_cannot_read_is_json(tmp_path):
    write_json(tmp_path / "x.json", {"dataset": "\udcc3\udcbc", "title": "ü"})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"dataset": "\udcc3\udcbc", "title": "ü"}


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    """safetensors has an error of its own for it."""

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    save_tensors(tmp_path / "x", {"a": torch.ones(2)}, {})
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match=r"x: cannot be written \(I/O error: No space left"):
        save_tensors(tmp_path / "x", {"a": torch.zeros(2)}, {})
    assert load_tensors(tmp_path / "x")[0]["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "not a readable checkpoint"), (b"junk" * 50, "not a readable checkpoint")]
)
def test_damaged_or_missing_checkpoints_are_named(tmp_path, content, message):
    path = tmp_path / "run.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(vc.DataError, match=message) as caught:
        vc.load_model(path)
    assert str(path) in str(caught.value)


def test_truncated_checkpoint(tmp_path):
    vc.save_model(vc.models.MultVAE(30, latent_dim=4, hidden=8), tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(data[: len(data) // 2])
    with pytest.raises(vc.DataError, match="not a readable checkpoint"):
        vc.load_model(tmp_path / "m")


def test_a_flipped_bit_anywhere_is_found(tmp_path):
    """Weights, note or header: what was not written is never loaded."""
    path = tmp_path / "m"
    vc.save_model(vc.models.MultVAE(30, latent_dim=4, hidden=8), path)
    data = path.read_bytes()
    rng = random.Random(0)
    for at in [*rng.sample(range(len(data)), 150), *rng.sample(range(3000), 150)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        with pytest.raises(vc.DataError) as caught:
            vc.load_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [(b'"F32"', b'"I32"'), (b"[2,3]", b"[3,2]")], ids=["type", "shape"])
def test_the_same_bytes_read_as_something_else_are_found(tmp_path, old, new):
    """A header may be damaged so that it is still a header, of other numbers."""
    save_tensors(tmp_path / "x", {"a": torch.rand(2, 3)}, {})
    data = (tmp_path / "x").read_bytes()
    assert data.count(old) == 1
    (tmp_path / "x").write_bytes(data.replace(old, new))
    with pytest.raises(vc.DataError, match="damaged, its checksum does not fit"):
        load_tensors(tmp_path / "x")


@pytest.mark.parametrize(("error", "reason"), [(RuntimeError("first\nsecond"), "first"), (KeyError(), "KeyError")])
def test_a_reason_of_many_lines_or_none_becomes_one_line(monkeypatch, error, reason):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints, "safe_open", fails)
    with pytest.raises(vc.DataError, match=rf"not a readable checkpoint \({reason}\)\. Train again"):
        load_tensors("x")


def test_the_checkpoint_of_a_training_is_no_model(tmp_path, planted_split):
    vc.fit(vc.baselines.Popularity(planted_split.n_items), planted_split, out=tmp_path)
    with pytest.raises(vc.DataError, match="the checkpoint of a training, not a model"):
        vc.load_model(tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize("change, reason", [
    (lambda tensors: tensors.pop("item_counts"), "item_counts is only in one of them"),
    (lambda tensors: tensors.update(more=torch.zeros(2)), "more is only in one of them"),
    (lambda tensors: tensors.update(item_counts=torch.zeros(31)), "of other shapes"),
])  # fmt: skip
def test_the_weights_of_another_version_are_one_line(tmp_path, change, reason):
    """As of a run that was saved before models had all their present buffers."""
    vc.save_model(vc.models.MultVAE(30, latent_dim=4, hidden=8), tmp_path / "m")
    tensors, note = load_tensors(tmp_path / "m")
    change(tensors)
    save_tensors(tmp_path / "m", tensors, note)
    with pytest.raises(vc.DataError) as caught:
        vc.load_model(tmp_path / "m")
    assert str(caught.value) == (
        f"{tmp_path / 'm'}: holds other weights than mult-vae has in this version of the library ({reason}): train "
        "again, or use the version that wrote it"
    )


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(vc.DataError, match="not one of this library's"):
        vc.load_model(tmp_path / "other.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"vaecf": "{}"})  # without a checksum
    with pytest.raises(vc.DataError, match="not one of this library's"):
        vc.load_model(tmp_path / "other.safetensors")


def test_loading_never_unpickles(tmp_path):
    """A model loads in a process where unpickling is impossible."""
    vc.save_model(vc.models.MultDAE(30, latent_dim=4), tmp_path / "m")
    code = (
        "import sys, torch, vaecf_lib as vc, pickle\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = torch.load = refuse; pickle.Unpickler = refuse\n"
        "print(vc.load_model(sys.argv[1]).slug)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True)
    assert done.stdout == "mult-dae\n", done.stderr
