"""WARP, LambdaNet and RaCT: losses against plain loops over pairs, the critic's target, and who learns when."""

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch.utils._python_dispatch import TorchDispatchMode

import vaecf_lib as vc
from vaecf_lib.baselines import lambdanet, warp
from vaecf_lib.baselines.lambdanet import lambdarank
from vaecf_lib.baselines.warp import listwise_warp
from vaecf_lib.checkpoints import load_tensors
from vaecf_lib.data import Batch

SMALL = {"latent_dim": 5, "hidden": 8}
OPTIONS = {"device": "cpu", "progress": False, "batch_size": 400}


def clicks(n_users=6, n_items=40, seed=0):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    x[2], x[3] = 0, 1  # nobody's list, and one of everything
    return x


X = clicks()
S = torch.randn(X.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rough(slug, **options):
    """Return a system whose weights are far from their start, and whose biases show."""
    torch.manual_seed(0)
    model = vc.build(slug, 40, **({"latent_dim": 5} if slug == "warp" else SMALL) | options)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.train()


def numbers(model):
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def unit(rows):
    length = np.sqrt((rows**2).sum(-1, keepdims=True))
    return rows / np.where(length > 0, length, 1)


def kept(batch, dropout):
    """Return the mask that dropout draws next, (users, items): 0 or 1 / (1 - dropout)."""
    mask = torch.zeros(len(batch), batch.n_items)
    mask[batch.rows, batch.items] = torch.nn.functional.dropout(torch.ones(len(batch.items)), dropout)
    return mask.double().numpy()


def places(s):
    """Return each item's place in the list of scores s, from 1; no two are alike."""
    return np.array([1 + sum(other > one for other in s) for one in s])


def value_and_gradient(loss, scores, *arguments):
    scores = scores.clone().requires_grad_()
    values = loss(scores, Batch.from_dense(X), *arguments)
    values.sum().backward()
    return values.detach().numpy(), scores.grad.numpy()


# --- WARP ----------------------------------------------------------------------------------------------------------


def harmonic(n):
    return sum(1 / k for k in range(1, n + 1))


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_listwise_warp_is_the_sum_over_all_pairs(margin):
    """L(r_i) (margin + s_j - s_i)_+ pair by pair; r_i counts all items down to i, the own ones lowered by the margin."""
    values, gradients = value_and_gradient(listwise_warp, S, margin)
    for user, (x, s) in enumerate(zip(X.numpy(), S.numpy(), strict=True)):
        rank = places(s - margin * x)
        value, gradient = 0.0, np.zeros(40)
        for i in np.flatnonzero(x):
            for j in np.flatnonzero(1 - x):
                if margin + s[j] > s[i]:
                    value += harmonic(rank[i]) * (margin + s[j] - s[i])
                    gradient[i] -= harmonic(rank[i])
                    gradient[j] += harmonic(rank[i])
        assert values[user] == pytest.approx(value, abs=1e-9)
        assert gradients[user] == pytest.approx(gradient, abs=1e-9)
    assert values[2] == values[3] == 0 and (values[[0, 1, 4, 5]] > 0).all()


def test_without_a_margin_equal_scores_cost_nothing_and_a_right_order_neither():
    """So the scores shrink; with a margin they may not."""
    batch, right = Batch.from_dense(X), S.sigmoid() + X
    assert listwise_warp(right, batch).abs().max() < 1e-9 < listwise_warp(right, batch, 1.5).max()
    assert listwise_warp(torch.full_like(S, 3.0), batch).abs().max() < 1e-9


@pytest.mark.parametrize("at_once", [2**22, 50])
def test_sampled_warp_is_that_of_the_first_item_within_the_margin(monkeypatch, at_once):
    """Weston et al. 2011: L(floor(items / draws)) (margin + s_j - s_i) for the first j drawn that comes so near."""
    monkeypatch.setattr(warp, "DRAWN_AT_ONCE", at_once)
    model, batch = vc.build("warp", 40, form="sampled", tries=5, margin=0.2), Batch.from_dense(X)
    torch.manual_seed(3)
    values = model.sampled(S, batch, model.margin).numpy()
    torch.manual_seed(3)
    steps = torch.arange(len(batch.items)).split(max(1, at_once // 5))
    drawn = torch.cat([torch.randint(40, (len(some), 5)) for some in steps]).numpy()
    expected, outcomes = np.zeros(6), set()
    for row, i, items in zip(batch.rows.tolist(), batch.items.tolist(), drawn, strict=True):
        s = S[row].numpy()
        for n, j in enumerate(items, 1):
            if X[row, j] == 0 and s[j] > s[i] - 0.2:
                expected[row] += harmonic(40 // n) * (0.2 + s[j] - s[i])
                outcomes.add(n)
                break
        else:
            outcomes.add(None)
    assert values == pytest.approx(expected, abs=1e-9) and outcomes == {1, 2, 3, 4, 5, None}


def test_the_margin_is_that_of_its_form():
    margins = {form: vc.build("warp", 40, form=form).margin for form in ("listwise", "sampled")}
    assert margins == {"listwise": 0, "sampled": 1} and vc.build("warp", 40, margin=0.3).margin == 0.3


@pytest.mark.parametrize("form", ["listwise", "sampled"])
def test_warp_is_a_linear_autoencoder(form):
    """Scores and loss in NumPy, x divided by its norm and partly dropped; lambda ||W||^2 as Adam's decay of 2 lambda."""
    model, batch = rough("warp", form=form, dropout=0.4, penalty=0.3, margin=0.5), Batch.from_dense(X)
    w, x = numbers(model), X.double().numpy()

    def scores(mask):
        code = (mask * unit(x)) @ w["input.weight"] + w["input.bias"]
        return torch.from_numpy(code @ w["output.weight"].T + w["output.bias"])

    torch.manual_seed(7)
    loss, _ = model.loss(batch, 0.0)
    torch.manual_seed(7)
    dropped = scores(kept(batch, 0.4))
    of = listwise_warp if form == "listwise" else model.sampled
    assert loss.item() == pytest.approx(of(dropped, batch, 0.5).mean().item(), rel=1e-4) and loss.item() > 0
    with torch.no_grad():
        assert model.eval().scores(batch).numpy() == pytest.approx(scores(1).numpy(), abs=1e-5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {names[p]: g.get("weight_decay", 0) for g in model.phases()[0].parameters for p in g["params"]}
    assert decay == {"input.weight": 0.6, "output.weight": 0.6, "input.bias": 0, "output.bias": 0}


# --- LambdaRank ----------------------------------------------------------------------------------------------------


def exchanges(x, s):
    """Return |change of NDCG| if the items i and j of a list are exchanged, (own, others), from the definition."""
    own, others = np.flatnonzero(x), np.flatnonzero(1 - x)
    ideal = (1 / np.log2(np.arange(2, len(own) + 2))).sum()
    rank = places(s)

    def ndcg(rank):
        return (1 / np.log2(rank[own] + 1)).sum() / ideal

    changes = np.zeros((len(own), len(others)))
    for a, i in enumerate(own):
        for b, j in enumerate(others):
            exchanged = rank.copy()
            exchanged[[i, j]] = exchanged[[j, i]]
            changes[a, b] = abs(ndcg(exchanged) - ndcg(rank))
    return changes


def cost(x, s, changes):
    """Return the cost whose gradient LambdaRank is, pair by pair, for given weights."""
    own, others = s[x > 0], s[x == 0]
    return (changes * np.log1p(np.exp(others - own[:, None]))).sum()


@pytest.mark.parametrize("at_once", [2**19, 1])
def test_lambdas_are_finite_differences_of_the_weighted_cost(monkeypatch, at_once):
    """The weights, changes of NDCG, held; all items of a user at once or one by one."""
    monkeypatch.setattr(lambdanet, "PAIRS_AT_ONCE", at_once)
    values, gradients = value_and_gradient(lambdarank, S)
    for user, (x, s) in enumerate(zip(X.numpy(), S.numpy(), strict=True)):
        changes = exchanges(x, s) if x.any() else np.zeros((0, 40))
        assert values[user] == pytest.approx(cost(x, s, changes), abs=1e-9)
        steps = 1e-5 * np.eye(40)
        slopes = [(cost(x, s + step, changes) - cost(x, s - step, changes)) / 2e-5 for step in steps]
        assert gradients[user] == pytest.approx(np.array(slopes), abs=1e-6)
    assert values[2] == values[3] == 0 and (values[[0, 1, 4, 5]] > 0).all()


def test_lambdanet_is_mult_vaes_network_with_that_cost_and_the_kl_term():
    model, batch = rough("lambdanet", dropout=0.4, beta=0.6, anneal=0.5), Batch.from_dense(X)
    w, x = numbers(model), X.double().numpy()

    def encode(mask):
        hidden = np.tanh((mask * unit(x)) @ w["encoder.input.weight"] + w["encoder.input.bias"])
        return np.split(hidden @ w["encoder.posterior.weight"].T + w["encoder.posterior.bias"], 2, axis=1)

    def decode(z):
        hidden = np.tanh(z @ w["decoder.hidden.weight"].T + w["decoder.hidden.bias"])
        return hidden @ w["decoder.output.weight"].T + w["decoder.output.bias"]

    torch.manual_seed(7)
    loss, terms = model.loss(batch, 0.25)
    torch.manual_seed(7)
    mu, logvar = encode(kept(batch, 0.4))
    scores = decode(mu + np.exp(logvar / 2) * torch.randn(6, 5).double().numpy())
    expected = [cost(u, s, exchanges(u, s)) for u, s in zip(x, scores, strict=True) if u.any()]
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum() / 6
    assert loss.item() == pytest.approx(sum(expected) / 6 + 0.3 * kl, rel=1e-4)
    assert terms["beta"] == pytest.approx(0.3)
    with torch.no_grad():
        assert model.eval().scores(batch).numpy() == pytest.approx(decode(encode(1)[0]), abs=1e-5)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operator makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return result


@pytest.mark.parametrize("loss", [listwise_warp, lambdarank])
def test_pairs_of_items_are_never_all_there_at_once(monkeypatch, loss):
    """Of 3 users with 500 of 2,000 items each: no array larger than a slice, or than the scores."""
    monkeypatch.setattr(lambdanet, "PAIRS_AT_ONCE", 10_000)
    batch = Batch.from_dense((torch.rand(3, 2000) < 0.25).float())
    scores = torch.randn(3, 2000, requires_grad=True)
    with Largest() as largest:
        loss(scores, batch).sum().backward()
    assert 6000 <= largest.elements <= 10_000


# --- RaCT: the critic ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [5, 100])
def test_the_critics_target_is_the_ndcg_of_what_is_hidden(cutoff):
    """By scikit-learn, over the items that were not seen."""
    model, batch = vc.build("ract", 40, cutoff=cutoff, **SMALL), Batch.from_dense(X)
    seen = torch.rand(len(batch.items), generator=torch.Generator().manual_seed(2)) < 0.5
    found = model.target(S.float(), batch, seen)
    for user in (0, 1, 4, 5):
        mine = batch.rows == user
        hidden = np.zeros(40)
        hidden[batch.items[mine & ~seen]] = 1
        rest = np.setdiff1d(np.arange(40), batch.items[mine & seen])
        assert 0 < hidden.sum() < mine.sum()
        expected = ndcg_score(hidden[None, rest], S[user, rest][None], k=cutoff)
        assert found[user].item() == pytest.approx(expected, abs=1e-6)
    assert found[2] == 0


def test_a_perfect_list_of_nine_has_one_or_a_third():
    """Its NDCG is 1; rows of unit length as targets, as RecBole has them, make it 0.333."""
    x = torch.zeros(1, 40)
    x[0, 3:12] = 1
    for target, expected in (("ndcg", 1.0), ("ndcg_of_unit_rows", 1 / 3)):
        model = vc.build("ract", 40, target=target, **SMALL)
        found = model.target(x, Batch.from_dense(x), torch.zeros(9, dtype=torch.bool))
        assert found.item() == pytest.approx(expected)


def test_the_actor_is_mult_vae_and_the_critic_judges_the_very_same_lists():
    """Same weights, same noise: Mult-VAE's loss; and the likelihood that the critic reads is that loss's."""
    model, batch = rough("ract", beta=0.6, anneal=0.5), Batch.from_dense(X)
    twin = vc.build("mult-vae", 40, beta=0.6, anneal=0.5, **SMALL)
    twin.load_state_dict({name: value for name, value in model.state_dict().items() if "critic" not in name})
    noisy = []
    for loss, progress in ((twin.loss, 0.25), (model.actor_loss, 0.25 * 0.4), (model.fine_loss, 0.0)):
        torch.manual_seed(7)
        noisy.append(loss(batch, progress))
    (whole, theirs), (ours, _), (_, fine) = noisy
    assert torch.equal(whole, ours) and theirs["beta"] == pytest.approx(0.3)
    assert fine["distortion"].item() == pytest.approx(theirs["distortion"].item(), rel=1e-6)
    assert torch.equal(model.eval().scores(batch), twin.eval().scores(batch))


def test_the_critic_is_a_network_of_three_numbers():
    """Clicks seen, clicks hidden and -log p(x|z), on one scale; squared error, of users of whom something is hidden."""
    model, batch = rough("ract", dropout=0.4), Batch.from_dense(X)
    model.critic.mean.copy_(torch.tensor([8.0, 5.0, 60.0]))
    model.critic.std.copy_(torch.tensor([2.0, 1.5, 20.0]))
    model.critic.output.bias.data.fill_(4.0)
    torch.manual_seed(7)
    error, _ = model.critic_loss(batch, 0.0)
    torch.manual_seed(7)
    fine, _ = model.fine_loss(batch, 0.0)
    torch.manual_seed(7)
    with torch.no_grad():
        z, seen = model.act(batch)
        logits = model.decoder(z)
        target = model.target(logits, batch, seen).double().numpy()
        nll = -vc.maths.multinomial_log_prob(logits, X).double().numpy()
    torch.manual_seed(7)
    mask = kept(batch, 0.4) > 0
    features = np.stack([mask.sum(1), X.sum(1).numpy() - mask.sum(1), nll], 1)
    w, h = numbers(model), (features - [8, 5, 60]) / [2, 1.5, 20]
    for layer in ("hidden.0", "hidden.2", "hidden.4"):
        h = np.maximum(h @ w[f"critic.{layer}.weight"].T + w[f"critic.{layer}.bias"], 0)
    guess = 1 / (1 + np.exp(-(h @ w["critic.output.weight"].T + w["critic.output.bias"])[:, 0]))
    judged = features[:, 1] > 0
    assert judged.tolist() == [True, True, False, True, True, True] and np.ptp(guess) > 1e-3 and guess[2] > 0.1
    assert error.item() == pytest.approx((judged * (guess - target) ** 2).mean(), rel=1e-4)
    assert fine.item() == pytest.approx(-(judged * guess).mean(), rel=1e-5)


@pytest.mark.parametrize("epochs", [0, 1])
def test_the_critics_inputs_are_scaled_by_those_of_the_training_users(planted_split, epochs):
    """Before the first update, and after the actor's stage: mean 0 and deviation 1, over other draws of the noise."""
    model = vc.build("ract", planted_split.n_items, latent_dim=5, hidden=8, lr=0.1)
    vc.Trainer(model, planted_split, epochs=1, batch_size=100, device="cpu")
    if epochs:
        vc.fit(model, planted_split, epochs=1, batch_size=100, device="cpu", progress=False)
    batch = planted_split.train.rows(torch.arange(1500))
    with torch.no_grad():
        z, seen = model.train().act(batch)
        features = (model.features(batch, seen, model.log_prob(z, batch)) - model.critic.mean) / model.critic.std
    assert features.mean(0).abs().max() < 0.1 and (features.std(0) - 1).abs().max() < 0.2


def test_each_phase_teaches_its_own_player():
    """The actor's weights or the critic's, all of them, and no gradient for the other's."""
    model, batch = rough("ract"), Batch.from_dense(X)
    actor = {id(p) for part in (model.encoder, model.decoder) for p in part.parameters()}
    critic = {id(p) for p in model.critic.parameters()}
    for phase, owned in zip(model.phases(), (actor, critic, actor), strict=True):
        model.zero_grad()
        phase.loss(batch, 0.5)[0].backward()
        assert {id(p) for p in model.parameters() if p.grad is not None} == owned, phase.name
        groups = phase.parameters if isinstance(phase.parameters[0], dict) else [{"params": phase.parameters}]
        assert {id(p) for group in groups for p in group["params"]} == owned
        assert all(p.requires_grad for p in model.parameters())


def test_fine_tuning_climbs_the_critics_guess():
    """A critic that guesses more the more likely the clicks are makes them so; the other two inputs cannot change."""
    model, batch = rough("ract", fine_lr=0.003), Batch.from_dense(X)
    for layer in (*model.critic.hidden[::2], model.critic.output):
        torch.nn.init.constant_(layer.weight, 1 / layer.in_features)
        torch.nn.init.zeros_(layer.bias)
    model.critic.hidden[0].weight.data.copy_(torch.tensor([0.0, 0.0, -1.0]))
    model.critic.mean[2], model.critic.std[2] = 200.0, 50.0
    *_, fine = model.phases()
    optimiser, terms = torch.optim.Adam(fine.parameters, lr=fine.lr), []
    for _ in range(20):
        torch.manual_seed(7)
        loss, found = model.fine_loss(batch, 0.0)
        terms.append([value.item() for value in found.values()])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    (guess, distortion), (higher, lower) = terms[0], terms[-1]
    assert higher > guess + 0.005 and lower < distortion - 0.5


# --- RaCT: three stages --------------------------------------------------------------------------------------------

# The actor is at its best before its stage ends, and fine-tuning spoils it: no other epoch is kept by chance.
SPOILT = {**SMALL, "beta": 30.0, "anneal": 1.0, "lr": 0.15, "critic_lr": 0.01, "fine_lr": 3.0}


def staged(split, out=None, epochs=8, **options):
    model = vc.build("ract", split.n_items, **SPOILT)
    return model, vc.fit(model, split, epochs=epochs, out=out, **OPTIONS, **options)


@pytest.fixture(scope="module")
def unbroken(planted_split):
    return staged(planted_split)


def test_who_learns_in_which_epoch(unbroken):
    """100, 50 and 50 epochs of 200: here four, two and two of eight; the KL weight rises over the first four."""
    _, run = unbroken
    learners = [tuple(name.split("/")[0] for name in row if name.endswith("/loss")) for row in run.history]
    assert learners == [("actor",)] * 4 + [("critic",)] * 2 + [("critic", "fine")] * 2
    assert [round(row["actor/beta"] / 30 * 8) for row in run.history[:4]] == [1, 3, 5, 7]
    short = {n: vc.Trainer(vc.build("ract", 40, **SMALL), of_forty(), epochs=n, device="cpu") for n in (1, 2, 3, 4)}
    counts = {n: [b - a for a, b in map(trainer._span, trainer.phases)] for n, trainer in short.items()}
    assert counts == {1: [1, 0, 0], 2: [1, 1, 0], 3: [2, 1, 0], 4: [2, 2, 1]}


def of_forty():
    x = Batch.from_dense(X)
    train = vc.data.Interactions.from_pairs(x.rows, x.items, shape=X.shape)
    return vc.data.Split("weak", train, None, None, np.arange(40))


def test_the_critic_judges_the_best_actor_and_the_kept_epoch_is_fine_tuned(unbroken, planted_split):
    """Not the actor's last epoch, nor one of its own: an actor that was never fine-tuned is Mult-VAE."""
    model, run = unbroken
    curve = run.curve("ndcg@100")
    assert max(curve[:4]) > curve[3], "else the last actor would do"
    assert curve[4] == curve[5] == max(curve[:4]) > max(curve[6:])
    assert run.best_epoch == 7 + curve[6:].index(max(curve[6:]))
    assert vc.evaluate(model, planted_split.valid, ("ndcg@100",))["ndcg@100"].mean == pytest.approx(max(curve[6:]))


@pytest.mark.parametrize("stops", [(2,), (4,), (5,), (6, 7)], ids=str)
def test_a_run_that_goes_on_in_any_stage_ends_alike(unbroken, planted_split, tmp_path, stops):
    model, run = unbroken
    for stop in stops:
        staged(planted_split, tmp_path, stop_after=stop)
    again, resumed = staged(planted_split, tmp_path)
    assert resumed.best_epoch == run.best_epoch and resumed.curve("loss") == run.curve("loss")
    loaded = vc.load_model(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name]), name


def test_a_run_killed_between_its_stages_goes_on_from_the_best_actor(unbroken, planted_split, tmp_path, monkeypatch):
    """The checkpoint after the actor's last epoch holds the best one's weights."""
    original = vc.baselines.RaCT.critic_loss

    def stops(self, batch, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(vc.baselines.RaCT, "critic_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        staged(planted_split, tmp_path)
    tensors, note = load_tensors(tmp_path / "checkpoint.safetensors")
    best, _ = load_tensors(tmp_path / "best.safetensors")
    assert note["epoch"] == 4 and note["best_epoch"] < 4
    assert all(torch.equal(value, tensors[f"model.{name}"]) for name, value in best.items())
    monkeypatch.setattr(vc.baselines.RaCT, "critic_loss", original)
    again, _ = staged(planted_split, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), unbroken[0].parameters(), strict=True))


def test_patience_waits_for_the_last_stage(planted_split):
    """The actor's best epoch is long past when the critic learns, which changes no list."""
    _, run = staged(planted_split, patience=1)
    assert len(run.history) > 6


# --- all three -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slug", "options", "epochs", "enough"),
    [
        ("warp", {"latent_dim": 32, "lr": 0.004}, 25, 0.33),
        ("warp", {"latent_dim": 32, "lr": 0.004, "form": "sampled"}, 15, 0.33),
        ("lambdanet", {"latent_dim": 32, "hidden": 100, "lr": 0.004}, 12, 0.33),
        ("ract", {"latent_dim": 32, "hidden": 100}, 40, 0.38),
    ],
)
def test_learns_the_planted_world(planted_split, slug, options, epochs, enough):
    """The popular list has 0.267, the best attainable ranking 0.445."""
    model = vc.build(slug, planted_split.n_items, **options)
    vc.fit(model, planted_split, epochs=epochs, device="cpu", progress=False)
    assert vc.evaluate(model, planted_split.test, ("ndcg@100",))["ndcg@100"].mean > enough


@pytest.mark.parametrize(
    ("slug", "options"), [("warp", {}), ("warp", {"form": "sampled"}), ("lambdanet", {}), ("ract", {})]
)
def test_nobodys_clicks_and_everybodys_give_finite_losses(slug, options):
    model, batch = rough(slug, **options), Batch.from_dense(X[2:4])
    for phase in model.phases():
        model.zero_grad()
        loss, _ = phase.loss(batch, 0.5)
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()) and loss.isfinite()
    nobody = Batch.from_dense(X[2:3])
    assert all(phase.loss(nobody, 0.5)[0].isfinite() for phase in model.phases())
