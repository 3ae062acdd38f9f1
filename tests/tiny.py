"""Every system small, and data for it: what tests of the training loop share."""

import vaecf_lib as vc
from vaecf_lib.systems import build

TINY = {"latent_dim": 4, "hidden": 8, "critic_hidden": 8, "noise_dim": 4, "code": 8, "concepts": 2, "pseudo_inputs": 3}
TINY |= {"points": 3, "channels": 2}


def splits_of_some(n_users):
    """Return splits of some users of the embedded world: clicks, with strangers or known users held out, and ratings."""
    log = vc.load_dataset("planted")
    log = log.select((log.user < n_users) & (log.item < 100))
    clicks = {"clicks": vc.split_strong(log, n_heldout=20), "known users": vc.split_weak(log, valid=0.1)}
    return clicks | {"ratings": vc.split_ratings(log)}


def tiny(slug, splits, **options):
    """Return a small system and the split that it can be trained on."""
    known = build(slug, 1).config
    options = {n: v for n, v in (TINY | options).items() if n in known and (n not in TINY or isinstance(known[n], int))}
    clicks = "known users" if slug in {"irgan", "cfgan"} else "clicks"
    split = splits["ratings" if build(slug, 1).rates else clicks]
    return build(slug, split.n_items, **options), split
