"""Pelvic CT: axial slices in the portal venous phase of the same anatomy as the MRI, in HU, with masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate import grids, noise, organs, surroundings, tissues
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.grids import Grid
from xmkd.simulate.organs import Evidence
from xmkd.simulate.paint import Look, paint
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Header, Volume
from xmkd.simulate.scan import Scan, affine
from xmkd.simulate.scene import Region
from xmkd.simulate.surroundings import Surroundings
from xmkd.simulate.textures import Texture, Textures
from xmkd.simulate.tissues import Values

# HU per unit of texture; fat's septa and vessels are dark on MRI and dense on CT. Assumptions.
_RIPPLE: dict[Texture, float] = {
    "soft": 4.0, "grain": 2.0, "fat": -95.0, "subcutis": -80.0, "muscle": -30.0, "gluteal": -55.0, "stool": 65.0,
    "marrow": 45.0, "chyme": 12.0, "plexus": 55.0,
}  # fmt: skip
_NOISE = (9.0, 14.0)  # HU SD of slices of 3 mm at the middle of the body; assumption
_PEAK = 0.30  # per mm: where the noise of a reconstruction with a soft kernel is strongest; assumption
_VARY = 0.05  # relative SD of the spacing between patients; assumption
_TABLE = "table"
USUAL = Scan((40, 192, 192), (4.0, 1.9, 1.9))


@dataclass(frozen=True)
class Protocol:
    """One examination.

    Attributes:
        spacing: Distance of slices, rows, columns in mm.
        thickness: Of a slice in mm; slices touch or overlap.
        centre: x, y, z of the middle of the volume in body coordinates, mm.
        kvp: Tube voltage, kV.
        noise: SD in the middle of the body, HU.
        streaks: Strength of streaks between the hips, HU.
        oral: HU of contrast in the small bowel; 0 for none.
        excreted: HU of contrast in the bladder; 0 for none.
    """

    spacing: tuple[float, float, float]
    thickness: float
    centre: tuple[float, float, float]
    kvp: float
    noise: float
    streaks: float
    oral: float
    excreted: float


def draw(seeds: Seeds, wanted: Scan) -> Protocol:
    """Draw how a patient is examined; nothing depends on a label. A site has its own voltage and noise."""
    machine = wanted.scanner(seeds).numpy("machine").uniform(size=3)
    rng = seeds.numpy("protocol")
    uniform, normal = rng.uniform(size=6), np.clip(rng.normal(size=6), -2, 2)
    spacing = wanted.fitted(_VARY * normal[0], _VARY * normal[1])
    low, high = _NOISE
    level = (low + (high - low) * machine[1]) * np.exp(0.1 * normal[2]) * (3.0 / min(spacing[0], 3.0)) ** 0.5
    return Protocol(
        spacing=spacing,
        thickness=spacing[0],
        centre=(4 * normal[3], -2 + 5 * normal[4], 22 + 6 * normal[5]),
        kvp=float((100, 120)[int(machine[0] > 0.5)]),
        noise=float(level),
        streaks=float(2.5 + 3 * uniform[0]),
        oral=float(160 + 120 * uniform[1]) if uniform[2] < 0.35 else 0.0,
        excreted=float(150 + 250 * uniform[3]) if uniform[4] < 0.15 else 0.0,
    )


def render(pelvis: Pelvis, evidence: Evidence, seeds: Seeds, wanted: Scan = USUAL) -> Volume:
    """Examine a patient.

    Args:
        pelvis: Her anatomy.
        evidence: What the examination shows of the disease; nothing else depends on the label.
        seeds: Of the patient and examination.
        wanted: What to acquire.

    Returns:
        HU, int16 `(D, H, W)`: slices from foot to head, rows from front to back, columns from her right to her left.
    """
    protocol = draw(seeds, wanted)
    grid = grid_of(protocol, wanted.shape)
    with torch.inference_mode():
        around = surroundings.fitted(surroundings.draw(seeds), pelvis)
        composition = tissues.draw(seeds.numpy("tissue"), menopause=pelvis.menopause)
        generator = seeds.torch("texture")
        spacing = (wanted.spacing[2], wanted.spacing[0], wanted.spacing[1])
        painted, labels = paint(
            _everything(around, pelvis, evidence, grid), grid, _looks(composition, protocol),
            Textures(grid.shape, spacing, generator), background="peritoneal_fat",
        )  # fmt: skip
        measured = _measure(painted[0], protocol, grid, generator).round_().clamp_(-1024, 3071)
    return Volume(
        _axial(measured.to(torch.int16)),
        affine(np.eye(3)[::-1], protocol.spacing, protocol.centre, wanted.shape),  # slices along z, columns along x
        _axial(labels),
        "ct",
        protocol.thickness,
        _header(protocol),
        {"noise_hu": protocol.noise},
    )


def grid_of(protocol: Protocol, shape: tuple[int, int, int]) -> Grid:
    """The voxels in body coordinates, `(W, D, H)`: as sagittal slices, of which each voxel is thick along z."""
    slices, rows, columns = shape
    distance, row, column = protocol.spacing
    return grids.stack(protocol.centre, (columns, slices, rows), (column, distance, row), blur=1)


def _axial(values: Tensor) -> np.ndarray:
    """`(X, P, Q)` to slices from foot to head, rows from front to back, columns to her left."""
    axial: np.ndarray = values.permute(1, 2, 0).flip(0).contiguous().numpy()
    return axial


def _everything(around: Surroundings, pelvis: Pelvis, evidence: Evidence, grid: Grid) -> Iterator[Region]:
    yield from surroundings.scene(around, pelvis, evidence, grid)
    body = surroundings.outline(around, organs.bowel(pelvis, Adhesion()), grid)
    rest = surroundings.resting(around)  # the lowest skin: she lies on the table
    bend = 0.0006 * grid.x.square()
    top = grid.y - rest - 4 + bend
    yield Region(_TABLE, torch.maximum((top - 1.5).abs() - 1.5, 4 - body), edge=0.4)


def _looks(composition: dict[str, Values], protocol: Protocol) -> dict[str, Look]:
    looks = {}
    for name, values in composition.items():
        texture, amplitude = tissues.TABLE[name].texture
        looks[name] = Look((values.hu,), (_RIPPLE[texture] if amplitude else 0.0,), texture)
    if protocol.oral:
        for name in ("bowel_content", "chyme"):
            looks[name] = Look((protocol.oral,), (30.0,), "chyme")
    if protocol.excreted:
        looks["urine"] = Look((protocol.excreted,), (2.0,), "grain")
    looks[_TABLE] = Look((-120.0,), (0.0,), "grain")
    return looks


@lru_cache(maxsize=2)
def _noise_bank(shape: tuple[int, ...], pixel: tuple[float, ...]) -> Tensor:
    """Noise of filtered back-projection, unit SD: its power rises with frequency and falls beyond the peak."""
    white = noise.bank(shape, (0.0, 0.0, 0.0))
    fx = torch.fft.fftfreq(shape[0], pixel[0])[:, None, None]
    fy = torch.fft.rfftfreq(shape[2], pixel[2])[None, None, :]
    f = torch.hypot(fx, fy) / _PEAK
    window = (f * torch.exp(0.5 * (1 - f.square()))).clamp(min=0.05)
    spectrum = torch.fft.rfftn(white, dim=(0, 2)) * window
    shaped: Tensor = torch.fft.irfftn(spectrum, s=(shape[0], shape[2]), dim=(0, 2))
    return shaped / shaped.std()


def _measure(hu: Tensor, protocol: Protocol, grid: Grid, generator: torch.Generator) -> Tensor:
    """Add noise, more of it in the middle of the body and between the hips, where there are streaks, too."""
    shape = grid.shape
    bank = _noise_bank(tuple(int(1.2 * n) for n in shape), tuple(round(s, 1) for s in protocol.spacing[::-1]))
    middle = torch.exp(-((grid.y + 5) / 95).square())
    hips = torch.exp(-(((grid.z - 6) / 26) ** 2))
    sd = protocol.noise * (0.55 + 0.45 * middle + 0.25 * hips) * (1 - 0.25 * (grid.x / 200).square()).clamp(min=0.5)
    streaks = noise.crop(noise.bank((1, shape[1] + 8, shape[2] + 32), (0.0, 0.7, 1.0)), (1, *shape[1:]), generator)
    between = torch.exp(-((grid.x / 95) ** 4)) * (protocol.streaks * hips * streaks)
    return hu + noise.crop(bank, shape, generator) * sd + between


def _header(protocol: Protocol) -> Header:
    """Acquisition facts under DICOM keywords."""
    return {"KVP": protocol.kvp, "ConvolutionKernel": "soft", "ContrastBolusAgent": "iodinated, simulated"}
