"""What tissues look like inside: noise, septa, small vessels, fibres and stool, as crops of banks made once.

Values are relative deviations of the signal of about unit size (septa, vessels: as they are), so that a tissue's table
gives only a name and an amplitude.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from xmkd.simulate import noise

Texture = Literal["soft", "grain", "fat", "subcutis", "muscle", "gluteal", "stool", "marrow", "chyme", "plexus"]
NAMES: tuple[Texture, ...] = (
    "soft", "grain", "fat", "subcutis", "muscle", "gluteal", "stool", "marrow", "chyme", "plexus",
)  # fmt: skip
_SPARE = 1.3  # a bank is that much longer than a volume on every axis


class Textures:
    """The textures of one patient, each a random crop of its bank.

    Args:
        shape: `(X, P, Q)`.
        spacing: mm per axis; nominal ones, so that patients share the banks.
        generator: Draws the places of the crops; the number of draws is fixed.
    """

    def __init__(self, shape: tuple[int, ...], spacing: tuple[float, ...], generator: torch.Generator) -> None:
        banks = _banks(tuple(int(_SPARE * n) for n in shape), tuple(round(s, 1) for s in spacing))
        self._crops = {name: noise.crop(banks[name], shape, generator) for name in NAMES}

    def __getitem__(self, name: Texture) -> Tensor:
        """float32 `(X, P, Q)`; not to be written to."""
        return self._crops[name]


def white(shape: tuple[int, ...], generator: torch.Generator, correlation: float = 0.0) -> Tensor:
    """Unit Gaussian noise as a crop of a bank: that of the receiver."""
    flat = (0.0, correlation, correlation)
    return noise.crop(noise.bank(tuple(int(_SPARE * n) for n in shape), flat), shape, generator)


@lru_cache(maxsize=2)
def _banks(shape: tuple[int, ...], spacing: tuple[float, ...]) -> dict[Texture, Tensor]:
    def smooth(*mm: float) -> Tensor:  # not kept: only what is made of them is
        sigma = mm if len(mm) == 3 else (mm[0],) * 3
        return noise.bank.__wrapped__(shape, tuple(round(m / s, 3) for m, s in zip(sigma, spacing, strict=True)))

    low, mid, fine, grain = smooth(14.0), smooth(5.0), smooth(1.7), smooth(0.55)
    other, second = mid.flip(1, 2), fine.flip(0, 1)
    vessels = _tubes(mid.roll(7, 1), other.roll(31, 2), 0.16)
    twigs = _tubes(smooth(3.0), smooth(3.0).flip(2, 1), 0.22)
    oblique, steep = _shear(smooth(4.0, 14.0, 2.6), 1.2), _shear(smooth(3.5, 8.0, 1.3), 1.1)
    sheets = torch.exp(-((mid / 0.06) ** 2))
    septa = torch.exp(-((oblique / 0.08) ** 2)) * torch.sigmoid(3 * low.roll(19, 2))
    return {
        "soft": 0.6 * mid + 0.6 * fine + 0.4 * grain,
        "grain": grain,
        "fat": 0.07 * low + 0.03 * fine + 0.02 * grain - 0.38 * vessels * (low > -0.8) - 0.30 * twigs * (low > 0.2)
        + 0.16 * twigs.roll(17, 2) * (other > 0.3) - 0.10 * sheets * torch.sigmoid(4 * (other - 0.5)),
        "subcutis": 0.05 * low + 0.02 * fine + 0.02 * grain - 0.24 * septa - 0.3 * vessels * (other > 0.6),
        "muscle": (1.1 * (_shear(smooth(2.5, 9.0, 1.1), 0.35) - 1.0).clamp_(min=0) + 0.10 * fine),
        "gluteal": (1.3 * (steep - 0.35).clamp_(min=0) + 0.10 * fine),
        "stool": (1.6 * (0.75 * second + 0.65 * mid - 0.55).clamp_(min=0)).sub_(0.35).add_(0.15 * grain),
        "marrow": 0.7 * mid + 0.5 * fine + 0.35 * grain,
        "chyme": 0.8 * mid + 0.4 * low,
        "plexus": 1.2 * _tubes(smooth(1.9), smooth(1.9).flip(0, 2), 0.7) + 0.5 * fine - 0.4,
    }  # fmt: skip


def _tubes(first: Tensor, second: Tensor, width: float) -> Tensor:
    """Thin crooked tubes, 0 to 1: two noises vanish together along lines."""
    return torch.exp((first.square() + second.square()).div_(-(width**2)))


def _shear(bank: Tensor, slope: float) -> Tensor:
    """Tilt a bank in the sagittal plane: shift each row by a whole number of columns."""
    rows = [bank[:, k].roll(round(slope * k), -1) for k in range(bank.shape[1])]
    return torch.stack(rows, 1)
