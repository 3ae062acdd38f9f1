"""Systems that predict ratings: what all of them must do, and each one's equation."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch, BlockSweep, Interactions, PairSweep
from vaecf_lib.models.ratings import row_means
from vaecf_lib.systems import build

# slug -> (options, epochs, test RMSE to be reached). On the planted ratings the global mean has 1.142: a rating there
# is a matter of distance on the map, which averages do not see and factors see only slowly.
GAUSSIAN = {"likelihood": "gaussian"}
LEARNS = {
    "means": ({}, 0, 1.142),
    "biased-mf": ({"latent_dim": 8, "penalty": 0.05}, 12, 1.10),
    "autorec-i": ({"hidden": 40, "penalty": 0.5, "items_per_batch": 100, "lr": 0.003}, 30, 1.12),
    "autorec-u": ({"hidden": 40}, 30, 1.05),
    "ncf": ({"latent_dim": 16, "lr": 0.005}, 12, 1.12),
    "cnn-cf": ({"latent_dim": 8, "channels": 8, "lr": 0.01, "penalty": 0.0, "per_batch": 1024}, 5, 1.13),
    "cdae": ({"hidden": 40, "lr": 0.005}, 30, 1.05),
    "macridvae": ({"latent_dim": 16, "hidden": 40, "lr": 0.005}, 20, 1.12),
    "dae-cf": ({"latent_dim": 40, "lr": 0.005}, 20, 1.05),
    "vae-cf": ({"latent_dim": 16, "hidden": 40, "lr": 0.005}, 20, 1.05),
    "mult-vae": (GAUSSIAN | {"latent_dim": 16, "hidden": 40, "lr": 0.005}, 20, 1.05),
    "mult-dae": (GAUSSIAN | {"latent_dim": 40, "lr": 0.005}, 20, 1.05),
    "recvae": (GAUSSIAN | {"latent_dim": 16, "hidden": 40, "lr": 0.005}, 8, 1.05),
    "hyvae": ({"missing": "zero", "hidden": 32, "code": 16, "lr": 0.0005, "dropout": 0.2}, 20, 1.08),
    "deepae": ({"missing": "zero", "hidden": 32, "code": 16, "lr": 0.002, "dropout": 0.2}, 20, 1.05),
    "vae": ({"missing": "zero", "hidden": 32, "code": 16, "lr": 0.002}, 20, 1.05),
    "vae-bmf": (
        {"latent_dim": 4, "data_dim": 8, "hidden": 16, "users_per_block": 500, "items_per_block": 100, "lr": 0.005},
        7,
        1.08,
    ),
}


@pytest.fixture(scope="module")
def ratings(planted):
    return vc.split_ratings(planted)


def global_mean_error(split):
    mean = split.train.values.mean()
    return (split.test.targets.values - mean).square().mean().sqrt().item()


@pytest.mark.slow
@pytest.mark.parametrize("slug", LEARNS)
def test_learns_the_planted_ratings(ratings, slug):
    options, epochs, enough = LEARNS[slug]
    model = build(slug, ratings.n_items, **options)
    vc.fit(model, ratings, epochs=epochs, batch_size=200, device="cpu", progress=False)
    assert model.rates
    error = vc.evaluate(model, ratings.test, ("rmse",))["rmse"].mean
    assert error < min(enough, global_mean_error(ratings))


@pytest.mark.slow
@pytest.mark.parametrize("slug", [s for s in LEARNS if s != "means"])
def test_save_load_and_resume(ratings, slug, tmp_path):
    options, *_ = LEARNS[slug]

    def new():
        return build(slug, ratings.n_items, **options)

    unbroken = new()
    vc.fit(unbroken, ratings, epochs=2, device="cpu", progress=False)
    stopped = new()
    calls = []

    def stop(model):
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        evaluate = vc.training.evaluate
        patch.setattr(vc.training, "evaluate", lambda *a: stop(a) if calls else (calls.append(1), evaluate(*a))[1])
        with pytest.raises(KeyboardInterrupt):
            vc.fit(stopped, ratings, epochs=2, device="cpu", out=tmp_path, progress=False)
    resumed = new()
    vc.fit(resumed, ratings, epochs=2, device="cpu", out=tmp_path, progress=False)
    loaded = vc.load_model(tmp_path)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name]), name


@pytest.mark.parametrize("slug", LEARNS)
def test_no_test_rating_reaches_a_prediction(planted, ratings, slug):
    """Other held-out ratings, same predictions: only the training part is ever read."""
    options, *_ = LEARNS[slug]
    changed = ratings.test.targets.values.flip(0)
    targets = Interactions(
        ratings.test.targets.indptr, ratings.test.targets.indices, changed, ratings.test.targets.shape
    )
    other = vc.data.Split(
        "ratings", ratings.train, ratings.valid, vc.data.HeldOut(ratings.test.history, targets), ratings.item_index
    )
    scores = []
    for split in (ratings, other):
        model = build(slug, split.n_items, **options)
        vc.fit(model, split, epochs=1, device="cpu", progress=False)
        with torch.no_grad():
            scores.append(model.scores(split.test.history.rows(torch.arange(10))))
    assert torch.equal(*scores)
    assert not set(zip(*map(torch.Tensor.tolist, ratings.train.pairs()), strict=True)) & set(
        zip(*map(torch.Tensor.tolist, ratings.test.targets.pairs()), strict=True)
    )


@pytest.mark.parametrize("slug", LEARNS)
def test_single_predictions_are_entries_of_all(ratings, slug):
    options, *_ = LEARNS[slug]
    model = build(slug, ratings.n_items, **options)
    vc.fit(model, ratings, epochs=0, device="cpu", progress=False)
    batch = ratings.test.history.rows(torch.arange(7))
    rows, items = torch.tensor([0, 3, 3, 6]), torch.tensor([5, 0, 499, 17])
    with torch.no_grad():
        assert torch.allclose(model.pair_scores(batch, rows, items), model.scores(batch)[rows, items], atol=1e-5)


@pytest.mark.parametrize("epochs", [0, 1])
def test_autorecs_codes_are_those_of_its_weights(ratings, epochs):
    """What predicts was encoded after the last update, not before it; without any, at the start."""
    model = build("autorec-i", ratings.n_items, hidden=8)
    vc.fit(model, ratings, epochs=epochs, device="cpu", progress=False)
    kept = model.codes.clone()
    model.encode_items()
    assert torch.equal(model.codes, kept) and kept.std() > 0


@pytest.mark.parametrize("slug", LEARNS)
def test_clicks_are_refused(planted_split, slug):
    options, *_ = LEARNS[slug]
    with pytest.raises(vc.ConfigError, match="ratings protocol"):
        vc.fit(build(slug, planted_split.n_items, **options), planted_split, epochs=1, device="cpu", progress=False)


@pytest.mark.parametrize("slug", ["biased-mf", "ncf", "cdae", "vae-bmf", "autorec-i"])
def test_a_second_fit_gives_the_weights_of_the_first(ratings, slug):
    options, *_ = LEARNS[slug]
    model = build(slug, ratings.n_items, **options)
    states = []
    for _ in range(2):
        vc.fit(model, ratings, epochs=1, device="cpu", progress=False)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(vc.ConfigError, match="only for the users it was trained on"):
        model.scores(Batch(torch.tensor([9_999_999]), *(torch.zeros(1, dtype=torch.int64),) * 3, None, ratings.n_items))


def test_random_ratings_are_drawn_from_the_ratings(ratings):
    model = build("random", ratings.n_items, ratings=True)
    vc.fit(model, ratings, device="cpu")
    draws = model.scores(ratings.test.history.rows(torch.arange(300)))
    values, counts = draws.unique(return_counts=True)
    assert values.tolist() == ratings.train.values.unique().tolist()
    assert (counts / counts.sum() - 1 / len(values)).abs().max() < 0.01
    assert torch.equal(draws, model.scores(ratings.test.history.rows(torch.arange(300))))
    vc.fit(model, ratings, device="cpu", seed=1)
    assert not torch.equal(draws, model.scores(ratings.test.history.rows(torch.arange(300))))


# --- single equations ---------------------------------------------------------------------------------------------


def small_ratings():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randint(1, 6, (9, 12), generator=generator).float()
    dense[torch.rand(9, 12, generator=generator) < 0.5] = 0
    dense[0, 0] = 3.0
    user, item = dense.nonzero(as_tuple=True)
    return dense, Interactions.from_pairs(user.numpy(), item.numpy(), dense[user, item].numpy(), shape=(9, 12))


def numbers(model):
    return {name: p.detach().double().numpy() for name, p in model.state_dict().items()}


def test_means_are_shrunken():
    dense, matrix = small_ratings()
    overall = dense[dense > 0].mean()
    expected = [overall + (row[row > 0] - overall).sum() / ((row > 0).sum() + 5) for row in dense]
    assert torch.allclose(row_means(matrix), torch.stack(expected))
    by_item = row_means(matrix.transposed())
    assert torch.isclose(
        by_item[0], overall + (dense[:, 0][dense[:, 0] > 0] - overall).sum() / ((dense[:, 0] > 0).sum() + 5)
    )


def test_means_without_damping_are_means_and_unrated_rows_get_the_global_one():
    matrix = Interactions.from_pairs([0, 0, 2], [0, 3, 3], [5.0, 1.0, 3.0], shape=(3, 4))
    assert row_means(matrix, damping=0.0).tolist() == pytest.approx([3.0, 3.0, 3.0])
    assert row_means(matrix.transposed(), damping=0.0).tolist() == pytest.approx([5.0, 3.0, 3.0, 2.0])
    model = vc.baselines.Means(4, damping=0.0)
    model.prepare(matrix)
    # user 0 lies (0 - 1) / 2 above the films' means, user 2 lies 1 above, user 1 has rated nothing
    expected = torch.tensor([[-0.5], [0.0], [1.0]]) + torch.tensor([5.0, 3.0, 3.0, 2.0])
    assert torch.allclose(model.scores(matrix.rows(torch.arange(3))), expected)


@pytest.mark.parametrize("parts", ["both", "items", "users", "global"])
def test_parts_of_the_means(parts):
    dense, matrix = small_ratings()
    model = vc.baselines.Means(12, damping=2.0, parts=parts)
    model.prepare(matrix)
    x, seen = dense.double(), (dense > 0).double()
    overall = x.sum() / seen.sum()
    items = (seen * (x - overall)).sum(0) / (seen.sum(0) + 2) if parts in ("both", "items") else torch.zeros(12)
    users = (seen * (x - overall - items)).sum(1) / (seen.sum(1) + 2) if parts in ("both", "users") else torch.zeros(9)
    expected = overall + items + users[:, None]
    assert torch.allclose(model.scores(matrix.rows(torch.arange(9))).double(), expected.double(), atol=1e-5)


@pytest.mark.parametrize("missing", ["zero", "user_mean"])
@pytest.mark.parametrize("options", [{}, {"code_is": "hidden", "fusion": "sum", "error": "mean", "penalised": "all"}])
def test_hyvae_loss_equals_plain_numpy(options, missing):
    dense, matrix = small_ratings()
    torch.manual_seed(0)
    sizes = {"hidden": 6, "code": 7, "latent_dim": 4, "dropout": 0.0, "beta": 0.3, "penalty": 0.01}
    model = vc.models.HyVAE(12, **sizes, missing=missing, **({"fusion": "concat"} | options))
    model.prepare(matrix)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    torch.manual_seed(7)
    loss, _ = model.loss(matrix.rows(torch.arange(9)), 1.0)
    torch.manual_seed(7)
    size = 4 if options else 7
    noise = torch.randn(9, size).double().numpy()
    w, x = numbers(model), dense.double().numpy()

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    relu = lambda a: np.maximum(a, 0)  # noqa: E731
    seen, n, base = x > 0, 9, w["likelihood.items"]
    assert np.allclose(base, row_means(matrix.transposed()))
    level = (seen * (x - base)).sum(1, keepdims=True) / (seen.sum(1, keepdims=True) + 5)
    given = x if missing == "zero" else seen * (x - base.mean() - level)
    shared = relu(given @ w["input.weight"] + w["input.bias"])
    heads = linear("posterior", relu(linear("to_code.0", shared)) if options else shared)
    mu, logvar = heads[:, :size], heads[:, size:]
    z = mu + np.exp(logvar / 2) * noise
    hidden = relu(linear("decoder.2", relu(linear("decoder.0", z)))) if options else relu(linear("decoder.0", z))
    vae = linear("vae_output", hidden)
    deep = linear("deep_output", relu(linear("deep.3", relu(linear("deep.0", shared)))))
    fused = 0.5 * (vae + deep) if options else linear("fuse", np.concatenate([vae, deep], 1))

    def error(prediction):
        squares = (seen * (x - base - level - prediction) ** 2).sum(1)
        return (squares / seen.sum(1) if options else squares).sum() / n

    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum() / n
    names = [k for k in w if w[k].ndim == 2 and (options or k.startswith("deep."))]
    total = error(fused) + 0.3 * kl + error(deep) + 0.01 * sum((w[k] ** 2).sum() for k in names)
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_hyvae_divergence_is_annealed():
    """Half-way through the annealing, half of beta L_KL is in the loss; the rest of Eq. 9 does not change."""
    _, matrix = small_ratings()
    torch.manual_seed(0)
    model = vc.models.HyVAE(12, hidden=6, code=7, beta=0.6, anneal=0.5).eval()
    model.prepare(matrix)
    batch = matrix.rows(torch.arange(9))
    start, *later = (model.loss(batch, progress) for progress in (0.0, 0.25, 0.5, 1.0))
    rate = start[1]["rate"].item()
    assert rate > 0.01
    assert [loss.item() - start[0].item() for loss, _ in later] == pytest.approx(
        [0.3 * rate, 0.6 * rate, 0.6 * rate], rel=1e-3
    )


def test_hyvae_fusion_starts_as_the_mean():
    _, matrix = small_ratings()
    model = vc.models.HyVAE(12, hidden=6, code=7).eval()
    vae, deep, _ = model.branches(matrix.rows(torch.arange(9)))
    assert torch.allclose(model.combine(vae, deep), 0.5 * (vae + deep), atol=1e-6)


@pytest.mark.parametrize("branches", ["both", "deep", "vae"])
def test_hyvae_items_are_known_by_every_branch_there_is(branches):
    """Alike items are found by the weights of both output layers side by side, or of the one that is there."""
    model = vc.models.HyVAE(12, branches=branches, hidden=6, code=7)
    weights = [p for name, p in model.named_parameters() if name in ("vae_output.weight", "deep_output.weight")]
    assert len(weights) == (2 if branches == "both" else 1)
    assert model.item_vectors().equal(torch.cat(weights, 1))


def test_latent_input_of_bmf_is_never_built_and_equals_the_printed_one():
    """Z_U Phi_0 with the J K-wide input of the paper, against the sum over rated items of P_j = v_j Phi_j."""
    dense, matrix = small_ratings()
    torch.manual_seed(0)
    model = vc.models.VAEBMF(12, latent_dim=3, data_dim=4, hidden=5, data_layers=1, attention=None, data_input=False)
    model.prepare(matrix)
    tower = model.users.mean
    embeddings, batch = torch.randn(12, 3), matrix.rows(torch.arange(9))
    z = ((dense > 0).float()[:, :, None] * embeddings).reshape(9, 12 * 3)  # what is never built
    first = z @ tower.phi.reshape(12 * 3, 5) + tower.phi_bias
    expected = tower.output(tower.head(tower.latent_rest(torch.relu(first))))
    assert torch.allclose(tower(batch, None, embeddings), expected, atol=1e-5)


def bmf(**options):
    dense, matrix = small_ratings()
    torch.manual_seed(0)
    settings = {"latent_dim": 3, "data_dim": 4, "hidden": 5, "users_per_block": 4, "items_per_block": 5, "dropout": 0.0}
    model = vc.models.VAEBMF(12, **(settings | options))
    model.prepare(matrix)
    return dense, matrix, model


@pytest.mark.parametrize("kl", ["once", "per_block"])
def test_bmf_blocks_add_up_to_the_objective(kl):
    """Over one sweep the blocks' losses make Q: each rating once, each divergence once (or once a block)."""
    _, matrix, model = bmf(kl=kl, beta_u=0.3, beta_v=0.7)
    total_error = total_loss = 0.0
    blocks = list(model.phases()[0].sweep.shuffled(500))
    assert len(blocks) == 3 * 3 == model.phases()[0].sweep.count(500)
    for block in blocks:
        loss, terms = model.loss(block, 0.0)
        total_error += terms["error"].item() * max(len(block), 1)
        total_loss += loss.item() * matrix.nnz / 9
    with torch.no_grad():
        kl_u = vc.maths.gaussian_kl(*model.encode_users(model.by_user.rows(torch.arange(9)))).sum()
        kl_v = vc.maths.gaussian_kl(*model.encode_items(model.by_item.rows(torch.arange(12)))).sum()
    times = 1 if kl == "once" else 3
    assert total_loss == pytest.approx(0.5 * total_error + times * (0.3 * kl_u + 0.7 * kl_v).item(), rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_bmf_block_loss_equals_plain_numpy(dropout):
    """Eq. 7-10. Dropout hides the same entries from both inputs of both towers of a side, none from its attention."""
    dense, matrix, model = bmf(attention="softmax", beta_u=0.3, beta_v=0.7, dropout=dropout)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    block = next(iter(model.phases()[0].sweep.shuffled(0)))
    torch.manual_seed(7)
    loss, _ = model.loss(block, 0.0)
    torch.manual_seed(7)
    kept_u, kept_v = np.zeros((9, 12)), np.zeros((12, 9))
    for kept, half in ((kept_u, block.users), (kept_v, block.items)):
        kept[half.users[half.rows], half.items] = torch.nn.functional.dropout(torch.ones_like(half.values), dropout)
    eps_u, eps_v = (torch.randn(len(i), 3).double().numpy() for i in (block.users, block.items))
    w, x = numbers(model), dense.double().numpy()
    relu = lambda a: np.maximum(a, 0)  # noqa: E731

    def encode(side, rows, centred, others, kept):
        """Mean and log-variance for some rows of the centred matrix (its zeros are missing), of which some are kept."""
        out = []
        for part, look in (("mean", "look_mean"), ("variance", "look_variance")):
            vectors = []
            for r in rows:
                rated = np.flatnonzero(centred[1][r])

                def dense_layers(h, name, side=side, part=part):
                    return relu(h @ w[f"{side}.{part}.{name}.0.weight"].T + w[f"{side}.{part}.{name}.0.bias"])

                data = sum(kept[r, j] * centred[0][r, j] * w[f"{side}.{part}.data.weight"][j] for j in rated)
                data = dense_layers(relu(data + w[f"{side}.{part}.data.bias"]), "data_rest")
                latent = sum(kept[r, j] * others[j] @ w[f"{side}.{part}.phi"][j] for j in rated)
                latent = dense_layers(relu(latent + w[f"{side}.{part}.phi_bias"]), "latent_rest")
                own = np.concatenate([data, latent]) @ w[f"{side}.{part}.output.weight"].T
                own = own + w[f"{side}.{part}.output.bias"]
                scores = np.array([own @ w[f"{side}.{look}.theta"] @ others[j] for j in rated])
                share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                context = (share[:, None] * others[rated]).sum(0)
                mixed = np.concatenate([own, context]) @ w[f"{side}.{look}.mix.weight"].T
                vectors.append(mixed + w[f"{side}.{look}.mix.bias"])
            out.append(np.array(vectors))
        return out[0], -np.logaddexp(0, -out[1])

    seen = x > 0
    rest = np.where(seen, x - w["above"][:, None] - w["likelihood.items"], 0)
    users, items = block.users.users.numpy(), block.items.users.numpy()
    mu, logvar = encode("users", users, (rest, seen), w["v_sample"], kept_u)
    nu, logtau = encode("items", items, (rest.T, seen.T), w["u_sample"], kept_v)
    u, v = mu + np.exp(logvar / 2) * eps_u, nu + np.exp(logtau / 2) * eps_v
    predicted = w["above"][users][:, None] + w["likelihood.items"][items] + u @ v.T
    error = (seen[np.ix_(users, items)] * (x[np.ix_(users, items)] - predicted) ** 2).sum()

    def kl(m, lv):
        return 0.5 * (m**2 + np.exp(lv) - 1 - lv).sum()

    total = (0.5 * error + 0.3 * kl(mu, logvar) / 3 + 0.7 * kl(nu, logtau) / 3) / (matrix.nnz / 9)
    assert loss.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("side", ["users", "items"])
def test_bmf_one_side_against_the_others_sample(side):
    """Eq. 7 with one side held fixed: 1/2 (x - u v)^2 + beta KL, the other's factor the sample of the last iteration."""
    *_, model = bmf(updates="sequential", beta_u=0.3, beta_v=0.7)
    model.resample()  # samples and means differ
    encode, loss, rows, beta, other = {
        "users": (model.encode_users, model.users_loss, model.by_user, 0.3, model.v_sample),
        "items": (model.encode_items, model.items_loss, model.by_item, 0.7, model.u_sample),
    }[side]
    batch = rows.rows(torch.tensor([5, 0, 3]))
    torch.manual_seed(7)
    ours, terms = loss(batch, 0.0)
    torch.manual_seed(7)
    eps = torch.randn(3, 3).double().numpy()
    mu, logvar = (part.detach().double().numpy() for part in encode(batch))
    predicted = (mu + np.exp(logvar / 2) * eps) @ other.double().numpy().T
    at = (batch.rows.numpy(), batch.items.numpy())
    error, kl = ((batch.values.numpy() - predicted[at]) ** 2).sum(), 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum()
    assert ours.item() == pytest.approx((0.5 * error + beta * kl) / len(batch.items), rel=1e-5)
    assert terms["error"].item() == pytest.approx(error / len(batch.items), rel=1e-5)


@pytest.mark.parametrize("attention", [None, "softmax"])
def test_bmf_posteriors_start_with_the_variance_asked_for(attention):
    """What the last layer reads moves it, so that its weights are set to nothing here; also a large one: 0.8."""
    _, _, model = bmf(attention=attention, initial_variance=0.8)
    for side, encode, matrix in (
        (model.users, model.encode_users, model.by_user),
        (model.items, model.encode_items, model.by_item),
    ):
        last = side.variance.output if attention is None else side.look_variance.mix
        last.weight.data.zero_()
        (batch,) = matrix.batches(100)
        _, logvar = encode(batch)
        assert torch.allclose(logvar.exp(), torch.tensor(0.8))


def test_bmf_first_layers_start_at_the_scale_of_what_is_rated():
    """A first layer that could sum J entries and sums a share of them starts 1 / sqrt(share) larger, and no other."""
    _, matrix, model = bmf()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.start(matrix)
    grown = {
        name: (p / before[name]).mean().item() for name, p in model.named_parameters() if (p != before[name]).any()
    }
    layers = {
        f"{side}.{part}.{name}"
        for side in ("users", "items")
        for part in ("mean", "variance")
        for name in ("data.weight", "phi")
    }
    assert grown == pytest.approx(dict.fromkeys(layers, (matrix.nnz / (9 * 12)) ** -0.5))


@pytest.mark.parametrize("kind", ["paper", "softmax"])
def test_attention_shares_add_up_to_one_and_ignore_the_scale_of_theta(kind):
    _, matrix, model = bmf(attention=kind)
    look, batch = model.users.look_mean, matrix.rows(torch.arange(9))
    scores = torch.randn(len(batch.items))
    shares = look.weights(scores, batch)
    assert torch.allclose(torch.zeros(9).index_add(0, batch.rows, shares), torch.ones(9), atol=1e-3)
    if kind == "paper":  # Theta's scale and sign are unidentified
        assert torch.allclose(look.weights(-3 * scores, batch), shares, atol=1e-3)


def test_paper_attention_is_guarded_where_the_scores_cancel():
    _, _, model = bmf(attention="paper")
    two = Interactions.from_pairs([0, 0], [3, 5], [4, 2], shape=(1, 12)).rows(torch.tensor([0]))
    shares = model.users.look_mean.weights(torch.tensor([1.0, -1.0]), two)
    assert torch.isfinite(shares).all() and shares.abs().max() <= 1000


def test_bmf_fed_back_embeddings_are_constants_and_renewed_after_an_iteration():
    *_, model = bmf()
    before = model.v_sample.clone()
    model.loss(next(iter(model.phases()[0].sweep.shuffled(0))), 0.0)[0].backward()
    assert model.v_sample.grad is None and torch.equal(model.v_sample, before)
    model.resample()
    assert not torch.equal(model.v_sample, before)


def test_bmf_predicts_from_whole_rows_and_the_same_iteration():
    """After an iteration both sides are encoded without dropout, each from the other's sample of that iteration."""
    *_, model = bmf(dropout=0.5)
    with torch.no_grad():
        mu, _ = model.eval().encode_users(model.by_user.rows(torch.arange(9)))
        nu, _ = model.encode_items(model.by_item.rows(torch.arange(12)))
    model.train().resample()
    assert torch.allclose(model.u_mean, mu, atol=1e-6) and torch.allclose(model.v_mean, nu, atol=1e-6)
    assert model.training


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"attention": None},
        {"attention": "softmax", "scope": "all"},
        {"attention": "paper", "scope": "all"},
        {"feedback": False},
        {"data_input": False},
        {"updates": "sequential"},
        {"data_layers": 0, "layers": 2},
        {"offset": "none"},
        {"offset": "global", "kl": "per_block"},
    ],
)
def test_bmf_variants_train(ratings, options):
    model = vc.models.VAEBMF(
        ratings.n_items,
        latent_dim=4,
        data_dim=8,
        hidden=16,
        users_per_block=300,
        items_per_block=100,
        dropout=0.0,
        lr=0.003,
        **options,
    )
    run = vc.fit(model, ratings, epochs=4, device="cpu", progress=False)
    assert np.isfinite(run.curve("rmse")).all()
    if options.get("attention") != "paper":  # shares divided by a sum near zero: it need not go down
        assert min(run.curve("rmse")[1:]) < run.curve("rmse")[0]


