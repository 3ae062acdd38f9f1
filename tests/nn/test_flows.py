"""The autoregressive flow against autograd's Jacobian and quadrature."""

import pytest
import torch

from vaecf_lib.maths import gaussian_log_prob
from vaecf_lib.nn import InverseAutoregressiveFlow


def rough_flow(latent_dim, hidden=16, seed=0):
    """A flow far from the identity, in double precision."""
    torch.manual_seed(seed)
    flow = InverseAutoregressiveFlow(latent_dim, hidden).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.8)
    return flow


@pytest.mark.parametrize("latent_dim", [1, 2, 6])
def test_log_determinant_equals_slogdet_of_the_jacobian(latent_dim):
    flow = rough_flow(latent_dim)
    for z in torch.randn(5, latent_dim, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda z: flow(z[None])[0][0], z)
        assert torch.allclose(jacobian, jacobian.tril())
        _, log_det = flow(z[None])
        assert torch.allclose(log_det[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-10)


def test_later_coordinates_do_depend_on_earlier_ones():
    flow, z = rough_flow(4), torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: flow(z[None])[0][0], z)
    assert (jacobian.tril(-1)[torch.tril_indices(4, 4, -1).unbind()] != 0).all()


def test_density_integrates_to_one():
    """log q(z1) = log q(z0) - log det, with z0 found by undoing the flow coordinate by coordinate."""
    flow = rough_flow(2)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    z1 = torch.cartesian_prod(axis, axis)
    z0 = torch.zeros_like(z1)
    with torch.no_grad():
        for _ in range(2):  # coordinate j is right once those before it are
            hidden = torch.tanh(z0 @ (flow.in_mask * flow.inner.weight).T + flow.inner.bias)
            gate, m = (hidden @ (flow.out_mask * flow.outer.weight).T + flow.outer.bias).chunk(2, dim=-1)
            s = torch.sigmoid(gate)
            z0 = (z1 - (1 - s) * m) / s
        again, log_det = flow(z0)
        assert torch.allclose(again, z1, atol=1e-6)
        log_q = gaussian_log_prob(z0, torch.zeros_like(z0), torch.zeros_like(z0)) - log_det
    assert abs(log_q.exp().sum() * (axis[1] - axis[0]) ** 2 - 1) < 1e-3


def test_starts_near_the_identity():
    flow = InverseAutoregressiveFlow(8, 32)
    z = torch.randn(100, 8)
    assert (flow(z)[0] - z).abs().mean() < 0.15


def test_only_weights_are_kept():
    """The masks follow from the sizes: kept runs hold none, and a run that missed one would not load."""
    assert set(InverseAutoregressiveFlow(3, 5).state_dict()) == {
        f"{layer}.{kind}" for layer in ("inner", "outer") for kind in ("weight", "bias")
    }
