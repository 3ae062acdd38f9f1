"""The command line, as a user calls it."""

import gzip
import io
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vaecf_lib as vc
from vaecf_lib import cli
from vaecf_lib.systems import build
from vaecf_lib.training import Trainer

RESULTS = str(Path(__file__).resolve().parents[1] / "book" / "results")
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
    wanted = "planted ml-100k ml-1m ml-10m ml-20m netflix msd douban flixster amazon-pet amazon-kindle gowalla".split()
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
    assert done.stdout.splitlines() == lines and "1 unknown item left out, the first is 'nothing'" in done.stderr
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
    assert done.stdout == "" and "no item is left to recommend to 1 user" in done.stderr


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
        "a model of clicks, not of ratings: use the strong or weak protocol, or time or leave-one-out with",
    ),
    (
        [
            *"fit mult-vae --dataset planted --protocol leave-one-out --set ratings=true".split(),
            *"--set likelihood=bernoulli --device cpu".split(),
        ],
        "protocol, or time or leave-one-out with ratings=false",
    ),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "gamma=1"], "no option 'gamma' of mult-vae"),
    (["fit", "mult-vae", "--dataset", "planted", "--set", "beta"], "write key=value"),
    (["fit", "svd", "--dataset", "planted"], "unknown model 'svd'. Known: mult-vae"),
    (["fit", "mult-vae", "--dataset", "nope"], "unknown data set 'nope'. Known: planted"),
    (["fit", "mult-vae", "--dataset", "planted", "--protocol", "hard"], "unknown protocol 'hard'. Known: strong"),
    (
        ["fit", "mult-vae", "--dataset", "planted", "--columns", "user=u"],
        "--columns names the columns of your own file",
    ),
    (
        ["check", "x.csv", "--columns", "users=u"],
        "--columns 'users=u': write KEY=NAME once for each; the keys are user,",
    ),
    (["check", "x.csv", "--columns", "user=a,user=b"], "--columns 'user=b': write KEY=NAME once"),
    (["check", "missing.csv"], "missing.csv: no such file"),
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
    (["ledger", "--results", "nowhere"], "no nowhere/reported.json: the results lie in the book's repository, not in"),
    (["ledger", "--paper", "svd", "--results", RESULTS], "no paper 'svd' in the ledger. Known: recvae"),
    (["ledger", "--state", "lost", "--results", RESULTS], "no state 'lost' in the ledger. Known: measured"),
    (["reproduce", "recvae", "1", "--dataset", "ml-2m"], "unknown data set 'ml-2m'. Known: planted"),
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


def test_the_ledger_is_printed_filtered_and_written_as_csv(call):
    """Coverage, the rows of a filter, and CSV that pandas reads back; 0 where nothing is wrong."""
    done = call("ledger", "--results", RESULTS)
    assert done.stderr == "" and done.stdout.splitlines()[0].split()[0] == "state" and "742" in done.stdout
    assert "the largest deviations without an explanation" in done.stdout
    lines = call("ledger", "--results", RESULTS, "--paper", "vaegan", "--state", "cannot-be-compared").stdout
    assert lines.count("MRR falls from 5 to 20 places") == 2 and "recvae" not in lines
    table = pd.read_csv(io.StringIO(call("ledger", "--results", RESULTS, "--csv").stdout))
    assert len(table) == 742 and "state" in table and table["files"].notna().any()
    assert "same systems" not in call("ledger", "--results", RESULTS, "--csv").stdout
    elsewhere = call("ledger", "--results", RESULTS, "--transplanted", "--csv").stdout
    assert elsewhere.splitlines()[1].startswith('"same systems, other data",')


def test_the_ledger_ends_with_1_where_the_results_are_at_fault(call, tmp_path):
    shutil.copytree(Path(RESULTS) / "measured", tmp_path / "measured")
    shutil.copy(Path(RESULTS) / "reported.json", tmp_path)
    done = call("ledger", "--results", tmp_path, check=False)
    assert done.returncode == 1 and "of 742" not in done.stderr and "742" in done.stdout
    assert "fault: recvae on ml-1m, ratings/80: not converged" in done.stderr, "nothing marks it here"
    (tmp_path / "measured" / "x.json").write_text("[]", encoding="utf-8")
    done = call("ledger", "--results", tmp_path, check=False)
    assert (
        done.returncode == 1 and done.stdout == "" and done.stderr.endswith("x.json: list where an object should be\n")
    )


def test_reproduce_lists_what_is_left_to_do(call):
    done = call(
        "reproduce", "vaegan", "2", "--dataset", "ml-1m", "--models", "vaegan-avb", "--list", "--results", RESULTS
    )
    assert done.stdout.splitlines()[-1].startswith("left to do: 2 of 3 runs, ")
    assert "ml-1m vaegan-avb, seed 1, 100 epochs: " in done.stdout


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


