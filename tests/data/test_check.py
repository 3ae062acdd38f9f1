"""The report before training: its counts are those of the real reader and splitter."""

import json

import numpy as np
import pandas as pd
import pytest

import vaecf_lib as vc
from vaecf_lib.experiment import PROTOCOLS, cuts_of

CSV = "uid,item,score,when,title\n" + "".join(
    f"{user:02d},{item},{1 + (user + item) % 5},2020-01-{1 + (user + item) % 6:02d},film {item}\n"
    for user in range(30)
    for item in range(6)
)


@pytest.fixture
def mine(tmp_path):
    """Thirty users "00" to "29" with six items each, and one pair that is there twice."""
    (tmp_path / "mine.csv").write_text(CSV + "00,0,5,2020-01-01,another\n", encoding="utf-8")
    with pytest.warns(UserWarning):
        return vc.read_own_file(tmp_path / "mine.csv", time="when")


def test_what_a_file_holds(mine):
    report = vc.data.check(mine)
    assert (report.users, report.items, report.interactions, report.density) == (30, 6, 180, 1.0)
    assert (report.user_ids, report.item_ids, report.titles) == ("text", "whole numbers", True)
    assert report.ratings == (1.0, 5.0, 5) and report.dates == ("2020-01-01 00:00:00", "2020-01-06 00:00:00")
    assert report.reading.rows == 181 and report.reading.left_out == {"repeated pairs": 1} and report.splits == {}
    assert report.activity == {"1": 0, "2-4": 0, "5-9": 30}
    text = str(report)
    for line in (
        "mine: 181 rows read, 1 left out (repeated pairs)",
        "columns: timestamp from 'when', user from 'uid', item from 'item', rating from 'score', title from 'title'",
        "30 users (ids: text)",
        "6 items (ids: whole numbers), with titles",
        "180 interactions, 100 % of all pairs",
        "ratings from 1 to 5, 5 distinct values",
        "timestamps from 2020-01-01 00:00:00 to 2020-01-06 00:00:00",
        "            5-9      30 " + "#" * 40,
    ):
        assert line in text.splitlines()
    assert "1 item with several titles, the first is kept" in text and "1 repeated (user, item) pair merged" in text


def test_sizes_are_those_of_the_splits(mine):
    """One implementation: what training would get is what is reported."""
    report = vc.data.check(
        mine, cuts_of(PROTOCOLS, {"threshold": 1, "valid": 0.2, "n_heldout": 5, "min_items": 3, "train": 0.7})
    )
    assert list(report.splits) == list(PROTOCOLS)
    strong = vc.split_strong(mine, n_heldout=5, threshold=1, min_items=3)
    found = report.splits["strong"]
    assert found.kept == str(strong.kept) and found.train.users == 20 and found.train.interactions == strong.train.nnz
    assert (
        found.test.interactions == strong.test.targets.nnz
        and found.test.users_without_targets == strong.test.n_without_targets
    )
    assert found.test.items == len(strong.test.targets.indices.unique()) < 6
    assert found.test.users + found.test.users_without_targets == 5
    found = report.splits["time"]  # 144 of 180 would be train, and 30 have each moment: 4 train, 1 validates, 1 is left
    assert (found.train.interactions, found.valid.interactions, found.test.interactions) == (120, 30, 30)
    assert (found.valid.users, found.valid.items, found.valid.users_without_targets) == (30, 6, 0)
    assert report.splits["ratings"].valid.interactions == 36 and report.splits["ratings"].kept is None
    assert report.splits["weak"].train.items == 6
    text = str(report)
    assert "ratings: everything is kept" in text and f"strong: {strong.kept}" in text
    assert json.loads(json.dumps(report.to_json()))["splits"]["strong"]["train"]["users"] == 20


def test_a_split_that_cannot_be_made_says_why_and_the_others_are_reported():
    log = vc.RatingLog.from_frame(
        pd.DataFrame({"user": np.repeat(np.arange(10), 5), "item": np.tile(np.arange(5), 10)})
    )
    report = vc.data.check(log, PROTOCOLS)
    refused = {protocol: split.refused for protocol, split in report.splits.items()}
    assert "has no timestamps" in refused["time"] and "has no ratings" in refused["ratings"]
    assert refused["weak"] is refused["strong"] is refused["leave-one-out"] is None
    assert report.splits["time"].train is None and report.splits["weak"].valid is None
    assert "no timestamps" in str(report) and "no ratings: clicks" in str(report)


def test_warnings_that_would_come_are_in_the_report():
    lonely = np.r_[np.repeat(np.arange(10), 5), 10:40]
    log = vc.RatingLog.from_frame(
        pd.DataFrame({"user": lonely, "item": np.r_[np.tile(np.arange(5), 10), np.zeros(30, int)]})
    )
    (note,) = vc.data.check(log, {"weak": vc.split_weak}).splits["weak"].warnings
    assert "10 of 40 users kept" in note and f"warning: {note}" in str(vc.data.check(log, {"weak": vc.split_weak}))


def test_sizes_count_whom_a_part_holds_and_not_whom_it_could():
    """A part has the rows and columns of the whole data: users and items without an interaction are none of its."""
    part = vc.data.Interactions.from_pairs([0, 0, 3], [1, 2, 2], shape=(5, 7))
    assert vc.data.PartSize.of(part, 4) == vc.data.PartSize(users=2, items=2, interactions=3, users_without_targets=4)


@pytest.mark.parametrize(
    ("most", "labels"),
    [(1, ["1"]), (2, ["1", "2-4"]), (5, ["1", "2-4", "5-9"]), (999, None), (1000, None), (5000, None)],
)
def test_the_histogram_has_ten_lines_at_most(most, labels):
    """Every user in one bin, up to the most active."""
    user = np.r_[np.zeros(most, int), 1, 2]
    log = vc.RatingLog.from_frame(pd.DataFrame({"user": user, "item": np.r_[np.arange(most), 0, 0]}))
    activity = vc.data.check(log).activity
    assert sum(activity.values()) == 3 and len(activity) == (len(labels) if labels else 9 + (most > 999))
    assert activity["1"] == (3 if most == 1 else 2) and list(activity.values())[-1] >= 1
    assert labels is None or list(activity) == labels


def test_odd_timestamps_are_shown_as_they_are():
    """Milliseconds, or years before 1970, are no date in seconds."""
    log = vc.RatingLog.from_frame(pd.DataFrame({"user": [1, 2], "item": [1, 2], "timestamp": [-5, 1577836800000]}))
    assert vc.data.check(log).dates == ("-5", "1577836800000")


def test_a_published_test_part_is_counted():
    log = vc.RatingLog.from_frame(pd.DataFrame({"user": [1, 2], "item": [1, 2], "is_test": [0, 1]}))
    assert vc.data.check(log).published_test == 1 and "is_test marks 1 interaction" in str(vc.data.check(log))
