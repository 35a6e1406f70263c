"""The ultrasound machine and its settings: drawn per examination, with the habits of a hospital's maker.

Nothing here knows of the disease. Ranges follow what makers' data sheets and textbooks name for endovaginal probes;
those of gain, grey map and persistence are assumptions.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate.randomness import Seeds
from xmkd.simulate.ultrasound.beam import Beam
from xmkd.simulate.ultrasound.fan import Fan, Picture

_SAMPLES, _LINES = (256, 384), (144, 216)  # of a fan that is shown on a small or on a large picture


@dataclass(frozen=True)
class Maker:
    """Habits of one maker's machines.

    Attributes:
        name: A made-up name.
        range_db: Usual dynamic range.
        curve: Usual power of the grey map.
        smoothing: Strength of the speckle filter, 0 to 1.
        mirrored: Whether the front of the patient is shown on the right.
        zoom: Width of the picture over the depth shown: small crops the fan's sides.
        corner: Corner of the text block: "left" or "right".
        ruler: Side of the depth ruler.
    """

    name: str
    range_db: float
    curve: float
    smoothing: float
    mirrored: bool
    zoom: float
    corner: str
    ruler: str


MAKERS = (
    Maker("Alder", 56.0, 1.15, 0.65, False, 1.00, "right", "left"),
    Maker("Birch", 54.0, 1.20, 0.50, False, 1.08, "left", "right"),
    Maker("Cedar", 60.0, 1.05, 0.85, False, 1.04, "right", "right"),
    Maker("Dogwood", 54.0, 1.15, 0.60, True, 1.15, "left", "left"),
)


@dataclass(frozen=True, eq=False)
class Machine:
    """One examination's settings.

    Attributes:
        maker: Whose machine.
        fan: Its fan.
        beam: Its beam.
        picture: Its screen.
        tgc_db: Time gain compensation at each sample, `(P,)`.
        noise_db: Receiver noise before TGC, relative to myometrium at the face.
        contact_db: Loss of each line at the face, `(Q,)`.
        gain_db: Overall gain of the display.
        range_db: Dynamic range.
        curve: Power of the grey map.
        smoothing: Strength of the speckle filter.
        persistence: Weight of the frame before.
        haze: Amplitude of the clutter behind gas.
        haze_mm: Its decay length and the distance of its ripples.
        near_haze: Amplitude of the clutter in front, from reverberation in the vaginal wall, at each sample, `(P,)`.
        rings: Amplitude of the echoes of the probe's own face, `(P,)`.
        noise_offset: Where in the noise bank this examination begins.
    """

    maker: Maker
    fan: Fan
    beam: Beam
    picture: Picture
    tgc_db: Tensor
    noise_db: float
    contact_db: Tensor
    gain_db: float
    range_db: float
    curve: float
    smoothing: float
    persistence: float
    haze: float
    haze_mm: tuple[float, float]
    near_haze: Tensor
    rings: Tensor
    noise_offset: int


def maker_of(site: str) -> Maker:
    """The maker whose machines a hospital has: the same for a name, wherever and whenever it is asked."""
    digest = hashlib.blake2b(site.encode(), digest_size=4).digest()
    return MAKERS[int.from_bytes(digest, "big") % len(MAKERS)]


def draw(seeds: Seeds, shape: tuple[int, int], reach_mm: float, site: str | None = None) -> Machine:
    """Draw a machine and its settings.

    Args:
        seeds: Component "machine" of the examination.
        shape: Rows and columns of the picture.
        reach_mm: Depth that is to be shown at least, from the anatomy.
        site: The hospital; None draws a maker at random.
    """
    rng = seeds.numpy("machine")
    normal, uniform, unevenness = rng.normal(size=24), rng.uniform(size=16), rng.normal(size=12)
    maker = MAKERS[int(uniform[0] * len(MAKERS))] if site is None else maker_of(site)
    fan = _fan(shape, reach_mm, normal[0:4])
    beam = _beam(normal[4:7], float(uniform[1]))
    faces_empty = float(np.clip(92 + 10 * normal[14], 70, 120))  # depth (mm) at which noise equals myometrium
    return Machine(
        maker=maker,
        fan=fan,
        beam=beam,
        picture=_picture(shape, fan, maker, uniform[2:5]),
        tgc_db=_compensation(fan, beam, normal[7:14]),
        noise_db=-2 * beam.frequency_mhz * 0.56 * faces_empty / 10,
        contact_db=_contact(fan.lines, unevenness, float(uniform[5])),
        gain_db=float(np.clip(-34 + 1.8 * normal[15], -38, -30)),
        range_db=float(np.clip(maker.range_db + 2.5 * normal[16], 49, 66)),
        curve=maker.curve * float(np.clip(1 + 0.06 * normal[17], 0.85, 1.2)),
        smoothing=maker.smoothing,
        persistence=0.3 * float(uniform[6]),
        haze=0.10 * float(np.exp(0.4 * normal[18])),
        haze_mm=(float(10 + 12 * uniform[7]), float(4 + 3 * uniform[8])),
        near_haze=0.16 * float(np.exp(0.5 * normal[19])) * torch.exp(-fan.depths() / 11.0),
        rings=_rings(fan, float(np.exp(0.35 * normal[20]))),
        noise_offset=int(uniform[9] * (1 << 31)),
    )


def _fan(shape: tuple[int, int], reach_mm: float, normal: np.ndarray) -> Fan:
    """Depth, angle and radius; a large picture is scanned more finely."""
    large = max(shape) > 240
    return Fan(
        depth_mm=float(np.clip(reach_mm + 14 + 7 * abs(normal[0]) + 4 * normal[1], 58, 112)),
        half_angle=math.radians(float(np.clip(66 + 4.5 * normal[2], 56, 76))),
        radius_mm=float(np.clip(10.5 + normal[3], 8.5, 13)),
        samples=_SAMPLES[large],
        lines=_LINES[large],
    )


def _beam(normal: np.ndarray, uniform: float) -> Beam:
    """A higher frequency makes it narrower and its pulse shorter."""
    frequency = float(np.clip(6.5 + 0.7 * normal[0], 5.0, 8.0))
    return Beam(
        frequency_mhz=frequency,
        focus_mm=float(np.clip(38 + 8 * normal[1], 22, 58)),
        waist_mm=0.72 * (6.5 / frequency),
        pulse_mm=0.54 * (6.5 / frequency) * float(np.clip(1 + 0.1 * normal[2], 0.8, 1.25)),
        side_lobes=0.012 + 0.018 * uniform,
    )


def _picture(shape: tuple[int, int], fan: Fan, maker: Maker, uniform: np.ndarray) -> Picture:
    """The whole depth is on the screen; its top cuts the fan's corners off, or does not."""
    top = -float(uniform[0] * 3 + 2) if uniform[1] < 0.5 else -fan.radius_mm * (1 - math.cos(fan.half_angle)) - 3
    zoom = maker.zoom * (0.97 + 0.12 * float(uniform[2]))
    tall = fan.depth_mm - top + 2
    return Picture(shape, max(tall / shape[0], zoom * tall / shape[1]), top, maker.mirrored)


