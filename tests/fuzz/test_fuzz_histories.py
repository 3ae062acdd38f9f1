"""A person's history, whatever is in it: the list that the model's own scores give, or one line of refusal."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import Refused, answer, cases, vaecf
from hypothesis import given
from hypothesis import strategies as st

import vaecf_lib as vc
from vaecf_lib.data import Interactions
from vaecf_lib.systems import build

IDS = ["007", "7", "NA", "a,b", "é", 'q"q', "3", " x".strip(), "1e3", "1000", "Film 5", "-1", "#1", "0"]
IDS += [f"f{n}" for n in range(16)]
RARE = 3  # items that only a person without a full history has, so that training never sees them
FORMS = {"mult-vae": "clicks", "popularity": "clicks", "means": "ratings", "hyvae": "ratings"}
UNKNOWN = ["no such film", "f99", "", "8", "\u202e", "x" * 300]
NONSENSE = [-1, len(IDS), 10**30, 2.5, math.nan, math.inf, None, True, b"7", object(), (1, 2, 3), (3, "five"), [[1], 2]]


def title_of(code):
    """Titles: two films share one, one is called like another's id, some hold separators."""
    return {0: "Hamlet", 1: "Hamlet", 2: "f3", 4: "Ran, or: Lear", 6: 'The "End"'}.get(code, f"Film {code}")


class Served(dict):
    """{slug: (model, its run's folder)}, short in a report."""

    __repr__ = object.__repr__


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Tiny models, trained on 60 people."""
    rng = np.random.default_rng(0)
    pairs = {(u, i) for u in range(60) for i in rng.choice(len(IDS) - RARE, size=9, replace=False)}
    rows = [(u, IDS[i], rng.integers(1, 6)) for u, i in sorted(pairs)] + [(99, name, 5) for name in IDS[-RARE:]]
    frame = pd.DataFrame(rows, columns=["user", "item", "rating"])
    codes = sorted(IDS)
    title = {name: title_of(code) for code, name in enumerate(codes)}
    log = vc.RatingLog.from_frame(frame.assign(title=frame["item"].map(title)))
    assert log.item_ids.tolist() == codes
    kept = Served()
    for slug, kind in FORMS.items():
        split = vc.split_strong(log, n_heldout=8, threshold=None) if kind == "clicks" else vc.split_ratings(log, seed=1)
        small = {"mult-vae": {"hidden": 8, "latent_dim": 4}, "hyvae": {"hidden": 8, "latent_dim": 4}}.get(slug, {})
        model, out = build(slug, split.n_items, **small), tmp_path_factory.mktemp(slug)
        vc.fit(model, split, epochs=1, device="cpu", out=out, progress=False)
        kept[slug] = model, out
    return kept


def names():
    """Return {id or title: code}, a title of two films left out; an id goes before a title."""
    titles = [title_of(code) for code in range(len(IDS))]
    unique = {title: code for code, title in enumerate(titles) if titles.count(title) == 1}
    return unique | {name: code for code, name in enumerate(sorted(IDS))}


def expected(model, ratings, k):
    """Return ({code: score} of all that may be recommended, how many will be), from the model's scores alone."""
    index = model.item_index.tolist()
    known = {index.index(code): rating for code, rating in ratings.items() if code in index}
    values = [rating or 0.0 for rating in known.values()] if model.rated else None
    row = Interactions.from_pairs([0] * len(known), [*known], values, shape=(1, model.n_items)).rows(torch.tensor([0]))
    with torch.no_grad():
        scores = model.eval().scores(row)[0].tolist()
    free = {code: score for column, (code, score) in enumerate(zip(index, scores, strict=True)) if column not in known}
    return free, min(k, len(free))


def check(entries, free, length):
    """``entries`` [(code, score)]: as long as can be, best first, nothing better left out, scores bit for bit."""
    assert len(entries) == length == len({code for code, _ in entries})
    assert [score for _, score in entries] == sorted(free.values(), reverse=True)[:length]
    assert all(free[code] == score for code, score in entries)


