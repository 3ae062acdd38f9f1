"""RecVAE: losses against plain NumPy, phases, the prior's bounds, learning, saving, resuming."""

import copy
import itertools

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch, Interactions
from vaecf_lib.nn import weights_key

SMALL = {"latent_dim": 5, "hidden": 8}


def clicks(n_users=6, n_items=40, seed=0):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    x[2] = 0
    return x


def silu(a):
    return a / (1 + np.exp(-a))


def dense_encoder(w, row, prefix):
    """h_l = LN(swish(W h + sum of earlier h)), eps 0.1; input divided by its norm."""

    def norm(h, at):
        h = (h - h.mean()) / np.sqrt(h.var() + 0.1)
        return h * w[f"{prefix}norms.{at}.weight"] + w[f"{prefix}norms.{at}.bias"]

    length = np.sqrt((row**2).sum())
    first = (row / length if length else row) @ w[f"{prefix}input.weight"] + w[f"{prefix}input.bias"]
    h = [norm(silu(first), 0)]
    for at in range(4):
        a = w[f"{prefix}layers.{at}.weight"] @ h[-1] + w[f"{prefix}layers.{at}.bias"] + sum(h)
        h.append(norm(silu(a), at + 1))
    return [w[f"{prefix}{head}.weight"] @ h[-1] + w[f"{prefix}{head}.bias"] for head in ("mu", "logvar")]


def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi))


@pytest.mark.parametrize("mixture", ["per_dimension", "joint"])
def test_loss_equals_plain_numpy(mixture):
    torch.manual_seed(0)
    model = vc.models.RecVAE(40, gamma=0.05, dropout=0.0, mixture=mixture, **SMALL)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x = clicks()
    torch.manual_seed(7)
    loss, terms = model.encoder_loss(Batch.from_dense(x), 0.0)
    torch.manual_seed(7)
    noise = torch.randn(6, 5).double().numpy()
    w = {name: p.detach().double().numpy() for name, p in model.state_dict().items()}
    total = distortion = 0.0
    for row, eps in zip(x.double().numpy(), noise, strict=True):
        mu, logvar = dense_encoder(w, row, "encoder.")
        old_mu, old_logvar = dense_encoder(w, row, "old_encoder.")
        z = mu + np.exp(logvar / 2) * eps
        eta = w["decoder.output.weight"] @ z + w["decoder.output.bias"]
        miss = -(row @ eta - row.sum() * np.logaddexp.reduce(eta))
        parts = [(0.15, 0.0 * z, 0.0 * z), (0.75, old_mu, old_logvar), (0.1, 0.0 * z, 0.0 * z + 10)]
        logs = np.stack([log_normal(z, m, v) for _, m, v in parts])
        logs = logs.sum(1, keepdims=True) if mixture == "joint" else logs
        log_p = np.logaddexp.reduce(np.log([[c] for c, *_ in parts]) + logs).sum()
        kl = log_normal(z, mu, logvar).sum() - log_p
        distortion += miss / len(x)
        total += (miss + 0.05 * row.sum() * kl) / len(x)
    assert terms["distortion"].item() == pytest.approx(distortion, rel=1e-5)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_with_the_standard_normal_alone_the_kl_is_the_closed_form():
    torch.manual_seed(0)
    model = vc.models.RecVAE(40, alpha=1.0, dropout=0.0, **SMALL)
    mu, logvar = torch.randn(1, 5), torch.randn(1, 5)
    mu, logvar = mu.expand(100_000, 5), logvar.expand(100_000, 5)
    z = vc.maths.sample_gaussian(mu, logvar)
    kl = vc.maths.gaussian_log_prob(z, mu, logvar) - vc.maths.composite_prior_log_prob(z, mu, logvar, model.weights)
    expected = vc.maths.gaussian_kl(mu[0], logvar[0])
    assert abs(kl.mean() - expected) < 4 * kl.std() / 100_000**0.5


