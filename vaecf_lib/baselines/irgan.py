"""IRGAN: Wang, Yu, Zhang, Gong, Xu, Wang, Zhang and Zhang (SIGIR 2017)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus

from ..data import Batch, Interactions
from ..maths import multinomial_log_prob
from ..models.base import Phase
from ..models.users import UserModel
from ..nn import full_precision

# The generator's fit before the game.
PRETRAIN_LR, PRETRAIN_USERS = 0.01, 100


class Player(nn.Module):
    """s(u, i) = <e_u, e_i> + b_i, which both players are made of."""

    def __init__(self, n_users: int, n_items: int, latent_dim: int):
        super().__init__()
        self.users, self.items = nn.Embedding(n_users, latent_dim), nn.Embedding(n_items, latent_dim)
        self.bias = nn.Parameter(torch.zeros(n_items))

    def reset_parameters(self) -> None:
        """Draw new vectors, uniform within 0.05 of zero as in the public code; biases are zero."""
        for table in (self.users, self.items):
            nn.init.uniform_(table.weight, -0.05, 0.05)
        nn.init.zeros_(self.bias)

    def forward(self, users: Tensor) -> Tensor:
        """Return the scores of all items, (B, n_items), for users (B,)."""
        return full_precision(nn.functional.linear(self.users(users), self.items.weight, self.bias))

    def pairs(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores, (n,), and half the squared norms of what they are made of, (n,), of single items."""
        u, v, b = self.users(users), self.items(items), self.bias[items]
        return (u * v).sum(-1) + b, 0.5 * (u.square().sum(-1) + v.square().sum(-1) + b.square())


def draw(probs: Tensor, batch: Batch, times: int = 1) -> tuple[Tensor, Tensor]:
    """Draw, for each click of the batch, ``times`` items from its user's distribution.

    Args:
        probs: (B, n_items), of any scale.
        batch: B users.
        times: items per click.

    Returns:
        Whose they are, places in the batch, and the items; (times n,) each.
    """
    n_items, rows = probs.shape[1], batch.rows.repeat(times)
    # In float32 the running sum would lose rare items; Apple's GPUs have nothing wider.
    sums = probs.cumsum(1, dtype=torch.float32 if probs.device.type == "mps" else torch.float64)
    # The users' distribution functions one above the other, each of height 1, so that one search is enough for all.
    levels = sums / sums[:, -1:] + torch.arange(len(batch), device=rows.device)[:, None]
    drawn = torch.searchsorted(levels.flatten(), rows + torch.rand(rows.shape, dtype=sums.dtype, device=rows.device),
                               right=True) - n_items * rows  # fmt: skip
    return rows, drawn.clamp(0, n_items - 1)  # beyond only if weights have run off, which the loss then says


