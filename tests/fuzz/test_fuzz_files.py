"""A user's own file, whatever is in it: read as written, or refused in one line.

The oracle says what each table means from its cells alone; it refuses and reads, so that a sound file turned away
fails as surely as a bad one let in.
"""

import csv
import io
import json
import math
import re
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cases import Refused, answer, cases, vaecf
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import vaecf_lib as vc
from vaecf_lib.experiment import PROTOCOLS, cuts_of

# --- tables of text -----------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
ODD_IDS = [
    "007", "7", "1e3", "1000", "NA", "nan", "None", " x ", "a,b", 'q"q', "'", "é", "e\u0301", "1.5", "-0", "+7", "#",
    str(2**64), "1_0", "a\nb", "a\tb", "True", "=1+1", "<b>", "\u202ex", "٣", "x" * 300,
]  # fmt: skip
SOUND_IDS = {
    "plain": st.sampled_from(["7", "8", "9", "10", "-3", "0", str(2**62)]),
    "large": st.sampled_from(["1", str(2**63), str(2**64 - 1)]),
    "odd": st.sampled_from(ODD_IDS),
    "any": st.text(LETTERS, min_size=1, max_size=5).filter(str.strip),
}
BAD_ID = st.sampled_from(["", " ", "\t"])
SOUND_RATING = st.sampled_from(["1", "4.5", " 3 ", "-2", "+1", ".5", "5.", "1e-50", "3.4e38", "0", "007"]) | st.floats(
    -1e30, 1e30
).map(repr)
BAD_RATING = st.sampled_from(["1e39", "inf", "nan", "", "x", "1,5", "0x1F", "1_0", "٣", "--1", "1e", "$4", "1e999"])
TRUTHS = {"0": False, "1": True, "true": True, "False": False, " TRUE ": True, "0.0": False, "1.0": True}
BAD_TRUTH = st.sampled_from(["yes", "2", "", "t", "-1", "nan", "01"])
SECONDS = {"978300760": 978300760, "1": 1, "0": 0, "-5": -5, "1.5": 1, " 12 ": 12}
DATES = {"2020-01-01": 1577836800, "2020-01-01T01:00:00+01:00": 1577836800, "1970-01-02 00:00:05": 86405}
NO_TIME = ["12:30", "", "yesterday", "1e300", "32/13/2020"]

HEADERS = {
    "user": ["user", "User_ID", " userid", "uid"],
    "item": ["item", "movieId", "song ", "PRODUCT_ID"],
    "rating": ["rating", "Stars", "score"],
    "timestamp": ["timestamp", "time", "TS"],
    "is_test": ["is_test", "Is_Test"],
    "other": ["other", "", "title", "Wert"],
}


def columns(rows, sound, bad):
    """Draw a column, one in four with bad cells in it."""
    good = st.lists(sound, min_size=rows, max_size=rows)
    mixed = st.lists(st.one_of(sound, bad), min_size=rows, max_size=rows)
    return st.integers(0, 3).flatmap(lambda n: good if n else mixed)


@st.composite
def tables(draw):
    """Draw {column: its cells as text}."""
    rows = draw(st.integers(1, 8))
    ids = st.sampled_from(sorted(SOUND_IDS)).map(SOUND_IDS.get)
    table = {name: draw(columns(rows, draw(ids), BAD_ID)) for name in ("user", "item")}
    if draw(st.booleans()):
        table["rating"] = draw(columns(rows, SOUND_RATING, BAD_RATING))
    if draw(st.integers(0, 3)) == 0:
        kinds = draw(st.sampled_from([[*SECONDS], [*DATES], [*SECONDS, *DATES], [*SECONDS, *NO_TIME]]))
        table["timestamp"] = draw(columns(rows, st.sampled_from(kinds), st.sampled_from(NO_TIME)))
    if draw(st.integers(0, 3)) == 0:
        table["is_test"] = draw(columns(rows, st.sampled_from([*TRUTHS]), BAD_TRUTH))
    if draw(st.integers(0, 3)) == 0:
        table["other"] = draw(columns(rows, st.text(LETTERS, max_size=3), st.just("NA")))
    return {name: table[name] for name in draw(st.permutations([*table]))}


def plain_ids(cells):
    """Return ids as the documentation says: integers if all are plain, else text; None if one is missing."""
    cells = [cell.strip() for cell in cells]
    if not all(cells):
        return None
    if all(re.fullmatch("0|-?[1-9][0-9]*", cell) for cell in cells):
        numbers = [int(cell) for cell in cells]
        if -(2**63) <= min(numbers) and max(numbers) < (2**63 if min(numbers) < 0 else 2**64):
            return numbers
    return cells


