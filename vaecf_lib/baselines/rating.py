"""Rating baselines: floors, factorisation, AutoRec, NCF, CNN-CF, CDAE and MacridVAE."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions, Pairs, PairSweep, RowSweep
from ..errors import ConfigError
from ..maths import gaussian_kl, linear_annealing, observed_squared_error, sample_gaussian
from ..models.base import Phase, penalised
from ..models.mult_vae import MultDAE, MultVAE
from ..models.ratings import Offsets, RatingModel, TransductiveModel, row_means
from ..nn import SparseInput


class Means(RatingModel):
    """mean + user's deviation + item's deviation, each drawn towards zero: a floor that nobody should lose to.

    Args:
        n_items: number of items.
        damping: as many ratings of the mean are added to each user's and item's own.
        parts: "both", "items", "users" or "global".
    """

    slug = "means"
    about = "shrunken means of items and users"

    def __init__(self, n_items: int, damping: float = 5.0, parts: Literal["both", "items", "users", "global"] = "both"):
        super().__init__(n_items, damping=damping, parts=parts)
        self.offsets = Offsets(n_items, damping, parts)

    def prepare(self, train: Interactions) -> None:
        """Take the means."""
        super().prepare(train)
        self.offsets.take(train)

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items), from what the users have rated."""
        return self.offsets(batch)


class PairModel(TransductiveModel):
    """A system of user and item embeddings, trained on single ratings.

    ``self.ratings(users, items)`` gives the predictions; ``penalty`` is the weight of the squared embeddings of the
    ratings at hand, ``per_batch`` the number of ratings per update.
    """

    sweep: PairSweep | None = None

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,), for users and items (n,)."""
        raise TypeError(f"{type(self).__name__} does not implement ratings()")

    def squares(self, pairs: Pairs) -> Tensor:
        """Return the mean squared norm of the embeddings of these ratings' users and items."""
        return (self.users(pairs.users).square() + self.items(pairs.items).square()).sum(-1).mean()

    def prepare(self, train: Interactions) -> None:
        """Make the weights; note the ratings to train on."""
        super().prepare(train)
        self.sweep = PairSweep(train, self.config["per_batch"])

    def start(self, train: Interactions) -> None:
        """Start at the mean rating."""
        with torch.no_grad():
            self.overall.fill_(train.values.mean())

    def loss(self, pairs: Pairs, progress: float) -> tuple[Tensor, dict]:
        """Return the mean squared error plus the penalty."""
        error = (self.ratings(pairs.users, pairs.items) - pairs.values).square().mean()
        return error + self.config["penalty"] * self.squares(pairs), {"error": error}

    def phases(self) -> list[Phase]:
        """One phase over all weights, rating by rating."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"], sweep=self.sweep)]

    def item_vectors(self) -> Tensor:
        """Return the items' embeddings, (n_items, d)."""
        return self.items.weight

    def pair_scores(self, batch: Batch, rows: Tensor, items: Tensor) -> Tensor:
        """Return the ratings of single items, (n,)."""
        users = self.check_users(batch)[rows]
        parts = [self.ratings(u, i) for u, i in zip(users.split(100_000), items.split(100_000), strict=True)]
        return torch.cat(parts) if parts else users.float()

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        rows = torch.arange(len(batch), device=self.device).repeat_interleave(self.n_items)
        items = torch.arange(self.n_items, device=self.device).repeat(len(batch))
        return self.pair_scores(batch, rows, items).reshape(len(batch), self.n_items)


class BiasedMF(PairModel):
    """mean + user bias + item bias + <u, v>, with a penalty: the floor of factorisation.

    Args:
        n_items: number of items.
        latent_dim: length of the embeddings.
        penalty: weight of the squared embeddings and biases.
        per_batch: ratings per update.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "biased-mf"
    about = "biased matrix factorisation"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 50,
        penalty: float = 0.02,
        per_batch: int = 4096,
        lr: float = 5e-3,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users, latent_dim=latent_dim, penalty=penalty, per_batch=per_batch, lr=lr)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        width = self.config["latent_dim"] + 1  # the last column is the bias
        self.users, self.items = nn.Embedding(n_users, width), nn.Embedding(self.n_items, width)
        self.overall = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw all weights anew: N(0, 0.05^2), biases zero."""
        if self.config["n_users"] is not None:
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.05)
                nn.init.zeros_(table.weight[:, -1])

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,)."""
        u, v = self.users(users), self.items(items)
        return self.overall + u[:, -1] + v[:, -1] + (u[:, :-1] * v[:, :-1]).sum(-1)

    def item_vectors(self) -> Tensor:
        """Return the items' embeddings without their biases, (n_items, latent_dim)."""
        return self.items.weight[:, :-1]


