"""CFGAN: Chae, Kang, Kim and Lee (CIKM 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..data import Batch, Interactions, RowSweep
from ..models.base import Phase, frozen, penalised
from ..models.users import UserModel
from ..nn import bag_sum, full_precision, init_linear


class Clicks(nn.Module):
    """Linear layer that reads rows of clicks, as zeros and ones: the sum of the weight rows of what was clicked."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(length, width)), nn.Parameter(torch.empty(width))

    def reset_parameters(self) -> None:
        """Draw new weights."""
        init_linear(self.weight, self.bias)

    def forward(self, rows: Batch) -> Tensor:
        """Return (B, width)."""
        return bag_sum(self.weight, rows.items, rows.offsets) + self.bias


class Generator(nn.Module):
    """G(c): from a row of clicks to a row of numbers, one sigmoid layer between; the output is linear."""

    def __init__(self, length: int, hidden: int):
        super().__init__()
        self.input, self.output = Clicks(length, hidden), nn.Linear(hidden, length)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        self.input.reset_parameters()
        init_linear(self.output.weight, self.output.bias)

    def encode(self, rows: Batch) -> Tensor:
        """Return the hidden layer, (B, hidden)."""
        return torch.sigmoid(self.input(rows))

    def forward(self, rows: Batch) -> Tensor:
        """Return the row made up, (B, length)."""
        return full_precision(self.output(self.encode(rows)))


class Critic(nn.Module):
    """D(x | c): is x the row c itself, or made up for it? One sigmoid layer on both side by side, one number."""

    def __init__(self, length: int, hidden: int):
        super().__init__()
        self.condition, self.data = Clicks(length, hidden), nn.Parameter(torch.empty(length, hidden))
        self.output = nn.Linear(hidden, 1)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        self.condition.reset_parameters()
        nn.init.xavier_uniform_(self.data)
        init_linear(self.output.weight, self.output.bias)

    def forward(self, rows: Batch, made_up: Tensor | None = None) -> Tensor:
        """Return D, (B,), of what was ``made_up`` (B, length) for the rows; None: of the rows themselves."""
        x = bag_sum(self.data, rows.items, rows.offsets) if made_up is None else made_up @ self.data
        return full_precision(self.output(torch.sigmoid(self.condition(rows) + x)))[:, 0]


