"""Transvaginal clips and stills of a simulated patient.

    pelvis, evidence, seeds -> pose and machine -> painting at rest -> motion -> beam physics -> screen

The evidence enters in two places only: the scene that is painted, and the coupling of bowel and uterus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES, Adhesion, Invasion
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip, Header
from xmkd.simulate.ultrasound import beam as physics
from xmkd.simulate.ultrasound import machine as machines
from xmkd.simulate.ultrasound import motion as moving
from xmkd.simulate.ultrasound import overlay, probe
from xmkd.simulate.ultrasound.machine import Machine
from xmkd.simulate.ultrasound.motion import Motion
from xmkd.simulate.ultrasound.paint import Painting, paint
from xmkd.simulate.ultrasound.probe import Pose

Evidence = Adhesion | Invasion
_BLOCK = 8  # frames rendered at once: bounds the memory, and keeps the work in the processor's cache
_MARGIN = (20, 8)  # samples and lines painted beyond what is shown, for tissue that moves into view
_STILL_FROM = 16  # a still is one frame of a clip of this length


@dataclass(frozen=True)
class Settings:
    """What is asked of the renderer.

    Attributes:
        frames: Frames of a clip.
        shape: Rows and columns of the picture.
        site: Hospital, which decides the maker of the machine; None draws one.
        marks: Whether text, rulers and calipers may be burnt in.
    """

    frames: int = 16
    shape: tuple[int, int] = (160, 160)
    site: str | None = None
    marks: bool = True


DEFAULTS = Settings()


@dataclass(frozen=True, eq=False)
class Examination:
    """All of a clip but the echoes: what an oracle may know of it.

    Attributes:
        pose: How the probe is held.
        machine: The machine.
        motion: The motion.
    """

    pose: Pose
    machine: Machine
    motion: Motion


def examine(pelvis: Pelvis, seeds: Seeds, settings: Settings = DEFAULTS, *, still: bool = False) -> Examination:
    """Draw how a patient is examined; it does not depend on the evidence.

    Args:
        pelvis: The patient.
        seeds: Hers, with the number of the examination.
        settings: Frames, shape and site.
        still: Whether it is one frozen frame.
    """
    pose = probe.hold(pelvis, seeds)
    machine = machines.draw(seeds, settings.shape, probe.reach(pelvis, pose), settings.site)
    motion = moving.draw(pelvis, pose, seeds, _STILL_FROM if still else settings.frames)
    return Examination(pose, machine, motion.frames(_STILL_FROM // 2, _STILL_FROM // 2 + 1) if still else motion)


def render_clip(pelvis: Pelvis, evidence: Evidence, seeds: Seeds, settings: Settings = DEFAULTS) -> Clip:
    """Render a clip of a patient while the probe pushes the uterus to and fro.

    Args:
        pelvis: The patient, as she is at this examination.
        evidence: What ultrasound shows of her disease; the renderer learns nothing else of it.
        seeds: Hers, with the number of the examination.
        settings: Frames, shape, site.
    """
    with torch.inference_mode():
        return _render(pelvis, evidence, seeds, settings, still=False)


def render_still(pelvis: Pelvis, evidence: Evidence, seeds: Seeds, settings: Settings = DEFAULTS) -> Clip:
    """Render one frozen frame, more often with calipers than a clip; arguments as of `render_clip`.

    Stills of one patient differ by the examination of their seeds: how the probe is held, the machine's settings, the
    moment.
    """
    with torch.inference_mode():
        return _render(pelvis, evidence, seeds, settings, still=True)


def _render(pelvis: Pelvis, evidence: Evidence, seeds: Seeds, settings: Settings, *, still: bool) -> Clip:
    exam = examine(pelvis, seeds, settings, still=still)
    machine, motion = exam.machine, exam.motion
    rest = machine.fan.padded(*_MARGIN)
    painting = paint(pelvis, evidence, exam.pose, rest, seeds)
    surface = moving.interface(pelvis, rest, painting.at)
    coupling = evidence.coupling if isinstance(evidence, Adhesion) else Adhesion().coupling
    atlas = _atlas(painting, seeds)
    table, inside = physics.scan_table(machine.fan, machine.picture)
    over = 2 if machine.picture.spacing_mm > 2.2 * machine.fan.step_mm else 1
    fine = physics.scan_table(machine.fan, machine.picture.finer(over))[0]
    blur = physics.lateral_blur(machine.fan, machine.beam)
    blocks, before, first = [], None, torch.empty(0)
    for start in range(0, len(motion.push), _BLOCK):
        part = motion.frames(start, start + _BLOCK)
        index = moving.rest_index(part, surface, coupling, machine.fan)
        if not start:
            first = index[:, :1].clone()
        shown = _echoes(atlas, index, part.tilt, machine, blur, start)
        before = _persist(shown, before, machine.persistence)
        blocks.append(physics.scan_convert(shown, fine, inside, over=over).mul_(255).round_().to(torch.uint8))
    frames = torch.cat(blocks).numpy()
    burnt_in = settings.marks and overlay.burn(frames, pelvis, exam.pose, machine, motion, seeds, still=still)
    slides = moving.true_slide(motion, pelvis, exam.pose, coupling, machine.fan)
    truth = {f"{what}_mm_{name}": getattr(slide, what) for name, slide in zip(SITES, slides, strict=True)
             for what in ("push", "slip")}  # fmt: skip
    return Clip(
        frames=frames,
        spacing_mm=(machine.picture.spacing_mm, machine.picture.spacing_mm),
        frame_rate=motion.frame_rate,
        sector=_bounds(inside),
        mask=_mask(painting, first, table, inside),
        header=_header(machine, burnt_in),
        truth={**truth, "amplitude_mm": float(motion.direction.norm())},
    )


def _atlas(painting: Painting, seeds: Seeds) -> Tensor:
    """Two independent sets of scatterers (real and imaginary), attenuation and reflecting gas at rest, `(6, P, Q)`."""
    generator = seeds.torch("motion")
    noise = physics.speckle((2, *painting.level.shape), generator)  # (2 complex, 2 sets, P, Q)
    amplitude = torch.exp(painting.level * (math.log(10) / 20))
    scatterers = noise * amplitude
    step = F.pad(painting.level.diff(dim=0), (0, 0, 1, 0)).abs_().clamp_(max=12.0)
    scatterers[0, 0] += 3.0 * (step / 10).pow_(1.5)  # a surface across the beam reflects coherently
    flat = scatterers.transpose(0, 1).reshape(4, *painting.level.shape)
    return torch.cat((flat, painting.attenuation[None], (painting.gas * amplitude)[None]))


def _echoes(atlas: Tensor, index: Tensor, tilt: Tensor, machine: Machine, blur: Tensor, start: int) -> Tensor:
    """Compressed echoes of frames, `(P, T, Q)` in 0..1, from where their samples lie at rest, `(P, T, Q, 2)`."""
    fan, beam = machine.fan, machine.beam
    samples, frames, lines = index.shape[:3]
    flat = index.reshape(1, samples * frames, lines, 2)
    moved = F.grid_sample(atlas[None], flat, padding_mode="border", align_corners=False)[0]
    first, second, (attenuation, gas) = moved.view(3, 2, samples, frames, lines)
    factor = physics.gain(physics.round_trip_db(attenuation, fan, beam), machine.tgc_db)
    factor *= torch.exp(machine.contact_db * (math.log(10) / 20))
    length, spacing = machine.haze_mm
    clutter = physics.reverberation(gas, factor, fan, length_mm=length, spacing_mm=spacing).mul_(machine.haze)
    clutter += machine.near_haze[:, None, None]
    static = physics.receiver_noise((2, samples, 1, lines), machine.noise_offset // 3)
    echo = torch.empty(samples, 2, frames, lines)
    cosine, sine = tilt.cos()[:, None], tilt.sin()[:, None]
    for part in range(2):
        mixed = (first[part] * cosine).addcmul_(second[part], sine).mul_(factor)
        torch.addcmul(mixed, clutter, static[part], out=echo[:, part])
    padded, inner = physics.pulse_input(samples, frames, lines)
    physics.focus(echo, blur, inner)
    noise = physics.receiver_noise((samples, 2, frames, lines), machine.noise_offset + 7919 * start)
    floor = torch.exp((machine.noise_db + machine.tgc_db).clamp(max=0) * (math.log(10) / 20))
    inner.addcmul_(noise, floor[:, None, None, None])
    envelope = physics.compound(physics.envelopes(padded, samples, fan, beam), machine.smoothing)
    envelope += machine.rings[:, None, None]
    return physics.compress(envelope, gain_db=machine.gain_db, range_db=machine.range_db, curve=machine.curve)


def _persist(shown: Tensor, before: Tensor | None, weight: float) -> Tensor:
    """Average each frame with the one shown before it, in place; returns the last."""
    for t in range(shown.shape[1]):
        if before is not None:
            shown[:, t].lerp_(before, weight)
        before = shown[:, t]
    assert before is not None
    return before.clone()


def _mask(painting: Painting, index: Tensor, table: Tensor, inside: Tensor) -> np.ndarray:
    """Organs of the first frame, uint8 `(H, W)`: nearest neighbours all the way."""
    labels = painting.organs[None, None].float()
    samples, _, lines, _ = index.shape
    moved = F.grid_sample(
        labels, index.reshape(1, samples, lines, 2), mode="nearest", padding_mode="border", align_corners=False
    )
    shown = physics.scan_convert(moved[0].transpose(0, 1), table, inside, mode="nearest")
    return shown[0].to(torch.uint8).numpy()


def _bounds(inside: Tensor) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the fan on the picture; bottom and right are exclusive."""
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _header(machine: Machine, burnt_in: bool) -> Header:
    """Acquisition facts under DICOM keywords."""
    return {
        "TransducerFrequency": round(1000 * machine.beam.frequency_mhz),
        "DepthOfScanField": round(machine.fan.depth_mm),
        "FocusDepth": round(machine.beam.focus_mm / 10, 1),
        "BurnedInAnnotation": "YES" if burnt_in else "NO",
    }
