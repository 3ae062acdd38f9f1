"""Tuning: what is varied, that it goes on as if never broken, and that it sees the validation part alone."""

import json
import shlex
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

import vaecf_lib as vc
from vaecf_lib import cli, tuning
from vaecf_lib.options import RANGES, SEARCH
from vaecf_lib.systems import SYSTEMS

SMALL = {"hidden": 8, "latent_dim": 4, "n_heldout": 60}
SIZES = ("hidden", "latent_dim", "widths", "layers", "code", "depth", "concepts", "points", "batch_size")


@pytest.fixture(scope="module")
def log(planted):
    return planted.select(planted.user < 400)


def tune(log, slug="mult-vae", protocol="strong", trials=3, epochs=3, settings=SMALL, **more):
    more = {"device": "cpu", "progress": False} | more
    return tuning.tune(slug, log, protocol, trials=trials, epochs=epochs, settings=settings, **more)


def outcomes(result):
    """All of it that does not depend on the clock."""
    return [replace(trial, seconds=0) for trial in result.trials]


@pytest.fixture(scope="module")
def eight(log):
    """An unbroken tuning, some of whose trials are pruned."""
    return tune(log, trials=8, epochs=5, vary=("lr=0.0001:0.1", "beta"))


def test_trials_vary_what_they_are_asked_to(eight):
    """The first has the system's own options, others are within the intervals, of three digits, and differ."""
    assert eight.trials[0].options == {"lr": 0.001, "beta": 0.2}
    assert len({tuple(trial.options.values()) for trial in eight.trials}) == 8
    for trial in eight.trials:
        assert 0.0001 <= trial.options["lr"] <= 0.1 and 0.01 <= trial.options["beta"] <= 2
        assert all(float(f"{value:.3g}") == value for value in trial.options.values())


def test_the_best_is_the_largest_of_the_complete(eight):
    complete = [trial for trial in eight.trials if trial.state == "complete"]
    assert {trial.state for trial in eight.trials} == {"complete", "pruned"}
    assert eight.best.value == max(trial.value for trial in complete)
    for trial in complete:
        assert [trial.best_epoch, trial.value] == max(trial.curve, key=lambda point: point[1])
        assert [epoch for epoch, _ in trial.curve] == [1, 2, 3, 4, 5]


def pretended(log, monkeypatch, curve):
    """A tuning of 20 trials and 10 epochs by rmse in which nothing is trained: ``curve(lr, epoch)`` is the value."""

    def fit(model, split, *, metric, epochs, on_epoch, **_):
        run = SimpleNamespace(history=[])
        for epoch in range(1, epochs + 1):
            run.history.append({"epoch": epoch, metric: curve(model.config["lr"], epoch)})
            on_epoch(run)
        return run

    monkeypatch.setattr(tuning, "fit", fit)
    settings = {"latent_dim": 4}
    return tune(log, "dae-cf", "ratings", trials=20, epochs=10, settings=settings, vary=["lr=0.00001:1"])


def test_hopeless_trials_are_pruned(log, monkeypatch):
    """Above the median error of the others at that epoch; after five trials and a fifth of the epochs."""
    found = pretended(log, monkeypatch, lambda lr, epoch: abs(np.log10(lr) + 3) + 1 / epoch)
    pruned = [number for number, trial in enumerate(found.trials) if trial.state == "pruned"]
    assert pruned and min(pruned) >= 5
    for number in pruned:
        trial = found.trials[number]
        last = trial.curve[-1][0]
        others = [dict(t.curve)[last] for t in found.trials[:number] if t.state == "complete"]
        assert 2 <= last < 10 and trial.value > np.median(others)
    assert min(found.trials[number].curve[-1][0] for number in pruned) == 2
    assert found.best.value == min(trial.value for trial in found.trials)
    drawn, searched = (
        [abs(np.log10(t.options["lr"]) + 3) for t in part] for part in (found.trials[1:10], found.trials[10:])
    )
    assert np.mean(searched) < np.mean(drawn), "what went well is looked at closely"


def test_no_trial_is_pruned_after_its_last_epoch(log, monkeypatch):
    """It has cost all that it will cost, and may be the best but for one."""
    found = pretended(log, monkeypatch, lambda lr, epoch: abs(np.log10(lr) + 3) if epoch == 10 else 9)
    assert {trial.state for trial in found.trials} == {"complete"}


