"""The table of costs is measured as it says, kept row by row, and shown whole; nothing is timed against a limit."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.errors import ConfigError
from vaecf_lib.lab import bench, costs

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "book" / "results" / "speed" / "systems_cpu.json"
TINY = costs.Shape(users=90, items=60, positives=8, timed=30)


def test_flops_of_an_epoch_of_mult_vae_are_those_counted_by_hand():
    """Products inside autograd functions, into given memory and in place, backward too: none is left out."""
    split = costs._data(TINY, ratings=False)
    model = vc.build("mult-vae", TINY.items, latent_dim=3, hidden=7)
    trainer = vc.Trainer(model, split, device="cpu", batch_size=20)
    products = 7 * 2 * 3 + 3 * 7 + 7 * TINY.items  # posterior, decoder's hidden layer, logits
    forward_and_both_gradients, bias_of_the_output = 3 * 2 * products, 2 * TINY.items
    assert costs.count_flops(trainer.run_epoch) == TINY.timed * (forward_and_both_gradients + bias_of_the_output)


@pytest.mark.parametrize(
    ("work", "flops"),
    [
        (lambda a, b, v, c: torch.mm(a, b, out=c), 2 * 2 * 3 * 4),
        (lambda a, b, v, c: c.addmm_(a, b), 2 * 2 * 3 * 4),
        (lambda a, b, v, c: c[None].baddbmm_(a[None], b[None]), 2 * 2 * 3 * 4),
        (lambda a, b, v, c: a @ v, 2 * 2 * 3),
        (lambda a, b, v, c: torch.zeros(2).addmv_(a, v), 2 * 2 * 3),
        (lambda a, b, v, c: torch.addmv(torch.zeros(2), a, v), 2 * 2 * 3),
        (lambda a, b, v, c: a * a, 0),
    ],
)
def test_every_form_of_a_product_is_counted(work, flops):
    a, b, v, c = torch.ones(2, 3), torch.ones(3, 4), torch.ones(3), torch.zeros(2, 4)
    assert costs.count_flops(lambda: work(a, b, v, c)) == flops


def test_shares_are_of_the_operators_time():
    a = torch.ones(200, 200)
    products, others = costs.shares(lambda: (a @ a).exp())
    assert 0 < products < 1 and "exp" in others and products + sum(others.values()) <= 1.01


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(costs, "SHAPES", {"tiny": TINY})
    monkeypatch.setattr(costs, "product_rate", lambda: 1e11)
    monkeypatch.setattr(costs, "row_of", costs.measure)  # in this process


def test_rows_are_kept_and_not_measured_again(tiny, tmp_path, monkeypatch):
    out = tmp_path / "costs.json"
    report = costs.run(["tiny"], ["biased-mf", "popularity"], out, progress=False)
    table = report["shapes"]["tiny"]["systems"]
    assert json.loads(out.read_text(encoding="utf-8")) == report
    assert table["biased-mf"]["gflop"] == 0 and table["biased-mf"]["epochs"] == costs.EPOCHS  # it needs ratings
    assert table["popularity"]["seconds"] >= 0 and "gflop" not in table["popularity"]  # it has no epochs
    rows = {"mult-dae": {"seconds": 1.0}}
    monkeypatch.setattr(costs, "row_of", lambda slug, shape: rows.pop(slug))
    again = costs.run(["tiny"], ["popularity", "mult-dae", "biased-mf"], out, progress=False)
    assert again["shapes"]["tiny"]["systems"] == table | {"mult-dae": {"seconds": 1.0}}


def test_full_epochs_are_computed_by_the_user(tiny):
    row = costs.measure("mult-dae", TINY)
    assert row["seconds_full"] == pytest.approx(3 * row["seconds"], abs=0.01)
    assert row["users_per_second"] == pytest.approx(TINY.timed / row["seconds"], rel=0.05)
    assert row["share_of_limit"] == pytest.approx(row["gflop"] / 100 / row["seconds"], abs=0.05)


def test_a_system_that_cannot_be_run_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setattr(costs, "LIMIT", 0.01)
    assert costs.row_of("mult-vae", TINY) == {"not_run": "it takes more than 0 seconds"}


@pytest.mark.slow
def test_rows_are_measured_in_processes_of_their_own():
    row = costs.row_of("mult-dae", TINY)
    assert row["epochs"] == costs.EPOCHS and 0 < row["share_of_limit"] < 2
    with pytest.raises(ConfigError, match=r"^unknown model 'nobody'\. Known: .*$"):
        bench.in_own_process("costs.build('nobody', 5)")


def test_results_of_another_machine_or_shape_are_not_mixed(tiny, tmp_path, monkeypatch):
    out = tmp_path / "costs.json"
    monkeypatch.setattr(costs, "row_of", lambda slug, shape: {"seconds": 1.0})
    costs.run(["tiny"], ["popularity"], out, progress=False)
    monkeypatch.setattr(costs, "SHAPES", {"tiny": TINY._replace(items=61)})
    with pytest.raises(ConfigError, match="holds another shape tiny: give another file"):
        costs.run(["tiny"], ["random"], out, progress=False)
    monkeypatch.setattr(costs, "machine", lambda device: "an abacus")
    with pytest.raises(ConfigError, match="this is an abacus: give another file"):
        costs.run(["tiny"], ["random"], out, progress=False)


# --- the kept table and the page that shows it ---------------------------------------------------------------------


def test_every_system_stands_in_the_kept_table():
    shapes = json.loads(KEPT.read_text(encoding="utf-8"))["shapes"]
    assert set(shapes) == set(costs.SHAPES)
    for name, table in shapes.items():
        assert set(table["systems"]) == set(vc.SYSTEMS), name


def test_the_page_gives_a_reason_for_every_system_below_two_fifths_of_its_limit():
    page = (ROOT / "book" / "speed.md").read_text(encoding="utf-8")
    reasons = page[page.index("## Below two fifths") :]
    for name, table in json.loads(KEPT.read_text(encoding="utf-8"))["shapes"].items():
        for slug, row in table["systems"].items():
            if "share_of_limit" in row and row["share_of_limit"] < 0.4:
                assert re.search(rf"`{slug}`", reasons), (name, slug)


def test_the_page_s_table_has_the_kept_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    sys.modules.pop("costs", None)
    import costs as extension

    kept = json.loads(KEPT.read_text(encoding="utf-8"))["shapes"]["ml-20m"]["systems"]
    cells = {row[0].strip("`"): row for row in extension.rows("ml-20m")}
    left_out = [slug for slug, row in kept.items() if "share_of_limit" not in row and row.get("seconds", 1.0) < 0.1]
    assert set(cells) == set(kept) - set(left_out) and "popularity" in left_out
    assert cells["itemknn"][2] == f"{extension.figure(kept['itemknn']['seconds'])}, once"
    row = kept["recvae"]
    assert cells["recvae"][1] == extension.figure(row["users_per_second"])
    assert cells["recvae"][4] == f"{row['share_of_limit']:.0%}"
    assert all(len(row) == 6 and re.search(r"\d \(", row[5]) for row in extension.paired_rows())
    assert extension.figure(1234.5) == "1,230" and extension.figure(0.4411) == "0.441"
