"""Mutation testing: break the library in one place at a time and see whether a test notices.

    python tests/tools/mutate.py --number 100 --seed 1 --out /tmp/mutants.json

draws mutants of ``vaecf_lib`` by chance, applies each in a copy of the project, runs the tests named after its module and
then the fast suite, and reports what survived, as text and as JSON. The same call goes on where it stopped; another seed
draws others. A survivor is a test to write, or a line for ``equivalent.json`` beside this file, which lists changes that
change nothing, by their text, with the reason.

Own code, since the two kept libraries do not fit. mutmut leaves out decorated functions, which here are the public ones
and the properties, wraps the rest in trampolines, and has to run the whole suite for its statistics first. cosmic-ray
mutates the checkout itself, with one test command for all modules and no draw. Neither drops a statement or a
``.detach()``, nor swaps two arguments.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "mean", "mean": "sum", "argmin": "argmax"}
NAMES |= {
    "argmax": "argmin",
    "floor": "ceil",
    "ceil": "floor",
    "zeros": "ones",
    "ones": "zeros",
    "no_grad": "enable_grad",
}
DROPPED = {
    "detach",
    "clone",
    "clamp",
    "abs",
    "exp",
    "log",
    "sqrt",
    "sort",
    "strip",
    "lower",
    "flatten",
    "t",
    "eval",
    "train",
}
NO_CODE = (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)  # messages and annotations


@dataclass(frozen=True)
class Mutant:
    """The bytes ``start`` to ``end`` of a file made ``new``; ``before`` and ``after``: the lines this is about."""

    file: str
    line: int
    start: int
    end: int
    new: str
    before: str
    after: str


def changes(node: ast.AST) -> Iterator[ast.AST | str]:
    """Yield what a node may become: another node, or text."""

    def other(**fields):
        changed = copy.copy(node)
        for name, value in fields.items():
            setattr(changed, name, value)
        return changed

    match node:
        case ast.Compare(ops=[op]) if type(op) in OPERATORS:
            yield other(ops=[OPERATORS[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield other(op=OPERATORS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield other(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (other(value=changed) for changed in (value + 1, value - 1, value * 2) if changed != value)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield other(test=ast.UnaryOp(ast.Not(), test))
        case ast.Slice(lower=lower, upper=upper):
            one = ast.Constant(1)
            yield from (other(lower=ast.BinOp(lower, op, one)) for op in (ast.Add(), ast.Sub()) if lower)
            yield from (other(upper=ast.BinOp(upper, op, one)) for op in (ast.Add(), ast.Sub()) if upper)
        case ast.Return(value=ast.expr()):
            yield "return None"
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Call(func=func, args=args, keywords=keywords):
            if len(args) > 1:
                yield other(args=[args[1], args[0], *args[2:]])
            yield from (
                other(keywords=[k for k in keywords if k is not dropped]) for dropped in keywords if dropped.arg
            )
            if isinstance(func, ast.Attribute) and func.attr in DROPPED:
                yield func.value
            if isinstance(func, ast.Attribute) and func.attr in NAMES:
                yield other(func=ast.Attribute(func.value, NAMES[func.attr], ast.Load()))
            if isinstance(func, ast.Name) and func.id in NAMES:
                yield other(func=ast.Name(NAMES[func.id], ast.Load()))


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that are code."""
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, NO_CODE) and name not in ("annotation", "returns"):
                yield child
                yield from nodes(child)


def mutants(path: Path, root: Path) -> Iterator[list[Mutant]]:
    """Yield for each place of a file the mutants there are."""
    source = path.read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node in nodes(ast.parse(source)):
        here = []
        for change in changes(node):
            new = change if isinstance(change, str) else ast.unparse(ast.fix_missing_locations(change))
            if isinstance(node, ast.expr) and not isinstance(node, ast.Constant | ast.Slice):
                new = f"({new})"
            if isinstance(node, ast.If | ast.While):  # only the head is rewritten, not the body
                first, last, new = node.test, node.test, f"not ({ast.unparse(node.test)})"
            else:
                first = last = node
            start, end = starts[first.lineno - 1] + first.col_offset, starts[last.end_lineno - 1] + last.end_col_offset
            before, after = source[:start], source[end:]
            left, right = before[before.rfind(b"\n") + 1 :], after[: after.find(b"\n")]
            old, changed = (b"".join([left, part, right]).decode() for part in (source[start:end], new.encode()))
            text = (" ".join(part.split()) for part in (old, changed))
            here.append(Mutant(path.relative_to(root).as_posix(), first.lineno, start, end, new, *text))
        if here:
            yield here