class NCF(PairModel):
    """Neural collaborative filtering: a product of embeddings and an MLP on them, side by side (He et al. 2017).

    Args:
        n_items: number of items.
        latent_dim: length of each of the four embeddings.
        widths: hidden layers of the MLP.
        penalty: weight of the squared embeddings.
        per_batch: ratings per update.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "ncf"
    about = "neural collaborative filtering, squared error (He et al. 2017)"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 25,
        widths: list[int] | None = None,
        penalty: float = 0.01,
        per_batch: int = 4096,
        lr: float = 2e-3,
        n_users: int | None = None,
    ):
        widths = [50, 25] if widths is None else list(widths)
        super().__init__(
            n_items, n_users, latent_dim=latent_dim, widths=widths, penalty=penalty, per_batch=per_batch, lr=lr
        )

    def build(self, n_users: int) -> None:
        """Make all weights."""
        k, widths = self.config["latent_dim"], [2 * self.config["latent_dim"], *self.config["widths"]]
        self.users, self.items = nn.Embedding(n_users, 2 * k), nn.Embedding(self.n_items, 2 * k)
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*layers)
        self.output = nn.Linear(k + widths[-1], 1, bias=False)
        self.overall = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw all weights anew; embeddings from N(0, 0.1^2)."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.1)

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,)."""
        (u, p), (v, q) = self.users(users).chunk(2, -1), self.items(items).chunk(2, -1)
        return self.overall + self.output(torch.cat([u * v, self.mlp(torch.cat([p, q], -1))], -1))[:, 0]


class CNNCF(PairModel):
    """Outer product of two embeddings, read by a stack of 2 x 2 convolutions (He et al. 2018), squared error.

    Args:
        n_items: number of items.
        latent_dim: length of the embeddings, a power of two; the convolutions halve it until one number is left.
        channels: feature maps of each convolution.
        penalty: weight of the squared embeddings.
        per_batch: ratings per update.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "cnn-cf"
    about = "convolutions over the outer product of embeddings, squared error (He et al. 2018)"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 16,
        channels: int = 16,
        penalty: float = 0.01,
        per_batch: int = 4096,
        lr: float = 2e-3,
        n_users: int | None = None,
    ):
        if latent_dim < 2 or latent_dim & (latent_dim - 1):
            raise ConfigError(f"cnn-cf: latent_dim={latent_dim}: must be a power of two, which the convolutions halve")
        super().__init__(
            n_items, n_users, latent_dim=latent_dim, channels=channels, penalty=penalty, per_batch=per_batch, lr=lr
        )

    def build(self, n_users: int) -> None:
        """Make all weights."""
        k, channels = self.config["latent_dim"], self.config["channels"]
        self.users, self.items = nn.Embedding(n_users, k), nn.Embedding(self.n_items, k)
        layers: list[nn.Module] = []
        for at in range(k.bit_length() - 1):
            layers += [nn.Conv2d(channels if at else 1, channels, 2, stride=2), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.output = nn.Linear(channels, 1, bias=False)
        self.overall = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.3)

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,)."""
        outer = self.users(users)[:, :, None] * self.items(items)[:, None, :]
        return self.overall + self.output(self.convolutions(outer[:, None]).flatten(1))[:, 0]


class AutoRecU(RatingModel):
    """AutoRec on user vectors: a sigmoid layer and a linear one, squared error on what was observed.

    Args:
        n_items: number of items.
        hidden: width of the layer.
        penalty: lambda of lambda ||W||^2 beside the mean squared error sum of a user.
        lr: Adam's step size.
    """

    slug = "autorec-u"
    about = "AutoRec on user vectors (Sedhain et al. 2015)"

    def __init__(self, n_items: int, hidden: int = 500, penalty: float = 0.02, lr: float = 1e-3):
        super().__init__(n_items, hidden=hidden, penalty=penalty, lr=lr)
        self.input = SparseInput(n_items, hidden, dropout=0.0)
        self.output = nn.Linear(hidden, n_items)
        self.reset_parameters()

    def start(self, train: Interactions) -> None:
        """Start at the items' mean ratings."""
        with torch.no_grad():
            self.output.bias.copy_(row_means(train.transposed()))

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        return self.output(torch.sigmoid(self.input.bag(batch, batch.values) + self.input.bias))

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of a row's squared errors; the penalty acts in the optimiser."""
        error = observed_squared_error(self.scores(batch), batch).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase; weights are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]