def test_check_reports_without_training(call, tmp_path):
    own_csv(tmp_path / "mine.csv")
    done = call("check", tmp_path / "mine.csv")
    assert (
        "300 users (ids: text)" in done.stdout and "time: mine has no timestamps" in done.stdout and done.stderr == ""
    )
    report = json.loads(
        call("check", tmp_path / "mine.csv", "--json", "--protocol", "strong", "--set", "n_heldout=20").stdout
    )
    assert list(report["splits"]) == ["strong"] and report["users"] == 300
    strong = report["splits"]["strong"]["test"]
    assert strong["users"] + strong["users_without_targets"] == 20
    for arguments, message in (
        (
            ["--set", "beta=1"],
            "no option 'beta' of the strong or weak or ratings or time or leave-one-out split. Known: ",
        ),
        (["--protocol", "hard"], "unknown protocol 'hard'. Known: strong, weak, ratings, time, leave-one-out"),
        (["--set", "split_seed=-1"], "split_strong: split_seed=-1: must be a whole number"),
        (["--columns", "user=nobody"], "no column 'nobody' to read as the user among ['user', 'item', 'rating']"),
    ):
        done = call("check", tmp_path / "mine.csv", *arguments, check=False)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_own_column_names_and_splits_by_time(call, tmp_path):
    """--columns, and both protocols by time, from a packed file; a system of ratings is measured by its error."""
    log = vc.load_dataset("planted")
    keep = np.flatnonzero(log.user < 300)
    rows = zip(
        log.user[keep], log.item[keep], log.rating[keep], np.random.default_rng(0).permutation(keep), strict=True
    )
    text = "who,film,stars,when\n" + "".join(f"u{u},f{i},{r:g},{t}\n" for u, i, r, t in rows)
    (tmp_path / "mine.csv.gz").write_bytes(gzip.compress(text.encode()))
    names = [
        "--interactions",
        tmp_path / "mine.csv.gz",
        "--columns",
        "user=who,item=film,rating=stars,time=when",
        "--json",
    ]
    for protocol, metric in (("time", "ndcg@100"), ("leave-one-out", "recall@10")):
        result = json.loads(call("fit", "popularity", *names, "--protocol", protocol, "--set", "min_items=2").stdout)
        assert result["protocol"] == protocol and metric in result["metrics"]
    arguments = [*names, "--protocol", "leave-one-out", "--set", "ratings=true"]
    assert set(json.loads(call("fit", "means", *arguments).stdout)["metrics"]) == {"rmse", "mae"}
    assert "recall@20" in json.loads(call("fit", "popularity", *arguments).stdout)["metrics"]


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


def own_fit(tmp_path, *more):
    """A small `vaecf fit` on one's own file, without annealing: the arguments."""
    if not (tmp_path / "mine.csv").exists():
        own_csv(tmp_path / "mine.csv")
    small = ["--set", "hidden=20", "--set", "latent_dim=8", "--set", "anneal=0", "--device", "cpu", "--json"]
    return ["fit", "mult-vae", "--interactions", tmp_path / "mine.csv", *small, *more]


def test_fit_stops_when_patience_is_out(call, tmp_path):
    """By default after 20 validations; 0 trains on; under a cosine nobody is impatient unless asked, which is refused."""
    still = ["--set", "lr=1e-12", "--epochs", "24"]  # so that nothing is better than the first epoch

    def epochs(*more):
        result = json.loads(call(*own_fit(tmp_path, *still, *more)).stdout)
        assert result["best_epoch"] == 1
        return result["epochs"], result["stopped"]

    assert epochs() == (21, "no better ndcg@100 in 20 validations since epoch 1")
    assert epochs("--patience", "3") == (4, "no better ndcg@100 in 3 validations since epoch 1")
    assert epochs("--patience", "0") == epochs("--set", "schedule=cosine") == (24, None)
    done = call(*own_fit(tmp_path, "--set", "schedule=cosine", "--patience", "3"), check=False)
    assert done.returncode == 2 and done.stderr == (
        "error: patience=3 does not fit schedule='cosine', whose last epochs are meant to be the best: give none\n"
    )
    done = call(*own_fit(tmp_path, "--patience", "-1"), check=False)
    assert done.returncode == 2 and "patience=-1: must be a whole number" in done.stderr