def draw(root: Path, package: str, only: list[str], number: int, seed: int, equivalent: set) -> list[Mutant]:
    """Return ``number`` mutants, at most one a place, every place as likely as any other."""
    files = [path for path in sorted((root / package).rglob("*.py"))]
    files = [p for p in files if not only or any((root / package / o) in (p, *p.parents) for o in only)]
    places = [place for path in files for place in mutants(path, root)]
    chance = random.Random(seed)
    drawn = (chance.choice(place) for place in chance.sample(places, len(places)))
    sound = (m for m in drawn if (m.file, m.before, m.after) not in equivalent and m.before != m.after)
    return [mutant for mutant, _ in zip(sound, range(number), strict=False)]


def stages(tree: Path, file: str) -> list[list[str]]:
    """Return the tests to run, as pytest's arguments: those of the module and its neighbours, then the fast suite."""
    module = Path(*Path(file).parts[1:])
    own = sorted((tree / "tests" / module.parent).glob(f"test_{module.stem}*.py"))
    near = (
        [tree / "tests" / module.parent] if len(module.parts) > 1 and (tree / "tests" / module.parent).is_dir() else []
    )
    return [[*map(str, [*own, *near])]] * bool(own or near) + [[]]


def verdict(tree: Path, file: str, timeout: float) -> str:
    """Return "survived", "killed" or "timeout"."""
    for tests in stages(tree, file):
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not book"]
        environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, *tests], cwd=tree, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33)),
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "timeout"
        if code not in (0, 5):  # 5: no test was selected
            return "killed"
    return "survived"


def campaign(root: Path, package: str, drawn: list[Mutant], out: Path, jobs: int, timeout: float) -> list[dict]:
    """Try the mutants in copies of the project; keep each result in ``out`` as it comes, and take over those there."""
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    results = [entry for entry in kept if any(entry.items() >= asdict(m).items() for m in drawn)]
    todo = [m for m in drawn if not any(entry.items() >= asdict(m).items() for entry in results)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        trees = SimpleQueue()
        for job in range(jobs):
            leave = shutil.ignore_patterns(".git", ".venv", "__pycache__", "_build", ".*_cache")
            trees.put(shutil.copytree(root, Path(folder) / str(job), ignore=leave))

        def attempt(mutant: Mutant | None) -> str:
            tree = trees.get()
            file = tree / (mutant.file if mutant else f"{package}/__init__.py")
            source = file.read_bytes()
            try:
                # Without a mutant, a comment: what fails then would kill them all.
                new = (
                    source[: mutant.start] + mutant.new.encode() + source[mutant.end :] if mutant else source + b"# -\n"
                )
                file.write_bytes(new)
                return verdict(tree, file.relative_to(tree).as_posix(), timeout)
            finally:
                file.write_bytes(source)
                trees.put(tree)

        if todo and attempt(None) != "survived":
            raise SystemExit("the tests fail without any mutant: mend them first")
        for mutant, result in zip(todo, pool.map(attempt, todo), strict=True):
            results.append(asdict(mutant) | {"result": result})
            out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{result:8s} {mutant.file}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
    return results


def main() -> None:
    """Run a campaign; exit with 1 if a mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "only", nargs="*", help="folders or files of the package, as maths or data/splits.py; default all"
    )
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one stage of tests")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--package", default="vaecf_lib")
    given = parser.parse_args()
    listed = Path(__file__).with_name("equivalent.json")
    equivalent = {(e["file"], e["before"], e["after"]) for e in json.loads(listed.read_text(encoding="utf-8"))}
    drawn = draw(given.root, given.package, given.only, given.number, given.seed, equivalent)
    results = campaign(given.root, given.package, drawn, given.out, given.jobs, given.timeout)
    survived = [entry for entry in results if entry["result"] == "survived"]
    print(f"{len(results)} mutants, {len(results) - len(survived)} killed, {len(survived)} survived")
    for entry in survived:
        print(f"{entry['file']}:{entry['line']}\n  - {entry['before']}\n  + {entry['after']}")
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