def test_sweeps_visit_every_rating_once():
    dense, matrix = small_ratings()
    for sweep in (PairSweep(matrix, 7), BlockSweep(matrix, matrix.transposed(), 4, 5)):
        seen = torch.zeros(9, 12)
        n = 0
        for batch in sweep.shuffled(0):
            n += 1
            if isinstance(sweep, PairSweep):
                seen[batch.users, batch.items] += batch.values
            else:
                seen[batch.users.users[batch.rows], batch.items.users[batch.columns]] += batch.values
        assert torch.equal(seen, dense) and n == sweep.count(0)
    assert torch.equal(matrix.transposed().rows(torch.arange(12)).dense(), dense.T)


def test_gaussian_likelihood_is_the_masked_squared_error():
    dense, matrix = small_ratings()
    predictions = torch.randn(9, 12)
    expected = -0.5 * ((dense > 0) * (dense - predictions) ** 2).sum(1)
    for x in (dense, matrix.rows(torch.arange(9))):
        assert torch.allclose(vc.maths.rating_log_prob(predictions, x), expected, atol=1e-4)


def test_macrid_memberships_and_both_divergences(ratings):
    for kl_of_mu in (False, True):
        model = build("macridvae", ratings.n_items, latent_dim=8, hidden=10, kl_of_mu=kl_of_mu)
        _, divergence = model(ratings.train.rows(torch.arange(5)))
        assert (divergence >= 0).all() and (divergence.mean() > 100) == kl_of_mu


