"""Tables and matrices made into rating logs."""

import sys
import uuid

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaecf_lib as vc
from vaecf_lib.data.ratings import log_of_table


def log_of(**columns):
    return vc.RatingLog.from_frame(pd.DataFrame(columns), name="mine")


def rows(log):
    """(user id, item id, rating) of each entry in the log's order."""
    ratings = [None] * len(log) if log.rating is None else log.rating.tolist()
    return list(zip(log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist(), ratings, strict=True))


def test_ids_are_numbered_in_ascending_order():
    log = log_of(user=[30, 4, 30], item=["b", "b", "a"], timestamp=[2**60 + 1, 0, 1])
    assert log.user_ids.tolist() == [4, 30] and log.user.tolist() == [1, 0, 1]
    assert log.item_ids.tolist() == ["a", "b"] and log.item.tolist() == [1, 1, 0]
    assert log.timestamp[0] == 2**60 + 1


def test_is_test_as_numbers():
    assert log_of(user=[1, 2], item=[1, 2], is_test=[0.0, 1.0]).is_test.tolist() == [False, True]


def test_columns_by_their_usual_names_and_by_given_ones():
    """What is given is read, even if another column has the usual name; and it is not read twice."""
    df = pd.DataFrame(
        {"UserId": [7, 8], "item": ["a", "b"], "score": [1, 2], "when": ["2020-01-01", "1970-01-02"], 4: [5, 6]}
    )
    log = vc.RatingLog.from_frame(df)
    assert rows(log) == [(7, "a", 1.0), (8, "b", 2.0)] and log.timestamp is None and log.name == "frame"
    assert log.reading.columns == {"user": "UserId", "item": "item", "rating": "score"}
    assert log.reading.unused == ("4", "when") and log.reading.rows == 2
    log = vc.RatingLog.from_frame(df, item="score", rating=4, time="when")
    assert rows(log) == [(7, 1, 5.0), (8, 2, 6.0)] and log.timestamp.tolist() == [1577836800, 86400]
    assert vc.RatingLog.from_frame(df.rename(columns={"item": "thing"}), item="score").rating is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"user": "who"}, r"mine: no column 'who' to read as the user among \['user', 'item'\]"),
        ({"user": "item"}, "no column 'item' among"),
        ({"user": "item", "item": "item"}, "column 'item' is given twice: name one column for each of user, item"),
        ({"time": "item"}, "no column 'item' among"),
    ],
)
def test_given_names_that_do_not_fit(given, message):
    with pytest.raises(vc.DataError, match=message):
        vc.RatingLog.from_frame(pd.DataFrame({"user": [1], "item": [2]}), name="mine", **given)


@pytest.mark.parametrize(
    ("time", "row"), [(["soon", "later"], 1), ([np.nan, 1.0], 1), ([1.0, np.inf], 2), ([1.0, 1e30], 2)]
)
def test_times_that_were_asked_for_must_be_times(time, row):
    """Else they are left out, with a warning: nobody asked for them."""
    df = pd.DataFrame({"user": [1, 2], "item": [2, 3], "time": time})
    with pytest.raises(vc.DataError, match=rf"frame, row {row}: time \(read as the timestamp\) is "):
        vc.RatingLog.from_frame(df, time="time")
    with pytest.warns(UserWarning, match="so timestamps are left out"):
        log = vc.RatingLog.from_frame(df)
    assert log.timestamp is None and "timestamp" not in log.reading.columns and len(log.reading.warnings) == 1


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pd.array([7, 2**60 + 1], dtype="Int64"), [7, 2**60 + 1]),
        (pd.array([7, 2**64 - 1], dtype="UInt64"), [7, 2**64 - 1]),
        (pd.array([7, 9], dtype="int64[pyarrow]"), [7, 9]),
        (pd.array([7.0, 9.0], dtype="Float64"), [7, 9]),
        (pd.Series([7, 9], dtype=object), [7, 9]),
        (pd.Series([7, 2**64 - 1], dtype=object), [7, 2**64 - 1]),
        (pd.Categorical([9, 7], categories=[9, 8, 7]), [7, 9]),
        (pd.Categorical(["b", "NA"]), ["NA", "b"]),
        (pd.array(["0012", "12"], dtype="string"), ["0012", "12"]),
        (pd.array(["0012", "NA"], dtype="string[pyarrow]"), ["0012", "NA"]),
        (pd.Series(["7", "8"]), ["7", "8"]),  # text is text in a table that has types
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_ids_of_every_type_of_pandas(ids, expected):
    log = log_of(user=ids, item=ids)
    assert log.user_ids.tolist() == log.item_ids.tolist() == expected


