"""Sweeps: each epoch everything once, in another order, in batches of the size asked for."""

import math

import pytest
import torch

from vaecf_lib.data import BlockSweep, Interactions, PairSweep, RowSweep

N_USERS, N_ITEMS = 23, 17


@pytest.fixture(scope="module")
def matrix():
    """Ratings whose value names their place: 100 user + item."""
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.rand(N_USERS, N_ITEMS, generator=generator) < 0.3).nonzero(as_tuple=True)
    return Interactions.from_pairs(users, items, 100 * users + items, shape=(N_USERS, N_ITEMS))


def entries(users, items):
    return list(zip(users.tolist(), items.tolist(), strict=True))


SWEEPS = {
    "rows": (lambda m: RowSweep(m), 4, math.ceil(N_USERS / 4)),
    "rows, their own number": (lambda m: RowSweep(m, per_batch=5), 4, math.ceil(N_USERS / 5)),
    "columns": (lambda m: RowSweep(m.transposed(), per_batch=3), 4, math.ceil(N_ITEMS / 3)),
    "pairs": (lambda m: PairSweep(m, 7), 4, None),
    "blocks": (lambda m: BlockSweep(m, m.transposed(), 4, 5), 4, 6 * 4),
}


def visited(batch):
    """What a batch holds: its (user, item) pairs, or its rows."""
    if hasattr(batch, "columns"):
        return entries(batch.users.users[batch.rows], batch.items.users[batch.columns])
    return batch.users.tolist() if hasattr(batch, "counts") else entries(batch.users, batch.items)


@pytest.mark.parametrize("name", SWEEPS)
def test_each_epoch_visits_everything_once_in_another_order(matrix, name):
    """Unshuffled, or shuffled once for all epochs, nothing else fails: the weights are only a little worse."""
    make, batch_size, n_batches = SWEEPS[name]
    sweep = make(matrix)
    rows = range(N_ITEMS if name == "columns" else N_USERS)
    everything = sorted(entries(*matrix.pairs())) if name in ("pairs", "blocks") else list(rows)
    n_batches = math.ceil(matrix.nnz / 7) if n_batches is None else n_batches

    def epochs(seed):
        torch.manual_seed(seed)
        return [[visited(batch) for batch in sweep.shuffled(batch_size)] for _ in range(4)]

    first = epochs(0)
    for epoch in first:
        assert len(epoch) == n_batches == sweep.count(batch_size)
        assert sorted(x for batch in epoch for x in batch) == everything
    together = [everything, *([x for batch in epoch for x in batch] for epoch in first)]
    assert all(a != b for i, a in enumerate(together) for b in together[:i]), "five orders, that of the data included"
    assert {frozenset(batch) for batch in first[0]} != {frozenset(batch) for batch in first[1]}, "not only batches move"
    assert epochs(0) == first != epochs(1)


@pytest.mark.parametrize("name", SWEEPS)
def test_batches_are_of_the_size_asked_for_and_know_their_ratings(matrix, name):
    make, batch_size, _ = SWEEPS[name]
    size = {"rows": 4, "rows, their own number": 5, "columns": 3, "pairs": 7}.get(name)
    batches = list(make(matrix).shuffled(batch_size))
    if size is not None:
        assert all(len(batch) == size for batch in batches[:-1]) and 0 < len(batches[-1]) <= size
    for batch in batches:
        if name == "pairs":
            assert torch.equal(batch.values, (100 * batch.users + batch.items).float())
        elif name == "blocks":
            users, items = batch.users.users[batch.rows], batch.items.users[batch.columns]
            assert torch.equal(batch.values, (100 * users + items).float()) and len(batch) == len(users)
        else:
            users, items = batch.users[batch.rows], batch.items
            users, items = (items, users) if name == "columns" else (users, items)
            assert torch.equal(batch.values, (100 * users + items).float())


def test_blocks_join_every_user_with_every_item_once_in_another_order(matrix):
    """Users outside, items inside; both sides are whole rows, drawn anew each epoch."""
    sweep = BlockSweep(matrix, matrix.transposed(), 4, 5)
    assert sweep.counts() == (6, 4)
    orders = []
    for _ in range(2):
        blocks = list(sweep.shuffled(0))
        met = torch.zeros(N_USERS, N_ITEMS)
        for block in blocks:
            met[block.users.users[:, None], block.items.users] += 1
            assert len(block.users) <= 4 and len(block.items) <= 5
            assert torch.equal(block.users.counts, matrix.counts[block.users.users])
            assert torch.equal(block.items.counts, matrix.item_counts[block.items.users])
        assert torch.equal(met, torch.ones(N_USERS, N_ITEMS))
        users = [block.users.users for block in blocks[::4]]
        items = [block.items.users for block in blocks[:4]]
        for number, block in enumerate(blocks):
            assert torch.equal(block.users.users, users[number // 4])
            assert torch.equal(block.items.users, items[number % 4])
        orders.append((torch.cat(users).tolist(), torch.cat(items).tolist()))
    for first, second, n in zip(*orders, (N_USERS, N_ITEMS), strict=True):
        in_order = list(range(n))
        assert sorted(first) == sorted(second) == in_order
        assert first != second and in_order not in (first, second)
