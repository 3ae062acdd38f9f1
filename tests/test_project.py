"""The project's own files agree with each other."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
import yaml
from packaging.requirements import Requirement

import vaecf_lib as vc
from vaecf_lib import cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lock():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {
        r.name.lower().replace("_", "-"): r
        for r in map(Requirement, (line for line in lines if line and line[0] != "#"))
    }


def test_lock_pins_exact_versions_that_satisfy_the_project():
    pins = lock()
    for text in [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]:
        requirement = Requirement(text)
        pin = pins[requirement.name.lower().replace("_", "-")]
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and requirement.specifier.contains(specifier.version), text


def test_runtime_dependencies_have_lower_bounds_only():
    for text in PROJECT["dependencies"]:
        assert [s.operator for s in Requirement(text).specifier] == [">="], text


def test_environment_yml_agrees():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (python,) = [Requirement(d) for d in environment["dependencies"] if str(d).startswith("python")]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    supported = [
        c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert supported[0] == oldest and all(python.specifier.contains(version) for version in supported)
    major, minor = supported[-1].split(".")
    assert not python.specifier.contains(f"{major}.{int(minor) + 1}")
    assert {"pip": ["-r requirements.lock", "-e ."]} in environment["dependencies"]


def test_citation_agrees():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == vc.__version__
    assert PROJECT["license"] in citation["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_everything_imported_is_declared():
    """What a module imports when it is loaded is a runtime dependency; what a function imports may be of an extra."""
    runtime = {Requirement(r).name.lower() for r in PROJECT["dependencies"]}
    optional = {Requirement(r).name.lower() for extra in EXTRAS.values() for r in extra}
    provided_by = {
        "contourpy": "matplotlib",
        "requests": "pooch",
        "threadpoolctl": "implicit",
    }  # dependencies of a dependency, always there
    for path in (ROOT / "vaecf_lib").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        lazy = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0].lower()
                if top not in sys.stdlib_module_names and top != "vaecf_lib":
                    declared = runtime | optional if id(node) in lazy else runtime
                    assert provided_by.get(top, top) in declared, f"{path}:{node.lineno}: {name}"


def text_without_encoding(tree):
    """Return the lines of calls that read or write text in the encoding of the machine they happen to run on."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        modes = [m for m in modes if isinstance(m, str) and re.fullmatch(r"[rwaxbt+]{1,3}", m)]
        if name in ("read_text", "write_text"):
            found.append(node.lineno)
        elif name == "open" and not any("b" in m for m in modes) and (modes or isinstance(node.func, ast.Name)):
            found.append(node.lineno)
    return found


def test_text_files_name_their_encoding():
    """Windows' default is not UTF-8: titles and results would be garbled or refused."""
    folders = ("vaecf_lib", "book/_ext", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for path in [*paths, ROOT / "tests" / "conftest.py", ROOT / "tests" / "book" / "conftest.py"]:
        assert text_without_encoding(ast.parse(path.read_text(encoding="utf-8"))) == [], path


def test_the_encoding_check_can_fail():
    bad = ["p.read_text()", "p.write_text('x')", "open(p)", "open(p, 'w')", "p.open('a')", "p.open(mode='r')"]
    good = [
        "p.read_text(encoding='utf-8')",
        "open(p, 'rb')",
        "p.open('wb')",
        "tarfile.open(p)",
        "source.open('u.data')",
    ]
    for code in bad + good:
        assert bool(text_without_encoding(ast.parse(code))) == (code in bad), code


def test_imports_run_downwards_only():
    """cli > lab > experiment > training > evaluation > models, baselines > nn > maths, data."""
    layer = {"errors": -1, "options": 0, "environment": 0, "maths": 1, "data": 1, "nn": 2, "models": 3, "baselines": 4, "systems": 5,
             "distributed": 4, "sharding": 5,
             "evaluation": 5, "checkpoints": 6, "manifest": 7, "serving": 7, "explore": 7, "runs": 8, "plots": 8, "training": 9,
             "experiment": 10, "tuning": 11, "lab": 11, "cli": 12, "__main__": 13, "__init__": 99}  # fmt: skip
    for path in (ROOT / "vaecf_lib").rglob("*.py"):
        parts = path.relative_to(ROOT / "vaecf_lib").with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = list(parts[: len(parts) - node.level])
                target = (base + (node.module or "").split("."))[0]
                targets = [target] if target else [a.name for a in node.names]
                for name in targets:
                    if name != parts[0] and name in layer:
                        assert layer[name] < layer[parts[0]], f"{'.'.join(parts)} imports {name}"


def imports_of(path):
    """Yield the package's modules that a file imports, dotted, each with whether the file imports it when loaded."""
    folder = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loaded = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [node.module])])
            names = [f"{base if node.level else node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in loaded) for name in names if name.startswith("vaecf_lib."))


def test_the_laboratory_is_a_wing_of_its_own():
    """Nothing outside imports it but the command line, its commands alone; and these load it only when they are called."""
    package = ROOT / "vaecf_lib"
    outside = [path for path in package.rglob("*.py") if path.parent != package / "lab"]
    found = {(path.name, name) for path in outside for name, _ in imports_of(path) if "vaecf_lib.lab" in name}
    assert found == {("cli.py", "vaecf_lib.lab.cli.app")}
    at_once = {name for name, loaded in imports_of(package / "lab" / "cli.py") if loaded}
    assert at_once == {"vaecf_lib.errors.ConfigError", "vaecf_lib.lab.RESULTS"}


def test_maths_imports_only_torch_and_what_python_has():
    for path in (ROOT / "vaecf_lib" / "maths").glob("*.py"):
        found = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.M))
        assert found <= {"torch", *sys.stdlib_module_names}, path


