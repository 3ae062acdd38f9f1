"""Runs: what a folder knows, serving by ids and histories of every form, similar items, evaluation on other data."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib import serving
from vaecf_lib.data import HeldOut, Interactions
from vaecf_lib.models.base import Model


@pytest.fixture(scope="module")
def log(planted):
    """Users with ids that are text and look like numbers."""
    log = planted.select(planted.user < 200)
    names = np.array([f"{user:04d}" for user in range(log.n_users)], dtype=object)
    return replace(log, user_ids=names)


@pytest.fixture(scope="module")
def split(log):
    return vc.split_strong(log)


@pytest.fixture(scope="module")
def folder(split, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "dae"
    vc.fit(vc.models.MultDAE(split.n_items, latent_dim=20), split, epochs=3, device="cpu", out=out, progress=False)
    return out


@pytest.fixture(scope="module")
def run(folder):
    return vc.load_run(folder)


@pytest.fixture(scope="module")
def rated(log):
    """A run on ratings."""
    split = vc.split_ratings(log)
    return vc.fit(vc.baselines.Means(split.n_items), split, device="cpu", progress=False)


@pytest.fixture(scope="module")
def knowing(log):
    """A run of a system that knows its users, and no others."""
    split = vc.split_ratings(log)
    model = vc.baselines.NCF(split.n_items, latent_dim=4, widths=[4])
    return vc.fit(model, split, epochs=1, device="cpu", progress=False)


class Echo(Model):
    """Scores nobody but shows which users it was asked for, and how many at once."""

    slug, about, needs = "echo", "for these tests", "either"

    def __init__(self, n_items):
        super().__init__(n_items)
        self.asked = []

    def scores(self, batch):
        self.asked.append(batch.users.tolist())
        return torch.zeros(len(batch), self.n_items) - torch.arange(self.n_items)


def flat(lists):
    return [entry for entries in lists for entry in entries]


def same(a: pd.DataFrame, b: pd.DataFrame):
    pd.testing.assert_frame_equal(a.drop(columns="user"), b.drop(columns="user"))


# --- the folder --------------------------------------------------------------------------------------------------------


def test_a_folder_knows_what_fit_knew(split, folder, tmp_path):
    run = vc.fit(vc.models.MultDAE(split.n_items, latent_dim=20), split, epochs=3, device="cpu", progress=False)
    loaded = vc.load_run(folder)
    for ours, theirs in ((run.people.ids, loaded.people.ids), (run.people.train_rows, loaded.people.train_rows)):
        assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()
    assert run.people.histories.sha256 == loaded.people.histories.sha256 == split.people.histories.sha256
    assert loaded.source == run.source == split.source and loaded.source["settings"]["threshold"] == 4
    assert loaded.metric == run.metric == "ndcg@100" and loaded.best_epoch == run.best_epoch > 0
    assert loaded.curve("ndcg@100") == run.curve("ndcg@100") and loaded.best["epoch"] == run.best_epoch
    assert loaded.settings["train_sha256"] == split.train.sha256
    pd.testing.assert_frame_equal(loaded.recommend(), run.recommend())


@pytest.mark.parametrize("ids", [range(200), range(2**63, 2**63 + 200), [f"ü\n{i:03d}" for i in range(200)]])
def test_ids_of_every_kind_survive(log, tmp_path, ids):
    kind = object if isinstance(ids, list) else None
    split = vc.split_ratings(replace(log, user_ids=np.array(ids, dtype=kind)))
    vc.fit(vc.baselines.Means(split.n_items), split, out=tmp_path, progress=False)
    people = vc.load_run(tmp_path).people
    assert people.ids.dtype == split.people.ids.dtype and people.ids.tolist() == list(ids)
    assert torch.equal(people.histories.values, split.people.histories.values)
    assert people.histories.indices.dtype == torch.int64


def test_an_old_run_serves_histories_alone(folder, run, tmp_path):
    """Runs made before users were kept have neither their file nor a manifest, and the model's says nothing of settings."""
    shutil.copytree(folder, tmp_path / "old")
    for name in ("people.safetensors", "manifest.json"):
        (tmp_path / "old" / name).unlink()
    vc.save_model(run.model, tmp_path / "old" / "best.safetensors", run="x")
    old = vc.load_run(tmp_path / "old")
    same(old.recommend(histories=[3, 5, 8]), run.recommend(histories=[3, 5, 8]))
    assert old.metric == "ndcg@100" and old.best_epoch == 0 and old.source is None
    for users in ("0001", None):
        with pytest.raises(vc.DataError, match="the run does not know who its users are"):
            old.recommend(users)


def test_a_split_without_people_is_trained_and_served(split):
    nobody = replace(split, people=None)
    run = vc.fit(vc.baselines.Popularity(split.n_items), nobody, progress=False)
    assert len(run.recommend(histories=[3], k=4)) == 4


