"""How the tissue moves in a clip: the uterus under the probe's push, the bowel with it or past it, and all else.

The uterus is moved by u(x, t) = a(t) w(x) (d + rotation). The bowel behind it takes, with the normal m and the tangent
t of the uterine back surface and a coupling c,

    u_B = m (u . m) + t [ c (u . t) + sqrt(1 - c^2) (v . t) ],    v(x, t) = b(t) w(x) (d + rotation),

where b is uncorrelated with a in the clip and of the same RMS. The RMS motion of the bowel is therefore the same for
every c at every point: adhesion changes what moves together, not how much moves. (A blend c u + (1 - c) v would lose
motion energy and give the label away.) Slip, the RMS of the tangential difference, is |u . t| sqrt(2 (1 - c)).

Everything else (bulk motion of the probe, breathing, peristalsis, motion out of the plane) knows nothing of adhesion.
Positions are lateral and axial mm in the fan's plane, displacements map a point of a frame back to its place at rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.ultrasound.fan import Fan
from xmkd.simulate.ultrasound.probe import Pose, sites
from xmkd.simulate.uterus import UterineCoordinates

_HOLD_MM, _HOLD_WIDTH_MM = 8.0, 3.0  # tissue nearer to the face is held by the probe; gentle enough never to fold
_FADE_MM = 45.0  # how far below the interface the bowel's motion reaches
_SITE_WIDTH = 0.28  # half length of the stretch that a site's coupling governs, as a fraction of the uterine length


@dataclass(frozen=True, eq=False)
class Interface:
    """The surface on which bowel slides, as maps on a fan at rest.

    Attributes:
        fan: The fan at rest.
        depth: mm behind the uterine back surface, negative on the uterine side, `(P, Q)`.
        tangent: Unit vector along the surface, lateral and axial, `(2, P, Q)`.
        along: Place along the uterus as a fraction of its length, `(P, Q)`.
    """

    fan: Fan
    depth: Tensor
    tangent: Tensor
    along: Tensor


def interface(pelvis: Pelvis, fan: Fan, at: UterineCoordinates) -> Interface:
    """The back surface of the uterus, carried on beyond the fundus and below the os."""
    uterus = pelvis.uterus
    outer = womb.radius(uterus, at.s)
    aside = at.rho[0].square() - at.n.square()  # off the middle plane the surface lies nearer to the axis
    depth = at.n - (outer.square() - aside).clamp_min(1.0).sqrt()
    smooth = F.pad(depth[None, None], (4, 4, 8, 8), mode="replicate")
    smooth = F.avg_pool2d(F.avg_pool2d(smooth, (17, 1), 1), (1, 9), 1)[0, 0]
    down = torch.gradient(smooth, dim=0)[0] / fan.step_mm
    reach = fan.depths()[:, None] + fan.radius_mm
    across = torch.gradient(smooth, dim=1)[0] / (reach * fan.step_angle)
    angle = fan.angles()[None]
    normal = torch.stack((down * angle.sin() + across * angle.cos(), down * angle.cos() - across * angle.sin()))
    normal = normal / normal.square().sum(0).sqrt().clamp_min(1e-3)
    return Interface(fan, depth, torch.stack((normal[1], -normal[0])), at.s / uterus.length)


def coupling_map(along: Tensor, coupling: tuple[float, float]) -> Tensor:
    """Coupling at each place along the uterus, from that of the two sites, any shape."""
    found = [
        c * torch.exp(-(((along - site) / _SITE_WIDTH).square().square()))
        for c, site in zip(coupling, SITES.values(), strict=True)
    ]
    return torch.maximum(found[0], found[1])


@dataclass(frozen=True, eq=False)
class Motion:
    """Everything that moves in a clip; T frames.

    Attributes:
        push: Waveform a, `(T,)`, of zero mean and unit RMS.
        other: Waveform b, `(T,)`, of the same.
        direction: Uterine displacement per unit of waveform at `centre`, lateral and axial mm, `(2,)`.
        spin: Rotation per unit of waveform, rad.
        centre: Where the rotation's centre is.
        bulk: Shift (lateral, axial, mm) and rotation (rad) of all tissue against the probe, `(T, 3)`.
        breathing: Axial mm per mm of depth, `(T,)`.
        waves: Peristalsis: amplitude (mm), wave vector (rad/mm), speed (rad per frame), phase and direction of the
            shift (rad) of each wave, `(K, 6)`.
        tilt: Angle (rad) by which the plane's speckle has been replaced by its neighbour's, `(T,)`.
        frame_rate: Frames per second.
        first: Number of the first frame, for the phase of peristalsis.
    """

    push: Tensor
    other: Tensor
    direction: Tensor
    spin: float
    centre: Tensor
    bulk: Tensor
    breathing: Tensor
    waves: Tensor
    tilt: Tensor
    frame_rate: float
    first: int = 0

    def uterus(self, points: Tensor, fan: Fan) -> Tensor:
        """Displacement of the uterus (mm) per unit of waveform at points `(..., 2)`."""
        offset = points - self.centre
        turn = torch.stack((offset[..., 1], -offset[..., 0]), -1) * self.spin
        reach = torch.hypot(points[..., 0], points[..., 1] + fan.radius_mm) - fan.radius_mm
        return (self.direction + turn) * torch.sigmoid((reach - _HOLD_MM) / _HOLD_WIDTH_MM)[..., None]

    def at_rest(self, points: Tensor, fan: Fan) -> Tensor:
        """Where points of the frames, `(T, ..., 2)`, lie in the uterus at rest."""
        still = self.common(points)
        push = self.push.view(-1, *[1] * (points.ndim - 1))
        return still - push * self.uterus(still, fan)

    def in_frames(self, points: Tensor, fan: Fan, steps: int = 5) -> Tensor:
        """Where points `(..., 2)` of the resting uterus lie in each frame, `(T, ..., 2)`: the inverse of `at_rest`."""
        target = points.expand(len(self.push), *points.shape)
        found = target
        for _ in range(steps):
            found = found + target - self.at_rest(found, fan)
        return found

    def frames(self, start: int, stop: int) -> Motion:
        """The motion of some frames."""
        part = slice(start, stop)
        return replace(
            self, push=self.push[part], other=self.other[part], bulk=self.bulk[part], breathing=self.breathing[part],
            tilt=self.tilt[part], first=self.first + start,
        )  # fmt: skip

    def common(self, points: Tensor) -> Tensor:
        """Undo what moves both layers alike: points `(T, ..., 2)` of the frames without it."""
        shape = (-1,) + (1,) * (points.ndim - 2)
        shift, turn = self.bulk[:, :2].view(*shape, 2), self.bulk[:, 2].view(shape)
        x, z = (points - shift).unbind(-1)
        z = z * (1 - self.breathing.view(shape) * (z / 80).clamp(0, 1.5))
        return torch.stack((x - turn * z, z + turn * x), -1)


def draw(pelvis: Pelvis, pose: Pose, seeds: Seeds, frames: int) -> Motion:
    """Draw a clip's motion; it does not depend on adhesion.

    Rates and amplitudes are assumptions: no measured ones were found.

    Args:
        pelvis: Says how the uterus lies.
        pose: How the probe is held.
        seeds: Component "motion" of the examination; the number of draws does not depend on `frames`.
        frames: Frames of the clip.
    """
    rng = seeds.numpy("motion")
    rate = float(rng.uniform(5, 10))  # a loop thinned for export, so that 16 frames hold one to three pushes
    time = torch.arange(frames, dtype=torch.float32) / rate
    push, other = _orthogonal(_waveform(time, rng), _waveform(time, rng))
    amplitude = 0.6 * math.exp(rng.uniform(math.log(1.5), math.log(7)))  # mm RMS; a weak push moves nothing
    along = sites(pelvis, pose)
    run = along[1] - along[0]
    off_axis = math.radians(float(np.clip(18 * rng.normal(), -45, 45)))
    angle = math.atan2(float(run[1]), float(run[0])) + off_axis + math.pi * float(rng.uniform() < 0.5)
    out_of_plane = _waveform(time, rng)
    return Motion(
        push=push,
        other=other,
        direction=amplitude * torch.tensor((math.cos(angle), math.sin(angle))),
        spin=float(0.006 * rng.normal() * amplitude),
        centre=along.mean(0),
        bulk=_bulk(time, rng),
        breathing=0.02
        * abs(float(rng.normal()))
        * torch.sin(2 * math.pi * (rng.uniform(0.2, 0.3) * time + rng.uniform())),
        waves=_peristaltic_waves(rate, rng),
        tilt=float(rng.uniform(0.06, 0.28)) * (out_of_plane - out_of_plane[0]),
        frame_rate=rate,
    )


def _waveform(time: Tensor, rng: np.random.Generator, slow: float = 1.0) -> Tensor:
    """A push that comes and goes: a fundamental of 0.35-0.8 Hz, its overtone and a drift; zero mean, unit RMS."""
    fundamental, phases = float(slow * rng.uniform(0.35, 0.8)), rng.uniform(size=3).tolist()
    weights = (1.0, 0.25 * float(rng.normal()), 0.3 * float(rng.normal()))
    rates = (fundamental, 2 * fundamental, 0.13)
    wave = torch.zeros_like(time)
    for weight, rate, phase in zip(weights, rates, phases, strict=True):
        wave += weight * torch.sin(2 * math.pi * (rate * time + phase))
    wave -= wave.mean()
    return wave / wave.square().mean().sqrt().clamp_min(1e-3)


def _bulk(time: Tensor, rng: np.random.Generator) -> Tensor:
    """The hand's unsteadiness: lateral and axial shift (mm) and rotation (rad) of everything, `(T, 3)`."""
    scale = (*(0.35 * np.exp(0.5 * rng.normal(size=2))), math.radians(0.4) * rng.normal())
    return torch.stack([float(amount) * _waveform(time, rng, slow=0.6) for amount in scale], 1)