def _compensation(fan: Fan, beam: Beam, normal: np.ndarray) -> Tensor:
    """Time gain compensation in dB, `(P,)`: for an attenuation near that of tissue, and as the sliders are set."""
    attenuation = float(np.clip(0.56 + 0.025 * normal[0], 0.49, 0.66))  # dB/cm/MHz
    sliders = _between(normal[1:], fan.samples)
    return fan.depths() * (2 * beam.frequency_mhz * attenuation / 10) + sliders


def _between(knots: np.ndarray, count: int) -> Tensor:
    """Linear interpolation between knots that are evenly spread over `count` points."""
    values = torch.from_numpy(knots).float()[None, None]
    return F.interpolate(values, size=count, mode="linear", align_corners=True)[0, 0]


def _contact(lines: int, normal: np.ndarray, uniform: float) -> Tensor:
    """Loss per line in dB: smooth unevenness, the fall-off to the fan's edges, sometimes lost contact at one edge."""
    uneven = _between(1.2 * normal[:11], lines)
    across = torch.linspace(-1, 1, lines)
    fall = -7.0 * across.abs() ** 6
    if uniform < 0.25:
        side = 1.0 if normal[11] > 0 else -1.0
        fall = fall - 16.0 * torch.sigmoid((side * across - 0.78) / 0.05)
    return uneven + fall


def _rings(fan: Fan, strength: float) -> Tensor:
    """Echoes between the crystal and the face: bright bands fixed to the picture."""
    depth = fan.depths()
    place, height, width = torch.tensor(((0.5, 30.0, 0.30), (2.0, 7.0, 0.25), (3.4, 3.0, 0.30), (4.9, 1.3, 0.35))).T
    bands: Tensor = height * torch.exp(-((depth[:, None] - place) / width).square())
    return bands.sum(1) * strength
