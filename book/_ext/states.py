"""Train the grids of states that the book's sliders show, and keep them as small JSON (`make states`)."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import vaecf_lib as vc
from vaecf_lib.data import CAST
from vaecf_lib.explore import save_states
from vaecf_lib.ledger import machine
from vaecf_lib.maths import gaussian_mixture_log_prob, sample_gaussian

STATES = Path(__file__).resolve().parents[1] / "results" / "states"

BETAS = (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20)
BETA_SETTINGS = {"latent_dim": 32, "hidden": 200, "anneal": 0.0}
BETA_EPOCHS, BETA_SEEDS = 60, (0, 1, 2)


def beta_state(split, beta: float, seeds=BETA_SEEDS) -> dict:
    """Train Mult-VAE at one beta; return rate, distortion and test NDCG@100, means over seeds."""
    runs = []
    for seed in seeds:
        model = vc.models.MultVAE(split.n_items, beta=beta, **BETA_SETTINGS)
        vc.fit(model, split, epochs=BETA_EPOCHS, seed=seed, device="cpu", progress=False)
        terms = model.elbo_terms(split.train)
        ndcg = vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean
        runs.append((float(terms["distortion"]), terms["rate"].sort(descending=True).values, ndcg))
    ndcgs = [ndcg for *_, ndcg in runs]
    return {
        "distortion": round(statistics.mean(d for d, *_ in runs), 2),
        "rate": [round(float(r), 3) for r in torch.stack([rate for _, rate, _ in runs]).mean(0)],
        "ndcg": round(statistics.mean(ndcgs), 4),
        "ndcg_sd": round(statistics.stdev(ndcgs), 4) if len(ndcgs) > 1 else None,
        "ndcg_first_seed": round(ndcgs[0], 4),
    }


GAMMAS, ALPHAS = (0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1), (0, 0.05, 0.15, 0.5, 1)
RECVAE_SETTINGS = {"latent_dim": 32, "hidden": 100, "lr": 0.002}
RECVAE_EPOCHS, RECVAE_SEEDS, RECVAE_BATCH = 12, (0, 1), 100


def recvae_state(split, gamma: float, alpha: float, seeds=RECVAE_SEEDS) -> dict:
    """Train RecVAE at one gamma and alpha; return the last epoch's rate and the test NDCG@100, means over seeds."""
    rates, ndcgs = [], []
    for seed in seeds:
        model = vc.models.RecVAE(split.n_items, gamma=gamma, alpha=alpha, **RECVAE_SETTINGS)
        run = vc.fit(
            model, split, epochs=RECVAE_EPOCHS, batch_size=RECVAE_BATCH, seed=seed, device="cpu", progress=False
        )
        rates.append(run.curve("encoder/rate")[-1])
        ndcgs.append(vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean)
    return _summary(ndcgs) | {"rate": round(statistics.mean(rates), 2)}


LIKELIHOODS, STUDY_BETAS = ("multinomial", "bernoulli", "n_choose_k"), (0, 0.1, 0.2, 0.5, 1, 2, 5)
STUDY_SETTINGS = {"latent_dim": 32, "hidden": 100, "anneal": 0.0, "lr": 0.004}
STUDY_EPOCHS, STUDY_SEEDS, SMALL_BATCH = 25, (0, 1), 50


def likelihood_state(split, likelihood: str, beta: float, seeds=STUDY_SEEDS) -> dict:
    """Train one likelihood at one beta; return rate and test NDCG@100, means over seeds."""
    rates, ndcgs = [], []
    for seed in seeds:
        model = vc.models.MultVAE(split.n_items, beta=beta, likelihood=likelihood, **STUDY_SETTINGS)
        vc.fit(model, split, epochs=STUDY_EPOCHS, batch_size=SMALL_BATCH, seed=seed, device="cpu", progress=False)
        rates.append(float(model.elbo_terms(split.train)["rate"].sum()))
        ndcgs.append(vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean)
    return _summary(ndcgs) | {"rate": round(statistics.mean(rates), 2)}


VAEGAN_ALPHAS, VAEGAN_BETAS, VAEGAN_GAMMAS = (0, 0.05, 0.2, 1, 4), (0, 0.2, 5), (0, 0.0003, 0.03)
VAEGAN_SETTINGS = {"latent_dim": 32, "hidden": 100, "lr": 0.004}
VAEGAN_EPOCHS, VAEGAN_SEEDS = 20, (0,)