def item_forms():
    """Draw (what a caller writes for an item, its code)."""
    code = st.integers(0, len(IDS) - 1)
    return st.one_of(
        code.map(lambda c: (c, c)),
        code.map(lambda c: (np.int64(c), c)),
        code.map(lambda c: (float(c), c)),
        st.sampled_from(sorted(names().items())),
    )


RATING = st.one_of(st.integers(1, 5), st.floats(0.5, 9), st.floats(1, 5, width=32).map(np.float32))


@pytest.mark.parametrize("slug", FORMS)
@given(data=st.data())
@cases(15)
def test_any_history_gets_the_models_own_list_or_a_refusal(served, slug, data):
    draw, (model, _) = data.draw, served[slug]
    history, ratings = [], {}
    for entry, code in draw(st.lists(item_forms(), max_size=12)):
        rating = draw(RATING) if FORMS[slug] == "ratings" else None
        pair = draw(st.sampled_from([(entry, rating), [entry, rating]]))
        history.append(entry if rating is None else pair)
        ratings[code] = None if rating is None else float(rating)
    k = draw(st.sampled_from([1, 5, np.int64(7), 100]))
    wrong = draw(st.sampled_from([None, None, "unknown", "entry", "k", "titles", "rating", "whole"]))
    keywords = {}
    if wrong in ("unknown", "entry"):
        odd = draw(st.sampled_from(["Hamlet", *UNKNOWN] if wrong == "unknown" else NONSENSE))
        odd = (odd, 3.0) if FORMS[slug] == "ratings" and not isinstance(odd, tuple | list) else odd
        history.insert(draw(st.integers(0, len(history))), odd)
    elif wrong == "k":
        k = draw(st.sampled_from([0, -1, 2.5, True, "3", None, math.nan]))
    elif wrong == "titles":
        keywords["titles"] = ["a"] * draw(st.sampled_from([0, 1, len(IDS) - 1, len(IDS) + 1]))
    elif wrong == "rating":
        odd = (0, math.nan) if FORMS[slug] == "ratings" else (0, 4.0)
        history.append(draw(st.sampled_from([odd, (0, math.inf), (0, "x")])))
    elif wrong == "whole":
        history = draw(st.sampled_from(["007", b"007", 5, None, 2.5]))
    elif draw(st.booleans()):
        history = draw(st.sampled_from([tuple, iter]))(history)
    found = answer(vc.recommend, model, history, k, **keywords)
    if wrong == "unknown" and not isinstance(found, Refused):
        wrong = None  # names that nobody knows may be left out, if nothing else changes
    if wrong is not None:
        assert isinstance(found, Refused)
        return
    assert not isinstance(found, Refused), found
    check([(entry.item, entry.score) for entry in found], *expected(model, ratings, k))
    assert all(entry.title == title_of(entry.item) for entry in found)


def written(draw, kind, rows):
    """Return a history's rows [(name, rating or None)] as a file's text."""
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    if kind == "txt":
        return ending.join(
            [draw(st.sampled_from(["", " "])) + name for name, _ in rows] + [""] * draw(st.integers(0, 2))
        )
    out = io.StringIO()
    writer = csv.writer(out, delimiter={"csv": ",", "tsv": "\t"}[kind], lineterminator=ending)
    rated = any(rating is not None for _, rating in rows)
    writer.writerow([draw(st.sampled_from(["item", "Movie_ID"])), *["rating"] * rated, "when"])
    writer.writerows([name, *[rating] * rated, "x"] for name, rating in rows)
    return out.getvalue()


