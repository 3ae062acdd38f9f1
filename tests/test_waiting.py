"""Nothing in an epoch waits for a GPU: looked for on the CPU, on which the code takes the GPU's branches here."""

import inspect

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import vaecf_lib as vc
from vaecf_lib import environment
from vaecf_lib.data import Interactions

aten = torch.ops.aten
# Each gives a number, or a size, that only the device knows; bincount looks for the largest number first.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "bincount", "equal"}
# What makes a tensor of numbers of the CPU copies them from unpinned memory, for which a GPU's queue has to be empty.
COPYING = {torch.tensor, torch.as_tensor, Tensor.new_tensor, Tensor.tolist, Tensor.cpu, Tensor.numpy}


def refuse(name):
    raise AssertionError(f"{name} waits for the device")


class NoReading(TorchDispatchMode):
    """Refuse operations, those of the backward pass too, whose result the CPU would have to wait for."""

    def __init__(self, found=refuse):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sizeless = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in READING or by_mask or sizeless:
            self.found(func.name())
        return func(*args, **(kwargs or {}))


class NoCopying(TorchFunctionMode):
    """Refuse copies between CPU and device, but for the order of the users, once a pass."""

    def __init__(self, found=refuse):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPYING and Interactions.batches.__code__ not in [frame.frame.f_code for frame in inspect.stack(0)]:
            self.found(func.__name__)
        return func(*args, **(kwargs or {}))


def needed(slug, n_users):
    """The option of a system that has weights for each user."""
    return {"n_users": n_users} if "n_users" in vc.systems.SYSTEMS[slug].options else {}


def epoch_without_waiting(slug, split, monkeypatch, **options):
    """Make one epoch's updates with every wait forbidden, but the look at losses and weights at its end."""
    monkeypatch.setattr(environment, "waits_for", lambda device: True)
    torch.manual_seed(0)
    known = vc.systems.SYSTEMS[slug].options
    small = {
        name: size for name, size in {"latent_dim": 4, "hidden": 8, "items_per_batch": 250}.items() if name in known
    }
    model = vc.build(slug, split.n_items, **needed(slug, split.train.n_users), **small, **options)
    trainer = vc.Trainer(model, split, epochs=2, device="cpu")
    trainer.run_epoch()  # what is noted once, as the numbers of clicks, may be asked for
    looks = []
    monkeypatch.setattr(trainer, "_check_finite", lambda: looks.append("losses"))
    monkeypatch.setattr(trainer, "_check_weights", lambda: looks.append("weights"))
    with NoReading(), NoCopying():
        for phase, batch in trainer.updates():
            trainer.step(batch, phase)
    assert looks == ["losses", "weights"]


# VAE-BMF deals ratings to blocks, whose sizes the CPU asks for once for each batch of users.
@pytest.mark.parametrize("slug", [slug for slug in vc.systems.SYSTEMS if slug != "vae-bmf"])
def test_an_epoch_never_waits_for_the_device(slug, planted, planted_split, monkeypatch):
    """Forward, backward and optimiser of every system, with reading and copying forbidden."""
    rates = slug == "macridvae" or vc.build(slug, 2, **needed(slug, 2)).rates
    epoch_without_waiting(slug, vc.split_ratings(planted) if rates else planted_split, monkeypatch)


@pytest.mark.parametrize(
    "options",
    [{"likelihood": "n_choose_k"}, {"alternating": False, "clean_decoder": False}, {"mixture": "joint"}],
    ids=lambda options: ", ".join(map(str, options.values())),
)
def test_nor_does_it_with_other_options(options, planted_split, monkeypatch):
    epoch_without_waiting("recvae", planted_split, monkeypatch, **options)


@pytest.mark.parametrize(
    "metrics",
    [("recall@20", "ndcg@100", "map@10", "mrr@5"), ("coverage@10", "gini@10", "novelty@10")],
    ids=["of a user's list", "of all lists"],
)
def test_evaluation_waits_once_for_a_batch(metrics, planted_split):
    """For whether scores are nan or tied; everything else stays on the device until the end."""
    torch.manual_seed(0)
    model = vc.build("mult-vae", planted_split.n_items, latent_dim=4, hidden=8)
    model.describe(planted_split)
    waits = {}
    for batch_size in (planted_split.test.history.n_users, 60):
        found = waits[batch_size] = []
        with NoReading(found.append), NoCopying(found.append):
            vc.evaluate(model, planted_split.test, metrics, batch_size)
    whole, batched = waits.values()
    n_batches = -(-planted_split.test.history.n_users // 60)
    assert n_batches > 3 and len(batched) - len(whole) == n_batches - 1


def read_in_backward(x):
    y = x.clone().requires_grad_()
    y.register_hook(lambda gradient: gradient.sum().item())
    y.sum().backward()


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: torch.tensor(1.0),
        lambda x: x.new_tensor(1.0),
        lambda x: torch.ones(3).repeat_interleave(x.long()),
        lambda x: torch.bincount(x.long()),
        read_in_backward,
    ],
)
def test_what_waits_is_found(waiting):
    """The two modes above refuse each way to ask the device."""
    with pytest.raises(AssertionError, match="waits for the device"), NoReading(), NoCopying():
        waiting(torch.ones(3))
