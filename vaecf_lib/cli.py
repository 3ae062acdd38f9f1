"""The command line: ``vaecf`` and ``python -m vaecf_lib``."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import signal
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import data, distributed, environment
from .errors import ConfigError, VaecfError
from .experiment import PROTOCOLS, as_json_ready, assign_settings, cuts_of, run_experiment
from .lab.cli import app as laboratory
from .runs import load_run
from .serving import OneHistory, check_kind, write_lists
from .systems import SYSTEMS
from .tuning import tune as tune_options

PATIENCE = 20  # validations; `vaecf fit hyvae --dataset douban` is best at epoch 5 of 50

ABOUT = """Recommend from clicks or ratings with variational autoencoders and what they compare with.

Your own data: check, fit, recommend. Each command answers to --help.
"""
EPOCHS = "at most so many passes over the training users"
SEED = "of the weights, the order of users and all noise"
BATCH_SIZE = "users per update"

app = typer.Typer(add_completion=False, help=ABOUT, pretty_exceptions_enable=False)


@app.command()
def datasets() -> None:
    """List the data sets of the catalogue, one line each."""
    rows = [("planted", "embedded: 3,000 users, 500 films, drawn from a known model")]
    rows += [(entry.name, entry.about) for entry in data.DATASETS.values()]
    for name, about in rows:
        typer.echo(f"{name:15s} {about}")


@app.command()
def models(
    slug: Annotated[str | None, typer.Argument(help="a system, to list its options")] = None,
) -> None:
    """List the systems, or the options of one."""
    if slug is None:
        for name, cls in SYSTEMS.items():
            typer.echo(f"{name:15s} {cls.about}")
        return
    if slug not in SYSTEMS:
        raise ConfigError(f"unknown model {slug!r}. Known: {', '.join(SYSTEMS)}")
    for name, option in SYSTEMS[slug].options.items():
        typer.echo(f"{name:17s} {json.dumps(option.default):15s} {option}")
        typer.echo(textwrap.fill(option.meaning, 118, initial_indent=" " * 34, subsequent_indent=" " * 34))


def _parse_value(text: str) -> Any:
    """Read a number, true, false or null, in Python's spelling too; anything else is a word."""
    if text in ("None", "True", "False"):
        return {"None": None, "True": True, "False": False}[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: of a whole number of thousands of digits, too
        return text


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    settings = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r}: write key=value")
        settings[key] = _parse_value(text)
    return settings


Columns = Annotated[
    str | None, typer.Option(help="your file's names, as user=uid,item=movie,rating=stars,time=when,title=name")
]


def _columns(text: str | None) -> dict[str, str]:
    """Read ``user=uid,item=movie`` as the arguments of :func:`vaecf_lib.data.read_own_file`."""
    known = [name for name in inspect.signature(data.read_own_file).parameters if name != "path"]
    columns = {}
    for pair in text.split(",") if text else []:
        key, _, name = pair.partition("=")
        if key not in known or not name or key in columns:
            raise ConfigError(f"--columns {pair!r}: write KEY=NAME once for each; the keys are {', '.join(known)}")
        columns[key] = name
    return columns


def _check_source(dataset: str | None, interactions: Path | None, columns: str | None) -> None:
    if (dataset is None) == (interactions is None):
        raise ConfigError("give either --dataset NAME or --interactions FILE")
    if dataset and columns:
        raise ConfigError("--columns names the columns of your own file, and --dataset is another one")


