"""IRGAN and CFGAN: their losses against plain loops, the policy gradient against enumeration, masks, and who is served."""

from itertools import product

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.baselines import irgan
from vaecf_lib.data import Interactions
from vaecf_lib.systems import build

X = np.random.default_rng(0).random((6, 5)) < 0.5
X[2], X[:, 3] = 0, 0  # a user and an item without clicks
X[0], X[5] = [0, 1, 0, 0, 0], [1, 1, 0, 0, 1]
ORDER = [4, 2, 0, 5]
CLICKS = Interactions.from_pairs(*X.nonzero(), shape=X.shape)
SMALL = {"irgan": {"latent_dim": 3, "pretrain": 0}, "cfgan": {"hidden": 4, "critic_hidden": 3, "items_per_batch": 3}}


def made(slug, **options):
    """Return a system whose weights are far from their start."""
    torch.manual_seed(0)
    model = build(slug, X.shape[1], **(SMALL[slug] | options))
    model.prepare(CLICKS)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return model


def numbers(model):
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def loss_of(loss, batch):
    """Return a loss with the noise of seed 7, and start the same noise again."""
    torch.manual_seed(7)
    value = loss(batch, 0.0)[0].item()
    torch.manual_seed(7)
    return value


# --- IRGAN --------------------------------------------------------------------------------------------------------


def player(w, name, u, i):
    return w[f"{name}.users.weight"][u] @ w[f"{name}.items.weight"][i] + w[f"{name}.bias"][i]


def chances(w, u, tau=1.0):
    scores = np.array([player(w, "generator", u, i) for i in range(X.shape[1])]) / tau
    return np.exp(scores) / np.exp(scores).sum()


def test_irgan_ranks_by_its_generator():
    model = made("irgan")
    w, batch = numbers(model), CLICKS.rows(torch.tensor(ORDER))
    expected = [[player(w, "generator", u, i) for i in range(5)] for u in ORDER]
    assert np.allclose(model.scores(batch).detach(), expected, atol=1e-5)


def test_irgans_discriminator_learns_from_clicks_and_draws():
    """The logistic loss of each click and one item drawn for it, with half the squared weights that judge them; users' mean."""
    model = made("irgan", tau=0.5, penalty=0.3)
    w, batch = numbers(model), CLICKS.rows(torch.tensor(ORDER))
    found = loss_of(model.critic_loss, batch)
    rows, drawn = irgan.draw(torch.tensor(np.array([chances(w, u, 0.5) for u in ORDER])), batch)
    pairs = [(u, i, 1) for u in ORDER for i in np.flatnonzero(X[u])]
    pairs += [(ORDER[row], i, 0) for row, i in zip(rows.tolist(), drawn.tolist(), strict=True)]
    total = 0.0
    for u, i, label in pairs:
        d = sigmoid(player(w, "critic", u, i))
        total -= np.log(d if label else 1 - d)
        parts = (w["critic.users.weight"][u], w["critic.items.weight"][i], w["critic.bias"][i])
        total += 0.3 * 0.5 * sum((part**2).sum() for part in parts)
    assert found == pytest.approx(total / 4, rel=1e-5) and len(pairs) == 2 * X[ORDER].sum()


@pytest.mark.parametrize("mixing", [0.0, 0.2, 0.7])
def test_policy_gradient_is_that_of_the_expected_reward(mixing, monkeypatch):
    """Exactly: all pairs of draws, times their chance, give the gradient of sum_i p(i|u) r(u, i), whatever the mixture.

    The user has one click, and so two draws.
    """
    model = made("irgan", mixing=mixing)
    batch, weights = CLICKS.rows(torch.tensor([0])), list(model.generator.parameters())
    p = model.generator(batch.users).softmax(-1)
    reward = 2 * torch.sigmoid(model.critic(batch.users)).detach() - 1
    expected = torch.autograd.grad((p * reward).sum(), weights)
    p_n = (1 - mixing) * p[0].detach() + mixing * torch.tensor(X[0]).float()
    found = [torch.zeros_like(weight) for weight in weights]
    for i, j in product(range(5), repeat=2):
        drawn = torch.zeros(2, dtype=torch.int64), torch.tensor([i, j])
        monkeypatch.setattr(irgan, "draw", lambda p, batch, times, drawn=drawn: drawn)
        for sum_, gradient in zip(found, torch.autograd.grad(model.loss(batch, 0.0)[0], weights), strict=True):
            sum_ -= p_n[i] * p_n[j] * gradient
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6) and theirs.abs().max() > 1e-3


