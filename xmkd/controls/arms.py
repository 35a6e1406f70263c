"""The arms of the control table: what each student starts from and what it regresses to besides its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xmkd.data.partners import Pairing
from xmkd.losses.distillation import Norm, auto_alpha, distillation_weight

Encoder = Literal["mae", "random"]


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: Its name.
        encoder: Pre-trained by masked reconstruction, or as initialised.
        pairing: Where the targets of distillation come from; None trains on labels alone.
        norm: Of the distillation loss.
        label_smoothing: Of the supervised loss: a share of each label that is spread over both classes.
    """

    name: str
    encoder: Encoder = "mae"
    pairing: Pairing | None = None
    norm: Norm = "l1"
    label_smoothing: float = 0.0

    def weight(self, epoch: int, epochs: int) -> float:
        """Weight of the distillation term, equal to that of the labels in the middle of training."""
        if self.pairing is None:
            return distillation_weight(0.0, epoch, offset=1)
        return distillation_weight(auto_alpha(epochs), epoch)


ARMS = (
    Arm("scratch", encoder="random"),
    Arm("ptm"),
    Arm("kd_without_mae", encoder="random", pairing="same-class"),
    Arm("full", pairing="same-class"),
    Arm("hard", pairing="hard"),
    Arm("constant", pairing="constant"),
    Arm("constant_mean", pairing="constant", norm="l2"),
    Arm("surrogate", pairing="surrogate"),
    Arm("shuffled", pairing="shuffled"),
    Arm("label_smoothing", label_smoothing=0.1),
    Arm("self_distillation", pairing="self"),
    Arm("oracle_pair", pairing="oracle_pair"),
)
