"""The grids of states that the book's sliders show, trained by ``make states`` and kept as small JSON."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..data import CAST, load_dataset, planted_world, split_ratings
from ..data.planted import HEIGHT, WIDTH
from ..environment import machine
from ..errors import ConfigError
from ..evaluation import evaluate
from ..explore import save_states
from ..maths import gaussian_mixture_log_prob, sample_gaussian
from . import RESULTS
from .grid import Grid, GridByEpoch, Noted, State, Toy, Trained


def _test(trained: Trained, metric: str) -> dict[str, float]:
    """Return a metric of the test part under its short name, ndcg or rmse."""
    return {metric.split("@")[0]: evaluate(trained.model, trained.split.test, (metric,))[metric].mean}


def _ndcg(trained: Trained) -> dict[str, float]:
    return _test(trained, "ndcg@100")


def _mult_vae(trained: Trained) -> Noted:
    terms = trained.model.elbo_terms(trained.split.train)
    rate = terms["rate"].sort(descending=True).values
    return _ndcg(trained) | {"distortion": float(terms["distortion"]), "rate": rate}


def _recvae(trained: Trained) -> Noted:
    return _ndcg(trained) | {"rate": trained.row["encoder/rate"]}


def _likelihood(trained: Trained) -> Noted:
    return _ndcg(trained) | {"rate": float(trained.model.elbo_terms(trained.split.train)["rate"].sum())}


def _sivae(trained: Trained) -> Noted:
    return _ndcg(trained) | {name: trained.row[name] for name in ("distortion", "rate")}


_PLAYERS = {"divergence": "G/divergence", "t_right": "T/right", "d_right": "D/right"}


def _players(trained: Trained) -> Noted:
    """Note what VAEGAN's players reached; where alpha and gamma leave one out, there is nothing to note of it."""
    return _ndcg(trained) | {name: trained.row[key] for name, key in _PLAYERS.items() if key in trained.row}


def _clicks(trained: Trained) -> Noted:
    """Note where x_hat lies on the clicks of the test users' histories, and how often D and T are right."""
    history = trained.split.test.history
    batch = history.rows(torch.arange(history.n_users))
    with torch.no_grad():
        x_hat = torch.sigmoid(trained.model.scores(batch))
    on = x_hat[batch.rows, batch.items]
    share = torch.histc(on, 20, 0, 1) / len(on)
    row = trained.row
    return {"share": share, "on": on.mean().item(), "all": x_hat.mean().item(),
            "d_right": row["D/right"], "t_right": row["T/right"], "ndcg": row["ndcg@100"]}  # fmt: skip


def _hyvae(trained: Trained) -> Noted:
    rates = trained.model.rates_per_dimension(trained.split.train).sort(descending=True).values
    return _test(trained, "rmse") | {"rate": rates}


def _bmf(trained: Trained) -> Noted:
    return _test(trained, "rmse") | {name: trained.run.best[name] for name in ("kl_u", "kl_v")}


_TWO_TASTES = {"noise_dim": 4, "hidden": 32, "draws": 64, "steps": 800, "lr": 0.01}


def shared_account() -> np.ndarray:
    """Return four films: the two most obscure of those close to Ada's place, and the same for Chen."""
    world, films = planted_world(), []
    for name in ("Ada", "Chen"):
        close = np.argsort(np.linalg.norm(world.place - np.array(CAST[name][1]), axis=1))[:40]
        films += close[np.argsort(world.popularity[close])][:2].tolist()
    return np.array(films)


def log_joint(items: np.ndarray):
    """Return z (..., 2) -> log p(x, z) under the planted world's multinomial, for someone who liked ``items``."""
    world = planted_world()
    place, popularity = torch.tensor(world.place), torch.tensor(world.popularity)

    def value(z: torch.Tensor) -> torch.Tensor:
        distance2 = ((z[..., None, :] - place) ** 2).sum(-1)
        eta = popularity + HEIGHT * torch.exp(-distance2 / (2 * WIDTH**2))
        log_prior = -0.5 * (z * z).sum(-1) - math.log(2 * math.pi)
        return torch.log_softmax(eta, -1)[..., torch.as_tensor(items)].sum(-1) + log_prior

    return value