class CFGAN(UserModel):
    """A conditional game over whole rows: G makes up a row of clicks from the row, D tells the two apart.

    As in the public code the rows are items by default, and a user's score is G's number for them in the item's row;
    such a system knows its users alone. With rows of users it reads anybody's history. What D is shown of G's row is
    masked, y * (e + k): the clicks e, and of what was not clicked a random share k (partial masking, PM). Without more
    G may answer 1 everywhere: ``zr`` draws a random share of what was not clicked to zero (zero-reconstruction), by
    alpha times its squares; ``zp`` is both. Shares are drawn anew in each update, each entry by itself.

    G minimises -log sigma(D), as in the public code, not log(1 - sigma(D)), the minimax form. The public code tries
    several numbers of epochs, and measures on the test part after each; here the best epoch on the validation part is
    kept. There both players have batches of their own size, here of one. Defaults are the
    public code's for ML-100K; for ML-1M it has hidden 300, critic_hidden 250, pm_share and zr_share 0.9, critic_lr
    5e-5, critic_penalty 2.5e-5, one pass of each player, batches of 256 (G) and 512 (D), and about 1,500 epochs.
    Ratings are not read.

    Args:
        n_items: number of items.
        rows: what a row is: "items" or "users".
        scheme: "zp", "zr" or "pm".
        zr_share: share of what was not clicked that is drawn to zero.
        pm_share: share of what was not clicked that D is shown.
        alpha: weight of the squares of what is drawn to zero, a mean over rows.
        hidden: width of G's layer.
        critic_hidden: width of D's layer.
        penalty: weight of G's squared weights.
        critic_penalty: weight of D's.
        items_per_batch: items per update, where they are the rows.
        d_passes: of D over the rows in an epoch.
        g_passes: of G, after D's.
        lr: G's Adam step size.
        critic_lr: D's.
        n_users: taken from the data.
    """

    slug = "cfgan"
    about = "a conditional game over the rows of clicks (Chae et al. 2018)"
    descends = "irgan"
    changes = "whole rows of clicks for single items"
    reads_values = False
    by_item: Interactions | None = None
    codes: Tensor

    def __init__(
        self,
        n_items: int,
        rows: Literal["items", "users"] = "items",
        scheme: Literal["zp", "zr", "pm"] = "zp",
        zr_share: float = 0.7,
        pm_share: float = 0.7,
        alpha: float = 0.03,
        hidden: int = 400,
        critic_hidden: int = 125,
        penalty: float = 5e-4,
        critic_penalty: float = 0.0,
        items_per_batch: int = 32,
        d_passes: int = 2,
        g_passes: int = 4,
        lr: float = 1e-4,
        critic_lr: float = 1e-4,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users)
        if rows == "users":
            self.needs = "history"

    @property
    def by_items(self) -> bool:
        """Whether a row is an item."""
        return self.config["rows"] == "items"

    def build(self, n_users: int) -> None:
        """Make all weights."""
        length, hidden = n_users if self.by_items else self.n_items, self.config["hidden"]
        self.generator, self.critic = Generator(length, hidden), Critic(length, self.config["critic_hidden"])
        if self.by_items:
            self.register_buffer("codes", torch.zeros(self.n_items, hidden))  # what predicts

    def prepare(self, train: Interactions) -> None:
        """Make the weights; note the clicks by item, if these are the rows."""
        super().prepare(train)
        if self.by_items:
            self.by_item = train.transposed()

    def start(self, train: Interactions) -> None:
        """Note the items' codes before the first update."""
        self.encode_items()

    @torch.no_grad()
    def encode_items(self) -> None:
        """Note G's hidden layer of every item, (n_items, hidden): all that a score needs of its row."""
        if self.by_items:
            self.codes.copy_(torch.cat([self.generator.encode(rows) for rows in self.by_item.batches(500)]))

    # --- the two players -----------------------------------------------------------------------------------------

    def draw_negatives(self, rows: Batch, share: float) -> Tensor:
        """Return a random share of what was not clicked, (B, length), true where it is."""
        drawn = torch.rand(len(rows), rows.n_items, device=rows.items.device) < share
        drawn[rows.rows, rows.items] = False
        return drawn

    def shown(self, rows: Batch, made_up: Tensor) -> Tensor:
        """Return what D is shown of G's rows, (B, length): y * (e + k), where ``made_up`` is y."""
        if self.config["scheme"] == "zr":
            mask = torch.zeros_like(made_up, dtype=torch.bool)
        else:
            mask = self.draw_negatives(rows, self.config["pm_share"])
        mask[rows.rows, rows.items] = True
        return made_up * mask

    def critic_loss(self, rows: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return -log sigma(D) of the rows and -log(1 - sigma(D)) of what G makes up, the mean over rows."""
        with torch.no_grad():
            fake = self.shown(rows, self.generator(rows))
        real, fake = self.critic(rows), self.critic(rows, fake)
        right = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        return (softplus(-real) + softplus(fake)).mean(), {"right": right}

    def loss(self, rows: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return G's loss, -log sigma(D) and what draws to zero, the mean over rows, and both."""
        made_up = self.generator(rows)
        with frozen(self.critic):
            fooled = softplus(-self.critic(rows, self.shown(rows, made_up))).mean()
        if self.config["scheme"] == "pm":
            return fooled, {"fooled": fooled}
        zeros = self.draw_negatives(rows, self.config["zr_share"])
        squares = (made_up.square() * zeros).sum(1).mean()
        return fooled + self.config["alpha"] * squares, {"fooled": fooled, "zeros": squares}

    def phases(self) -> list[Phase]:
        """Some passes of D, then some of G; the penalties act in the optimisers."""
        options = self.config
        sweep = RowSweep(self.by_item, options["items_per_batch"]) if self.by_items else None
        critic = penalised(self.critic.parameters(), options["critic_penalty"])
        generator = penalised(self.generator.parameters(), options["penalty"])
        return [
            Phase("D", critic, self.critic_loss, options["critic_lr"], options["d_passes"], sweep=sweep),
            Phase("G", generator, self.loss, options["lr"], options["g_passes"], sweep=sweep, after=self.encode_items),
        ]

    def item_vectors(self) -> Tensor:
        """Return the items' codes, or what G's output has for each item; (n_items, hidden)."""
        return self.codes if self.by_items else self.generator.output.weight

    def scores(self, batch: Batch) -> Tensor:
        """Return G's numbers, (B, n_items): the users' places in the items' rows, or the users' rows."""
        if not self.by_items:
            return self.generator(batch)
        users, output = self.check_users(batch), self.generator.output
        return nn.functional.linear(output.weight[users], self.codes) + output.bias[users, None]