@pytest.mark.parametrize("slug", FORMS)
@given(data=st.data())
@cases(12)
def test_any_history_file_gets_the_same_list_or_one_line(served, tmp_path_factory, slug, data):
    """What is printed is what the model's own scores give for the names that are known; the others are counted."""
    draw, (model, run) = data.draw, served[slug]
    name = st.sampled_from(sorted(names())) | st.sampled_from([n for n in UNKNOWN if n.strip()])
    rated = draw(st.booleans()) or FORMS[slug] == "ratings"
    rating = st.sampled_from(["1", "4.5", "5", " 2 "]) if rated else st.none()
    rows = draw(st.lists(st.tuples(name, rating), max_size=8))
    kind = draw(st.sampled_from(["csv", "tsv"] if rated else ["txt", "csv", "tsv"]))
    bad = draw(st.integers(0, 5)) == 0
    if bad:
        odd = [("Hamlet", "3" if rated else None)] + (
            [("", "3"), ("7", ""), ("7", "nan"), ("7", "1,5")] if rated else []
        )
        rows.insert(draw(st.integers(0, len(rows))), draw(st.sampled_from(odd)))
    path = tmp_path_factory.getbasetemp() / f"history.{kind}"
    path.write_text(draw(st.sampled_from(["", "\ufeff"])) + written(draw, kind, rows), encoding="utf-8", newline="")
    k = draw(st.integers(1, 30))
    done = vaecf("recommend", run, "--history", path, "-k", k)
    trained = set(model.item_index.tolist())
    known = {name: code for name, code in names().items() if code in trained}
    codes = {known[name]: float(rating) if model.rated else None for name, rating in rows if not bad and name in known}
    if bad or not codes:
        assert done.refused is not None
        return
    assert done.refused is None, done.refused
    free, length = expected(model, codes, k)
    lines = [line.split("\t") for line in done.out.split("\n")[:-1]]
    ids = sorted(IDS)
    check([(ids.index(entry[1]), free[ids.index(entry[1])]) for entry in lines], free, length)
    assert [int(entry[0]) for entry in lines] == [*range(1, length + 1)]
    assert all(entry[2] == title_of(ids.index(entry[1])) for entry in lines)
    assert all(abs(float(entry[3]) - free[ids.index(entry[1])]) <= 5.1e-5 for entry in lines)
    unknown = {name for name, _ in rows} - known.keys()
    said = re.search(r"(\d+) unknown items? left out", done.err)
    assert int(said[1] if said else 0) == len(unknown)


PEOPLE = st.sampled_from(["ann", "bob", "07", "7", "é\u0301"])


def table_of_people(draw, rows, rated, folder):
    """Write rows (user, item, rating or None) as a file; return its path."""
    path = folder / draw(st.sampled_from(["people.csv", "people.tsv"]))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="," if path.suffix == ".csv" else "\t")
        writer.writerow(["user", "item", *["rating"] * rated])
        writer.writerows(row if rated else row[:2] for row in rows)
    return path


@pytest.mark.parametrize("slug", FORMS)
@given(data=st.data())
@cases(8)
def test_any_file_of_people_gets_each_their_own_list_or_one_line(served, tmp_path_factory, slug, data):
    """What is printed is what the model's own scores give each of them, the last row of an item counting."""
    draw, (model, run) = data.draw, served[slug]
    rated = draw(st.booleans()) or (FORMS[slug] == "ratings" and draw(st.booleans()))
    name = st.sampled_from(sorted(names())) | st.sampled_from([n for n in UNKNOWN if n.strip()])
    rows = draw(st.lists(st.tuples(PEOPLE, name, st.sampled_from(["1", "4.5", "5"])), max_size=12))
    bad = draw(st.integers(0, 5)) == 0
    if bad:
        odd = draw(st.sampled_from([("ann", "Hamlet", "3"), ("", "7", "3"), ("ann", " ", "3")]))
        rows.insert(draw(st.integers(0, len(rows))), odd)
    path = table_of_people(draw, rows, rated, tmp_path_factory.getbasetemp())
    k = draw(st.integers(1, 30))
    done = vaecf("recommend", run, "--histories", path, "-k", k)
    known = {name: code for name, code in names().items() if code in set(model.item_index.tolist())}
    if bad or not any(item in known for _, item, _ in rows) or (model.rated and not rated):
        assert done.refused is not None
        assert str(path) in done.refused or "are called 'Hamlet'" in done.refused
        return
    assert done.refused is None, done.refused
    unknown = {item for _, item, _ in rows} - known.keys()
    said = re.search(r"(\d+) unknown items? left out", done.err)
    assert int(said[1] if said else 0) == len(unknown)
    lists, ids = {}, sorted(IDS)
    for user, rank, item, title, score in list(csv.reader(done.out.split("\n")[:-1], delimiter="\t"))[1:]:
        entries = lists.setdefault(user, [])
        entries.append((ids.index(item), float(score)))
        assert int(rank) == len(entries) and title == title_of(ids.index(item))
    assert lists.keys() == {user for user, _, _ in rows}
    for user, entries in lists.items():
        history = {known[i]: float(r) if model.rated else None for u, i, r in rows if u == user and i in known}
        free, length = expected(model, history, k)
        assert len(dict(entries)) == len(entries) == length
        # People are scored together, where sums may round otherwise than alone.
        best = sorted(free.values(), reverse=True)[:length]
        np.testing.assert_allclose([score for _, score in entries], best, atol=1e-4)
        np.testing.assert_allclose([score for _, score in entries], [free[code] for code, _ in entries], atol=1e-4)


