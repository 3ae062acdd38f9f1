"""The output layer: its product, and the likelihoods behind it, against the plain versions."""

import math

import pytest
import torch
from torch.nn import functional

import vaecf_lib as vc
from vaecf_lib.data import Batch
from vaecf_lib.maths import LIKELIHOODS, counting
from vaecf_lib.nn import ItemLayer, output

N_ITEMS = 2 * output.ITEMS_AT_ONCE + 77


def case(dtype=torch.float64, n_rows=9, seed=0, values=False):
    """A layer, hidden vectors and clicks: nobody's, one item's, and more; the user before last has all but one."""
    generator = torch.Generator().manual_seed(seed)
    layer = ItemLayer(6, N_ITEMS).to(dtype)
    h = torch.randn(n_rows, 6, generator=generator).to(dtype).requires_grad_()
    x = (torch.rand(n_rows, N_ITEMS, generator=generator) < 0.03).to(dtype)
    x[0], x[1], x[-2] = 0, 0, 1
    x[1, 700] = 1
    x[-2, 3] = 0
    if values:
        x = x * torch.randint(1, 4, x.shape, generator=generator)
    return layer, h, Batch.from_dense(x), x


def gradients(value, *of):
    weights = torch.linspace(0.5, 2, len(value), dtype=value.dtype)  # rows that count unequally
    return torch.autograd.grad((value * weights).sum(), of)


