"""Options by chance: what a system says of an option is what it takes, in Python and on the command line alike.

The oracle is the line that ``vaecf models SLUG`` prints: its words say which values are sound.
"""

import json
import math
import re
import shlex
import sys

import numpy as np
import pandas as pd
import pytest
from cases import Refused, answer, cases, vaecf
from hypothesis import given
from hypothesis import strategies as st

import vaecf_lib as vc
from vaecf_lib.experiment import PROTOCOLS, assign_settings
from vaecf_lib.systems import SYSTEMS, build

NUMBER = re.compile(
    r"a (?P<list>list of )?(?P<whole>whole )?numbers?"
    r"( from (?P<from>\S+) to (?P<to>\S+)| of at least (?P<least>\S+)| above (?P<above>\S+)"
    r"| in (?P<left>[(\[])(?P<low>\S+), (?P<high>\S+)(?P<right>[)\]]))?"
)
ODD = [
    None, True, False, "", "word", "None", "[1,2]", "1", "multinomial", "gaussian", "\n", "é\u2028", b"1", 1j, object(),
    math.nan, math.inf, -math.inf, 1e308, 1e-320, 10**400, 2**63, -(2**63), -1, 0, 0.5, 1.0, 1, 3,
    np.int64(3), np.float32(2), np.array([1, 2]),
    [], [1], [0], [2, 3], [1.5], [True], [None], [[1]], (4, 5), range(3), {}, {"a": 1},
]  # fmt: skip
TEXTS = [
    "", "x", "nan", "-1", "1e400", "[", "[1,", '"a"', "None", "NULL", "{}", "0x1", "1_0", "9" * 5000, "=", "\n", "-",
    "1", "0.5", "[8]", "true", "multinomial", "null",
]  # fmt: skip
# A network of a hundred thousand units is sound, and none to build in a test.
LARGEST = 40


class Promise:
    """What the text of an option says of its values."""

    def __init__(self, text):
        self.optional = text.endswith(", or None")
        text = text.removesuffix(", or None")
        words = {"true or false": [True, False], "a word": ["word"]}
        self.choices = text.removeprefix("one of ").split(", ") if text.startswith("one of ") else words.get(text)
        self.word = text == "a word"
        if self.choices is None:
            said = NUMBER.fullmatch(text).groupdict()
            self.list, self.whole = said["list"], said["whole"]
            low = said["from"] or said["least"] or said["above"] or said["low"] or "-inf"
            self.low = float(low.replace(",", ""))
            self.high = float((said["to"] or said["high"] or "inf").replace(",", ""))
            self.open_low, self.open_high = bool(said["above"]) or said["left"] == "(", said["right"] == ")"

    def keeps(self, value):
        """Tell whether ``value`` is sound."""
        if value is None:
            return self.optional
        if self.word:
            return isinstance(value, str)
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if self.list:
            return isinstance(value, list | tuple) and all(map(self._keeps_number, value))
        return self._keeps_number(value)

    def _keeps_number(self, value):
        kinds = (int, np.integer) if self.whole else (int, float, np.integer, np.floating)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return bool(above and below) and abs(value if isinstance(value, int) else float(value)) <= sys.float_info.max

    def values(self, largest):
        """Return a strategy of sound values, numbers up to ``largest`` or a little above the lowest."""
        if self.choices:
            return st.sampled_from(self.choices)
        low = max(self.low, -largest)
        high = min(self.high, low + largest)
        if self.whole:
            number = st.integers(int(low), int(high))
        else:
            number = st.floats(low, high, exclude_min=self.open_low, exclude_max=self.open_high and high == self.high)
        return st.lists(number, min_size=1, max_size=3) if self.list else number


OPTIONS = [(slug, name) for slug, cls in SYSTEMS.items() for name in cls.options]


@given(option=st.sampled_from(OPTIONS), data=st.data())
@cases(100)
def test_an_option_takes_what_it_says(option, data):
    """A call, a setting and its text agree; what is taken is kept as given; what is refused is named."""
    slug, name = option
    promise = Promise(str(SYSTEMS[slug].options[name]))
    value = data.draw(st.sampled_from(ODD) | promise.values(LARGEST) | st.floats() | st.integers())
    sound = promise.keeps(value)
    taken = {}
    if not (isinstance(value, int | float) and value > LARGEST):
        taken["call"] = answer(build, slug, 6, **{name: value})
    if name != "n_users":  # the data's
        taken["setting"] = answer(assign_settings, {name: value}, slug, "ratings")
    for how, result in taken.items():
        if sound and how == "setting":
            assert not isinstance(result, Refused), result
        elif not isinstance(result, Refused):
            assert sound, f"{how}: {slug} takes {name}={value!r}, but says {SYSTEMS[slug].options[name]}"
            kept = result.config[name]
            assert value is None or kept == (list(value) if isinstance(value, tuple) else value)
            json.dumps(result.config, default=float)
        else:
            assert f"{name}=" in result or sound, result  # two sound options may not fit each other