def test_bad_options_are_named():
    with pytest.raises(vc.ConfigError, match="fusion='product': choose one of concat, sum"):
        vc.models.HyVAE(10, fusion="product")
    with pytest.raises(vc.ConfigError, match="leave the encoders nothing to read"):
        vc.models.VAEBMF(10, feedback=False, data_input=False)
    with pytest.raises(vc.ConfigError, match="must be a power of two"):
        build("cnn-cf", 10, latent_dim=12)
    with pytest.raises(vc.ConfigError, match="parts='some'"):
        build("means", 10, parts="some")


# --- what chapters 9 and 10 state ------------------------------------------------------------------------------------


def test_uniform_guesses_have_a_largest_possible_rmse():
    """Every composition of true ratings, weights on a grid: the mean squared error is largest with all at the ends."""
    for values, largest in ((range(1, 6), 6**0.5), ([k / 2 for k in range(1, 11)], 2.669)):
        scale = torch.tensor(list(values), dtype=torch.float64)
        error = (scale[:, None] - scale) ** 2  # guess x truth
        by_truth = error.mean(0)
        assert by_truth.max().sqrt().item() == pytest.approx(largest, abs=5e-4)
        assert torch.allclose(by_truth, scale.var(correction=0) + (scale - scale.mean()) ** 2)
        for shares in torch.distributions.Dirichlet(torch.full_like(scale, 0.3)).sample((200,)):
            assert (shares * by_truth).sum().sqrt() <= by_truth.max().sqrt() + 1e-12