def test_a_killed_run_is_read_and_served(folder, run, tmp_path):
    """Its history is that of the sitting before, or none, and may know nothing of the best epoch."""
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "history.json"
    for rows in (run.history[: run.best_epoch - 1], None):
        path.unlink() if rows is None else path.write_text(json.dumps(rows))
        killed = vc.load_run(tmp_path / "run")
        assert killed.best == {} and killed.best_epoch == run.best_epoch
        pd.testing.assert_frame_equal(killed.recommend(), run.recommend())


def test_a_device_that_is_not_there(folder):
    with pytest.raises(vc.ConfigError, match=r"^device=xla cannot be used here .*Use 'auto' or 'cpu'$"):
        vc.load_run(folder, device="xla")


@pytest.mark.parametrize("name", ["people.safetensors", "best.safetensors", "history.json"])
def test_damage_is_named(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(vc.DataError) as caught:
        vc.load_run(tmp_path / "run")
    assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)


def test_the_users_of_another_run_are_refused(folder, log, tmp_path):
    """Whoever copies files together must not be served other people's lists."""
    shutil.copytree(folder, tmp_path / "run")
    other = vc.split_strong(log, seed=1)
    vc.fit(vc.baselines.Popularity(other.n_items), other, out=tmp_path / "other", progress=False)
    for name in ("people.safetensors", "best.safetensors"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "run" / "people.safetensors")
        with pytest.raises(vc.DataError, match=r"people.safetensors is of another run than best.safetensors"):
            vc.load_run(tmp_path / "run")


