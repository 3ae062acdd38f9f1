"""The laboratory's commands, which the command line lists after those for one's own data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from . import RESULTS

# Each command imports what it needs: `vaecf models` should not wait for the laboratory.
app = typer.Typer()
PANEL = "The book's laboratory"


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: write whole numbers with commas between, as 0,1,2") from error


@app.command(rich_help_panel=PANEL)
def reproduce(
    paper: Annotated[str, typer.Argument(help="recvae, sivae, hyvae, vaegan, vae_bmf; or book for our own studies")],
    table: Annotated[str, typer.Argument(help="the table's number as printed, or the study's name")],
    dataset: Annotated[str | None, typer.Option(help="one data set instead of all in the table")] = None,
    models: Annotated[
        str | None, typer.Option(help="slugs, or rows of a study; commas between, without spaces")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="comma-separated; else as many as a row is to have")] = None,
    epochs: Annotated[int, typer.Option(help="of systems whose study names no other number")] = 100,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    results: Annotated[Path, typer.Option(help="folder of reported.json and measured/")] = RESULTS,
    list_only: Annotated[
        bool, typer.Option("--list", help="only say what is left to do, and how long it takes")
    ] = False,
) -> None:
    """Run the systems of one of the papers' tables and keep the results for the ledger, each as it ends."""
    from . import reproduction

    which = {
        "dataset": dataset,
        "models": re.split(",(?! )", models) if models else None,  # a row's own name may hold ", "
        "seeds": None if seeds is None else _seeds(seeds),
        "epochs": epochs,
        "folder": results,
    }
    runs = reproduction.plan(paper, table, **which)
    for slug, why in reproduction.left_out(paper, table, results).items():
        reproduction.say(f"left out: {slug}: {why}")
    if list_only:
        of_epoch = reproduction.epoch_seconds(results)
        for run in reproduction.missing(runs, results):
            time = reproduction.words(run.seconds(of_epoch))
            typer.echo(f"{run.dataset} {run.label}, seed {run.seed}, {run.epochs} epochs: {time}")
        typer.echo(reproduction.still_to_do(runs, results))
        return
    reproduction.reproduce(paper, table, device=device, **which)


@app.command(name="ledger", rich_help_panel=PANEL)
def show_ledger(
    paper: Annotated[str | None, typer.Option(help="recvae, sivae, hyvae, vaegan or vae_bmf alone")] = None,
    state: Annotated[str | None, typer.Option(help="measured, not-measured or cannot-be-compared alone")] = None,
    deviations: Annotated[
        bool, typer.Option("--deviations", help="every row's largest, unexplained ones first")
    ] = False,
    transplanted: Annotated[
        bool, typer.Option("--transplanted", help="the same systems on other data instead")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print the rows as CSV and nothing else to stdout")] = False,
    results: Annotated[Path, typer.Option(help="folder of reported.json and measured/")] = RESULTS,
) -> None:
    """Print which of the papers' numbers are measured, which are not and why, and where ours differ.

    Ends with 1 where something is wrong with the results, which it says on stderr: a file that breaks its schema, a row
    that had not converged, or one with fewer seeds than its study says.
    """
    from . import faults, verdicts

    wrong = faults.faults(results)
    for line in wrong:
        typer.echo(f"fault: {line}", err=True)
    if not faults.broken(results):
        rows = verdicts.transplanted(results) if transplanted else verdicts.ledger(results)
        rows = verdicts.only(rows, paper, state)
        if as_csv:
            typer.echo(rows.assign(files=rows["files"].map(" ".join)).to_csv(index=False), nl=False)
        elif transplanted:
            typer.echo(rows.drop(columns=["files", "state"]).to_string(index=False))
        else:
            listed = verdicts.deviations(rows) if deviations else rows if paper or state else rows[:0]
            typer.echo("\n".join([verdicts.summary(rows), "", *map(verdicts.in_a_line, listed.itertuples())]).rstrip())
    raise typer.Exit(int(bool(wrong)))


@app.command(rich_help_panel=PANEL)
def bench(
    against: Annotated[list[str] | None, typer.Option(help="a peer: dense (repeatable)")] = None,
    users: Annotated[int, typer.Option(help="rows of the matrix")] = 20_000,
    items: Annotated[int, typer.Option(help="columns of the matrix")] = 20_108,
    pairs: Annotated[int, typer.Option(help="paired runs")] = 5,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
    growth: Annotated[bool, typer.Option(help="also time half, one and two times the users and items")] = False,
    every: Annotated[bool, typer.Option("--all", help="an epoch of every system instead, beside its limit")] = False,
    shape: Annotated[list[str] | None, typer.Option(help="with --all: ml-1m or ml-20m (repeatable), else both")] = None,
    systems: Annotated[str | None, typer.Option(help="with --all: slugs, commas between; else every system")] = None,
    out: Annotated[Path | None, typer.Option(help="with --all: JSON that keeps what is done, to go on with")] = None,
) -> None:
    """Measure Mult-VAE's speed and peak memory on a synthetic matrix, beside its floor and peers; or every system's."""
    from . import bench as benchmark
    from . import costs

    if every:
        report = costs.run(shape or list(costs.SHAPES), systems.split(",") if systems else None, out)
        typer.echo(json.dumps(report, indent=1))
        return
    if shape or systems or out:
        raise ConfigError("bench: --shape, --systems and --out are for --all: add it")
    typer.echo(json.dumps(benchmark.run(users, items, pairs, threads, against or [], growth), indent=1))


@app.command(rich_help_panel=PANEL)
def states(
    names: Annotated[list[str] | None, typer.Argument(help="grids; default all, which takes an hour")] = None,
    results: Annotated[Path, typer.Option(help="folder of states/")] = RESULTS,
) -> None:
    """Retrain the grids of states that the book's sliders show."""
    from . import grids

    grids.make(names or list(grids.GRIDS), results)


@app.command(rich_help_panel=PANEL)
def gains(
    dataset: Annotated[str, typer.Argument(help="name in the catalogue")],
    n_heldout: Annotated[int, typer.Option(help="users held out for validation, and for the test")] = 500,
    epochs: int = 100,
    results: Annotated[Path, typer.Option(help="folder of gains/")] = RESULTS,
) -> None:
    """Measure which users gain from the exact likelihood."""
    from . import gains as measurement

    measurement.measure(dataset, n_heldout, epochs, results)


@app.command(rich_help_panel=PANEL)
def timing(
    dataset: Annotated[str, typer.Argument(help="name in the catalogue")],
    n_heldout: Annotated[int, typer.Option(help="users held out for validation, and for the test")] = 500,
    results: Annotated[Path, typer.Option(help="folder of timing/")] = RESULTS,
) -> None:
    """Time an epoch of every ranking system, one after the other; let nothing else run."""
    from . import timing as measurement

    measurement.measure(dataset, n_heldout, results)