def test_mae_never_exceeds_rmse():
    errors = torch.randn(500, 40, dtype=torch.float64) * torch.rand(500, 1, dtype=torch.float64) * 5
    assert (errors.abs().mean(1) <= errors.square().mean(1).sqrt()).all()
    assert torch.isclose(torch.full((9,), 2.0).abs().mean(), torch.full((9,), 2.0).square().mean().sqrt())


def test_objective_of_bmf_is_a_bound():
    """One user, two items, K = 1: Q with beta = 1 never exceeds log p(X), by quadrature, and comes close to it."""
    x = np.array([0.8, -1.1])
    u = np.linspace(-12, 12, 200_001)
    # Given u, each rating is N(0, u^2 + 1): the item's factor is integrated out.
    variance = u**2 + 1
    log_joint = -0.5 * u**2 - 0.5 * np.log(2 * np.pi)
    for value in x:
        log_joint = log_joint - 0.5 * value**2 / variance - 0.5 * np.log(2 * np.pi * variance)
    evidence = np.log(np.exp(log_joint).sum() * (u[1] - u[0]))
    rng = np.random.RandomState(0)
    best = -np.inf
    for _ in range(3000):
        (m, *n), (s, *t) = rng.randn(3), np.exp(rng.randn(3) - 1) ** 2
        n, t = np.array(n), np.minimum(t, 1.0)
        s = min(s, 1.0)  # the paper's variances lie below one
        # E (x - u v)^2 for independent u and v, in closed form
        error = x**2 - 2 * x * m * n + (m**2 + s) * (n**2 + t)
        q = (-0.5 * error - 0.5 * np.log(2 * np.pi)).sum()
        q -= sum(0.5 * (a**2 + b - 1 - np.log(b)) for a, b in zip((m, *n), (s, *t), strict=True))
        assert q <= evidence
        best = max(best, q)
    assert best > evidence - 0.5