def test_ratings_and_times_of_every_type_of_pandas():
    for ratings in (
        pd.array([1, 4], dtype="Int8"),
        pd.Categorical([1, 4]),
        pd.Series(["1", "4"]),
        pd.Series([True, 4]),
    ):
        assert log_of(user=[1, 2], item=[1, 2], rating=ratings).rating.tolist() == [1.0, 4.0]
    dates = pd.to_datetime(["2020-01-01 00:00:01", "1970-01-01 00:00:00"])
    for time in (
        dates,
        dates.tz_localize("UTC"),
        dates.astype("datetime64[s]"),
        pd.array(dates, dtype="timestamp[ns][pyarrow]"),
    ):
        assert log_of(user=[1, 2], item=[1, 2], timestamp=time).timestamp.tolist() == [1577836801, 0]
    assert log_of(user=[1], item=[1], is_test=pd.array([True], dtype="boolean")).is_test.tolist() == [True]


def test_repeated_pairs_of_a_table_keep_the_last_row():
    """As in a file: one behaviour for all that is the user's own."""
    with pytest.warns(UserWarning, match=r"mine: 2 repeated \(user, item\) pairs merged, the last rating kept"):
        log = log_of(user=[1, 2, 1, 1], item=[5, 5, 5, 5], rating=[1, 2, 3, 4], timestamp=[9, 9, 9, 0])
    assert rows(log) == [(2, 5, 2.0), (1, 5, 4.0)] and log.timestamp.tolist() == [9, 0]
    assert log.reading.rows == 4 and log.reading.left_out == {"repeated pairs": 2}


def test_repeated_pairs_of_the_catalogue_are_an_error():
    frame = pd.DataFrame({"user": [1, 2, 1, 1], "item": [5, 5, 5, 5]})
    frame.attrs = {"where": "x/u.data", "first_line": 2}
    with pytest.raises(
        vc.DataError, match=r"x/u\.data, line 4: user 1 and item 5 stand there a second time; 2 such rows"
    ):
        log_of_table("mine", frame, None)


def test_titles_belong_to_items():
    """The first of several is kept; an item without one is called by its id."""
    with pytest.warns(UserWarning, match="mine: 1 item with several titles, the first is kept"):
        log = log_of(user=[1, 2, 3, 4, 5], item=[9, 8, 9, 8, 7], title=["Nine\n(1999)", None, "Neuf", "Eight", ""])
    assert log.titles == ("7", "Eight", "Nine (1999)") and log.items.code("Eight") == 1
    assert log_of(user=[1, 2], item=[1, 2], title=[None, ""]).titles is None


