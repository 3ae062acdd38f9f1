"""The user's own .csv, .tsv, .parquet and .npz: read as written, or refused in one line."""

import gc
import gzip
import io
import re
import warnings
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from pyarrow import parquet

import vaecf_lib as vc

TABLE = pd.DataFrame({"user": ["ann", "bob", "bob"], "item": ["x", "x", "y"], "rating": [4.0, 5.0, 1.0]})


def read(tmp_path, content, kind="csv"):
    """Write ``content`` (text, bytes, a pyarrow table or arrays) and read it."""
    path = tmp_path / f"mine.{kind}"
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, pa.Table):
        parquet.write_table(content, path)
    else:
        np.savez(path, **content)
    return vc.read_own_file(path)


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


@pytest.mark.parametrize("kind", ["csv.gz", "TSV.GZ"])
def test_packed_text_reads_like_the_text(tmp_path, kind):
    text = TABLE.to_csv(index=False, sep="," if "csv" in kind else "\t")
    log = read(tmp_path, gzip.compress(text.encode()), kind)
    assert log.sha256 == read(tmp_path, TABLE.to_csv(index=False)).sha256 and log.name == "mine"
    with pytest.raises(vc.DataError, match="cannot be read as"):
        read(tmp_path, gzip.compress(text.encode())[:-12], kind)
    with pytest.raises(vc.DataError, match=r"line 3: not UTF-8 text"):
        read(tmp_path, gzip.compress(text.encode().replace(b"bob", b"b\xf6b", 1)), kind)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_columns_of_other_names_are_named(tmp_path, kind):
    """Also where another column has the usual name: what is asked for is read."""
    table = {
        "who": ["a", "b"],
        "user": [1, 2],
        "what": ["x", "y"],
        "mark": [4, 5],
        "when": [7, 8],
        "cut": [0, 1],
        "called": ["X", "Y"],
    }
    path = tmp_path / f"mine.{kind}"
    if kind == "csv":
        pd.DataFrame(table).to_csv(path, index=False)
    elif kind == "parquet":
        pd.DataFrame(table).to_parquet(path)
    else:
        np.savez(path, **{name: np.array(column) for name, column in table.items()})
    log = vc.read_own_file(path, user="who", item="what", rating="mark", time="when", is_test="cut", title="called")
    assert log.user_ids.tolist() == ["a", "b"] and log.titles == ("X", "Y") and log.rating.tolist() == [4, 5]
    assert log.timestamp.tolist() == [7, 8] and log.is_test.tolist() == [False, True]
    assert log.reading.unused == ("user",) and log.reading.columns["timestamp"] == "when"
    with pytest.raises(
        vc.DataError, match=rf"mine\.{kind}: no column 'film' to read as the item among \['who', 'user'"
    ):
        vc.read_own_file(path, user="who", item="film")


def test_other_column_names_and_no_ratings(tmp_path):
    log = read(tmp_path, "UserId,movieId\n7,3\n8,3\n")
    assert log.rating is None and log.user_ids.tolist() == [7, 8]


def test_repeated_pairs_are_merged_with_a_count(tmp_path):
    with pytest.warns(UserWarning, match="1 repeated"):
        log = read(tmp_path, "user,item,rating\n1,1,2\n1,1,5\n2,1,3\n")
    assert len(log) == 2 and 5.0 in log.rating and 2.0 not in log.rating


def test_a_file_says_how_it_was_read(tmp_path):
    with pytest.warns(UserWarning):
        log = read(tmp_path, "userId,item,title,time,colour\n1,5,Five,soon,red\n1,5,Funf,later,red\n2,6,,1,red\n")
    assert log.reading.rows == 3 and log.reading.left_out == {"repeated pairs": 1}
    assert log.reading.columns == {"user": "userId", "item": "item", "title": "title"}
    assert log.reading.unused == ("colour", "time") and log.titles == ("Five", "6")
    assert [note.split("mine.csv")[1] for note in log.reading.warnings] == [
        ", line 2: time (read as the timestamp) is 'soon': neither a number nor an ISO date, so timestamps are left out",
        ": 1 item with several titles, the first is kept",
        ": 1 repeated (user, item) pair merged, the last rating kept",
    ]