def _two_tastes(n_mixing: int) -> State:
    """Fit a semi-implicit q in two dimensions with K = ``n_mixing``; return some of its components and its bounds."""
    target, hidden = log_joint(shared_account()), _TWO_TASTES["hidden"]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 4)).double()
    with torch.no_grad():  # start wide: the noise must matter from the first step
        net[2].weight.mul_(6)
        net[2].bias[2:] = -1

    def surrogate(k: int, n: int) -> torch.Tensor:
        mu, logvar = net(torch.randn(k + 1, n, 4, dtype=torch.float64)).chunk(2, -1)
        z = sample_gaussian(mu[0], logvar[0])
        return target(z) - gaussian_mixture_log_prob(z, mu, logvar)

    optimiser = torch.optim.Adam(net.parameters(), lr=_TWO_TASTES["lr"])
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, _TWO_TASTES["steps"])
    for _ in range(_TWO_TASTES["steps"]):
        optimiser.zero_grad()
        (-surrogate(n_mixing, _TWO_TASTES["draws"]).mean()).backward()
        optimiser.step()
        slower.step()
    with torch.no_grad():
        bounds = {"surrogate": surrogate(n_mixing, 20_000), "elbo": surrogate(300, 5000)}
        mu, logvar = net(torch.randn(80, 4, dtype=torch.float64)).chunk(2, -1)
        parts = torch.cat([mu, torch.exp(0.5 * logvar)], 1)
    means = {name: round(value.mean().item(), 3) for name, value in bounds.items()}
    return means | {"components": [[round(v, 3) for v in row] for row in parts.tolist()]}


_T_GAME = {"hidden": 32, "batch": 256, "lr": 0.01}


def _two_bumps(n: int) -> torch.Tensor:
    """Draw (n, 1) from 0.7 N(1.2, 0.3^2) + 0.3 N(-0.8, 0.3^2), a posterior of which we can only take samples."""
    where = torch.where(torch.rand(n, 1) < 0.7, 1.2, -0.8)
    return where + 0.3 * torch.randn(n, 1)


