"""Random changes of a whole batch at once, on the batch's own device.

Done on batches in torch rather than on samples in loader workers: one `grid_sample` for all geometry and one pass for
all gains cost a fraction of a chain of per-sample transforms, and nothing waits for the processor.
What a sample gets depends on (seed, epoch, sample_id) alone; see `xmkd.data.rng`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.data.rng import id_hash, mix, sample_keys, uniform
from xmkd.errors import ConfigError

__all__ = ["AugmentSettings", "around_one", "augment", "id_hash", "mix", "noise", "positions", "sample_keys"]


@dataclass(frozen=True)
class AugmentSettings:
    """How far each change may go; 0 (or False) switches it off.

    Attributes:
        flip: Mirror left and right in half of the samples.
        rotate_deg: Largest rotation either way, in degrees.
        scale: Largest relative zoom either way (0.1: between 1/1.1 and 1.1).
        translate: Largest shift either way, as a fraction of height and width.
        depth: Largest relative zoom along the beam either way, with the probe's edge (the top) kept in place.
        brightness: Largest offset either way, on the scale of 0 to 1.
        contrast: Largest relative change of contrast either way, about mid-grey.
        gamma: Largest relative change of the exponent either way.
        noise: Largest standard deviation of additive Gaussian noise.
        gain: Largest relative gain either way at a depth, smooth along the beam, as a time-gain control gives.
        shadow: Deepest darkening inside an acoustic shadow, which half of the samples get.
    """

    flip: bool = True
    rotate_deg: float = 10.0
    scale: float = 0.1
    translate: float = 0.05
    depth: float = 0.1
    brightness: float = 0.05
    contrast: float = 0.15
    gamma: float = 0.2
    noise: float = 0.03
    gain: float = 0.2
    shadow: float = 0.5

    def __post_init__(self) -> None:
        most = {"rotate_deg": 180.0, "scale": math.inf, "depth": math.inf, "gamma": math.inf, "contrast": math.inf}
        for field in fields(self):
            value, limit = float(getattr(self, field.name)), most.get(field.name, 1.0)
            if not 0 <= value <= limit:
                raise ConfigError(f"{field.name} must lie between 0 and {limit:g}, not {value:g}")


# Which random number belongs to what: fixed places, so that switching one change off leaves the others as they were.
FLIP, ROTATE, SCALE, SHIFT_Y, SHIFT_X, DEPTH, BRIGHT, CONTRAST, GAMMA, NOISE, NOISE_AT = range(11)
GAIN_1, GAIN_2, GAIN_3, SHADOW, SHADOW_AT, SHADOW_WIDTH, SHADOW_FROM, SHADOW_DARK = range(11, 19)
COUNT = 19


def augment(x: Tensor, keys: Tensor, settings: AugmentSettings) -> Tensor:
    """Change every sample of a batch at random, each by its own key.

    Args:
        x: Images `(B, C, H, W)` or clips `(B, C, T, H, W)`; float in [0, 1], or uint8, which is divided by 255.
            All frames of a clip get the same geometry, gain and shadow.
        keys: One key per sample, int64 `(B,)`, from `sample_keys` or `mix`.
        settings: How far to go.

    Returns:
        Float32 in [0, 1], in the shape of `x`.
    """
    was_bytes = x.dtype == torch.uint8
    shape = x.shape
    # Frames are channels, so that one grid serves them all. From here on x is ours, and changed in place.
    x = x.flatten(1, -3).to(torch.float32, copy=True)
    if was_bytes:
        x.mul_(1 / 255)
    u = uniform(keys.to(x.device), COUNT).view(-1, COUNT, 1, 1)
    x = _geometry(x, u, settings)
    return _intensity(x, u, settings).clamp_(0, 1).view(shape)


def around_one(u: Tensor, most: float) -> Tensor:
    """From 1 / (1 + most) to 1 + most, as often below 1 as above."""
    return torch.exp((2 * u - 1) * math.log1p(most))


def positions(count: int, device: torch.device) -> Tensor:
    """Pixel centres on a side of [-1, 1]."""
    return (torch.arange(count, device=device) * 2 + 1) / count - 1


def _geometry(x: Tensor, u: Tensor, s: AugmentSettings) -> Tensor:
    """Flip, rotation, zoom, depth and shift of `(B, C, H, W)` in a single resampling."""
    if not (s.flip or s.rotate_deg or s.scale or s.translate or s.depth):
        return x
    b, _, h, w = x.shape
    u = u.view(b, -1, 1)
    angle = (2 * u[:, ROTATE] - 1) * math.radians(s.rotate_deg)
    zoom = around_one(u[:, SCALE], s.scale)
    along = 1 / around_one(u[:, DEPTH], s.depth)
    mirror = torch.where(u[:, FLIP] < 0.5, -1.0, 1.0) if s.flip else torch.ones_like(zoom)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift_x, shift_y = ((2 * u[:, i] - 1) * 2 * s.translate for i in (SHIFT_X, SHIFT_Y))
    # Where each output pixel comes from. F.affine_grid does the same by matrix products, ten times as slowly on a CPU.
    column, row = positions(w, x.device), positions(h, x.device)
    row = (row + 1) * along - 1  # the top, at -1, stays
    grid = torch.empty(b, h, w, 2, device=x.device)
    torch.add(
        (mirror * cos * column)[:, None, :], (shift_x - mirror * sin * (h / w) * row)[:, :, None], out=grid[..., 0]
    )
    torch.add((sin * (w / h) * column)[:, None, :], (shift_y + cos * row)[:, :, None], out=grid[..., 1])
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _intensity(x: Tensor, u: Tensor, s: AugmentSettings) -> Tensor:
    """Gamma, gain, shadow, contrast, brightness and noise of `(B, C, H, W)`, in place."""
    if s.gamma:
        # The parabola through 0, 1 and the value of x ** gamma at mid-grey: a power costs ten times as much on a CPU.
        bend = 4 * (0.5 ** around_one(u[:, GAMMA, None], s.gamma) - 0.5)
        x.mul_((x * -bend).add_(1 + bend))
    contrast = around_one(u[:, CONTRAST, None], s.contrast)
    if s.gain or s.shadow or s.contrast:
        x.mul_(_gain_and_shadow(u, x.shape[2:], s).mul_(contrast))
    if s.contrast or s.brightness:
        x.add_((2 * u[:, BRIGHT, None] - 1) * s.brightness + 0.5 * (1 - contrast))
    if s.noise:
        x.addcmul_(noise(u[:, NOISE_AT].flatten(), x.shape[1:]), u[:, NOISE, None] * s.noise)
    return x


def _gain_and_shadow(u: Tensor, shape: Sequence[int], s: AugmentSettings) -> Tensor:
    """What the brightness is multiplied by, `(B, 1, H, W)` or, without shadows, `(B, 1, H, 1)`.

    The gain is a sum of three cosines over the depth. A shadow is a dark sector that fans out from half an image height
    above the top, where the beams of a curved probe meet.
    """
    h, w = shape
    depth = (positions(h, u.device) + 1) / 2
    waves = torch.cos(math.pi * depth * torch.arange(1, 4, device=u.device)[:, None])  # (3, H)
    gain = 1 + (2 * u[:, GAIN_1 : GAIN_3 + 1, 0, 0] - 1) @ waves * (s.gain / 3)
    gain = gain[:, None, :, None]
    if not s.shadow:
        return gain
    beam = positions(w, u.device) / (2 * depth[:, None] + 1)  # (H, W), the tangent of the beam's angle
    width = 0.05 + 0.15 * u[:, SHADOW_WIDTH, None]
    at = 0.6 * (2 * u[:, SHADOW_AT, None] - 1)
    profile = (beam / width).sub_(at / width).square_().sub_(1).clamp_max_(0)  # -1 in the middle of the shadow
    onset = ((depth[:, None] - 0.5 * u[:, SHADOW_FROM, None]) * 5).clamp(0, 1)
    dark = torch.where(u[:, SHADOW, None] < 0.5, s.shadow * u[:, SHADOW_DARK, None], 0.0)
    return torch.addcmul(gain, profile, gain * onset * dark)


def noise(start: Tensor, shape: Sequence[int]) -> Tensor:
    """Gaussian noise, `(B, *shape)`: stretches of one fixed tile, each from its own place (`start` in [0, 1))."""
    count = math.prod(shape)
    tile = _tile(count, start.device)
    starts = (start * (tile.numel() - count)).long()
    return tile.unfold(0, count, 1).index_select(0, starts).view(-1, *shape)


@functools.lru_cache(maxsize=8)
def _tile(count: int, device: torch.device) -> Tensor:
    # Drawn on the CPU so that every device has the same tile.
    return torch.randn(count + (1 << 18), generator=torch.Generator().manual_seed(0)).to(device)