def test_the_weights_of_another_run_are_refused(folder, split, tmp_path):
    """Trained on the same data with another seed: whole, and fitting in everything but the manifest."""
    shutil.copytree(folder, tmp_path / "run")
    model = vc.models.MultDAE(split.n_items, latent_dim=20)
    vc.fit(model, split, epochs=3, seed=1, device="cpu", out=tmp_path / "other", progress=False)
    shutil.copy(tmp_path / "other" / "best.safetensors", tmp_path / "run")
    with pytest.raises(vc.DataError, match=r"best.safetensors is of another run than manifest.json beside it: put it"):
        vc.load_run(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["run"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    assert vc.load_run(tmp_path / "run").settings["seed"] == 1, "older manifests do not say which run they are of"
    (tmp_path / "run" / "manifest.json").write_text("[]")
    with pytest.raises(vc.DataError, match=r"manifest.json: damaged"):
        vc.load_run(tmp_path / "run")


def test_there_is_no_run(tmp_path):
    with pytest.raises(vc.DataError, match="not a readable checkpoint"):
        vc.load_run(tmp_path)


def test_a_finished_refit_is_served(folder, split, tmp_path):
    """One that is still being made is not: its history is written last."""
    shutil.copytree(folder, tmp_path / "run")
    vc.fit(vc.baselines.Popularity(split.n_items), split, out=tmp_path / "run" / "refit", progress=False)
    assert vc.load_run(tmp_path / "run").model.slug == "popularity"
    (tmp_path / "run" / "refit" / "history.json").unlink()
    assert vc.load_run(tmp_path / "run").model.slug == "mult-dae"


# --- serving -----------------------------------------------------------------------------------------------------------


def test_one_several_or_all_users(run, log):
    everyone = run.recommend(k=3)
    assert list(everyone.columns) == ["user", "rank", "item", "title", "score"]
    assert everyone["user"].tolist() == np.repeat(run.people.ids, 3).tolist()
    some = run.recommend(["0150", "0002"], k=3)
    assert some["user"].tolist() == ["0150"] * 3 + ["0002"] * 3
    for user in ("0150", "0002"):
        np.testing.assert_allclose(
            some[some["user"] == user]["score"], everyone[everyone["user"] == user]["score"], rtol=1e-4
        )
    assert all(log.titles[log.item_ids.tolist().index(item)] == title for item, title in zip(
        some["item"], some["title"], strict=True))  # fmt: skip
    assert run.recommend("0150")["user"].tolist() == ["0150"] * 10, "a text is one id, not its letters"
    assert run.recommend([], k=3).empty
    assert list(run.recommend([], k=3).columns) == list(everyone.columns)


CUTS = (vc.split_strong, vc.split_weak, vc.split_time, vc.split_leave_one_out, vc.data.split_all)


@pytest.mark.parametrize("cut", CUTS)
def test_nobody_is_shown_what_they_rated_below_the_threshold(log, cut, tmp_path):
    """It trains nobody and is no history, but is known: a film of one star is not recommended; all others may be."""
    log = replace(log, timestamp=np.random.default_rng(0).permutation(len(log)))
    split = cut(log, threshold=4)
    run = vc.fit(vc.baselines.Popularity(split.n_items), split, progress=False, out=tmp_path)
    rated = set(zip(log.user_ids[log.user], log.item_ids[log.item].tolist(), strict=True))
    columns = log.item_ids[split.item_index].tolist()
    expected = {(user, item) for user in run.people.ids for item in columns} - rated
    for served in (run, vc.load_run(tmp_path)):
        lists = served.recommend(k=len(columns))
        assert set(zip(lists["user"], lists["item"], strict=True)) == expected and len(lists) == len(expected)
    own = [columns[column] for column in run.people.histories.rows(torch.tensor([0])).items]
    lists = run.recommend(histories=own, k=len(columns))
    assert set(lists["item"]) == set(columns) - set(own), "of a stranger nothing else is known"


def test_ids_that_are_numbers_are_found_as_text_too(planted):
    split = vc.split_strong(planted.select(planted.user < 200))
    run = vc.fit(vc.baselines.Popularity(split.n_items), split, progress=False)
    user = int(run.people.ids[3])
    for name in (str(user), float(user), np.int32(user)):
        pd.testing.assert_frame_equal(run.recommend([name]), run.recommend(user))
    assert run.recommend(user)["user"].tolist() == [user] * 10


def test_unknown_users_are_counted(run):
    with pytest.raises(vc.DataError, match=r"^2 unknown users, the first is '1': give ids of the data, or histories$"):
        run.recommend(["0001", "1", "nobody"])
    with pytest.raises(vc.DataError, match=r"^1 unknown user, the first is 5:"):
        run.recommend(5)


def test_held_out_users_are_strangers_to_a_system_that_knows_its_users(split):
    run = vc.fit(vc.baselines.Random(split.n_items), split, progress=False)
    held_out = run.people.ids[run.people.train_rows < 0]
    message = f"^random scores only the users it was trained on, and {len(held_out)} of those asked for were held out, "
    with pytest.raises(vc.ConfigError, match=message + f"the first is {held_out[0]}"):
        run.recommend()
    trained = run.people.ids[run.people.train_rows >= 0]
    assert run.recommend(trained[:3])["user"].nunique() == 3


def test_a_system_of_either_kind_is_told_who_is_who(split):
    """A user of the training part by their row there, all others as -1."""
    run = vc.fit(Echo(split.n_items), split, epochs=0, progress=False)
    run.model.asked.clear()
    run.recommend()
    assert flat(run.model.asked) == run.people.train_rows.tolist() and -1 in run.people.train_rows
    run.model.asked.clear()
    run.recommend(histories={"a": [3], "b": [5]})
    vc.recommend(run.model, [3])
    run.model.asked.append("evaluate")
    vc.evaluate(run.model, split.test)
    assert set(flat(run.model.asked[:2])) == {-1} and set(flat(run.model.asked[3:])) == {-1}
    weak = replace(split.test, strangers=False)
    run.model.asked.clear()
    vc.evaluate(run.model, weak)
    assert flat(run.model.asked) == (weak.targets.counts > 0).nonzero()[:, 0].tolist()


def test_memory_is_bounded_by_batches(split, monkeypatch):
    """Not more people at a time than whose scores fit, nor than are worth it; the lists are the same."""
    run = vc.fit(Echo(split.n_items), split, epochs=0, progress=False)
    run.model.asked.clear()
    whole = run.recommend()
    assert [len(users) for users in run.model.asked] == [len(run.people.ids)]
    monkeypatch.setattr(serving, "SCORE_BYTES", 7.5 * 4 * split.n_items)
    run.model.asked.clear()
    pd.testing.assert_frame_equal(run.recommend(), whole)
    assert flat(run.model.asked) == run.people.train_rows.tolist(), "each batch its own people"
    assert {len(users) for users in run.model.asked[:-1]} == {7}
    monkeypatch.setattr(serving, "SCORE_BYTES", 1)
    assert len(run.recommend(run.people.ids[:2], k=1)) == 2


def test_histories_of_every_form(run, log, tmp_path):
    histories = {"b": [3, 5, 70], "a": [8], "c": log.titles[9:12]}
    ids = log.item_ids
    lists = run.recommend(histories=histories, k=4)
    assert lists["user"].tolist() == ["b"] * 4 + ["a"] * 4 + ["c"] * 4, "in the order given"
    pairs = [(user, item) for user, items in histories.items() for item in items]
    frame = pd.DataFrame(pairs, columns=["user", "item"], dtype=object)
    pd.testing.assert_frame_equal(run.recommend(histories=frame, k=4), lists)
    codes = pd.DataFrame({"user": [0, 0, 0, 1], "item": ids[[3, 5, 70, 8]]}, index=[7, 7, 7, 7])
    same(run.recommend(histories=codes, k=4), lists[:8])
    codes.astype({"user": "string", "item": "Int64"}).to_csv(tmp_path / "h.csv", index=False)
    same(run.recommend(histories=tmp_path / "h.csv", k=4), lists[:8])
    same(run.recommend(histories=str(tmp_path / "h.csv"), k=4), lists[:8])
    same(run.recommend(histories=vc.read_own_file(tmp_path / "h.csv"), k=4), lists[:8])
    alone = run.recommend(histories=[3, 5, 70], k=4)
    assert alone["user"].isna().all() and alone["item"].tolist() == lists["item"][:4].tolist()
    known = np.isin(log.item, run.model.item_index.numpy())
    some = log.select((log.user < 3) & (log.user != 1) & known)
    selected = run.recommend(histories=replace(some, rating=None))
    assert set(selected["user"]) == {"0000", "0002"}, "those that are left, and no word on items that are not"


def test_no_history_at_all(run):
    lists = run.recommend(histories={"a": [], "b": [3]}, k=3)
    assert lists["user"].tolist() == ["a"] * 3 + ["b"] * 3
    assert run.recommend(histories=[], k=3)["item"].tolist() == lists["item"][:3].tolist()
    assert run.recommend(histories={}, k=3).empty


def test_unknown_items_are_left_out_and_counted(run, split, log):
    """Counted once however often they occur; also those that no training user had."""
    whole = set(range(log.n_items)) - set(split.item_index.tolist())
    never_trained = [log.item_ids[code] for code in sorted(whole)][:1]
    histories = {"a": ["nothing", 3, *never_trained], "b": ["nothing"], "c": [5]}
    n = 1 + len(never_trained)
    with pytest.warns(UserWarning) as said:
        lists = run.recommend(histories=histories, k=3)
    assert [str(w.message) for w in said] == [
        f"the histories: {n} unknown item{'s'[: n - 1]} left out, the first is 'nothing'",
        "the histories: 1 user without any known item, the first is 'b', will get the list for an empty history",
    ]
    same(lists, run.recommend(histories={"a": [3], "b": [], "c": [5]}, k=3))
    with pytest.raises(vc.DataError, match=r"^the histories: none of its items is known, the first is 'x': use ids"):
        run.recommend(histories={"a": ["x"], "b": ["y"]})


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({"a": [True]}, "True: must be an item's code, id or title"),
        ({"a": [(3, 4.0, 1)]}, "must be an item's code, id or title"),
        ({"a": 3}, "the history of 'a' is 3: must be a list of items"),
        ({"a": "3"}, "the history of 'a' is '3': must be a list of items"),
        (7, "^the history is 7: must be a list of items"),
        ([np.arange(5000).reshape(50, 100)], r"^array\(.{,40}\): must be an item's code, id or title, or a pair"),
        (pd.DataFrame({"user": [1], "movie": [2]}), r"need one column 'item', found \['user', 'movie'\]"),
        (pd.DataFrame({"user": [1, None], "item": [2, 3]}), "the histories, row 2: user is missing"),
        ("nowhere.csv", "nowhere.csv: no such file"),
    ],
)
def test_what_is_no_history_is_refused(run, histories, message):
    with pytest.raises(vc.DataError, match=message):
        run.recommend(histories=histories)


