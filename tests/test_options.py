"""Options: every one has a type and a range or choices, and whatever does not fit ends in one line that names it."""

import copy
import inspect
import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.experiment import PROTOCOLS, assign_settings
from vaecf_lib.maths import LIKELIHOODS
from vaecf_lib.options import RANGES, Range, checked, declared
from vaecf_lib.systems import SYSTEMS, build

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [(slug, name) for slug, system in SYSTEMS.items() for name in system.options]
MODELS = {system.model.slug: system.model for system in SYSTEMS.values()}
NAN, HUGE = math.nan, 10**400


def bad_values(option):
    """Values of a wrong type, not finite, true or false where that is no answer, and on the wrong side of the range."""
    if option.choices:
        return ["no such", "", 0, True, NAN, ["a"]]
    if option.kind is bool:
        return [0, 1, "true", NAN]
    outside = [value for value in (option.range.low - 1, option.range.high + 1) if math.isfinite(value)]
    outside += [option.range.low] if option.range.brackets[0] == "(" else []
    outside += [option.range.high] if option.range.brackets[1] == ")" and option.range.high < math.inf else []
    wrong = ["1", True, False, NAN, math.inf, -math.inf, HUGE, torch.ones(2, 2), {}, *outside]
    if option.kind is float:
        return [*wrong, [0.1]]
    return [*wrong, 1.5, 1.0, [1]] if option.kind is int else [5, *wrong, *([8, value] for value in wrong), [8.5]]


@pytest.mark.parametrize("slug", MODELS)
def test_every_constructor_argument_is_an_option(slug):
    """A new argument without a type or a meaning, or a number without a range, fails here."""
    options = declared(MODELS[slug].__init__, slug, MODELS[slug].__doc__)
    assert [*options] == [name for name in inspect.signature(MODELS[slug]).parameters]
    for name, option in options.items():
        assert option.meaning, f"{slug}: the docstring's Args do not say what {name} means"
        limited = option.choices or option.kind is bool or f"{slug}.{name}" in RANGES or name in RANGES
        assert limited, f"{slug}: {name} has neither a range in vaecf_lib/options.py nor choices (Literal)"
        assert option.kind is not str or option.choices


@pytest.mark.parametrize("function", [*PROTOCOLS.values(), vc.fit, vc.evaluate, vc.tune])
def test_every_number_of_splits_fit_and_evaluate_has_a_range(function):
    for name, option in declared(function, function.__name__).items():
        assert option.kind in (bool, str) or f"{function.__name__}.{name}" in RANGES or name in RANGES, name


def test_ranges_belong_to_options():
    functions = [(f.__name__, f) for f in (*PROTOCOLS.values(), vc.fit, vc.evaluate, vc.tune)]
    known = {
        (subject, name)
        for subject, f in [*functions, *((slug, cls.__init__) for slug, cls in MODELS.items())]
        for name in declared(f, subject)
    }
    for key in RANGES:
        subject, _, name = key.rpartition(".")
        assert any(name == n and subject in ("", s) for s, n in known), f"nothing has the option {key}"


@pytest.mark.parametrize(("slug", "name"), OPTIONS)
def test_what_does_not_fit_is_refused_in_one_line(slug, name):
    option = SYSTEMS[slug].options[name]
    for value in bad_values(option) + ([] if option.optional else [None]):
        with pytest.raises(vc.ConfigError) as caught:
            build(slug, 30, **{name: value})
        message = str(caught.value)
        assert message.startswith(f"{slug}: {name}=") and "\n" not in message and len(message) < 200
        assert message.endswith(f": {'choose' if option.choices else 'must be'} {option}")


@pytest.mark.parametrize("slug", SYSTEMS)
def test_what_fits_is_accepted(slug):
    defaults = build(slug, 30).config
    for name, option in SYSTEMS[slug].options.items():
        assert option.accepts(defaults[name]) and option.accepts(None) == option.optional
        assert defaults[name] == (list(option.default) if isinstance(option.default, tuple) else option.default)
        if option.choices:
            assert all(build(slug, 30, **{name: choice}).config[name] == choice for choice in option.choices)
        elif option.kind is float:
            assert option.accepts(1) == option.range.holds(1), "a whole number is a number"