def test_importance_weights_make_any_mixture_unbiased():
    """E_{p_n}[p / p_n f] = E_p[f] for p_n = (1 - lambda) p + lambda / clicks; the users' draws come from p_n."""
    model = made("irgan", mixing=0.4)
    batch = CLICKS.rows(torch.tensor(ORDER))
    p = model.generator(batch.users).softmax(-1).detach()
    p_n = model.proposal(p, batch)
    for row, u in enumerate(ORDER):
        clicks = X[u].sum()
        plain = [0.6 * p[row, i] + 0.4 * X[u, i] / clicks if clicks else p[row, i] for i in range(5)]
        assert torch.allclose(p_n[row], torch.tensor(plain), atol=1e-6)
    many = CLICKS.rows(torch.tensor(ORDER * 4000))
    rows, drawn = irgan.draw(p_n.repeat(4000, 1), many, times=2)
    f = torch.randn(5, generator=torch.Generator().manual_seed(1))
    for row, u in enumerate(ORDER):
        mine = drawn[rows % 4 == row]
        assert len(mine) == 2 * 4000 * X[u].sum()
        if len(mine):
            shares = torch.bincount(mine, minlength=5) / len(mine)
            assert torch.allclose(shares, p_n[row], atol=0.03)
            assert (p[row] / p_n[row] * f)[mine].mean() == pytest.approx((p[row] * f).sum().item(), abs=0.05)


@pytest.mark.parametrize("level", [0.0, 0.999])
def test_draws_never_have_what_has_no_chance(level, monkeypatch):
    """At both ends of what may be drawn; another user's items are out of reach."""
    monkeypatch.setattr(torch, "rand", lambda size, **kind: torch.full(size, level, **kind))
    chances = torch.tensor([[0, 2, 0, 1, 0], [0, 0, 3, 0, 0]]).float()
    rows, drawn = irgan.draw(chances, CLICKS.rows(torch.tensor([4, 5])), times=2)
    assert len(rows) == 2 * X[[4, 5]].sum() and set(rows.tolist()) == {0, 1}
    assert (drawn == torch.tensor([1 if level == 0 else 3, 2])[rows]).all()


def test_draws_from_weights_that_have_run_off_are_items():
    """No index out of range, which on a GPU would end the process: the loss of what is drawn is nan, and says so."""
    _, drawn = irgan.draw(torch.full((2, 5), torch.nan), CLICKS.rows(torch.tensor([4, 5])), times=2)
    assert ((drawn >= 0) & (drawn < 5)).all()


def test_every_user_weighs_alike_in_irgans_gradient():
    """A heavy user is drawn for more often, and each draw counts less; who has no clicks adds nothing."""
    model = made("irgan", mixing=0.0)
    heavy = 5
    with torch.no_grad():
        model.critic.users.weight.zero_()
        model.critic.bias.fill_(1.0)  # every item has the same reward
    for users in ([0], [heavy], [0, heavy, heavy]):
        _, terms = model.loss(CLICKS.rows(torch.tensor(users)), 0.0)
        assert terms["reward"].item() == pytest.approx(2 * sigmoid(1.0) - 1, rel=1e-5)
    assert model.loss(CLICKS.rows(torch.tensor([2])), 0.0)[0] == 0 and X[heavy].sum() == 3


def test_irgans_generator_begins_at_the_clicks():
    """Fitted before the first epoch, and not if there are no passes of it; the discriminator begins at random."""
    likelihood = {}
    for passes in (0, 30):
        torch.manual_seed(0)
        model = build("irgan", 5, latent_dim=3, pretrain=passes)
        model.prepare(CLICKS)
        before = model.critic.users.weight.clone()
        model.start(CLICKS)
        batch = CLICKS.rows(torch.arange(6))
        likelihood[passes] = vc.maths.multinomial_log_prob(model.generator(batch.users), batch).mean().item()
        assert torch.equal(model.critic.users.weight, before)
    assert likelihood[30] > likelihood[0] + 0.3


def test_weights_that_run_off_end_irgans_training_in_one_line(weak):
    """Whatever draws refuse to draw from, nan above all, the loss says so."""
    model = build("irgan", weak.n_items, latent_dim=3, pretrain=0, lr=1e38, critic_lr=1e38)
    with pytest.raises(vc.TrainingError, match=r"Lower lr"):
        vc.fit(model, weak, epochs=3, device="cpu", progress=False)


# --- CFGAN --------------------------------------------------------------------------------------------------------


def table(rows):
    """Return the clicks by row."""
    return X.T if rows == "items" else X


