"""What every trained system must do: learn the planted world, save, load, resume; and refuse what it cannot read."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.systems import SYSTEMS, build

SMALL = {"latent_dim": 5, "hidden": 8}
# Test NDCG@100 after some epochs; the popular list has 0.267, the best attainable ranking 0.445. A Bernoulli
# likelihood has to find the level of every film first, so it is given larger and more steps.
SLOW = {"lr": 0.004, "batch_size": 50}
LEARNS = {
    "vae-multinomial": (30, {}, 0.38),
    "vae-logistic": (30, SLOW, 0.38),
    "vae-vamp": (30, {}, 0.38),
    "vae-iaf": (30, {}, 0.38),
    "vae-reg": (40, {}, 0.36),
    "vae-nck": (30, {}, 0.38),
    "sivae": (30, {}, 0.38),
    "vaegan-avb": (20, SLOW, 0.38),
    "vaegan-avb-d": (20, SLOW, 0.38),
    "vaegan-avb-d-c": (20, SLOW, 0.38),
    "awae": (30, {}, 0.38),
    "vasp": (15, {"lr": 0.002}, 0.38),
    "hvamp": (30, {"pseudo_inputs": 50, "lr": 0.002}, 0.38),
}


@pytest.mark.slow
@pytest.mark.parametrize("slug", LEARNS)
def test_learns_the_planted_world(planted_split, slug):
    epochs, options, enough = LEARNS[slug]
    options = dict(options)
    batch_size = options.pop("batch_size", 500)
    model = build(slug, planted_split.n_items, latent_dim=32, hidden=100, **options)
    run = vc.fit(
        model, planted_split, epochs=epochs, batch_size=batch_size, device="cpu", progress=False, validate_every=5
    )
    assert vc.evaluate(model, planted_split.test, ("ndcg@100",))["ndcg@100"].mean > enough
    assert np.isfinite(run.curve("loss")).all()


@pytest.mark.slow
@pytest.mark.parametrize("slug", LEARNS)
def test_save_load_and_resume(planted_split, slug, tmp_path, monkeypatch):
    def new():
        return build(slug, planted_split.n_items, **SMALL)

    unbroken = new()
    vc.fit(unbroken, planted_split, epochs=3, device="cpu", progress=False)
    cls = SYSTEMS[slug].model
    original, calls = cls.loss, []

    def stops(self, batch, progress):
        calls.append(progress)
        if len(calls) == 8:  # in the second epoch
            raise KeyboardInterrupt
        return original(self, batch, progress)

    monkeypatch.setattr(cls, "loss", stops)
    with pytest.raises(KeyboardInterrupt):
        vc.fit(new(), planted_split, epochs=3, device="cpu", out=tmp_path, progress=False)
    monkeypatch.setattr(cls, "loss", original)
    resumed = new()
    vc.fit(resumed, planted_split, epochs=3, device="cpu", out=tmp_path, progress=False)
    loaded = vc.load_model(tmp_path)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize("slug", [*LEARNS, "mult-vae", "mult-dae", "recvae"])
def test_each_phase_touches_only_its_own_parameters(planted_split, slug):
    model = build(slug, planted_split.n_items, **({"latent_dim": 5} if slug == "mult-dae" else SMALL)).train()
    batch = planted_split.train.rows(torch.arange(50))
    seen = set()
    for phase in model.phases():
        groups = phase.parameters if isinstance(phase.parameters[0], dict) else [{"params": phase.parameters}]
        own = {id(p) for group in groups for p in group["params"]}
        model.zero_grad()
        loss, _ = phase.loss(batch, 1.0)
        loss.backward()
        touched = {id(p) for p in model.parameters() if p.grad is not None}
        assert touched == own and not own & seen
        seen |= own
    assert seen == {id(p) for p in model.parameters() if p.requires_grad}


WITH_STEPS = [(slug, {}) for slug in SYSTEMS if "lr" in SYSTEMS[slug].options]


@pytest.mark.parametrize(
    ("slug", "options"),
    [
        *WITH_STEPS,
        ("recvae", {"alternating": False, "clean_decoder": False}),
        ("vae-bmf", {"updates": "sequential"}),
    ],
)
def test_every_phase_has_the_step_size_asked_for(slug, options):
    """Not PyTorch's, nor another phase's: critics have one of their own."""
    known = SYSTEMS[slug].options
    others = {"critic_lr": 0.0045, "fine_lr": 0.0006}
    asked = {"lr": 0.0123} | {name: size for name, size in others.items() if name in known} | options
    sizes = {name: 8 for name in {"latent_dim", "hidden"} & set(known)}
    model = build(slug, 6, **asked, **sizes)
    values = [1.0, 4.0, 5.0] if model.rates else None
    model.prepare(vc.data.Interactions.from_pairs([0, 1, 1], [0, 2, 5], values, shape=(3, 6)))
    phases = model.phases()
    own = dict.fromkeys(("T", "D", "critic"), 0.0045) | {"fine": 0.0006}
    assert phases and {p.name: p.lr for p in phases} == {p.name: own.get(p.name, 0.0123) for p in phases}


@pytest.mark.parametrize("slug", [*LEARNS, "mult-vae", "mult-dae", "recvae"])
def test_users_without_clicks_and_ratings_as_clicks(planted, planted_split, slug):
    small = {"latent_dim": 5} if slug == "mult-dae" else SMALL
    model = build(slug, planted_split.n_items, **small)
    empty = vc.data.Interactions.from_pairs([1], [0], shape=(3, planted_split.n_items))
    for phase in model.phases():
        loss, _ = phase.loss(empty.rows(torch.arange(3)), 0.5)
        assert torch.isfinite(loss)
    assert torch.isfinite(model.scores(empty.rows(torch.arange(3)))).all()
    if not SYSTEMS[slug].model.reads_values:
        return  # ratings are clicks to it
    ratings = vc.split_ratings(planted)
    exact = build(slug, ratings.n_items, likelihood="n_choose_k", **small)
    with pytest.raises(vc.ConfigError, match="model of clicks, not of ratings"):
        vc.fit(exact, ratings, epochs=1, device="cpu", progress=False)


@pytest.mark.parametrize("slug", ["sivae", "vaegan-avb", "awae", "recvae", "vae-vamp", "vae-iaf", "hvamp", "vasp"])
@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli", "n_choose_k"])
def test_any_likelihood_fits_any_system(planted_split, slug, likelihood):
    model = build(slug, planted_split.n_items, likelihood=likelihood, **SMALL)
    run = vc.fit(model, planted_split, epochs=1, device="cpu", progress=False)
    assert np.isfinite(run.curve("loss")).all()


@pytest.mark.parametrize("slug", ["sivae", "vaegan-avb-d-c", "awae", "vae-vamp", "vae-iaf", "hvamp", "vasp"])
def test_scores_do_not_depend_on_the_batch(planted_split, slug):
    """A user's scores are deterministic, whoever else is in the batch."""
    model = build(slug, planted_split.n_items, **SMALL).eval()
    with torch.no_grad():
        together = model.scores(planted_split.test.history.rows(torch.arange(20)))
        alone = model.scores(planted_split.test.history.rows(torch.tensor([7])))
    assert torch.allclose(together[7], alone[0], atol=1e-5)