def test_what_is_no_id_is_refused_in_one_line(run):
    for wrong in (1.5, None):
        with pytest.raises(vc.DataError, match=f"^{wrong}: must be an id, or a list of ids$"):
            run.recommend(only=wrong) if wrong else run.recommend(exclude=wrong)
    for wrong in ([3, 5], None, 1.5):
        with pytest.raises(vc.DataError, match=r"^item=.*: must be one id or title$"):
            run.similar(wrong)


def test_ratings_are_needed_or_not_read(run, rated):
    frame = pd.DataFrame({"user": ["a", "a", "b"], "item": [3, 4, 3], "rating": [5, 1, 2]})
    with pytest.warns(UserWarning, match="trained on clicks, so ratings are not read: all items count as liked"):
        lists = run.recommend(histories=frame)
    same(lists, run.recommend(histories={"a": [3, 4], "b": [3]}))
    both = rated.recommend(histories=frame, k=3)
    same(both, rated.recommend(histories={"a": [(3, 1.0), (4, 1), (3, 5)], "b": [[3, 2]]}, k=3))
    assert both["score"][0] != both["score"][3]
    for histories in ({"a": [3, 4]}, frame[["user", "item"]], frame.assign(rating=[5, np.nan, 3])):
        with pytest.raises(vc.DataError, match=r"item \d has no rating, and this means reads ratings"):
            rated.recommend(histories=histories)
    with pytest.raises(vc.DataError, match="item 3: the rating inf is not a number"):
        rated.recommend(histories=frame.assign(rating=[np.inf, 1, 1]))
    with pytest.warns(UserWarning, match="1 rating outside the training data's 1 to 5, as 9"):
        rated.recommend(histories=frame.assign(rating=[9, 1, 1]))


