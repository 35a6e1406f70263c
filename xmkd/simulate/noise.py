"""Texture: banks of band-limited noise, made once per process; a crop of a bank costs nothing."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_SEED = 20_230_702  # any fixed number: a bank is part of the simulator, not of a patient


@lru_cache(maxsize=16)
def bank(shape: tuple[int, ...], correlation: tuple[float, ...]) -> Tensor:
    """Periodic Gaussian noise of zero mean and unit variance.

    Args:
        shape: Points per axis.
        correlation: Standard deviation of the Gaussian filter per axis, in points; 0 leaves an axis white.

    Returns:
        float32 of that shape. Do not write to it.
    """
    seed = _SEED + sum((k + 1) * round(100 * c) for k, c in enumerate(correlation))
    white = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.rfftn(white)
    for axis, sigma in enumerate(correlation):
        last = axis == len(shape) - 1
        frequency = torch.fft.rfftfreq(shape[axis]) if last else torch.fft.fftfreq(shape[axis])
        window = torch.exp(-2 * (torch.pi * sigma * frequency) ** 2)
        spectrum *= window.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    smooth: Tensor = torch.fft.irfftn(spectrum, s=shape)
    return (smooth - smooth.mean()) / smooth.std()


def crop(noise: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A view of a bank at a random place; one draw per axis whatever the shape.

    Args:
        noise: A bank at least as large as `shape` on every axis.
        shape: Points per axis.
        generator: Draws the place.
    """
    where = torch.rand(len(shape), generator=generator).tolist()
    starts = [int(u * (have - want + 1)) for u, have, want in zip(where, noise.shape, shape, strict=True)]
    return noise[tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))]
