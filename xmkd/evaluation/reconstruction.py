"""How well masked parts of volumes are filled in: two baselines that learn nothing, and figures over patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from xmkd.evaluation.statistics import MIN_PATIENTS, TOO_FEW, Interval

MAX_PSNR = 100.0  # dB; a perfect reconstruction would have an infinite one, which has no mean
WINDOW = 3  # voxels to each side in structural similarity, of a Gaussian with a standard deviation of 1


def fill_linearly(volume: Tensor, visible: Tensor) -> Tensor:
    """Fill in what is hidden by linear interpolation between the nearest visible voxels along each axis.

    The three axes' values are weighted by the inverse of the gap's length; beyond the last visible voxel of a line its
    value goes on. Where no line through a voxel holds a visible one, it becomes the mean of what is visible.

    Args:
        volume: `(B, C, D, H, W)`.
        visible: bool `(B, 1, D, H, W)`.

    Returns:
        The volume with hidden voxels replaced.
    """
    total, weights = torch.zeros_like(volume), torch.zeros_like(volume)
    for axis in (-1, -2, -3):
        before, to_before = _nearest(volume, visible, axis)
        after, to_after = (x.flip(axis) for x in _nearest(volume.flip(axis), visible.flip(axis), axis))
        gap = to_before + to_after
        both = (before * to_after + after * to_before) / gap.clamp_min(1)
        value = torch.where(to_before.isinf(), after, torch.where(to_after.isinf(), before, both))
        reach = torch.where(to_before.isinf(), 2 * to_after, torch.where(to_after.isinf(), 2 * to_before, gap))
        weight = torch.where(reach.isinf(), 0.0, 1 / reach.clamp_min(1))
        total += torch.where(reach.isinf(), 0.0, value) * weight
        weights += weight
    mean = (volume * visible).sum((2, 3, 4), keepdim=True) / visible.sum((2, 3, 4), keepdim=True).clamp_min(1)
    filled = torch.where(weights > 0, total / weights.clamp_min(1e-12), mean)
    return torch.where(visible, volume, filled)


def _nearest(volume: Tensor, visible: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The last visible value before each voxel along an axis, and how far away it is (infinite where there is none)."""
    size = volume.shape[axis]
    shape = [1] * volume.ndim
    shape[axis] = size
    place = torch.arange(size, device=volume.device).view(shape)
    last = torch.where(visible, place, -1).cummax(axis).values.expand_as(volume)
    distance = torch.where(last < 0, torch.inf, (place - last).to(volume.dtype))
    return volume.gather(axis, last.clamp_min(0)), distance


def psnr(found: Tensor, volume: Tensor, hidden: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (dB) over the hidden voxels, `(B,)`; the peak is the range of each true volume.

    Args:
        found: `(B, C, D, H, W)`.
        volume: The truth, in the same shape.
        hidden: bool `(B, 1, D, H, W)`.
    """
    error = ((found - volume) ** 2 * hidden).flatten(1).sum(1) / (hidden.expand_as(volume).flatten(1).sum(1))
    return (10 * torch.log10(_extent(volume) ** 2 / error.clamp_min(1e-30))).clamp_max(MAX_PSNR)


def ssim(found: Tensor, volume: Tensor) -> Tensor:
    """Structural similarity of whole volumes, `(B,)`.

    Wang et al., IEEE Transactions on Image Processing 13(4), 2004, eq. 13, in three dimensions. It is defined for
    values from 0 on, so both volumes are shifted by the least true one. Windows are cut off at the border, which takes
    volumes of any depth.

    Args:
        found: `(B, C, D, H, W)`.
        volume: The truth, in the same shape.
    """
    volume, found = volume.float(), found.float()
    extent = _extent(volume).view(-1, 1, 1, 1, 1)
    least = volume.amin(dim=(1, 2, 3, 4), keepdim=True)
    x, y = found - least, volume - least
    inside = _blurred(torch.ones_like(x[:1]))
    mean_x, mean_y, xx, yy, xy = (_blurred(part) / inside for part in (x, y, x * x, y * y, x * y))
    spread = (xx - mean_x**2).clamp_min(0) + (yy - mean_y**2).clamp_min(0)
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (spread + c2))
    return similarity.flatten(1).mean(1)


def _extent(volume: Tensor) -> Tensor:
    """From the least value to the largest, `(B,)`; 1, a standard deviation of the body, where all agree."""
    flat = volume.flatten(1)
    extent = flat.amax(1) - flat.amin(1)
    return extent.where(extent > 0, 1.0)


def _blurred(volume: Tensor) -> Tensor:
    """Sums under a Gaussian window along the last three axes; voxels outside count as 0."""
    distance = torch.arange(-WINDOW, WINDOW + 1, device=volume.device, dtype=volume.dtype)
    weight = torch.exp(-(distance**2) / 2)
    for axis in (-1, -2, -3):
        lines = volume.movedim(axis, -1)
        smooth = F.conv1d(lines.reshape(-1, 1, lines.shape[-1]), weight[None, None], padding=WINDOW)
        volume = smooth.view(lines.shape).movedim(-1, axis)
    return volume


def figures(table: pd.DataFrame, names: list[str]) -> dict[str, Interval]:
    """Mean over patients of each column, with a t interval; a patient's volumes are averaged first."""
    by_patient = table.groupby("patient_id")[names].mean()
    return {name: _mean(by_patient[name].to_numpy(), len(table)) for name in names}


def _mean(values: np.ndarray, samples: int) -> Interval:
    count, mean = len(values), float(values.mean())
    method = "t interval of patients' means"
    if count < MIN_PATIENTS:
        return Interval(mean, None, None, samples, count, method, f"{TOO_FEW} ({count})")
    half = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, samples, count, method)
