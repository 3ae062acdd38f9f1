"""The command line: ``vaecf`` and ``python -m vaecf_lib``."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from . import data, environment
from .checkpoints import load_model
from .errors import ConfigError, DataError, VaecfError
from .experiment import PROTOCOLS, assign_settings, cuts_of, run_experiment
from .lab.cli import app as laboratory
from .recommending import recommend as recommend_items
from .systems import SYSTEMS

PATIENCE = 20  # validations; `vaecf fit hyvae --dataset douban` is best at epoch 5 of 50

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def datasets() -> None:
    """List the data sets of the catalogue, one line each."""
    rows = [("planted", "embedded: 3,000 users, 500 films, drawn from a known model")]
    rows += [(entry.name, entry.about) for entry in data.DATASETS.values()]
    for name, about in rows:
        typer.echo(f"{name:15s} {about}")


@app.command()
def models(
    slug: Annotated[str | None, typer.Argument(help="list this system's options, with their defaults")] = None,
) -> None:
    """List the systems, or one system's options, one line each."""
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
    epochs: int = 50,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    batch_size: int = 500,
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
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else to stdout")] = False,
) -> None:
    """Train a system, evaluate it on the test part, print the metrics."""
    if (dataset is None) == (interactions is None):
        raise ConfigError("give either --dataset NAME or --interactions FILE")
    if dataset and columns:
        raise ConfigError("--columns names the columns of your own file, and --dataset is another one")
    given = _settings(settings)
    if patience is None:
        patience = 0 if given.get("schedule") == "cosine" else PATIENCE
    if dataset:
        protocol = protocol or "strong"
        assign_settings(given, model, protocol)  # an unknown name should not wait for the data
        log = data.load_dataset(dataset)
    else:
        log = data.read_own_file(interactions, **_columns(columns))
        protocol = protocol or ("strong" if log.is_test is None else "weak")
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
    )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for name, estimate in estimates.items():
            typer.echo(f"{name:12s} {estimate}")


@app.command()
def recommend(
    run: Annotated[Path, typer.Argument(help="folder of a run of `vaecf fit --out`")],
    history: Annotated[Path, typer.Option(help="one item id or title a line, or a .csv or .tsv with item[, rating]")],
    k: Annotated[int, typer.Option("-k", help="length of the list")] = 10,
) -> None:
    """Print the best items for one person's history: rank, id, title and score, tab-separated."""
    model = load_model(run)
    items = model.item_names
    if items is None:
        raise DataError(f"{run}: the run knows no item ids: train it on a split that does, as `vaecf fit` makes")
    entries = [(items.code(name), name, rating) for name, rating in data.read_history(history)]
    unknown = [name for code, name, _ in entries if code is None]
    if len(unknown) == len(entries):
        raise DataError(f"{history}: none of its items is known, the first is {unknown[0]!r}: use ids or titles")
    if unknown:
        warnings.warn(f"{history}: {len(unknown)} unknown items left out, the first is {unknown[0]!r}")
    if not model.rated and any(rating is not None for *_, rating in entries):
        warnings.warn(f"{history}: this run was trained on clicks, so ratings are not read: all items count as liked")
        entries = [(code, name, None) for code, name, _ in entries]
    known = [code if rating is None else (code, rating) for code, _, rating in entries if code is not None]
    found = recommend_items(model, known, k)
    if not found:
        warnings.warn(f"{history}: it holds every item there is, so none is left to recommend")
    for rank, entry in enumerate(found, start=1):
        typer.echo(f"{rank}\t{items.ids[entry.item]}\t{entry.title or ''}\t{entry.score:.4f}")


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


def main() -> None:
    """Run the command line; expected errors end in one line and exit code 2."""
    warnings.simplefilter("always", UserWarning)  # each in one line, whatever the interpreter's filters
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    environment.command = shlex.join(["vaecf", *sys.argv[1:]])
    try:
        code = app(standalone_mode=False)
    except typer.Abort:  # Ctrl-C
        print("stopped: with --out the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    finally:
        environment.command = None
    sys.exit(code)


if __name__ == "__main__":
    main()
