"""Mutation testing: break the library in one place at a time and see whether a test notices.

    python tests/tools/mutate.py --number 100 --seed 1 --out mutants.json [maths data/splits.py]

draws mutants of ``vaecf_lib`` by chance, applies each in a copy of the project, runs the tests that mirror its module and
then the fast suite, and reports what survived, as text and as JSON. The same call goes on where it stopped; another seed
draws others. A survivor is a test to write, or an entry of ``equivalent.json``: changes that change nothing, with reasons.

Own code, since the two kept libraries do not fit: mutmut leaves out decorated functions, as fit and the splits are, and
wraps the others, whose signatures are read here; cosmic-ray mutates the checkout itself, with one test command for all.
Neither draws a sample, drops a statement or a ``.detach()``, or swaps two arguments.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue

ROOT, PACKAGE = Path(__file__).resolve().parents[2], "vaecf_lib"
SWAPS = [
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn),
    (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.Pow, ast.Mod), (ast.BitAnd, ast.BitOr),
]  # fmt: skip
SWAPS = {a: b for pair in SWAPS for a, b in (pair, pair[::-1])} | {ast.FloorDiv: ast.Mult}
LEFT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "_build", "build", ".*_cache")
NAMES = [("min", "max"), ("any", "all"), ("sum", "mean"), ("argmin", "argmax"), ("floor", "ceil"), ("zeros", "ones")]
NAMES = {a: b for pair in NAMES for a, b in (pair, pair[::-1])} | {"no_grad": "enable_grad"}
DROPPED = {"detach", "clone", "clamp", "abs", "exp", "log", "sqrt", "sort", "strip", "lower", "eval", "train"}
NO_CODE = (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arg)  # messages and annotations


@dataclass(frozen=True)
class Mutant:
    """A file whose bytes ``start`` to ``end`` become ``new``; ``before`` and ``after``: the line or lines they are in."""

    file: str
    line: int
    start: int
    end: int
    new: str
    before: str
    after: str


def changes(node: ast.AST) -> Iterator[ast.AST | str]:
    """Yield what a node may become: another node, or text."""

    def other(**fields) -> ast.AST:
        return type(node)(**dict(ast.iter_fields(node)) | fields)

    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield other(ops=[SWAPS[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            yield other(op=SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield other(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (other(value=changed) for changed in (value + 1, value - 1, value * 2) if changed != value)
        case ast.IfExp(body=body, orelse=orelse):
            yield other(body=orelse, orelse=body)
        case ast.Slice():
            for end, op in ((end, op) for end in ("lower", "upper") if getattr(node, end) for op in (ast.Add, ast.Sub)):
                yield other(**{end: ast.BinOp(getattr(node, end), op(), ast.Constant(1))})
        case ast.Return(value=ast.expr()):
            yield "return None"
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Call(func=func, args=args, keywords=keywords):
            if len(args) > 1:
                yield other(args=[args[1], args[0], *args[2:]])
            yield from (other(keywords=[k for k in keywords if k is not left]) for left in keywords if left.arg)
            if isinstance(func, ast.Attribute) and func.attr in DROPPED:
                yield func.value
            if isinstance(func, ast.Attribute) and func.attr in NAMES:
                yield other(func=ast.Attribute(func.value, NAMES[func.attr], ast.Load()))
            if isinstance(func, ast.Name) and func.id in NAMES:
                yield other(func=ast.Name(NAMES[func.id], ast.Load()))


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, list[str]]]:
    """Yield the nodes that are code, and the texts that each may become."""
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, NO_CODE) or name in ("annotation", "returns"):
                continue
            texts = [c if isinstance(c, str) else ast.unparse(ast.fix_missing_locations(c)) for c in changes(child)]
            if isinstance(child, ast.expr) and not isinstance(child, ast.Constant | ast.Slice):
                texts = [f"({text})" for text in texts]
            texts += ["pass"] * isinstance(child, ast.AugAssign)
            if texts:
                yield child, texts
            if isinstance(child, ast.If | ast.While):
                yield child.test, [f"(not ({ast.unparse(child.test)}))"]
            yield from places(child)


def mutants(root: Path, path: Path) -> Iterator[list[Mutant]]:
    """Yield for each place of a file the mutants there are."""
    source = path.read_bytes()
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    for node, texts in places(ast.parse(source)):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        head, tail = source[source.rfind(b"\n", 0, start) + 1 : start], source[end : source.find(b"\n", end)]
        shown = [b"".join([head, part, tail]) for part in (source[start:end], *map(str.encode, texts))]
        before, *after = (" ".join(text.decode().split()) for text in shown)
        file = path.relative_to(root).as_posix()
        yield [Mutant(file, node.lineno, start, end, *pair) for pair in zip(texts, [before] * 9, after, strict=False)]


def draw(root: Path, package: str, only: list[str], number: int, seed: int, equivalent: list[dict]) -> list[Mutant]:
    """Return ``number`` mutants, at most one a place, every place as likely as any other."""
    chance = random.Random(seed)
    files = {path for name in only or [""] for path in [root / package / name, *(root / package / name).rglob("*.py")]}
    everywhere = [place for path in sorted(files) if path.is_file() for place in mutants(root, path)]
    drawn = [chance.choice(place) for place in chance.sample(everywhere, len(everywhere))]
    known = {(entry["file"], entry["before"], entry["after"]) for entry in equivalent}
    return [m for m in drawn if (m.file, m.before, m.after) not in known][:number]


def verdict(tree: Path, file: str, timeout: float) -> str:
    """Return "survived", "killed" or "timeout": by the tests of the module and its neighbours, then by the fast suite."""
    _, *rooms, name = Path(file).parts
    room = tree.joinpath("tests", *rooms)
    near = [*room.glob(f"test_{Path(name).stem}*.py"), *([room] if rooms and room.is_dir() else [])]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    for tests in [near, []] if near else [[]]:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not book"]
        limit = ["timeout", "--kill-after=10", str(timeout), "prlimit", f"--data={2**33}"]  # a mutant may ask for all
        code = subprocess.run([*limit, *command, *tests], cwd=tree, env=environment, capture_output=True).returncode
        if code not in (0, 5):  # 5: no test was selected
            return "timeout" if code in (124, 137) else "killed"
    return "survived"


def report(entry: dict) -> str:
    return "{result:8s} {file}:{line}\n  - {before}\n  + {after}".format(**entry)


def campaign(root: Path, package: str, drawn: list[Mutant], out: Path, jobs: int, timeout: float) -> list[dict]:
    """Try the mutants in copies of the project; keep each result in ``out`` as it comes, and take over those there."""
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    results = [entry for mutant in drawn for entry in kept if asdict(mutant).items() <= entry.items()]
    todo = [mutant for mutant in drawn if not any(asdict(mutant).items() <= entry.items() for entry in results)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        trees = SimpleQueue()
        for job in range(jobs):
            trees.put(shutil.copytree(root, Path(folder) / str(job), ignore=LEFT))

        def attempt(mutant: Mutant | None) -> str:
            tree = trees.get()
            path = tree / (mutant.file if mutant else f"{package}/__init__.py")
            source = path.read_bytes()
            try:
                new = source[: mutant.start] + mutant.new.encode() + source[mutant.end :] if mutant else source + b"#\n"
                path.write_bytes(new)
                return verdict(tree, path.relative_to(tree).as_posix(), timeout)
            finally:
                path.write_bytes(source)
                trees.put(tree)

        if todo and attempt(None) != "survived":  # a comment: what fails then would kill them all
            raise SystemExit("the tests fail without any mutant: mend them first")
        for mutant, result in zip(todo, pool.map(attempt, todo), strict=True):
            results.append(asdict(mutant) | {"result": result})
            out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(report(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="folders or files of the package, as maths or data/splits.py")
    for name, value in (("number", 100), ("seed", 0), ("jobs", 1), ("timeout", 900)):  # seconds for a stage of tests
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    given = parser.parse_args()
    equivalent = json.loads(Path(__file__).with_name("equivalent.json").read_text(encoding="utf-8"))
    drawn = draw(ROOT, PACKAGE, given.only, given.number, given.seed, equivalent)
    results = campaign(ROOT, PACKAGE, drawn, given.out, given.jobs, given.timeout)
    survived = [report(entry) for entry in results if entry["result"] == "survived"]
    print(*survived, f"{len(results)} mutants, {len(survived)} of them survived", sep="\n")
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
