"""ImplicitSLIM: item embeddings as an item-item model would rebuild them, which itself is never computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def implicit_slim(
    V: Tensor,
    times_gram: Callable[[Tensor], Tensor],
    counts: Tensor,
    penalty: float,
    alpha: float,
    threshold: float = 0,
) -> Tensor:
    """Return the ImplicitSLIM form of item embeddings (Shenbin and Nikolenko 2024), (n_items, k).

    With A the embeddings of popular items, zero elsewhere, and C^-1 = (G + lambda I) D^2 (G + lambda I), where
    G = X^T X and D = diag(1 / (counts + lambda)), the public code's result is, items in rows,

        alpha (C + alpha A A^T)^-1 A A^T V  =  S (I / alpha + A^T S)^-1 A^T V  with  S = C^-1 A,

    by Woodbury's identity. So it costs two products with G and one k x k system for each table, and no items x items
    matrix. The public code rounds A to half precision; this does not.

    Args:
        V: (n_items, k), one row an item.
        times_gram: returns X^T X M for a matrix M (n_items, k) of the dtype of V.
        counts: (n_items,) users of each item, the diagonal of X^T X for clicks.
        penalty: lambda, above 0.
        alpha: weight of the embeddings against the clicks, above 0.
        threshold: items of fewer users do not count among A; they are rebuilt from the others all the same.
    """
    d = 1 / (counts[:, None] + penalty).to(V.dtype)
    A = torch.where(counts[:, None] >= threshold, V, 0)
    M = d.square() * (penalty * A + times_gram(A))
    S = penalty * M + times_gram(M)
    wide = torch.float32 if V.device.type == "mps" else torch.float64  # Apple's GPUs have nothing wider
    left, right = (A.T @ S).to(wide), (A.T @ V).to(wide)
    left.diagonal().add_(1 / alpha)
    return S @ torch.linalg.solve(left, right).to(V.dtype)
