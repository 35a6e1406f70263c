"""Beam physics: from scatterers on a fan to log-compressed echoes.

A picture is made in this order, every step a function of its own: complex `speckle` in the tissue's coordinates, times
the echo level; `gain` and `reverberation` along each beam; `focus` (the point spread function); `envelopes` of two
sub-bands; `compound`; `compress`; `scan_convert`. Nothing is resampled between `focus` and the scan conversion.

Arrays on a fan are `(P, T, Q)` (samples, frames, lines), complex ones `(P, 2, T, Q)`: with the depth first, both
directions of the point spread function are batched matrix products over strided views.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate.ultrasound.fan import Fan, Picture

TAPS = 4  # half length of the axial pulse in samples
_ROWS = 32  # samples per block of the axial product
_FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum over the standard deviation of a Gaussian
_BANK = 1 << 22


@dataclass(frozen=True)
class Beam:
    """What the probe sends, and how well it is focused.

    Attributes:
        frequency_mhz: Centre frequency.
        focus_mm: Depth of the transmit focus.
        waist_mm: Lateral width (FWHM of the echo amplitude) at the focus, apart from `spread`.
        convergence: Growth of the width per mm of distance from the focus.
        spread: Growth of the width per mm of depth, wherever the focus is.
        pulse_mm: Axial width (FWHM) of one sub-band's pulse.
        side_lobes: Amplitude of a pedestal six times as wide; it fills cysts with a faint haze.
        band: Half the distance between the centres of the two sub-bands, in rad/mm.
    """

    frequency_mhz: float = 6.5
    focus_mm: float = 38.0
    waist_mm: float = 0.72
    convergence: float = 0.028
    spread: float = 0.010
    pulse_mm: float = 0.62
    side_lobes: float = 0.02
    band: float = 3.1

    def lateral_fwhm(self, depth: Tensor) -> Tensor:
        """Design formula of the lateral resolution (mm): a Gaussian beam about its focus, and diffraction."""
        focused = torch.hypot(torch.tensor(self.waist_mm), self.convergence * (depth - self.focus_mm))
        return focused + self.spread * depth


def speckle(shape: tuple[int, ...], generator: torch.Generator, sigma: float = 0.7) -> Tensor:
    """Band-limited complex noise of unit mean power, `(..., P, Q)` with real and imaginary part in front, `(2, ...)`.

    White noise would flicker when it is moved by parts of a sample: bilinear reading halves its power midway.

    Args:
        shape: The shape without the complex dimension.
        generator: Where the noise comes from.
        sigma: Width of the Gaussian band limit in samples.
    """
    noise = torch.randn((2, *shape), generator=generator)
    near, far = math.exp(-0.5 / sigma**2), math.exp(-2 / sigma**2)
    for axis in (-1, -2):
        shifted = [noise.roll(k, axis) for k in (1, -1, 2, -2)]
        noise.add_(shifted[0].add_(shifted[1]), alpha=near).add_(shifted[2].add_(shifted[3]), alpha=far)
    return noise.mul_(math.sqrt(0.5) / (1 + 2 * near**2 + 2 * far**2))


@lru_cache(maxsize=1)
def _bank() -> Tensor:
    return torch.randn(_BANK, generator=torch.Generator().manual_seed(20))


def receiver_noise(shape: tuple[int, ...], offset: int) -> Tensor:
    """White noise from a bank that every process makes alike, as a view.

    Args:
        shape: Its shape.
        offset: Where in the bank to begin; any non-negative number.

    Raises:
        ValueError: The shape holds more numbers than the bank.
    """
    count = math.prod(shape)
    if count > _BANK:
        raise ValueError(f"{shape} asks for {count} samples of noise; the bank holds {_BANK}")
    start = offset % (_BANK - count + 1)
    return _bank()[start : start + count].view(shape)


def running_sum(values: Tensor, decay: float = 1.0) -> Tensor:
    """Sum along the beam of `(P, ...)`, earlier samples weighted by `decay` per sample."""
    total = torch.empty_like(values)
    total[0] = values[0]
    rows = total.unbind(0)
    for before, here, value in zip(rows, rows[1:], values.unbind(0)[1:], strict=False):
        torch.add(value, before, alpha=decay, out=here)
    return total


def round_trip_db(attenuation: Tensor, fan: Fan, beam: Beam) -> Tensor:
    """Loss in dB from the face to each sample and back, `(P, ...)`, of an attenuation in dB/cm/MHz."""
    return running_sum(attenuation).mul_(2 * beam.frequency_mhz * fan.step_mm / 10)


def gain(loss_db: Tensor, tgc_db: Tensor, most_db: float = 7.0) -> Tensor:
    """Amplitude factor of each sample, `(P, ...)`.

    Args:
        loss_db: Loss on the way, `(P, ...)`.
        tgc_db: Time gain compensation, `(P,)`.
        most_db: Where it is clamped: the receiver saturates behind large amounts of fluid.
    """
    level = tgc_db.reshape(-1, *[1] * (loss_db.ndim - 1)) - loss_db
    return level.clamp_(max=most_db).mul_(math.log(10) / 20).exp_()


def reverberation(gas: Tensor, factor: Tensor, fan: Fan, *, length_mm: float, spacing_mm: float) -> Tensor:
    """Dirty shadow: clutter amplitude behind gas, `(P, ...)`, falling off with depth and rippled by reflections.

    Args:
        gas: Share of gas in each sample, `(P, ...)`.
        factor: Amplitude factor of each sample, as by `gain`: only insonated gas rings.
        fan: The geometry.
        length_mm: Over which the clutter falls to 1/e.
        spacing_mm: Distance between the repeated echoes.
    """
    clutter = running_sum(gas * factor, decay=math.exp(-fan.step_mm / length_mm)).mul_(fan.step_mm)
    ripple = 1 + 0.35 * torch.sin(2 * math.pi / spacing_mm * fan.depths())
    return clutter.mul_(ripple.reshape(-1, *[1] * (clutter.ndim - 1)))


def pulse_input(samples: int, frames: int, lines: int) -> tuple[Tensor, Tensor]:
    """A zeroed buffer with the rows that `envelopes` reads beyond either end, and its inner part `(P, 2, T, Q)`."""
    blocks = -(-samples // _ROWS)
    padded = torch.zeros(blocks * _ROWS + 2 * TAPS, 2, frames, lines)
    return padded, padded[TAPS : TAPS + samples]


def lateral_blur(fan: Fan, beam: Beam, rows: int = 4) -> Tensor:
    """Toeplitz matrices of the blur across the beams, `(P / rows, Q, Q)`, one for every `rows` depths.

    Their rows have unit energy, so that speckle is as bright at every depth.

    Raises:
        ValueError: The number of samples is no multiple of `rows`.
    """
    if fan.samples % rows:
        raise ValueError(f"{fan.samples} samples are no multiple of {rows}")
    depth = fan.depths().view(-1, rows).mean(1)[:, None]
    pitch = (depth + fan.radius_mm) * fan.step_angle
    offset = torch.arange(1 - fan.lines, fan.lines, dtype=torch.float32)
    width = offset * pitch * (_FWHM / beam.lateral_fwhm(depth))
    kernel = torch.exp(-0.5 * width.square()) + beam.side_lobes * torch.exp(-0.5 * (width / 6).square())
    kernel /= kernel.square().sum(1, keepdim=True).sqrt()
    return kernel.unfold(1, fan.lines, 1).flip(2)  # the windows of the kernel are a Hankel matrix: mirror its columns


def focus(echo: Tensor, blur: Tensor, out: Tensor) -> None:
    """Blur `(P, 2, T, Q)` across the beams by matrices of `lateral_blur`, into `out`."""
    blocks, lines = blur.shape[:2]
    torch.bmm(echo.reshape(blocks, -1, lines), blur, out=out.view(blocks, -1, lines))


@lru_cache(maxsize=32)
def _pulse_blocks(step_mm: float, pulse_mm: float, band: float) -> Tensor:
    """Both sub-bands' pulses as one matrix, `(rows x band x complex, (rows + 2 taps) x complex)`."""
    taps = torch.arange(-TAPS, TAPS + 1, dtype=torch.float32)
    envelope = torch.exp(-0.5 * (taps * step_mm * _FWHM / pulse_mm) ** 2)
    envelope /= envelope.square().sum().sqrt()
    even, odd = (envelope * f(taps * step_mm * band) for f in (torch.cos, torch.sin))
    blocks = torch.zeros(_ROWS, 2, 2, _ROWS + 2 * TAPS, 2)
    for row in range(_ROWS):
        span = slice(row, row + 2 * TAPS + 1)
        for index, sign in enumerate((1.0, -1.0)):
            blocks[row, index, 0, span, 0] = even
            blocks[row, index, 0, span, 1] = -sign * odd
            blocks[row, index, 1, span, 0] = sign * odd
            blocks[row, index, 1, span, 1] = even
    return blocks.reshape(_ROWS * 4, -1)