def test_lists_end_with_what_is_left(run, split):
    ids = np.array(split.items.ids)[split.item_index]
    assert len(run.recommend(histories=ids[2:].tolist(), k=10)) == 2
    with pytest.warns(UserWarning, match="^no item is left to recommend to 1 user$"):
        lists = run.recommend(histories={"a": ids.tolist(), "b": [3]}, k=2)
    assert lists["user"].tolist() == ["b", "b"]
    few = run.recommend(["0001", "0002"], k=10, only=ids[:4], exclude=str(ids[0]))
    assert set(few["item"]) <= set(ids[1:4].tolist()) and few.groupby("user")["rank"].max().max() <= 3


def test_unknown_candidates_are_counted(run, log):
    with pytest.warns(UserWarning, match="^only: 1 unknown item, the first is 'x'$"):
        assert (
            run.recommend("0001", only=["x", log.titles[3], log.titles[4], log.titles[5]])["item"].isin([3, 4, 5]).all()
        )
    with pytest.warns(UserWarning, match="^exclude: 2 unknown items, the first is 'x'$"):
        pd.testing.assert_frame_equal(run.recommend("0001", exclude=["x", "y"]), run.recommend("0001"))
    with pytest.raises(vc.DataError, match="only: 1 unknown item, the first is 'x', and no other"):
        run.recommend("0001", only="x")


def test_users_and_histories_are_two_things(run, knowing):
    with pytest.raises(vc.ConfigError, match=r"give either users, by their ids, or histories"):
        run.recommend("0001", histories=[3])
    with pytest.raises(vc.ConfigError, match=r"^ncf scores only the users it was trained on and cannot read a new"):
        knowing.recommend(histories=[(3, 5.0)])
    for k in (0, True, 2.5):
        for serve in (lambda k: run.recommend("0001", k=k), lambda k: run.similar(3, k)):
            with pytest.raises(vc.ConfigError, match="length of the list must be a whole number above 0"):
                serve(k)


def test_serving_leaves_a_training_as_it_is(split):
    """A callback may look at lists: dropout stays on for the next update."""
    run = vc.fit(vc.models.MultDAE(split.n_items, latent_dim=4), split, epochs=1, progress=False)
    run.model.train()
    assert run.recommend("0001").equals(run.recommend("0001")) and run.model.training


def test_similar_items_by_id_or_title(run, log):
    found = run.similar(3, k=4)
    assert list(found.columns) == ["rank", "item", "title", "similarity"] and found["rank"].tolist() == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(run.similar(log.titles[3], k=4), found)
    everything = run.similar(3, k=10_000)["item"].tolist()
    assert len(everything) == run.model.n_items - 1 and 3 not in everything
    with pytest.raises(vc.DataError, match="no item is called 'Jaws'"):
        run.similar("Jaws")


def test_a_layer_for_users_is_none_for_items(log):
    """AutoRec on items decodes to users: where there are as many of them as items, too."""
    split = vc.split_ratings(log)
    train = Interactions.from_pairs([0, 1, 2], [0, 1, 2], [1.0, 2.0, 3.0], shape=(5, 5))
    model = vc.baselines.AutoRecI(5, hidden=3)
    model.prepare(train)
    model.start(train)
    assert model.item_vectors() is model.codes
    assert vc.baselines.BiasedMF(split.n_items, latent_dim=6, n_users=4).item_vectors().shape[1] == 6, "no bias"


# --- evaluation --------------------------------------------------------------------------------------------------------


def test_on_the_test_part_of_its_own_data(run, log, split):
    assert run.evaluate(split) == vc.evaluate(run.model, split.test) == run.evaluate(split.test)
    assert set(run.evaluate(split, ("ndcg@5",))) == {"ndcg@5"}
    with pytest.raises(vc.ConfigError, match="the run was trained on planted: cut it as the run did"):
        run.evaluate(log)
    with pytest.raises(vc.ConfigError, match="the split has other items than the run"):
        run.evaluate(vc.split_strong(log, seed=3, n_heldout=50))


def test_what_holds_nothing_out_is_refused(run, log):
    everything = vc.split_all(log)
    whole = vc.fit(vc.baselines.Popularity(everything.n_items), everything, progress=False)
    for evaluate in (whole.evaluate, lambda split: vc.evaluate(whole.model, split.test)):
        with pytest.raises(vc.ConfigError, match=r"^the split holds nothing out to evaluate on: use one that does"):
            evaluate(everything)
    with pytest.raises(vc.ConfigError, match=r"^the run was trained on all of planted, nothing was held out"):
        whole.evaluate(log)
    for wrong in ("planted", log.rating):
        with pytest.raises(vc.ConfigError, match=r"^.* is no held-out part: give one of a split, as split\.test$"):
            run.evaluate(wrong)


