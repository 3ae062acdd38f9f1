"""VAE-BMF: Bayesian matrix factorisation with an encoder on either side, Jin et al."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch, Block, BlockSweep, Interactions, RowSweep
from ..errors import ConfigError
from ..maths import gaussian_kl, sample_gaussian
from ..nn import SparseInput, bag_sum, dense_layers, row_dot, row_sum
from .base import Phase
from .ratings import Ratings, TransductiveModel


class Tower(nn.Module):
    """From a row of ratings, and the embeddings of what was rated, to one vector (Eq. 8 and Sec. 3.2).

    The latent input of the paper is the concatenation of all J embeddings, zero where nothing was rated: a vector of
    J K numbers for every row. It is never built. Its first layer is a sum over the rated items of
    P_j = v_j Phi_j, so that P, (J, width), is computed once and summed like any sparse input.
    """

    def __init__(
        self, n_inputs: int, latent_dim: int, data_dim: int, hidden: int, data_layers: int, layers: int,
        data_input: bool, feedback: bool,
    ):  # fmt: skip
        super().__init__()
        widths = [hidden] * data_layers + [data_dim]
        if data_input:
            self.data, self.data_rest = SparseInput(n_inputs, widths[0], dropout=0.0), dense_layers(widths)
        if feedback:
            self.phi = nn.Parameter(torch.empty(n_inputs, latent_dim, widths[0]))
            self.phi_bias = nn.Parameter(torch.empty(widths[0]))
            self.latent_rest = dense_layers(widths)
        joined = [data_dim * (data_input + feedback)] + [hidden] * layers
        self.head, self.output = dense_layers(joined), nn.Linear(joined[-1], latent_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights as torch's linear layers do, by the number of their inputs."""
        for module in (*self.head, self.output, *getattr(self, "data_rest", ()), *getattr(self, "latent_rest", ())):
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if hasattr(self, "data"):
            limit = self.data.weight.shape[0] ** -0.5
            nn.init.uniform_(self.data.weight, -limit, limit)
            nn.init.uniform_(self.data.bias, -limit, limit)
        if hasattr(self, "phi"):
            limit = (self.phi.shape[0] * self.phi.shape[1]) ** -0.5
            nn.init.uniform_(self.phi, -limit, limit)
            nn.init.uniform_(self.phi_bias, -limit, limit)

    def forward(self, batch: Batch, kept: Tensor | None, embeddings: Tensor) -> Tensor:
        """Return (B, latent_dim) from a batch of rows and all ``embeddings`` (n_inputs, K).

        ``kept`` (n,) is 0 for entries that are dropped and 1 / (1 - dropout) for the others; None keeps all. The
        attention that follows a tower does not know it.
        """
        parts = []
        if hasattr(self, "data"):
            values = batch.values if kept is None else batch.values * kept
            parts.append(self.data_rest(torch.relu(row_sum(self.data.weight, batch, values) + self.data.bias)))
        if hasattr(self, "phi"):
            table = torch.einsum("jk,jkm->jm", embeddings, self.phi)
            parts.append(self.latent_rest(torch.relu(row_sum(table, batch, kept) + self.phi_bias)))
        return self.output(self.head(torch.cat(parts, -1)))


def _away_from_zero(total: Tensor) -> Tensor:
    """Return a sum of signed scores, which may come close to zero, as a denominator: at least 0.001 in size."""
    return torch.where(total.abs() < 1e-3, torch.where(total < 0, -1e-3, 1e-3), total)