def test_npz_with_its_own_split(tmp_path):
    split = {"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [1.0, 2, 3, 4], "is_test": [False, True] * 2}
    split = vc.split_ratings(read(tmp_path, split, "npz"), valid=0.0, train=0.9, test=0.1)
    assert split.test.targets.values.tolist() == [2.0, 4.0]


def test_a_damaged_npz_is_closed(tmp_path):
    """Where files left open may not be removed or written, the user could not even mend it."""
    np.savez(tmp_path / "mine.npz", user=[1], item=[2])
    damaged = (tmp_path / "mine.npz").read_bytes()[:-9]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(vc.DataError, match=r"mine\.npz: cannot be read as \.npz"):
            read(tmp_path, damaged, "npz")
        gc.collect()
    assert [str(warning.message) for warning in said] == []


# --- ids ----------------------------------------------------------------------------------------------------------


def test_plain_integer_ids_stay_integers_in_numerical_order(tmp_path):
    """Measured results carry the hash of such files: neither the order nor the type may change."""
    log = read(tmp_path, "user,item,rating\n10,-3,4.5\n9,0,1\n10,5,0.1\n")
    assert log.user_ids.dtype == np.int64 and log.user_ids.tolist() == [9, 10] and log.item_ids.tolist() == [-3, 0, 5]
    assert log.sha256 == "abef6dbceed2faa8ad26cffbf488266d4598aa50a3a97da5c1e2c431b5c67f05"


@pytest.mark.parametrize(
    "ids",
    [
        ["007", "7"],  # a leading zero is part of an id
        ["1e3", "1000"],
        ["NA", "None", "nan", "null"],  # names, not gaps
        ["7", "7.0", "+7"],
        ["1_0", "10"],
        [str(2**60 + 1), str(2**60 + 2), "1.5"],  # through a float the first two would be one
        [str(2**64), str(2**64 + 1)],
        ["-0", "0"],
        ["True", "1"],
    ],
    ids=str,
)
def test_other_ids_are_text_exactly_as_written(tmp_path, ids):
    """A guess at a number would merge people, or make their own ids unknown to them."""
    log = read(tmp_path, "user,item\n" + "".join(f"{i},{i}\n" for i in ids))
    assert sorted(log.user_ids.tolist()) == sorted(log.item_ids.tolist()) == sorted(ids)


def test_large_integers_stay_exact(tmp_path):
    assert read(tmp_path, f"user,item\n{2**60 + 1},1\n{2**60 + 2},1\n").user_ids.tolist() == [2**60 + 1, 2**60 + 2]
    assert read(tmp_path, f"user,item\n{2**64 - 1},1\n5,1\n").user_ids.tolist() == [5, 2**64 - 1]


def test_spaces_around_fields_do_not_count(tmp_path):
    log = read(tmp_path, "user, item, rating\n1, a b, 4\n 2 ,a b , 5\n")
    assert log.user_ids.tolist() == [1, 2] and log.item_ids.tolist() == ["a b"] and log.rating.tolist() == [4, 5]


def test_typed_ids(tmp_path):
    floats = {"user": np.array([3.0, 1.0]), "item": np.array([2, 2], dtype=">i4")}
    log = read(tmp_path, floats, "npz")
    assert log.user_ids.tolist() == [1, 3] and log.user_ids.dtype == np.int64 and log.item_ids.tolist() == [2]
    table = pa.table({"user": pa.array(["07", "7"]).dictionary_encode(), "item": pa.array([b"x", b"y"])})
    log = read(tmp_path, table, "parquet")
    assert log.user_ids.tolist() == ["07", "7"] and log.item_ids.tolist() == ["x", "y"]
    assert read(tmp_path, {"user": np.array([b"a"]), "item": np.array(["\u00e9"])}, "npz").user_ids.tolist() == ["a"]


# --- the form of text files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfuser,item,rating\n1,2,3\n1,3,4\n",
        b"user,item,rating\r\n1,2,3\r\n1,3,4\r\n",
        b"user,item,rating\r1,2,3\r1,3,4",
        b'"user","item","rating"\n"1","2","3"\n"1","3","4"\n',
        b"user,item,rating\n1,2,3\n1,3,4\n\n\n",
        b"rating,title,item,user\n3,NA,2,1\n4,,3,1\n",
    ],
    ids=["bom", "crlf", "cr", "quotes", "blank-end", "other-order-and-column"],
)
def test_forms_of_the_same_table(tmp_path, content):
    log = read(tmp_path, content, "CSV")
    assert log.item_ids.tolist() == [2, 3] and log.rating.tolist() == [3, 4]


