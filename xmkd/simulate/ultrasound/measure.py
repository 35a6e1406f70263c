"""Fixed measurements on rendered pictures, made with the true pose and masks: what an oracle may use.

The slip of the bowel is tracked as a careful reader would do it: a strip of bowel just behind the uterus is followed in
the uterus' own frame, and what is left of its motion along the surface is slip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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
_NEAR = 0.09  # of the uterine length, either way of the place that is looked at in a still
_FAINT = 4.0  # grey levels over the outer wall; less is taken for speckle
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
    """Ten numbers about a tumour and how far it grows into the wall: seven grey levels and three of the true mask.

    Args:
        clip: As rendered by `tvus.render_still`.
        pelvis: The patient.
        invasion: With which it was rendered; only where to look is taken from it, never how far the disease goes.
        seeds: With which it was rendered.
        settings: With which it was rendered.

    Returns:
        At the tumour's place, over the outer layer of the wall: the junctional zone (`junction`), the inner third of
        the wall (`inner`) and what it has over that of the other wall (`sided`); how deep the wall is bright (`depth`,
        fraction); what lies in the cavity (`cavity`). The brightest stretch of the inner half of either wall
        (`inner_wall`). The share of the cavity's length along which the junction is bright (`extent`). Of the mask:
        thickness of what lies in the cavity (`thickness`, mm), the tumour's area (`area`, mm2) and its deepest point
        over the wall's thickness (`reach`).
    """
    with torch.inference_mode():
        at = _uterine(pelvis, seeds, settings)
        grey, labels = torch.from_numpy(clip.frames[0]).float(), torch.from_numpy(clip.mask)
        uterus = pelvis.uterus
        q = at.s / uterus.length
        half = womb.thickness(uterus, at.s, invasion)
        depth = (at.n.abs() - half) / (womb.radius(uterus, at.s) - half).clamp_min(1.0)
        inside = (labels > 0) & (at.distance[0] < 0) & (q > uterus.isthmus + 0.08) & (q < 0.92)
        level = _mean(grey, inside & (depth > 0.6) & (depth < 0.92))
        near = inside & ((q - invasion.site).abs() < _NEAR)
        own, other = near & (at.n * invasion.side > 0), near & (at.n * invasion.side < 0)
        layers = torch.tensor([_mean(grey, own & layer, level) for layer in _layers(depth)]) - level
        inner = float(layers[:4].mean())
        third = (depth > 0) & (depth < 1 / 3)
        zone = (depth > 0) & (at.n.abs() < half + uterus.junction)
        stretches = _stretches(grey, q, inside & (depth > 0.1) & (depth < 0.5), at.n)
        along = _stretches(grey, q, inside & third, at.n)
        tumour = labels == ORGANS.index("tumour")
        front = depth[tumour & (depth > 0)]
        return {
            "junction": _mean(grey, own & zone, level) - level,
            "inner": inner,
            "sided": _mean(grey, own & third, level) - _mean(grey, other & third, level),
            "depth": float((layers > max(0.5 * inner, _FAINT)).float().cumprod(0).mean()),
            "cavity": _mean(grey, near & (depth < 0), level) - level,
            "inner_wall": max(stretches, default=level) - level,
            "extent": float(np.mean([float(x > level + _FAINT) for x in along] or [0.0])),
            "thickness": _extent(at.n, q, inside & (depth < 0)),
            "area": float(tumour.sum()) * clip.spacing_mm[0] * clip.spacing_mm[1],
            "reach": float(front.quantile(0.98)) if len(front) > 4 else 0.0,
        }


def _uterine(pelvis: Pelvis, seeds: Seeds, settings: Settings) -> womb.UterineCoordinates:
    """Where in the uterus each pixel of a still lies."""
    exam = examine(pelvis, seeds, settings, still=True)
    place = torch.stack(exam.machine.picture.points(), -1)
    rest = exam.motion.at_rest(place[None], exam.machine.fan)[0]
    return womb.coordinates(pelvis, exam.pose.grid(rest[..., 0], rest[..., 1], coarse=(2, 2)))


def _layers(depth: Tensor) -> list[Tensor]:
    """Twelve layers of the wall, from the junction outwards."""
    return [(depth >= k / 12) & (depth < (k + 1) / 12) for k in range(12)]


def _mean(values: Tensor, where: Tensor, otherwise: float = 0.0) -> float:
    """Mean of the chosen values; where there are none, what is to be taken instead."""
    return float(values[where].mean()) if where.any() else otherwise


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
    found = []
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
