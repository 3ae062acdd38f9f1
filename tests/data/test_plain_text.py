"""Text read by blocks of bytes gives the columns that Python's csv gives, or is left to it."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecf_lib.data import own_files, plain_text, read_own_file
from vaecf_lib.errors import DataError

PLAIN = {
    "whole numbers": "user,item,rating,timestamp\n1,20,4.5,100\n10,3,5,2000000000\n1,3,0.5,7\n",
    "ids as written": "user,item\n0012,NA\n12,007\n7,nan\n+7,1e3\n-0,true\n",
    "spaces around": "user,item\n a ,x\na,\u00a0y\nb , x\n",
    "byte order mark": "\ufeffuser,item\n1,2\n3,4\n",
    "line ends of Windows": "user,item\r\na,1\r\nbb,22\r\na,3\r\n",
    "line ends of both kinds, none at the end": "user,item\r\na,1\nbb,22\r\na,3",
    "longer than words": f"user,item\n{'x' * 8},{'y' * 16}\n{'x' * 9},{'y' * 17}\n{'x' * 8 + 'z'},{'y' * 16}\n{'x' * 7},y\n",
    "other letters": "user,item\né,Ü\nжук,爱\né,爱\n",
    "dates": "user,item,time\n1,2,2020-01-01\n3,4,2020-01-02\n",
    "times with zeros before": "user,item,time\n1,2,007\n3,4,0\n",
    "unused columns": "genre,user,mood,item,end\n,1,a'b,2,\nx,3,;,4,z\n",
}
OTHER = {
    "quotes": 'user,item\n"1",2\n',
    "a quote in the header": '"user",item\n1,2\n',
    "a blank line at the end": "user,item\n1,2\n\n",
    "line ends of old Macs": "user,item\r1,2\r3,4\r",
    "a carriage return inside": "user,item\n1\r,2\n",
    "too few fields": "user,item\n1,2\n3\n",
    "one too many, one too few": "user,item,x\n1,2,3,4\n1,2\n",
    "a field moved to the next line": "user,item,x\n1,2\n1,2,3,4\n",
    "a zero byte": "user,item\n1,2\0\n",
    "no rows": "user,item\n",
    "a very long id": f"user,item\n1,{'x' * 300}\n",
}


def read_both_ways(path, monkeypatch):
    """Return what the file is by either way, and whether the fast one was taken."""
    taken, results = [], []
    fast = plain_text.read_plain

    def watched(*given):
        taken.append(False)
        columns = fast(*given)
        taken[-1] = True
        return columns

    def refuse(*given):
        raise plain_text.NotPlainError

    for way in (watched, refuse):
        monkeypatch.setattr(own_files, "read_plain", way)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                log = read_own_file(path)
            except DataError as error:
                results.append(str(error))
            else:
                arrays = (log.user, log.item, log.rating, log.timestamp, log.user_ids, log.item_ids)
                shown = [None if a is None else (a.dtype, a.tolist()) for a in arrays]
                results.append([*shown, log.titles, log.reading, [str(w.message) for w in caught]])
    return results, taken == [True]


@pytest.mark.parametrize("name", PLAIN | OTHER)
def test_both_ways_read_the_same(tmp_path, monkeypatch, name):
    path = tmp_path / "log.csv"
    path.write_bytes((PLAIN | OTHER)[name].encode())
    (fast, slow), taken = read_both_ways(path, monkeypatch)
    assert fast == slow
    assert taken == (name in PLAIN)


@pytest.mark.parametrize("bad", [b"user,item,x\n1,2,\xff\n", b"user,item,x\n1,\xe9,3\n"], ids=["unused", "read"])
def test_what_is_not_utf8_is_refused_in_any_column(tmp_path, bad):
    path = tmp_path / "log.csv"
    path.write_bytes(bad)
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_own_file(path)


def test_blocks_share_their_ids(tmp_path, monkeypatch):
    """An id that comes again in a later block, after others, is the same user."""
    monkeypatch.setattr(plain_text, "_BLOCK", 16)
    rng = np.random.default_rng(0)
    rows = [f"u{rng.integers(9)},i{at},{rng.integers(1, 6)},{rng.integers(10**9)}" for at in range(200)]
    path = tmp_path / "log.csv"
    path.write_text("user,item,rating,timestamp\n" + "\n".join(rows), encoding="utf-8")
    (fast, slow), taken = read_both_ways(path, monkeypatch)
    assert fast == slow and taken


def test_a_date_in_a_later_block_makes_all_times_text(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "_BLOCK", 16)
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n1,2,100\n1,3,200\n1,4,1970-01-02\n1,5,300\n", encoding="utf-8")
    (fast, slow), _ = read_both_ways(path, monkeypatch)
    assert fast == slow


FIELD = st.text(st.sampled_from(list("0179-+.eaé \t;'\r\n\"\0\ufeff\u00a0")), max_size=10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=3, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_any_text_is_read_the_same_both_ways(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("any") / "log.csv"
    path.write_bytes(end.join(["user,item,time", *map(",".join, rows)]).encode())
    with pytest.MonkeyPatch.context() as monkeypatch:
        (fast, slow), _ = read_both_ways(path, monkeypatch)
    assert fast == slow
