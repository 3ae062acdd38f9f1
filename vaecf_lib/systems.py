"""Every system by its slug (the names in ``book/results/reported.json``)."""

from __future__ import annotations

from . import baselines, models
from .errors import ConfigError
from .models.base import Model
from .options import Option, declared

SYSTEMS: dict[str, type[Model]] = {
    cls.slug: cls
    for cls in (
        models.MultVAE,
        models.MultDAE,
        models.RecVAE,
        models.VAEMultinomial,
        models.VAELogistic,
        models.VAEVamp,
        models.VAEIAF,
        models.VAEReg,
        models.VAENck,
        models.SIVAE,
        models.VAEGANAvb,
        models.VAEGANAvbD,
        models.VAEGANAvbDC,
        models.AWAE,
        models.HyVAE,
        models.DeepAE,
        models.RatingVAE,
        models.VAEBMF,
        baselines.Means,
        baselines.BiasedMF,
        baselines.AutoRecI,
        baselines.AutoRecU,
        baselines.NCF,
        baselines.CNNCF,
        baselines.DAECF,
        baselines.VAECF,
        baselines.CDAE,
        baselines.MacridVAE,
        baselines.Popularity,
        baselines.Random,
        baselines.PlantedOracle,
    )
}


def options_of(cls: type[Model]) -> dict[str, Option]:
    """Return the options of a system's constructor, ``n_items`` left out."""
    return {name: option for name, option in declared(cls.__init__, cls.slug).items() if name != "n_items"}


def build(slug: str, n_items: int, **options) -> Model:
    """Return an untrained system.

    Raises:
        ConfigError: the slug or an option is unknown (the message lists the known ones), or an option is out of range.
    """
    if slug not in SYSTEMS:
        raise ConfigError(f"unknown model {slug!r}. Known: {', '.join(SYSTEMS)}")
    known = options_of(SYSTEMS[slug])
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"{slug} has no option {', '.join(unknown)}. Known: {', '.join(known) or 'none'}")
    return SYSTEMS[slug](n_items=n_items, **options)