BROKEN = [
    ({"who": [1], "item": [1]}, r"no column 'user' among \['who', 'item'\]\. Name the columns user, item"),
    ({"user": [1]}, "no column 'item'"),
    ({"user": [], "item": []}, "no interactions inside"),
    (
        {"user": [1, "1"], "item": [1, 2]},
        "row 1: user is 1, but other ids there are not whole numbers: make all of them text",
    ),
    ({"user": [[1], [2]], "item": [1, 2]}, r"row 1: user is \[1\], neither a whole number nor text"),
    (
        {"user": [1, 2], "item": [uuid.UUID(int=5), uuid.UUID(int=6)]},
        r"item is UUID\(.*neither a whole number nor text",
    ),
    ({"user": [(1, 2), (1, 3)], "item": [1, 2]}, r"user is \(1, 2\), neither a whole number nor text"),
    ({"user": [True, False], "item": [1, 2]}, "user is True, neither a whole number nor text"),
    ({"user": pd.to_datetime(["2020-01-01", "2021-01-01"]), "item": [1, 2]}, "row 1: user is .*neither"),
    ({"user": [1, None], "item": [1, 2]}, "row 2: user is missing"),
    ({"user": pd.array([1, None], dtype="Int64"), "item": [1, 2]}, "row 2: user is missing"),
    ({"user": pd.Categorical(["a", None]), "item": [1, 2]}, "row 2: user is missing"),
    ({"user": [1, 2], "item": ["a", " "]}, "row 2: item is missing"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1, "x"]}, "row 2: rating is missing or not a number: 'x'"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1, np.nan]}, "row 2: rating is missing or not a number: nan"),
    ({"user": [1, 2], "item": [1, 2], "score": [1, np.inf]}, r"row 2: score \(read as the rating\) is missing or not"),
    ({"user": [1, 2], "item": [1, 2], "rating": [1, 1e39]}, r"row 2: rating is 1e\+39, beyond"),
    ({"user": [1, 2], "item": [1, 2], "rating": [-1e39, 1]}, r"row 1: rating is -1e\+39"),
    ({"user": [1, 2], "item": [1, 2], "rating": pd.array([1, None], dtype="Int64")}, "row 2: rating is missing"),
    ({"user": [1, 2], "item": [1, 2], "is_test": ["no", "yes"]}, "row 1: is_test is 'no': only 0 or 1"),
    ({"user": [1, 2], "item": [1, 2], "is_test": [2, 1]}, "row 1: is_test is 2: only 0 or 1"),
]


