"""The command line, as a user calls it."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vaecf_lib as vc
from vaecf_lib import cli
from vaecf_lib.systems import build

FAST = ["--epochs", "2", "--device", "cpu", "--set", "hidden=20", "--set", "latent_dim=8"]


class Done:
    """What a call left behind."""

    def __init__(self, code, out, err):
        self.returncode, self.stdout, self.stderr = code, out, err


@pytest.fixture
def call(capsys, monkeypatch):
    """Call the command line in this process."""

    def vaecf(*arguments, check=True):
        monkeypatch.setattr(sys, "argv", ["vaecf", *map(str, arguments)])
        capsys.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
            cli.main()
        done = Done(stopped.value.code or 0, *capsys.readouterr())
        assert not check or done.returncode == 0, done.stderr
        return done

    return vaecf


@pytest.mark.slow
def test_as_a_program():
    """Both entry points, as processes: exit codes, one-line errors, clean output."""
    script = Path(sys.executable).with_name("vaecf")
    for command in ([sys.executable, "-m", "vaecf_lib"], [str(script)]):
        good = subprocess.run([*command, "models"], capture_output=True, text=True)
        assert good.returncode == 0 and good.stdout.startswith("mult-vae")
    bad = subprocess.run([str(script), "fit", "svd", "--dataset", "planted"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr.startswith("error: unknown model 'svd'") and bad.stderr.count("\n") == 1


def test_lists(call):
    lines = call("datasets").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    wanted = "planted ml-100k ml-1m ml-10m ml-20m netflix msd douban flixster amazon-pet amazon-kindle".split()
    assert names == wanted and all(len(line.split()) > 2 for line in lines)
    models = [line.split()[0] for line in call("models").stdout.splitlines()]
    assert {"mult-vae", "mult-dae", "popularity", "random"} <= set(models)


def test_fit_prints_one_json_object(call):
    done = call("fit", "mult-vae", "--dataset", "planted", *FAST, "--metrics", "recall@20,ndcg@100", "--json")
    result = json.loads(done.stdout)
    keys = {
        "model",
        "dataset",
        "protocol",
        "metrics",
        "seconds_per_epoch",
        "epochs",
        "seed",
        "device",
        "peak_memory_mb",
    }
    assert keys | {"data_sha256"} <= set(result)
    assert set(result["metrics"]) == {"recall@20", "ndcg@100"}
    assert set(result["metrics"]["ndcg@100"]) == {"mean", "ci", "n_users"}
    assert result["data_sha256"] == vc.load_dataset("planted").sha256
    assert result["epochs"] == 2 and result["device"] == "cpu"


def test_metrics_without_an_interval_have_null_in_json(call):
    """Coverage has none, and NaN is no JSON."""
    done = call("fit", "popularity", "--dataset", "planted", "--metrics", "coverage@5,novelty@5", "--json")
    metrics = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["metrics"]
    assert metrics["coverage@5"]["ci"] is None and metrics["novelty@5"]["ci"] > 0


@pytest.mark.parametrize("protocol", ["weak", "ratings"])
def test_other_protocols_run(call, protocol):
    result = json.loads(call("fit", "popularity", "--dataset", "planted", "--protocol", protocol, "--json").stdout)
    assert result["protocol"] == protocol and result["epochs"] == 0


def own_csv(path):
    log = vc.load_dataset("planted")
    keep = log.user < 300
    rows = zip(log.user[keep], log.item[keep], log.rating[keep], strict=True)
    path.write_text("user,item,rating\n" + "".join(f"u{u},f{i},{r:g}\n" for u, i, r in rows))


def test_own_file_fit_recommend_and_resume(call, tmp_path):
    own_csv(tmp_path / "mine.csv")
    run = tmp_path / "run"
    arguments = ["fit", "mult-vae", "--interactions", tmp_path / "mine.csv", *FAST, "--out", run, "--json"]
    first = json.loads(call(*arguments).stdout)
    second = json.loads(call(*arguments).stdout)
    assert first["metrics"] == second["metrics"], "the second call finds the finished run"
    assert json.loads((run / "result.json").read_text())["model"] == "mult-vae"
    (tmp_path / "history.txt").write_text("f3\nf5\n")
    lines = call("recommend", run, "--history", tmp_path / "history.txt", "-k", "4").stdout.splitlines()
    assert len(lines) == 4 and lines[0].startswith("1\tf")
    assert not {"f3", "f5"} & {line.split("\t")[1] for line in lines}
    (tmp_path / "history.csv").write_text("item\nf3\nf5\n")
    assert call("recommend", run, "--history", tmp_path / "history.csv", "-k", "4").stdout.splitlines() == lines
    (tmp_path / "history.txt").write_text("f3\nnothing\nf5\n")
    done = call("recommend", run, "--history", tmp_path / "history.txt", "-k", "4")
    assert done.stdout.splitlines() == lines and "1 unknown items left out, the first is 'nothing'" in done.stderr
    (tmp_path / "history.txt").write_text("no\nnothing\n")
    done = call("recommend", run, "--history", tmp_path / "history.txt", check=False)
    assert done.returncode == 2 and "none of its items is known, the first is 'no'" in done.stderr
    done = call("recommend", run, "--history", tmp_path / "history.csv", "-k", "0", check=False)
    assert done.returncode == 2 and "k=0: the length of the list must be a whole number above 0" in done.stderr
    (tmp_path / "history.csv").write_text("item,rating\nf3,5\nf5,1\n")
    done = call("recommend", run, "--history", tmp_path / "history.csv", "-k", "4")
    assert done.stdout.splitlines() == lines and "trained on clicks, so ratings are not read" in done.stderr


def test_a_run_on_ratings_is_served_from_rated_histories(call, tmp_path):
    own_csv(tmp_path / "mine.csv")
    arguments = ["--interactions", tmp_path / "mine.csv", "--protocol", "ratings", "--epochs", "1"]
    call("fit", "means", *arguments, "--out", tmp_path / "means")
    lists = []
    for ratings in ("5", "1"):
        (tmp_path / "h.csv").write_text(f"item,rating\nf3,{ratings}\nf5,{ratings}\n")
        lists.append(call("recommend", tmp_path / "means", "--history", tmp_path / "h.csv", "-k", "4").stdout)
    assert lists[0] != lists[1]
    (tmp_path / "h.txt").write_text("f3\n")
    done = call("recommend", tmp_path / "means", "--history", tmp_path / "h.txt", check=False)
    assert done.returncode == 2 and "has no rating, and this means reads ratings" in done.stderr
    call("fit", "ncf", *arguments, "--out", tmp_path / "ncf")
    done = call("recommend", tmp_path / "ncf", "--history", tmp_path / "h.csv", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ncf scores only the users it was trained on")


def test_the_system_refusing_is_one_line_too(call, tmp_path):
    """A folder that cannot be made, a name too long: one line, exit 2."""
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        done = call("fit", "popularity", "--dataset", "planted", "--out", out, check=False)
        assert done.returncode == 2 and str(out)[:60] in done.stderr and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_run_on_other_data_is_not_touched(call, tmp_path):
    own_csv(tmp_path / "mine.csv")
    run = tmp_path / "run"
    call("fit", "popularity", "--interactions", tmp_path / "mine.csv", "--out", run)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    done = call("fit", "popularity", "--dataset", "planted", "--out", run, check=False)
    assert "holds a run on other data" in done.stderr
    assert before == {p.name: p.read_bytes() for p in run.iterdir()}


def test_a_run_without_item_ids_and_a_history_of_everything(call, tmp_path, planted_split):
    vc.fit(build("popularity", 500), replace(planted_split, items=None), out=tmp_path / "nameless", progress=False)
    (tmp_path / "h.txt").write_text("3\n")
    done = call("recommend", tmp_path / "nameless", "--history", tmp_path / "h.txt", check=False)
    assert done.returncode == 2 and "the run knows no item ids: train it on a split that does" in done.stderr
    vc.fit(build("popularity", 500), planted_split, out=tmp_path / "named", progress=False)
    (tmp_path / "h.txt").write_text("\n".join(map(str, planted_split.items.ids)))
    done = call("recommend", tmp_path / "named", "--history", tmp_path / "h.txt")
    assert done.stdout == "" and "holds every item there is, so none is left to recommend" in done.stderr


def test_titles_serve_as_ids(call, tmp_path):
    run = tmp_path / "run"
    call("fit", "popularity", "--dataset", "planted", "--out", run)
    titles = vc.load_dataset("planted").titles
    (tmp_path / "h.txt").write_text(titles[7] + "\n")
    first = call("recommend", run, "--history", tmp_path / "h.txt", "-k", "1").stdout.split("\t")
    assert first[2] in titles and first[2] != titles[7]


def test_npz_with_its_own_split(call, tmp_path):
    log = vc.load_dataset("planted")
    test = np.random.default_rng(0).random(len(log)) < 0.1
    np.savez(tmp_path / "own.npz", user=log.user, item=log.item, rating=log.rating, is_test=test)
    arguments = ["fit", "popularity", "--interactions", tmp_path / "own.npz", "--json"]
    result = json.loads(call(*arguments, "--metrics", "recall@20").stdout)
    assert result["protocol"] == "weak", "a file that brings its split is not split again"
    assert result["metrics"]["recall@20"]["n_users"] == len(set(log.user[test]))


def test_settings_reach_split_model_and_training(call):
    settings = ["n_heldout=50", "beta=0.5", "likelihood=n_choose_k", "validate_every=2", "split_seed=3", "threshold=5"]
    flags = [f for s in settings for f in ("--set", s)]
    result = json.loads(call("fit", "mult-vae", "--dataset", "planted", *FAST, *flags, "--json").stdout)
    assert result["metrics"]["ndcg@100"]["n_users"] <= 50
    assert result["settings"]["beta"] == 0.5 and result["settings"]["likelihood"] == "n_choose_k"


ERRORS = [
    (
        ["fit", "mult-vae", "--dataset", "planted", "--protocol", "ratings", "--metrics", "rmse"],
        "ranks items and predicts no ratings",
    ),
    (
        ["fit", "mult-vae", "--dataset", "planted", "--protocol", "ratings", "--set", "likelihood=n_choose_k"],
        "a model of clicks",
    ),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "gamma=1"], "no option 'gamma' of mult-vae"),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "beta"], "write key=value"),
    (["fit", "svd", "--dataset", "planted"], "unknown model 'svd'. Known: mult-vae"),
    (["fit", "mult-vae", "--dataset", "nope"], "unknown data set 'nope'. Known: planted"),
    (["fit", "mult-vae", "--dataset", "planted", "--protocol", "hard"], "unknown protocol 'hard'. Known: strong"),
    (["fit", "mult-vae"], "give either --dataset NAME or --interactions FILE"),
    (["fit"], "Missing argument 'model'"),
    (["fit", "mult-vae", "--dataset", "planted", "--epochs", "x"], "Invalid value for '--epochs'"),
    (["nonsense"], "No such command 'nonsense'"),
    (["fit", "popularity", "--dataset", "planted", "--metrics", ""], "unknown metric ''"),
    (["fit", "popularity", "--dataset", "planted", "--set", "metric="], "unknown metric ''"),
    (
        ["fit", "ncf", "--dataset", "planted", "--protocol", "ratings", "--set", "n_users=5"],
        "no option 'n_users' of ncf",
    ),
    (["fit", "mult-vae", "--interactions", "missing.csv"], "missing.csv: no such file"),
    (["fit", "popularity", "--dataset", "planted", "--metrics", "accuracy"], "unknown metric 'accuracy'"),
    (["fit", "popularity", "--dataset", "planted", "--device", "warp"], "device=warp cannot be used here"),
    (
        ["fit", "mult-vae", "--dataset", "planted", "--set", "beta=high"],
        "mult-vae: beta='high': must be a number of at least 0",
    ),
    (
        ["fit", "mult-vae", "--dataset", "planted", "--set", "n_heldout=many"],
        "split_strong: n_heldout='many': must be a whole number",
    ),
    (
        ["fit", "mult-vae", "--dataset", "planted", "--set", "hidden=true"],
        "mult-vae: hidden=True: must be a whole number",
    ),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "hidden=-1"], "mult-vae: hidden=-1: must be a whole number"),
    (["fit", "mult-vae", "--dataset", "planted", "--set", f"hidden={'9' * 5000}"], "must be a whole number"),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "lr=NaN"], "mult-vae: lr=nan: must be a number above 0"),
    (["fit", "ncf", "--dataset", "planted", "--set", "widths=[8.5]"], "ncf: widths=[8.5]: must be a list of whole"),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "split_seed=-1"], "split_seed=-1: must be a whole number"),
    (["fit", "mult-vae", "--dataset", "planted", "--seed", str(2**64)], f"fit: seed={2**64}: must be a whole number"),
    (["fit", "mult-vae", "--dataset", "planted", "--epochs", "-1"], "fit: epochs=-1: must be a whole number"),
    (["fit", "mult-vae", "--dataset", "planted", "--batch-size", "0"], "fit: batch_size=0: must be a whole number"),
    (["fit", "popularity", "--dataset", "planted", "--metrics", f"ndcg@{'9' * 5000}"], "unknown metric"),
    (["models", "svd"], "unknown model 'svd'"),
    (["fit", "mult-vae", "--dataset", "planted", "--set", f"hidden={'[' * 100_000}"], "must be a whole number"),
    (["reproduce", "recvae", "2", "--seeds", "a"], "--seeds 'a': write whole numbers with commas between"),
    (["recommend", "nowhere", "--history", "x"], "not a readable checkpoint"),
    (["ledger", "--results", "nowhere"], "no nowhere/reported.json"),
    (["reproduce", "recvae", "1", "--models", "svd"], "unknown model 'svd'. Known: mult-vae"),
    (["reproduce", "book", "nothing"], "no study 'nothing'. Known: likelihoods"),
    (["states", "nothing"], "no grid 'nothing'. Known: mult_vae_beta"),
    (["reproduce", "recvae", "99"], "no table '99' of 'recvae'. Known: hyvae II"),
    pytest.param(
        ["bench", "--against", "nobody", "--pairs", "1", "--users", "600", "--items", "50"],
        "no peer 'nobody'",
        marks=pytest.mark.slow,
    ),
    (["bench", "--users", "0"], "bench: users=0: must be a whole number of at least 500"),
    (["bench", "--users", "600", "--growth"], "bench: users=600: must be a whole number of at least 1000"),
    (["bench", "--items", "5"], "bench: items=5: must be a whole number of at least 20"),
    (["bench", "--pairs", "0"], "bench: pairs=0: must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_errors_are_one_line_with_the_remedy(call, arguments, message):
    done = call(*arguments, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory.\nTried"), RuntimeError("a bug")])
def test_too_little_memory_is_one_line(call, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(cli, "run_experiment", fails)
    if "bug" in str(error):
        with pytest.raises(RuntimeError, match="a bug"):
            cli.fit("mult-vae", dataset="planted")
        return
    done = call("fit", "mult-vae", "--dataset", "planted", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: not enough memory: lower the model's sizes")
    assert done.stderr.count("\n") == 1


def test_a_list_is_a_setting(call):
    arguments = ["fit", "ncf", "--dataset", "planted", "--protocol", "ratings", "--epochs", "1", "--device", "cpu"]
    result = json.loads(call(*arguments, "--set", "widths=[20,10]", "--set", "latent_dim=4", "--json").stdout)
    assert result["settings"]["widths"] == [20, 10]


def test_models_lists_the_options_of_one(call):
    lines = call("models", "vae-reg").stdout.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines if not line.startswith(" ")}
    assert rows["penalty"] == ["0.01", "a number of at least 0"], "the preset's own value"
    assert rows["hidden"] == ["600", "a whole number from 1 to 100,000"]
    assert rows["prior"] == ['"standard"', "one of standard, vamp"]
    assert "lambda of the term lambda ||W||^2" in " ".join(line.strip() for line in lines), "and what they mean"
    assert all(len(line) <= 120 for line in lines)
    done = call("models", "no-such", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown model 'no-such'. Known: mult-vae, ")


def test_the_oracle_refuses_other_data(call, tmp_path):
    own_csv(tmp_path / "mine.csv")
    done = call("fit", "planted-oracle", "--interactions", tmp_path / "mine.csv", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "error: planted-oracle knows the planted films alone" in done.stderr


@pytest.mark.parametrize(
    ("text", "value"), [("null", None), ("None", None), ("True", True), ("true", True), ("none", "none")]
)
def test_values_are_read_in_either_spelling(text, value):
    assert cli._settings([f"key={text}"]) == {"key": value}
