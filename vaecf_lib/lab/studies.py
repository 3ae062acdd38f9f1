"""The book's own studies: rows that no paper prints, run by ``vaecf reproduce book STUDY``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..systems import SYSTEMS
from .study import Row, Study

_ML_1M = {"ml-1m": {"n_heldout": 500}}
_BOTH_MOVIELENS = {**_ML_1M, "ml-100k": {"n_heldout": 100}}
_EXACT = {"likelihood": "n_choose_k"}
_SLIM = {"implicit_slim": 10, "slim_penalty": 100.0, "slim_threshold": 30}
_BERNOULLI = {"likelihood": "bernoulli"}

# RecVAE's five features, and the setting that switches each off.
_OFF: dict[str, dict[str, Any]] = {
    "architecture": {"architecture": "mult-vae"},
    "prior": {"composite_prior": False},
    "beta": {"gamma": None},
    "alternating": {"alternating": False},
    "clean": {"clean_decoder": False},
}


def _without(*features: str) -> Row:
    return Row("recvae", {key: value for feature in features for key, value in _OFF[feature].items()})


def _one_by_one(slug: str, key: str, *values: float) -> dict[str, Row]:
    return {f"{slug}, {key}={value:g}": Row(slug, {key: value}) for value in values}


def systems_there(*slugs: str, seeds: int | None = None) -> dict[str, Row]:
    """Return a row, with its own defaults, for each system that the library has by now."""
    return {slug: Row(slug, seeds=seeds) for slug in slugs if slug in SYSTEMS}


def solved(*slugs: str, seeds: int | None = None) -> dict[str, Row]:
    """Return a row for each of these systems, which are solved and not trained by epochs."""
    return {slug: Row(slug, epochs=0, seeds=seeds) for slug in slugs}


def with_exact(*slugs: str) -> dict[str, Row]:
    """Return a row with the exact likelihood for each system that the library has by now and that can have it."""
    options = {slug: SYSTEMS[slug].options.get("likelihood") for slug in slugs if slug in SYSTEMS}
    return {f"{s}, n_choose_k": Row(s, _EXACT) for s, o in options.items() if o and "n_choose_k" in o.choices}


_GAUSSIAN = {"likelihood": "gaussian"}  # with it, systems that rank predict ratings
_SHARES_70 = {"train": 0.7, "valid": 0.15, "test": 0.15}
_BOTH_READINGS = (
    "rmse",
    "mae",
    *(f"{m}_{r}@{k}" for r in ("rated", "liked") for m in ("ndcg", "recall") for k in (20, 50)),
)
# Published figures there count hits over all targets.
_GOWALLA = ("recall_all@20", "recall@20", "ndcg@20")
_RANDOM, _MEANS = Row("random", {"ratings": True}, epochs=0), Row("means", epochs=0, seeds=1)
_BIASED_MF = Row("biased-mf", {"penalty": 0.05}, epochs=20)
# I-AutoRec gains most from falling step sizes, 0.006 on ML-1M; DeepAE, Mult-DAE and VAE gained 0.001 or nothing.
_AUTOREC_I = Row("autorec-i", {"penalty": 0.03, "items_per_batch": 100}, fit={"schedule": "cosine"}, epochs=30)
_BMF = Row("vae-bmf", fit={"schedule": "cosine"}, epochs=30)

# Hy-VAE's Table II, and the floors; each system's settings on every data set, and what was chosen on some by
# the validation error of seed 0, among two to four settings.
_HYVAE_ROWS = {
    "random": _RANDOM,
    "means": _MEANS,
    "biased-mf": _BIASED_MF,
    "autorec-i": _AUTOREC_I,
    "mult-vae": Row("mult-vae", _GAUSSIAN | {"beta": 1.0}, epochs=40),
    "mult-dae": Row("mult-dae", _GAUSSIAN | {"penalty": 0.001}, epochs=40),
    "cdae": Row("cdae", {"penalty": 1e-4}, epochs=60),
    "macridvae": Row("macridvae", epochs=10),
    "recvae": Row("recvae", _GAUSSIAN | {"gamma": 0.005}, epochs=12),
    "hyvae": Row("hyvae", {"lr": 1e-4}, epochs=16),
    "hyvae, summed": Row("hyvae", {"fusion": "sum", "lr": 1e-3}, epochs=40),
    "deepae": Row("deepae", {"lr": 3e-4}, epochs=40),
    "vae": Row("vae", {"lr": 1e-3}, epochs=40),
}
_FEW_RATINGS = {
    "mult-dae": _HYVAE_ROWS["mult-dae"].but(penalty=0.01),
    "cdae": _HYVAE_ROWS["cdae"].but(penalty=0.01, epochs=40),
    "recvae": _HYVAE_ROWS["recvae"].but(gamma=0.05, epochs=10),
    "deepae": _HYVAE_ROWS["deepae"].but(penalty=0.1, missing="zero", epochs=20),
    "hyvae, summed": _HYVAE_ROWS["hyvae, summed"].but(missing="zero", lr=3e-4, epochs=20),
    "vae": _HYVAE_ROWS["vae"].but(missing="zero", lr=3e-4, epochs=20),
}
_HYVAE_CHOSEN = {
    "douban": _FEW_RATINGS
    | {
        "biased-mf": _BIASED_MF.but(penalty=0.2, epochs=40),
        "autorec-i": _AUTOREC_I.but(penalty=0.02, items_per_batch=500, lr=0.003, epochs=150),
        "hyvae": Row("hyvae", {"lr": 3e-5, "missing": "zero"}, epochs=12),
    },
    "flixster": _FEW_RATINGS
    | {
        "biased-mf": _BIASED_MF.but(penalty=0.2, epochs=60),
        "autorec-i": _AUTOREC_I.but(penalty=1.0, epochs=100),
        "hyvae": Row("hyvae", {"lr": 3e-5, "missing": "zero"}, epochs=8),
    },
}

STUDIES: dict[str, Study] = {
    "likelihoods": Study(
        protocol="strong",
        data=_BOTH_MOVIELENS | {"planted": {}},
        rows={
            "popularity": Row("popularity", seeds=1),
            "random": Row("random"),
            "mult-dae": Row("mult-dae"),
            "mult-vae": Row("mult-vae"),
            "mult-vae, n_choose_k": Row("mult-vae", _EXACT),
            "mult-vae, bernoulli": Row("mult-vae", _BERNOULLI),
        },
    ),
    "recvae": Study(
        protocol="strong",
        data=_BOTH_MOVIELENS,
        rows={"recvae": Row("recvae"), "recvae, n_choose_k": Row("recvae", _EXACT)},
    ),
    "patience": Study(
        protocol="strong",
        seeds=1,
        epochs=400,
        data=_ML_1M,
        rows={
            "mult-vae, 400 epochs": Row("mult-vae"),
            "mult-vae, n_choose_k, 400 epochs": Row("mult-vae", _EXACT),
            "mult-vae, bernoulli, 400 epochs": Row("mult-vae", _BERNOULLI),
        },
    ),
    # RecVAE's Table 2; the row without any feature is Mult-VAE. Trained at once, an epoch has one pass instead of
    # three and one: 150 epochs are as many updates of the encoder as 50 alternating ones.
    "ablation-at-once": Study(
        protocol="strong",
        seeds=1,
        epochs=150,
        data=_ML_1M,
        rows={
            "recvae: architecture": _without("prior", "beta", "alternating", "clean"),
            "recvae: architecture, prior": _without("beta", "alternating", "clean"),
            "recvae: architecture, beta": _without("prior", "alternating", "clean"),
            "recvae: architecture, prior, beta": _without("alternating", "clean"),
        },
    ),
    "ablation-alternating": Study(
        protocol="strong",
        seeds=1,
        epochs=50,
        data=_ML_1M,
        rows={
            "recvae: architecture, alternating, clean": _without("prior", "beta"),
            "recvae: prior, beta, alternating, clean": _without("architecture"),
            "recvae: architecture, beta, alternating, clean": _without("prior"),
            "recvae: architecture, prior, alternating, clean": _without("beta"),
            "recvae: architecture, prior, beta, alternating": _without("clean"),
            "recvae: all five": Row("recvae"),
        },
    ),
    "systems": Study(
        protocol="strong",
        seeds=1,
        data=_ML_1M,
        rows={
            slug: Row(slug)
            for slug in (
                "vae-multinomial",
                "vae-logistic",
                "vae-vamp",
                "vae-iaf",
                "vae-reg",
                "sivae",
                "awae",
                "vaegan-avb",
                "vaegan-avb-d",
                "vaegan-avb-d-c",
            )
        },
    ),
    # Other settings that a system may choose from, by validation NDCG@100 of seed 0.
    "grid": Study(
        protocol="strong",
        seeds=1,
        data=_ML_1M,
        rows={
            **_one_by_one("mult-vae", "beta", 0.1, 0.5),
            **_one_by_one("mult-dae", "penalty", 4e-6, 1e-4),
            **_one_by_one("vae-multinomial", "lr", 0.002, 0.004),
            **_one_by_one("vae-logistic", "lr", 0.002, 0.004),
            **_one_by_one("vae-vamp", "beta", 0.1, 0.5),
            **_one_by_one("vae-iaf", "beta", 0.1, 0.5),
            **_one_by_one("vae-reg", "beta", 0.1, 0.5),
            **_one_by_one("sivae", "beta", 0.1, 0.5),
            **_one_by_one("awae", "mmd", 10.0, 1000.0),
            **_one_by_one("vaegan-avb", "lr", 0.002, 0.004),
            **_one_by_one("recvae", "gamma", 0.0025, 0.01),
        },
    ),
    # How many epochs VAEGAN's Table 2 needs: a tenth of the training clicks validates. alpha is at its maximum
    # after 80 epochs, as in the paper's Fig. 3.
    "weak-epochs": Study(
        protocol="weak",
        seeds=1,
        epochs=400,
        batch_size=256,
        data={"ml-100k": {"valid": 0.1}},
        rows={
            "vaegan-avb, 400 epochs": Row(
                "vaegan-avb", {"anneal": 0.2}, fit={"metric": "ndcg@20", "validate_every": 10}
            ),
        },
    ),
    "weak-100k": Study(
        protocol="weak",
        seeds=1,
        epochs=250,
        batch_size=256,
        data={"ml-100k": {}},
        rows={slug: Row(slug, {"anneal": 0.32}) for slug in ("vaegan-avb", "vaegan-avb-d", "vaegan-avb-d-c")},
    ),
    "weak-epochs-1m": Study(
        protocol="weak",
        seeds=1,
        epochs=80,
        batch_size=256,
        data={"ml-1m": {"valid": 0.1}},
        rows={
            "vaegan-avb, 80 epochs": Row("vaegan-avb", {"anneal": 1.0}, fit={"metric": "ndcg@20", "validate_every": 5}),
        },
    ),
    # That run was still rising at its end: three times the step size for the three systems.
    "weak-1m": Study(
        protocol="weak",
        seeds=1,
        epochs=80,
        batch_size=256,
        data={"ml-1m": {}},
        rows={
            slug: Row(slug, {"anneal": 1.0, "lr": 0.003}) for slug in ("vaegan-avb", "vaegan-avb-d", "vaegan-avb-d-c")
        },
    ),
    "hyvae": Study(
        protocol="ratings",
        cut="80",
        batch_size=100,
        data={name: {"published": False} for name in ("ml-1m", "douban", "flixster")},
        rows=_HYVAE_ROWS,
        chosen=_HYVAE_CHOSEN,
    ),
    "hyvae-input": Study(
        protocol="ratings",
        cut="80",
        batch_size=100,
        data={"ml-1m": {"published": False}},
        rows={"vae, raw ratings": Row("vae", {"missing": "zero", "lr": 1e-3}, epochs=20)},
    ),
    "hyvae-published": Study(
        protocol="ratings",
        seeds=2,
        cut="published",
        batch_size=100,
        data={name: {"valid": 0.1, "train": 0.8} for name in ("douban", "flixster")},
        rows=_HYVAE_ROWS,
        chosen=_HYVAE_CHOSEN,
    ),
    # AutoRec's own cut, for which its own figure is known: 90 % train, 10 % test, nothing left to choose by.
    "autorec": Study(
        protocol="ratings",
        cut="90",
        batch_size=100,
        data={"ml-1m": {"published": False, "train": 0.9, "valid": 0.0, "test": 0.1}},
        rows={"means": _MEANS, "autorec-i": _AUTOREC_I, "vae-bmf": replace(_BMF, seeds=1)},
    ),
    # VAE-BMF's Table 3. What I-AutoRec's penalty does is shown, not hidden: its printed error is known to be weak.
    "bmf": Study(
        protocol="ratings",
        cut="70",
        batch_size=100,
        metrics=_BOTH_READINGS,
        data={"ml-1m": _SHARES_70},
        rows={
            "random": _RANDOM,
            "means": _MEANS,
            "biased-mf": _BIASED_MF,
            "autorec-i": _AUTOREC_I,
            "autorec-i, penalty=0.01": replace(_AUTOREC_I.but(penalty=0.01), seeds=1),
            "autorec-i, penalty=0.1": replace(_AUTOREC_I.but(penalty=0.1), seeds=1),
            "autorec-i, penalty=1": replace(_AUTOREC_I.but(penalty=1.0), seeds=1),
            "autorec-i, constant steps": replace(_AUTOREC_I.but(fit={"schedule": "constant"}), seeds=1),
            "autorec-u": Row("autorec-u", {"penalty": 0.03}, fit={"schedule": "cosine"}, epochs=40),
            "vae-cf": Row("vae-cf", {"beta": 1.0}, epochs=30),
            "dae-cf": Row("dae-cf", {"penalty": 0.001}, epochs=40),
            "vae-bmf": _BMF,
            "ncf": Row("ncf", epochs=20),
            "cnn-cf": Row("cnn-cf", epochs=8, seeds=1),
        },
    ),
    # Table 4 and the variants A to E of Fig. 4, E being the full system of the study above.
    "bmf-variants": Study(
        protocol="ratings",
        seeds=1,
        cut="70",
        batch_size=100,
        data={"ml-1m": _SHARES_70},
        rows={
            "vae-bmf, C: no feedback": replace(_BMF.but(feedback=False), seeds=3),
            "vae-bmf, D: no attention": replace(_BMF.but(attention=None), seeds=3),
            "vae-bmf, no data input": replace(_BMF.but(data_input=False), seeds=3),
            "vae-bmf, A: no feedback, shallow": _BMF.but(feedback=False, data_layers=0),
            "vae-bmf, B: no attention, shallow": _BMF.but(attention=None, data_layers=0),
            "vae-bmf, attention as printed": _BMF.but(attention="paper", epochs=15),
            "vae-bmf, no dropout": _BMF.but(dropout=0.0, beta_u=0.1, beta_v=0.1, epochs=15),
            # These two learn slowly, and are better with constant steps (0.881 against 0.899, 0.865 against 0.873).
            "vae-bmf, no offsets": Row("vae-bmf", {"offset": "none"}, epochs=30),
            "vae-bmf, sequential": Row("vae-bmf", {"updates": "sequential"}, epochs=30),
            "vae-bmf, KL per block": _BMF.but(kl="per_block", epochs=15),
        },
    ),
    # Is it the offsets that make VAE-BMF do without ratings as input? On a small set, so that it can be trained long.
    "bmf-offsets": Study(
        protocol="ratings",
        seeds=1,
        cut="70",
        batch_size=100,
        epochs=200,
        data={"ml-100k": _SHARES_70},
        rows={
            "means": _MEANS,
            "vae-bmf, no offsets": Row("vae-bmf", {"offset": "none"}),
            "vae-bmf, no offsets, no data input": Row("vae-bmf", {"offset": "none", "data_input": False}),
        },
    ),
    # Fig. 3: a share of all ratings trains, and the rest is halved.
    "bmf-sparsity": Study(
        protocol="ratings",
        seeds=1,
        cut="sparse",
        batch_size=100,
        data={"ml-1m": {"published": False}},
        rows={
            f"{row.system}, p={p:g}": replace(row, split={"train": p, "valid": (1 - p) / 2, "test": (1 - p) / 2})
            for row in (
                _MEANS,
                Row("biased-mf", {"penalty": 0.2}, epochs=30),
                _AUTOREC_I,
                Row("vae-cf", {"beta": 1.0}, epochs=15),
                Row("vae-bmf", {"beta_u": 0.1, "beta_v": 0.1}, epochs=15),
            )
            for p in (0.01, 0.02, 0.03, 0.05, 0.1)
        },
    ),
    # The systems of RecVAE's Table 1 that are no autoencoders, and the floor that everybody asks for.
    "baselines": Study(
        protocol="strong",
        data=_BOTH_MOVIELENS,
        rows=solved("itemknn", "ease", "slim", seeds=1)
        | solved("wmf")
        | systems_there("wmf-linear")
        | {
            "warp": Row("warp", epochs=150),
            "ract": Row("ract", epochs=200),  # as in its paper: actor 100, critic 50, both 50
            "lambdanet": Row("lambdanet", epochs=60),
        },
        chosen={
            "ml-1m": {"warp": Row("warp", epochs=150, seeds=1)},
            "ml-100k": {
                "wmf-linear": Row("wmf-linear", epochs=200),
                "warp": Row("warp", epochs=400),
                "lambdanet": Row("lambdanet", epochs=150),
            },
        },
    ),
    "past-the-papers": Study(
        protocol="strong",
        data=_BOTH_MOVIELENS,
        rows={
            f"{slug}, implicit_slim{name}": Row(slug, _SLIM | options)
            for slug in ("mult-vae", "recvae")
            for name, options in (("", {}), (", n_choose_k", _EXACT))
        },
    ),
    # Of deep networks on few users, which learn nothing in two updates an epoch; 200 is H+Vamp's own batch.
    "past-the-papers-deep": Study(
        protocol="strong",
        batch_size=200,
        data=_BOTH_MOVIELENS,
        rows={
            f"{slug}{name}": Row(slug, own | options)
            for slug, own in (("hvamp", {"lr": 0.001}), ("vasp", {}))
            for name, options in (("", {}), (", n_choose_k", _EXACT))
        },
    ),
    # VAEGAN's Table 2: what it compares with, all of which know the users they were trained on.
    "weak-baselines": Study(
        protocol="weak",
        batch_size=256,
        data={"ml-100k": {}, "ml-1m": {}},
        rows={
            "cdae": Row("cdae"),
            "irgan": Row("irgan", epochs=15),
            "irgan, tau 1, penalty 0.01": Row("irgan", {"tau": 1.0, "penalty": 0.01}, epochs=50),
            "cfgan": Row("cfgan", epochs=250, seeds=1),
        },
    ),
    # Of the training part a tenth validates, to see how many epochs it takes; then everything trains.
    "gowalla-epochs": Study(
        protocol="weak",
        epochs=200,
        metrics=_GOWALLA,
        seeds=1,
        data={"gowalla": {"valid": 0.1}},
        rows={
            f"{slug}, 200 epochs": Row(slug, fit={"metric": "recall_all@20", "validate_every": 5})
            for slug in ("mult-vae", "vae-nck")
        },
    ),
    "gowalla": Study(
        protocol="weak",
        epochs=100,
        metrics=_GOWALLA,
        data={"gowalla": {}},
        rows=solved("popularity", seeds=1)
        | solved("itemknn", "ease", seeds=1)
        | solved("wmf")
        | systems_there("mult-vae", "vae-nck"),
    ),
}
