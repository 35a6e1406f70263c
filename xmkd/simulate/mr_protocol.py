"""How a patient is scanned: field, times, geometry, coil and noise, drawn from ranges of ordinary protocols.

Ranges: turbo spin echo of the pelvis with TR 4.1-4.2 s and TE 102-109 ms at 1.5 T (a prolapse study, authorea 334368),
TE 85-120 ms in general; ESUR guidelines for endometrial cancer and endometriosis for slices of 3-5 mm, contrast at
2 min 30 s and b values of 0-50 and 800-1000. Signal-to-noise and shading: assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmkd.simulate.mr_signal import Channel, Coil, Timing
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scan import Scan

Sequence = Literal["t2_sag", "t1_sag", "t1ce_sag", "dwi_sag", "adc_sag"]
SEQUENCES: tuple[Sequence, ...] = ("t2_sag", "t1_sag", "t1ce_sag", "dwi_sag", "adc_sag")

# Signal-to-noise ratio of the outer myometrium, 1.5 and 3 T.
SNR: dict[Channel, tuple[tuple[float, float], tuple[float, float]]] = {
    "t2": ((15, 35), (25, 60)),
    "t1": ((15, 32), (22, 50)),
    "t1ce": ((18, 38), (28, 60)),
    "b0": ((14, 24), (18, 34)),
    "b1000": ((4, 7), (5, 10)),
}
SHADING = ((0.15, 0.30), (0.40, 1.00))  # peak to peak over mean, with and without correction
_VARY = 0.06  # relative SD of the spacing between patients; assumption


@dataclass(frozen=True)
class Machine:
    """A scanner and the habits of those who run it.

    Attributes:
        field: Tesla.
        corrected: Whether coil shading is corrected.
        phase_front_back: Whether phase is encoded from front to back (ghosts of the front wall cross the pelvis).
        scale: Stored value of fat on T2.
        echo: Habitual TE of T2 in ms.
        sharp: Weight of neighbouring pixels (resolution), and of the negative lobe.
    """

    field: float
    corrected: bool
    phase_front_back: bool
    scale: float
    echo: float
    sharp: tuple[float, float]


@dataclass(frozen=True)
class Protocol:
    """One examination.

    Attributes:
        machine: The scanner.
        timing: By channel.
        snr: Of the outer myometrium, by channel.
        coil: Shading.
        spacing: Distance of slices, rows, columns in mm.
        thickness: Of a slice in mm; the rest of the distance is gap.
        centre: x, y, z of the middle of the volume in body coordinates, mm.
        tilt: Of the volume about the left-right axis, rad.
        ghost: Amplitude of ghosts, their distance as a fraction of the columns, and the moving part of the columns.
        band: What a saturation band leaves of the front wall; 1 for none.
    """

    machine: Machine
    timing: dict[Channel, Timing]
    snr: dict[Channel, float]
    coil: Coil
    spacing: tuple[float, float, float]
    thickness: float
    centre: tuple[float, float, float]
    tilt: float
    ghost: tuple[float, float, float]
    band: float


def machine(seeds: Seeds) -> Machine:
    """The scanner that a site's or a patient's seeds give."""
    uniform = seeds.numpy("machine").uniform(size=7)
    strong = uniform[0] < 0.5
    return Machine(
        field=3.0 if strong else 1.5,
        corrected=bool(uniform[1] < 0.65),
        phase_front_back=bool(uniform[2] < 0.5),
        scale=float(280 * 2.6 ** uniform[3]),
        echo=float(90 + 20 * uniform[4]),
        sharp=(float(0.05 + 0.09 * uniform[5]), float(0.025 + 0.025 * uniform[6])),
    )


def draw(seeds: Seeds, wanted: Scan) -> Protocol:
    """Draw how a patient is examined; nothing depends on a label.

    Args:
        seeds: Of the patient and examination.
        wanted: What to acquire.
    """
    rng = seeds.numpy("protocol")
    uniform, normal = rng.uniform(size=24), np.clip(rng.normal(size=16), -2, 2)
    scanner = machine(wanted.scanner(seeds))
    spacing = wanted.fitted(_VARY * normal[0], _VARY * normal[1])
    low, high = SHADING[0 if scanner.corrected else 1]
    strong = scanner.field == 3.0
    return Protocol(
        machine=scanner,
        timing=_timing(scanner, uniform[0:8], normal[2:4]),
        snr={name: _between(*SNR[name][strong], uniform[8 + k]) for k, name in enumerate(SNR)},
        coil=Coil(
            peak_to_peak=_between(low, high, uniform[13]),
            front=0.45 + 0.3 * uniform[14],
            reach=_between(75, 120, uniform[15]),
            drift=(6.28 * uniform[16], 6.28 * uniform[17]),
            dip=_between(0.1, 0.35, uniform[18]) if strong else 0.0,
        ),
        spacing=spacing,
        thickness=spacing[0] * _between(0.85, 1.0, uniform[19]),
        centre=(3.0 * normal[4], -6.0 + 4.0 * normal[5], 14.0 + 5.0 * normal[6]),
        tilt=float(np.deg2rad(4.0) * normal[7]),
        ghost=_ghost(scanner, uniform[20:23]),
        band=float(0.25 + 0.4 * uniform[23]) if normal[8] < (0.6 if scanner.phase_front_back else -0.7) else 1.0,
    )


def _between(low: float, high: float, uniform: float) -> float:
    return float(low + (high - low) * uniform)


def _timing(scanner: Machine, uniform: np.ndarray, normal: np.ndarray) -> dict[Channel, Timing]:
    echo_planar = Timing(tr=_between(3500, 7000, uniform[0]), te=_between(58, 90, uniform[1]),
                         fat_left=_between(0.01, 0.06, uniform[2]))  # fmt: skip
    return {
        "t2": Timing(tr=float(4200 + 350 * normal[0]), te=float(np.clip(scanner.echo + 5 * normal[1], 85, 118))),
        "t1": Timing(tr=_between(450, 650, uniform[3]), te=_between(8, 12, uniform[4])),
        "t1ce": Timing(tr=_between(4.0, 4.5, uniform[5]), te=_between(1.7, 2.5, uniform[6]), flip=11.0,
                       fat_left=_between(0.10, 0.25, uniform[7])),
        "b0": echo_planar,
        "b1000": echo_planar,
    }  # fmt: skip


def _ghost(scanner: Machine, uniform: np.ndarray) -> tuple[float, float, float]:
    """Ghosts of 3-12 % where phase runs from front to back; an assumption."""
    strength = (0.03 + 0.09 * float(uniform[0]) ** 2) * scanner.phase_front_back
    return strength, 0.12 + 0.2 * float(uniform[1]), 0.12 + 0.08 * float(uniform[2])
