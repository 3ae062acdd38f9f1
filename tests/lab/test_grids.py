"""Grids of states: what is kept is what they train, and each takes the notes it says."""

import itertools
import json
import math
import statistics
from pathlib import Path

import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.explore import load_states
from vaecf_lib.lab import grids
from vaecf_lib.lab.grid import Grid, GridByEpoch, Toy, Trained
from vaecf_lib.lab.grids import GRIDS
from vaecf_lib.systems import build

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"
SMALL = {"latent_dim": 4, "hidden": 8}


def stops(grid):
    """Return the values a grid's states are kept under, in their order."""
    if isinstance(grid, Toy):
        return [(stop,) for stop in grid.stops]
    values = itertools.product(*grid.sliders.values())
    if isinstance(grid, GridByEpoch):
        return [(epoch, *rest) for rest in values for epoch in grid.at]
    return list(values)


@pytest.mark.parametrize("name", GRIDS)
def test_kept_states_are_those_of_their_grid(name, planted):
    """A grid whose values, options or seeds are changed without training it again fails here."""
    grid = GRIDS[name]
    states, provenance = load_states(RESULTS / "states" / f"{name}.json")
    assert list(states) == stops(grid)
    assert provenance["model"] == grid.system and provenance["settings"] == grid.settings
    assert tuple(provenance["seeds"]) == grid.seeds and provenance["data_sha256"] == planted.sha256
    if isinstance(grid, Grid):
        spread = {f"{grid.spread}_sd", f"{grid.spread}_first_seed"} if grid.spread else set()
        assert set().union(*states.values()) == set(grid.digits) | spread


@pytest.mark.parametrize("name", [name for name, grid in GRIDS.items() if isinstance(grid, Grid)])
def test_options_of_every_point_are_the_systems(name):
    grid = GRIDS[name]
    for values in itertools.product(*grid.sliders.values()):
        options = grid.options_at(*values)
        config = build(grid.system, 5, **options).config
        assert options.items() <= config.items()


def test_a_named_stop_stands_for_several_options():
    options = GRIDS["hyvae_beta"].options_at("Hy-VAE, fused by a layer", 2)
    assert (options["fusion"], options["lr"], options["beta"]) == ("concat", 0.0003, 2)
    assert GRIDS["hyvae_beta"].options_at("VAE alone", 0)["lr"] == 0.001


def toy_grid(note, **options):
    return Grid("mult-vae", {"beta": (0, 1)}, note, {"number": 2, "list": 1}, SMALL, epochs=1, **options)


def test_a_state_is_the_mean_over_seeds_rounded(planted_split):
    """Every seed trains anew, under the options of its point; means, deviation and first seed are those of the notes."""
    seen = []

    def note(trained):
        seen.append((trained.model.config["beta"], trained.row["loss"], trained.run.history[-1] == trained.row))
        value = float(len(seen))
        return {"number": value / 3, "list": torch.tensor([value, 0.04]), "kept out": 1.0}

    state = toy_grid(note, seeds=(0, 1, 2), spread="number").state(planted_split, 1)
    assert state == {
        "number": round(statistics.mean([1 / 3, 2 / 3, 1]), 2),
        "number_sd": round(statistics.stdev([1 / 3, 2 / 3, 1]), 2),
        "number_first_seed": 0.33,
        "list": [2.0, 0.0],
    }
    assert [beta for beta, *_ in seen] == [1, 1, 1] and len({loss for _, loss, _ in seen}) == 3
    assert all(last for *_, last in seen)
    one = toy_grid(lambda trained: {"list": torch.ones(2)}, spread="number").state(planted_split, 0)
    assert one == {"list": [1.0, 1.0]}, "what is not noted is left out"
    assert toy_grid(lambda trained: {"number": 1.0}, spread="number").state(planted_split, 0)["number_sd"] is None


def test_a_grid_by_epoch_looks_at_the_model_as_it_was(planted):
    """The weights of each epoch are those of a training that ends there, and its row is that epoch's."""
    finals = {}

    def note(trained):
        weights = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
        finals[trained.row["epoch"]] = weights.norm().item()
        return {"epoch": trained.row["epoch"]}

    def few_held_out(log):
        return vc.split_strong(log, n_heldout=100)

    common = {"digits": {"epoch": 0}, "options": SMALL | {"anneal": 0.0}, "split": few_held_out}
    common |= {"fit": {"batch_size": 1000}}
    grid = GridByEpoch("mult-vae", {"beta": (0.2,)}, note, epochs=3, at=(1, 3), **common)
    assert [values for values, _ in grid.states(planted)] == [(1, 0.2), (3, 0.2)]
    by_epoch = dict(finals)
    list(Grid("mult-vae", {"beta": (0.2,)}, note, epochs=1, **common).states(planted))
    model = build("mult-vae", 500, beta=0.2, anneal=0.0, **SMALL)
    vc.fit(model, few_held_out(planted), epochs=1, batch_size=1000, seed=0, device="cpu", progress=False)
    alone = torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item()
    assert alone == finals[1] == by_epoch[1] != by_epoch[3]


