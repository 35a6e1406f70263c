"""MR physics: signal equations of the sequences, and what coil, motion and receiver do to them.

Textbook equations (for example Bernstein, King and Zhou, Handbook of MRI Pulse Sequences): spin echo
PD (1 - exp(-TR/T1)) exp(-TE/T2); spoiled gradient echo PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*) with
E1 = exp(-TR/T1); diffusion weighting exp(-b ADC).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xmkd.simulate.grids import Grid
from xmkd.simulate.textures import white
from xmkd.simulate.tissues import Values

Channel = Literal["t2", "t1", "t1ce", "b0", "b1000"]

# Turbo spin echo of many slices saturates the protons bound in solid tissue (magnetisation transfer), not fat and
# fluid: assumption of 16 %, within published 10-30 %.
_FREE = frozenset(
    {"fat", "peritoneal_fat", "marrow", "urine", "csf", "free_fluid", "follicle", "mucus", "cavity", "urethra_lumen",
     "endometrioma", "endometrioma_layer", "bowel_content", "adenomyotic_cyst"}
)  # fmt: skip
_TRANSFER = 0.84
_FATTY = {"fat": 1.0, "peritoneal_fat": 1.0, "marrow": 0.85, "plexus": 0.3, "labia": 0.3, "gluteal_muscle": 0.15}
_FLOW = {"artery": 0.15, "vessel": 0.7}  # what a spin echo sees of moving blood; assumption
_B = 1000.0  # s/mm2


@dataclass(frozen=True)
class Timing:
    """Settings of one sequence: times in ms, flip angle in degrees, what fat suppression leaves."""

    tr: float
    te: float
    flip: float = 90.0
    fat_left: float = 1.0


def signal(channel: Channel, name: str, tissue: Values, timing: Timing) -> float:
    """Relative signal of a tissue.

    Args:
        channel: The kind of image.
        name: The tissue's key.
        tissue: Its values in this patient.
        timing: Of the sequence.
    """
    recovery = math.exp(-timing.tr / tissue.t1)
    if channel == "t1ce":
        flip = math.radians(timing.flip)
        value = tissue.pd * math.sin(flip) * (1 - recovery) / (1 - math.cos(flip) * recovery)
        value *= math.exp(-timing.te / (0.5 * tissue.t2)) * tissue.enhancement  # T2* of half T2: assumption
    else:
        value = tissue.pd * (1 - recovery) * math.exp(-timing.te / tissue.t2)
        value *= 1.0 if name in _FREE or channel.startswith("b") else _TRANSFER
        value *= _FLOW.get(name, 1.0)
    if channel == "b1000":
        value *= math.exp(-_B * 1e-3 * tissue.adc)
    return value * (1 - _FATTY.get(name, 0.0) * (1 - timing.fat_left))


@dataclass(frozen=True)
class Coil:
    """Receive and transmit field.

    Attributes:
        peak_to_peak: Of the shading in the volume, relative to its mean.
        front: Share of the front array; the rest is the back's.
        reach: How far an array sees, mm.
        drift: Direction of a further slow change: phases of its two waves.
        dip: Loss in the middle of the body (standing waves at 3 T).
    """

    peak_to_peak: float
    front: float
    reach: float
    drift: tuple[float, float]
    dip: float


def shading(coil: Coil, grid: Grid) -> Tensor:
    """The factor on all signals, `(X, P, Q)`, of mean 1 and peak-to-peak as the coil says."""
    y, z = grid.coarse_plane()
    front, back = y.min(), y.max()
    plane = coil.front * torch.exp(-(((y - front) / coil.reach) ** 2))
    plane = plane + (1 - coil.front) * torch.exp(-(((y - back) / coil.reach) ** 2))
    a, b = coil.drift
    plane = plane + 0.12 * torch.sin(y / 45 + a) * torch.cos(z / 55 + b) - 0.10 * ((z - z.mean()) / 100).square()
    middle = torch.exp(-(((y - y.mean()) / 60) ** 2) - ((z - z.mean()) / 80).square())
    plane = plane - coil.dip * middle * (plane.max() - plane.min())
    across = 1 - 0.15 * (grid.x / 90).square() + 0.03 * torch.sin(grid.x / 40 + a)
    field = grid.refine(plane) * across
    low, high = field.min(), field.max()
    unit = (field - low) / (high - low)
    factor = 1 + coil.peak_to_peak * (unit - unit.mean())
    return factor.clamp_(min=0.15)


def at_middle(shade: Tensor) -> float:
    """Mean of a coil's shading in the middle of the volume, where the uterus lies."""
    parts = [slice(round(0.35 * n), round(0.65 * n) + 1) for n in shade.shape]
    return float(shade[parts[0], parts[1], parts[2]].mean())


