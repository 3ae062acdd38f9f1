"""Weighted matrix factorisation: Hu, Koren and Volinsky (ICDM 2008)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..errors import ConfigError, TrainingError
from ..models.base import Model
from ..models.item_tables import check_threshold, renew
from ..nn import bag_sum

FOLD_IN_BYTES = 2**27  # of the users' matrices that are solved together


def _als():
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ConfigError("wmf needs the library implicit to be trained: pip install implicit") from error
    return AlternatingLeastSquares, csr_matrix, threadpool_limits


class WMF(Model):
    """Factors x_u and y_i whose products are 1 for clicks and 0 elsewhere, by alternating least squares.

    Minimises sum_ui c_ui (p_ui - x_u^T y_i)^2 + lambda (sum_u ||x_u||^2 + sum_i ||y_i||^2) over all pairs (Eq. 3), p 1
    for clicks and 0 else, c_ui = 1 + alpha p_ui. Fitted by the library ``implicit`` on the CPU, which makes three steps
    of conjugate gradients for each vector and sweep (Takács et al. 2011). Whoever is scored, in the training data or
    not, has the x_u that is best for their history given the y_i (Eq. 4): half a sweep, exactly. Ratings are not read.

    Args:
        n_items: number of items.
        latent_dim: length of the factors.
        alpha: how much more a click weighs than none. The paper has 40, for hours watched; that and the penalty were
            chosen on ML-100K's validation users here.
        penalty: lambda, the weight of the squared factors.
        sweeps: of alternating least squares.
        implicit_slim: replace the items' factors by their ImplicitSLIM form before every so-manyth sweep (Shenbin and
            Nikolenko 2024, who draw the factors towards it instead); None: never.
        slim_penalty: lambda of ImplicitSLIM.
        slim_alpha: weight of the present factors in it, against the clicks.
        slim_threshold: users that an item needs to have a part in the others' new factors.
    """

    slug = "wmf"
    about = "weighted matrix factorisation by alternating least squares (Hu et al. 2008)"
    reads_values = False
    factors: Tensor
    inner: Tensor

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        alpha: float = 4.0,
        penalty: float = 30.0,
        sweeps: int = 15,
        implicit_slim: int | None = None,
        slim_penalty: float = 100.0,
        slim_alpha: float = 1.0,
        slim_threshold: int = 30,
    ):
        super().__init__(n_items)
        self.register_buffer("factors", torch.zeros(n_items, latent_dim))
        self.register_buffer("inner", torch.zeros(latent_dim, latent_dim))  # Y^T Y

    def prepare(self, train: Interactions) -> None:
        """Check that some item is popular enough to renew factors by.

        Raises:
            ConfigError: none has ``slim_threshold`` users, and they are to be renewed.
        """
        check_threshold(self.slug, self.config, train)

    def start(self, train: Interactions) -> None:
        """Fit the factors; the first ones come from torch's generator.

        Raises:
            ConfigError: the library ``implicit`` is not installed.
            TrainingError: a system of equations cannot be solved.
        """
        als, csr_matrix, threadpool_limits = _als()
        confidence = csr_matrix((1 + self.config["alpha"]) * replace(train, values=None).to_scipy())
        with threadpool_limits(1, "blas"):  # the library's own threads call BLAS
            solver = als(
                factors=self.config["latent_dim"],
                regularization=self.config["penalty"],
                alpha=1.0,
                iterations=self.config["sweeps"],
                num_threads=torch.get_num_threads(),
                random_state=int(torch.randint(2**31, ())),
            )

            def after(sweep: int, *others) -> None:  # counted from 0
                if sweep + 1 < self.config["sweeps"]:
                    renew([torch.from_numpy(solver.item_factors)], self.config, sweep + 2, train.to("cpu"))

            try:
                solver.fit(confidence, show_progress=False, callback=after)
            except Exception as error:  # its own kinds, which differ from version to version
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise TrainingError(f"wmf: implicit cannot fit it ({reason}). Raise penalty, or lower alpha") from error
        self.factors.copy_(torch.from_numpy(solver.item_factors))
        self.inner.copy_(self.factors.T @ self.factors)

    def fold_in(self, batch: Batch) -> Tensor:
        """Return the users' factors, (B, latent_dim): (Y^T C^u Y + lambda I)^-1 Y^T C^u p(u) (Eq. 4)."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have nothing wider
        alpha, width = self.config["alpha"], self.config["latent_dim"]
        ridge = self.inner.to(wide, copy=True)
        ridge.diagonal().add_(max(self.config["penalty"], 1e-6))
        right = (1 + alpha) * bag_sum(self.factors, batch.items, batch.offsets).to(wide)
        own = self.factors[batch.items].split(batch.counts.tolist())
        at_once = max(1, FOLD_IN_BYTES // (8 * width**2))
        found = []
        for start in range(0, len(batch), at_once):
            some = slice(start, start + at_once)
            left = torch.stack([ridge + alpha * (y.T @ y).to(wide) for y in own[some]])
            found.append(torch.linalg.solve(left, right[some]))
        return torch.cat(found).to(self.factors.dtype)

    def item_vectors(self) -> Tensor:
        """Return the items' factors, (n_items, latent_dim)."""
        return self.factors

    def scores(self, batch: Batch) -> Tensor:
        """Return x_u^T y_i, (B, n_items)."""
        return self.fold_in(batch) @ self.factors.T
