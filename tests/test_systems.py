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