@pytest.mark.parametrize("kept", [output.KEPT_BYTES, 4 * 8 * N_ITEMS], ids=["whole", "by rows"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_prob_is_that_of_the_plain_logits(likelihood, kept, monkeypatch):
    """In value and in the gradients of the layer and what is below it, at once or some rows at a time."""
    monkeypatch.setattr(output, "KEPT_BYTES", kept)
    layer, h, batch, x = case()
    value = layer.log_prob(h, batch, likelihood)
    plain = LIKELIHOODS[likelihood](functional.linear(h, layer.weight, layer.bias), x)
    torch.testing.assert_close(value, plain, rtol=1e-9, atol=1e-9)
    of = (h, layer.weight, layer.bias)
    for ours, theirs in zip(gradients(value, *of), gradients(plain, *of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("values", [False, True], ids=["clicks", "counts"])
def test_multinomial_and_its_gradients_are_those_of_torchs_own_softmax(values):
    """An independent plain version: autograd through log_softmax."""
    layer, h, batch, x = case(values=values)
    of = (h, layer.weight, layer.bias)
    plain = (functional.log_softmax(functional.linear(h, layer.weight, layer.bias), -1) * x).sum(-1)
    value = layer.log_prob(h, batch, "multinomial")
    torch.testing.assert_close(value, plain, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(value, *of), gradients(plain, *of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_bernoulli_and_its_gradients_are_those_of_torchs_own_cross_entropy():
    layer, h, batch, x = case()
    of = (h, layer.weight, layer.bias)
    logits = functional.linear(h, layer.weight, layer.bias)
    plain = -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    value = layer.log_prob(h, batch, "bernoulli")
    torch.testing.assert_close(value, plain, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(value, *of), gradients(plain, *of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_slices_of_the_rows_change_nothing(likelihood, monkeypatch):
    """The passes over a slice that fits the cache give what passes over all rows give."""
    layer, h, batch, _ = case()
    whole = layer.log_prob(h, batch, likelihood)
    monkeypatch.setattr(counting, "SLICE_BYTES", 3 * 8 * N_ITEMS)
    sliced = layer.log_prob(h, batch, likelihood)
    torch.testing.assert_close(sliced, whole, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(sliced, h, layer.weight), gradients(whole, h, layer.weight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_float32_is_good_enough_to_train_with(likelihood):
    layer, h, batch, _ = case()
    value = layer.log_prob(h, batch, likelihood)
    (exact,) = gradients(value, h)
    low, h32 = ItemLayer(6, N_ITEMS), h.detach().float().requires_grad_()
    low.load_state_dict(layer.state_dict())
    value32 = low.log_prob(h32, batch, likelihood)
    torch.testing.assert_close(value32.double(), value, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradients(value32, h32)[0].double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_frozen_layer_hands_gradients_on_and_takes_none(likelihood):
    layer, h, batch, _ = case()
    free, held = layer.log_prob(h, batch, likelihood), layer.log_prob(h, batch, likelihood, frozen=True)
    assert torch.equal(free, held)
    torch.testing.assert_close(gradients(held, h), gradients(free, h), rtol=1e-12, atol=1e-12)
    held = layer.log_prob(h, batch, likelihood, frozen=True)
    held.sum().backward()
    layer(h, frozen=True).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None


def test_logits_and_their_gradients_are_those_of_a_linear_layer():
    """Also of more than two dimensions, as of several draws of z."""
    layer, h, _, _ = case()
    several = torch.stack([h, 2 * h])
    ours, plain = layer(several), functional.linear(several, layer.weight, layer.bias)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(1))
    of = (h, layer.weight, layer.bias)
    found, expected = (torch.autograd.grad(logits, of, upstream, retain_graph=True) for logits in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_nobody_has_no_log_probability(likelihood):
    """A batch of no rows, as an empty matrix gives."""
    layer = ItemLayer(6, N_ITEMS)
    nobody = layer.log_prob(torch.zeros(0, 6), Batch.from_dense(torch.zeros(0, N_ITEMS)), likelihood)
    assert nobody.shape == (0,)


def test_counts_are_refused_where_only_clicks_make_sense():
    layer, h, batch, _ = case(values=True)
    with pytest.raises(ValueError, match="must be 0 or 1"):
        layer.log_prob(h, batch, "n_choose_k")


def test_training_of_a_large_catalogue_gives_the_same_model(planted_split, monkeypatch):
    """Where logits are computed by rows and twice, a training ends with the same losses."""
    fit = dict(epochs=1, seed=3, device="cpu", progress=False)
    whole = vc.fit(vc.build("mult-vae", planted_split.n_items, hidden=8, latent_dim=4), planted_split, **fit)
    monkeypatch.setattr(output, "KEPT_BYTES", 70 * 4 * planted_split.n_items)
    parts = vc.fit(vc.build("mult-vae", planted_split.n_items, hidden=8, latent_dim=4), planted_split, **fit)
    assert parts.history[0]["loss"] == pytest.approx(whole.history[0]["loss"], rel=1e-5)


def test_sampling_with_all_items_in_turn_is_exact(monkeypatch):
    """The estimate with every item drawn once, equally likely, is the log-probability itself, gradients included."""
    layer, h, batch, _ = case()
    monkeypatch.setattr(torch, "multinomial", lambda chances, n, replacement: torch.arange(n).flip(0))
    estimate = layer.sampled_log_prob(h, batch, torch.ones(N_ITEMS, dtype=torch.float64), N_ITEMS)
    exact = layer.log_prob(h, batch, "multinomial")
    torch.testing.assert_close(estimate, exact, rtol=1e-9, atol=1e-9)
    of = (h, layer.weight, layer.bias)
    for ours, theirs in zip(gradients(estimate, *of), gradients(exact, *of), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_sampled_normaliser_is_right_on_average():
    """With unequal chances and repeats: the mean of the estimated normaliser, not of its log, is the normaliser."""
    layer, h, batch, x = case(values=True)
    chances = torch.linspace(1, 5, N_ITEMS, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        exact = layer.log_prob(h, batch, "multinomial")
        estimates = torch.stack([layer.sampled_log_prob(h, batch, chances, 40) for _ in range(3000)])
        times = x.sum(1)
        some = times > 0
        ratio = ((exact - estimates)[:, some] / times[some]).exp()  # estimated / true normaliser
    error = ratio.std(0) / len(ratio) ** 0.5
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all() and (error > 1e-6).all()
    log_is_low = (estimates.mean(0) - exact)[some] / (estimates.std(0) / len(estimates) ** 0.5)[some]
    assert log_is_low.mean() > 2, "of its log the estimate is too small on average"


def test_sampling_draws_in_training_only_and_by_popularity(planted_split):
    model = vc.build("mult-vae", planted_split.n_items, hidden=8, latent_dim=4, n_sampled=64, dropout=0.0, beta=0.0)
    run = vc.fit(model, planted_split, epochs=1, device="cpu", progress=False)
    assert torch.equal(model.likelihood.chances, planted_split.train.item_counts + 1.0)
    batch, z = planted_split.train.rows(torch.arange(20)), torch.zeros(20, 4)
    exact = model.likelihood.log_prob(model.decode(z), batch)
    torch.testing.assert_close(model.log_prob(z, batch), exact)
    assert not torch.allclose(model.train().log_prob(z, batch), exact, rtol=1e-4)
    assert run.history[0]["loss"] > 0


def test_sampling_is_for_the_multinomial():
    with pytest.raises(vc.ConfigError, match="n_sampled=5 is for likelihood='multinomial'"):
        vc.build("recvae", 40, likelihood="n_choose_k", n_sampled=5)
    with pytest.raises(vc.ConfigError, match="n_sampled=5 is for likelihood='multinomial'"):
        vc.build("mult-vae", 40, likelihood="gaussian", n_sampled=5)


@pytest.mark.slow
def test_sampling_learns_the_planted_world(planted_split):
    """As many draws as there are items give nearly the ranking that all items give; fewer are biased."""
    found = {}
    for n_sampled in (None, planted_split.n_items):
        model = vc.build("mult-vae", planted_split.n_items, n_sampled=n_sampled)
        vc.fit(model, planted_split, epochs=15, seed=0, device="cpu", progress=False)
        found[n_sampled] = vc.evaluate(model, planted_split.test, ("ndcg@100",))["ndcg@100"].mean
    exact, sampled = found.values()
    assert sampled > exact - 0.02


def in_bf16(layer, h, batch, likelihood, **options):
    with torch.autocast("cpu", torch.bfloat16):
        return layer.log_prob(h, batch, likelihood, **options)


@pytest.mark.parametrize("kept", [output.KEPT_BYTES, 4 * 2 * N_ITEMS], ids=["whole", "by rows"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_bf16_is_float32_within_its_digits(likelihood, kept, monkeypatch):
    """Under autocast value and gradients are those of float32 weights to 8 bits, and are float32 themselves."""
    monkeypatch.setattr(output, "KEPT_BYTES", kept)
    layer, h, batch, _ = case(torch.float32)
    of = (h, layer.weight, layer.bias)
    exact, value = layer.log_prob(h, batch, likelihood), in_bf16(layer, h, batch, likelihood)
    torch.testing.assert_close(value, exact, rtol=2e-3, atol=1e-2)
    for ours, theirs in zip(gradients(value, *of), gradients(exact, *of), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_in_bf16_the_normaliser_is_as_exact_as_in_float32():
    """Its sum over items is not rounded to 8 bits: with logits that bfloat16 has exactly, the value is float32's."""
    layer, h, batch, _ = case(torch.float32)
    with torch.no_grad():
        h.copy_(h.round()), layer.weight.copy_((layer.weight * 4).round() / 4)
    torch.testing.assert_close(
        in_bf16(layer, h, batch, "multinomial"), layer.log_prob(h, batch, "multinomial"), rtol=1e-5, atol=1e-3
    )


def test_in_bf16_half_the_bytes_are_kept():
    """Of the batch's arrays by items the backward pass finds one, of two bytes a number."""
    layer, h, batch, _ = case(torch.float32)
    kept = [
        tensor
        for tensor in in_bf16(layer, h, batch, "multinomial").grad_fn.saved_tensors
        if tensor.numel() == len(h) * N_ITEMS
    ]
    assert [tensor.dtype for tensor in kept] == [torch.bfloat16]


def test_rare_items_are_drawn_beside_very_popular_ones():
    """A running sum in float32 stops growing by ones at 2^24: rare items would never be pushed down."""
    layer = ItemLayer(2, 2**18)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    chances = torch.ones(2**18)
    chances[0] = 2.0**25
    x = torch.zeros(1, 2**18)
    x[0, 0] = 1
    torch.manual_seed(0)
    estimate = layer.sampled_log_prob(torch.zeros(1, 2), x, chances, 100_000)
    assert float(estimate.detach()) == pytest.approx(-math.log(2**18), abs=0.2)


@pytest.mark.parametrize("shape", [(1, N_ITEMS), (9, 15), (2, N_ITEMS), (9, N_ITEMS + 1)])
def test_clicks_of_others_are_refused(shape):
    layer, h, _, _ = case()
    clicks = Batch.from_dense(torch.ones(shape))
    for x in (clicks, clicks.dense()):
        with pytest.raises(ValueError, match="do not fit 9 users"):
            layer.log_prob(h, x, "multinomial")
        with pytest.raises(ValueError, match="do not fit 9 users"):
            layer.sampled_log_prob(h, x, torch.ones(N_ITEMS), 10)


def test_nobody_has_no_scores(planted_split):
    model = vc.build("mult-vae", planted_split.n_items, hidden=8, latent_dim=4).eval()
    nobody = planted_split.train.rows(torch.zeros(0, dtype=torch.int64))
    assert model.scores(nobody).shape == (0, planted_split.n_items)


def test_more_items_than_torch_can_draw_from_are_named(monkeypatch):
    monkeypatch.setattr("vaecf_lib.models.likelihood.MOST_DRAWN_FROM", 30)
    with pytest.raises(vc.ConfigError, match="at most 30 items"):
        vc.build("mult-vae", 40, n_sampled=5)