def test_messages_are_in_one_form():
    for slug, options, message in (
        ("recvae", {"lr": -1.0}, "recvae: lr=-1.0: must be a number above 0"),
        ("recvae", {"mixture": "x"}, "recvae: mixture='x': choose one of per_dimension, joint"),
        ("recvae", {"gamma": NAN}, "recvae: gamma=nan: must be a number of at least 0, or None"),
        ("recvae", {"alpha": 2}, "recvae: alpha=2: must be a number from 0 to 1"),
        ("cdae", {"dropout": 1.5}, "cdae: dropout=1.5: must be a number in [0, 1)"),
        ("vaegan-avb-d-c", {"gamma": NAN}, "vaegan-avb-d-c: gamma=nan: must be a number of at least 0"),
        ("hyvae", {"penalty": NAN}, "hyvae: penalty=nan: must be a number of at least 0"),
        ("vae-bmf", {"beta_u": -5}, "vae-bmf: beta_u=-5: must be a number of at least 0"),
        ("vae-bmf", {"attention": "hard"}, "vae-bmf: attention='hard': choose one of paper, softmax, or None"),
        ("autorec-i", {"items_per_batch": -1},
         "autorec-i: items_per_batch=-1: must be a whole number from 1 to 1,000,000,000"),
        ("mult-vae", {"hidden": True}, "mult-vae: hidden=True: must be a whole number from 1 to 100,000"),
        ("ncf", {"widths": [8.5]}, "ncf: widths=[8.5]: must be a list of whole numbers from 1 to 100,000"),
        ("recvae", {"alternating": 1}, "recvae: alternating=1: must be true or false"),
        ("sivae", {"layers": 0}, "sivae: layers=0: must be a whole number from 1 to 100"),
        ("hyvae", {"depth": 4}, "hyvae: depth=4: must be odd, as many layers before the code as after it"),
    ):  # fmt: skip
        with pytest.raises(vc.ConfigError) as caught:
            build(slug, 30, **options)
        assert str(caught.value) == message


def test_presets_are_settings_of_a_model_that_may_be_changed():
    """vae-iaf is StudyVAE(posterior="iaf"): same options, its own defaults, its own name in every message and file."""
    made, by_hand = build("vae-iaf", 30, beta=0.5), vc.models.StudyVAE(30, posterior="iaf", beta=0.5)
    assert (made.slug, by_hand.slug) == ("vae-iaf", "study-vae") and made.config == by_hand.config
    assert [*SYSTEMS["vae-iaf"].options] == [*SYSTEMS["study-vae"].options]
    assert SYSTEMS["vae-iaf"].options["posterior"].default == "iaf"
    assert SYSTEMS["study-vae"].options["posterior"].default == "gaussian"
    for system in SYSTEMS.values():
        assert system.settings.keys() <= system.options.keys() and system.slug == SYSTEMS[system.slug].slug
    with pytest.raises(vc.ConfigError, match=r"^vae-iaf: posterior='flow': choose one of gaussian, iaf$"):
        build("vae-iaf", 30, posterior="flow")
    with pytest.raises(vc.ConfigError, match=r"^vae-iaf has no option width\. Known: latent_dim, "):
        build("vae-iaf", 30, width=3)


def test_meanings_are_read_from_the_docstring():
    def f(a: int, b: int = 1, lr: float = 0.1):
        """Do it.

        Args:
            a, b: of the two
                sides: both.
            lr: step size.

        Raises:
            ValueError: never.
        """

    options = declared(f, "f")
    assert {n: o.meaning for n, o in options.items()} == {
        "a": "of the two sides: both.", "b": "of the two sides: both.", "lr": "step size."
    }  # fmt: skip
    assert (options["a"].default, options["b"].default) == (None, 1)