def _t_game(steps: int) -> State:
    """Train T for some steps against _two_bumps; return T on a grid, the divergence it claims and its hits."""
    torch.manual_seed(0)
    width = _T_GAME["hidden"]
    net = nn.Sequential(nn.Linear(1, width), nn.ELU(), nn.Linear(width, width), nn.ELU(), nn.Linear(width, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=_T_GAME["lr"])

    def critic(z: torch.Tensor) -> torch.Tensor:
        return net(z)[:, 0] + 0.5 * z[:, 0] ** 2

    for _ in range(steps):
        real, fake = critic(_two_bumps(_T_GAME["batch"])), critic(torch.randn(_T_GAME["batch"], 1))
        loss = (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        real, fake = critic(_two_bumps(50_000)), critic(torch.randn(50_000, 1))
        curve = critic(torch.linspace(-3, 3, 61)[:, None])
    right = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
    return {
        "curve": [round(v, 2) for v in curve.tolist()],
        "divergence": round(real.mean().item(), 3),
        "right": round(right.item(), 3),
    }


_SMALL_BATCH = {"batch_size": 50}
_VAEGAN = {"latent_dim": 32, "hidden": 100, "lr": 0.004}
_BMF_BETAS = (0.003, 0.03, 0.1, 0.3, 1)

GRIDS: dict[str, Grid | Toy] = {
    "mult_vae_beta": Grid(
        "mult-vae",
        sliders={"beta": (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20)},
        note=_mult_vae,
        digits={"distortion": 2, "rate": 3, "ndcg": 4},
        spread="ndcg",
        options={"latent_dim": 32, "hidden": 200, "anneal": 0.0},
        epochs=60,
        seeds=(0, 1, 2),
    ),
    "recvae_gamma_alpha": Grid(
        "recvae",
        sliders={"gamma": (0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1), "alpha": (0, 0.05, 0.15, 0.5, 1)},
        note=_recvae,
        digits={"ndcg": 4, "rate": 2},
        spread="ndcg",
        options={"latent_dim": 32, "hidden": 100, "lr": 0.002},
        fit={"batch_size": 100},
        epochs=12,
        seeds=(0, 1),
    ),
    "likelihood_beta": Grid(
        "mult-vae",
        sliders={"likelihood": ("multinomial", "bernoulli", "n_choose_k"), "beta": (0, 0.1, 0.2, 0.5, 1, 2, 5)},
        note=_likelihood,
        digits={"ndcg": 4, "rate": 2},
        spread="ndcg",
        options={"latent_dim": 32, "hidden": 100, "anneal": 0.0, "lr": 0.004},
        fit=_SMALL_BATCH,
        epochs=25,
        seeds=(0, 1),
    ),
    "sivae_k": Grid(
        "sivae",
        sliders={"n_mixing": (0, 1, 3, 10, 30)},
        note=_sivae,
        digits={"ndcg": 4, "distortion": 2, "rate": 2},
        spread="ndcg",
        options={"latent_dim": 32, "hidden": 100, "beta": 0.5},
        epochs=40,
        seeds=(0, 1, 2),
    ),
    "sivae_two_tastes": Toy("a semi-implicit q", (0, 1, 2, 5, 10, 30), _two_tastes, _TWO_TASTES),
    "vaegan_t_game": Toy("a critic T", (0, 5, 10, 20, 40, 80, 160, 320, 640, 1280), _t_game, _T_GAME),
    "vaegan_d_game": GridByEpoch(
        "vaegan-avb-d-c",
        at=(1, 2, 4, 6, 8, 10, 14, 20),
        sliders={"beta": (0.2, 1, 5)},
        note=_clicks,
        digits={"share": 4, "on": 3, "all": 3, "d_right": 3, "t_right": 3, "ndcg": 4},
        options=_VAEGAN,
        fit=_SMALL_BATCH,
        epochs=20,
    ),
    "vaegan_alpha_beta_gamma": Grid(
        "vaegan-avb-d-c",
        sliders={"alpha": (0, 0.05, 0.2, 1, 4), "beta": (0, 0.2, 5), "gamma": (0, 0.0003, 0.03)},
        note=_players,
        digits={"ndcg": 4, "divergence": 3, "t_right": 3, "d_right": 3},
        spread="ndcg",
        options=_VAEGAN,
        fit=_SMALL_BATCH,
        epochs=20,
    ),
    "hyvae_beta": Grid(
        "hyvae",
        sliders={
            "kind": {
                "VAE alone": {"branches": "vae"},
                "Hy-VAE, summed": {"fusion": "sum"},
                "Hy-VAE, fused by a layer": {"fusion": "concat", "lr": 0.0003},
            },
            "beta": (0, 0.1, 0.2, 0.5, 1, 2, 4, 8),
        },
        note=_hyvae,
        digits={"rate": 4, "rmse": 4},
        options={"hidden": 64, "code": 32, "dropout": 0.2, "lr": 0.001, "missing": "zero"},
        fit=_SMALL_BATCH,
        epochs=12,
        split=split_ratings,
    ),
    "bmf_beta": Grid(
        "vae-bmf",
        sliders={"beta_u": _BMF_BETAS, "beta_v": _BMF_BETAS},
        note=_bmf,
        digits={"rmse": 4, "kl_u": 3, "kl_v": 3},
        options={
            "latent_dim": 4,
            "data_dim": 8,
            "hidden": 16,
            "dropout": 0.0,
            "lr": 0.003,
            "users_per_block": 500,
            "items_per_block": 100,
        },
        epochs=10,
        split=partial(split_ratings, train=0.7, valid=0.15, test=0.15),
    ),
}


def make(names: list[str], folder: Path = RESULTS) -> None:
    """Train grids on the planted data and write each, with its provenance, to ``folder``/states.

    Raises:
        ConfigError: there is no grid of such a name.
    """
    unknown = sorted(set(names) - set(GRIDS))
    if unknown:
        raise ConfigError(f"no grid {unknown[0]!r}. Known: {', '.join(GRIDS)}")
    torch.set_num_threads(1)
    log = load_dataset("planted")
    (folder / "states").mkdir(parents=True, exist_ok=True)
    for name in names:
        grid, states = GRIDS[name], {}
        for values, state in grid.states(log):
            states[values] = state
            print(f"{name} {values}", file=sys.stderr, flush=True)
        provenance = {
            "model": grid.system,
            "settings": grid.settings,
            "seeds": grid.seeds,
            "dataset": log.name,
            "data_sha256": log.sha256,
            "machine": machine("cpu"),
            "command": f"make states GRIDS={name}",
        }
        save_states(folder / "states" / f"{name}.json", states, provenance)
