"""Tables made into rating logs."""

import uuid

import numpy as np
import pandas as pd
import pytest

import vaecf_lib as vc


def log_of(**columns):
    return vc.RatingLog.from_frame("mine", pd.DataFrame(columns))


def test_ids_are_numbered_in_ascending_order():
    log = log_of(user=[30, 4, 30], item=["b", "b", "a"], timestamp=[2**60 + 1, 0, 1])
    assert log.user_ids.tolist() == [4, 30] and log.user.tolist() == [1, 0, 1]
    assert log.item_ids.tolist() == ["a", "b"] and log.item.tolist() == [1, 1, 0]
    assert log.timestamp[0] == 2**60 + 1


def test_is_test_as_numbers():
    assert log_of(user=[1, 2], item=[1, 2], is_test=[0.0, 1.0]).is_test.tolist() == [False, True]


def test_a_column_that_is_there_twice_is_named():
    table = pd.DataFrame([[1, 2, 3.0, 4.0]], columns=["user", "item", "rating", "rating"])
    with pytest.raises(vc.DataError, match=r"needs one column 'rating', found \['user', 'item', 'rating', 'rating'"):
        vc.RatingLog.from_frame("mine", table)


BROKEN = [
    ({"userId": [1], "item": [1]}, r"needs one column 'user', found \['userId', 'item'\]\. Rename the columns"),
    ({"user": [1]}, "needs one column 'item'"),
    ({"user": [], "item": []}, "no ratings found"),
    ({"user": [1, "1"], "item": [1, 2]}, r"the ids of user are not all numbers or all text .*astype\(str\)"),
    ({"user": [[1], [2]], "item": [1, 2]}, "the ids of user are not all numbers or all text"),
    ({"user": [1, 2], "item": [uuid.UUID(int=5), uuid.UUID(int=6)]}, r"item UUID\(.*neither a number nor text"),
    ({"user": [(1, 2), (1, 3)], "item": [1, 2]}, r"user \(1, 2\) is neither a number nor text.*astype\(str\)"),
    ({"user": [1, None], "item": [1, 2]}, "row 2: user is missing"),
    ({"user": [1, 1], "item": [2, 2]}, "line 2: user 1 and item 2 stand there a second time"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1, "x"]}, "rating must be a finite number"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1, np.nan]}, "row 2: rating is nan, but must be a finite number"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1, 1e39]}, r"row 2: rating is 1e\+39"),
    ({"user": [1, 2], "item": [1, 2], "rating": [-1e39, 1]}, r"row 1: rating is -1e\+39"),
    ({"user": [1, 2], "item": [1, 2], "timestamp": [1, np.nan]}, "row 2: timestamp is nan"),
    ({"user": [1, 2], "item": [1, 2], "timestamp": [1, 1e30]}, r"row 2: timestamp is 1e\+30"),
    ({"user": [1, 2], "item": [1, 2], "is_test": ["no", "yes"]}, "is_test must be 0 or 1"),
    ({"user": [1, 2], "item": [1, 2], "is_test": [2, 1]}, "row 1: is_test is 2, but must be 0 or 1"),
]


@pytest.mark.parametrize(("columns", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_tables_are_named(columns, message):
    """Not a KeyError or TypeError from inside NumPy, and no text that is silently true."""
    with pytest.raises(vc.DataError, match="mine.*" + message):
        log_of(**columns)
