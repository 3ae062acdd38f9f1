"""The embedded world: a small film catalogue drawn from a known model, so that the truth can be shown.

Every film has a place ``p_i`` on a two-dimensional map of tastes, every user a point ``z_u ~ N(0, I)``. The taste
logit of a film grows as the user comes near it,

    eta_i(z) = b_i + A exp(-|z - p_i|^2 / (2 s^2)),

with Zipf popularity ``b_i``. The films a user likes (ratings 4 and 5) are independent Bernoulli draws with logits
``eta_i(z_u) + t_u``; given how many they are, they follow *exactly* the n-Choose-k model with logits eta(z_u)
(chapter 3). Films seen and not liked (ratings 1 to 3) are drawn in proportion to popularity.

The random stream is NumPy's frozen ``RandomState``: the same bytes on every machine (a test holds the hash).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from .ratings import RatingLog, log_of_table

N_USERS, N_ITEMS, SEED = 3000, 500, 20200203
HEIGHT, WIDTH = 5.0, 0.75  # A and s of the formula above

# The readers' companions: name -> (user code, place on the map, expected number of liked films).
CAST = {
    "Ada": (0, (-1.1, 0.9), 40),
    "Bruno": (1, (0.9, 1.2), 110),
    "Chen": (2, (0.2, -1.2), 18),
    "Dalia": (3, (0.0, 0.1), 9),
}

# Eight genres around the map, counter-clockwise from the right, with the words their titles are made of.
GENRES = {
    "Action": ("Iron Last Burning Savage Final Rapid Broken Steel", "Strike Convoy Outpost Pursuit Target Bridge Raid Siege"),
    "Science fiction": ("Silent Binary Distant Orbital Frozen Solar Hollow Ninth", "Signal Planet Horizon Colony Machine Eclipse Voyage Star"),
    "Mystery": ("Missing Crooked Seventh Pale Locked Foggy Second Borrowed", "Witness Letter Alibi Corridor Portrait Key Stranger Inquest"),
    "Drama": ("Quiet Long Empty Bitter Northern Forgotten Plain Winter", "Harbour Promise Season Kitchen Sister Orchard Verdict Road"),
    "Romance": ("Tender Secret Parisian Autumn Velvet Gentle Second-hand Moonlit", "Waltz Summer Garden Proposal Café Letterbox Wedding Balcony"),
    "Comedy": ("Absent-minded Lucky Noisy Accidental Borrowed Reluctant Cheerful Double", "Uncle Holiday Butler Neighbour Sandwich Umbrella Landlord Parrot"),
    "Family": ("Little Paper Brave Flying Wandering Singing Tiny Golden", "Bear Kite Lighthouse Dragon Puddle Elephant Balloon Fox"),
    "Western": ("Dusty Lonesome Crimson Wild Outlaw Thirsty Rusty High", "Canyon Saddle Trail Badge Prairie Whistle Creek Saloon"),
}  # fmt: skip


@dataclass(frozen=True)
class PlantedWorld:
    """The truth behind the planted log.

    ``taste`` (n_users, 2) the users' places · ``place`` (n_items, 2) the films' · ``popularity`` (n_items,) the
    b_i · ``shift`` (n_users,) the t_u · ``genre`` (n_items,) name of each film's genre.
    """

    taste: np.ndarray
    place: np.ndarray
    popularity: np.ndarray
    shift: np.ndarray
    genre: np.ndarray

    def logits(self, z: np.ndarray) -> np.ndarray:
        """Return eta(z) for points ``z`` (..., 2): shape (..., n_items)."""
        distance2 = ((np.asarray(z)[..., None, :] - self.place) ** 2).sum(-1)
        return self.popularity + HEIGHT * np.exp(-distance2 / (2 * WIDTH**2))


def _titles(genre: np.ndarray, rng: np.random.RandomState) -> list[str]:
    pools = {}
    for name, (adjectives, nouns) in GENRES.items():
        pairs = [f"The {a} {n}" for a in adjectives.split() for n in nouns.split()]
        pools[name] = [pairs[i] for i in rng.permutation(len(pairs))]
    years = rng.randint(1950, 2020, len(genre))
    return [f"{pools[g].pop()} ({year})" for g, year in zip(genre, years, strict=True)]


def _calibrated_shift(logits: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return t (n_users,) with sum_i sigmoid(logits + t) = expected, by bisection."""
    low, high = np.full(len(logits), -30.0), np.full(len(logits), 30.0)
    for _ in range(45):
        middle = (low + high) / 2
        above = (1 / (1 + np.exp(-(logits + middle[:, None])))).sum(1) > expected
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    return (low + high) / 2