METRICS = {"ndcg@5": 1, "recall@3,mrr@5": 1, "rmse": 5, "accuracy": None, "": None, "ndcg@0": None}


@pytest.mark.parametrize("slug", ["mult-vae", "means"])
@given(data=st.data())
@cases(8)
def test_any_file_is_evaluated_or_refused_in_one_line(served, tmp_path_factory, slug, data):
    """A person of five known items or more has something to be found, or one whom the file marks as tested."""
    draw, (model, run) = data.draw, served[slug]
    metrics, rated, marked = draw(st.sampled_from(sorted(METRICS))), draw(st.integers(0, 3)) > 0, draw(st.booleans())
    ids = st.sets(st.sampled_from([*IDS, "f99", "8"]), min_size=draw(st.sampled_from([1, 1, 4])), max_size=9)
    rows = [(u, i, draw(st.integers(1, 5)), draw(st.booleans())) for u in range(6) for i in sorted(draw(ids))]
    frame = pd.DataFrame(rows, columns=["user", "item", "rating", "is_test"])
    path = tmp_path_factory.getbasetemp() / "later.csv"
    frame.drop(columns=["rating"] * (not rated) + ["is_test"] * (not marked)).to_csv(path, index=False)
    done = vaecf("evaluate", run, "--interactions", path, "--metrics", metrics, "--json")
    trained = {sorted(IDS)[code] for code in model.item_index.tolist()}
    known = frame[frame["item"].isin(trained)]
    tested = known[known["is_test"]]["user"].nunique() if marked else int((known["user"].value_counts() >= 5).sum())
    suits = METRICS[metrics] is not None and (model.rates or metrics != "rmse") and (rated or not model.rated)
    if not suits or not tested:
        assert done.refused is not None
        return
    assert done.refused is None, done.refused
    result = json.loads(done.out)
    assert result["part"] == "all" and result["metrics"].keys() == set(metrics.split(","))
    for value in result["metrics"].values():
        assert value["n_users"] == tested and 0 <= value["mean"] <= METRICS[metrics]


@given(content=st.binary(max_size=60), kind=st.sampled_from(["txt", "csv", "tsv", "parquet", ""]))
@cases(20)
def test_any_bytes_as_a_history_are_answered_or_refused(served, tmp_path_factory, content, kind):
    path = Path(tmp_path_factory.getbasetemp()) / f"bytes.{kind}"
    path.write_bytes(draw_header(content, kind))
    done = vaecf("recommend", served["popularity"][1], "--history", path)
    assert (done.refused is None) == bool(done.out)


def draw_header(content, kind):
    return b"item\n" + content if kind in ("csv", "tsv") else b"007\n" + content
