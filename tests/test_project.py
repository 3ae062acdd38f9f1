"""The project's own files agree with each other."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
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
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]
    assert {"pip": ["-r requirements.lock", "-e ."]} in environment["dependencies"]


def test_everything_imported_is_declared():
    declared = {Requirement(r).name.lower() for r in PROJECT["dependencies"]}
    optional = {Requirement(r).name.lower() for extra in EXTRAS.values() for r in extra}
    provided_by = {"contourpy": "matplotlib", "requests": "pooch"}  # dependencies of a dependency, always there
    for path in (ROOT / "vaecf_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0].lower()
                if top not in sys.stdlib_module_names and top != "vaecf_lib":
                    assert provided_by.get(top, top) in declared | optional, f"{path}: {name}"


def test_imports_run_downwards_only():
    """cli > ledger, bench > experiment > training > evaluation > models, baselines > nn > maths, data."""
    layer = {"errors": -1, "options": 0, "environment": 0, "studies": 0, "comparison": 1, "maths": 1, "data": 1, "nn": 2, "models": 3, "baselines": 4, "systems": 5,
             "evaluation": 5, "recommending": 6, "checkpoints": 6, "explore": 7, "plots": 8, "training": 8,
             "experiment": 9, "ledger": 10, "bench": 11, "cli": 12, "__main__": 13, "__init__": 99}  # fmt: skip
    for path in (ROOT / "vaecf_lib").rglob("*.py"):
        parts = path.relative_to(ROOT / "vaecf_lib").with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = list(parts[: len(parts) - node.level])
                target = (base + (node.module or "").split("."))[0]
                targets = [target] if target else [a.name for a in node.names]
                for name in targets:
                    if name != parts[0] and name in layer:
                        assert layer[name] < layer[parts[0]], f"{'.'.join(parts)} imports {name}"


def test_maths_imports_torch_only():
    for path in (ROOT / "vaecf_lib" / "maths").glob("*.py"):
        found = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.M))
        assert found <= {"torch", "math", "__future__"}, path


@pytest.mark.parametrize("word", ["NotImplementedError", "TODO", "FIXME", "XXX", "import pickle", "torch.load("])
def test_library_holds_no(word):
    hits = [str(p) for p in (ROOT / "vaecf_lib").rglob("*.py") if word in p.read_text()]
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


def test_readme_examples_run(tmp_path):
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    import vaecf_lib as vc

    log = vc.load_dataset("planted")
    keep = log.user < 200
    rows = zip(log.user[keep], log.item[keep], log.rating[keep], strict=True)
    (tmp_path / "my_interactions.csv").write_text(
        "user,item,rating\n" + "".join(f"{u},{i},{r:g}\n" for u, i, r in rows)
    )
    example = example.replace("vc.fit(model, split", "vc.fit(model, split, epochs=2, device='cpu'")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "users)" in done.stdout


def test_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make (\w+)", readme)) <= targets | {"sure"}
    from vaecf_lib.cli import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert set(re.findall(r"vaecf (\w+)", readme)) <= commands
