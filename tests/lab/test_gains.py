"""Who gains from the exact likelihood: the quantities that users are sorted by, and the groups."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vaecf_lib.data import Interactions
from vaecf_lib.lab import gains, timing
from vaecf_lib.lab.studies import STUDIES
from vaecf_lib.lab.study import Row, Study


def test_the_surprise_of_no_repeats_is_counted_out():
    """-log P(k draws are all different), by enumerating the draws of two and three from four items; by saddlepoint."""
    pi = np.array([0.5, 0.3, 0.15, 0.05])
    history = Interactions.from_pairs(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 2, 3]), shape=(2, 4))
    model = SimpleNamespace(device="cpu", scores=lambda batch: torch.tensor(np.log(pi)).expand(len(batch), -1))
    two = sum(pi[a] * pi[b] for a in range(4) for b in range(4) if a != b)
    three = sum(pi[a] * pi[b] * pi[c] for a in range(4) for b in range(4) for c in range(4) if len({a, b, c}) == 3)
    assert gains.surprise_of_no_repeats(model, history).tolist() == pytest.approx(
        [-np.log(two), -np.log(three)], rel=0.02
    )


def test_fifths_are_sorted_groups_with_their_intervals():
    by, gain = np.array([9.0, 1, 2, 8, 3, 7, 4, 6, 5, 10]), np.arange(10.0)
    groups = gains.fifths(by, gain)
    assert [(g["from"], g["to"]) for g in groups] == [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]
    assert groups[0]["gain"] == 1.5 and groups[-1]["gain"] == 4.5
    assert groups[0]["ci"] == pytest.approx(1.96 * 0.5**0.5 / 2**0.5, abs=1e-3)


def test_the_measurement_writes_what_the_chapters_read(tmp_path, monkeypatch):
    monkeypatch.setattr(gains, "SEEDS", (0, 1))
    gains.measure("planted", 100, 0, tmp_path)
    result = json.loads((tmp_path / "gains" / "planted.json").read_text())
    assert result["command"] == "vaecf gains planted --n-heldout 100 --epochs 0"
    assert len(result["by_seed"]) == 2 and len(result["activity"]) == len(result["no_repeats"]) == 5
    assert result["n_users"] <= 100 and result["gain"] == 0.0, "untrained, both likelihoods have the same weights"


def test_timing_takes_every_row_that_is_trained(tmp_path, monkeypatch, capsys):
    small = {"latent_dim": 4, "hidden": 8}
    rows = {"popularity": Row("popularity"), "small": Row("mult-vae", small)}
    for study in ("likelihoods", "recvae", "systems"):
        monkeypatch.setitem(STUDIES, study, Study("strong", {"planted": {}}, rows))
    monkeypatch.setattr(timing, "EPOCHS", 1)
    timing.measure("planted", 100, tmp_path)
    result = json.loads((tmp_path / "timing" / "planted.json").read_text())
    assert list(result["seconds_per_epoch"]) == ["small"] and result["seconds_per_epoch"]["small"] > 0
    assert result["command"] == "vaecf timing planted --n-heldout 100"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith("small: ") for line in said), "one of each study, no epoch's"
