"""Systems by their slugs."""

import pytest

import vaecf_lib as vc
from vaecf_lib.systems import SYSTEMS, build


def test_every_system_builds_from_its_slug():
    for slug, system in SYSTEMS.items():
        model = build(slug, 500)
        assert type(model) is system.model and model.slug == slug and system.about
    with pytest.raises(vc.ConfigError, match=r"mult-vae has no option gamma\. Known: latent_dim"):
        build("mult-vae", 10, gamma=1)


def test_every_descent_ends_at_a_system_that_descends_from_none():
    """A parent that is no system, or a circle, would drop systems from the lineage map."""
    for system in SYSTEMS.values():
        generations = 0
        while parent := system.descent[0]:
            assert system.descent[1], f"{system.slug} does not say what it changes in {parent}"
            system, generations = SYSTEMS[parent], generations + 1
            assert generations < len(SYSTEMS)


def test_a_name_for_other_settings_descends_from_the_class():
    assert SYSTEMS["vaegan-avb-d"].descent == ("vaegan-avb-d-c", "gamma=0.0")
    assert SYSTEMS["recvae"].descent == ("mult-vae", SYSTEMS["recvae"].model.changes)
    assert SYSTEMS["mult-vae"].descent == ("", "")