def _peristaltic_waves(rate: float, rng: np.random.Generator) -> Tensor:
    """Three waves that run through the bowel, as `Motion.waves`, `(3, 6)`."""
    amplitude = 0.25 * np.exp(0.4 * rng.normal(size=3))
    vector, speed = 0.12 * rng.normal(size=(3, 2)), (0.8 + 0.4 * rng.normal(size=3)) / rate
    phase, turn = rng.uniform(0, 2 * math.pi, 3), rng.uniform(0, 2 * math.pi, 3)
    return torch.from_numpy(np.column_stack((amplitude, vector, speed, phase, turn))).float()


def _orthogonal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The uncorrelated pair nearest to both (Loewdin): neither is privileged, so both have the same distribution.

    One Gram-Schmidt step would leave the second with more high frequencies, and a free bowel with faster motion.
    """
    if len(first) < 3:
        return first, second
    overlap = (first * second).mean().clamp(-0.98, 0.98)
    plus, minus = (first + second) / (1 + overlap).sqrt(), (first - second) / (1 - overlap).sqrt()
    return (plus + minus) / 2, (plus - minus) / 2


def follow(u: Tensor, tangent: Tensor, coupling: Tensor, push: Tensor, other: Tensor) -> Tensor:
    """Displacement of the bowel at the interface: its normal part is the uterus', its tangential part is exchanged.

    Args:
        u: Displacement of the uterus per unit of waveform, `(..., 2)`.
        tangent: Unit vectors along the interface, `(..., 2)`.
        coupling: 0 (free) to 1 (stuck), `(..., 1)`.
        push: The uterus' waveform, broadcastable.
        other: The bowel's own waveform, broadcastable.

    Returns:
        In the unit of `u`, broadcast; its RMS over the clip does not depend on the coupling.
    """
    along = (u * tangent).sum(-1, keepdim=True)
    exchanged = coupling * push + (1 - coupling.square()).clamp_min(0).sqrt() * other
    return push * (u - along * tangent) + exchanged * along * tangent


def rest_index(motion: Motion, surface: Interface, coupling: tuple[float, float], fan: Fan) -> Tensor:
    """Where each sample of each frame lies in the fan at rest.

    The layer is that of the sample's place in the resting uterus, so that the discontinuity rides on the uterus: there
    is neither gap nor overlap. Computed on every fourth sample and line, then interpolated; only the layer is chosen
    for every sample.

    Args:
        motion: The motion, T frames.
        surface: The interface at rest.
        coupling: That of the two sites.
        fan: The fan that is shown.

    Returns:
        `(P, T, Q, 2)` for `grid_sample` on `surface.fan`.
    """
    coarse = replace(fan, samples=fan.samples // 4, lines=fan.lines // 4)
    points = torch.stack(coarse.points(), -1)
    still = motion.common(points.expand(len(motion.push), *points.shape))
    u = motion.uterus(still, fan)
    push, other = (w[:, None, None, None] for w in (motion.push, motion.other))
    uterine = still - push * u
    maps = torch.stack((surface.depth, *surface.tangent, coupling_map(surface.along, coupling)))
    index = surface.fan.index(*uterine.unbind(-1))
    depth, c, tangent = _look_up(maps, index)
    fade = torch.exp(-(depth.clamp_min(0) / _FADE_MM).square())
    bowel = still - fade * follow(u, tangent, c, push, other)
    bowel = bowel - (1 - torch.exp(-(depth.clamp_min(0) / 9.0).square())) * _peristalsis(motion, still)
    inside, _, there = _look_up(maps, surface.fan.index(*bowel.unbind(-1)))
    outward = torch.stack((-there[..., 1], there[..., 0]), -1)
    bowel = bowel + (0.3 - inside).clamp(0, 6) * outward  # on a curved stretch: never read the uterus as bowel
    both = torch.cat((index, surface.fan.index(*bowel.unbind(-1)), depth), -1)  # (T, P / 4, Q / 4, 5)
    fine = _refine(both.permute(3, 0, 1, 2), fan)
    front, back, layer = fine[:, :2], fine[:, 2:4], fine[:, 4:]
    return torch.where(layer < 0, front, back).permute(0, 2, 3, 1)


def _look_up(maps: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, coupling `(T, P, Q, 1)` and tangent `(T, P, Q, 2)` at places of the resting fan."""
    flat = index.reshape(1, -1, index.shape[-2], 2)
    values = F.grid_sample(maps[None], flat, padding_mode="border", align_corners=False)[0]
    depth, lateral, axial, coupling = values.view(4, *index.shape[:-1], 1)
    tangent = torch.cat((lateral, axial), -1)
    return depth, coupling, tangent / tangent.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-3)