def envelopes(padded: Tensor, samples: int, fan: Fan, beam: Beam) -> Iterator[Tensor]:
    """Axial pulse and envelope of the two sub-bands, each `(P, T, Q)`, from a buffer by `pulse_input`."""
    _, parts, frames, lines = padded.shape
    plane = frames * lines
    blocks = (len(padded) - 2 * TAPS) // _ROWS
    windows = padded.as_strided(
        (blocks, (_ROWS + 2 * TAPS) * parts, plane), (_ROWS * parts * plane, plane, 1), padded.storage_offset()
    )
    matrix = _pulse_blocks(fan.step_mm, beam.pulse_mm, beam.band)
    bands = torch.bmm(matrix.expand(blocks, *matrix.shape), windows)
    bands = bands.view(blocks * _ROWS, 2, 2, frames, lines)[:samples]
    for index in range(2):
        real, imaginary = bands[:, index].unbind(1)
        yield (real * real).addcmul_(imaginary, imaginary).sqrt_()


def compound(bands: Iterator[Tensor], smoothing: float = 0.5) -> Tensor:
    """Mean of the envelopes, mixed with its mean over three samples along and across the beam, `(P, T, Q)`."""
    first = next(bands)
    for band in bands:
        first += band
    first *= 0.5
    along = first.clone()
    along[1:] += first[:-1]
    along[:-1] += first[1:]
    across = along.clone()
    across[..., 1:] += along[..., :-1]
    across[..., :-1] += along[..., 1:]
    return first.mul_(1 - smoothing).add_(across, alpha=smoothing / 9)