def _load(
    model: str,
    dataset: str | None,
    interactions: Path | None,
    columns: str | None,
    protocol: str | None,
    given: dict[str, Any],
) -> tuple[data.RatingLog, str]:
    """Return the data to be split, and the protocol, if it was not said: weak where they bring a split of their own."""
    _check_source(dataset, interactions, columns)
    if interactions is None:
        protocol = protocol or "strong"
        assign_settings(given, model, protocol)  # an unknown name should not wait for the data
        return data.load_dataset(dataset), protocol
    log = data.read_own_file(interactions, **_columns(columns))
    return log, protocol or ("strong" if log.is_test is None else "weak")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="your own .csv, .tsv, .parquet or .npz with user, item[, rating]")],
    columns: Columns = None,
    protocol: Annotated[str | None, typer.Option(help="one protocol instead of all")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for the splits; repeatable, as for fit")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
) -> None:
    """Report what would be read from a file and how it would be split; nothing is trained."""
    cuts = cuts_of([protocol] if protocol else PROTOCOLS, _settings(settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has them
        log = data.read_own_file(file, **_columns(columns))
    report = data.check(log, cuts)
    typer.echo(json.dumps(report.to_json()) if as_json else str(report))


@app.command()
def fit(
    model: Annotated[str, typer.Argument(help="slug of a system, see `vaecf models`")],
    dataset: Annotated[str | None, typer.Option(help="name in the catalogue, see `vaecf datasets`")] = None,
    interactions: Annotated[
        Path | None, typer.Option(help="your own .csv, .tsv, .parquet or .npz with user, item[, rating]")
    ] = None,
    columns: Columns = None,
    protocol: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(PROTOCOLS)}; default strong, or weak if the data bring a split"),
    ] = None,
    epochs: Annotated[int, typer.Option(help=EPOCHS)] = 50,
    seed: Annotated[int, typer.Option(help=SEED)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    batch_size: Annotated[int, typer.Option(help=BATCH_SIZE)] = 500,
    metrics: Annotated[str | None, typer.Option(help="comma-separated, for instance recall@20,ndcg@100")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for the split, the model or the training; repeatable"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; resumes what it holds")] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help=f"stop after so many validations without a new best; 0: never. Default {PATIENCE}, with "
            "schedule=cosine 0"
        ),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="give a run more epochs even if what it anneals is over")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="then train anew on everything, as many epochs as were best, for serving")
    ] = False,
    shard_items: Annotated[
        bool, typer.Option("--shard-items", help="of several processes each has some items of the output layer")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="fuse the losses with torch.compile")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else to stdout")] = False,
) -> None:
    """Train a system, evaluate it on the test part, print the metrics."""
    given = _settings(settings)
    if patience is None:
        patience = 0 if given.get("schedule") == "cosine" else PATIENCE
    with distributed.shared(device):
        log, protocol = distributed.first_then_rest(
            lambda: _load(model, dataset, interactions, columns, protocol, given)
        )
        result, estimates = run_experiment(
            model,
            log,
            protocol,
            epochs=epochs,
            seed=seed,
            device=device,
            batch_size=batch_size,
            metrics=None if metrics is None else tuple(metrics.split(",")),
            settings=given,
            out=out,
            patience=patience or None,
            extend=extend,
            refit=refit,
            shard_items=shard_items,
            compile=compile,
        )
    if distributed.launched().rank > 0:
        return
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for name, estimate in estimates.items():
            typer.echo(f"{name:12s} {estimate}")


def _names(text: str | None) -> list[str] | None:
    """Read ids or titles: one a line of a file of that name, or else with commas between, without spaces."""
    if text is None:
        return None
    if os.path.isfile(text):  # Path's own fails on a text that is too long to be a name
        return [name for name, _ in data.read_history(text)]
    return re.split(",(?! )", text)  # a title may hold ", "