def meaning(table):
    """Return the rows that a reader of the documentation expects, in order, or None if the table must be refused."""
    users, items = plain_ids(table["user"]), plain_ids(table["item"])
    ratings = truths = times = [None] * len(table["user"])
    if "rating" in table:
        sound = [re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", c.strip(), re.A) for c in table["rating"]]
        ratings = [float(c) if ok else math.nan for c, ok in zip(table["rating"], sound, strict=True)]
        if not all(abs(rating) <= 3.4028234663852886e38 for rating in ratings):
            return None
    if "is_test" in table:
        truths = [TRUTHS.get(cell) for cell in table["is_test"]]
        if None in truths:
            return None
    for known in (SECONDS, DATES):
        if all(cell in known for cell in table.get("timestamp", [None])):
            times = [known[cell] for cell in table["timestamp"]]
    if users is None or items is None:
        return None
    rows = {}
    for user, item, *rest in zip(users, items, ratings, times, truths, strict=True):
        rows.pop((user, item), None)  # the last of a pair counts, where it stands
        rows[user, item] = rest
    return [(*pair, None if r is None else float(np.float32(r)), *rest) for pair, (r, *rest) in rows.items()]


def content(log):
    """Return a log as rows in its order."""
    rows = [log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist()]
    for values in (log.rating, log.timestamp, log.is_test):
        rows.append([None] * len(log) if values is None else values.tolist())
    assert sorted(set(rows[0])) == log.user_ids.tolist() and sorted(set(rows[1])) == log.item_ids.tolist()
    return list(zip(*rows, strict=True))


def as_text(draw, table, separator):
    """Return the table as a file's bytes, in one of the forms that programs write."""
    out = io.StringIO()
    header = [draw(st.sampled_from(HEADERS[name])) for name in table]
    cells = [*header, *(cell for column in table.values() for cell in column)]
    quoting = csv.QUOTE_ALL if any("\r" in cell for cell in cells) or draw(st.booleans()) else csv.QUOTE_MINIMAL
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=ending)
    writer.writerow(header)
    writer.writerows(zip(*table.values(), strict=True))
    text = draw(st.sampled_from(["", "\ufeff"])) + out.getvalue()
    return (text.removesuffix(ending) if draw(st.booleans()) else text + ending * draw(st.integers(0, 2))).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize(("kind", "separator"), [("csv", ","), ("TSV", "\t")])
@given(data=st.data())
@cases(30)
def test_a_text_file_is_read_as_written_or_refused(folder, kind, separator, data):
    table = data.draw(tables())
    path = folder / f"mine.{kind}"
    path.write_bytes(as_text(data.draw, table, separator))
    log = answer(vc.read_own_file, path)
    expected = meaning(table)
    if expected is None:
        assert isinstance(log, Refused) and re.match(rf"{re.escape(str(path))}, line \d+: ", log)
    else:
        assert not isinstance(log, Refused), log
        assert content(log) == expected


# --- typed tables -------------------------------------------------------------------------------------------------

TYPED_IDS = {
    "whole": (st.integers(-(2**63), 2**63 - 1), np.int64, pa.int64()),
    "small": (st.integers(0, 9), ">i4", pa.int8()),
    "unsigned": (st.integers(0, 2**64 - 1), np.uint64, pa.uint64()),
    "float": (st.integers(-(2**53) + 1, 2**53 - 1).map(float), np.float64, pa.float64()),
    "text": (SOUND_IDS["odd"] | SOUND_IDS["plain"], None, pa.string()),
    "bytes": (st.sampled_from([b"a", b"007", "é".encode()]), None, pa.binary()),
}
BAD_TYPED_IDS = {
    "float": st.sampled_from([1.5, math.nan, math.inf, 2.0**53, -(2.0**60)]),
    "text": st.sampled_from(["", " "]),
}
TYPED_TIMES = [
    (st.sampled_from([date(2020, 1, 1), date(1969, 12, 31)]), "M8[D]", pa.date32()),
    (st.sampled_from([datetime(2020, 1, 1, 0, 0, 1), datetime(1970, 1, 1)]), "M8[ms]", pa.timestamp("ms")),
    (st.sampled_from([-(2**40), 0, 978300760]), np.int64, pa.int64()),
]