def test_a_split_whose_test_part_was_trained_on_is_refused(log):
    """It has the run's items, so that only the training part tells it from the run's own."""
    split = vc.split_weak(log)
    run = vc.fit(vc.baselines.Popularity(split.n_items), split, progress=False)
    assert run.evaluate(vc.split_weak(log)) == run.evaluate(split)
    with pytest.raises(vc.ConfigError, match=r"^the run was trained on another part of these data"):
        run.evaluate(vc.split_weak(log, seed=1))


def other_people(planted, log):
    """Other users of the planted data, without some items and with one that the run does not know."""
    others = planted.select((planted.user >= 500) & (planted.user < 700) & (planted.item % 7 != 0))
    ids = planted.item_ids.astype(object)
    ids[8] = 99_999
    order = np.argsort(ids.astype(int), kind="stable")
    place = np.argsort(order)
    return replace(others, item_ids=ids[order].astype(int), item=place[others.item], titles=None)


def test_on_other_people(run, planted, log):
    """Items are found by their ids, the run's threshold makes the clicks, a fifth of each user is to be found."""
    other = other_people(planted, log)
    codes = np.unique(other.item)
    ids, known = other.item_ids[codes], run.model.item_index.tolist()
    unknown = [i for i in ids.tolist() if i not in known]
    message = f"^planted: {len(unknown)} unknown items left out, the first is {unknown[0]}$"
    assert 99_999 in unknown and len(unknown) > 1
    with pytest.warns(UserWarning, match=message):
        result = run.evaluate(other, ("recall@20", "ndcg@100"))
    liked = planted.select(
        (planted.user >= 500) & (planted.user < 700) & (planted.item % 7 != 0) & (planted.item != 8)
        & (planted.rating >= 4) & np.isin(planted.item, run.model.item_index.numpy())
    )  # fmt: skip
    counts = np.bincount(liked.user)
    assert result["ndcg@100"].n_users == (counts >= 5).sum()
    with pytest.warns(UserWarning):
        heldout = run.held_out(other, 98765)
    assert heldout.strangers
    pairs = [part.pairs() for part in (heldout.history, heldout.targets)]
    codes = run.model.item_index.numpy()
    found = [set(zip(users.tolist(), codes[items].tolist(), strict=True)) for users, items in pairs]
    assert found[0] | found[1] == set(zip(liked.user.tolist(), liked.item.tolist(), strict=True))
    assert not found[0] & found[1]
    assert heldout.targets.counts.tolist() == [int(0.2 * n) if n >= 5 else 0 for n in heldout_counts(counts, heldout)]
    with pytest.warns(UserWarning):
        assert run.evaluate(other, ("ndcg@100",), seed=1) != {"ndcg@100": result["ndcg@100"]}


def heldout_counts(counts, heldout):
    return np.pad(counts, (0, heldout.history.n_users - len(counts)))


def test_a_split_of_the_file_is_kept(rated, planted):
    other = planted.select((planted.user >= 500) & (planted.user < 600))
    test = np.random.default_rng(0).random(len(other)) < 0.3
    result = rated.evaluate(replace(other, is_test=test))
    assert set(result) == {"rmse", "mae"} and result["rmse"].n_users == len(set(other.user[test]))
    truth = HeldOut(*(
        Interactions.from_pairs(other.user[keep], other.item[keep], other.rating[keep],
                                shape=(other.n_users, other.n_items)) for keep in (~test, test)))  # fmt: skip
    assert result == vc.evaluate(rated.model, truth, ("rmse", "mae"))
    with pytest.raises(vc.DataError, match="has no ratings, and this means was trained on ratings"):
        rated.evaluate(replace(other, rating=None))


def test_on_what_is_new_of_known_users(knowing, log):
    """A system that knows its users must find what the run has not seen of them, and nothing else."""
    known = knowing.people.histories.rows(torch.tensor([3, 1]))
    new = {("0003", 1.0), ("0001", 5.0)}
    rows = [("0003", int(known.items[0]), 2.0)]
    for user, rating in sorted(new):
        own = set(known.items[known.rows == (0 if user == "0003" else 1)].tolist())
        rows.append((user, next(i for i in range(log.n_items) if i not in own), rating))
    frame = pd.DataFrame(rows, columns=["user", "item", "rating"])
    later = replace(
        log, user=np.array([1 if u == "0003" else 0 for u in frame["user"]]), item=frame["item"].to_numpy(),
        rating=frame["rating"].to_numpy(np.float32), timestamp=None, user_ids=np.array(["0001", "0003"], dtype=object),
    )  # fmt: skip
    heldout = knowing.held_out(later, 0)
    users, items = heldout.targets.pairs()
    expected = {(int(u), i) for u, i, _ in rows[1:]}
    assert set(zip(users.tolist(), items.tolist(), strict=True)) == expected and not heldout.strangers
    assert heldout.history.sha256 == knowing.people.histories.sha256, "all of them are training users"
    assert knowing.evaluate(later)["rmse"].n_users == 2
    strangers = replace(later, user_ids=np.array(["0001", "none"], dtype=object))
    with pytest.raises(vc.DataError, match="1 unknown user, the first is 'none'"):
        knowing.evaluate(strangers)


