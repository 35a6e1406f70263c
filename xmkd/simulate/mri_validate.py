"""Checks of rendered volumes against what they are meant to be: contrasts, noise, shading, masks, geometry."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from xmkd.simulate import anatomy, mr_protocol, mr_signal, mri
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.grids import Grid
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Volume
from xmkd.simulate.scene import ORGANS

_TILE, _FEWEST = 8, 20  # pixels; tiles
_WALL_MM = 3.0
_RAYLEIGH = (2 - np.pi / 2) ** 0.5  # SD of the magnitude of noise alone, over that of each part


def organ_means(volume: Volume, margin: int = 1) -> dict[str, float]:
    """Mean of every organ that there is, `margin` voxels within its border in the slice.

    Args:
        volume: Any.
        margin: Voxels.
    """
    found = {}
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = ndimage.generate_binary_structure(2, 1)
    for value, organ in enumerate(ORGANS):
        inside = volume.mask == value
        if margin:
            inside = ndimage.binary_erosion(inside, structure, iterations=margin)
        if value and inside.sum() >= 10:
            found[organ] = float(volume.array[inside].mean())
    return found


@dataclass(frozen=True)
class Noise:
    """What the receiver adds.

    Attributes:
        sd: Of each part of the complex noise, in stored units, from the air around the patient.
        snr: Mean of the uterus' wall over `sd`.
    """

    sd: float
    snr: float


def noise(volume: Volume) -> Noise:
    """Measure noise in the air around the patient, and the signal of the myometrium.

    Raises:
        ValueError: There is no air or no uterus in the volume.
    """
    wall = organ_means(volume).get("uterus", 0.0)
    count = [n // _TILE for n in volume.array.shape[1:]]
    tiles = volume.array[:, : count[0] * _TILE, : count[1] * _TILE].astype(np.float64)
    tiles = tiles.reshape(len(tiles), count[0], _TILE, count[1], _TILE).transpose(0, 1, 3, 2, 4)
    mean, spread = tiles.mean((3, 4)), tiles.std((3, 4))
    # The magnitude of noise alone has a mean of 1.91 SD, whatever the noise: nothing else in the body has.
    air = (mean > 1.65 * spread) & (mean < 2.2 * spread) & (mean < 0.3 * wall)
    if air.sum() < _FEWEST:
        raise ValueError("no air or no uterus to measure noise by")
    sd = float(np.median(spread[air]) / _RAYLEIGH)
    return Noise(sd, wall / sd)


def shading(factor: np.ndarray) -> float:
    """Peak-to-peak over mean of a coil's shading, `mr_signal.shading` on a grid."""
    return float((factor.max() - factor.min()) / factor.mean())


@dataclass(frozen=True)
class Alignment:
    """How well a mask lies on its picture.

    Attributes:
        shift: The shift of the mask (slices, rows, columns) at which it explains most of the picture's variance.
        share: What it explains unshifted, over that most.
    """

    shift: tuple[int, int, int]
    share: float


def alignment(volume: Volume, reach: int = 2) -> Alignment:
    """Compare a mask with its picture at all shifts of up to `reach` voxels."""
    core = tuple(slice(reach, n - reach) for n in volume.array.shape)
    image = volume.array[core].astype(np.float64).ravel()
    image -= image.mean()
    mask = volume.mask.copy()
    pixel = float(np.linalg.norm(volume.affine[:3, 2]))
    plane = np.zeros((3, 3, 3), dtype=bool)
    plane[1] = ndimage.generate_binary_structure(2, 1)
    for number, organ in enumerate(("bladder", "rectum")):  # what they hold is unlike their wall
        inside = ndimage.binary_erosion(mask == ORGANS.index(organ), plane, iterations=max(1, round(_WALL_MM / pixel)))
        mask[inside] = len(ORGANS) + number
    count = len(ORGANS) + 2
    explained: dict[tuple[int, int, int], float] = {}
    steps = range(-reach, reach + 1)
    for shift in ((d, h, w) for d in steps for h in steps for w in steps):
        moved = mask[tuple(slice(c.start - d, c.stop - d) for c, d in zip(core, shift, strict=True))].ravel()
        total = np.bincount(moved, image, minlength=count)
        explained[shift] = float((total**2 / np.bincount(moved, minlength=count).clip(1)).sum())
    best = max(explained, key=lambda shift: explained[shift])
    return Alignment(best, explained[0, 0, 0] / explained[best])


def summary(patients: int = 24) -> dict[str, float]:
    """What the checks find on T2 volumes of simulated patients, for the documentation.

    Args:
        patients: How many.

    Returns:
        Median signals over that of the uterus' wall, the least and largest share of the asked SNR that was measured
        (where there is air), the least share of the picture that the mask explains where it lies, the largest error of
        geometry in mm and the range of the shading.
    """
    signals: dict[str, list[float]] = {}
    ratios, shares, errors = [], [], []
    corrected: list[float] = []
    raw: list[float] = []
    for number in range(patients):
        seeds = Seeds(0, f"validation {number}", "mri")
        volume = mri.render(anatomy.draw(seeds, "pod", "mri"), Adhesion(), seeds)["t2_sag"]
        protocol = mr_protocol.draw(seeds, mri.USUAL)
        grid = mri.grid_of(protocol, mri.USUAL.shape)
        means = organ_means(volume)
        for organ, value in means.items():
            signals.setdefault(organ, []).append(value / means["uterus"])
        with contextlib.suppress(ValueError):  # no air in this field of view
            ratios.append(noise(volume).snr / volume.truth["snr_t2"])
        shares.append(alignment(volume).share)
        errors.append(geometry_error(volume, grid))
        (corrected if protocol.machine.corrected else raw).append(
            shading(mr_signal.shading(protocol.coil, grid).numpy())
        )
    found = {f"signal {organ}": float(np.median(values)) for organ, values in signals.items()}
    found |= {"snr measured/asked, least": min(ratios), "snr measured/asked, largest": max(ratios)}
    found |= {"mask share, least": min(shares), "geometry error mm, largest": max(errors)}
    for name, values in (("corrected", corrected), ("uncorrected", raw)):
        if values:
            found |= {f"shading {name}, least": min(values), f"shading {name}, largest": max(values)}
    return found


def geometry_error(volume: Volume, grid: Grid) -> float:
    """Largest distance in mm between where the affine and where the anatomy has the corners of a sagittal volume."""
    last = [n - 1 for n in volume.array.shape]
    worst = 0.0
    for d, h, w in itertools.product(*((0, n) for n in last)):
        truth = np.array([float(grid.x[d, 0, 0]), float(grid.y[h, w]), float(grid.z[h, w])])
        worst = max(worst, float(np.abs(volume.affine @ (d, h, w, 1) - [*truth, 1]).max()))
    return worst