class IRGAN(UserModel):
    """Two factor models that play: G draws items for a user, D tells them from the user's clicks.

    G is p(i|u) = softmax(<u, v_i> + b_i) over all items, clicked ones too, D is sigma of a score of the same form. D
    learns from each click and one item that G has drawn at temperature tau; G climbs the reward
    2 (sigma(D) - 1/2) of what it draws by the policy gradient. In it items come from p_n, that is G's
    distribution with a share ``mixing`` of the user's clicks, and are weighed by p / p_n. G is what ranks in the end.
    G begins as a softmax model fitted to the clicks, D at random. The public code read G from a file, the result of a
    pairwise fit, and kept the best G by precision@5 on the test part; a later revision draws G at random and keeps the
    best on the training part. Here it is the best epoch on the validation part.

    An epoch is a round of the game. The public code plays 15 of them, with 100 passes of D and 50 of G. Its updates are
    plain gradient steps, one user after the other for G and 16 clicks and draws for D, which is given new draws every
    fifth pass; here they are Adam's, of a batch of users, all draws are new, and a round has 2 passes and 1 by default.
    In trials on ML-100K (seed 0) the game lowered the validation NDCG of the G it began with at the public code's tau,
    0.2, and raised it by 0.003 at tau 1 with penalty 0.01. Ratings are not read.

    Args:
        n_items: number of items.
        latent_dim: length of the vectors of users and items, of both players.
        mixing: share lambda of the user's clicks in what G's gradient is estimated from.
        tau: temperature at which G draws for D.
        penalty: weight of half the squared vectors and bias of each pair that D judges.
        pretrain: passes over the users in which G is fitted to the clicks, before the first epoch.
        d_passes: of D over the users in an epoch.
        g_passes: of G.
        lr: G's Adam step size.
        critic_lr: D's.
        n_users: taken from the data.
    """

    slug = "irgan"
    about = "two factor models that play a minimax game, by the policy gradient (Wang et al. 2017)"
    reads_values = False

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 5,
        mixing: float = 0.2,
        tau: float = 0.2,
        penalty: float = 0.1,
        pretrain: int = 100,
        d_passes: int = 2,
        g_passes: int = 1,
        lr: float = 3e-4,
        critic_lr: float = 0.01,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        self.generator = Player(n_users, self.n_items, self.config["latent_dim"])
        self.critic = Player(n_users, self.n_items, self.config["latent_dim"])

    def start(self, train: Interactions) -> None:
        """Fit the generator to the clicks, by maximum likelihood."""
        train = replace(train, values=None)
        optimiser = torch.optim.Adam(self.generator.parameters(), lr=PRETRAIN_LR)
        for _ in range(self.config["pretrain"]):
            for batch in train.batches(PRETRAIN_USERS, order=torch.randperm(train.n_users)):
                optimiser.zero_grad()
                (-multinomial_log_prob(self.generator(batch.users), batch).mean()).backward()
                optimiser.step()

    # --- the two players -----------------------------------------------------------------------------------------

    def critic_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return D's loss, sum of -log sigma(D) of clicks and -log(1 - sigma(D)) of draws, a mean over users."""
        with torch.no_grad():
            rows, drawn = draw((self.generator(batch.users) / self.config["tau"]).softmax(-1), batch)
        real, of_real = self.critic.pairs(batch.users[batch.rows], batch.items)
        fake, of_fake = self.critic.pairs(batch.users[rows], drawn)
        penalty = self.config["penalty"] * (of_real + of_fake)
        right = ((real > 0).float().sum() + (fake < 0).float().sum()) / max(1, 2 * len(real))
        return (softplus(-real) + softplus(fake) + penalty).sum() / len(batch), {"right": right}

    def proposal(self, p: Tensor, batch: Batch) -> Tensor:
        """Return p_n, (B, n_items): p (B, n_items) with a share of the user's clicks, if there are any."""
        share = self.config["mixing"] * (batch.counts > 0)
        p_n = (1 - share)[:, None] * p
        p_n[batch.rows, batch.items] += self.config["mixing"] / batch.counts[batch.rows]
        return p_n

    def reward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return 2 (sigma(D) - 1/2), (n,), of single items, a constant."""
        with torch.no_grad():
            return 2 * torch.sigmoid(self.critic.pairs(users, items)[0]) - 1

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return G's loss, whose gradient estimates that of minus the reward expected of G, the mean over users.

        Two items are drawn for each click; a user's draws count alike.
        """
        log_p = log_softmax(self.generator(batch.users), -1)
        p = log_p.detach().exp()
        p_n = self.proposal(p, batch)
        rows, drawn = draw(p_n, batch, times=2)
        weight = p[rows, drawn] / p_n[rows, drawn] / (2 * batch.counts[rows])
        reward = self.reward(batch.users[rows], drawn)
        gain = (weight * reward * log_p[rows, drawn]).sum() / len(batch)
        return -gain, {"reward": (weight * reward).sum() / len(batch)}

    def phases(self) -> list[Phase]:
        """Some passes of D, then some of G."""
        options = self.config
        return [
            Phase("D", [*self.critic.parameters()], self.critic_loss, options["critic_lr"], options["d_passes"]),
            Phase("G", [*self.generator.parameters()], self.loss, options["lr"], options["g_passes"]),
        ]

    def item_vectors(self) -> Tensor:
        """Return the generator's item vectors, (n_items, latent_dim)."""
        return self.generator.items.weight

    def scores(self, batch: Batch) -> Tensor:
        """Return the generator's scores, (B, n_items)."""
        return self.generator(self.check_users(batch))