def test_making_writes_states_with_their_provenance(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(GRIDS, "squares", Toy("squares", (1, 2), lambda n: {"square": n * n}, {"power": 2}))
    grids.make(["squares"], tmp_path)
    states, provenance = load_states(tmp_path / "states" / "squares.json")
    assert states == {(1,): {"square": 1}, (2,): {"square": 4}}
    assert provenance["model"] == "squares" and provenance["settings"] == {"power": 2, "epochs": 0}
    assert provenance["command"] == "make states GRIDS=squares"
    with pytest.raises(vc.ConfigError, match=r"no grid 'cubes'\. Known: mult_vae_beta"):
        grids.make(["squares", "cubes"], tmp_path)


def test_a_point_of_the_critics_game_repeats():
    """The cheapest kept states, trained again."""
    states, _ = load_states(RESULTS / "states" / "vaegan_t_game.json")
    again = GRIDS["vaegan_t_game"].state(20)
    assert again["curve"] == pytest.approx(states[(20,)]["curve"], abs=0.02)
    assert again["divergence"] == pytest.approx(states[(20,)]["divergence"], abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values"), [("hyvae_beta", ("VAE alone", 1)), ("vaegan_alpha_beta_gamma", (0.2, 0.2, 0.0003))]
)
def test_a_point_of_a_trained_grid_repeats(name, values, planted):
    grid = GRIDS[name]
    kept = load_states(RESULTS / "states" / f"{name}.json")[0][values]
    again = grid.state(grid.split(planted), *values)
    assert set(again) == set(kept)
    for key in {"ndcg", "rmse"} & set(kept):
        assert again[key] == pytest.approx(kept[key], abs=0.002)


@pytest.mark.slow
def test_a_point_of_the_semi_implicit_toy_repeats():
    """With one further draw (K = 1): the bound it was trained on, and the ELBO that it reached by it."""
    kept = load_states(RESULTS / "states" / "sivae_two_tastes.json")[0][(1,)]
    again = GRIDS["sivae_two_tastes"].state(1)
    for name in ("surrogate", "elbo"):
        assert again[name] == pytest.approx(kept[name], abs=0.01)


def test_the_toys_joint_density_is_the_planted_worlds():
    """log p(x, z) by plain NumPy, from the world's own logits."""
    items, z = grids.shared_account(), torch.tensor([[0.3, -0.7], [1.0, 0.0]], dtype=torch.float64)
    logits = torch.tensor(vc.planted_world().logits(z.numpy()))
    expected = torch.log_softmax(logits, -1)[:, items].sum(-1) - 0.5 * (z * z).sum(-1) - math.log(2 * math.pi)
    assert torch.allclose(grids.log_joint(items)(z), expected)


def test_the_toys_bounds_lie_below_the_evidence(monkeypatch):
    """Half trained: the surrogate below the ELBO, and that below log p(x) by a sum over a fine lattice of z."""
    monkeypatch.setitem(grids._TWO_TASTES, "steps", 20)
    state = GRIDS["sivae_two_tastes"].state(1)
    side = torch.linspace(-6, 6, 121, dtype=torch.float64)
    log_joint = grids.log_joint(grids.shared_account())(torch.cartesian_prod(side, side))
    evidence = torch.logsumexp(log_joint, 0).item() + 2 * math.log(0.1)
    assert state["surrogate"] < state["elbo"] < evidence


def test_the_clicks_on_a_history_are_a_histogram_of_shares(planted_split):
    """Twenty bins of x_hat over [0, 1]: of an all but flat system every click is in the middle, and shares add up."""
    model = build("mult-vae", planted_split.n_items, **SMALL)
    trained = Trained(model, None, planted_split, {"D/right": 0.5, "T/right": 0.5, "ndcg@100": 0.1})
    noted = grids._clicks(trained)
    assert len(noted["share"]) == 20 and noted["share"].sum().item() == pytest.approx(1)
    assert noted["share"][9:11].sum().item() == pytest.approx(1) and noted["on"] == pytest.approx(0.5, abs=0.05)


def test_commands_of_kept_results_exist():
    """Whoever copies the command of a figure's numbers can run it."""
    import typer

    from vaecf_lib.cli import app

    commands = set(typer.main.get_command(app).commands)
    files = [*(RESULTS / "gains").glob("*.json"), *(RESULTS / "timing").glob("*.json")]
    assert len(files) >= 3
    for path in files:
        program, command, *arguments = json.loads(path.read_text())["command"].split()
        assert program == "vaecf" and command in commands and path.stem in arguments, path
