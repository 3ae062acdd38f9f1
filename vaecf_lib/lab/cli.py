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
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    epochs: Annotated[int, typer.Option(help="of systems whose study names no other number")] = 100,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    results: Annotated[Path, typer.Option(help="folder of reported.json and measured/")] = RESULTS,
) -> None:
    """Run the systems of one of the papers' tables and keep the results for the ledger."""
    from . import reproduction

    reproduction.reproduce(
        paper,
        table,
        dataset=dataset,
        models=re.split(",(?! )", models) if models else None,  # a row's own name may hold ", "
        seeds=_seeds(seeds),
        epochs=epochs,
        device=device,
        folder=results,
    )


@app.command(name="ledger", rich_help_panel=PANEL)
def show_ledger(
    results: Annotated[Path, typer.Option(help="folder of reported.json and measured/")] = RESULTS,
) -> None:
    """Print how many of the papers' numbers are measured, and where ours differ."""
    from . import ledger

    typer.echo(ledger.summary(results))


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