class AutoRecI(TransductiveModel):
    """AutoRec on item vectors, the better of the two: a row is an item, and its entries are the users' ratings.

    Args:
        n_items: number of items.
        hidden: width of the layer.
        penalty: lambda of lambda ||W||^2 beside the mean squared error sum of an item.
        lr: Adam's step size.
        items_per_batch: items per update.
        n_users: taken from the data.
    """

    slug = "autorec-i"
    about = "AutoRec on item vectors (Sedhain et al. 2015)"
    by_item: Interactions | None = None
    codes: Tensor

    def __init__(
        self,
        n_items: int,
        hidden: int = 500,
        penalty: float = 0.05,
        lr: float = 1e-3,
        items_per_batch: int = 500,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users, hidden=hidden, penalty=penalty, lr=lr, items_per_batch=items_per_batch)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        self.input = SparseInput(n_users, self.config["hidden"], dropout=0.0)
        self.output = nn.Linear(self.config["hidden"], n_users)
        self.register_buffer("codes", torch.zeros(self.n_items, self.config["hidden"]))  # what predicts

    def prepare(self, train: Interactions) -> None:
        """Note the training ratings by item: they are the input."""
        super().prepare(train)
        self.by_item = train.transposed()

    def start(self, train: Interactions) -> None:
        """Start at the users' mean ratings."""
        with torch.no_grad():
            self.output.bias.copy_(row_means(train))
        self.encode_items()

    def encode(self, items: Batch) -> Tensor:
        """Return the hidden layer for rows that are items, (C, hidden)."""
        return torch.sigmoid(self.input.bag(items, items.values) + self.input.bias)

    @torch.no_grad()
    def encode_items(self) -> None:
        """Note the hidden layer of every item, (n_items, hidden), which is all that a prediction needs of its input."""
        self.codes.copy_(torch.cat([self.encode(items) for items in self.by_item.batches(500)]))

    def loss(self, items: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the mean over items of the squared errors; the penalty acts in the optimiser."""
        error = observed_squared_error(self.output(self.encode(items)), items).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase over batches of items."""
        sweep = RowSweep(self.by_item, self.config["items_per_batch"])
        return [
            Phase(
                "all",
                penalised(self.parameters(), self.config["penalty"]),
                self.loss,
                lr=self.config["lr"],
                sweep=sweep,
                after=self.encode_items,
            )
        ]

    def item_vectors(self) -> Tensor:
        """Return the items' codes, (n_items, hidden)."""
        return self.codes

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        users = self.check_users(batch)
        return nn.functional.linear(self.codes, self.output.weight[users], self.output.bias[users]).T


class DAECF(MultDAE):
    """Mult-DAE with squared error, as VAE-BMF's paper compares with it."""

    slug = "dae-cf"
    about = "denoising autoencoder with squared error"

    def __init__(
        self, n_items: int, latent_dim: int = 200, dropout: float = 0.5, penalty: float = 1e-4, lr: float = 1e-3
    ):
        super().__init__(n_items, latent_dim, dropout, penalty, "gaussian", lr)
        del self.config["likelihood"]  # it is no option here


class VAECF(MultVAE):
    """Mult-VAE with squared error, as VAE-BMF's paper compares with it."""

    slug = "vae-cf"
    about = "variational autoencoder with squared error"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 100,
        hidden: int = 400,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        lr: float = 1e-3,
    ):
        super().__init__(n_items, latent_dim, hidden, beta, anneal, dropout, "gaussian", lr)
        del self.config["likelihood"]  # it is no option here


class CDAE(TransductiveModel):
    """Collaborative denoising autoencoder with a node for each user, squared error on what was observed.

    Args:
        n_items: number of items.
        hidden: width of the sigmoid layer.
        dropout: share of the input hidden at each update.
        penalty: weight of the squared weights.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "cdae"
    about = "denoising autoencoder with a node per user, squared error (Wu et al. 2016)"

    def __init__(
        self,
        n_items: int,
        hidden: int = 200,
        dropout: float = 0.5,
        penalty: float = 1e-4,
        lr: float = 1e-3,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users, hidden=hidden, dropout=dropout, penalty=penalty, lr=lr)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        self.input = SparseInput(self.n_items, self.config["hidden"], self.config["dropout"])
        self.offsets = Offsets(self.n_items)
        self.nodes = nn.Embedding(n_users, self.config["hidden"])
        self.output = nn.Linear(self.config["hidden"], self.n_items)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            nn.init.normal_(self.nodes.weight, std=0.05)

    def prepare(self, train: Interactions) -> None:
        """Note the items' means; make the weights if there are none yet."""
        super().prepare(train)
        self.offsets.take(train)

    def logits(self, batch: Batch) -> Tensor:
        """Return what is predicted beyond the means, (B, n_items)."""
        return self.output(torch.sigmoid(self.input(batch) + self.nodes(self.check_users(batch))))

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        logits = self.logits(batch)
        return self.offsets(batch) + logits

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of a user's squared errors; the penalty acts in the optimiser."""
        error = observed_squared_error(self.logits(batch), self.offsets.centred(batch)).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase; weights and nodes are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]


