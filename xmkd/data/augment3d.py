"""Random changes of a whole batch of volumes at once, on the batch's own device.

Within a slice a volume is turned, zoomed and shifted; across slices it is zoomed and shifted. Trilinear interpolation
then falls apart into one within the slices, whose grid serves all of them, and one between them: the same values as
from a grid of positions in the volume, at a tenth of the time on a CPU.
Intensities are z-scores, with 0 the mean of the body, so they are clamped to no range.
What a sample gets depends on (seed, epoch, sample_id) alone; see `xmkd.data.rng`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.data.augment import around_one, noise, positions
from xmkd.data.rng import uniform
from xmkd.errors import ConfigError


@dataclass(frozen=True)
class VolumeAugment:
    """How far each change may go; 0 (or False) switches it off.

    Attributes:
        flip: Mirror the patient's left and right in half of the samples.
        rotate_deg: Largest rotation within the slices either way, in degrees.
        scale: Largest relative zoom either way, alike in all directions (0.1: between 1/1.1 and 1.1).
        translate: Largest shift either way, as a fraction of depth, height and width.
        brightness: Largest offset either way, in standard deviations of the body.
        contrast: Largest relative change of contrast either way, about the body's mean.
        gamma: Largest relative change of the exponent either way, on the scale from the sample's least value to its
            largest.
        noise: Largest standard deviation of additive Gaussian noise, in standard deviations of the body.
        bias: Largest relative gain either way of a field that varies smoothly along all three axes, as receive coils
            give; it multiplies what is above the sample's least value.
    """

    flip: bool = True
    rotate_deg: float = 10.0
    scale: float = 0.1
    translate: float = 0.05
    brightness: float = 0.1
    contrast: float = 0.15
    gamma: float = 0.2
    noise: float = 0.1
    bias: float = 0.3

    def __post_init__(self) -> None:
        most = {"rotate_deg": 180.0, "translate": 1.0, "flip": 1.0}
        for field in fields(self):
            value, limit = float(getattr(self, field.name)), most.get(field.name, math.inf)
            if not 0 <= value <= limit or math.isinf(value):
                raise ConfigError(f"{field.name} must lie between 0 and {limit:g}, not {value:g}")


# Which random number belongs to what: fixed places, so that switching one change off leaves the others as they were.
FLIP, ROTATE, SCALE, SHIFT_D, SHIFT_H, SHIFT_W, BRIGHT, CONTRAST, GAMMA, NOISE, NOISE_AT = range(11)
BIAS = 11  # two of each axis, up to 16
PATCH = 17  # where a patch is cut: three numbers, read by `xmkd.data.datasets`
COUNT = 20


def left_right_axis(orientation: str) -> int:
    """Axis of `(..., D, H, W)` along which the patient's left and right lie, -3 to -1.

    Args:
        orientation: Where the columns, rows and slices run to, as `MriPrep.orientation`.
    """
    return -1 - next(i for i, letter in enumerate(orientation) if letter in "LR")


def augment_volumes(
    x: Tensor,
    keys: Tensor,
    settings: VolumeAugment,
    *,
    orientation: str = "LPS",
    spacing_mm: tuple[float, float, float] | None = None,
) -> Tensor:
    """Change every volume of a batch at random, each by its own key.

    Args:
        x: Volumes or patches `(B, C, D, H, W)` of any floating type; z-scores.
        keys: One key per sample, int64 `(B,)`, from `sample_keys` or `mix`.
        settings: How far to go.
        orientation: Tells along which axis to flip.
        spacing_mm: Voxel size (D, H, W), for a rotation that keeps shapes; None takes square pixels within a slice.

    Returns:
        Float32 in the shape of `x`. What comes from outside the volume is its mirror image at the edge.
    """
    x = x.to(torch.float32, copy=True)  # from here on x is ours, and changed in place
    u = uniform(keys.to(x.device), COUNT)
    pixel = 1.0 if spacing_mm is None else spacing_mm[1] / spacing_mm[2]
    x = _geometry(x, u, settings, left_right_axis(orientation), pixel)
    return _intensity(x, u, settings)


def _geometry(x: Tensor, u: Tensor, s: VolumeAugment, flipped: int, pixel: float) -> Tensor:
    """Flip, rotation, zoom and shift; `pixel` is a pixel's height over its width."""
    b, c, d, h, w = x.shape
    moved = bool(s.scale or s.translate)
    sign = torch.where(u[:, FLIP] < 0.5, -1.0, 1.0) if s.flip else torch.ones_like(u[:, FLIP])
    mirror = {axis: sign if axis == flipped else torch.ones_like(sign) for axis in (-3, -2, -1)}
    zoom = around_one(u[:, SCALE], s.scale)
    shift = {axis: (2 * u[:, place] - 1) * 2 * s.translate for axis, place in _SHIFTS.items()}
    if moved or s.rotate_deg or (s.flip and flipped != -3):
        angle = (2 * u[:, ROTATE] - 1) * math.radians(s.rotate_deg)
        cos, sin = (f(angle)[:, None] / zoom[:, None] for f in (torch.cos, torch.sin))
        ratio = h * pixel / w  # of the slice's sides, in mm
        column, row = positions(w, x.device), positions(h, x.device)
        grid = torch.empty(b, h, w, 2, device=x.device)
        _add(grid[..., 0], mirror[-1], cos * column, shift[-1], -ratio * sin * row)
        _add(grid[..., 1], mirror[-2], sin / ratio * column, shift[-2], cos * row)
        slices = x.flatten(1, 2)  # slices are channels, so that one grid serves them all
        x = F.grid_sample(slices, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        x = x.view(b, c, d, h, w)
    if moved or (s.flip and flipped == -3):
        x = _between_slices(x, mirror[-3][:, None] * (positions(d, x.device) / zoom[:, None] + shift[-3][:, None]))
    return x


_SHIFTS = {-3: SHIFT_D, -2: SHIFT_H, -1: SHIFT_W}


def _add(out: Tensor, mirror: Tensor, column: Tensor, shift: Tensor, row: Tensor) -> None:
    """Where each output pixel comes from along one axis: `mirror * (column + row + shift)`."""
    mirror = mirror[:, None]
    torch.add((mirror * column)[:, None, :], (mirror * (row + shift[:, None]))[:, :, None], out=out)


def _between_slices(x: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation along D at the positions `(B, D)` on a side of [-1, 1], mirrored at the edges."""
    d = x.shape[2]
    place = ((at + 1) * (d / 2)).remainder(2 * d)  # from the outer edge of the first slice
    place = (torch.minimum(place, 2 * d - place) - 0.5).clamp_(0, d - 1)
    below = place.floor().clamp_max_(max(d - 2, 0))
    first = below.long()
    every = torch.arange(len(x), device=x.device)[:, None]
    volumes = x.transpose(1, 2)  # (B, D, C, H, W)
    upper = volumes[every, (first + 1).clamp_max_(d - 1)]
    out = volumes[every, first].lerp_(upper, (place - below)[:, :, None, None, None])
    return out.transpose(1, 2).contiguous()


def _intensity(x: Tensor, u: Tensor, s: VolumeAugment) -> Tensor:
    """Gamma, bias field, contrast, brightness and noise, in place."""
    u = u.view(*u.shape, 1, 1, 1, 1)
    if s.gamma or s.bias:
        low, high = (v[..., None, None, None] for v in x.flatten(2).aminmax(dim=2))  # (B, C, 1, 1, 1)
        x.sub_(low)
        if s.gamma:
            # The parabola through both ends and the value of the power at the middle, as in `augment`.
            bend = 4 * (0.5 ** around_one(u[:, GAMMA], s.gamma) - 0.5)
            x.mul_((x * (-bend / (high - low).clamp_min(1e-6))).add_(1 + bend))
        if s.bias:
            for axis in (2, 3, 4):
                x.mul_(_gain(u, axis, x.shape, s.bias))
        x.add_(low)
    if s.contrast:
        x.mul_(around_one(u[:, CONTRAST], s.contrast))
    if s.brightness:
        x.add_((2 * u[:, BRIGHT] - 1) * s.brightness)
    if s.noise:
        x.addcmul_(noise(u[:, NOISE_AT].flatten(), x.shape[1:]), u[:, NOISE] * s.noise)
    return x


def _gain(u: Tensor, axis: int, shape: torch.Size, most: float) -> Tensor:
    """One axis' part of the bias field, 1 long along all other axes: two cosines, as a logarithm.

    All six together stay between 1 / (1 + most) and 1 + most.
    """
    place = BIAS + 2 * (axis - 2)
    along = (positions(shape[axis], u.device) + 1) / 2
    waves = torch.cos(math.pi * along * torch.arange(1, 3, device=u.device)[:, None])  # (2, N)
    log = (2 * u[:, place : place + 2].flatten(1) - 1) @ waves * (math.log1p(most) / 6)
    sizes = [len(u), 1, 1, 1, 1]
    sizes[axis] = shape[axis]
    return log.exp().view(sizes)
