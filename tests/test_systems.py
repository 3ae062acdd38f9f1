"""Systems by their slugs."""

import pytest

import vaecf_lib as vc
from vaecf_lib.systems import SYSTEMS, build, rating_form


def test_every_system_builds_from_its_slug():
    for slug, cls in SYSTEMS.items():
        model = build(slug, 500)
        assert type(model) is cls and model.slug == slug and cls.about
    with pytest.raises(vc.ConfigError, match=r"mult-vae has no option gamma\. Known: latent_dim"):
        build("mult-vae", 10, gamma=1)


def test_rating_forms_follow_from_the_systems_options():
    """Systems that rank and can predict ratings say how by their options; the others have nothing to set."""
    assert {slug for slug in SYSTEMS if rating_form(slug) == {"likelihood": "gaussian"}} >= {
        "mult-vae",
        "mult-dae",
        "recvae",
    }
    assert rating_form("random") == {"ratings": True}
    for slug in ("popularity", "sivae", "vaegan-avb", "hyvae", "means", "vae-cf"):
        assert rating_form(slug) == {}
    for slug in SYSTEMS:
        form = rating_form(slug)
        assert not form or (build(slug, 5, **form).rates and not build(slug, 5).rates)