@pytest.mark.parametrize("mixture", ["per_dimension", "joint"])
def test_prior_integrates_to_one(mixture):
    axis = torch.linspace(-700, 700, 5601, dtype=torch.float64)
    one = vc.maths.composite_prior_log_prob(
        axis[:, None], torch.tensor([0.7]), torch.tensor([-1.0]), mixture=mixture
    ).exp()
    assert abs(torch.trapezoid(one, axis) - 1) < 2e-2
    fine = torch.linspace(-40, 40, 801, dtype=torch.float64)
    z = torch.cartesian_prod(fine, fine)
    two = vc.maths.composite_prior_log_prob(
        z, torch.tensor([0.7, -0.2]), torch.tensor([-1.0, 0.5]), wide_logvar=4.0, mixture=mixture
    ).exp()
    assert abs(two.sum() * (fine[1] - fine[0]) ** 2 - 1) < 1e-2


def test_kl_bounds_of_both_mixtures():
    """At phi = phi_old the joint KL is at most -log(3/4), the per-dimension one that times the dimensions."""
    torch.manual_seed(0)
    for scale in (0.1, 1.0, 3.0):
        mu, logvar = scale * torch.randn(20), torch.randn(20)
        mu, logvar = mu.expand(4000, 20), logvar.expand(4000, 20)
        z = vc.maths.sample_gaussian(mu, logvar)
        log_q = vc.maths.gaussian_log_prob(z, mu, logvar)
        joint = log_q - vc.maths.composite_prior_log_prob(z, mu, logvar, mixture="joint")
        split = log_q - vc.maths.composite_prior_log_prob(z, mu, logvar)
        assert joint.max() <= -np.log(0.75) + 1e-4
        assert split.max() <= -20 * np.log(0.75) + 1e-3 and split.mean() > joint.mean()


def test_each_phase_touches_only_its_own_parameters(planted_split):
    model = vc.models.RecVAE(planted_split.n_items, **SMALL)
    batch = planted_split.train.rows(torch.arange(50))
    encoder, decoder = model.phases()
    model.train()
    for phase, own in ((encoder, "encoder."), (decoder, "decoder.")):
        model.zero_grad()
        loss, _ = phase.loss(batch, 0.0)
        loss.backward()
        touched = {name for name, p in model.named_parameters() if p.grad is not None}
        assert touched == {name for name, _ in model.named_parameters() if name.startswith(own)}


def test_frozen_decoder_gives_the_encoder_the_full_gradient(planted_split):
    model = vc.models.RecVAE(planted_split.n_items, dropout=0.0, **SMALL)
    batch = planted_split.train.rows(torch.arange(50))
    gradients = []
    for frozen in (True, False):
        model.zero_grad()
        torch.manual_seed(0)
        model.elbo_loss(batch, 0.0, frozen_decoder=frozen)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.encoder.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_decoder_step_sees_the_whole_input(planted_split):
    batch = planted_split.train.rows(torch.arange(50))
    for clean in (True, False):
        model = vc.models.RecVAE(planted_split.n_items, clean_decoder=clean, dropout=0.9, **SMALL).train()
        seen = []
        model.encoder.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out[0]))
        for _ in range(2):
            model.decoder_loss(batch, 0.0)
        assert torch.equal(seen[0], seen[1]) == clean
        assert model.encoder.training


def test_the_prior_remembers_the_posterior_of_the_whole_input():
    """While the encoder is trained with dropout, q(z | phi_old, x) of the composite prior (Eq. 17) has all of x."""
    model = vc.models.RecVAE(40, dropout=0.9, **SMALL).train()
    seen = {"encoder": [], "old_encoder": []}
    for name, outputs in seen.items():
        getattr(model, name).register_forward_hook(lambda module, args, out, outputs=outputs: outputs.append(out[0]))
    for _ in range(2):
        model.train().encoder_loss(Batch.from_dense(clicks()), 0.0)
    assert torch.equal(*seen["old_encoder"]) and not torch.equal(*seen["encoder"])
    assert torch.equal(seen["old_encoder"][0], model.eval().old_encoder(Batch.from_dense(clicks()))[0])


def test_an_epoch_is_three_passes_of_the_encoder_and_one_of_the_decoder(planted_split, monkeypatch):
    """Algorithm 1 with the public code's M_enc = 3 and M_dec = 1, and the memory renewed in between."""
    done = []
    for name in ("encoder_loss", "decoder_loss", "update_prior"):
        original = getattr(vc.models.RecVAE, name)
        monkeypatch.setattr(
            vc.models.RecVAE, name, lambda *args, name=name, call=original: (done.append(name), call(*args))[1]
        )
    model = vc.models.RecVAE(planted_split.n_items, **SMALL)
    vc.fit(model, planted_split, epochs=2, batch_size=planted_split.train.n_users, device="cpu", progress=False)
    assert done == 2 * [*["encoder_loss"] * 3, "update_prior", "decoder_loss"]