def batch_of(rows):
    matrix = CLICKS.transposed() if rows == "items" else CLICKS
    return matrix.rows(torch.tensor([4, 2, 0, 3]))


def generated(w, c):
    hidden = sigmoid(c @ w["generator.input.weight"] + w["generator.input.bias"])
    return hidden @ w["generator.output.weight"].T + w["generator.output.bias"]


def judged(w, c, x):
    hidden = sigmoid(c @ w["critic.condition.weight"] + w["critic.condition.bias"] + x @ w["critic.data"])
    return (w["critic.output.weight"] @ hidden + w["critic.output.bias"])[0]


def negatives(c, share):
    """Return k of the next noise, entry by entry: of what was not clicked, what falls below the share."""
    noise = torch.rand(c.shape)
    k = np.zeros(c.shape)
    for row, j in product(*map(range, c.shape)):
        k[row, j] = not c[row, j] and noise[row, j] < share
    return k


@pytest.mark.parametrize("rows", ["items", "users"])
@pytest.mark.parametrize("scheme", ["zp", "zr", "pm"])
def test_cfgans_losses_and_masks_equal_plain_loops(rows, scheme):
    """D of the row beside the row against D of y * (e + k) beside it; G's -log sigma(D) and alpha y^2 on some zeros."""
    model = made("cfgan", rows=rows, scheme=scheme, zr_share=0.6, pm_share=0.3, alpha=0.2)
    w, batch = numbers(model), batch_of(rows)
    c = table(rows)[[4, 2, 0, 3]].astype(float)
    y = np.array([generated(w, row) for row in c])

    def shown():
        k = negatives(c, 0.3) if scheme in ("zp", "pm") else 0
        return y * (c + k)

    found = loss_of(model.critic_loss, batch)
    pairs = [(judged(w, row, row), judged(w, row, fake)) for row, fake in zip(c, shown(), strict=True)]
    assert found == pytest.approx(-np.mean([np.log(sigmoid(r)) + np.log(1 - sigmoid(f)) for r, f in pairs]), rel=1e-5)
    found = loss_of(model.loss, batch)
    fooled = -np.mean([np.log(sigmoid(judged(w, row, fake))) for row, fake in zip(c, shown(), strict=True)])
    zeros = 0.0 if scheme == "pm" else 0.2 * (y**2 * negatives(c, 0.6)).sum(1).mean()
    assert found == pytest.approx(fooled + zeros, rel=1e-5)


def test_cfgans_negatives_are_a_share_of_what_was_not_clicked():
    model, rows = made("cfgan"), CLICKS.transposed().rows(torch.tensor([0, 1, 2, 3, 4] * 2000))
    drawn = model.draw_negatives(rows, 0.7)
    assert not drawn[rows.rows, rows.items].any()
    assert (drawn.sum() / (rows.dense() == 0).sum()).item() == pytest.approx(0.7, abs=0.01)
    assert not model.draw_negatives(rows, 0.0).any() and (model.draw_negatives(rows, 1.0) != (rows.dense() > 0)).all()