def inward_noise(grid: Grid) -> Tensor:
    """Noise of parallel imaging, `(P, Q)`: more in the middle of the body (g-factor 1.0 to 1.25), an assumption."""
    y, z = grid.y - grid.y.mean(), grid.z - grid.z.mean()
    return 1 + 0.25 * torch.exp(-(y / 55).square() - (z / 80).square())


def saturate(channel: Tensor, grid: Grid, y: float, left: float) -> None:
    """A saturation band over the front wall, in place: `left` is what remains in front of `y` (mm)."""
    channel.mul_(left + (1 - left) * torch.sigmoid((grid.y - y - 0.06 * grid.z) / 3.0))


def ghosts(channel: Tensor, amplitude: float, shift: int, columns: int) -> None:
    """Copies of the moving front wall along the phase direction (front-back), in place.

    Args:
        channel: `(X, P, Q)`.
        amplitude: Of the first copy; the second is half as strong, with the opposite sign.
        shift: Distance of copies in columns.
        columns: How many columns at the front move.
    """
    wall = channel[..., :columns].clone()
    for number, strength in ((1, amplitude), (2, -0.5 * amplitude)):
        start = number * shift
        stop = min(start + columns, channel.shape[-1])
        if stop > start:
            channel[..., start:stop].add_(wall[..., : stop - start], alpha=strength)
    channel.abs_()


def resolve(channel: Tensor, blur: tuple[float, float], ring: float) -> Tensor:
    """Finite sampling of k-space in rows and columns: a small blur with a negative lobe (slight ringing).

    Args:
        channel: `(X, P, Q)`.
        blur: Weight of the next pixel along rows and columns.
        ring: Weight of the pixel after that, subtracted.
    """
    for axis, weight in zip((1, 2), blur, strict=True):
        size = channel.shape[axis]
        out = channel * (1 - 2 * weight + 2 * ring)
        for step, share in ((1, weight), (2, -ring)):
            near, far = channel.narrow(axis, 0, size - step), channel.narrow(axis, step, size - step)
            out.narrow(axis, step, size - step).add_(near, alpha=share)
            out.narrow(axis, 0, size - step).add_(far, alpha=share)
            out.narrow(axis, 0, step).add_(channel.narrow(axis, 0, step), alpha=share)
            out.narrow(axis, size - step, step).add_(channel.narrow(axis, size - step, step), alpha=share)
        channel = out
    return channel


def rician(channel: Tensor, sd: Tensor | float, generator: torch.Generator, correlation: float = 0.0) -> Tensor:
    """Magnitude of a signal with complex Gaussian noise of standard deviation `sd` in each part, `(X, P, Q)`."""
    shape = tuple(channel.shape)
    real = white(shape, generator, correlation) * sd + channel
    imaginary = white(shape, generator, correlation) * sd
    return torch.hypot(real, imaginary)


def diffusion_map(b0: Tensor, b1000: Tensor, threshold: float) -> Tensor:
    """ADC in 1e-6 mm2/s from two images; 0 where there is too little signal, as on a scanner."""
    ratio = (b0.clamp(min=1e-6) / b1000.clamp(min=1e-6)).log_().mul_(1e6 / _B).clamp_(0, 4500)
    return torch.where(b0 > threshold, ratio, torch.zeros_like(ratio))