class MacridVAE(RatingModel):
    """Disentangled by concept: every item belongs softly to some of ``concepts``, and a user has a code for each.

    The rating form of Ma et al. (2019): the concepts' predictions are averaged by membership, plus the user's and
    item's means, and the error is squared. The ratings are masked by concept first, then normalised and dropped out,
    in the order of the public code; the norm is a constant for the gradient, which is ours. The public code's
    divergence leaves out mu, which is the option ``kl_of_mu=False``.

    Args:
        n_items: number of items.
        concepts: how many there are.
        latent_dim: length of an item's embedding and of each code.
        hidden: width of the encoder's layer.
        tau: temperature of memberships; sigma: prior standard deviation of the codes.
        beta, anneal, dropout, lr: as in Mult-VAE.
        kl_of_mu: include mu in the divergence.
    """

    slug = "macridvae"
    about = "disentangled VAE, one code per concept, squared error (Ma et al. 2019)"

    def __init__(
        self,
        n_items: int,
        concepts: int = 4,
        latent_dim: int = 64,
        hidden: int = 256,
        tau: float = 0.1,
        sigma: float = 0.075,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        lr: float = 1e-3,
        kl_of_mu: bool = False,
    ):
        options = {name: value for name, value in locals().items() if name not in ("self", "n_items", "__class__")}
        super().__init__(n_items, **options)
        self.input = SparseInput(n_items, hidden, dropout=0.0)
        self.posterior = nn.Linear(hidden, 2 * latent_dim)
        self.items, self.concepts = nn.Embedding(n_items, latent_dim), nn.Embedding(concepts, latent_dim)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.offsets = Offsets(n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def prepare(self, train: Interactions) -> None:
        """Note the items' means."""
        super().prepare(train)
        self.offsets.take(train)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what is predicted beyond the means, (B, n_items), and the divergence, (B,)."""
        items, concepts = (nn.functional.normalize(t.weight) for t in (self.items, self.concepts))
        member = torch.softmax(items @ concepts.T / self.config["tau"], -1)  # (n_items, concepts)
        ratings: Tensor | float = self.bias
        divergence: Tensor | float = 0.0
        for k in range(self.config["concepts"]):
            masked = batch.values * member[batch.items, k]
            squares = torch.zeros(len(batch), device=masked.device).index_add_(0, batch.rows, masked.detach() ** 2)
            masked = masked * squares.clamp_min(1e-12).rsqrt()[batch.rows]
            masked = nn.functional.dropout(masked, self.config["dropout"], self.training)
            hidden = torch.tanh(self.input.bag(batch, masked) + self.input.bias)
            mu, logvar = self.posterior(hidden).chunk(2, -1)
            mu = nn.functional.normalize(mu)
            # The code's deviation is sigma times a learned factor; relative to the prior's sigma only that is left.
            centre = mu / self.config["sigma"] if self.config["kl_of_mu"] else torch.zeros_like(mu)
            divergence = divergence + gaussian_kl(centre, logvar)
            z = sample_gaussian(mu, logvar + 2 * torch.tensor(self.config["sigma"]).log()) if self.training else mu
            ratings = ratings + self.scale * member[:, k] * (z @ items.T)
        return ratings, divergence

    def item_vectors(self) -> Tensor:
        """Return the items' embeddings, (n_items, latent_dim)."""
        return self.items.weight

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings at the codes' means, (B, n_items)."""
        return self.offsets(batch) + self(batch)[0]

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of half a user's squared errors plus beta times the divergence."""
        ratings, divergence = self(batch)
        error, rate = 0.5 * observed_squared_error(ratings, self.offsets.centred(batch)).mean(), divergence.mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return error + beta * rate, {"error": error, "rate": rate, "beta": beta}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"])]
