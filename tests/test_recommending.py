"""Recommendations for one person."""

import pytest

import vaecf_lib as vc


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
    import pandas as pd

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
    with pytest.warns(UserWarning, match="2 items of the history were never seen in training"):
        assert len(vc.recommend(model, [0, *gone], k=10)) == 5, "the list ends with what training knew"
    with pytest.warns(UserWarning, match="1 items of the history"):
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