def compress(envelope: Tensor, *, gain_db: float, range_db: float, curve: float) -> Tensor:
    """Log compression to 0..1: `gain_db` above `range_db` below the loudest shown, then a grey map.

    Args:
        envelope: Amplitudes, any shape; changed in place.
        gain_db: Added to every level.
        range_db: Dynamic range: this far below 0 dB is black.
        curve: Power of the grey map; above 1 it darkens the mid greys.
    """
    level = envelope.clamp_(min=1e-6).log_().mul_(20 / (math.log(10) * range_db)).add_(1 + gain_db / range_db)
    return level.clamp_(0, 1).pow_(curve)


def scan_table(fan: Fan, picture: Picture) -> tuple[Tensor, Tensor]:
    """Where each pixel lies in the fan, `(H, W, 2)` for `grid_sample`, and whether it does at all, `(H, W)`."""
    index = fan.index(*picture.points())
    return index, (index.abs() <= 1).all(-1)


def scan_convert(polar: Tensor, table: Tensor, inside: Tensor, *, mode: str = "bilinear", over: int = 1) -> Tensor:
    """Polar `(P, T, Q)` to pictures `(T, H, W)`; outside the fan 0.

    Args:
        polar: What is shown.
        table: By `scan_table`; of a picture `over` times as fine where that is above 1.
        inside: Which pixels of the result lie in the fan, `(H, W)`.
        mode: Interpolation: "bilinear" or "nearest".
        over: Pixels of the table per pixel of the result, along each side; their mean is shown.
    """
    frames = polar.transpose(0, 1)[None]
    shown = F.grid_sample(frames, table[None], mode=mode, padding_mode="border", align_corners=False)[0]
    if over > 1:
        shown = F.avg_pool2d(shown, over)
    return shown.mul_(inside)
