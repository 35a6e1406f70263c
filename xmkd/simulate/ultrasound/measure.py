"""Fixed measurements on rendered pictures, made with the true pose and masks: what an oracle may use.

The slip of the bowel is tracked as a careful reader would do it: a strip of bowel just behind the uterus is followed in
the uterus' own frame, and what is left of its motion along the surface is slip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES, Invasion
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.ultrasound.motion import true_slide
from xmkd.simulate.ultrasound.probe import Pose
from xmkd.simulate.ultrasound.tvus import DEFAULTS, Examination, Settings, examine

_STEP_MM = 0.75  # between the points of a strip, in both directions
_LARGEST_MM = 12.0  # slip that is looked for
_HALF_STRIP = 0.175  # of the uterine length
_FREE, _UNSURE_MM = 1.2, 0.8  # slip over push of free bowel; push below which little can be said
_BOX = (11, 15)  # points (across, along) of the mean that is subtracted: echoes parallel to the surface show no slip


@dataclass(frozen=True, eq=False)
class Strips:
    """Grey levels in the uterus' own frame, about one site.

    Attributes:
        bowel: Behind the surface, 0 to 9 mm, `(T, across, along)`.
        line: Grey level about the surface, -3 to 3 mm, averaged over frames and along it, `(offsets,)`.
        wall: Mean grey level of the uterine wall in front of it.
    """

    bowel: Tensor
    line: Tensor
    wall: float


def measure_clip(clip: Clip, pelvis: Pelvis, seeds: Seeds, settings: Settings = DEFAULTS) -> dict[str, float]:
    """Ten numbers about the sliding sign.

    Args:
        clip: As rendered by `tvus.render_clip`.
        pelvis: The patient.
        seeds: With which it was rendered.
        settings: With which it was rendered.

    Returns:
        Per site the tracked slip over the push along the surface, drawn towards that of free bowel where the push was
        weak (`slip_*`; `slip_least`: the smaller), how alike the strip stays without slip (`rigid_*`), how dark it is
        against the wall (`dark_*`, grey levels) and how much the line of the serosa stands out (`line_*`); the share of
        dark points in the recess (`fluid`).
    """
    with torch.inference_mode():
        exam = examine(pelvis, seeds, settings)
        frames = torch.from_numpy(clip.frames).float()
        found = {"fluid": _fluid(frames, pelvis, exam)}
        slides = true_slide(exam.motion, pelvis, exam.pose, (0.0, 0.0), exam.machine.fan)
        pushes = [slide.slip / math.sqrt(2) for slide in slides]  # a free bowel's slip knows the push along the surface
        for (name, site), push in zip(SITES.items(), pushes, strict=True):
            strips = read_strips(frames, pelvis, exam, site)
            slip, rigid = track(strips.bowel)
            found[f"slip_{name}"] = (slip * push + _FREE * _UNSURE_MM**2) / (push**2 + _UNSURE_MM**2)
            found[f"rigid_{name}"] = rigid
            found[f"dark_{name}"] = strips.wall - float(strips.bowel[:, 1:8].mean())
            found[f"line_{name}"] = float(strips.line[3:6].max() - strips.line[[0, 1, 7, 8]].mean())
        found["slip_least"] = min(found[f"slip_{name}"] for name in SITES)
    return found


def measure_still(
    clip: Clip, pelvis: Pelvis, invasion: Invasion, seeds: Seeds, settings: Settings = DEFAULTS
) -> dict[str, float]:
    """Eight numbers about a tumour and how far it grows into the wall.

    Args:
        clip: As rendered by `tvus.render_still`.
        pelvis: The patient.
        invasion: With which it was rendered; it says where the junction lies that a tumour has pushed aside.
        seeds: With which it was rendered.
        settings: With which it was rendered.

    Returns:
        From the mask: thickness of what lies in the cavity (mm), the tumour's area (mm2), its reach (deepest point over
        the wall's thickness) and the unevenness of its front (`roughness`). From grey levels against the outer wall:
        of the tumour (`contrast`), of the junctional zone at its base (`junction`) and elsewhere (`junction_beyond`),
        and of the brightest stretch of the inner half of the wall (`inner_wall`).
    """
    with torch.inference_mode():
        exam = examine(pelvis, seeds, settings, still=True)
        place = torch.stack(exam.machine.picture.points(), -1)
        rest = exam.motion.at_rest(place[None], exam.machine.fan)[0]
        at = womb.coordinates(pelvis, exam.pose.grid(rest[..., 0], rest[..., 1], coarse=(2, 2)))
        grey, labels = torch.from_numpy(clip.frames[0]).float(), torch.from_numpy(clip.mask)
        q = at.s / pelvis.uterus.length
        half = womb.thickness(pelvis.uterus, at.s, invasion)
        depth = (at.n.abs() - half) / (womb.radius(pelvis.uterus, at.s) - half).clamp_min(1.0)
        inside = (labels > 0) & (at.distance[0] < 0) & (q > pelvis.uterus.isthmus + 0.08) & (q < 0.92)
        outer = inside & (depth > 0.6) & (depth < 0.92)
        reference = _mean(grey, outer)
        tumour = labels == ORGANS.index("tumour")
        cavity = tumour | (labels == ORGANS.index("endometrium")) | (labels == ORGANS.index("polyp"))
        near = (q - _mean(q, tumour)).abs() < 0.10 if tumour.any() else (q - 0.75).abs() < 0.10
        zone = inside & (at.n.abs() > half) & (at.n.abs() < half + pelvis.uterus.junction)
        front = depth[tumour & (depth > 0)]
        return {
            "thickness": _extent(at.n, q, cavity),
            "area": float(tumour.sum()) * clip.spacing_mm[0] * clip.spacing_mm[1],
            "reach": float(front.quantile(0.98)) if len(front) > 4 else 0.0,
            "roughness": float(front.std()) if len(front) > 4 else 0.0,
            "contrast": _mean(grey, tumour) - reference if tumour.any() else 0.0,
            "junction": _mean(grey, zone & near) - reference,
            "junction_beyond": _mean(grey, zone & ~near) - reference,
            "inner_wall": max(_stretches(grey, q, inside & (depth > 0.1) & (depth < 0.5), at.n)) - reference,
        }


def _mean(values: Tensor, where: Tensor) -> float:
    """Mean of the chosen values; 0 where there are none."""
    return float(values[where].mean()) if where.any() else 0.0


def _extent(n: Tensor, q: Tensor, where: Tensor) -> float:
    """Largest front-back extent (mm) of a mask, over stretches along the uterus."""
    extents = [0.0]
    for low in torch.arange(0.4, 0.95, 0.05).tolist():
        found = n[where & (q >= low) & (q < low + 0.05)]
        if len(found) > 3:
            extents.append(float(found.max() - found.min()))
    return max(extents)


def _stretches(grey: Tensor, q: Tensor, where: Tensor, n: Tensor) -> list[float]:
    """Mean grey level of stretches of either wall, a tenth of the uterine length each."""
    found = [0.0]
    for low in torch.arange(0.5, 0.9, 0.05).tolist():
        for side in (n < 0, n > 0):
            part = where & side & (q >= low) & (q < low + 0.1)
            if int(part.sum()) > 8:
                found.append(float(grey[part].mean()))
    return found


def read_strips(frames: Tensor, pelvis: Pelvis, exam: Examination, site: float) -> Strips:
    """Map the surroundings of a site into the uterus' own frame.

    Args:
        frames: Grey levels, `(T, H, W)`.
        pelvis: The patient.
        exam: The true pose and motion.
        site: Fraction of the uterine length.
    """
    length = pelvis.uterus.length
    along = torch.arange(site - _HALF_STRIP, site + _HALF_STRIP, _STEP_MM / length) * length
    behind = torch.arange(_STEP_MM, 9.0 + _STEP_MM, _STEP_MM)
    bowel = _read(frames, pelvis, exam, along, behind)
    about = _read(frames, pelvis, exam, along[len(along) // 5 : -len(along) // 5], torch.arange(-3.0, 3.1, 0.75))
    wall = _read(frames, pelvis, exam, along, torch.arange(-9.0, -2.0, _STEP_MM))
    return Strips(bowel, about.mean((0, 2)), float(wall.mean()))


def _read(frames: Tensor, pelvis: Pelvis, exam: Examination, along: Tensor, behind: Tensor) -> Tensor:
    """Grey levels at places along the uterus and behind its surface (mm), followed by the true motion, `(T, J, I)`."""
    outer = womb.radius(pelvis.uterus, along)
    points = exam.motion.in_frames(_beside(pelvis, exam.pose, along, outer + behind[:, None]), exam.machine.fan)
    rows, columns = exam.machine.picture.pixel(points[..., 0], points[..., 1])
    height, width = frames.shape[1:]
    index = torch.stack(((columns + 0.5) * (2 / width) - 1, (rows + 0.5) * (2 / height) - 1), -1)
    return F.grid_sample(frames[:, None], index, padding_mode="border", align_corners=False)[:, 0]


def _beside(pelvis: Pelvis, pose: Pose, along: Tensor, offset: Tensor) -> Tensor:
    """Lateral and axial position of places in the resting uterus: `(I,)` and `(J, I)` in mm to `(J, I, 2)`."""
    axis = pelvis.uterus.axis
    after = torch.searchsorted(axis.arc, along).clamp(1, len(axis.arc) - 1)
    start = axis.points[after - 1]
    tangent = F.normalize(axis.points[after] - start)
    on_axis = start + (along - axis.arc[after - 1])[:, None] * tangent  # (I, 2): y, z
    normal = torch.stack((tangent[:, 1], -tangent[:, 0]), 1)
    body = F.pad(on_axis + offset[..., None] * normal, (1, 0)) - torch.tensor(pose.tip)
    return body @ torch.tensor((pose.lateral, pose.axial)).T


def track(strip: Tensor) -> tuple[float, float]:
    """Median slip between any two frames (mm), and median correlation of two frames without slip.

    Args:
        strip: Grey levels, `(T, across, along)`, points 0.75 mm apart.
    """
    frames, along = len(strip), strip.shape[-1]
    pad = (_BOX[1] // 2, _BOX[1] // 2, _BOX[0] // 2, _BOX[0] // 2)
    mean = F.avg_pool2d(F.pad(strip[:, None], pad, mode="replicate"), _BOX, 1)[:, 0]
    fine = strip - mean
    most = min(round(_LARGEST_MM / _STEP_MM), along - 8)
    shifts = range(-most, most + 1)
    scores = torch.stack([_correlation(fine, shift) for shift in shifts])  # (shifts, T, T)
    pairs = torch.triu_indices(frames, frames, 1)
    found = scores[:, pairs[0], pairs[1]]
    best = found.argmax(0).clamp(1, 2 * most - 1)
    before, here, after = (found.gather(0, (best + k)[None])[0] for k in (-1, 0, 1))
    parabola = ((before - after) / (2 * (before - 2 * here + after)).clamp(max=-1e-4)).clamp_(-0.5, 0.5)
    slips = (best - most + parabola).abs() * _STEP_MM
    return float(slips.median()), float(found[most].median())


def _correlation(strip: Tensor, shift: int) -> Tensor:
    """Correlation of every frame with every other shifted along the strip, `(T, T)`."""
    along = strip.shape[-1]
    still = strip[..., max(0, shift) : along + min(0, shift)].flatten(1)
    moved = strip[..., max(0, -shift) : along + min(0, -shift)].flatten(1)
    return F.normalize(still - still.mean(1, keepdim=True)) @ F.normalize(moved - moved.mean(1, keepdim=True)).T


def _fluid(frames: Tensor, pelvis: Pelvis, exam: Examination) -> float:
    """Share of dark points in the recess behind the cervix."""
    along = torch.linspace(-0.02, 0.30, 24) * pelvis.uterus.length
    recess = _read(frames, pelvis, exam, along, torch.arange(0.75, 7.0, _STEP_MM)).mean(0)
    wall = _read(frames, pelvis, exam, along, torch.arange(-8.0, -2.0, _STEP_MM)).mean()
    return float((recess < 0.5 * wall).float().mean())