def test_fit_gives_a_run_more_epochs(call, tmp_path):
    """The same numbers as in one go; where something is annealed one line says so, and --extend goes on all the same."""
    run = ["--out", tmp_path / "run"]
    call(*own_fit(tmp_path, "--epochs", "2", *run))
    longer = json.loads(call(*own_fit(tmp_path, "--epochs", "4", *run)).stdout)
    whole = json.loads(call(*own_fit(tmp_path, "--epochs", "4")).stdout)
    for name in ("metrics", "validation_curve", "best_epoch", "epochs", "stopped"):
        assert longer[name] == whole[name]
    annealed = ["--set", "anneal=0.5", "--out", tmp_path / "annealed"]
    call(*own_fit(tmp_path, "--epochs", "2", *annealed))
    done = call(*own_fit(tmp_path, "--epochs", "4", *annealed), check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 + done.stderr.count("users kept")
    assert "mult-vae anneals a weight of its loss" in done.stderr and "(--extend)" in done.stderr
    assert json.loads(call(*own_fit(tmp_path, "--epochs", "4", *annealed, "--extend")).stdout)["epochs"] == 4


def test_the_manifest_holds_the_command(call, tmp_path):
    call(*own_fit(tmp_path, "--epochs", "1", "--out", tmp_path / "a run"))
    (sitting,) = json.loads((tmp_path / "a run" / "manifest.json").read_text())["sittings"]
    assert sitting["command"].startswith("vaecf fit mult-vae --interactions ")
    assert sitting["command"].endswith(f"--out '{tmp_path / 'a run'}'")
    assert cli.environment.command is None, "what is called from Python next has none"


def test_refit_trains_on_everything_as_long_as_was_best(call, tmp_path):
    """With the weights of `fit` on all data, beside the run that was measured, whose metrics stay."""
    run = tmp_path / "run"
    arguments = own_fit(tmp_path, "--epochs", "6", "--set", "lr=0.1", "--out", run)
    measured = json.loads(call(*arguments).stdout)
    result = json.loads(call(*arguments, "--refit").stdout)
    assert result["metrics"] == measured["metrics"] and 1 <= result["best_epoch"] < 6
    assert result == json.loads((run / "result.json").read_text())
    log = vc.read_own_file(tmp_path / "mine.csv")
    everything = vc.data.refit_split(log, vc.split_strong(log))
    expected = {"epochs": result["best_epoch"], "users": everything.train.n_users, "items": everything.n_items}
    assert expected.items() <= result["refit"].items() and everything.train.n_users > vc.split_strong(log).train.n_users
    model = build("mult-vae", everything.n_items, hidden=20, latent_dim=8, anneal=0.0, lr=0.1)
    options = {"epochs": 6, "stop_after": result["best_epoch"], "device": "cpu", "progress": False}
    vc.fit(model, everything, **options)
    refitted = vc.load_model(run / "refit")
    for name, value in model.state_dict().items():
        assert value.equal(refitted.state_dict()[name]), name
    assert refitted.item_names == log.items
    again = json.loads(call(*arguments, "--refit").stdout)
    assert again["refit"] == result["refit"] and not (run / "refit.part").exists()


def test_a_refit_that_was_cut_off_serves_nobody(call, tmp_path, monkeypatch):
    """Its folder has its name once it is whole; the next call ends it, and says when it is out of date."""
    run = tmp_path / "run"
    arguments = own_fit(tmp_path, "--set", "lr=0.001", "--out", run)
    with monkeypatch.context() as patch:

        def cut(trainer, run_epoch=Trainer.run_epoch):
            if trainer.split.valid is None and trainer.epoch == 1:
                raise OSError(28, "No space left on device")
            return run_epoch(trainer)

        patch.setattr(Trainer, "run_epoch", cut)
        assert call(*arguments, "--epochs", "3", "--refit", check=False).returncode == 2
    assert not (run / "refit").exists() and (run / "refit.part" / "checkpoint.safetensors").exists()
    assert json.loads((run / "result.json").read_text())["epochs"] == 3, "what was measured is kept"
    result = json.loads(call(*arguments, "--epochs", "3", "--refit").stdout)
    assert result["refit"]["epochs"] == result["best_epoch"] == 3 and (run / "refit" / "best.safetensors").exists()
    assert "--refit" not in call(*arguments, "--epochs", "3").stderr
    assert "is of epoch 3, and 5 is the best now: add --refit" in call(*arguments, "--epochs", "5").stderr
    renewed = call(*arguments, "--epochs", "5", "--refit")
    assert json.loads(renewed.stdout)["refit"]["epochs"] == 5 and "--refit" not in renewed.stderr
    assert "--refit" not in call(*arguments, "--epochs", "5").stderr


@pytest.mark.parametrize("slug, protocol", [("popularity", "weak"), ("biased-mf", "ratings"), ("hyvae", "ratings")])
def test_refit_under_other_protocols(call, tmp_path, slug, protocol):
    """A system that is not trained by epochs, one that knows its users, one that reads ratings."""
    own_csv(tmp_path / "mine.csv")
    arguments = ["fit", slug, "--interactions", tmp_path / "mine.csv", "--protocol", protocol, "--epochs", "2"]
    result = json.loads(call(*arguments, "--device", "cpu", "--out", tmp_path / "run", "--refit", "--json").stdout)
    log = vc.read_own_file(tmp_path / "mine.csv")
    kept = len(log) if protocol == "ratings" else vc.data.split_all(log).train.nnz
    assert result["refit"]["interactions"] == kept and result["refit"]["epochs"] == result["best_epoch"]


@pytest.mark.parametrize("more, said", [
    (["--refit"], "refit has no folder to be kept in: give out (--out)"),
    (["--refit", "--extend", "--out", "run"], "refit cannot repeat a run that was extended"),
])  # fmt: skip
def test_a_refit_that_cannot_be_is_refused_before_any_training(call, more, said):
    done = call("fit", "popularity", "--dataset", "planted", *more, check=False)
    assert done.returncode == 2 and done.stderr == f"error: {said}\n"
