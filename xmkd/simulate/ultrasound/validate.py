"""Measurements on phantoms: does the simulated beam obey the laws it claims?

Tests and the documentation call these; each returns plain numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from xmkd.simulate.ultrasound import beam as physics
from xmkd.simulate.ultrasound.beam import Beam
from xmkd.simulate.ultrasound.fan import Fan

RAYLEIGH_SNR = math.sqrt(math.pi / (4 - math.pi))  # mean over standard deviation of a Rayleigh variable: 1.913


def phantom(amplitude: Tensor, attenuation: Tensor, fan: Fan, beam: Beam, *, frames: int = 1, seed: int = 0) -> Tensor:
    """Linear envelope of one sub-band, without TGC, receiver noise or compounding, `(P, T, Q)`.

    Args:
        amplitude: Echo amplitude of the scatterers, broadcastable to `(P, Q)`.
        attenuation: In dB/cm/MHz, broadcastable to `(P, Q)`.
        fan: The geometry.
        beam: The beam.
        frames: Independent pictures of the phantom.
        seed: Of the scatterers.
    """
    generator = torch.Generator().manual_seed(seed)
    scatterers = physics.speckle((frames, fan.samples, fan.lines), generator).permute(2, 0, 1, 3)
    loss = physics.round_trip_db(attenuation.expand(fan.samples, fan.lines), fan, beam)
    factor = physics.gain(loss, torch.zeros(fan.samples)) * amplitude
    return _envelope((scatterers * factor[:, None, None]).contiguous(), fan, beam)


def _envelope(echo: Tensor, fan: Fan, beam: Beam) -> Tensor:
    padded, inner = physics.pulse_input(fan.samples, echo.shape[2], fan.lines)
    physics.focus(echo, physics.lateral_blur(fan, beam), inner)
    return next(iter(physics.envelopes(padded, fan.samples, fan, beam)))


def uniform_speckle(fan: Fan, beam: Beam, *, frames: int = 16, seed: int = 0) -> np.ndarray:
    """Envelope samples of a uniform phantom, at least two resolution cells apart in both directions, `(N,)`."""
    envelope = phantom(torch.ones(1, 1), torch.zeros(1, 1), fan, beam, frames=frames, seed=seed)
    rows = torch.arange(8, fan.samples - 8, math.ceil(2 * beam.pulse_mm / fan.step_mm))
    picked = []
    for row in rows.tolist():
        depth = fan.depths()[row]
        width = float(beam.lateral_fwhm(depth) / ((depth + fan.radius_mm) * fan.step_angle))
        margin = math.ceil(2 * width)  # the point spread function is cut off at the outermost beams
        picked.append(envelope[row, :, margin : fan.lines - margin : math.ceil(2 * width)].flatten())
    return torch.cat(picked).numpy()


@dataclass(frozen=True)
class Speckle:
    """First-order statistics of fully developed speckle.

    Attributes:
        ks: Kolmogorov-Smirnov distance of the linear envelope to the Rayleigh distribution of the same power.
        snr: Mean over standard deviation of the envelope.
        samples: Number of samples, at least two resolution cells apart.
    """

    ks: float
    snr: float
    samples: int


def speckle_statistics(fan: Fan | None = None, beam: Beam | None = None, *, seed: int = 0) -> Speckle:
    """Statistics of a uniform phantom in one sub-band, before compounding and compression."""
    values = uniform_speckle(fan or Fan(), beam or Beam(), seed=seed)
    scale = math.sqrt(float((values.astype(np.float64) ** 2).mean()) / 2)
    ks = float(stats.kstest(values, "rayleigh", args=(0, scale)).statistic)
    return Speckle(ks, float(values.mean() / values.std()), len(values))


def lateral_resolution(
    depths_mm: tuple[float, ...] = (10.0, 20.0, 40.0, 60.0, 75.0), fan: Fan | None = None, beam: Beam | None = None
) -> list[tuple[float, float, float]]:
    """Depth, width (FWHM) of a point target's picture and width by the design formula, all in mm."""
    fan, beam = fan or Fan(), beam or Beam()
    found = []
    for depth in depths_mm:
        row = min(fan.samples - 1, round(depth / fan.step_mm - 0.5))
        echo = torch.zeros(fan.samples, 2, 1, fan.lines)
        echo[row, 0, 0, fan.lines // 2] = 1
        profile = _envelope(echo, fan, beam)[row, 0]
        here = fan.depths()[row]
        pitch = float(here + fan.radius_mm) * fan.step_angle
        found.append((float(here), _fwhm(profile) * pitch, float(beam.lateral_fwhm(here))))
    return found


def axial_resolution(fan: Fan | None = None, beam: Beam | None = None) -> float:
    """Length (FWHM, mm) of a point target's picture along the beam."""
    fan, beam = fan or Fan(), beam or Beam()
    echo = torch.zeros(fan.samples, 2, 1, fan.lines)
    echo[fan.samples // 2, 0, 0, fan.lines // 2] = 1
    return _fwhm(_envelope(echo, fan, beam)[:, 0, fan.lines // 2]) * fan.step_mm


def _fwhm(profile: Tensor) -> float:
    """Full width at half maximum in samples; between samples the logarithm is taken as a parabola, as of a Gaussian."""
    values = profile.double().clamp_min(1e-9).log().numpy()
    peak = int(values.argmax())
    target = values[peak] + math.log(0.5)
    sides = []
    for side in (values[peak:], values[peak::-1]):
        after = int(np.argmax(side < target))
        steps = np.arange(after + 1, dtype=np.float64) ** 2
        sides.append(math.sqrt(float(np.interp(-target, -side[: after + 1], steps))))
    return sum(sides)


def attenuation_slope(attenuation: float = 0.55, fan: Fan | None = None, beam: Beam | None = None) -> float:
    """Attenuation in dB/cm/MHz read off the fall of the echoes of a uniform phantom before TGC."""
    fan, beam = fan or Fan(), beam or Beam()
    envelope = phantom(torch.ones(1, 1), torch.full((1, 1), attenuation), fan, beam, frames=8)
    middle = envelope[:, :, fan.lines // 4 : -fan.lines // 4]
    level = 10 * middle.square().mean((1, 2)).log10().numpy()
    inner = slice(8, fan.samples - 8)
    slope = np.polyfit(fan.depths().numpy()[inner] / 10, level[inner], 1)[0]
    return float(-slope / (2 * beam.frequency_mhz))


def layer_contrast(
    inside: float, outside: float = 0.55, *, fan: Fan | None = None, beam: Beam | None = None
) -> tuple[float, float]:
    """Echo level in dB behind a layer of 20 mm relative to beside it: measured, and by the difference of attenuation.

    Positive behind fluid (enhancement), negative behind an absorbing layer (shadow).
    """
    fan, beam = fan or Fan(), beam or Beam()
    attenuation = torch.full((fan.samples, fan.lines), outside)
    depths = fan.depths()
    layer = (depths > 15) & (depths < 35)
    attenuation[layer, : fan.lines // 2] = inside
    envelope = phantom(torch.ones(1, 1), attenuation, fan, beam, frames=16)
    behind = envelope[(depths > 37) & (depths < 50)].square()
    quarter = fan.lines // 4
    ratio = (
        behind[..., quarter // 2 : quarter + quarter // 2].mean()
        / behind[..., -quarter - quarter // 2 : -quarter // 2].mean()
    )
    step = float(layer.sum()) * fan.step_mm / 10
    return 10 * math.log10(float(ratio)), 2 * beam.frequency_mhz * (outside - inside) * step


def report() -> dict[str, float]:
    """Every figure that the documentation states, by name."""
    speckle = speckle_statistics()
    found = {"speckle KS distance": speckle.ks, "speckle SNR": speckle.snr, "speckle samples": float(speckle.samples)}
    for depth, measured, design in lateral_resolution():
        found[f"lateral FWHM at {depth:.0f} mm (mm)"] = measured
        found[f"lateral FWHM at {depth:.0f} mm, design (mm)"] = design
    found["axial FWHM (mm)"] = axial_resolution()
    for stated in (0.3, 0.55, 1.3):
        found[f"attenuation read off for {stated:g} (dB/cm/MHz)"] = attenuation_slope(stated)
    for name, inside in (("fluid", 0.01), ("absorber", 1.0)):
        measured, expected = layer_contrast(inside)
        found[f"level behind 20 mm of {name} (dB)"] = measured
        found[f"level behind 20 mm of {name}, expected (dB)"] = expected
    return found