def test_arrays_are_refused_in_one_line():
    """Their text has several lines, and their comparison with a word no truth value."""
    for option in ({"hidden": np.ones((2, 1))}, {"likelihood": np.array(["multinomial", "bernoulli"])}):
        with pytest.raises(vc.ConfigError, match=r"^mult-vae: \w+=array.*: (must be|choose) ") as caught:
            build("mult-vae", 30, **option)
        assert "\n" not in str(caught.value)


def test_positional_arguments_and_subclasses_are_checked_alike():
    class Mine(vc.models.MultVAE):
        def __init__(self, n_items: int, kind: Literal["a", "b"] = "a", **options):
            super().__init__(n_items, **options)

    with pytest.raises(vc.ConfigError, match=r"^mult-vae: latent_dim=0: "):
        vc.models.MultVAE(30, 0)
    with pytest.raises(vc.ConfigError, match=r"^mult-vae: kind='c': choose one of a, b$"):
        Mine(30, kind="c")
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        vc.models.MultVAE(30, width=3)
    assert build("ncf", 30, widths=(20, 10)).config["widths"] == [20, 10], "a tuple is a list"
    mine = Mine(30, "b", hidden=8)
    assert mine.decoder.hidden.weight.shape == (8, 200)
    assert mine.config == vc.models.MultVAE(30, hidden=8).config | {"kind": "b"}, "what was handed on is kept, too"


def test_signatures_and_copies_are_those_of_plain_python():
    assert [*inspect.signature(vc.models.StudyVAE).parameters][:3] == ["n_items", "latent_dim", "hidden"]
    assert [*inspect.signature(vc.fit).parameters][:3] == ["model", "split", "epochs"]
    assert vc.models.Model.__new__ is object.__new__, "Sphinx would print its signature instead of the constructor's"
    model = vc.models.MultVAE(30, latent_dim=4, hidden=8)
    twin = copy.deepcopy(model)
    assert twin.config == model.config and torch.equal(twin.decoder.output.weight, model.decoder.output.weight)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_options_survive_a_file(slug, tmp_path):
    """config holds what was given, as given; a changed file is refused like a call."""
    given = {"n_users": 7} if "n_users" in SYSTEMS[slug].options else {}
    given |= {"widths": [8, 4], "latent_dim": 6} if slug == "ncf" else {}
    model = build(slug, 30, **given)
    vc.save_model(model, tmp_path / "m")
    loaded = vc.load_model(tmp_path / "m")
    assert loaded.config == model.config == {"n_items": 30} | {n: model.config[n] for n in SYSTEMS[slug].options}
    assert given.items() <= loaded.config.items()
    model.config["n_items"] = -30
    vc.save_model(model, tmp_path / "m")
    with pytest.raises(vc.ConfigError, match=f"^{slug}: n_items=-30: must be"):
        vc.load_model(tmp_path / "m")


def test_the_choice_of_likelihoods_is_that_of_the_maths():
    assert set(SYSTEMS["mult-vae"].options["likelihood"].choices) == {*LIKELIHOODS, "gaussian"}
    assert set(SYSTEMS["sivae"].options["likelihood"].choices) == set(LIKELIHOODS)


def test_settings_of_all_kept_runs_fit():
    kept = [json.loads(path.read_text()) for path in (ROOT / "book" / "results" / "measured").rglob("*.json")]
    assert kept
    for run in (run for file in kept for run in (file if isinstance(file, list) else [file])):
        assign_settings(run["settings"], run["model"], run["protocol"])


