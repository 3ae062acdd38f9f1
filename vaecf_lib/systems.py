"""Every system by its slug (the names in ``book/results/reported.json``): a model, or one with settings of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from . import baselines, models
from .errors import ConfigError, shown
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

    @property
    def descent(self) -> tuple[str, str]:
        """The slug of the system that it descends from, "" if from none of these, and what it changes in that one.

        A model under another name than its own descends from the system of that name; its settings are what it changes.
        """
        if self.slug != self.model.slug:
            return self.model.slug, ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return self.model.descends, self.model.changes

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


SYSTEMS: dict[str, System] = {}


def register(model: type[Model], slug: str | None = None, about: str | None = None, **settings: Any) -> None:
    """Give a model a name, under which it is built, trained from the command line, saved and loaded.

    Args:
        model: the class.
        slug, about: name and description; None: the class's own.
        settings: what this system has instead of the model's defaults.

    Raises:
        ConfigError: ``model`` is none, has no name, or one that is taken, or a setting is no option of it.
    """
    if not isinstance(model, type) or not issubclass(model, Model):
        raise ConfigError(f"register: model={shown(model)}: must be a class that inherits from Model")
    slug, about = slug or getattr(model, "slug", None), about or getattr(model, "about", None)
    if not slug or not about:
        raise ConfigError(f"register: {model.__name__} has no {'about' if slug else 'slug'}: give one")
    system = System(slug, about, model, settings)
    unknown = sorted(set(settings) - set(system.options))
    if unknown:
        raise ConfigError(f"{system.slug}: {model.__name__} has no option {unknown[0]}")
    if system.slug in SYSTEMS and SYSTEMS[system.slug].model.__qualname__ != model.__qualname__:
        raise ConfigError(f"{system.slug} is the name of another system: choose another slug")
    SYSTEMS[system.slug] = system


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


for _model in (
    models.MultVAE,
    models.MultDAE,
    models.RecVAE,
    models.StudyVAE,
    models.SIVAE,
    models.VAEGAN,
    models.AWAE,
    models.HyVAE,
    models.VAEBMF,
    models.HVamp,
    models.VASP,
    baselines.Means,
    baselines.BiasedMF,
    baselines.AutoRecI,
    baselines.AutoRecU,
    baselines.NCF,
    baselines.CNNCF,
    baselines.CDAE,
    baselines.MacridVAE,
    baselines.ItemKNN,
    baselines.EASE,
    baselines.SLIM,
    baselines.WMF,
    baselines.LinearWMF,
    baselines.WARP,
    baselines.LambdaNet,
    baselines.RaCT,
    baselines.IRGAN,
    baselines.CFGAN,
    baselines.Popularity,
    baselines.Random,
    baselines.PlantedOracle,
):
    register(_model)

_ZAMANI, _YU = "(Zamani et al. 2022)", "(Yu et al. 2019)"
for _model, _slug, _about, _settings in (
    (models.StudyVAE, "vae-multinomial", f"Mult-VAE without the KL term {_ZAMANI}", {"beta": 0.0}),
    (models.StudyVAE, "vae-logistic", f"logistic likelihood, no KL term {_ZAMANI}",
     {"beta": 0.0, "likelihood": "bernoulli"}),
    (models.StudyVAE, "vae-vamp", f"Mult-VAE with a VampPrior of 5 pseudo-inputs {_ZAMANI}", {"prior": "vamp"}),
    (models.StudyVAE, "vae-iaf", f"Mult-VAE with one step of inverse autoregressive flow {_ZAMANI}",
     {"posterior": "iaf"}),
    (models.StudyVAE, "vae-reg", f"Mult-VAE with weight penalty 0.01 {_ZAMANI}", {"penalty": 0.01}),
    (models.StudyVAE, "vae-nck", "Mult-VAE with the exact n-Choose-k likelihood (Eq. 9 of Zamani et al. 2022)",
     {"likelihood": "n_choose_k"}),
    (models.VAEGAN, "vaegan-avb", f"adversarial variational Bayes {_YU}", {"beta": 0.0, "gamma": 0.0}),
    (models.VAEGAN, "vaegan-avb-d", f"adversarial variational Bayes with a click discriminator {_YU}", {"gamma": 0.0}),
    (models.HyVAE, "deepae", "the deep autoencoder of Hy-VAE alone", {"branches": "deep"}),
    (models.HyVAE, "vae", "the variational branch of Hy-VAE alone", {"branches": "vae"}),
    (models.MultDAE, "dae-cf", "Mult-DAE with squared error, as VAE-BMF's paper compares with it",
     {"likelihood": "gaussian", "penalty": 1e-4}),
    (models.MultVAE, "vae-cf", "Mult-VAE with squared error, as VAE-BMF's paper compares with it",
     {"likelihood": "gaussian", "latent_dim": 100, "hidden": 400}),
):  # fmt: skip
    register(_model, _slug, _about, **_settings)