def test_an_epoch_reads_the_whole_input_of_each_user_once(planted_split):
    """The old posterior of three encoder passes and the posterior of the decoder's are one pass, kept: 4 forwards, not 7."""
    model = vc.models.RecVAE(planted_split.n_items, **SMALL)
    users = {"encoder": 0, "old_encoder": 0}
    for name in users:

        def count(module, args, out, name=name):
            users[name] += module.training * len(out[0]) / planted_split.train.n_users

        getattr(model, name).register_forward_hook(count)
    vc.fit(model, planted_split, epochs=3, device="cpu", progress=False)
    assert users["encoder"] == pytest.approx(3 * 3)
    # One table before the first update, one after each renewal; and the batch that asks first, before it is made.
    assert users["old_encoder"] == pytest.approx(4 + 4 * 500 / planted_split.train.n_users, abs=1e-6)


def test_the_kept_posterior_is_the_old_encoders_own():
    """Whatever happens to its weights, and whichever matrix has users of the same numbers."""
    model = vc.models.RecVAE(40, **SMALL)
    one, other = (Interactions.from_pairs(*(clicks(seed=seed) != 0).nonzero().T, shape=(6, 40)) for seed in (0, 1))

    def plain(batch):
        with torch.no_grad():
            return model.old_encoder(batch, drop=False)

    def agree(batch):
        return all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(model.old_posterior(batch), plain(batch), strict=True)
        )

    some = torch.tensor([3, 1])
    for _ in range(2):
        assert agree(one.rows(some)) and agree(other.rows(some)) and agree(Batch.from_dense(clicks(seed=2)))
        model.update_prior()
    with torch.no_grad():
        model.old_encoder.mu.bias += 1
    assert agree(other.rows(some))
    model.old_posterior.max_bytes = 0
    model.update_prior()
    assert agree(one.rows(some)) and model.old_posterior.matrix is other


def test_a_step_of_the_optimiser_outdates_the_kept_posterior(planted_split):
    """Also in a loop of one's own, where the encoder goes on after it was remembered; fused Adam counts no writes."""
    model = vc.models.RecVAE(planted_split.n_items, **SMALL)
    trainer = vc.Trainer(model, planted_split, epochs=2, device="cpu")
    trainer.run_epoch()
    batch = planted_split.train.rows(torch.arange(50))
    assert model.remembered == weights_key(model.encoder)
    trainer.step(batch, 0)
    assert model.remembered != weights_key(model.encoder)


