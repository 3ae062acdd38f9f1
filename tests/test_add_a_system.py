"""The page "Add a system" works as printed."""

import re
from pathlib import Path

import pytest

import vaecf_lib as vc

PAGE = Path(__file__).resolve().parents[1] / "book" / "add_a_system.md"


@pytest.fixture
def systems(monkeypatch):
    monkeypatch.setattr("vaecf_lib.systems.SYSTEMS", before := dict(vc.SYSTEMS))
    return before


def test_the_pages_system_trains_is_saved_and_loaded(systems, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2 and sum(1 for line in blocks[0].splitlines() if line.strip()) < 45
    names = {"__name__": "page"}
    for block in blocks:
        exec(block, names)
    assert float(capsys.readouterr().out.split()[0]) > 0.35, "the popular list has 0.267"
    assert systems["linear-ae"].options["latent_dim"].meaning == "width of the code."
    with pytest.raises(vc.ConfigError, match=r"^linear-ae: dropout=1: must be a number in \[0, 1\)$"):
        names["LinearAE"](30, dropout=1)


def test_names_are_given_once_and_settings_are_options(systems):
    class Other(vc.models.MultVAE):
        slug = "recvae"

    with pytest.raises(vc.ConfigError, match=r"^recvae is the name of another system: choose another slug$"):
        vc.register(Other)
    with pytest.raises(vc.ConfigError, match=r"^wide: MultVAE has no option width$"):
        vc.register(vc.models.MultVAE, "wide", width=900)
    for wrong in (int, 5, "mult-vae", vc.models.MultVAE(30)):
        with pytest.raises(vc.ConfigError, match=r"^register: model=.*: must be a class that inherits from Model$"):
            vc.register(wrong, "wide", "a wide one")
    with pytest.raises(vc.ConfigError, match=r"^register: Nameless has no slug: give one$"):
        vc.register(type("Nameless", (vc.models.Model,), {}))
    vc.register(vc.models.MultVAE, "wide", "a wide one", hidden=900)
    assert vc.build("wide", 30).config["hidden"] == 900 and systems["wide"].about == "a wide one"
