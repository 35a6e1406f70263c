"""Laws of the motion: equal energy for every coupling, slip as stated, a discontinuity only where the bowel is free."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from xmkd.simulate import anatomy
from xmkd.simulate import uterus as womb
from xmkd.simulate.evidence import SITES
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.ultrasound import motion as moving
from xmkd.simulate.ultrasound import probe
from xmkd.simulate.ultrasound.fan import Fan

FAN = Fan(samples=256, lines=144)


def clip_of(number: int, frames: int = 16) -> tuple[anatomy.Pelvis, probe.Pose, moving.Motion]:
    seeds = Seeds(1, f"patient {number}", "clip")
    pelvis = anatomy.draw(seeds, "pod", "tvus")
    pose = probe.hold(pelvis, seeds)
    return pelvis, pose, moving.draw(pelvis, pose, seeds, frames)


@pytest.mark.parametrize("number", range(8))
def test_waveforms_are_uncorrelated_and_of_equal_power(number: int) -> None:
    motion = clip_of(number)[2]
    assert float((motion.push * motion.other).mean()) == pytest.approx(0, abs=1e-5)
    assert float(motion.push.square().mean()) == pytest.approx(1, abs=1e-5)
    assert float(motion.other.square().mean()) == pytest.approx(1, abs=1e-5)
    assert float(motion.push.mean()) == pytest.approx(0, abs=1e-5)


def test_neither_waveform_is_faster_than_the_other() -> None:
    speeds = torch.tensor([[float(w.diff().square().mean()) for w in (m.push, m.other)]
                           for m in (clip_of(k)[2] for k in range(60))])  # fmt: skip
    ratio = speeds.log().diff(dim=1)
    assert float(ratio.mean().abs()) < 2.5 * float(ratio.std()) / math.sqrt(len(ratio))


@pytest.mark.parametrize("coupling", [0.0, 0.3, 0.8, 1.0])
def test_energy_does_not_depend_on_coupling_and_slip_is_as_stated(coupling: float) -> None:
    motion = clip_of(0)[2]
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(50, 2, generator=generator)
    angle = 2 * math.pi * torch.rand(50, generator=generator)
    tangent = torch.stack((angle.cos(), angle.sin()), -1)
    push, other = motion.push[:, None, None], motion.other[:, None, None]
    bowel = moving.follow(u, tangent, torch.full((50, 1), coupling), push, other)
    energy = bowel.square().sum(-1).mean(0)
    assert torch.allclose(energy, u.square().sum(-1), rtol=1e-4)
    relative = bowel - push * u
    along = (relative * tangent).sum(-1)
    assert torch.allclose(relative, along[..., None] * tangent, atol=1e-5)  # nothing opens or shuts the recess
    expected = (u * tangent).sum(-1).abs() * math.sqrt(2 * (1 - coupling))
    assert torch.allclose(along.square().mean(0).sqrt(), expected, atol=1e-4)


@pytest.mark.parametrize("number", range(4))
def test_points_are_followed_through_the_frames_and_back(number: int) -> None:
    _, _, motion = clip_of(number)
    points = torch.stack(Fan(samples=12, lines=9).points(), -1)
    deep = points[4:]  # beyond the tissue that the probe holds, where neighbours move alike
    there = motion.in_frames(deep, FAN)
    assert torch.allclose(motion.at_rest(there, FAN), deep.expand_as(there), atol=0.05)
    there = motion.in_frames(points, FAN, steps=60)
    assert torch.allclose(motion.at_rest(there, FAN), points.expand_as(there), atol=0.05)


def test_parts_of_a_motion_are_those_of_the_whole() -> None:
    pelvis, pose, motion = clip_of(3)
    surface = surface_of(pelvis, pose)
    whole = moving.rest_index(motion, surface, (0.1, 0.9), FAN)
    parts = [moving.rest_index(motion.frames(k, k + 5), surface, (0.1, 0.9), FAN) for k in (0, 5, 10, 15)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def surface_of(pelvis: anatomy.Pelvis, pose: probe.Pose) -> moving.Interface:
    rest = FAN.padded(16, 6)
    return moving.interface(pelvis, rest, womb.coordinates(pelvis, pose.grid(*rest.points())))


def test_number_of_draws_does_not_depend_on_the_length_of_the_clip() -> None:
    short, long = clip_of(5, frames=4)[2], clip_of(5, frames=40)[2]
    assert torch.equal(short.direction, long.direction)
    assert torch.equal(short.waves, long.waves)
    assert short.frame_rate == long.frame_rate


def test_coupling_is_that_of_the_sites_and_none_far_from_them() -> None:
    at_sites = moving.coupling_map(torch.tensor(list(SITES.values())), (0.7, 0.2))
    assert float(at_sites[0]) == pytest.approx(0.7, abs=0.01)
    assert float(at_sites[1]) == pytest.approx(0.2, abs=0.01)
    assert float(moving.coupling_map(torch.tensor([-0.6, 1.6]), (0.9, 0.9)).max()) < 0.01


def jump_across(coupling: tuple[float, float]) -> tuple[float, float]:
    """RMS relative motion (mm) of points just in front of and just behind the back surface, measured and true."""
    measured, true = [], []
    for number in range(6):
        pelvis, pose, motion = clip_of(number)
        if pelvis.retroverted:
            continue
        motion = still_but_for_the_push(motion)
        index = moving.rest_index(motion, surface_of(pelvis, pose), coupling, FAN)
        rest = FAN.padded(16, 6)
        where = torch.stack(rest.points(), -1).permute(2, 0, 1)[None]
        frames = len(motion.push)
        at = torch.nn.functional.grid_sample(where, index.reshape(1, -1, FAN.lines, 2), align_corners=False)
        at = at.view(2, FAN.samples, frames, FAN.lines)
        shift = torch.stack(FAN.points())[:, :, None] - at
        point = probe.sites(pelvis, pose)[1]
        for t in range(frames):
            front, back = (nearest(shift[:, :, t], point + torch.tensor((0.0, d))) for d in (-4.0, 4.0))
            measured.append(float((back - front).square().sum()))
        true.append(moving.true_slide(motion, pelvis, pose, coupling, FAN)[1].slip ** 2)
    return math.sqrt(sum(measured) / len(measured)), math.sqrt(sum(true) / len(true))


def still_but_for_the_push(motion: moving.Motion) -> moving.Motion:
    return replace(motion, bulk=0 * motion.bulk, breathing=0 * motion.breathing, waves=0 * motion.waves, spin=0.0)


def nearest(values: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    line, sample = FAN.index(point[0], point[1]).tolist()
    return values[:, round((sample + 1) * FAN.samples / 2 - 0.5), round((line + 1) * FAN.lines / 2 - 0.5)]


def test_bowel_slides_past_the_uterus_where_free_and_not_where_stuck() -> None:
    free, stated = jump_across((0.0, 0.0))
    assert free == pytest.approx(stated, rel=0.25)
    assert jump_across((1.0, 1.0))[0] < 0.2 * free
