"""The sparse input layer against the dense product."""

import numpy as np
import torch

from vaecf_lib.data import Batch
from vaecf_lib.nn import DenseEncoder, SparseInput, row_dot, row_sum


def batch_and_dense(values=False):
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(6, 30, generator=generator) < 0.3).float()
    if values:
        x *= torch.randint(1, 6, x.shape, generator=generator)
    x[1] = 0
    return Batch.from_dense(x), x


def test_equals_the_dense_layer_in_value_and_gradient():
    for values in (False, True):
        torch.manual_seed(0)
        layer = SparseInput(30, 4, dropout=0.5).eval()
        batch, x = batch_and_dense(values)
        weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
        expected = torch.nn.functional.normalize(x) @ weight + bias
        got = layer(batch)
        assert torch.allclose(got, expected, atol=1e-6)
        out = torch.randn(6, 4)
        (got * out).sum().backward()
        (expected * out).sum().backward()
        assert torch.allclose(layer.weight.grad, weight.grad, atol=1e-6)
        assert torch.allclose(layer.bias.grad, bias.grad, atol=1e-6)


def test_initialisation_is_that_of_the_public_code():
    torch.manual_seed(0)
    layer = SparseInput(4000, 600)
    limit = np.sqrt(6 / 4600)
    assert layer.weight.abs().max() <= limit
    assert abs(layer.weight.std().item() - limit / np.sqrt(3)) < 0.01 * limit
    assert layer.bias.abs().max() <= 0.002 and 5e-4 < layer.bias.std() < 1.2e-3


def test_rec_vaes_encoder_starts_as_linear_layers_on_all_items_do():
    """torch.nn.Linear(n_items, hidden): uniform within 1 / sqrt(n_items), whatever the hidden size."""
    torch.manual_seed(0)
    encoder = DenseEncoder(400, 100, latent_dim=3)

    def check_and_copy():
        for parameter in (encoder.input.weight, encoder.input.bias):
            assert 0.045 < parameter.abs().max() <= 0.05
            assert abs(parameter.std().item() - 0.05 / np.sqrt(3)) < 0.003 and abs(parameter.mean().item()) < 0.009
        return [p.detach().clone() for name, p in encoder.named_parameters() if "norm" not in name]

    first = check_and_copy()
    encoder.reset_parameters()
    assert not any(torch.equal(a, b) for a, b in zip(first, check_and_copy(), strict=True)), "all drawn anew"


def test_row_sum_and_row_dot_have_the_gradients_of_the_dense_products():
    torch.manual_seed(0)
    dense = (torch.rand(6, 9) < 0.4) * torch.randn(6, 9)
    dense[2] = 0  # a row without entries, and a column without
    dense[:, 4] = 0
    dense = dense.double()
    batch = Batch.from_dense(dense)
    table, queries = torch.randn(9, 5).double().requires_grad_(), torch.randn(6, 5).double().requires_grad_()
    weight, values = torch.randn(6, 5).double(), dense[batch.rows, batch.items]
    for x, total in ((dense, row_sum(table, batch, values)), ((dense != 0).double(), row_sum(table, batch))):
        assert torch.allclose(total, x @ table)
        (ours,) = torch.autograd.grad((total * weight).sum(), table)
        assert torch.allclose(ours, x.T @ weight)
    dots = row_dot(queries, batch, table.detach())
    assert torch.allclose(dots, (queries @ table.T)[batch.rows, batch.items])
    (ours,) = torch.autograd.grad((dots * values).sum(), queries)
    assert torch.allclose(ours, dense @ table)