def seconds(value):
    if isinstance(value, int):
        return value
    time = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return int(time.replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize("kind", ["npz", "parquet"])
@given(data=st.data())
@cases(40)
def test_a_typed_file_is_read_as_written_or_refused(folder, kind, data):
    draw = data.draw
    rows, typed, sound, meant = draw(st.integers(1, 8)), {}, True, {}

    def column(name, entries, dtype, type_):
        typed[name] = np.array(entries, dtype=dtype) if kind == "npz" else pa.array(entries, type=type_)

    for name in ("user", "item"):
        chosen = draw(st.sampled_from(sorted(TYPED_IDS)))
        good, dtype, type_ = TYPED_IDS[chosen]
        entries = draw(columns(rows, good, BAD_TYPED_IDS.get(chosen, good)))
        if chosen in BAD_TYPED_IDS:
            sound &= not any(e != e or (isinstance(e, float) and (abs(e) >= 2.0**53 or e % 1)) for e in entries)
            sound &= not any(isinstance(e, str) and not e.strip() for e in entries)
        if kind == "parquet" and draw(st.integers(0, 9)) == 0:
            entries, sound = [None, *entries[1:]], False
        column(name, entries, dtype, type_)
        meant[name] = entries
    if draw(st.booleans()):
        meant["rating"] = draw(columns(rows, st.floats(-1e30, 1e30), st.sampled_from([math.nan, math.inf, 1e39])))
        column("rating", meant["rating"], np.float64, pa.float64())
        sound &= all(abs(rating) <= 1e30 for rating in meant["rating"])
    if draw(st.booleans()):
        times, dtype, type_ = draw(st.sampled_from(TYPED_TIMES))
        meant["timestamp"] = draw(st.lists(times, min_size=rows, max_size=rows))
        column("timestamp", meant["timestamp"], dtype, type_)
    if draw(st.booleans()):
        meant["is_test"] = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
        column("is_test", meant["is_test"], draw(st.sampled_from([bool, np.int8])), pa.bool_())
    path = folder / f"mine.{kind}"
    if kind == "npz":
        draw(st.sampled_from([np.savez, np.savez_compressed]))(path, **typed)
    else:
        parquet.write_table(pa.table(typed), path)
    log = answer(vc.read_own_file, path)
    if not sound:
        assert isinstance(log, Refused) and str(path) in log
        return
    assert not isinstance(log, Refused), log
    expected = {}
    for row in range(rows):
        pair = tuple(
            e if isinstance(e, int) else int(e) if isinstance(e, float) else (e if isinstance(e, str) else e.decode())
            for e in (meant["user"][row], meant["item"][row])
        )
        pair = tuple(e.strip() if isinstance(e, str) else e for e in pair)
        expected.pop(pair, None)
        expected[pair] = (
            float(np.float32(meant["rating"][row])) if "rating" in meant else None,
            seconds(meant["timestamp"][row]) if "timestamp" in meant else None,
            meant["is_test"][row] if "is_test" in meant else None,
        )
    assert content(log) == [(*pair, *rest) for pair, rest in expected.items()]


# --- damage -------------------------------------------------------------------------------------------------------


@st.composite
def damages(draw):
    """Draw a function that spoils bytes in one or two places."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["put", "flip", "drop", "twice", "cut"]),
                st.floats(0, 1, exclude_max=True),
                st.sampled_from(list(b',\t"\n\r\0\xff7e. ')),
            ),
            min_size=1,
            max_size=2,
        )
    )

    def spoil(content):
        for how, where, byte in steps:
            at = int(where * len(content))
            head, tail = content[:at], content[at:]
            content = {
                "cut": head,
                "put": head + bytes([byte]) + tail,
                "drop": head + tail[1:],
                "flip": head + bytes(b ^ (1 << byte % 8) for b in tail[:1]) + tail[1:],
                "twice": head + content[max(0, at - 9) :],
            }[how]
        return content

    return spoil


def as_pandas_reads(path, separator):
    """Return {(user, item): rating or None} by another reader of text files, or None if it cannot read this one."""
    try:
        frame = pd.read_csv(path, sep=separator, dtype=str, na_filter=False, index_col=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError):
        return None
    frame.columns = frame.columns.str.strip().str.lower()
    user, item = frame["user"].str.strip(), frame["item"].str.strip()
    rating = frame["rating"].astype(float) if "rating" in frame else [None] * len(frame)
    return dict(zip(zip(user, item, strict=True), rating, strict=True))


@pytest.mark.parametrize("kind", ["csv", "tsv", "npz", "parquet"])
@given(data=st.data())
@cases(40)
def test_a_damaged_file_is_read_as_it_stands_or_refused(folder, kind, data):
    """Text is compared with what pandas makes of it; the other kinds carry checks of their own or show nonsense."""
    path = folder / f"damaged.{kind}"
    rows = data.draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 5)), min_size=2))
    frame = pd.DataFrame(rows, columns=["user", "item", "rating"])
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "npz":
        np.savez(path, **{name: frame[name].to_numpy() for name in frame})
    else:
        frame.to_csv(path, sep="," if kind == "csv" else "\t", index=False)
    path.write_bytes(data.draw(damages())(path.read_bytes()))
    log = answer(vc.read_own_file, path)
    if isinstance(log, Refused):
        assert str(path) in log
    elif kind in ("csv", "tsv"):
        found = {(str(u), str(i)): rating for u, i, rating, *_ in content(log)}
        as_pandas = as_pandas_reads(path, "," if kind == "csv" else "\t")
        assert as_pandas is None or found == as_pandas
    elif kind == "npz":  # each array in it has a checksum
        assert content(log) == content(vc.RatingLog.from_frame(frame.drop_duplicates(["user", "item"], keep="last")))


# --- from the file to a report ------------------------------------------------------------------------------------


@st.composite
def grids(draw):
    """Draw a sound table with enough people and items to be split."""
    pairs = [(u, i) for u in range(8) for i in range(7)]
    pairs = draw(st.lists(st.sampled_from(pairs), min_size=25, unique=True))
    table = {"user": [f"u{u}" for u, _ in pairs], "item": [str(i) for _, i in pairs]}
    return table | {"rating": [str(1 + (u + 2 * i) % 5) for u, i in pairs]}


@given(data=st.data())
@cases(20)
def test_a_file_is_reported_as_it_is_read_and_split(folder, data):
    """`vaecf check` counts what the file says, and each of its splits is, or is refused, as `vaecf fit` would have it."""
    table = data.draw(tables() | grids())
    path = folder / "checked.csv"
    path.write_bytes(as_text(data.draw, table, ","))
    protocols = data.draw(st.sampled_from([[*PROTOCOLS], [*PROTOCOLS], ["strong"], ["weak"], ["nonsense"]]))
    settings = {"threshold": st.sampled_from([1, 2, None]), "min_items": st.integers(0, 6), "n_heldout": st.just(1)}
    settings = data.draw(st.fixed_dictionaries({}, optional=settings))
    if data.draw(st.integers(0, 4)) == 0:
        settings |= data.draw(st.sampled_from([{"beta": 1}, {"min_items": -1}, {"threshold": "x"}]))
    flags = [f for key, value in settings.items() for f in ("--set", f"{key}={json.dumps(value)}")]
    only = [] if len(protocols) > 1 else ["--protocol", *protocols]
    done = vaecf("check", path, "--json", *only, *flags)
    expected, cuts = meaning(table), answer(cuts_of, protocols, settings)
    if isinstance(cuts, Refused):
        assert done.refused == cuts
        return
    assert (done.refused is not None) == (expected is None)
    if expected is None:
        return
    report, log = json.loads(done.out), answer(vc.read_own_file, path)
    assert report["reading"]["rows"] == len(table["user"]) and report["interactions"] == len(expected)
    assert [report["users"], report["items"]] == [len({row[at] for row in expected}) for at in (0, 1)]
    assert [*report["splits"]] == protocols
    for protocol, found in report["splits"].items():
        split = answer(cuts[protocol], log)
        if isinstance(split, Refused):
            assert found["refused"] == split
        else:
            sizes = [found[part] and found[part]["interactions"] for part in ("train", "valid", "test")]
            valid = None if split.valid is None else split.valid.targets.nnz
            assert found["refused"] is None and sizes == [split.train.nnz, valid, split.test.targets.nnz]


# --- from the file to the metrics ---------------------------------------------------------------------------------


@given(
    shape=st.sampled_from([(2, 2), (5, 4), (40, 12), (60, 15)]),
    density=st.floats(0.05, 0.9),
    draw=st.randoms(use_true_random=False),
    protocol=st.sampled_from(["strong", "weak", "ratings"]),
    slug=st.sampled_from(["popularity", "means"]),
)
@cases(20)
def test_any_file_is_fitted_or_refused_in_one_line(folder, shape, density, draw, protocol, slug):
    """However few people or items are left: no split trains on nothing, no metric is no number."""
    people, things = shape
    pairs = [(u, i) for u in range(people) for i in range(things) if draw.random() < density] or [(1, 1)]
    rows = [(*pair, draw.randint(1, 5)) for pair in pairs]
    path = folder / "fit.csv"
    path.write_text("\n".join(["user,item,rating", *(",".join(map(str, row)) for row in rows)]), encoding="utf-8")
    done = vaecf("fit", slug, "--interactions", path, "--protocol", protocol, "--device", "cpu", "--json")
    if done.refused is None:
        result = json.loads(done.out)
        log = vc.RatingLog.from_frame(pd.DataFrame(rows, columns=["user", "item", "rating"]))
        assert result["data_sha256"] == log.sha256
        for name, value in result["metrics"].items():
            assert 1 <= value["n_users"] <= people and 0 <= value["mean"] <= (4 if name in ("rmse", "mae") else 1)