@pytest.mark.parametrize(("columns", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_tables_are_named(columns, message):
    """Not a KeyError or TypeError from inside NumPy, and no text that is silently true."""
    with pytest.raises(vc.DataError, match="mine.*" + message) as caught:
        log_of(**columns)
    assert "\n" not in str(caught.value)


def test_what_is_no_table_or_has_a_column_twice():
    with pytest.raises(vc.DataError, match="mine: from_frame reads a pandas DataFrame, not dict"):
        vc.RatingLog.from_frame({"user": [1], "item": [1]}, name="mine")
    table = pd.DataFrame([[1, 2, 3.0, 4.0]], columns=["user", "item", "rating", "rating"])
    with pytest.raises(vc.DataError, match="frame: two columns are called 'rating'"):
        vc.RatingLog.from_frame(table)
    with pytest.raises(vc.DataError, match="frame: two columns are called 'rating'"):
        vc.RatingLog.from_frame(table, time="rating")


# --- SciPy ----------------------------------------------------------------------------------------------------------

DENSE = np.array([[5, 0, 3.5], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csr_array])
def test_a_matrix_of_any_format(form, kind):
    """Zeros are missing; rows and columns without an entry are nobody's."""
    log = vc.RatingLog.from_scipy(
        kind(DENSE).asformat(form), user_ids=["z", "y", "x"], item_ids=[30, 20, 10], titles=list("abc")
    )
    assert sorted(rows(log)) == [("x", 10, 1.0), ("z", 10, 3.5), ("z", 30, 5.0)]
    assert log.item_ids.tolist() == [10, 30] and log.titles == ("c", "a")
    assert log.reading.rows == 3 and log.reading.left_out == {}


def test_numbers_of_rows_and_columns_are_ids_where_none_are_given():
    log = vc.RatingLog.from_scipy(sp.csr_array(DENSE))
    assert rows(log) == [(0, 0, 5.0), (0, 2, 3.5), (2, 2, 1.0)] and log.name == "matrix"


@pytest.mark.parametrize("kind", [bool, np.int8, np.float64])
def test_a_matrix_of_ones_has_clicks(kind):
    assert rows(vc.RatingLog.from_scipy(sp.csr_array((DENSE > 0).astype(kind)))) == [
        (0, 0, None),
        (0, 2, None),
        (2, 2, None),
    ]


def test_equal_matrices_make_equal_logs():
    """A stored zero is a zero, and values of one place add up, as everywhere in SciPy; the caller's matrix stays."""
    data, row, column = [2.0, 3.0, 3.5, 1.0, 0.0, 4.0, -4.0], [0, 0, 0, 2, 1, 1, 1], [0, 0, 2, 2, 1, 0, 0]
    matrix = sp.coo_array((data, (row, column)), shape=(3, 3))
    with pytest.warns(UserWarning) as caught:
        log = vc.RatingLog.from_scipy(matrix)
    assert sorted(str(w.message) for w in caught) == [
        "matrix: 2 values of 7: added to another value of the same place",
        "matrix: 2 values of 7: stored zeros",
    ]
    assert rows(log) == rows(vc.RatingLog.from_scipy(sp.csr_array(DENSE))) and matrix.nnz == 7
    assert log.reading.rows == 7 and sum(log.reading.left_out.values()) == 4


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (DENSE, {}, r"from_scipy reads a sparse matrix \(users, items\), not ndarray"),
        (sp.coo_array(np.array([1.0, 2.0])), {}, "not coo_array"),
        (sp.csr_array((3, 3)), {}, "matrix: no interactions inside"),
        (sp.csr_array(DENSE), {"user_ids": [1, 2]}, "2 names in user_ids for 3"),
        (sp.csr_array(DENSE), {"item_ids": ["a", "b", "a"]}, "'a' stands twice in item_ids"),
        (sp.csr_array(DENSE), {"titles": ["a"]}, "1 name in titles for 3"),
        (sp.csr_array(DENSE), {"user_ids": [1, 2, None]}, r"entry \(2, 2\): user_ids .* is missing"),
        (
            sp.csr_array(DENSE * np.nan),
            {},
            r"entry \(0, 0\): value \(read as the rating\) is missing or not a number: nan",
        ),
        (sp.csr_array(DENSE * 1j), {}, r"entry \(0, 0\): value .* is missing or not a number"),
    ],
    ids=range(9),
)
def test_broken_matrices_are_named(matrix, options, message):
    with pytest.raises(vc.DataError, match=message) as caught:
        vc.RatingLog.from_scipy(matrix, **options)
    assert "\n" not in str(caught.value)


def test_to_scipy_and_back():
    """Values, clicks and columns nobody has; nothing is shared with the tensors."""
    ratings = vc.data.Interactions.from_pairs([0, 0, 2], [0, 2, 2], [5, 3.5, 1], shape=(3, 4))
    found = ratings.to_scipy()
    assert found.format == "csr" and found.shape == (3, 4) and found.dtype == np.float32
    assert found.toarray()[:, :3].tolist() == DENSE.tolist() and not found.toarray()[:, 3].any()
    found.data[:] = 0
    assert ratings.values.tolist() == [5, 3.5, 1]
    clicks = vc.data.Interactions.from_pairs([0, 0, 2], [0, 2, 2], shape=(3, 3))
    assert (clicks.to_scipy().toarray() == (DENSE > 0)).all()
    assert rows(vc.RatingLog.from_scipy(ratings.to_scipy())) == rows(vc.RatingLog.from_scipy(sp.csr_array(DENSE)))
    assert rows(vc.RatingLog.from_scipy(clicks.to_scipy())) == [(0, 0, None), (0, 2, None), (2, 2, None)]


def test_to_scipy_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(vc.ConfigError, match="pip install scipy to get a matrix of it"):
        vc.data.Interactions.from_pairs([0], [0], shape=(1, 1)).to_scipy()