@pytest.mark.parametrize("word", ["NotImplementedError", "TODO", "FIXME", "XXX", "import pickle", "torch.load("])
def test_library_holds_no(word):
    hits = [str(p) for p in (ROOT / "vaecf_lib").rglob("*.py") if word in p.read_text(encoding="utf-8")]
    assert not hits


def test_tracked_files_hold_no_real_data():
    if not (ROOT / ".git").exists():
        return
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [n for n in names if re.search(r"ratings\.dat|u\.data|movies\.dat|\.mat$", n)]
    allowed = {"README.md", "LICENSE", "CITATION.cff", "Makefile", "_config.yml", "_toc.yml", "environment.yml",
               "pyproject.toml", "requirements.lock", ".gitignore", "book", "notebooks", "vaecf_lib", "tests",
               "benchmarks", ".ci", ".github"}  # fmt: skip
    assert {n.split("/")[0] for n in names} <= allowed


def test_wheel_installs_and_holds_the_library_alone(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    assert "vaecf_lib/cli.py" in names and not [n for n in names if n.startswith(("tests", "book", "benchmarks"))]


def shrunk(example):
    """README's example, small: one epoch, one trial, and the embedded data in the place of MovieLens-1M, a download."""
    return re.sub(r"(epochs|trials)([= ])\d+", r"\g<1>\g<2>1", example).replace("--dataset ml-1m", "--dataset planted")


@pytest.mark.slow
def test_readme_examples_run_in_order(tmp_path, monkeypatch, capsys):
    """First the Python example, then every `vaecf` line of the shell's, in one folder."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.S))
    lines = [line for block in re.findall(r"```bash\n(.*?)```", readme, re.S) for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("vaecf ")]
    assert len(lines) >= 7
    log = vc.load_dataset("planted")
    keep = log.user < 200
    rows = zip(log.user[keep], log.item[keep], log.rating[keep], strict=True)
    (tmp_path / "my_interactions.csv").write_text(
        "user,item,rating\n" + "".join(f"{u},{i},{r:g}\n" for u, i, r in rows)
    )
    named = [f"{u},film {i},{r:g}\n" for u, i, r in zip(log.user[keep], log.item[keep], log.rating[keep], strict=True)]
    (tmp_path / "purchases.csv").write_text("uid,movie,stars\n" + "".join(named))
    items, seen = np.unique(log.item[keep & (log.rating >= 4)], return_counts=True)
    (tmp_path / "one_persons_items.txt").write_text("".join(f"{item}\n" for item in items[seen.argsort()[-3:]]))
    done = subprocess.run([sys.executable, "-c", shrunk(example)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "users)" in done.stdout
    monkeypatch.chdir(tmp_path)
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(shrunk(line), comments=True))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert not stopped.value.code, f"{line}\n{said.err}"
        assert said.out or Path(line.split("--out ")[1].split()[0]).is_file(), line


def test_the_api_pages_examples_of_training_run_in_order(tmp_path, monkeypatch):
    """With stand-ins for TensorBoard and MLflow that are as strict as these: numbers only, no @ in MLflow's names."""
    seen = []

    def log_metrics(row, step):
        assert all(re.fullmatch(r"[/\w.\- ]+", name) and float(value) == value for name, value in row.items())
        seen.append(("mlflow", step))

    writer = SimpleNamespace(add_scalar=lambda name, value, step: seen.append((name, float(value), step)))
    board = SimpleNamespace(SummaryWriter=lambda folder: writer)
    flow = SimpleNamespace(start_run=nullcontext, log_params=dict, log_metrics=log_metrics)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    monkeypatch.chdir(tmp_path)
    log = vc.load_dataset("planted")
    log = log.select(log.user < 200)
    split = vc.split_strong(log)
    model = vc.models.MultVAE(split.n_items, latent_dim=4, hidden=8)
    names = {"vc": vc, "log": log, "split": split, "model": model}
    names["run"] = vc.fit(model, split, epochs=2, progress=False)
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    section = page[page.index("### Watch a training") : page.index("## Serving")]
    examples = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(examples) >= 4
    for example in examples:
        exec(compile(re.sub(r"\b50\b", "2", example), "api.md", "exec"), names)
    assert [entry for entry in seen if entry[0] == "mlflow"] == [("mlflow", 1), ("mlflow", 2)]
    assert {("ndcg@100", 1), ("ndcg@100", 2)} <= {(name, step) for name, _, step in (e for e in seen if len(e) == 3)}
    assert (tmp_path / "runs" / "final" / "manifest.json").exists()


def test_readme_names_commands_that_exist_and_every_target():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"make ([\w-]+)", readme)) == targets
    commands = set(typer.main.get_command(cli.app).commands)
    assert set(re.findall(r"vaecf (\w+)", readme)) <= commands
