"""Pelvic MRI: sagittal T2, T1, contrast-enhanced T1 and diffusion of one anatomy, painted in one pass, with masks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate import grids, mr_protocol, mr_signal, surroundings, tissues
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.grids import Grid
from xmkd.simulate.mr_protocol import Protocol, Sequence
from xmkd.simulate.mr_signal import Channel
from xmkd.simulate.organs import Evidence
from xmkd.simulate.paint import Look, paint
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Header, Volume
from xmkd.simulate.scan import Scan, affine
from xmkd.simulate.textures import Textures
from xmkd.simulate.tissues import Values

_CHANNELS: dict[Sequence, tuple[Channel, ...]] = {
    "t2_sag": ("t2",), "t1_sag": ("t1",), "t1ce_sag": ("t1ce",), "dwi_sag": ("b1000",), "adc_sag": ("b0", "b1000"),
}  # fmt: skip
_TRAIN = {"t2_sag": 19, "t1_sag": 3}  # echoes of a turbo spin echo
_DIFFUSION_MM = 2.2  # in-plane resolution of echo planar imaging
_B0_FLOOR = 4.0  # noise SDs below which no ADC is given
_FAT_OF_T2 = 0.3  # signal of fat on T2, to which stored values are scaled
USUAL = Scan((24, 192, 192), (4.4, 1.12, 1.12))


def render(
    pelvis: Pelvis,
    evidence: Evidence,
    seeds: Seeds,
    wanted: Scan = USUAL,
    sequences: tuple[Sequence, ...] = ("t2_sag",),
) -> dict[str, Volume]:
    """Examine a patient.

    Args:
        pelvis: Her anatomy.
        evidence: What the examination shows of the disease; nothing else depends on the label.
        seeds: Of the patient and examination.
        wanted: What to acquire.
        sequences: Which, of `mr_protocol.SEQUENCES`.

    Returns:
        One volume per sequence, all of the same grid and mask: int16 `(D, H, W)`, slices from right to left, rows from
        head to foot, columns from front to back. "adc_sag" is in 1e-6 mm2/s.
    """
    protocol = mr_protocol.draw(seeds, wanted)
    grid = grid_of(protocol, wanted.shape)
    with torch.inference_mode():
        around = surroundings.fitted(surroundings.draw(seeds), pelvis)
        composition = tissues.draw(seeds.numpy("tissue"), protocol.machine.field, menopause=pelvis.menopause)
        channels = tuple(dict.fromkeys(c for name in sequences for c in _CHANNELS[name]))
        looks = _looks(composition, channels, protocol)
        generator = seeds.torch("texture")
        painted, labels = paint(
            surroundings.scene(around, pelvis, evidence, grid), grid, looks,
            Textures(wanted.shape, wanted.spacing, generator), background="peritoneal_fat",
        )  # fmt: skip
        reference = looks["myometrium_outer"].values
        received = _receive(painted, channels, reference, around, protocol, grid, generator)
    noise = dict(zip(channels, reference, strict=True)).get("b0", 0.0) / protocol.snr["b0"]
    floor = _B0_FLOOR * noise
    where, mask = affine_of(protocol, wanted.shape), labels.numpy()
    return {
        name: Volume(
            _stored(name, received, floor, protocol), where, mask, name, protocol.thickness, _header(name, protocol),
            {f"snr_{c}": protocol.snr[c] for c in _CHANNELS[name]},
        )
        for name in sequences
    }  # fmt: skip


def grid_of(protocol: Protocol, shape: tuple[int, int, int]) -> Grid:
    """The voxels of an examination in body coordinates."""
    return grids.stack(protocol.centre, shape, protocol.spacing, tilt=protocol.tilt)


def affine_of(protocol: Protocol, shape: tuple[int, int, int]) -> np.ndarray:
    """Index (slice, row, column, 1) to LPS in mm, `(4, 4)`: where `grid_of` has its voxels, in double precision."""
    cos, sin = np.cos(protocol.tilt), np.sin(protocol.tilt)
    directions = np.column_stack(([1.0, 0.0, 0.0], [0.0, sin, -cos], [0.0, cos, sin]))
    return affine(directions, protocol.spacing, protocol.centre, shape)


def _looks(composition: dict[str, Values], channels: tuple[Channel, ...], protocol: Protocol) -> dict[str, Look]:
    looks = {}
    for name, values in composition.items():
        signals = tuple(mr_signal.signal(c, name, values, protocol.timing[c]) for c in channels)
        texture, amplitude = tissues.TABLE[name].texture
        looks[name] = Look(signals, tuple(amplitude * level for level in signals), texture)
    return looks


def _receive(
    painted: Tensor,
    channels: tuple[Channel, ...],
    reference: tuple[float, ...],
    around: surroundings.Surroundings,
    protocol: Protocol,
    grid: Grid,
    generator: torch.Generator,
) -> dict[Channel, Tensor]:
    """What the scanner makes of the signals: ghosts, coil shading, resolution, noise."""
    shade = mr_signal.shading(protocol.coil, grid)
    inward = mr_signal.inward_noise(grid) * mr_signal.at_middle(shade)
    columns = grid.shape[2]
    starts = torch.randint(2**62, (len(mr_protocol.SNR),), generator=generator).tolist()
    sources = dict(zip(mr_protocol.SNR, starts, strict=True))  # a sequence's noise does not depend on the others
    received: dict[Channel, Tensor] = {}
    for channel, level, name in zip(painted, reference, channels, strict=True):
        generator = torch.Generator().manual_seed(sources[name])
        amplitude, shift, part = protocol.ghost
        if protocol.band < 1 and name in ("t2", "t1"):
            mr_signal.saturate(channel, grid, around.fascia - 6, protocol.band)
        if amplitude:
            mr_signal.ghosts(channel, amplitude, int(shift * columns), int(part * columns))
        channel.mul_(shade)
        noise = inward * (level / protocol.snr[name])
        if name in ("b0", "b1000"):
            received[name] = _echo_planar(channel, noise, protocol, generator)
        else:
            blur, ring = protocol.machine.sharp
            sharp = mr_signal.resolve(channel, (blur, 0.8 * blur), ring)
            received[name] = mr_signal.rician(sharp, noise, generator, 0.35)
    return received


def _echo_planar(channel: Tensor, noise: Tensor, protocol: Protocol, generator: torch.Generator) -> Tensor:
    """Coarse acquisition, interpolated by the scanner to the matrix of the others."""
    factor = [max(1.0, _DIFFUSION_MM / step) for step in protocol.spacing[1:]]
    size = [round(n / f) for n, f in zip(channel.shape[1:], factor, strict=True)]
    coarse = F.interpolate(channel[None], size=size, mode="area")[0]
    noise = F.interpolate(noise[None, None], size=size, mode="area")[0, 0]
    noisy = mr_signal.rician(coarse, noise, generator)
    fine: Tensor = F.interpolate(noisy[None], size=channel.shape[1:], mode="bicubic")[0]
    return fine.clamp_(min=0)


def _stored(name: Sequence, received: dict[Channel, Tensor], floor: float, protocol: Protocol) -> np.ndarray:
    """int16 values; scaled so that fat on T2 is about what the scanner gives it, other sequences alike."""
    if name == "adc_sag":
        values = mr_signal.diffusion_map(received["b0"], received["b1000"], floor)
    else:
        gain = {"t1_sag": 0.8, "t1ce_sag": 4.0, "dwi_sag": 2.0}.get(name, 1.0)
        values = received[_CHANNELS[name][0]] * (gain * protocol.machine.scale / _FAT_OF_T2)
    stored: np.ndarray = values.round_().clamp_(0, 32767).to(torch.int16).numpy()
    return stored


def _header(name: Sequence, protocol: Protocol) -> Header:
    """Acquisition facts under DICOM keywords."""
    timing, machine = protocol.timing[_CHANNELS[name][0]], protocol.machine
    facts: Header = {
        "MagneticFieldStrength": machine.field,
        "RepetitionTime": round(timing.tr, 2),
        "EchoTime": round(timing.te, 2),
        "FlipAngle": timing.flip,
        "InPlanePhaseEncodingDirection": "ROW" if machine.phase_front_back else "COL",
    }
    if name in _TRAIN:
        facts["EchoTrainLength"] = _TRAIN[name]
    if name == "dwi_sag":
        facts["DiffusionBValue"] = 1000.0
    return facts