def vaegan_state(split, alpha: float, beta: float, gamma: float, seeds=VAEGAN_SEEDS) -> dict:
    """Train VAEGAN at one alpha, beta and gamma; return what its players reached and the test NDCG@100."""
    ndcgs, last = [], []
    for seed in seeds:
        model = vc.build("vaegan-avb-d-c", split.n_items, alpha=alpha, beta=beta, gamma=gamma, **VAEGAN_SETTINGS)
        run = vc.fit(
            model, split, epochs=VAEGAN_EPOCHS, batch_size=SMALL_BATCH, seed=seed, device="cpu", progress=False
        )
        last.append(run.history[-1])
        ndcgs.append(vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean)
    names = {"divergence": "G/divergence", "t_right": "T/right", "d_right": "D/right"}
    means = {k: statistics.mean(row[v] for row in last) for k, v in names.items() if v in last[0]}
    return _summary(ndcgs) | {k: round(v, 3) for k, v in means.items()}


MIXINGS = (0, 1, 3, 10, 30)
SIVAE_SETTINGS = {"latent_dim": 32, "hidden": 100, "beta": 0.5}
SIVAE_EPOCHS, SIVAE_SEEDS = 40, (0, 1, 2)


def sivae_state(split, n_mixing: int, seeds=SIVAE_SEEDS) -> dict:
    """Train SIVAE with K further draws; return the surrogate's parts at the end and the test NDCG@100."""
    last, ndcgs = [], []
    for seed in seeds:
        model = vc.models.SIVAE(split.n_items, n_mixing=n_mixing, **SIVAE_SETTINGS)
        run = vc.fit(model, split, epochs=SIVAE_EPOCHS, seed=seed, device="cpu", progress=False)
        last.append(run.history[-1])
        ndcgs.append(vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean)
    parts = {name: round(statistics.mean(row[name] for row in last), 2) for name in ("distortion", "rate")}
    return _summary(ndcgs) | parts


TOY_MIXINGS = (0, 1, 2, 5, 10, 30)
TOY_SETTINGS = {"noise_dim": 4, "hidden": 32, "draws": 64, "steps": 800, "lr": 0.01}


def shared_account() -> np.ndarray:
    """Return four films: the two most obscure of those close to Ada's place, and the same for Chen."""
    world, films = vc.planted_world(), []
    for name in ("Ada", "Chen"):
        close = np.argsort(np.linalg.norm(world.place - np.array(CAST[name][1]), axis=1))[:40]
        films += close[np.argsort(world.popularity[close])][:2].tolist()
    return np.array(films)


def log_joint(items: np.ndarray):
    """Return z (..., 2) -> log p(x, z) under the planted world's multinomial, for someone who liked ``items``."""
    world = vc.planted_world()
    place, popularity = torch.tensor(world.place), torch.tensor(world.popularity)

    def value(z: torch.Tensor) -> torch.Tensor:
        distance2 = ((z[..., None, :] - place) ** 2).sum(-1)
        eta = popularity + 5.0 * torch.exp(-distance2 / (2 * 0.75**2))
        log_prior = -0.5 * (z * z).sum(-1) - math.log(2 * math.pi)
        return torch.log_softmax(eta, -1)[..., torch.as_tensor(items)].sum(-1) + log_prior

    return value


def toy_state(split, n_mixing: int) -> dict:
    """Fit a semi-implicit q in two dimensions with K = ``n_mixing``; return some of its components and its bounds."""
    target, draws = log_joint(shared_account()), TOY_SETTINGS["draws"]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, TOY_SETTINGS["hidden"]), nn.Tanh(), nn.Linear(TOY_SETTINGS["hidden"], 4)).double()
    with torch.no_grad():  # start wide: the noise must matter from the first step
        net[2].weight.mul_(6)
        net[2].bias[2:] = -1

    def surrogate(k: int, n: int) -> torch.Tensor:
        mu, logvar = net(torch.randn(k + 1, n, 4, dtype=torch.float64)).chunk(2, -1)
        z = sample_gaussian(mu[0], logvar[0])
        return target(z) - gaussian_mixture_log_prob(z, mu, logvar)

    optimiser = torch.optim.Adam(net.parameters(), lr=TOY_SETTINGS["lr"])
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, TOY_SETTINGS["steps"])
    for _ in range(TOY_SETTINGS["steps"]):
        optimiser.zero_grad()
        (-surrogate(n_mixing, draws).mean()).backward()
        optimiser.step()
        slower.step()
    with torch.no_grad():
        bounds = {"surrogate": surrogate(n_mixing, 20_000), "elbo": surrogate(300, 5000)}
        mu, logvar = net(torch.randn(80, 4, dtype=torch.float64)).chunk(2, -1)
        parts = torch.cat([mu, torch.exp(0.5 * logvar)], 1)
    means = {name: round(value.mean().item(), 3) for name, value in bounds.items()}
    return means | {"components": [[round(v, 3) for v in row] for row in parts.tolist()]}