def test_quoted_fields_may_hold_separators_quotes_and_line_ends(tmp_path):
    with pytest.raises(vc.DataError, match="line 4: rating is missing or not a number: 'x'"):
        read(tmp_path, 'user,item,rating\n1,"a\nb",3\n2,c,x\n')
    assert read(tmp_path, 'user,item\n1,"a,b"\n1,"say ""hi"""\n').item_ids.tolist() == ["a,b", 'say "hi"']


def test_more_fields_than_columns_do_not_shift_them(tmp_path):
    """pandas would take the first of four fields as an index: items for users, ratings for items."""
    with pytest.raises(vc.DataError, match="line 2: 4 fields, but the first line names 3 columns"):
        read(tmp_path, "user,item,rating\n1,2,5,964982703\n1,3,4,964981247\n")


# --- what is not needed -------------------------------------------------------------------------------------------


def test_unused_columns_and_arrays_are_ignored(tmp_path):
    arrays = {"user": [1, 2], "item": [5, 5], "n_users": 2, "item_orig_id": ["a", "b", "c"]}
    assert len(read(tmp_path, {key: np.array(a) for key, a in arrays.items()}, "npz")) == 2
    nested = pa.table({"user": [1, 2], "item": [5, 5], "tags": [["a"], []], "box": [{"a": 1}, None]})
    assert len(read(tmp_path, nested, "parquet")) == 2


def test_dates_become_seconds_and_numbers_stay(tmp_path):
    log = read(
        tmp_path, "user,item,timestamp\n1,1,2020-01-01\n1,2,2020-01-01T01:00:00+01:00\n1,3,1970-01-02 00:00:05\n"
    )
    assert log.timestamp.tolist() == [1577836800, 1577836800, 86405]
    assert read(tmp_path, "user,item,ts\n1,1,964982703\n1,2,1.5\n").timestamp.tolist() == [964982703, 1]
    table = pa.table({"user": [1], "item": [1], "time": pa.array([date(2020, 1, 1)])})
    assert read(tmp_path, table, "parquet").timestamp.tolist() == [1577836800]
    times = np.array(["2020-01-01T00:00:01"], dtype="M8[ms]")
    assert read(tmp_path, {"user": [1], "item": [1], "time": times}, "npz").timestamp.tolist() == [1577836801]


@pytest.mark.parametrize("time", ["12:30", "", "yesterday", "1e300"])
def test_other_timestamps_are_left_out_with_a_warning(tmp_path, time):
    """No protocol needs a timestamp: an odd one is no reason to refuse a file."""
    with pytest.warns(UserWarning, match=r"mine\.csv, line 3: time \(read as the timestamp\) is .* left out"):
        log = read(tmp_path, f"user,item,time\n1,1,5\n1,2,{time}\n")
    with pytest.warns(UserWarning, match=r"line 2: time .* is '5'"):
        read(tmp_path, "user,item,time\n1,1,5\n1,2,2020-01-01\n")  # both kinds: which is meant cannot be told
    assert log.timestamp is None and len(log) == 2


# --- is_test ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "yes_no", [("1", "0"), ("true", "false"), ("TRUE", "False"), ("1.0", "0.0"), (" True", " False")]
)
def test_is_test_is_0_or_1_true_or_false(tmp_path, yes_no):
    for kind, content in (
        ("csv", "user,item,is_test\n1,1,{}\n1,2,{}\n".format(*yes_no)),
        ("npz", {"user": [1, 1], "item": [1, 2], "is_test": np.array(yes_no)}),
        ("parquet", pa.table({"user": [1, 1], "item": [1, 2], "is_test": list(yes_no)})),
    ):
        assert read(tmp_path, content, kind).is_test.tolist() == [True, False]


@pytest.mark.parametrize("yes_no", [("yes", "no"), ("t", "f"), ("Y", "N"), ("test", "train"), ("2", "1"), ("1", "")])
def test_other_words_in_is_test_are_refused(tmp_path, yes_no):
    """Any text is true to NumPy: "no" would have put every row into the test part."""
    with pytest.raises(vc.DataError, match=r"line [23]: is_test is .*: only 0 or 1, true or false are understood"):
        read(tmp_path, "user,item,is_test\n1,1,{}\n1,2,{}\n".format(*yes_no))
    with pytest.raises(vc.DataError, match=r"row [12]: is_test is "):
        read(tmp_path, {"user": [1, 1], "item": [1, 2], "is_test": np.array(yes_no)}, "npz")


# --- refusals -----------------------------------------------------------------------------------------------------

