"""The book's laboratory: studies, grids of states, ledger, benchmarks. Nobody with data of their own needs it."""

from pathlib import Path

RESULTS = Path("book/results")  # in a checkout of the book, whose root is where its commands run