def test_error_of_a_product_of_independent_factors():
    """E (x - u v)^2 = x^2 - 2 x m n + (m^2 + s)(n^2 + t), summed over dimensions, against samples."""
    torch.manual_seed(0)
    m, n = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    s, t = torch.rand(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    u = m + s.sqrt() * torch.randn(400_000, 3, dtype=torch.float64)
    v = n + t.sqrt() * torch.randn(400_000, 3, dtype=torch.float64)
    sampled = (1.3 - (u * v).sum(1)).square().mean()
    exact = (1.3 - m @ n) ** 2 + ((m**2 + s) * (n**2 + t) - (m * n) ** 2).sum()
    assert sampled.item() == pytest.approx(exact.item(), rel=0.01)


def test_softmax_attention_ignores_a_shift_and_the_printed_one_does_not():
    _, matrix, model = bmf(attention="softmax")
    batch, scores = matrix.rows(torch.arange(9)), torch.randn(matrix.nnz)
    look = model.users.look_mean
    assert torch.allclose(look.weights(scores + 3, batch), look.weights(scores, batch), atol=1e-5)
    *_, printed = bmf(attention="paper")
    look = printed.users.look_mean
    assert not torch.allclose(look.weights(scores + 3, batch), look.weights(scores, batch), atol=0.1)


def test_means_are_where_rating_forms_start(ratings):
    """Untrained and with a decoder of zeros, a rating form predicts what the baseline of means predicts."""
    floor = build("means", ratings.n_items)
    vc.fit(floor, ratings, epochs=0, device="cpu", progress=False)
    expected = floor.scores(ratings.test.history.rows(torch.arange(20)))
    for slug, options in (
        ("mult-vae", GAUSSIAN),
        ("mult-dae", GAUSSIAN),
        ("recvae", GAUSSIAN),
        ("vae-vamp", GAUSSIAN),
        ("vae-iaf", GAUSSIAN),
        ("cdae", {}),
    ):
        model = build(slug, ratings.n_items, **options)
        vc.fit(model, ratings, epochs=0, device="cpu", progress=False)
        with torch.no_grad():
            last = model.output if slug in ("mult-dae", "cdae") else model.decoder.output
            last.weight.zero_()
            last.bias.zero_()
            assert torch.allclose(model.scores(ratings.test.history.rows(torch.arange(20))), expected, atol=1e-5), slug