def test_strangers_are_not_judged_by_a_system_that_knows_its_users(knowing, log):
    """Their row numbers are other people's: by chance there might be an answer."""
    shape = (3, knowing.model.n_items)
    history = Interactions.from_pairs([0, 1], [3, 4], [5.0, 1.0], shape=shape)
    targets = Interactions.from_pairs([0, 1], [5, 6], [5.0, 1.0], shape=shape)
    with pytest.raises(vc.ConfigError, match=r"^ncf scores only the users it was trained on, and these are others"):
        vc.evaluate(knowing.model, HeldOut(history, targets, strangers=True), ("rmse",))
    assert vc.evaluate(knowing.model, HeldOut(history, targets), ("rmse",))["rmse"].n_users == 2
    assert HeldOut(history, targets, strangers=True).to("cpu").strangers


def test_held_out_users_are_strangers_and_held_out_ratings_are_not(log, split):
    assert split.valid.strangers and split.test.strangers
    assert not vc.split_weak(log).test.strangers and not vc.split_ratings(log).test.strangers


def test_nothing_of_other_data_is_known(run, log):
    foreign = replace(log, item_ids=np.array([f"x{i}" for i in range(log.n_items)], dtype=object))
    with pytest.raises(vc.DataError, match="planted: none of its items is known to the run, the first is x0"):
        run.evaluate(foreign)


# --- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def call(capsys, monkeypatch):
    from vaecf_lib import cli

    def vaecf(*arguments):
        monkeypatch.setattr(sys, "argv", ["vaecf", *map(str, arguments)])
        monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return vaecf


READERS = {
    ".csv": pd.read_csv,
    ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    ".json": lambda path: pd.read_json(path, lines=True),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}