@pytest.mark.parametrize("rows", ["items", "users"])
def test_cfgan_ranks_by_what_its_generator_makes_up(rows):
    """By items: the user's places in the items' rows."""
    model = made("cfgan", rows=rows)
    model.encode_items()
    w = numbers(model)
    y = np.array([generated(w, row) for row in table(rows).astype(float)])
    expected = (y.T if rows == "items" else y)[ORDER]
    assert np.allclose(model.scores(CLICKS.rows(torch.tensor(ORDER))).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("epochs", [0, 1])
def test_cfgans_codes_are_those_of_its_weights(weak, epochs):
    """What scores was encoded after the last update, not before it; without any, at the start."""
    model = build("cfgan", weak.n_items, hidden=8, critic_hidden=4, items_per_batch=250)
    vc.fit(model, weak, epochs=epochs, device="cpu", progress=False)
    kept = model.codes.clone()
    model.encode_items()
    assert torch.equal(model.codes, kept) and kept.std() > 0


def test_cfgan_by_items_knows_users_and_by_users_reads_histories(planted):
    """The one refuses strangers, in the strong protocol and when it serves; the other has its own list for each."""
    log = planted.select(planted.user < 300)
    strong = vc.split_strong(log)
    by_users = build("cfgan", strong.n_items, rows="users", hidden=8, critic_hidden=4)
    run = vc.fit(by_users, strong, epochs=1, device="cpu", progress=False)
    ours, theirs = (run.recommend(histories={"me": log.item_ids[items].tolist()}) for items in ([1, 2, 3], [4, 5, 6]))
    assert len(ours) == len(theirs) == 10 and ours["score"].tolist() != theirs["score"].tolist()
    rebuilt = build("cfgan", strong.n_items, **{k: v for k, v in by_users.config.items() if k != "n_items"})
    assert rebuilt.needs == "history" and build("cfgan", 5).needs == "user"


# --- both ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weak(planted):
    return vc.split_weak(planted.select(planted.user < 800), valid=0.1)


@pytest.mark.parametrize("slug", SMALL)
def test_the_strong_protocol_is_refused_in_one_line(planted_split, slug):
    with pytest.raises(vc.ConfigError, match=f"^{slug} scores only the users it was trained on.*the weak protocol"):
        vc.fit(build(slug, planted_split.n_items, **SMALL[slug]), planted_split, epochs=1, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("slug", "options"), [("irgan", {}), ("cfgan", {}), ("cfgan", {"rows": "users"}), ("cfgan", {"scheme": "pm"})]
)
def test_each_player_touches_its_own_weights_alone(slug, options):
    model = made(slug, **options)
    batch = batch_of("items") if slug == "cfgan" and model.by_items else CLICKS.rows(torch.tensor(ORDER))
    seen = set()
    for phase in model.phases():
        groups = phase.parameters if isinstance(phase.parameters[0], dict) else [{"params": phase.parameters}]
        own = {id(p) for group in groups for p in group["params"]}
        model.zero_grad()
        phase.loss(batch, 0.0)[0].backward()
        assert {id(p) for p in model.parameters() if p.grad is not None} == own and not own & seen
        seen |= own
    assert seen == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("slug", SMALL)
def test_passes_are_those_asked_for(slug):
    phases = {phase.name: phase for phase in made(slug, d_passes=3, g_passes=5).phases()}
    assert {name: phase.passes for name, phase in phases.items()} == {"D": 3, "G": 5}
    assert slug == "irgan" or phases["G"].sweep.per_batch == 3


def test_cfgans_penalties_are_of_each_players_matrices():
    model = made("cfgan", penalty=0.3, critic_penalty=0.2)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [group for phase in model.phases() for group in phase.parameters]
    decay = {names[p]: group.get("weight_decay", 0) for group in groups for p in group["params"]}
    weight = {"generator": 0.6, "critic": 0.4}
    assert decay == {n: 0 if n.endswith("bias") else weight[n.split(".")[0]] for n in names.values()}


# Test NDCG@100 after some epochs: the popular list has 0.338, one by chance about 0.1. What the games alone reach is less
# than what IRGAN's generator begins with.
LEARNS = {
    "irgan": ("irgan", {}, 5, 0.37),
    "irgan, the game alone": (
        "irgan",
        {"pretrain": 0, "tau": 1.0, "penalty": 0.01, "lr": 0.02, "critic_lr": 0.02},
        40,
        0.3,
    ),
    "cfgan": ("cfgan", {"lr": 2e-3, "critic_lr": 1e-3, "hidden": 100, "items_per_batch": 64}, 40, 0.34),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNS)
def test_learns_the_planted_world(weak, name):
    slug, options, epochs, enough = LEARNS[name]
    model = build(slug, weak.n_items, **options)
    run = vc.fit(model, weak, epochs=epochs, batch_size=100, device="cpu", progress=False, validate_every=5)
    assert vc.evaluate(model, weak.test, ("ndcg@100",))["ndcg@100"].mean > enough
    assert np.isfinite(run.curve("loss")).all()


@pytest.mark.slow
@pytest.mark.parametrize("slug", SMALL)
def test_save_load_and_resume(weak, slug, tmp_path, monkeypatch):
    """Stopped in the second epoch, between two updates of G, it goes on to the weights and scores of an unbroken run."""
    options = SMALL[slug] | {"irgan": {"pretrain": 2}, "cfgan": {"items_per_batch": 100}}[slug]

    def train(**keywords):
        model = build(slug, weak.n_items, **options)
        vc.fit(model, weak, epochs=3, device="cpu", progress=False, **keywords)
        return model

    unbroken = train()
    cls, calls = type(unbroken), []
    original = cls.loss

    def stops(self, batch, progress):
        calls.append(progress)
        if progress > 0.5:
            raise KeyboardInterrupt
        return original(self, batch, progress)

    monkeypatch.setattr(cls, "loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path)
    monkeypatch.setattr(cls, "loss", original)
    resumed, loaded = train(out=tmp_path), vc.load_model(tmp_path)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name]), name
    batch = weak.test.history.rows(torch.arange(20))
    with torch.no_grad():
        assert torch.equal(unbroken.scores(batch), loaded.scores(batch))
