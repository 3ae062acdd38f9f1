"""RaCT: ranking-critical training, Lobel, Li, Gao and Carin (ICLR 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions
from ..maths import gaussian_kl, linear_annealing, sample_gaussian
from ..models.base import Phase, frozen, penalised
from ..models.likelihood import ClickLikelihood, LikelihoodModel
from ..nn import GaussianEncoder, MLPDecoder, dense_layers, full_precision, init_linear, unit_length

CRITIC_WIDTHS = [100, 100, 10]
CRITIC_PENALTY = 1e-4 / 500  # the public code's
SCALED_ON = 1000  # training users by whom the critic's inputs are brought to one scale


class Critic(nn.Module):
    """What NDCG has a list? A guess from how much was seen, how much is hidden, and the likelihood: 3-100-100-10-1."""

    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        widths = [3, *CRITIC_WIDTHS]
        self.hidden, self.output = dense_layers(widths), nn.Linear(widths[-1], 1)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: Xavier-uniform, biases zero."""
        for layer in (*self.hidden[::2], self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def scale(self, features: Tensor) -> None:
        """Take mean and deviation of these features, (n, 3), as those of all."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0, correction=0).clamp_min(1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """Return the guess, (B,), between 0 and 1, for features (B, 3)."""
        hidden = self.hidden((features - self.mean) / self.std)
        return torch.sigmoid(full_precision(self.output(hidden)))[:, 0]


class RaCT(LikelihoodModel):
    """Mult-VAE, the actor, and a critic that learns to tell the NDCG of its lists, and then teaches it.

    Three stages: the actor alone, as Mult-VAE; the critic alone, on the actor's lists of what is hidden from it at an
    update; and both in turn on every batch, the actor climbing the critic's guess by way of its likelihood. As in the
    public code the second stage starts from the actor of the epoch that was best on the validation part; the epoch that
    is kept in the end is one of the third stage. (The public code may also keep the actor as it was.) With fewer than
    four epochs there is no third stage.

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the actor's hidden layers.
        beta: final weight of the actor's KL term in its first stage; it has none in the third.
        anneal: share of the first stage over which the weight rises from 0. On ML-20M the public code has reached 0.117
            of 0.2 when that stage ends.
        dropout: share of a user's clicks hidden from the actor at each update, which its list is judged by.
        likelihood: "multinomial", "bernoulli" or "n_choose_k".
        cutoff: length K of the lists of which the critic learns the NDCG@K.
        target: what the critic learns: "ndcg", or "ndcg_of_unit_rows", in which hidden items count 1 / sqrt(the user's
            items) each, so that a perfect list of nine has 0.333. That is what RecBole 1.2 does.
        actor_share: share of the epochs that is the first stage.
        critic_share: share of the other epochs that is the second stage; the third is the rest.
        lr: the actor's learning rate.
        critic_lr: the critic's.
        fine_lr: the actor's in the third stage.
    """

    slug = "ract"
    about = "Mult-VAE, fine-tuned by a critic that learns the NDCG (Lobel et al. 2020)"
    descends = "mult-vae"
    changes = "a critic of the ranking"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        likelihood: ClickLikelihood = "multinomial",
        cutoff: int = 100,
        target: Literal["ndcg", "ndcg_of_unit_rows"] = "ndcg",
        actor_share: float = 0.5,
        critic_share: float = 0.5,
        lr: float = 1e-3,
        critic_lr: float = 1e-4,
        fine_lr: float = 2e-6,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood)
        self.encoder = GaussianEncoder(n_items, hidden, latent_dim, dropout)
        self.decoder = MLPDecoder(latent_dim, hidden, n_items)
        self.critic = Critic()
        self.train_part: Interactions | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        for layer in (self.decoder.hidden, self.decoder.output):
            init_linear(layer.weight, layer.bias)

    def prepare(self, train: Interactions) -> None:
        """Check that the interactions suit the likelihood; note them, for the scale of the critic's inputs."""
        super().prepare(train)
        self.train_part = train

    def start(self, train: Interactions) -> None:
        """Bring the critic's inputs to one scale, which is all there is if the actor has no stage of its own."""
        self.train()
        self.scale_features()

    # --- the actor ---------------------------------------------------------------------------------------------

    def scores(self, batch: Batch) -> Tensor:
        """Return the actor's logits at the posterior mean, (B, n_items)."""
        return self.decoder(self.encoder(batch)[0])

    def actor_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return Mult-VAE's loss, the batch mean of distortion + beta rate, and its terms in nats per user."""
        mu, logvar = self.encoder(batch)
        distortion = -self.log_prob(sample_gaussian(mu, logvar), batch).mean()
        rate = gaussian_kl(mu, logvar).mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"] * self._first_stage())
        return distortion + beta * rate, {"distortion": distortion, "rate": rate, "beta": beta}

    def _first_stage(self) -> float:
        """Return the share of all updates that is the first stage; the third makes two of every batch."""
        first, second = self._borders()
        return first / (1 + (1 - second))

    def _borders(self) -> tuple[float, float]:
        """Return the shares of the epochs after which the second and the third stage begin."""
        first = self.config["actor_share"]
        return first, first + (1 - first) * self.config["critic_share"]

    # --- the critic --------------------------------------------------------------------------------------------

    def act(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return one z, (B, latent_dim), and which of the batch's items it was drawn from, (n,): the others are hidden.

        Input and noise are those of :meth:`actor_loss`.
        """
        layer, values = self.encoder.input, unit_length(batch)
        kept = nn.functional.dropout(torch.ones_like(values), layer.dropout, self.training)
        mu, logvar = self.encoder.heads(layer.bag(batch, values * kept) + layer.bias)
        return sample_gaussian(mu, logvar), kept > 0

    def features(self, batch: Batch, seen: Tensor, log_prob: Tensor) -> Tensor:
        """Return what the critic reads, (B, 3): items seen and items hidden, and -log p(x|z) of all of them, in nats.

        ``seen`` (n,) says which of the batch's items were; ``log_prob`` (B,) is without the KL term.
        """
        n_hidden = _n_hidden(batch, seen)
        return torch.stack([batch.counts - n_hidden, n_hidden, -log_prob], 1)

    @torch.no_grad()
    def scale_features(self) -> None:
        """Note mean and deviation of the critic's inputs, of some training users.

        The public code has batch normalisation, whose moving averages stand still after the first stage.
        """
        some = torch.randperm(self.train_part.n_users)[:SCALED_ON]
        found = []
        for batch in self.train_part.batches(500, order=some):
            z, seen = self.act(batch)
            found.append(self.features(batch, seen, self.log_prob(z, batch)))
        self.critic.scale(torch.cat(found))

    def target(self, logits: Tensor, batch: Batch, seen: Tensor) -> Tensor:
        """Return the NDCG@cutoff of the actor's lists, (B,): of what is hidden, without what was seen.

        Args:
            logits: (B, n_items).
            batch: all of the users' items.
            seen: (n,) which of them were seen.
        """
        ranked, hidden = logits.clone(), torch.zeros_like(logits, dtype=torch.bool)
        ranked[batch.rows, batch.items] = torch.where(seen, -torch.inf, logits[batch.rows, batch.items])
        hidden[batch.rows, batch.items] = ~seen
        best = ranked.topk(min(self.config["cutoff"], self.n_items), dim=1).indices
        discounts = torch.arange(2, best.shape[1] + 2, device=best.device).float().log2().reciprocal()
        ideal = discounts.cumsum(0)[_n_hidden(batch, seen).clamp(1, best.shape[1]) - 1]
        ndcg = (hidden.gather(1, best) * discounts).sum(1) / ideal
        return ndcg * batch.counts.clamp_min(1).rsqrt() if self.config["target"] == "ndcg_of_unit_rows" else ndcg

    def critic_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of (NDCG - guess)^2, and both; users of whom nothing is hidden count as 0."""
        with torch.no_grad():
            z, seen = self.act(batch)
            logits = full_precision(self.decoder(z))
            features = self.features(batch, seen, self.likelihood.log_prob(logits, batch))
            target = self.target(logits, batch, seen)
        judged = features[:, 1] > 0
        guess = self.critic(features)
        error = ((guess - target).square() * judged).mean()
        return error, {"ndcg": target.mean(), "guess": guess.mean()}

    def fine_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return minus the batch mean of the critic's guess, with gradients for the actor alone."""
        z, seen = self.act(batch)
        features = self.features(batch, seen, self.log_prob(z, batch))
        with frozen(self.critic):
            guess = (self.critic(features) * (features[:, 1] > 0)).mean()
        return -guess, {"guess": guess, "distortion": features[:, 2].mean()}

    def phases(self) -> list[Phase]:
        """The actor alone; the critic, from the second stage on; in the third the actor after it on every batch."""
        first, second = self._borders()
        actor = [*self.encoder.parameters(), *self.decoder.parameters()]
        critic, lr = penalised(self.critic.parameters(), CRITIC_PENALTY), self.config["critic_lr"]
        return [
            Phase("actor", actor, self.actor_loss, lr=self.config["lr"], after=self.scale_features, span=(0, first),
                  hands_on_best=True),
            Phase("critic", critic, self.critic_loss, lr=lr, per="batch", span=(first, 1)),
            Phase("fine", actor, self.fine_loss, lr=self.config["fine_lr"], per="batch", span=(second, 1)),
        ]  # fmt: skip


def _n_hidden(batch: Batch, seen: Tensor) -> Tensor:
    """Return how many of each user's items were not seen, (B,)."""
    return batch.counts - torch.zeros_like(batch.counts).index_add_(0, batch.rows, seen.long())