def test_a_seed_repeats_the_search(log, eight):
    again = tune(log, trials=8, epochs=5, vary=("lr=0.0001:0.1", "beta"))
    assert outcomes(again) == outcomes(eight)
    other = tune(log, trials=2, epochs=5, vary=("lr=0.0001:0.1", "beta"), seed=1)
    assert other.trials[1].options != eight.trials[1].options


class Killed(BaseException):
    """Ends a call as a signal does."""


@pytest.mark.parametrize("kill_at", [(0, 1), (2, 3), (6, 5)])
def test_killed_and_called_again_it_goes_on(log, eight, tmp_path, monkeypatch, kill_at):
    """Within a trial, early, late, or after its last epoch: all comes out as if nothing had happened."""
    calls = []

    def fit_until_killed(*arguments, on_epoch, **keywords):
        def watch(run):
            if (len(calls) - 1, len(run.history)) == kill_at:
                raise Killed
            return on_epoch(run)

        calls.append(keywords["out"])
        return vc.fit(*arguments, on_epoch=watch, **keywords)

    arguments = {"trials": 8, "epochs": 5, "vary": ("lr=0.0001:0.1", "beta"), "out": tmp_path}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tuning, "fit", fit_until_killed)
        tune(log, **arguments)
    assert (tmp_path / f"trial-{kill_at[0]}" / "checkpoint.safetensors").exists()
    assert outcomes(tune(log, **arguments)) == outcomes(eight)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [], "nothing is left of the trials' folders"


def test_more_trials_go_on_from_the_record(log, eight, tmp_path, monkeypatch):
    arguments = {"epochs": 5, "vary": ("lr=0.0001:0.1", "beta"), "out": tmp_path}
    tune(log, trials=6, **arguments)
    trained = []
    monkeypatch.setattr(tuning, "fit", lambda *a, **k: (trained.append(1), vc.fit(*a, **k))[1])
    assert outcomes(tune(log, trials=8, **arguments)) == outcomes(eight) and len(trained) == 2
    assert outcomes(tune(log, trials=8, **arguments)) == outcomes(eight) and len(trained) == 2, "it is finished"


def test_the_budget_ends_it_and_more_goes_on(log, tmp_path, monkeypatch, capsys):
    """A clock that ticks once a look. The trial that the budget cuts off is not counted, and not lost."""
    now = iter(range(10_000))
    monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: next(now)))
    unbroken = tune(log, trials=4)
    with pytest.raises(vc.ConfigError, match="the budget of 1 s ended before the first trial"):
        tune(log, trials=4, budget=1)
    some = tune(log, trials=4, budget=14, out=tmp_path, progress=True)
    assert 1 <= len(some.trials) < 4 and outcomes(some) == outcomes(unbroken)[: len(some.trials)]
    assert f"the budget ended after {len(some.trials)} of 4 trials" in capsys.readouterr().err
    spent = json.loads((tmp_path / "tuning.json").read_text())["seconds"]
    assert spent >= 14
    assert [path.name for path in tmp_path.glob("trial-*")] == [f"trial-{len(some.trials)}"]
    same = tune(log, trials=4, budget=14, out=tmp_path)
    assert outcomes(same) == outcomes(some), "the same budget is spent"
    assert outcomes(tune(log, trials=4, budget=1000, out=tmp_path)) == outcomes(unbroken)