@cache
def _generate() -> tuple[PlantedWorld, pd.DataFrame, dict[int, str]]:
    rng = np.random.RandomState(SEED)
    names = list(GENRES)
    genre_of = np.arange(N_ITEMS) % len(names)
    angle = 2 * np.pi * genre_of / len(names) + 0.25 * rng.standard_normal(N_ITEMS)
    radius = 1.25 + 0.4 * rng.standard_normal(N_ITEMS)
    place = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    popularity = -0.9 * np.log1p(rng.permutation(N_ITEMS))

    taste = rng.standard_normal((N_USERS, 2))
    expected = np.clip(np.exp(3.1 + 0.65 * rng.standard_normal(N_USERS)), 6, 160)
    for code, spot, liked in CAST.values():
        taste[code], expected[code] = spot, liked

    genre = np.array(names)[genre_of]
    world = PlantedWorld(taste, place, popularity, np.zeros(N_USERS), genre)
    logits = world.logits(taste)
    shift = _calibrated_shift(logits, expected)
    world = PlantedWorld(taste, place, popularity, shift, genre)

    liked = rng.random_sample(logits.shape) < 1 / (1 + np.exp(-(logits + shift[:, None])))
    seen = np.minimum(0.35 * expected[:, None] * np.exp(popularity) / np.exp(popularity).sum(), 0.5)
    seen = ~liked & (rng.random_sample(logits.shape) < seen)
    nearness = (logits - popularity) / HEIGHT  # 1 at the film's place, 0 far away
    noise = rng.random_sample(logits.shape)
    rating = np.where(liked, np.where(noise < 0.2 + 0.6 * nearness, 5, 4), 0)
    rating += np.where(seen, 1 + (noise < 0.75).astype(int) + (noise < 0.25 + 0.3 * nearness), 0)

    user, item = np.nonzero(rating)
    order = rng.permutation(len(user))  # a log is not sorted by film
    order = order[np.argsort(user[order], kind="stable")]
    frame = pd.DataFrame({"user": user[order], "item": item[order], "rating": rating[user, item][order]})
    return world, frame, dict(enumerate(_titles(genre, rng)))


def planted_log() -> RatingLog:
    """Return the embedded data set: 3,000 users, 500 films, ratings 1 to 5."""
    _, frame, titles = _generate()
    return log_of_table("planted", frame.copy(deep=False), titles)


def planted_world() -> PlantedWorld:
    """Return the truth from which :func:`planted_log` was drawn; codes agree with the log's."""
    return _generate()[0]


def cast_of(log: RatingLog) -> dict[str, int]:
    """Return the companions' user codes: in the planted log their own, elsewhere users of four activity levels."""
    if log.name == "planted":
        return {name: code for name, (code, *_) in CAST.items()}
    counts = np.bincount(log.user, minlength=log.n_users)
    by_activity = np.argsort(counts, kind="stable")
    levels = {"Ada": 0.7, "Bruno": 0.97, "Chen": 0.4, "Dalia": 0.1}
    return {name: int(by_activity[int(level * (log.n_users - 1))]) for name, level in levels.items()}