def _seconds(text: str) -> float:
    """Read a time as 90s, 30m or 2h; without a letter, seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise ConfigError(f"--budget {text!r}: write a time as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="slug of a system, see `vaecf models`")],
    dataset: Annotated[str | None, typer.Option(help="name in the catalogue, see `vaecf datasets`")] = None,
    interactions: Annotated[Path | None, typer.Option(help="your own file, as for `vaecf fit`")] = None,
    columns: Columns = None,
    protocol: Annotated[str | None, typer.Option(help="as for `vaecf fit`")] = None,
    trials: Annotated[int, typer.Option(help="how many trainings")] = 20,
    budget: Annotated[str | None, typer.Option(help="stop after this time, as 90s, 30m or 2h")] = None,
    vary: Annotated[
        str | None,
        typer.Option(help="options, comma-separated, numbers also as NAME=LOW:HIGH; default: weights and steps"),
    ] = None,
    epochs: Annotated[int, typer.Option(help=EPOCHS)] = 50,
    seed: Annotated[int, typer.Option(help=SEED)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    batch_size: Annotated[int, typer.Option(help=BATCH_SIZE)] = 500,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value that stays fixed; repeatable")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the tuning; goes on with what it holds")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else to stdout")] = False,
) -> None:
    """Try a system's options on the validation part, print the best and the `vaecf fit` line that gives them."""
    given, seconds = _settings(settings), None if budget is None else _seconds(budget)
    log, protocol = _load(model, dataset, interactions, columns, protocol, given)
    tuning = tune_options(
        model,
        log,
        protocol,
        trials=trials,
        budget=seconds,
        vary=None if vary is None else vary.split(","),
        epochs=epochs,
        seed=seed,
        device=device,
        batch_size=batch_size,
        settings=given,
        out=out,
    )
    source = ["--dataset", dataset] if interactions is None else ["--interactions", str(interactions)]
    source += ["--columns", columns] if columns else []
    line = ["vaecf", "fit", model, *source, "--protocol", protocol, "--epochs", str(epochs), "--seed", str(seed)]
    line += ["--device", device, "--batch-size", str(batch_size), "--patience", "0"]
    for key, value in (given | tuning.best.options).items():
        line += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    command = shlex.join(line)
    if as_json:
        typer.echo(json.dumps({**asdict(tuning), "best": asdict(tuning.best), "command": command}))
        return
    typer.echo(tuning.table())
    typer.echo(command)


@app.command()
def recommend(
    run: Annotated[Path, typer.Argument(help="folder of a run of `vaecf fit --out`")],
    users: Annotated[
        str | None, typer.Option(help="users of the data: ids with commas between, or a file with one a line")
    ] = None,
    histories: Annotated[
        Path | None, typer.Option(help="other people: a .csv, .tsv, .parquet or .npz with user, item[, rating]")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="one other person: an item's id or title a line, or a .csv or .tsv with item[, rating]"),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="length of the list")] = 10,
    exclude: Annotated[
        str | None, typer.Option(help="items not to be shown: ids or titles, commas between, or a file with one a line")
    ] = None,
    only: Annotated[str | None, typer.Option(help="the only items that may be shown, written as for --exclude")] = None,
    out: Annotated[Path | None, typer.Option(help="write a .csv, .tsv, .parquet or .json instead of printing")] = None,
) -> None:
    """Print the best items for users of the data, or for other people by what they have.

    Without --users, --histories or --history everyone in the run's data gets a list.
    Printed is a table, tab-separated: user, rank, item, title (if any) and score.
    That of --history has neither header nor user.
    """
    if sum(option is not None for option in (users, histories, history)) > 1:
        raise ConfigError("give one of --users, --histories and --history")
    if out is not None:
        check_kind(out)
    served = load_run(run)
    if history is not None:
        entries = [name if rating is None else (name, rating) for name, rating in data.read_history(history)]
        histories = OneHistory(str(history), entries)
    lists = served.recommend(_names(users), histories, k, exclude=_names(exclude) or (), only=_names(only))
    if history is not None:
        lists = lists.drop(columns="user")
    if out is not None:
        write_lists(lists, out)
    elif history is not None:
        titles = lists["title"] if "title" in lists else [""] * len(lists)
        for rank, item, title, score in zip(lists["rank"], lists["item"], titles, lists["score"], strict=True):
            typer.echo(f"{rank}\t{item}\t{title}\t{score:.4f}")
    else:
        typer.echo(lists.to_csv(sep="\t", index=False, float_format="%.4f"), nl=False)