def test_the_test_part_is_never_looked_at(planted, monkeypatch):
    """With all of its test interactions exchanged, a log is tuned in the same way: no trial even gets to see them."""
    results, seen = [], []

    def fit(model, split, **keywords):
        parts = (split.train, split.valid.history, split.valid.targets, split.test.history, split.test.targets)
        seen.append((*(part.sha256 for part in parts), split.people))
        return vc.fit(model, split, **keywords)

    monkeypatch.setattr(tuning, "fit", fit)
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        user, item = planted.user[planted.user < 200], planted.item[planted.user < 200]
        fixed = np.random.default_rng(9).random(len(user)) < 0.8
        free = np.ones((200, planted.n_items), dtype=bool)
        free[user[fixed], item[fixed]] = False
        tests = [rng.choice(np.flatnonzero(free[u]), 5, replace=False) for u in range(200)]
        log = replace(
            planted,
            user=np.concatenate([user[fixed], np.repeat(np.arange(200), 5)]),
            item=np.concatenate([item[fixed], *tests]),
            rating=None,
            user_ids=planted.user_ids[:200],
            is_test=np.arange(fixed.sum() + 1000) >= fixed.sum(),
        )
        settings = {"hidden": 8, "latent_dim": 4, "valid": 0.1}
        results.append((log, tune(log, protocol="weak", settings=settings)))
    assert results[0][0].sha256 != results[1][0].sha256
    assert outcomes(results[0][1]) == outcomes(results[1][1])
    assert len(seen) == 6 and len(set(seen)) == 1 and seen[0][-1] is None


