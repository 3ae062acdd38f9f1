"""The user's own .csv, .tsv, .parquet and .npz."""

import numpy as np
import pandas as pd
import pytest

import vaecf_lib as vc

TABLE = pd.DataFrame({"user": ["ann", "bob", "bob"], "item": ["x", "x", "y"], "rating": [4.0, 5.0, 1.0]})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "npz"])
def test_every_kind_reads_the_same(tmp_path, kind):
    path = tmp_path / f"mine.{kind}"
    if kind == "csv":
        TABLE.to_csv(path, index=False)
    elif kind == "tsv":
        TABLE.to_csv(path, sep="\t", index=False)
    elif kind == "parquet":
        TABLE.to_parquet(path)
    else:
        np.savez(path, user=np.array(["ann", "bob", "bob"]), item=np.array(["x", "x", "y"]), rating=[4.0, 5.0, 1.0])
    log = vc.read_own_file(path)
    assert log.user_ids.tolist() == ["ann", "bob"] and log.item_ids.tolist() == ["x", "y"]
    assert log.user.tolist() == [0, 1, 1] and log.rating.tolist() == [4.0, 5.0, 1.0]


def test_other_column_names_and_no_ratings(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("UserId,movieId\n7,3\n8,3\n")
    log = vc.read_own_file(path)
    assert log.rating is None and log.user_ids.tolist() == [7, 8]


def test_repeated_pairs_are_merged_with_a_count(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("user,item,rating\n1,1,2\n1,1,5\n2,1,3\n")
    with pytest.warns(UserWarning, match="1 repeated"):
        log = vc.read_own_file(path)
    assert len(log) == 2 and 5.0 in log.rating and 2.0 not in log.rating


def test_npz_with_its_own_split(tmp_path):
    path = tmp_path / "split.npz"
    np.savez(path, user=[0, 0, 1, 1], item=[0, 1, 0, 1], rating=[1.0, 2, 3, 4], is_test=[False, True, False, True])
    split = vc.split_ratings(vc.read_own_file(path), valid=0.0, train=0.9, test=0.1)
    assert split.test.targets.values.tolist() == [2.0, 4.0]


BROKEN = [
    ("none.csv", None, "no such file"),
    ("x.csv", "", "cannot be read as .csv"),
    ("x.csv", "user,item\n", "no interactions inside"),
    ("x.csv", "who,what\n1,2\n", r"no column 'user' among \['who', 'what'\]"),
    ("x.csv", "user,item,rating\n1,2,3\n1,3,good\n", "line 3: rating is missing or not a number"),
    ("x.csv", "user,item,rating\n1,2,inf\n", "line 2: rating is missing or not a number"),
    ("x.csv", "user,item\n1,2\n1,\n", "line 3: item is missing"),
    ("x.csv", "user,item\n1,2\n\n1,4\n", "line 3: user is missing"),
    ("x.json", "{}", "unknown kind '.json'"),
    ("x.npz", "not a zip", "cannot be read as .npz"),
    ("x.parquet", "not parquet", "cannot be read as .parquet"),
]


@pytest.mark.parametrize(("name", "text", "message"), BROKEN)
def test_broken_files_are_named(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(vc.DataError, match=message) as caught:
        vc.read_own_file(path)
    assert str(path) in str(caught.value)


def test_npz_with_pickles_is_refused(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, user=np.array([{}], dtype=object), item=np.array([1]))
    with pytest.raises(vc.DataError, match="cannot be read"):
        vc.read_own_file(path)
