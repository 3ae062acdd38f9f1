"""CSR interactions and batches."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch, Interactions


@pytest.fixture
def dense():
    x = np.random.default_rng(0).random((9, 13)) < 0.3
    x[4] = False
    return x


def test_rows_gather_any_users_in_any_order(dense):
    matrix = Interactions.from_pairs(*np.nonzero(dense), shape=dense.shape)
    users = torch.tensor([7, 4, 0, 7])
    batch = matrix.rows(users)
    assert (batch.dense().numpy() == dense[users]).all()
    assert batch.counts.tolist() == dense[users].sum(1).tolist()
    assert batch.offsets.tolist() == [0, *np.cumsum(dense[users].sum(1))[:-1].tolist()]


def test_from_pairs_sorts_and_keeps_values():
    matrix = Interactions.from_pairs([2, 0, 2], [3, 1, 0], [5.0, 1.0, 4.0], shape=(3, 4))
    assert matrix.indptr.tolist() == [0, 1, 1, 3]
    assert matrix.indices.tolist() == [1, 0, 3]
    assert matrix.values.tolist() == [1.0, 4.0, 5.0]
    assert matrix.rows(torch.tensor([2])).dense().tolist() == [[4.0, 0.0, 0.0, 5.0]]


def test_pairs_of_any_whole_numbers_or_none_at_all():
    """Unsigned ones, as other libraries give them, and empty lists, which NumPy takes for floats."""
    matrix = Interactions.from_pairs(np.array([1, 0], dtype=np.uint64), np.array([2, 0], dtype=np.uint8), shape=(2, 3))
    assert [p.tolist() for p in matrix.pairs()] == [[0, 1], [0, 2]]
    empty = Interactions.from_pairs([], [], shape=(2, 3))
    assert empty.nnz == 0 and empty.rows(torch.tensor([1, 0])).dense().tolist() == [[0.0] * 3] * 2


def test_a_batch_by_item(dense):
    """Where the entries of each column are: what the gradient of an input layer gathers by."""
    batch = Interactions.from_pairs(*np.nonzero(dense), shape=dense.shape).rows(torch.arange(9))
    order, begins = batch.by_item
    users = [batch.rows[part].tolist() for part in np.split(order.numpy(), begins.tolist()[1:])]
    assert users == [np.flatnonzero(column).tolist() for column in dense.T]


def test_batches_cover_every_user_once(dense):
    matrix = Interactions.from_pairs(*np.nonzero(dense), shape=dense.shape)
    batches = list(matrix.batches(4))
    assert [len(b) for b in batches] == [4, 4, 1]
    assert torch.cat([b.users for b in batches]).tolist() == list(range(9))
    assert (torch.cat([b.dense() for b in batches]).numpy() == dense).all()


def test_counts_and_pairs(dense):
    matrix = Interactions.from_pairs(*np.nonzero(dense), shape=dense.shape)
    assert matrix.nnz == dense.sum()
    assert (matrix.item_counts.numpy() == dense.sum(0)).all()
    assert [p.tolist() for p in matrix.pairs()] == [i.tolist() for i in np.nonzero(dense)]


def test_batch_from_dense_round_trip():
    x = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    batch = Batch.from_dense(x)
    assert torch.equal(batch.dense(), x) and batch.values is not None
    assert Batch.from_dense((x > 0).float()).values is None


def test_bad_pairs_are_named():
    with pytest.raises(vc.DataError, match=r"item numbers must lie in 0\.\.3"):
        Interactions.from_pairs([0], [4], shape=(2, 4))
    with pytest.raises(vc.DataError, match=r"1 \(user, item\) pairs occur more than once, the first is \(1, 2\)"):
        Interactions.from_pairs([1, 0, 1], [2, 2, 2], shape=(2, 4))


def test_data_stay_sparse():
    """A matrix whose dense form would need 8 TB fits without trouble."""
    matrix = Interactions.from_pairs([0, 1_999_999], [5, 999_999], shape=(2_000_000, 1_000_000))
    assert matrix.rows(torch.tensor([1_999_999])).items.tolist() == [999_999]