@pytest.fixture
def call(capsys, monkeypatch):
    def vaecf(*arguments):
        monkeypatch.setattr(sys, "argv", ["vaecf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert not stopped.value.code, said.err
        return said

    return vaecf


TUNED = [
    ("mult-vae", "strong", ["n_heldout=300", "hidden=8", "latent_dim=4", "likelihood=n_choose_k"], "ndcg@100", max),
    ("mult-dae", "strong", ["metric=gini@5", "latent_dim=4", "validate_every=2"], "gini@5", min),
    ("dae-cf", "ratings", ["latent_dim=4"], "rmse", min),
    ("means", "ratings", [], "rmse", min),
]


@pytest.mark.parametrize(("slug", "protocol", "settings", "metric", "best"), TUNED)
def test_the_line_it_prints_gives_the_best_value_again(call, slug, protocol, settings, metric, best):
    """Exactly, by either end of the metric, and for a system without epochs."""
    flags = [part for setting in settings for part in ("--set", setting)]
    arguments = ["tune", slug, "--dataset", "planted", "--protocol", protocol, "--trials", "3", "--epochs", "2", *flags]
    result = json.loads(call(*arguments, "--seed", "3", "--device", "cpu", "--batch-size", "400", "--json").out)
    assert result["metric"] == metric
    assert result["best"]["value"] == best(t["value"] for t in result["trials"] if t["state"] == "complete")
    program, *line = shlex.split(result["command"])
    again = json.loads(call(*line, "--json").out)
    assert program == "vaecf" and again["validation"] == {metric: result["best"]["value"]}
    assert again["settings"].items() >= result["best"]["options"].items()


def test_the_table_and_the_line_for_people(call, tmp_path):
    arguments = ["tune", "mult-dae", "--dataset", "planted", "--trials", "2", "--epochs", "1", "--device", "cpu"]
    said = call(*arguments, "--set", "latent_dim=4", "--vary", "penalty,lr=0.001:0.01", "--out", tmp_path / "my tuning")
    table, line = said.out.rstrip("\n").rsplit("\n", 1)
    assert table.splitlines()[0].split() == ["trial", "ndcg@100", "epoch", "seconds", "options"]
    assert len(table.splitlines()) == 4 and table.splitlines()[-1] == "2 trials: 2 complete, 0 pruned, 0 failed"
    assert line.startswith("vaecf fit mult-dae --dataset planted --protocol strong --epochs 1")
    assert " --patience 0 " in line, "or a fit of many epochs would stop before the best one"
    assert "trial 2 of 2: ndcg@100 0." in said.err and "Trial 1 finished" not in said.err


def test_another_tuning_in_the_folder_is_refused(log, tmp_path):
    tune(log, trials=1, out=tmp_path)
    before = (tmp_path / "tuning.json").read_bytes()
    with pytest.raises(vc.ConfigError, match=r"holds a tuning with other settings .epochs: 3 there, 2 now"):
        tune(log, trials=1, epochs=2, out=tmp_path)
    with pytest.raises(vc.ConfigError, match=r"holds a tuning with other settings .vary: "):
        tune(log, trials=1, vary=["lr"], out=tmp_path)
    with pytest.raises(vc.ConfigError, match=r"holds a tuning with other settings .data_sha256: "):
        tune(log.select(log.user < 390), trials=1, out=tmp_path)
    assert (tmp_path / "tuning.json").read_bytes() == before
    (tmp_path / "tuning.json").unlink()
    (tmp_path / "trial-0").mkdir()
    with pytest.raises(vc.ConfigError, match=r"holds trial-0 of another tuning, without its tuning.json"):
        tune(log, trials=1, out=tmp_path)


def test_killed_in_its_first_trial_it_is_not_taken_for_another(log, tmp_path, monkeypatch):
    """The record is there from the start; and what a process killed after a trial left, the next one clears away."""

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tuning, "fit", killed)
        tune(log, out=tmp_path)
    with pytest.raises(vc.ConfigError, match="holds a tuning with other settings"):
        tune(log, epochs=2, out=tmp_path)
    first = tune(log, trials=1, out=tmp_path)
    (tmp_path / "trial-0").mkdir()
    (tmp_path / ".tuning.json.123.tmp").touch()
    (tmp_path / ".mine.123.tmp").touch()
    assert outcomes(tune(log, trials=1, out=tmp_path)) == outcomes(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine.123.tmp", "tuning.json"]


def test_two_cannot_tune_in_one_folder(log, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(vc.ConfigError, match="is being written by another process"):
        tune(log, out=tmp_path)


DAMAGE = [
    lambda text: text[: len(text) // 2],
    lambda text: "[]",
    lambda text: text.replace('"complete"', '"odd"'),
    lambda text: text.replace('"curve"', '"curves"'),
    lambda text: text.replace('"lr": 0.001', '"lr": 5'),
    lambda text: text.replace('"seconds"', '"minutes"'),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_one_line(log, tmp_path, damage):
    tune(log, trials=1, out=tmp_path)
    path = tmp_path / "tuning.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(vc.DataError, match=r"tuning.json: damaged, not a record of tuning"):
        tune(log, trials=2, out=tmp_path)


def test_each_trial_says_how_long_it_took(log):
    """Seconds of its own: not a time of the clock, nor what the trials before it took."""
    began = time.monotonic()
    result = tune(log, trials=3, epochs=1)
    assert all(trial.seconds > 0 for trial in result.trials)
    assert sum(trial.seconds for trial in result.trials) <= time.monotonic() - began


def test_trials_that_fail_are_left_out(log, monkeypatch):
    """Steps that are too large end in a loss that is not finite; what else there is, is found."""
    result = tune(log, vary=["lr=0.0001:10000000000"], trials=6, epochs=2)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed and failed[0].value is None and failed[0].reason.startswith("the loss is nan")
    assert result.best.options["lr"] < min(trial.options["lr"] for trial in failed)

    def fails(*_, **__):
        raise vc.TrainingError("no good\nat all")

    monkeypatch.setattr(tuning, "fit", fails)
    with pytest.raises(vc.ConfigError, match=r"^all 2 trials failed, the last: no good$"):
        tune(log, trials=2)


def test_what_is_searched_may_be_chosen_and_is_not_a_size():
    """Every declared interval is of options that some system has, within their range, and has the usual defaults."""
    used = set()
    for slug, system in SYSTEMS.items():
        searched = {name: option for name, option in system.options.items() if option.search}
        for name, option in searched.items():
            assert name not in SIZES and option.kind is float
            assert option.accepts(option.search.low) and option.accepts(option.search.high), (slug, name)
            assert not option.search.log or option.search.low > 0
            assert not option.default or option.search.low <= option.default <= option.search.high, (slug, name)
        if any(option.default for option in searched.values()):
            assert tuning.search_space(slug, {})
        used |= set(searched)
    assert used == {name for name in SEARCH if "." not in name}
    assert {name.split(".")[-1] for name in SEARCH} <= {name.split(".")[-1] for name in RANGES}


def space(slug, vary=None, **fixed):
    return {name: str(domain) for name, domain in tuning.search_space(slug, fixed, vary).items()}


def test_what_is_varied_unasked():
    """Weights, dropout and steps that the system uses: not what is set, switched off, or without effect."""
    assert set(space("recvae")) == {"gamma", "alpha", "dropout", "lr"}
    assert set(space("mult-vae", beta=0.5)) == {"dropout", "lr"}
    assert set(space("vae-multinomial")) == {"dropout", "lr"}, "its beta is 0: that is the system"
    assert set(space("biased-mf")) == {"penalty", "lr"}


def test_what_is_varied_on_request():
    found = space("recvae", ["mixture", "alternating", "latent_dim=10:300", "dropout=0.1:0.6", "beta=0:1", "gamma"])
    assert found["mixture"] == "CategoricalDistribution(choices=('per_dimension', 'joint'))"
    assert found["alternating"] == "CategoricalDistribution(choices=(False, True))"
    assert found["latent_dim"].startswith("IntDistribution(high=300, log=True, low=10")
    assert "log=False" in found["dropout"] and "log=False" in found["beta"] and "log=True" in found["gamma"]


def test_the_first_trial_has_the_default_choice(log):
    """Among words, and true and false, as among numbers; a default outside of the interval is not tried."""
    vary = ["mixture", "alternating", "gamma=0.1:1"]
    for seed in range(3):
        first = tune(log, "recvae", trials=1, epochs=1, vary=vary, seed=seed, settings=SMALL | {"clean_decoder": False})
        options = first.best.options
        assert options["mixture"] == "per_dimension" and options["alternating"] is True and options["gamma"] >= 0.1


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("30m", 1800), ("2h", 7200)])
def test_budgets_are_read(text, seconds):
    assert cli._seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "1e3", "30 m", "2d", "nan"])
def test_budgets_that_are_none(text):
    with pytest.raises(vc.ConfigError, match="write a time as 90s, 30m or 2h"):
        cli._seconds(text)


REFUSED = [
    ("mult-vae", ["gamma"], "vary gamma: no option of mult-vae. Known: latent_dim, hidden, beta"),
    ("mult-vae", ["hidden"], "vary hidden: no interval is declared for it, write hidden=LOW:HIGH"),
    ("mult-vae", ["lr=1"], "vary lr=1: write lr=LOW:HIGH"),
    ("mult-vae", ["lr=a:b"], "vary lr=a:b: write lr=LOW:HIGH"),
    ("mult-vae", ["likelihood=0:1"], "vary likelihood=0:1: only numbers have an interval, likelihood must be one of"),
    ("mult-vae", ["hidden=0:10"], "vary: hidden=0: must be a whole number"),
    ("mult-vae", ["dropout=0:1"], "vary: dropout=1.0: must be a number"),
    ("mult-vae", ["lr=0.1:0.01"], "vary lr=0.1:0.01: write the smaller number first"),
    ("ncf", ["widths"], "vary widths: it can only be set"),
    ("ncf", ["widths=1:2"], "vary widths=1:2: only numbers have an interval"),
    ("biased-mf", ["n_users=1:9"], "vary n_users: no option of biased-mf"),
    ("popularity", None, "popularity has no option that is varied unasked.* Its options: none"),
    ("random", None, "random has no option that is varied unasked.* Its options: ratings"),
]


@pytest.mark.parametrize(("slug", "vary", "message"), REFUSED)
def test_what_cannot_be_varied_is_refused(slug, vary, message):
    with pytest.raises(vc.ConfigError, match=message):
        space(slug, vary)
    with pytest.raises(vc.ConfigError, match="beta is both set and varied"):
        space("mult-vae", ["beta"], beta=0.5)


def test_errors_come_before_the_first_trial(log, monkeypatch, tmp_path):
    with pytest.raises(vc.ConfigError, match=r"this weak split has none: set valid=0.1"):
        tune(log, protocol="weak", settings={})
    with pytest.raises(vc.ConfigError, match=r"mult-vae ranks items and predicts no ratings|needs target ratings"):
        tune(log, settings=SMALL | {"metric": "rmse"})
    with pytest.raises(vc.ConfigError, match="tune: trials=0: must be a whole number"):
        tune(log, trials=0)
    with pytest.raises(vc.ConfigError, match="tune: budget=0: must be a number above 0"):
        tune(log, budget=0)
    with pytest.raises(vc.ConfigError, match="device=warp cannot be used here"):
        tune(log, device="warp")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(vc.ConfigError, match=r"^tuning needs Optuna: pip install optuna$"):
        tune(log, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