def _peristalsis(motion: Motion, points: Tensor) -> Tensor:
    """Displacement of the bowel by its own waves, mm, `(T, ..., 2)`."""
    time = torch.arange(len(points), dtype=torch.float32)[:, None, None] + motion.first
    total = torch.zeros_like(points)
    for amplitude, kx, kz, speed, phase, turn in motion.waves.tolist():
        wave = amplitude * torch.sin(points[..., 0] * kx + points[..., 1] * kz - speed * time + phase)
        total += wave[..., None] * torch.tensor((math.cos(turn), math.sin(turn)))
    return total


def _refine(coarse: Tensor, fan: Fan) -> Tensor:
    """Bilinear values on the fine fan, `(C, T, P / 4, Q / 4)` to `(P, C, T, Q)`, as two matrix products."""
    down, across = _hat(coarse.shape[-2], fan.samples), _hat(coarse.shape[-1], fan.lines)
    tall = (down @ coarse.movedim(-2, 0).reshape(coarse.shape[-2], -1)).view(fan.samples, *coarse.shape[:2], -1)
    return tall @ across.T


@lru_cache(maxsize=8)
def _hat(coarse: int, fine: int) -> Tensor:
    """Weights of linear interpolation between cell centres, continued beyond the outermost, `(fine, coarse)`."""
    place = (torch.arange(fine, dtype=torch.float32) + 0.5) * (coarse / fine) - 0.5
    low = place.floor().clamp(0, coarse - 2)
    share = place - low
    weights = torch.zeros(fine, coarse)
    rows = torch.arange(fine)
    weights[rows, low.long()] = 1 - share
    weights[rows, low.long() + 1] = share
    return weights


@dataclass(frozen=True)
class Slide:
    """True motion at one site (mm, RMS over the clip).

    Attributes:
        push: Of the uterus.
        slip: Of the bowel along the uterus, relative to it.
    """

    push: float
    slip: float


def true_slide(
    motion: Motion, pelvis: Pelvis, pose: Pose, coupling: tuple[float, float], fan: Fan
) -> tuple[Slide, ...]:
    """Push and slip at the two sites, retrocervical first."""
    found = []
    for point, ahead, c in zip(sites(pelvis, pose), sites(pelvis, pose, 0.02), coupling, strict=True):
        u = motion.uterus(point, fan)
        tangent = (ahead - point) / (ahead - point).norm().clamp_min(1e-3)
        found.append(Slide(float(u.norm()), float((u @ tangent).abs()) * math.sqrt(2 * (1 - c))))
    return tuple(found)