class Attention(nn.Module):
    """A row looks at the embeddings of what it has rated: c = sum_j a_j v_j (Eq. 9-10), and mixes c in linearly."""

    def __init__(self, latent_dim: int, kind: str, scope: str):
        super().__init__()
        self.kind, self.scope = kind, scope
        self.theta = nn.Parameter(torch.empty(latent_dim, latent_dim))
        self.mix = nn.Linear(2 * latent_dim, latent_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; mixing starts with the row's own vector."""
        nn.init.normal_(self.theta, std=self.theta.shape[0] ** -0.5)
        with torch.no_grad():
            self.mix.reset_parameters()
            self.mix.weight.mul_(0.1)
            self.mix.weight[:, : self.theta.shape[0]] += torch.eye(self.theta.shape[0], device=self.theta.device)

    def weights(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return a_j, (n,), that add up to one within each row of the batch, from ``scores`` (n,)."""

        def per_row(values: Tensor, reduce: str) -> Tensor:
            return torch.segment_reduce(values, reduce, lengths=batch.counts).index_select(0, batch.rows)

        if self.kind == "softmax":
            scores = torch.exp(scores - per_row(scores.detach(), "max"))
            return scores / per_row(scores, "sum")
        return scores / _away_from_zero(per_row(scores, "sum"))

    def forward(self, own: Tensor, batch: Batch, embeddings: Tensor) -> Tensor:
        """Return the row's vectors, (B, K), after a look at what they rated, or at everything."""
        query = own @ self.theta
        if self.scope == "all":
            scores = query @ embeddings.T
            paper = self.kind == "paper"
            share = scores / _away_from_zero(scores.sum(-1, keepdim=True)) if paper else torch.softmax(scores, -1)
            context = share @ embeddings
        else:
            share = self.weights(row_dot(query, batch, embeddings), batch)
            context = bag_sum(embeddings, batch.items, batch.offsets, share)
        return self.mix(torch.cat([own, context], -1))


class Side(nn.Module):
    """The encoder of the users, or of the items: separate networks for the mean and for the variance in (0, 1)."""

    def __init__(self, n_inputs: int, config: dict):
        super().__init__()
        shape = [config[k] for k in ("latent_dim", "data_dim", "hidden", "data_layers", "layers")]
        self.dropout = config["dropout"]
        self.mean, self.variance = (Tower(n_inputs, *shape, config["data_input"], config["feedback"]) for _ in range(2))
        if config["attention"] is not None and config["feedback"]:  # it looks at the fed-back embeddings
            self.look_mean, self.look_variance = (
                Attention(config["latent_dim"], config["attention"], config["scope"]) for _ in range(2)
            )

    def forward(self, batch: Batch, embeddings: Tensor, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, each (B, latent_dim); ``drop=False`` reads whole rows in training, too."""
        kept = None
        if self.training and drop and self.dropout > 0:
            kept = nn.functional.dropout(torch.ones_like(batch.values), self.dropout)
        mu, raw = self.mean(batch, kept, embeddings), self.variance(batch, kept, embeddings)
        if hasattr(self, "look_mean"):
            mu, raw = self.look_mean(mu, batch, embeddings), self.look_variance(raw, batch, embeddings)
        return mu, nn.functional.logsigmoid(raw)


class VAEBMF(TransductiveModel):
    """Ratings are <u_i, v_j>; both factors have Gaussian posteriors, from encoders that read each other's samples.

    Maximises Q = E[log p(X|U, V)] - beta_u sum_i KL_i - beta_v sum_j KL_j (Eq. 7) over blocks of users and items.
    The samples U and V that feed the encoders are constants within an iteration and drawn anew after it.

    Args:
        n_items: number of items.
        latent_dim: K, length of the factors.
        data_dim: K', the width at which data and latent part meet.
        hidden: neurons of a hidden layer.
        data_layers: L', hidden layers of each part.
        layers: L, hidden layers after the parts meet.
        beta_u, beta_v: weight of the users' divergence, and of the items'.
        attention: None, "paper" (scores divided by their sum, guarded) or "softmax". The paper's shares do not depend
            on the scale of the scores; those of the softmax do, and are nearly even where the scores are small.
            Without ``feedback`` there is none.
        scope: what a row's attention looks at, "rated" or "all".
        feedback: read the other side's embeddings. (Table 4 switches it off.)
        data_input: read the ratings. (Table 4 switches it off, too.)
        kl: "once", each user's and each item's divergence counts once an iteration, as in Eq. 7; or "per_block", as
            the listing counts it, once for each block.
        updates: "nested" blocks, or "sequential", first users, then items, with the other side held fixed.
        offset: what is subtracted from a rating: "both", the item's shrunken mean and then the user's mean distance
            from it; one of them alone, "items" or "users"; "global", the global mean; or "none", as printed.
        dropout: share of a row's entries hidden at each update from the two inputs of its encoder, ratings and
            embeddings; the attention still sees all of them. 0 is as printed.
        initial_variance: of the posteriors, before training; in (0, 1).
        users_per_block, items_per_block: users, and items, of a block.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "vae-bmf"
    about = "two-sided VAE for matrix factorisation with cross feedback (Jin et al.)"
    descends = "mult-vae"
    changes = "ratings; items too"
    needs = "either"
    by_user: Interactions | None = None  # what is left of the ratings beyond the offset
    by_item: Interactions | None = None

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 10,
        data_dim: int = 25,
        hidden: int = 50,
        data_layers: int = 1,
        layers: int = 0,
        beta_u: float = 0.03,
        beta_v: float = 0.03,
        attention: Literal["paper", "softmax"] | None = "softmax",
        scope: Literal["rated", "all"] = "rated",
        feedback: bool = True,
        data_input: bool = True,
        kl: Literal["once", "per_block"] = "once",
        updates: Literal["nested", "sequential"] = "nested",
        offset: Literal["both", "items", "users", "global", "none"] = "both",
        dropout: float = 0.5,
        initial_variance: float = 0.01,
        users_per_block: int = 500,
        items_per_block: int = 500,
        lr: float = 1e-3,
        n_users: int | None = None,
    ):
        if not (feedback or data_input):
            raise ConfigError("vae-bmf: feedback=False and data_input=False leave the encoders nothing to read")
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        self.users, self.items = Side(self.n_items, self.config), Side(n_users, self.config)
        k = self.config["latent_dim"]
        for name, size in (("u", n_users), ("v", self.n_items)):
            self.register_buffer(f"{name}_sample", torch.zeros(size, k))  # what the other side reads
            self.register_buffer(f"{name}_mean", torch.zeros(size, k))  # what predicts
        self.likelihood = Ratings(self.n_items, parts=self.config["offset"])
        self.register_buffer("above", torch.zeros(n_users))  # the users' part of what is known

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew, and the first embeddings from N(0, I)."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            variance = self.config["initial_variance"]
            for side in (self.users, self.items):
                last = side.look_variance.mix if hasattr(side, "look_variance") else side.variance.output
                last.bias.fill_(math.log(variance / (1 - variance)))
            for buffer in (self.u_sample, self.v_sample):
                buffer.normal_()

    def prepare(self, train: Interactions) -> None:
        """Note what is subtracted from the ratings, and the rest by user and by item."""
        super().prepare(train)
        self.likelihood.prepare(train)
        everyone = train.rows(torch.arange(train.n_users))
        self.above.copy_(self.likelihood.users(everyone)[:, 0])
        rest = self.likelihood.centred(everyone).values
        self.by_user = Interactions(train.indptr, train.indices, rest, train.shape)
        self.by_item = self.by_user.transposed()

    @torch.no_grad()
    def start(self, train: Interactions) -> None:
        """Scale the first layers' weights to the number of entries that a row has, instead of what it could have."""
        for side, matrix in ((self.users, self.by_user), (self.items, self.by_item)):
            filled = matrix.nnz / (matrix.n_users * matrix.n_items)
            for name, weight in side.named_parameters():
                if name.endswith(("data.weight", "phi")):
                    weight.mul_(filled**-0.5)

    # --- the two encoders --------------------------------------------------------------------------------------

    def encode_users(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(u_i | V_i, X_i) for rows of ``by_user``, each (B, K)."""
        return self.users(batch, self.v_sample, drop)

    def encode_items(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(v_j | U_j, X_j) for rows of ``by_item``, each (C, K)."""
        return self.items(batch, self.u_sample, drop)

    @torch.no_grad()
    def resample(self) -> None:
        """Draw the embeddings that the encoders read in the next iteration, and note the means that predict."""

        def posterior(encode, matrix: Interactions) -> list[Tensor]:
            batches = (encode(batch, drop=False) for batch in matrix.batches(1000))  # what predicts reads whole rows
            return [torch.cat(part) for part in zip(*batches, strict=True)]

        # Users are encoded with the old V and items with the old U, so both before either is replaced.
        mu, logvar = posterior(self.encode_users, self.by_user)
        nu, logtau = posterior(self.encode_items, self.by_item)
        self.u_mean.copy_(mu)
        self.v_mean.copy_(nu)
        self.u_sample.copy_(sample_gaussian(mu, logvar))
        self.v_sample.copy_(sample_gaussian(nu, logtau))

    # --- losses ------------------------------------------------------------------------------------------------

    def loss(self, block: Block, progress: float) -> tuple[Tensor, dict]:
        """Return -Q's share of this block, per rating of a mean block."""
        sweep = self._blocks()
        user_batches, item_batches = sweep.counts()
        (mu, logvar), (nu, logtau) = self.encode_users(block.users), self.encode_items(block.items)
        u, v = sample_gaussian(mu, logvar), sample_gaussian(nu, logtau)
        predicted = (u.index_select(0, block.rows) * v.index_select(0, block.columns)).sum(-1)
        error = (predicted - block.values).square().sum()
        kl_u, kl_v = gaussian_kl(mu, logvar), gaussian_kl(nu, logtau)
        # A user meets every batch of items, and would pay for the divergence each time.
        meets_u, meets_v = (item_batches, user_batches) if self.config["kl"] == "once" else (1, 1)
        rate = self.config["beta_u"] / meets_u * kl_u.sum() + self.config["beta_v"] / meets_v * kl_v.sum()
        loss = (0.5 * error + rate) * user_batches * item_batches / self.by_user.nnz
        return loss, {"error": error / max(len(block), 1), "kl_u": kl_u.mean(), "kl_v": kl_v.mean()}

    def users_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return -Q's share of some users with V held fixed, per rating (``updates="sequential"``)."""
        mu, logvar = self.encode_users(batch)
        u = sample_gaussian(mu, logvar)
        predicted = (u[batch.rows] * self.v_sample[batch.items]).sum(-1)
        return self._one_side(predicted - batch.values, gaussian_kl(mu, logvar).sum(), self.config["beta_u"])

    def items_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return -Q's share of some items with U held fixed, per rating (``updates="sequential"``)."""
        mu, logvar = self.encode_items(batch)
        v = sample_gaussian(mu, logvar)
        predicted = (v[batch.rows] * self.u_sample[batch.items]).sum(-1)
        return self._one_side(predicted - batch.values, gaussian_kl(mu, logvar).sum(), self.config["beta_v"])

    @staticmethod
    def _one_side(error: Tensor, kl: Tensor, beta: float) -> tuple[Tensor, dict]:
        n = max(len(error), 1)
        return (0.5 * error.square().sum() + beta * kl) / n, {"error": error.square().sum() / n}

    def _blocks(self) -> BlockSweep:
        return BlockSweep(self.by_user, self.by_item, self.config["users_per_block"], self.config["items_per_block"])

    def phases(self) -> list[Phase]:
        """One phase over all blocks, then new samples; or the users' side and the items' side in turn."""
        lr = self.config["lr"]
        if self.config["updates"] == "nested":
            parameters = list(self.parameters())
            return [Phase("all", parameters, self.loss, lr=lr, sweep=self._blocks(), after=self.resample)]
        users, items = (
            RowSweep(self.by_user, self.config["users_per_block"]),
            RowSweep(self.by_item, self.config["items_per_block"]),
        )
        return [
            Phase("users", list(self.users.parameters()), self.users_loss, lr=lr, sweep=users, after=self.resample),
            Phase("items", list(self.items.parameters()), self.items_loss, lr=lr, sweep=items, after=self.resample),
        ]

    # --- prediction --------------------------------------------------------------------------------------------

    def item_vectors(self) -> Tensor:
        """Return the items' posterior means, (n_items, K)."""
        return self.v_mean

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings at the posterior means, (B, n_items); a stranger's is encoded from the history."""
        u, above = self._factors(batch)
        return above[:, None] + self.likelihood.items + u @ self.v_mean.T

    def pair_scores(self, batch: Batch, rows: Tensor, items: Tensor) -> Tensor:
        """Return the ratings of single items, (n,)."""
        u, above = self._factors(batch)
        return above[rows] + self.likelihood.items[items] + (u[rows] * self.v_mean[items]).sum(-1)

    def _factors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each user's posterior mean, (B, K), and the users' part of what is known of their ratings, (B,)."""
        users, new = self.check_users(batch), batch.users < 0
        u, above = self.u_mean[users], self.above[users]
        if bool(new.any()):
            mu, _ = self.encode_users(self.likelihood.centred(batch), drop=False)
            u, above = torch.where(new[:, None], mu, u), torch.where(new, self.likelihood.users(batch)[:, 0], above)
        return u, above
