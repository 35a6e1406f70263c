"""Random changes of a whole batch at once, on the batch's own device.

Done on batches in torch rather than on samples in loader workers: one `grid_sample` for all geometry and one pass for
all gains cost a fraction of a chain of per-sample transforms, and nothing waits for the processor.
What a sample gets depends on (seed, epoch, sample_id) alone; see `xmkd.data.rng`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.data.rng import id_hash, mix, sample_keys, uniform

__all__ = ["AugmentSettings", "augment", "id_hash", "mix", "sample_keys"]


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
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    noise: float = 0.03
    gain: float = 0.2
    shadow: float = 0.5


# Which random number belongs to what: fixed places, so that switching one change off leaves the others as they were.
_FLIP, _ROTATE, _SCALE, _SHIFT_Y, _SHIFT_X, _DEPTH, _BRIGHT, _CONTRAST, _GAMMA, _NOISE, _NOISE_AT = range(11)
_GAIN_1, _GAIN_2, _GAIN_3, _SHADOW, _SHADOW_AT, _SHADOW_WIDTH, _SHADOW_FROM, _SHADOW_DARK = range(11, 19)
_COUNT = 19


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
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    u = uniform(keys.to(x.device), _COUNT)
    shape = x.shape
    x = x.flatten(1, -3)  # (B, C*T, H, W): frames are channels, so one grid serves them all
    x = _geometry(x, u, settings)
    x = _intensity(x, u, settings)
    return x.view(shape)


def _geometry(x: Tensor, u: Tensor, s: AugmentSettings) -> Tensor:
    """Flip, rotation, zoom, depth and shift in a single resampling; `x` is `(B, C, H, W)`."""
    if not (s.flip or s.rotate_deg or s.scale or s.translate or s.depth):
        return x
    h, w = x.shape[-2:]
    angle = (2 * u[:, _ROTATE] - 1) * math.radians(s.rotate_deg)
    zoom = torch.exp((2 * u[:, _SCALE] - 1) * math.log1p(s.scale))
    stretch = torch.exp((2 * u[:, _DEPTH] - 1) * math.log1p(s.depth))
    mirror = torch.where(u[:, _FLIP] < 0.5, -1.0, 1.0) if s.flip else torch.ones_like(zoom)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift_x = (2 * u[:, _SHIFT_X] - 1) * 2 * s.translate
    shift_y = (2 * u[:, _SHIFT_Y] - 1) * 2 * s.translate
    # From an output position to an input position, both in [-1, 1]; h / w keeps a rotation a rotation.
    row_x = torch.stack([cos * mirror, -sin * mirror * h / w, shift_x], dim=1)
    row_y = torch.stack([sin * w / h / stretch, cos / stretch, (shift_y + 1) / stretch - 1], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), [x.shape[0], 1, h, w], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _intensity(x: Tensor, u: Tensor, s: AugmentSettings) -> Tensor:
    """Gamma, gain, shadow, contrast, brightness and noise; `x` is `(B, C, H, W)`."""
    b, _, h, w = x.shape
    if s.gamma:
        exponent = torch.exp((2 * u[:, _GAMMA] - 1) * math.log1p(s.gamma))
        x = x.clamp_min(1e-6).pow(exponent.view(b, 1, 1, 1))
    if s.gain or s.shadow:
        x = x * (_gain(u, h, s.gain) * _shadow(u, h, w, s.shadow))
    if s.contrast or s.brightness:
        factor = torch.exp((2 * u[:, _CONTRAST] - 1) * math.log1p(s.contrast)).view(b, 1, 1, 1)
        offset = ((2 * u[:, _BRIGHT] - 1) * s.brightness).view(b, 1, 1, 1)
        x = x * factor + (0.5 - 0.5 * factor + offset)
    if s.noise:
        x = x + _noise(u, x.shape[1:].numel()).view_as(x) * (u[:, _NOISE] * s.noise).view(b, 1, 1, 1)
    return x.clamp(0, 1)


def _gain(u: Tensor, h: int, most: float) -> Tensor:
    """A smooth gain along the beam, `(B, 1, H, 1)`: three cosines over the depth."""
    depth = torch.arange(h, device=u.device) / h
    waves = torch.stack([torch.cos(math.pi * k * depth) for k in (1, 2, 3)])  # (3, H)
    weights = (2 * u[:, _GAIN_1 : _GAIN_3 + 1] - 1) * (most / 3)
    return (1 + weights @ waves).view(-1, 1, h, 1)


def _shadow(u: Tensor, h: int, w: int, most: float) -> Tensor:
    """A dark sector that fans out from above the image, `(B, 1, H, W)`, 1 where there is none."""
    y = (torch.arange(h, device=u.device) / h).view(1, h, 1)
    x = (torch.arange(w, device=u.device) / w - 0.5).view(1, 1, w)
    slope = x / (y + 0.5)  # the beams meet half an image height above the top, as those of a curved probe do
    at = ((2 * u[:, _SHADOW_AT] - 1) * 0.6).view(-1, 1, 1)
    width = (0.05 + 0.15 * u[:, _SHADOW_WIDTH]).view(-1, 1, 1)
    start = (0.5 * u[:, _SHADOW_FROM]).view(-1, 1, 1)
    inside = (1 - ((slope - at) / width).square()).clamp_min(0) * ((y - start) * 5).clamp(0, 1)
    dark = torch.where(u[:, _SHADOW] < 0.5, most * u[:, _SHADOW_DARK], 0.0).view(-1, 1, 1)
    return (1 - dark * inside)[:, None]


def _noise(u: Tensor, count: int) -> Tensor:
    """Gaussian noise, `(B, count)`: stretches of one fixed tile, each from a random start."""
    tile = _tile(count, u.device)
    starts = (u[:, _NOISE_AT] * (tile.numel() - count)).long()
    return tile.unfold(0, count, 1).index_select(0, starts)


@functools.lru_cache(maxsize=8)
def _tile(count: int, device: torch.device) -> Tensor:
    # Drawn on the CPU so that every device has the same tile.
    return torch.randn(count + (1 << 18), generator=torch.Generator().manual_seed(0)).to(device)
