"""Serving: every system, trained, saved and loaded, gives two people their own lists or refuses both."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
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
TRANSDUCTIVE = {"ncf", "cnn-cf", "cdae", "random"}


@pytest.fixture(scope="module")
def log(planted):
    return planted.select(planted.user < 300)


@pytest.fixture(scope="module")
def train(log):
    """Train a system for an epoch on what suits it, once; return it with its split."""
    splits = {"strong": vc.split_strong(log), "ratings": vc.split_ratings(log)}
    kept = {}

    def trained(slug, options):
        key = (slug, *options)
        if key not in kept:
            small = {k: v for k, v in SMALL.items() if k in SYSTEMS[slug].options}
            split = splits["ratings" if build(slug, 10, **options).rates else "strong"]
            model = build(slug, split.n_items, **small, **options)
            vc.fit(model, split, epochs=1, device="cpu", progress=False)
            kept[key] = model, split
        return kept[key]

    return trained


def scores(model, split):
    with torch.no_grad():
        return model.scores(split.test.history.rows(torch.arange(10)))


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_a_loaded_model_scores_bit_for_bit_alike(train, tmp_path, slug, options):
    """What a system needs to score is in the file, buffers included: no call of prepare() after loading."""
    model, split = train(slug, options)
    vc.save_model(model, tmp_path / "m")
    loaded = vc.load_model(tmp_path / "m")
    assert torch.equal(scores(loaded, split), scores(model, split))
    assert loaded.item_names == model.item_names == split.items
    assert torch.equal(loaded.rating_range, model.rating_range)


@pytest.mark.parametrize(("slug", "options"), FORMS, ids=NAMES)
def test_two_people_get_their_own_lists_or_a_refusal(train, tmp_path, slug, options):
    """Nobody is served the list of a user of the training data."""
    model, _ = train(slug, options)
    vc.save_model(model, tmp_path / "m")
    codes = model.item_index.tolist()
    people = [codes[:30:2], codes[-30::2]]
    if model.rates:
        people = [[(item, 4.0) for item in items] for items in people]
    for served in (model, vc.load_model(tmp_path / "m")):
        if slug in TRANSDUCTIVE:
            for history in people:
                with pytest.raises(vc.ConfigError, match=f"^{slug} scores only the users it was trained on"):
                    vc.recommend(served, history)
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
    with pytest.warns(UserWarning, match="1 ratings, as 80, lie outside the training data's 1 to 5"):
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
