"""The mutation runner on a toy package whose one test leaves a known gap."""

import ast
import json

import mutate
import pytest

CODE = '''"""A toy."""


def clip(x: int, low: int = 0) -> int:
    """Return x, no less than low."""
    if x < low:
        x = max(x, low, key=abs)
    return x * 1


def unseen(x):
    note(f"{x + 1}")
    return x.detach()[: x + 2] if not x else -x
'''
TEST = "from toy.part import clip\n\n\ndef test_clip():\n    assert clip(5) == 5 and clip(-5, 7) == 7\n"


@pytest.fixture
def project(tmp_path):
    for folder in ("toy", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "toy" / "part.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "tests" / "test_part.py").write_text(TEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow: x\n  book: x\n", encoding="utf-8")
    return tmp_path


def drawn(project, number=1000, seed=0, equivalent=()):
    return mutate.draw(project, "toy", [], number, seed, list(equivalent))


def test_each_mutant_is_another_program_in_one_place(project):
    everywhere = [m for place in mutate.mutants(project, project / "toy" / "part.py") for m in place]
    for mutant in everywhere:
        program = CODE[: mutant.start] + mutant.new + CODE[mutant.end :]
        assert ast.dump(ast.parse(program)) != ast.dump(ast.parse(CODE)), mutant
    assert {(m.before, m.after) for m in everywhere} >= {
        ("if x < low:", "if (x <= low):"),
        ("if x < low:", "if (not (x < low)):"),
        ("x = max(x, low, key=abs)", "x = (min(x, low, key=abs))"),
        ("x = max(x, low, key=abs)", "x = (max(low, x, key=abs))"),
        ("x = max(x, low, key=abs)", "x = (max(x, low))"),
        ("return x * 1", "return (x / 1)"),
        ("return x * 1", "return None"),
        ('note(f"{x + 1}")', "pass"),
        ("return x.detach()[: x + 2] if not x else -x", "return (x)[: x + 2] if not x else -x"),
        ("return x.detach()[: x + 2] if not x else -x", "return x.detach()[:x + 2 - 1] if not x else -x"),
        ("return x.detach()[: x + 2] if not x else -x", "return x.detach()[: x + 2] if (x) else -x"),
        ("return x.detach()[: x + 2] if not x else -x", "return x.detach()[: x + 2] if not x else (x)"),
    }


def test_the_draw_follows_its_seed_and_leaves_out_what_changes_nothing(project):
    assert drawn(project, 5) == drawn(project, 5) == drawn(project, 9)[:5] != drawn(project, 5, seed=1)
    known = [{"file": m.file, "before": m.before, "after": m.after, "reason": "x"} for m in drawn(project)[:3]]
    assert not {m.after for m in drawn(project, equivalent=known)} & {m["after"] for m in known}
    assert mutate.draw(project, "toy", ["part.py"], 5, 0, []) == drawn(project, 5)
    assert {m.file for m in mutate.draw(project, "toy", ["__init__.py"], 5, 0, [])} == set()


@pytest.mark.slow
def test_a_campaign_tells_killed_from_survived_and_goes_on_where_it_stopped(project, tmp_path, monkeypatch):
    wanted = {
        ("if x < low:", "if (x <= low):"),
        ("if x < low:", "if (not (x < low)):"),
        ("return x * 1", "return None"),
    }
    chosen = [m for place in mutate.mutants(project, project / "toy" / "part.py") for m in place]
    chosen = [m for m in chosen if (m.before, m.after) in wanted]
    out = tmp_path / "mutants.json"
    results = mutate.campaign(project, "toy", chosen[:2], out, 1, 60)
    assert results == json.loads(out.read_text(encoding="utf-8")) and len(results) == 2
    results = mutate.campaign(project, "toy", chosen, out, 2, 60)
    assert {entry["after"]: entry["result"] for entry in results} == {
        "if (x <= low):": "survived",
        "if (not (x < low)):": "killed",
        "return None": "killed",
    }
    monkeypatch.setattr(mutate, "verdict", None)  # nothing is left to try
    assert mutate.campaign(project, "toy", chosen, out, 1, 60) == results
    assert (project / "toy" / "part.py").read_text(encoding="utf-8") == CODE, "the project itself is left alone"


def test_a_suite_that_fails_anyway_is_no_judge(project, tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "verdict", lambda *_: "killed")
    with pytest.raises(SystemExit, match="the tests fail without any mutant"):
        mutate.campaign(project, "toy", drawn(project, 1), tmp_path / "m.json", 1, 60)


def test_what_is_listed_as_equivalent_has_a_reason():
    listed = json.loads((mutate.ROOT / "tests" / "tools" / "equivalent.json").read_text(encoding="utf-8"))
    assert all(set(entry) == {"file", "before", "after", "reason"} and len(entry["reason"]) > 20 for entry in listed)