@given(slug=st.sampled_from([*SYSTEMS]), data=st.data())
@cases(20)
def test_a_setting_on_the_command_line_is_what_it_is_in_python(slug, data):
    """--set KEY=TEXT with any text is taken as assign_settings takes the value, or refused in one line."""
    protocol = data.draw(st.sampled_from([*PROTOCOLS]))
    declared = {name: option for name, option in SYSTEMS[slug].options.items() if name != "n_users"}
    key = data.draw(
        st.sampled_from([*declared, "threshold", "split_seed", "schedule", "nonsense", "", "n_users", "seed"])
    )
    texts = st.sampled_from(TEXTS) | st.text(max_size=4)
    if key in declared:
        texts |= Promise(str(declared[key])).values(LARGEST).map(json.dumps)
    value = data.draw(texts)
    if "\0" in value:
        return
    done = vaecf(
        "fit", slug, "--dataset", "planted", "--protocol", protocol, "--set", f"{key}={value}", "--epochs", "-1"
    )
    assert done.refused is not None, "-1 epochs are refused at the latest"
    parsed = {"None": None, "True": True, "False": False}.get(value, value)
    if parsed is value:
        try:
            parsed = json.loads(value)
        except ValueError:
            pass
    in_python = answer(assign_settings, {key: parsed}, slug, protocol)
    if isinstance(in_python, Refused):
        assert done.refused == in_python
    else:
        assert re.search(r"epochs=-1|metric|rates|clicks|planted|ratings", done.refused), done.refused


VARIED = [None, "beta", "lr=1e-3:1e-1", "dropout", "beta=0.1:0.5,lr", "hidden=2:5", "likelihood"]
VARIED_BADLY = ["", "nonsense", "beta=1:0", "beta=x", "hidden", "lr=0:1", "latent_dim=2:4", "beta=1:2:3"]


@given(data=st.data())
@cases(8)
def test_any_tuning_finds_what_its_line_gives_or_is_refused(toy_file, data):
    """The `vaecf fit` line that it prints has the best trial's value, to the last bit."""
    draw = data.draw
    wrong = draw(st.sampled_from([None, None, None, "system", "vary", "trials", "epochs", "budget", "setting"]))
    vary = draw(st.sampled_from(VARIED if wrong != "vary" else VARIED_BADLY))
    trials = draw(st.integers(2, 3)) if wrong != "trials" else draw(st.integers(-1, 0))
    slug = "mult-vae" if wrong != "system" else draw(st.sampled_from(["popularity", "nonsense", ""]))
    budget = draw(st.sampled_from(["1h", "60m", "3600"] if wrong != "budget" else ["", "0s", "1d", "-1"]))
    settings = ["latent_dim=3", "n_heldout=8", "threshold=1"] + ["hidden=4"] * (vary != "hidden=2:5")
    settings += ["latent_dim=0"] * (wrong == "setting")
    arguments = ["--interactions", toy_file, "--trials", trials, "--epochs", -1 if wrong == "epochs" else 2]
    arguments += ["--vary", vary] * (vary is not None) + ["--budget", budget, "--device", "cpu"]
    done = vaecf("tune", slug, *arguments, *(f for setting in settings for f in ("--set", setting)), "--json")
    if wrong is not None:
        assert done.refused is not None
        return
    assert done.refused is None, done.refused
    tuned = json.loads(done.out)
    values = [trial["value"] for trial in tuned["trials"] if trial["state"] == "complete"]
    assert len(tuned["trials"]) == trials and tuned["best"]["value"] == max(values)
    fitted = vaecf(*shlex.split(tuned["command"])[1:], "--json")
    assert json.loads(fitted.out)["validation"] == {tuned["metric"]: tuned["best"]["value"]}


@pytest.fixture(scope="module")
def toy_file(tmp_path_factory):
    """The ratings of 60 people on 12 films, as a user has them."""
    path, rng = tmp_path_factory.mktemp("tuning") / "toy.csv", np.random.default_rng(0)
    rows = [(u, i, rng.integers(1, 6)) for u in range(60) for i in rng.choice(12, size=7, replace=False)]
    pd.DataFrame(rows, columns=["user", "item", "rating"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def toy():
    """60 people, 12 films, ratings 1 to 5; split as a system's form asks."""
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(60) for i in rng.choice(12, size=7, replace=False)]
    frame = pd.DataFrame(pairs, columns=["user", "item"]).assign(rating=rng.integers(1, 6, size=len(pairs)))
    log = vc.RatingLog.from_frame(frame)
    strong, weak = vc.split_strong(log, n_heldout=8, threshold=None), vc.split_weak(log, valid=0.3)
    return {True: vc.split_ratings(log), False: strong, "users": weak}


@pytest.mark.parametrize("slug", SYSTEMS)
@given(data=st.data())
@cases(2)
def test_any_sound_options_train_and_score_or_say_why_not(tmp_path_factory, toy, slug, data):
    """An epoch ends with finite scores, also after a file; or in one line: options that do not fit, a loss that runs off."""
    sound = {name: Promise(str(option)).values(12) for name, option in SYSTEMS[slug].options.items()}
    sound.pop("n_users", None)
    options = data.draw(st.fixed_dictionaries({}, optional=sound))
    rates = answer(lambda: build(slug, 12, **options).rates)
    if isinstance(rates, Refused):
        return
    split = toy["users"] if build(slug, 12, **options).needs == "user" and not rates else toy[rates]
    model = build(slug, split.n_items, **options)
    keywords = {"epochs": 1, "device": "cpu", "progress": False, "batch_size": data.draw(st.sampled_from([1, 7, 500]))}
    if isinstance(answer(vc.fit, model, split, **keywords), Refused):
        return
    estimates = vc.evaluate(model, split.test)
    assert all(math.isfinite(estimate.mean) for estimate in estimates.values())
    path = tmp_path_factory.getbasetemp() / "model"
    vc.save_model(model, path)
    loaded = vc.load_model(path)
    assert loaded.config == model.config
    assert vc.evaluate(loaded, split.test) == estimates