@pytest.mark.parametrize("kind", READERS)
def test_lists_are_written_to_a_file(call, run, folder, tmp_path, kind):
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "people.csv").write_text("user,item\nann,3\nann,5\nbob,8\n")
    out = tmp_path / f"lists{kind}"
    assert call("recommend", folder, "--histories", tmp_path / "people.csv", "-k", 3, "--out", out) == (0, "", "")
    expected = run.recommend(histories={"ann": [3, 5], "bob": [8]}, k=3)
    pd.testing.assert_frame_equal(READERS[kind](out), expected, check_dtype=False, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_tables_on_the_command_line(call, run, folder, tmp_path, log):
    code, out, _ = call("recommend", folder, "--users", "0002,0150", "-k", 2)
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and lines[0] == ["user", "rank", "item", "title", "score"]
    expected = run.recommend(["0002", "0150"], k=2)
    assert [line[:4] for line in lines[1:]] == expected.iloc[:, :4].astype(str).to_numpy().tolist()
    (tmp_path / "users.txt").write_text("0002\n0150\n")
    assert call("recommend", folder, "--users", tmp_path / "users.txt", "-k", 2)[1] == out
    (tmp_path / "items.txt").write_text(f"{log.titles[5]}\n7\n9\n")
    listed = call("recommend", folder, "--users", "0002", "--only", tmp_path / "items.txt", "--exclude", "7,1")
    items = {line.split("\t")[2] for line in listed[1].splitlines()[1:]}
    assert items and items <= {"5", "9"}
    assert len(call("recommend", folder, "-k", 1)[1].splitlines()) == len(run.people.ids) + 1, "everyone"
    code, out, _ = call("similar", folder, log.titles[3], "-k", 2)
    assert [line.split("\t")[1] for line in out.splitlines()[1:]] == list(map(str, run.similar(3, 2)["item"]))


def test_a_refused_history_is_called_by_its_file(call, folder, tmp_path):
    """Of one person, of many, and for a system that reads ratings: whoever wrote the file must find it again."""
    one, many, stars = tmp_path / "one.csv", tmp_path / "many.csv", tmp_path / "stars"
    split = vc.split_ratings(vc.load_dataset("planted"))
    vc.fit(vc.baselines.Means(split.n_items), split, device="cpu", progress=False, out=stars)
    for option, path, columns, user in (("--history", one, "item", ""), ("--histories", many, "user,item", "ann,")):
        path.write_text(f"{columns}\n{user}Jaws\n")
        code, _, err = call("recommend", folder, option, path)
        assert code == 2 and err.startswith(f"error: {path}: none of its items is known, the first is 'Jaws'")
        path.write_text(f"{columns}\n{user}Jaws\n{user}3\n")
        assert call("recommend", folder, option, path)[2].startswith(f"warning: {path}: 1 unknown item left out")
        path.write_text(f"{columns}\n{user}3\n")
        code, _, err = call("recommend", stars, option, path)
        assert (
            code == 2 and err.startswith(f"error: {path}: item ") and "give (item, rating), in a file a column" in err
        )
        path.write_text(f"{columns},rating\n{user}3,9\n")
        assert call("recommend", stars, option, path)[2].startswith(f"warning: {path}: 1 rating outside the training")


def test_a_saved_run_is_evaluated_on_the_command_line(call, tmp_path):
    fit = ["fit", "popularity", "--dataset", "planted", "--out", tmp_path / "run", "--set", "threshold=5", "--json"]
    metrics = json.loads(call(*fit)[1])["metrics"]
    result = json.loads(call("evaluate", tmp_path / "run", "--dataset", "planted", "--json")[1])
    assert result["metrics"] == metrics and result["part"] == "test", "the run's own split, whatever its settings"
    (tmp_path / "other.csv").write_text(
        "user,item\n" + "".join(f"{u},{3 * i + u}\n" for u in range(9) for i in range(9))
    )
    code, out, err = call("evaluate", tmp_path / "run", "--interactions", tmp_path / "other.csv", "--metrics", "mrr@5")
    assert code == 0 and out.startswith("mrr@5 ") and "(9 users)" in out and not err


def test_a_refit_is_judged_on_its_data_by_the_run_before(call, log, tmp_path):
    """The refit has seen the test part; other data it is measured on itself, and alone it has none of its own."""
    file, other, run = tmp_path / "own.csv", tmp_path / "other.csv", tmp_path / "run"
    rows = zip(log.user, log.item, log.rating, strict=True)
    file.write_text("who,item,rating\n" + "".join(f"{u},{i},{r:g}\n" for u, i, r in rows))
    other.write_text("user,item\n" + "".join(f"{u},{7 * i + u}\n" for u in range(9) for i in range(9)))
    data = ("--interactions", file, "--columns", "user=who")
    fit = ["fit", "popularity", *data, "--protocol", "weak", "--out", run, "--refit", "--json"]
    metrics = json.loads(call(*fit)[1])["metrics"]
    names = ("--metrics", ",".join(metrics))
    code, out, err = call("evaluate", run, *data, *names, "--json")
    assert code == 0 and json.loads(out)["metrics"] == metrics and json.loads(out)["part"] == "test"
    before, after = vc.load_run(run, refit=False), vc.load_run(run)
    assert before.source["protocol"] == "weak" and after.source["protocol"] == "all"
    shutil.copytree(run, tmp_path / "before", ignore=shutil.ignore_patterns("refit"))
    novelty = {
        folder: call("evaluate", folder, "--interactions", other, "--metrics", "novelty@5")[1]
        for folder in (run, run / "refit", tmp_path / "before")
    }
    assert novelty[run] == novelty[run / "refit"] != novelty[tmp_path / "before"]
    code, out, err = call("evaluate", run / "refit", *data)
    assert code == 2 and out == "" and "the run was trained on all of own, nothing was held out: give other data" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "RUN", "--users", "0002", "--history", "x"], "give one of --users, --histories and --history"),
        (["recommend", "RUN", "--out", "lists.doc"], "lists.doc: unknown kind '.doc'. Use .csv, .tsv, .parquet, .json"),
        (["recommend", "RUN", "--users", "1"], "1 unknown user, the first is '1'"),
        (
            ["recommend", "RUN", "--users", "0002", "--out", "nowhere/l.csv"],
            "nowhere/l.csv: there is no folder nowhere",
        ),
        (["recommend", "RUN", "--only", "x" * 5000], "only: 1 unknown item"),
        (["similar", "RUN", "Jaws"], "no item is called 'Jaws'"),
        (["evaluate", "RUN"], "give either --dataset NAME or --interactions FILE"),
        (["evaluate", "RUN", "--dataset", "planted", "--metrics", "x"], "unknown metric 'x'"),
        (["evaluate", "RUN", "--dataset", "planted", "--columns", "user=u"], "--columns names the columns of your own"),
    ],
)
def test_errors_are_one_line(call, folder, arguments, message):
    code, out, err = call(*[folder if argument == "RUN" else argument for argument in arguments])
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("error: ") and message in err
