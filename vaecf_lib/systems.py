"""Every system by its slug (the names in ``book/results/reported.json``): a model, or one with settings of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from . import baselines, models
from .errors import ConfigError
from .models.base import Model
from .options import Option, declared


@dataclass(frozen=True)
class System:
    """A model under a name. ``settings``: what this system has instead of the model's defaults, all still options."""

    slug: str
    about: str
    model: type[Model]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Option]:
        """The options by name, ``n_items`` left out, with the system's own defaults."""
        options = self._declared()
        del options["n_items"]
        return {name: replace(o, default=self.settings.get(name, o.default)) for name, o in options.items()}

    def _declared(self) -> dict[str, Option]:
        return declared(self.model.__init__, self.model.slug, self.model.__doc__)

    def build(self, n_items: int, **options: Any) -> Model:
        """Return the untrained model.

        Raises:
            ConfigError: an option is unknown (the message lists the known ones), or is not what it may be.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            names = ", ".join(self.options) or "none"
            raise ConfigError(f"{self.slug} has no option {', '.join(unknown)}. Known: {names}")
        known = self._declared()
        for name, value in {"n_items": n_items, **options}.items():
            known[name].check(self.slug, name, value)
        model = self.model(n_items=n_items, **(self.settings | options))
        model.slug = self.slug
        return model


_MODELS = (
    models.MultVAE,
    models.MultDAE,
    models.RecVAE,
    models.StudyVAE,
    models.SIVAE,
    models.VAEGAN,
    models.AWAE,
    models.HyVAE,
    models.VAEBMF,
    baselines.Means,
    baselines.BiasedMF,
    baselines.AutoRecI,
    baselines.AutoRecU,
    baselines.NCF,
    baselines.CNNCF,
    baselines.CDAE,
    baselines.MacridVAE,
    baselines.Popularity,
    baselines.Random,
    baselines.PlantedOracle,
)

_STUDY, _VAEGAN, _HYVAE = models.StudyVAE, models.VAEGAN, models.HyVAE
_PRESETS = (
    System("vae-multinomial", "Mult-VAE without the KL term (Zamani et al. 2022)", _STUDY, {"beta": 0.0}),
    System("vae-logistic", "logistic likelihood, no KL term (Zamani et al. 2022)", _STUDY,
           {"beta": 0.0, "likelihood": "bernoulli"}),
    System("vae-vamp", "Mult-VAE with a VampPrior of 5 pseudo-inputs (Zamani et al. 2022)", _STUDY, {"prior": "vamp"}),
    System("vae-iaf", "Mult-VAE with one step of inverse autoregressive flow (Zamani et al. 2022)", _STUDY,
           {"posterior": "iaf"}),
    System("vae-reg", "Mult-VAE with weight penalty 0.01 (Zamani et al. 2022)", _STUDY, {"penalty": 0.01}),
    System("vae-nck", "Mult-VAE with the exact n-Choose-k likelihood (Eq. 9 of Zamani et al. 2022)", _STUDY,
           {"likelihood": "n_choose_k"}),
    System("vaegan-avb", "adversarial variational Bayes (Yu et al. 2019)", _VAEGAN, {"beta": 0.0, "gamma": 0.0}),
    System("vaegan-avb-d", "adversarial variational Bayes with a click discriminator (Yu et al. 2019)", _VAEGAN,
           {"gamma": 0.0}),
    System("deepae", "the deep autoencoder of Hy-VAE alone", _HYVAE, {"branches": "deep"}),
    System("vae", "the variational branch of Hy-VAE alone", _HYVAE, {"branches": "vae"}),
    System("dae-cf", "denoising autoencoder with squared error, as VAE-BMF's paper has it", models.MultDAE,
           {"likelihood": "gaussian", "penalty": 1e-4}),
    System("vae-cf", "variational autoencoder with squared error, as VAE-BMF's paper has it", models.MultVAE,
           {"likelihood": "gaussian", "latent_dim": 100, "hidden": 400}),
)  # fmt: skip

SYSTEMS: dict[str, System] = {
    system.slug: system for system in (*(System(cls.slug, cls.about, cls) for cls in _MODELS), *_PRESETS)
}


def build(slug: str, n_items: int, **options: Any) -> Model:
    """Return an untrained system.

    Args:
        slug: the system's name, see ``SYSTEMS`` or ``vaecf models``.
        n_items: number of items.
        options: the system's own, see ``vaecf models SLUG``.

    Raises:
        ConfigError: the slug or an option is unknown (the message lists the known ones), or an option is out of range.
    """
    if slug not in SYSTEMS:
        raise ConfigError(f"unknown model {slug!r}. Known: {', '.join(SYSTEMS)}")
    return SYSTEMS[slug].build(n_items, **options)