BROKEN = [
    ("none.csv", None, "no such file"),
    ("x.csv", "", "cannot be read as .csv: the file is empty"),
    ("x.csv", "user,item\n", "no interactions inside"),
    ("x.csv", "who,what\n1,2\n", r"no column 'user' among \['who', 'what'\]"),
    ("x.csv", "user,User,item\n1,2,3\n", "two columns are called 'user'"),
    ("x.csv", "user,item,rating\n1,2,3\n1,3,good\n", "line 3: rating is missing or not a number: 'good'"),
    ("x.csv", "user,item,rating\n1,2,inf\n", "line 2: rating is missing or not a number"),
    ("x.csv", "user,item,rating\n1,2,\n", "line 2: rating is missing or not a number"),
    ("x.csv", "user,item,rating\n1,2,3\n1,3,1e39\n", "line 3: rating is '1e39', beyond the largest number"),
    ("x.csv", "user,item,value\n1,2,$4\n", r"line 2: value \(read as the rating\) is .* or rename the column"),
    ("x.csv", "user,item\n1,2\n1,\n", "line 3: item is missing"),
    ("x.csv", "user,item\n1,2\n1,  \n", "line 3: item is missing"),
    ("x.csv", "user,item\n1,2\n\n1,4\n", "line 3: the line is blank"),
    ("x.csv", "user,item\n1,2\n\n\n1,4\n", "line 3: the line is blank"),
    ("x.csv", "user,item,rating\n1,2,3\n1,3,1_0\n", "line 3: rating is missing or not a number: '1_0'"),
    ("x.csv", "user,item,rating\n1,2,3\n1,3,-1e39\n", "line 3: rating is '-1e39', beyond the largest number"),
    ("x.csv", "user,item,rating\n1,2,3\n1,3\n", "line 3: 2 fields, but the first line names 3 columns"),
    ("x.csv", 'user,item\n1,2\n1,"3\n1,4\n', "line 3: quotes that do not match"),
    ("x.csv", b"user,item\n1,2\n1,caf\xe9\n", "line 3: not UTF-8 text"),
    ("x.csv", "user,item\n1,2\n".encode("utf-16"), "line 1: not UTF-8 text"),
    ("x.csv.gz", b"\x1f\x8b\x08", "cannot be read as .csv.gz"),
    ("x.csv.gz", "user,item\n1,2\n", "cannot be read as .csv.gz: Not a gzipped file"),
    ("x.json.gz", "", "unknown kind .\\.gz."),
    ("x.json", "{}", "unknown kind '.json'"),
    ("x.npz", "not a zip", "cannot be read as .npz"),
    ("x.parquet", "not parquet", "cannot be read as .parquet"),
    ("x.npz", {"user": [1, 2], "item": [1]}, r"array 'item' has shape \(1,\), 'user' \(2,\)"),
    ("x.npz", {"user": [[1, 2]], "item": [[1, 2]]}, r"array 'user' has shape \(1, 2\)"),
    ("x.npz", {"user": [1.0, np.nan], "item": [1, 2]}, "row 2: user is missing"),
    ("x.npz", {"user": [1.0, 1.5], "item": [1, 2]}, "row 2: user is 1.5, not a whole number"),
    ("x.npz", {"user": [1.0, 2.0**53], "item": [1, 2]}, "row 2: user is 9007199254740992.0, not a whole number"),
    ("x.npz", {"user": [1, 2], "item": [True, False]}, "row 1: item is True, neither a whole number nor text"),
    ("x.npz", {"user": [1], "item": [1], "rating": [1j]}, "row 1: rating is missing or not a number"),
    ("x.npz", {"user": [b"\xff"], "item": [1]}, "cannot be read as .npz: 'utf-8' codec"),
    ("x.npz", {"user": ["\ud800"], "item": [1]}, "row 1: user is .*, neither a whole number nor text"),
    ("x.parquet", pa.table({"user": [[1], [2]], "item": [1, 2]}), r"row 1: user is array\(\[1\]\), neither"),
    ("x.parquet", pa.table({"user": [1, None], "item": [1, 2]}), "row 2: user is missing"),
    ("x.parquet", pa.table({"user": [b"a", b"\xff"], "item": [1, 2]}), "row 2: user is .*, neither"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        parquet.write_table(content, path)
    with pytest.raises(vc.DataError, match=message) as caught:
        vc.read_own_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_parquet_pages_are_checked_where_they_carry_checksums(tmp_path):
    table = pa.table({"user": [1, 2, 3], "item": [5, 5, 5], "rating": [1.0, 2.0, 3.0]})
    out = io.BytesIO()
    parquet.write_table(table, out, compression="none", use_dictionary=False, write_page_checksum=True)
    content, two = out.getvalue(), np.array([1.0, 2.0, 3.0]).tobytes()
    assert content.count(two) == 1 and len(read(tmp_path, content, "parquet")) == 3
    with pytest.raises(vc.DataError, match=r"cannot be read as \.parquet"):
        read(tmp_path, content.replace(two, np.array([1.0, 4.0, 3.0]).tobytes()), "parquet")


def test_npz_with_pickles_is_refused(tmp_path):
    with pytest.raises(vc.DataError, match=r"holds Python's objects, which are not read\. Save text as text: user="):
        read(tmp_path, {"user": np.array([{}], dtype=object), "item": np.array([1])}, "npz")


def test_a_matrix_saved_by_scipy_is_told_its_way_in(tmp_path):
    scipy.sparse.save_npz(tmp_path / "matrix.npz", scipy.sparse.csr_array(np.eye(3)))
    with pytest.raises(vc.DataError, match=r"load_npz and give it to RatingLog\.from_scipy$"):
        vc.read_own_file(tmp_path / "matrix.npz")


@pytest.mark.parametrize("kind, mark", [("csv", ";"), ("csv", "\t"), ("tsv", ","), ("csv", "|")])
def test_columns_between_other_marks_are_named(tmp_path, kind, mark):
    """A spreadsheet's semicolons: not one column with a long name."""
    with pytest.raises(vc.DataError) as caught:
        read(tmp_path, f"user{mark}item\n1{mark}2\n", kind)
    assert f"{mark!r} between its columns. Put commas there in a .csv, tabs in a .tsv" in str(caught.value)


# --- histories ------------------------------------------------------------------------------------------------------

HISTORIES = [
    ("h.txt", "\ufeff7\n\n Toy Story \n", [("7", None), ("Toy Story", None)]),
    ("h.txt", "a\u2028b\r\nc\x85d\re\n", [("a\u2028b", None), ("c\x85d", None), ("e", None)]),
    ("h.CSV", "Item_ID,Rating,when\n007,4.5,x\nNA,2,y\n", [("007", 4.5), ("NA", 2.0)]),
    ("h.tsv", "user\titem\nann\tx\nann\ty\n", [("x", None), ("y", None)]),
]


@pytest.mark.parametrize(("name", "text", "expected"), HISTORIES)
def test_histories_are_read_as_written(tmp_path, name, text, expected):
    (tmp_path / name).write_bytes(text.encode())
    assert vc.data.read_history(tmp_path / name) == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert vc.data.read_history(tmp_path / f"{name}.gz") == expected
    for damaged in (gzip.compress(text.encode())[:-9], text.encode()):
        (tmp_path / f"{name}.gz").write_bytes(damaged)
        with pytest.raises(vc.DataError, match=r"cannot be read .*Give the path"):
            vc.data.read_history(tmp_path / f"{name}.gz")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("h.csv", "", "no column 'item' among"),
        ("h.csv", "item,rating\n", "no item inside"),
        ("h.txt", "\n \n", "no item inside"),
        ("h.csv", "film\n7\n", r"no column 'item' among \['film'\]"),
        ("h.csv", "item,rating\n7,\n", "line 2: rating is missing or not a number"),
        ("h.csv", "item,rating\n7,4\n,3\n", "line 3: item is missing"),
        ("h.csv", "item,rating\n7,4,1\n", "line 2: 3 fields, but the first line names 2"),
        ("h.csv", "user,item\nann,7\nbob,8\n", "holds 2 users: give the lines of one person"),
        ("missing.txt", None, "cannot be read"),
        (".", None, "cannot be read"),
    ],
)
def test_broken_histories_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(vc.DataError, match=message):
        vc.data.read_history(tmp_path / name)


def test_a_history_that_is_not_utf8(tmp_path):
    (tmp_path / "h.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(vc.DataError, match="not UTF-8 text"):
        vc.data.read_history(tmp_path / "h.txt")


def test_why_a_history_cannot_be_read_is_said_once(tmp_path):
    """In the system's words where it has some, which leave out the path said before; else in those of the error."""
    cut = tmp_path / "h.txt.gz"
    cut.write_bytes(gzip.compress(b"7\n8\n")[:-4])
    for path, reason in ((tmp_path / "missing.txt", "No such file or directory"), (cut, "Compressed file ended .*")):
        with pytest.raises(vc.DataError, match=rf"^{re.escape(str(path))}: cannot be read \({reason}\)\. Give"):
            vc.data.read_history(path)