def test_settings_reach_options_of_every_kind():
    settings = {"widths": [20, 10], "split_seed": 2**32 - 1, "train": 0.7, "schedule": "cosine", "lr": 1}
    dealt = assign_settings(settings, "ncf", "ratings")
    assert dealt == ({"seed": 2**32 - 1, "train": 0.7}, {"widths": [20, 10], "lr": 1}, {"schedule": "cosine"})
    for key, value, message in (
        ("hidden", True, "mult-vae: hidden=True: must be a whole number from 1 to 100,000"),
        ("split_seed", -1, "split_strong: split_seed=-1: must be a whole number from 0 to 4,294,967,295"),
        ("n_heldout", 0, "split_strong: n_heldout=0: must be a whole number from 1 to 1,000,000,000, or None"),
        ("threshold", NAN, "split_strong: threshold=nan: must be a number, or None"),
        ("validate_every", 0, "fit: validate_every=0: must be a whole number from 1 to 1,000,000,000"),
        ("schedule", "linear", "fit: schedule='linear': choose one of constant, cosine"),
        ("metric", 5, "fit: metric=5: must be a word, or None"),
    ):
        with pytest.raises(vc.ConfigError) as caught:
            assign_settings({key: value}, "mult-vae", "strong")
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": -1}, "epochs=-1: must be a whole number from 0 to"),
        ({"epochs": True}, "epochs=True: must be a whole number"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number from 1 to"),
        ({"batch_size": 10**30}, "must be a whole number from 1 to"),
        ({"seed": 2**64}, "seed=18446744073709551616: must be a whole number from 0 to 9,223,372,036,854,775,807"),
        ({"seed": -1}, "seed=-1: must be"),
        ({"validate_every": NAN}, "validate_every=nan: must be"),
        ({"progress": "no"}, "progress='no': must be true or false"),
    ],
)
def test_options_of_fit(planted_split, option, message):
    model = vc.models.MultVAE(planted_split.n_items, latent_dim=4, hidden=8)
    with pytest.raises(vc.ConfigError, match=f"^fit: .*{message}"):
        vc.fit(model, planted_split, **({"progress": False} | option))


def test_the_largest_seeds_and_batches_work(planted):
    split = vc.split_strong(planted, seed=2**32 - 1, n_heldout=1300)
    model = vc.models.MultVAE(split.n_items, latent_dim=4, hidden=8)
    run = vc.fit(model, split, epochs=1, batch_size=10**9, seed=2**63 - 1, device="cpu", progress=False)
    assert run.best_epoch == 1 and np.isfinite(run.curve("loss")).all()


def test_options_of_splits_and_evaluate(planted, planted_split):
    for split, option in (
        (vc.split_strong, {"seed": -1}),
        (vc.split_weak, {"seed": 2**32}),
        (vc.split_ratings, {"seed": 1.0}),
        (vc.split_strong, {"min_items": -1}),
        (vc.split_strong, {"n_heldout": 2.5}),
        (vc.split_strong, {"threshold": "4"}),
        (vc.split_weak, {"test": NAN}),
        (vc.split_ratings, {"valid": -0.1}),
        (vc.split_ratings, {"published": 1}),
    ):
        ((name, value),) = option.items()
        with pytest.raises(vc.ConfigError, match=f"^{split.__name__}: {name}={value!r}: must be") as caught:
            split(planted, **option)
        assert "\n" not in str(caught.value)
    with pytest.raises(vc.ConfigError, match=r"^evaluate: batch_size=0: must be"):
        vc.evaluate(vc.baselines.Popularity(planted_split.n_items), planted_split.test, batch_size=0)


def test_a_range_says_what_it_holds():
    assert str(Range(0, brackets="(]")) == " above 0" and not Range(0, brackets="(]").holds(0)
    assert str(Range(0, 1, "()")) == " in (0, 1)" and not Range(0, 1, "()").holds(1)
    assert str(Range()) == "" and Range().holds(-1e300) and not any(map(Range().holds, (NAN, math.inf, HUGE)))


def test_what_is_not_annotated_or_of_another_kind_is_left_alone():
    @checked
    def f(a, data: dict, either: int | str = 1, lr: float = 1.0, *rest, **more):
        return a, data, either, lr, rest, more

    assert f(NAN, 5, NAN, 1, NAN, dropout=7) == (NAN, 5, NAN, 1, (NAN,), {"dropout": 7})
    with pytest.raises(vc.ConfigError, match=r"^f: lr=0: must be a number above 0$"):
        f(1, {}, lr=0)
    with pytest.raises(TypeError, match="missing 1 required"):
        f(1)
