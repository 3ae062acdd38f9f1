"""Every system: two people recommended to, the run loaded, ids saved, bad options refused. Prints Markdown.

``python benchmarks/systems_table.py [SLUG …]`` trains each registered system for one epoch on 300 users of the embedded
world, whose users and items get ids as text ("u0012", "0012", "NA"), keeps the run in a folder and tries it. The exit
code is 1 if anything is not as it should be. The same is tested in tests/test_serving.py and tests/fuzz.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import vaecf_lib as vc
from vaecf_lib.experiment import assign_settings

SMALL = {"latent_dim": 8, "hidden": 16, "widths": [8], "channels": 2, "data_dim": 4, "points": 9}
SAME = "**the same list**"
HEADER = ("system", "needs", "two users, by id", "two strangers, by history", "loaded", "ids", "bad options refused")
BAD = ("a word that it is not", -1, 1e300, float("nan"), [], {}, None, True)


def own_log(slug: str) -> vc.RatingLog:
    """Return 300 users of the embedded world under ids of text; its oracle alone must know its films by their own."""
    log = vc.load_dataset("planted")
    log = log.select(log.user < 300)
    if slug == "planted-oracle":
        return log
    items = [f"{item:04d}" if item else "NA" for item in log.item.tolist()]
    table = {"user": [f"u{user:04d}" for user in log.user.tolist()], "item": items, "rating": log.rating}
    return vc.RatingLog.from_frame(pd.DataFrame(table))


def one_list_each(lists: pd.DataFrame) -> bool:
    """Tell whether both people have ten items, and not the same ones with the same scores."""
    first, second = (part[["item", "score"]].to_numpy().tolist() for _, part in lists.groupby("user"))
    return len(first) == len(second) == 10 and first != second


def of_users(run: vc.Run) -> str:
    """Serve two users of the training data by their ids."""
    asked = run.people.ids[run.people.train_rows >= 0][:2].tolist()
    return "own lists" if one_list_each(run.recommend(asked)) else SAME


def of_strangers(run: vc.Run) -> str:
    """Serve two people who are in no data."""
    items = run.model.item_names.ids
    ids = [items[code] for code in run.model.item_index.tolist()]
    rate = (lambda item: (item, 4.0)) if run.model.rates else (lambda item: item)
    histories = {name: [rate(item) for item in chosen] for name, chosen in (("ann", ids[:9]), ("bob", ids[-9:]))}
    try:
        return "own lists" if one_list_each(run.recommend(histories=histories)) else SAME
    except vc.ConfigError as error:
        return (
            "refused" if re.match(f"{run.model.slug} scores only the users it was trained on", str(error)) else "**?**"
        )


def is_loaded_whole(run: vc.Run, loaded: vc.Run, split: vc.data.Split) -> bool:
    """Tell whether the run scores bit for bit as the one that was saved."""
    batch = split.test.history.rows(torch.arange(20))
    with torch.no_grad():
        return torch.equal(run.model.scores(batch), loaded.model.scores(batch))


def knows_ids(loaded: vc.Run, log: vc.RatingLog) -> bool:
    """Tell whether users and items came back under the ids of the data."""
    users = np.isin(loaded.people.ids, log.user_ids).all() and len(loaded.people.ids) > 200
    return bool(users) and loaded.model.item_names == log.items and loaded.people.ids.dtype == log.user_ids.dtype


def refusal(give: Callable[..., object], *arguments: Any, **options: Any) -> str | None:
    """Return what a call is refused with; None if it is not."""
    try:
        give(*arguments, **options)
    except vc.ConfigError as error:
        return str(error)
    return None


def refusals(slug: str, n_items: int) -> tuple[int, int]:
    """Give each option values that it may not have, and the system one that it has not; count what is refused, of all.

    A refusal is one line that names the system and the option, in Python as for ``--set``. What the data decide
    (``n_users``) is no option of ``--set``.
    """
    options = vc.SYSTEMS[slug].options
    cases: list[tuple[str, Any]] = [("no_such_option", 1)]
    cases += [(name, value) for name, option in options.items() for value in BAD if not option.accepts(value)]
    refused = 0
    for name, value in cases:
        said = refusal(vc.build, slug, n_items, **{name: value}), refusal(assign_settings, {name: value}, slug, "weak")
        alike = said[0] == said[1] or name in ("no_such_option", "n_users")
        refused += alike and all(line and "\n" not in line and slug in line and name in line for line in said)
    return refused, len(cases)


def row(slug: str) -> tuple[str, ...]:
    """Train a system, try it, and return its line of the table."""
    log, options = own_log(slug), vc.SYSTEMS[slug].options
    small = {name: value for name, value in SMALL.items() if name in options}
    clicks = vc.split_weak if slug in ("irgan", "cfgan") else vc.split_strong  # which know their users alone
    split = (vc.split_ratings if vc.build(slug, 10, **small).rates else clicks)(log)
    model = vc.build(slug, split.n_items, **small)
    with tempfile.TemporaryDirectory() as folder:
        run = vc.fit(model, split, epochs=1, device="cpu", out=Path(folder) / "run", progress=False)
        loaded = vc.load_run(Path(folder) / "run")
    users, strangers = of_users(loaded), of_strangers(loaded)
    if slug == "popularity" and strangers == SAME:
        users = strangers = "one for all, as it says"
    whole = "bit for bit" if is_loaded_whole(run, loaded, split) else "**not the same**"
    ids = "kept" if knows_ids(loaded, log) else "**lost**"
    refused, tried = refusals(slug, split.n_items)
    counted = f"{refused} of {tried}"
    return slug, model.needs, users, strangers, whole, ids, counted if refused == tried else f"**{counted}**"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    lines = [HEADER, ("---",) * len(HEADER)] + [row(slug) for slug in sys.argv[1:] or vc.SYSTEMS]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(text)
    sys.exit("**" in text)


if __name__ == "__main__":
    main()