T_STEPS = (0, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
T_SETTINGS = {"hidden": 32, "batch": 256, "lr": 0.01}


def two_bumps(n: int) -> torch.Tensor:
    """Draw (n, 1) from 0.7 N(1.2, 0.3^2) + 0.3 N(-0.8, 0.3^2), a posterior of which we can only take samples."""
    where = torch.where(torch.rand(n, 1) < 0.7, 1.2, -0.8)
    return where + 0.3 * torch.randn(n, 1)


def t_state(split, steps: int) -> dict:
    """Train T for some steps against two_bumps; return T on a grid, the divergence it claims and its hits."""
    torch.manual_seed(0)
    width = T_SETTINGS["hidden"]
    net = nn.Sequential(nn.Linear(1, width), nn.ELU(), nn.Linear(width, width), nn.ELU(), nn.Linear(width, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=T_SETTINGS["lr"])

    def critic(z: torch.Tensor) -> torch.Tensor:
        return net(z)[:, 0] + 0.5 * z[:, 0] ** 2

    for _ in range(steps):
        real, fake = critic(two_bumps(T_SETTINGS["batch"])), critic(torch.randn(T_SETTINGS["batch"], 1))
        loss = (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        real, fake = critic(two_bumps(50_000)), critic(torch.randn(50_000, 1))
        curve = critic(torch.linspace(-3, 3, 61)[:, None])
    right = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
    return {
        "curve": [round(v, 2) for v in curve.tolist()],
        "divergence": round(real.mean().item(), 3),
        "right": round(right.item(), 3),
    }


D_EPOCHS, D_BETAS = (1, 2, 4, 6, 8, 10, 14, 20), (0.2, 1, 5)


class _Watched(vc.models.VAEGAN):
    """Keeps the weights after each epoch, for the figure."""

    def phases(self):
        phases = super().phases()
        self.kept = []
        phases[-1].after = lambda: self.kept.append({k: v.clone() for k, v in self.state_dict().items()})
        return phases


def d_states(split) -> dict:
    """Train with D at two betas; return by epoch where x_hat lies on the clicks, and how often D and T are right."""
    states = {}
    for beta in D_BETAS:
        model = _Watched(split.n_items, beta=beta, **VAEGAN_SETTINGS)
        run = vc.fit(model, split, epochs=VAEGAN_EPOCHS, batch_size=SMALL_BATCH, seed=0, device="cpu", progress=False)
        batch = split.test.history.rows(torch.arange(split.test.history.n_users))
        for epoch in D_EPOCHS:
            model.load_state_dict(model.kept[epoch - 1])
            with torch.no_grad():
                logits = model.scores(batch)
                on, off = torch.sigmoid(logits[batch.rows, batch.items]), torch.sigmoid(logits).mean()
            share = torch.histc(on, 20, 0, 1) / len(on)
            row = run.history[epoch - 1]
            states[(epoch, beta)] = {
                "share": [round(v, 4) for v in share.tolist()],
                "on": round(on.mean().item(), 3),
                "all": round(off.item(), 3),
                "d_right": round(row["D/right"], 3),
                "t_right": round(row["T/right"], 3),
                "ndcg": round(row["ndcg@100"], 4),
            }
    return states


HYVAE_KINDS = {
    "VAE alone": {"branches": "vae"},
    "Hy-VAE, summed": {"fusion": "sum"},
    "Hy-VAE, fused by a layer": {"fusion": "concat", "lr": 0.0003},
}
HYVAE_BETAS = (0, 0.1, 0.2, 0.5, 1, 2, 4, 8)
HYVAE_SETTINGS = {"hidden": 64, "code": 32, "dropout": 0.2, "lr": 0.001, "missing": "zero"}
HYVAE_EPOCHS = 12


def hyvae_state(split, kind: str, beta: float) -> dict:
    """Train one kind of Hy-VAE at one beta; return the rate of each latent dimension and the test RMSE."""
    ratings = vc.split_ratings(vc.load_dataset("planted"))
    model = vc.models.HyVAE(ratings.n_items, beta=beta, **(HYVAE_SETTINGS | HYVAE_KINDS[kind]))
    vc.fit(model, ratings, epochs=HYVAE_EPOCHS, batch_size=SMALL_BATCH, seed=0, device="cpu", progress=False)
    rates = model.rates_per_dimension(ratings.train).sort(descending=True).values
    rmse = vc.evaluate(model, ratings.test, ("rmse",))["rmse"].mean
    return {"rate": [round(v, 4) for v in rates.tolist()], "rmse": round(rmse, 4)}


BMF_BETAS = (0.003, 0.03, 0.1, 0.3, 1)
BMF_SETTINGS = {
    "latent_dim": 4, "data_dim": 8, "hidden": 16, "dropout": 0.0, "lr": 0.003,
    "users_per_block": 500, "items_per_block": 100,
}  # fmt: skip
BMF_EPOCHS = 10


def bmf_state(split, beta_u: float, beta_v: float) -> dict:
    """Train VAE-BMF at one pair of betas; return both divergences and the test RMSE."""
    ratings = vc.split_ratings(vc.load_dataset("planted"), 0.7, 0.15, 0.15)
    model = vc.models.VAEBMF(ratings.n_items, beta_u=beta_u, beta_v=beta_v, **BMF_SETTINGS)
    run = vc.fit(model, ratings, epochs=BMF_EPOCHS, seed=0, device="cpu", progress=False)
    rmse = vc.evaluate(model, ratings.test, ("rmse",))["rmse"].mean
    return {"rmse": round(rmse, 4), "kl_u": round(run.best["kl_u"], 3), "kl_v": round(run.best["kl_v"], 3)}


def _summary(ndcgs: list[float]) -> dict:
    return {
        "ndcg": round(statistics.mean(ndcgs), 4),
        "ndcg_sd": round(statistics.stdev(ndcgs), 4) if len(ndcgs) > 1 else None,
        "ndcg_first_seed": round(ndcgs[0], 4),
    }


# name of the grid -> (system, values of each slider, function of the split and the sliders, settings, epochs, seeds);
# without values the function of the split alone returns all states
GRIDS = {
    "mult_vae_beta": ("mult-vae", (BETAS,), beta_state, BETA_SETTINGS, BETA_EPOCHS, BETA_SEEDS),
    "recvae_gamma_alpha": (
        "recvae", (GAMMAS, ALPHAS), recvae_state,
        RECVAE_SETTINGS | {"batch_size": RECVAE_BATCH}, RECVAE_EPOCHS, RECVAE_SEEDS,
    ),
    "likelihood_beta": (
        "mult-vae", (LIKELIHOODS, STUDY_BETAS), likelihood_state,
        STUDY_SETTINGS | {"batch_size": SMALL_BATCH}, STUDY_EPOCHS, STUDY_SEEDS,
    ),
    "sivae_k": ("sivae", (MIXINGS,), sivae_state, SIVAE_SETTINGS, SIVAE_EPOCHS, SIVAE_SEEDS),
    "sivae_two_tastes": ("a semi-implicit q", (TOY_MIXINGS,), toy_state, TOY_SETTINGS, 0, (0,)),
    "vaegan_t_game": ("a critic T", (T_STEPS,), t_state, T_SETTINGS, 0, (0,)),
    "vaegan_d_game": (
        "vaegan-avb-d-c", None, d_states, VAEGAN_SETTINGS | {"batch_size": SMALL_BATCH}, VAEGAN_EPOCHS, (0,),
    ),
    "vaegan_alpha_beta_gamma": (
        "vaegan-avb-d-c", (VAEGAN_ALPHAS, VAEGAN_BETAS, VAEGAN_GAMMAS), vaegan_state,
        VAEGAN_SETTINGS | {"batch_size": SMALL_BATCH}, VAEGAN_EPOCHS, VAEGAN_SEEDS,
    ),
    "hyvae_beta": (
        "hyvae", (tuple(HYVAE_KINDS), HYVAE_BETAS), hyvae_state,
        HYVAE_SETTINGS | {"batch_size": SMALL_BATCH}, HYVAE_EPOCHS, (0,),
    ),
    "bmf_beta": ("vae-bmf", (BMF_BETAS, BMF_BETAS), bmf_state, BMF_SETTINGS, BMF_EPOCHS, (0,)),
}  # fmt: skip


def make(name: str) -> None:
    """Train one grid and write it."""
    model, sliders, train, settings, epochs, seeds = GRIDS[name]
    log = vc.load_dataset("planted")
    split = vc.split_strong(log)
    states = train(split) if sliders is None else {}
    for values in itertools.product(*sliders) if sliders else ():
        states[values] = train(split, *values)
        print(f"{name} {values}", file=sys.stderr, flush=True)
    provenance = {
        "model": model,
        "settings": settings | {"epochs": epochs},
        "seeds": seeds,
        "dataset": log.name,
        "data_sha256": log.sha256,
        "machine": machine("cpu"),
        "command": f"make states GRIDS={name}",
    }
    STATES.mkdir(parents=True, exist_ok=True)
    save_states(STATES / f"{name}.json", states, provenance)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or GRIDS:
        make(chosen)
