"""Serving: every system, trained, saved and loaded, gives people their own lists or refuses them."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.checkpoints import load_tensors
from vaecf_lib.systems import SYSTEMS, build

SMALL = {"latent_dim": 8, "hidden": 16, "widths": [8], "channels": 2, "data_dim": 4, "points": 9}
FORMS = [(slug, {}) for slug in SYSTEMS if slug != "random"] + [("random", {}), ("random", {"ratings": True})]
FORMS += [(slug, {"likelihood": "gaussian"}) for slug in ("mult-vae", "mult-dae", "recvae")]
NAMES = [" ".join([slug, *map(str, options.values())]) for slug, options in FORMS]
SAME_FOR_ALL = {"popularity"}
TRANSDUCTIVE = {"ncf", "cnn-cf", "cdae", "irgan", "cfgan", "random"}
WITHOUT_ITEMS = {"means", "popularity", "random", "planted-oracle"}  # they learn nothing of single items


@pytest.fixture(scope="module")
def log(planted):
    return planted.select(planted.user < 300)


@pytest.fixture(scope="module")
def fitted(log, tmp_path_factory):
    """Train a system for an epoch on what suits it, once; return the run, its split and its folder."""
    splits = {"strong": vc.split_strong(log), "weak": vc.split_weak(log), "ratings": vc.split_ratings(log)}
    kept = {}

    def run(slug, options):
        key = (slug, *options)
        if key not in kept:
            small = {k: v for k, v in SMALL.items() if k in SYSTEMS[slug].options}
            protocol = "weak" if slug in {"irgan", "cfgan"} else "strong"
            split = splits["ratings" if build(slug, 10, **options).rates else protocol]
            model = build(slug, split.n_items, **small, **options)
            folder = tmp_path_factory.mktemp(slug) / "run"
            kept[key] = vc.fit(model, split, epochs=1, device="cpu", progress=False, out=folder), split, folder
        return kept[key]

    return run


@pytest.fixture(scope="module")
def train(fitted):
    """Return a trained system with its split."""

    def trained(slug, options):
        run, split, _ = fitted(slug, options)
        return run.model, split

    return trained


def scores(model, split):
    with torch.no_grad():
        return model.scores(split.test.history.rows(torch.arange(10)))


def known_users(run, n):
    """Ids of users that the system may be asked about: those of the training part."""
    return run.people.ids[run.people.train_rows >= 0][:n].tolist()


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_a_loaded_run_serves_bit_for_bit_alike(fitted, slug, options):
    """What a system needs to score is in the folder, buffers included: no call of prepare() after loading."""
    run, split, folder = fitted(slug, options)
    loaded = vc.load_run(folder)
    assert torch.equal(scores(loaded.model, split), scores(run.model, split))
    assert loaded.model.item_names == run.model.item_names == split.items
    assert torch.equal(loaded.model.rating_range, run.model.rating_range)
    asked = known_users(run, 40)
    pd.testing.assert_frame_equal(loaded.recommend(asked), run.recommend(asked))


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_users_are_served_by_their_ids(fitted, slug, options):
    """By their own history, or as the users they are; nothing they have, nothing excluded, nothing but the candidates."""
    run, split, _ = fitted(slug, options)
    run = replace(run, people=replace(run.people, disliked=None))  # of which a history knows nothing
    asked = known_users(run, 30)[::-1]
    lists = run.recommend(asked, k=5)
    assert lists["user"].tolist() == [user for user in asked for _ in range(5)]
    assert lists["rank"].tolist() == [1, 2, 3, 4, 5] * 30
    assert lists.groupby("user")["score"].apply(lambda s: s.is_monotonic_decreasing).all()
    rows = [run.people.ids.tolist().index(user) for user in asked]
    batch = run.people.histories.rows(torch.tensor(rows))
    ids = np.array(split.items.ids)[split.item_index]
    own = set(zip(np.array(asked)[batch.rows], ids[batch.items], strict=True))
    assert not own & set(zip(lists["user"], lists["item"], strict=True))

    if run.model.needs == "history":
        ratings = [None] * len(batch.items) if batch.values is None else batch.values.tolist()
        histories = {user: [] for user in asked}
        for row, item, rating in zip(batch.rows.tolist(), ids[batch.items].tolist(), ratings, strict=True):
            histories[asked[row]].append(item if rating is None else (item, rating))
        pd.testing.assert_frame_equal(run.recommend(histories=histories, k=5), lists)
    else:
        with torch.no_grad():
            users = torch.from_numpy(run.people.train_rows[rows])
            expected = run.model.scores(replace(batch, users=users))
            expected[batch.rows, batch.items] = -torch.inf
        assert torch.equal(
            torch.tensor(lists["score"].to_numpy()).view(30, 5), expected.sort(descending=True)[0][:, :5]
        )

    first, hidden = lists["item"][:5].tolist(), ids[::3].tolist()
    assert not set(first) & set(run.recommend(asked[0], exclude=first, k=20)["item"])
    assert set(run.recommend(asked, only=hidden, exclude=hidden[:9], k=500)["item"]) <= set(hidden[9:])


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_many_at_once_are_served_as_one_by_one(fitted, slug, options):
    run, _, _ = fitted(slug, options)
    asked = known_users(run, 8)
    together = run.recommend(asked, k=7)
    alone = pd.concat([run.recommend(user, k=7) for user in asked], ignore_index=True)
    np.testing.assert_allclose(together["score"], alone["score"], rtol=1e-4, atol=1e-5)
    assert (together["item"] == alone["item"]).mean() > 0.9, "near ties alone may change places"
    if slug not in SAME_FOR_ALL:
        entries = list(zip(together["item"], together["score"], strict=True))
        lists = {tuple(entries[at : at + 7]) for at in range(0, len(entries), 7)}
        assert len(lists) >= 4, "not one for all (a small cnn-cf has few)"


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_items_have_vectors_or_a_refusal(fitted, slug, options):
    run, split, _ = fitted(slug, options)
    item = split.items.ids[split.item_index[4]]
    if slug in WITHOUT_ITEMS:
        with pytest.raises(vc.ConfigError, match=f"^{slug} learns nothing of single items"):
            run.similar(item)
        return
    vectors = run.model.item_vectors().detach().double().numpy()
    assert vectors.shape[0] == split.n_items and vectors.shape[1] > 1 and len(np.unique(vectors, axis=0)) > 100
    lengths = np.linalg.norm(vectors, axis=1).clip(1e-9)  # slim may have nothing that an item is scored by
    cosine = vectors @ vectors[4] / lengths / lengths[4]
    found = run.similar(item, k=3)
    np.testing.assert_allclose(found["similarity"], np.sort(cosine)[-2:-5:-1], atol=1e-5)
    assert item not in found["item"].tolist()


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_two_strangers_get_their_own_lists_or_a_refusal(fitted, slug, options):
    """Nobody is served the list of a user of the training data."""
    run, _, folder = fitted(slug, options)
    model = run.model
    codes = model.item_index.tolist()
    people = [codes[:30:2], codes[-30::2]]
    if model.rates:
        people = [[(item, 4.0) for item in items] for items in people]
    for served in (model, vc.load_model(folder)):
        if slug in TRANSDUCTIVE:
            for history in people:
                with pytest.raises(vc.ConfigError, match=f"^{slug} scores only the users it was trained on"):
                    vc.recommend(served, history)
            with pytest.raises(vc.ConfigError, match=f"^{slug} scores only the users it was trained on"):
                run.recommend(histories={"us": [1], "them": [2]})
            continue
        ours, theirs = (vc.recommend(served, history, k=20) for history in people)
        items = [{entry.item for entry in entries} for entries in (ours, theirs)]
        assert all(len(found) == 20 for found in items)
        both = {e.item: e.score for e in ours}.keys() & {e.item: e.score for e in theirs}.keys()
        if slug in SAME_FOR_ALL:
            assert len(both) > 10
        else:
            shared = [({e.item: e.score for e in ours}[i], {e.item: e.score for e in theirs}[i]) for i in both]
            assert items[0] != items[1] or any(a != b for a, b in shared)


@pytest.mark.parametrize(("slug", "options"), [f for f in FORMS if f[0] not in TRANSDUCTIVE])
def test_ratings_matter_where_they_are_read_and_are_refused_elsewhere(train, slug, options):
    model, _ = train(slug, options)
    items = list(range(0, 40, 2))
    if not model.rates:
        with pytest.raises(vc.DataError, match="was trained on clicks and reads no ratings"):
            vc.recommend(model, [(item, 5.0) for item in items])
        return
    with pytest.raises(vc.DataError, match=r"item 0 has no rating, and this .* reads ratings: give \(item, rating\)"):
        vc.recommend(model, items)
    histories = [[(item, high if item < 10 else 2.0) for item in items] for high in (5.0, 1.0)]
    a, b = ({e.item: e.score for e in vc.recommend(model, history, k=500)} for history in histories)
    assert any(abs(a[item] - b[item]) > 1e-6 for item in a), "the ratings are not read"


def test_a_rating_model_serves_what_it_predicts(train):
    """A user of the training data, served by history, gets the scores that evaluation gives them."""
    model, split = train("hyvae", {})
    batch = split.train.rows(torch.tensor([3]))
    history = list(zip(split.item_index[batch.items].tolist(), batch.values.tolist(), strict=True))
    with torch.no_grad():
        expected = model.scores(batch)[0]
    for entry in vc.recommend(model, history, k=10):
        assert entry.score == pytest.approx(float(expected[entry.item]), abs=1e-5)


def test_popularity_on_ratings_needs_none(log):
    split = vc.split_ratings(log)
    model = vc.baselines.Popularity(split.n_items)
    vc.fit(model, split, device="cpu")
    plain = vc.recommend(model, [3, 5], k=5)
    assert plain == vc.recommend(model, [(3, 1.0), (5, 2.0)], k=5)


def test_a_model_that_was_never_trained_says_so():
    with pytest.raises(vc.ConfigError, match="this hyvae was never trained: call fit first"):
        vc.recommend(build("hyvae", 20), [(1, 3.0)])


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_a_bad_length_is_refused(train, k):
    with pytest.raises(vc.ConfigError, match="length of the list must be a whole number above 0"):
        vc.recommend(train("mult-vae", {})[0], [1], k=k)


def test_a_history_of_everything_leaves_nothing(train):
    model, _ = train("mult-vae", {})
    assert vc.recommend(model, model.item_index.tolist()) == []


def test_odd_ratings(train):
    model, _ = train("means", {})
    for rating in ("nan", "inf"):
        with pytest.raises(vc.DataError, match=f"item 3: the rating {rating} is not a number"):
            vc.recommend(model, [(3, float(rating))])
    with pytest.warns(UserWarning, match="1 rating outside the training data's 1 to 5, as 80"):
        vc.recommend(model, [(3, 80.0), (4, 2.0)])
    assert vc.recommend(model, [(3, 1.0), (3, 5.0)], k=3) == vc.recommend(model, [(3, 5.0)], k=3), "the last counts"
    assert vc.recommend(model, [[3, 1.0]], k=3) == vc.recommend(model, [(3, 1.0)], k=3), "a pair from JSON is a list"


def test_random_ratings_are_those_of_the_training_data(log):
    model = build("random", log.n_items, ratings=True)
    with pytest.raises(vc.ConfigError, match=r"call prepare\(split\.train\)"):
        scores(model, vc.split_ratings(log))


def test_zero_may_be_a_rating(log):
    split = vc.split_ratings(replace(log, rating=log.rating - 1))
    model = vc.baselines.Means(split.n_items)
    vc.fit(model, split, device="cpu")
    lowest, low = (vc.recommend(model, [(3, rating)], k=1)[0] for rating in (0.0, 1.0))
    assert lowest.score < low.score


def test_ratings_that_are_all_the_same_are_ratings(log):
    split = vc.split_ratings(replace(log, rating=np.full_like(log.rating, 3)))
    model = vc.baselines.Means(split.n_items)
    vc.fit(model, split, device="cpu")
    assert vc.recommend(model, [(3, 3.0)], k=1)[0].score == pytest.approx(3)
    with pytest.raises(vc.DataError, match="item 3 has no rating"):
        vc.recommend(model, [3])


def test_ids_and_titles_serve_as_names(train, log):
    model, _ = train("mult-vae", {})
    codes = model.item_index[[7, 9]].tolist()
    names = [str(log.item_ids[codes[0]]), log.titles[codes[1]]]
    assert vc.recommend(model, names) == vc.recommend(model, codes)
    others = ["x" + title for title in log.titles]
    assert vc.recommend(model, [names[0], others[codes[1]]], titles=others)[0].title in others, "ids stay names"


@pytest.mark.parametrize("entry", [3.7, float("nan"), None, (3, "five"), (3, 4.0, 1), object()])
def test_what_is_no_item_is_refused(train, entry):
    with pytest.raises(vc.DataError, match="must be an item's code, id or title, or a pair of that and a rating"):
        vc.recommend(train("mult-vae", {})[0], [entry])


def test_a_text_is_no_history_and_titles_must_fit(train, log):
    """ "12" is not items 1 and 2, and titles by column are not titles by code."""
    model, _ = train("mult-vae", {})
    with pytest.raises(vc.ConfigError, match="history='12': must be a list of items"):
        vc.recommend(model, "12")
    with pytest.raises(vc.ConfigError, match="499 titles do not fit the model's items"):
        vc.recommend(model, [3], titles=log.titles[:-1])
    assert vc.recommend(model, [3.0], k=3) == vc.recommend(model, [3], k=3)


def test_a_title_of_several_items_is_refused():
    items = vc.data.Items((10, 20, 30), ("Hamlet", "Lear", "Hamlet"))
    assert items.code("Lear") == 1 and items.code("20") == 1 and items.code("Macbeth") is None
    with pytest.raises(vc.DataError, match="2 items are called 'Hamlet': give an id instead, one of 10, 30"):
        items.code("Hamlet")
    assert vc.data.Items((300, 1984), ("1984", "Leonidas")).code("1984") == 1, "an id goes before a title"


def test_items_are_told_apart_by_ids_and_titles():
    titles = (None, ("a", "b"), ("a", "c"))
    assert len({vc.data.Items(i, t).sha256 for i in ((1, 2), (1, 3)) for t in titles}) == 6


@pytest.mark.slow
def test_a_run_trained_in_python_is_served_by_the_command_line(log, tmp_path):
    """fit(out=...) keeps the ids in the checkpoint: `vaecf recommend` needs nothing else."""
    split = vc.split_strong(log)
    vc.fit(vc.models.MultVAE(split.n_items, **{k: SMALL[k] for k in ("latent_dim", "hidden")}), split,
           epochs=1, device="cpu", out=tmp_path / "run", progress=False)  # fmt: skip
    (tmp_path / "h.txt").write_text(f"{log.item_ids[7]}\n{log.titles[9]}\n", encoding="utf-8")
    command = [sys.executable, "-m", "vaecf_lib", "recommend", str(tmp_path / "run")]
    done = subprocess.run([*command, "--history", str(tmp_path / "h.txt"), "-k", "3"], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    _, note = load_tensors(tmp_path / "run" / "best.safetensors")
    assert note["items"]["ids"] == log.item_ids.tolist()


def test_a_model_trained_on_ratings_and_then_on_clicks_reads_clicks(log):
    """What a history must hold follows the last training."""
    ratings, clicks = vc.split_ratings(log), vc.split_weak(log)
    model = build("mult-vae", ratings.n_items, latent_dim=8, hidden=16)
    vc.fit(model, ratings, epochs=1, device="cpu", progress=False)
    assert model.rated
    vc.fit(model, clicks, epochs=1, device="cpu", progress=False)
    assert not model.rated and len(vc.recommend(model, [1, 2], k=3)) == 3


def test_true_is_no_item(train):
    with pytest.raises(vc.DataError, match="True: must be an item's code"):
        vc.recommend(train("mult-vae", {})[0], [True])


# --- one person, by codes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(planted):
    split = vc.split_strong(planted)
    model = vc.models.MultDAE(split.n_items, latent_dim=50)
    vc.fit(model, split, epochs=10, device="cpu", progress=False)
    return model


def test_never_an_item_the_user_has(trained, planted):
    for user in range(20):
        history = planted.item[planted.user == user]
        top = vc.recommend(trained, history, k=100, titles=planted.titles)
        assert len(top) == 100 and not set(history.tolist()) & {entry.item for entry in top}
        scores = [entry.score for entry in top]
        assert scores == sorted(scores, reverse=True)
        assert all(entry.title == planted.titles[entry.item] for entry in top)


def test_titles_and_codes_are_interchangeable(trained, planted):
    codes = [3, 77, 140]
    assert vc.recommend(trained, codes, titles=planted.titles) == vc.recommend(
        trained, [planted.titles[c] for c in codes], titles=planted.titles
    )


def test_no_history_at_all(trained):
    assert len(vc.recommend(trained, [], k=5)) == 5


def test_list_ends_with_the_catalogue(trained):
    assert len(vc.recommend(trained, [0, 1], k=10_000)) == 498


def test_columns_are_mapped_to_the_codes_of_the_log():
    """A model whose split dropped items recommends by the log's codes."""
    user = [u for u in range(12) for _ in range(6)]
    item = [i for _ in range(12) for i in (2, 3, 5, 7, 11, 13)]
    frame = pd.DataFrame({"user": [*user, 99, 99], "item": [*item, 4, 17]})  # 4, 17: of a user below min_items
    log = vc.RatingLog.from_frame(frame, name="toy")
    split = vc.split_strong(log, n_heldout=2)
    assert split.n_items == 6 and log.n_items == 8
    model = vc.baselines.Popularity(split.n_items)
    vc.fit(model, split)
    gone = [log.item_ids.tolist().index(item) for item in (4, 17)]
    codes = {entry.item for entry in vc.recommend(model, [0], k=10)}
    assert codes == set(range(8)) - {0, *gone}
    with pytest.warns(UserWarning, match="2 items of the history left out: never seen"):
        assert len(vc.recommend(model, [0, *gone], k=10)) == 5, "the list ends with what training knew"
    with pytest.warns(UserWarning, match="1 item of the history"):
        vc.recommend(model, gone[:1])


def test_unknown_entries_are_named(trained, planted):
    with pytest.raises(vc.DataError, match="no item is called 'Jaws'"):
        vc.recommend(trained, ["Jaws"], titles=planted.titles)
    with pytest.raises(vc.DataError, match="item code 5000 is not in the catalogue"):
        vc.recommend(trained, [5000])
    with pytest.raises(vc.DataError, match="item code -1 is not in the catalogue"):
        vc.recommend(trained, [-1])


def test_the_order_of_a_history_and_the_mode_of_the_model_do_not_matter(trained, planted):
    """Bit for bit: sums are taken in one order, and nothing is dropped out."""
    history = planted.item[planted.user == 0].tolist()
    expected = vc.recommend(trained, history)
    assert vc.recommend(trained, history[::-1]) == expected
    assert vc.recommend(trained.train(), history) == expected