def test_a_posterior_of_lower_precision_is_not_kept_for_others(planted_split):
    model = vc.models.RecVAE(planted_split.n_items, **SMALL)
    batch = planted_split.train.rows(torch.arange(50))
    exact = model.old_encoder(batch, drop=False)[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.old_posterior(batch)[0]
    assert not torch.allclose(rough.float(), exact, atol=1e-6)
    assert torch.allclose(model.old_posterior(batch)[0], exact, atol=1e-6)


def test_a_copy_of_a_model_holds_no_users(planted_split):
    """What is saved or copied of a trained model has no histories, and no table as long as they are many."""
    model = vc.models.RecVAE(planted_split.n_items, **SMALL)
    model.old_posterior(planted_split.train.rows(torch.arange(5)))
    twin = copy.deepcopy(model)
    assert model.old_posterior.matrix is planted_split.train
    assert twin.old_posterior.matrix is None and twin.old_posterior.table is None
    assert twin.old_posterior.encoder is twin.old_encoder


def test_the_decoders_pass_reads_the_present_encoder(planted_split):
    """The kept posterior stands in only while the encoder is the one that was remembered."""
    model = vc.models.RecVAE(planted_split.n_items, **SMALL).train()
    batch = planted_split.train.rows(torch.arange(50))

    def loss():
        torch.manual_seed(0)
        return model.decoder_loss(batch, 0.0)[0].item()

    fresh = loss()
    model.update_prior()
    assert loss() == pytest.approx(fresh, rel=1e-6)
    with torch.no_grad():
        model.encoder.mu.bias += 1
    assert loss() != pytest.approx(fresh, rel=1e-3)


@pytest.mark.parametrize("alternating", [True, False])
def test_memory_is_refreshed_after_the_encoders_passes(planted_split, alternating):
    """phi_old <- phi of Algorithm 1, in the row of Table 2 without alternation too (the public code forgets it)."""
    model = vc.models.RecVAE(planted_split.n_items, alternating=alternating, clean_decoder=alternating, **SMALL)
    vc.fit(model, planted_split, epochs=1, device="cpu", progress=False)
    for new, old in zip(model.encoder.parameters(), model.old_encoder.parameters(), strict=True):
        assert torch.equal(new, old) and not old.requires_grad


def test_old_encoder_starts_random_or_as_a_copy():
    batch = Batch.from_dense(clicks())
    for start, same in (("random", False), ("copy", True)):
        model = vc.models.RecVAE(40, old_start=start, **SMALL).eval()
        assert torch.equal(model.encoder(batch)[0], model.old_encoder(batch)[0]) == same


def test_kl_weight_per_user_and_constant():
    batch = Batch.from_dense(clicks())
    per_user = vc.models.RecVAE(40, gamma=0.01, **SMALL).kl_weight(batch, 0.0)
    assert torch.allclose(per_user, 0.01 * batch.counts)
    assert vc.models.RecVAE(40, gamma=None, beta=0.4, anneal=0.5, **SMALL).kl_weight(batch, 0.25) == 0.2


def test_alpha_keeps_the_papers_weights():
    assert np.allclose(vc.models.RecVAE(40, **SMALL).weights, (3 / 20, 3 / 4, 1 / 10))
    for alpha in (0.0, 0.5, 1.0):
        assert np.isclose(sum(vc.models.RecVAE(40, alpha=alpha, **SMALL).weights), 1)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["multinomial", "n_choose_k"])
def test_learns_the_planted_world(planted_split, likelihood):
    model = vc.models.RecVAE(planted_split.n_items, latent_dim=32, hidden=100, likelihood=likelihood)
    vc.fit(model, planted_split, epochs=30, device="cpu", progress=False)
    assert vc.evaluate(model, planted_split.test)["ndcg@100"].mean > 0.39


@pytest.mark.slow
def test_every_feature_switches_off(planted_split):
    """The eleven rows of Table 2, and all other combinations that make sense."""
    switches = itertools.product(
        ("dense", "mult-vae"), (True, False), (0.005, None), ((True, True), (True, False), (False, False))
    )
    for architecture, prior, gamma, (alternating, clean) in switches:
        model = vc.models.RecVAE(
            planted_split.n_items, architecture=architecture, composite_prior=prior, gamma=gamma,
            alternating=alternating, clean_decoder=clean, **SMALL,
        )  # fmt: skip
        run = vc.fit(model, planted_split, epochs=1, device="cpu", progress=False)
        assert np.isfinite(run.curve("loss")).all()


def test_save_load_and_resume(planted_split, tmp_path):
    def new():
        return vc.models.RecVAE(planted_split.n_items, **SMALL)

    class Stops(vc.models.RecVAE):
        calls = 0

        def decoder_loss(self, batch, progress):
            Stops.calls += 1
            if Stops.calls == 8:  # in the second epoch
                raise KeyboardInterrupt
            return super().decoder_loss(batch, progress)

    unbroken = new()
    vc.fit(unbroken, planted_split, epochs=3, device="cpu", progress=False)
    with pytest.raises(KeyboardInterrupt):
        vc.fit(
            Stops(planted_split.n_items, **SMALL), planted_split, epochs=3, device="cpu", out=tmp_path, progress=False
        )
    resumed = new()
    vc.fit(resumed, planted_split, epochs=3, device="cpu", out=tmp_path, progress=False)
    loaded = vc.load_model(tmp_path)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name])


def test_bad_options_are_named():
    with pytest.raises(vc.ConfigError, match="mixture='both': choose one of per_dimension, joint"):
        vc.models.RecVAE(40, mixture="both")
    with pytest.raises(vc.ConfigError, match="clean_decoder needs alternating"):
        vc.models.RecVAE(40, alternating=False)
    with pytest.raises(ValueError, match="add up to 1"):
        vc.maths.composite_prior_log_prob(torch.zeros(2), torch.zeros(2), torch.zeros(2), (0.5, 0.5, 0.5))