@app.command()
def similar(
    run: Annotated[Path, typer.Argument(help="folder of a run of `vaecf fit --out`")],
    item: Annotated[str, typer.Argument(help="an item's id or title")],
    k: Annotated[int, typer.Option("-k", help="length of the list")] = 10,
) -> None:
    """Print the items most like one, as the system has learnt them.

    Printed is a table, tab-separated: rank, item, title (if any) and similarity, a cosine.
    """
    typer.echo(load_run(run).similar(item, k).to_csv(sep="\t", index=False, float_format="%.4f"), nl=False)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="folder of a run of `vaecf fit --out`")],
    dataset: Annotated[str | None, typer.Option(help="name in the catalogue, see `vaecf datasets`")] = None,
    interactions: Annotated[Path | None, typer.Option(help="your own file with user, item[, rating]")] = None,
    columns: Columns = None,
    metrics: Annotated[str | None, typer.Option(help="comma-separated, for instance recall@20,ndcg@100")] = None,
    seed: Annotated[int, typer.Option(help="of the fifth of each person's items that must be found")] = 98765,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else to stdout")] = False,
) -> None:
    """Evaluate a saved run: on the test part of its own data, or on other data.

    There is no --protocol and no --set: the run knows how `vaecf fit` cut its own data,
    and another cut of them would ask for what it was trained on.

    In other data the items are found by their ids; ratings below the run's threshold are no clicks.
    A fifth of what each person has there, or what is_test marks, must be found from the rest.
    A system that knows its users must find what it has not seen of them.
    """
    served = load_run(run)
    _check_source(dataset, interactions, columns)
    log = data.load_dataset(dataset) if dataset else data.read_own_file(interactions, **_columns(columns))
    own = served.source is not None and served.source["data_sha256"] == log.sha256
    if own and served.source["protocol"] == "all":  # a refit has seen the test part, the run before it has not
        served = load_run(run, refit=False)
        own = served.source["protocol"] != "all"
    part = PROTOCOLS[served.source["protocol"]](log, **served.source["settings"]) if own else log
    estimates = served.evaluate(part, None if metrics is None else metrics.split(","), seed=seed)
    if as_json:
        result = {"model": served.model.slug, "dataset": log.name, "part": "test" if own else "all"}
        result |= {"metrics": as_json_ready(estimates), "data_sha256": log.sha256}
        typer.echo(json.dumps(result))
    else:
        for name, estimate in estimates.items():
            typer.echo(f"{name:12s} {estimate}")


app.add_typer(laboratory)


def _line(error: Exception) -> str | None:
    """Return in one line what went wrong, if it is the user's or the machine's doing; None for a fault of ours."""
    if isinstance(error, VaecfError):
        return str(error)
    if isinstance(error, OSError):  # a full disk, a folder that may not be written, a name too long
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}. Mend that and call again: a run kept with --out is whole"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        reason = (str(error).splitlines() or ["of memory"])[0]  # torch's own kinds are RuntimeErrors
        return f"not enough memory: lower the model's sizes or --batch-size ({reason})"
    if hasattr(error, "format_message"):  # typer's, of an option that is unknown or no number
        return " ".join(error.format_message().split())
    return None


@contextmanager
def _among_others(rank: int, count: int) -> Iterator[None]:
    """Be one of several processes inside, if there are: what is said the first says, and each says why it ends.

    Raises:
        ConfigError: the command does not share its work.
    """
    if count == 1:
        yield
        return
    if sys.argv[1] != "fit":
        raise ConfigError(
            f"only `vaecf fit` shares its work among processes: run `vaecf {sys.argv[1]}` without torchrun"
        )
    if rank > 0:
        warnings.simplefilter("ignore")

    def stop(*_) -> None:  # torchrun ends those that are left when one has failed
        raise typer.Abort

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this one has an end, and a line, of its own


def main() -> None:
    """Run the command line; expected errors end in one line and exit code 2."""
    warnings.simplefilter("always", UserWarning)  # each in one line, whatever the interpreter's filters
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    environment.command = shlex.join(["vaecf", *sys.argv[1:]])
    rank, count = distributed.launched()
    prefix = f"process {rank} of {count}: " if count > 1 else ""
    try:
        with _among_others(rank, count):
            code = app(standalone_mode=False)
    except typer.Abort:  # Ctrl-C
        print(f"{prefix}stopped: with --out the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        print(f"{prefix}error: {line}", file=sys.stderr)
        sys.exit(2)
    finally:
        environment.command = None
    sys.exit(code)


if __name__ == "__main__":
    main()
