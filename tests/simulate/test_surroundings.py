"""Bones, muscles and fat around the pelvis: where they belong, out of the organs' way, the same whatever the label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.simulate.labels import mask
from xmkd.simulate import anatomy, grids, muscles, organs, shapes, surroundings
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.grids import Grid
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.surroundings import Surroundings

STUCK = Adhesion((0.9, 0.9), (6.0, 6.0), 1.0, (10.0, 10.0), (0.0, 0.0), 4.0, 30.0)


def patient(k: int) -> tuple[Surroundings, Pelvis]:
    seeds = Seeds(9, f"S{k}", "mri")
    pelvis = anatomy.draw(seeds, "pod", "mri")
    return surroundings.fitted(surroundings.draw(seeds), pelvis), pelvis


def grid(shape: tuple[int, int, int] = (9, 96, 96), spacing: float = 2.4) -> Grid:
    return grids.stack((0.0, 0.0, 10.0), shape, (9.0, spacing, spacing))


def test_a_patient_is_the_same_at_every_examination() -> None:
    first, second = (surroundings.draw(Seeds(9, "S1", examination)) for examination in ("mri", "ct"))
    assert repr(first) == repr(second)
    assert repr(first) != repr(surroundings.draw(Seeds(9, "S2", "mri")))


def test_sacra_differ() -> None:
    tips = np.array([surroundings.draw(Seeds(9, f"S{k}")).bones.tip for k in range(60)])
    lengths = [surroundings.draw(Seeds(9, f"S{k}")).bones.spine.length for k in range(60)]
    assert tips.std(0).min() > 4  # mm
    assert np.std(lengths) > 4


@pytest.mark.parametrize("k", range(8))
def test_the_sacrum_leaves_room_for_the_uterus(k: int) -> None:
    around, pelvis = patient(k)
    where = grid()
    with torch.inference_mode():
        womb = mask(organs.scene(pelvis, where, Adhesion()), where)
        whole = mask(surroundings.scene(around, pelvis, Adhesion(), where), where)
    for organ in ("uterus", "junctional zone", "endometrium", "cervix"):
        alone, within = ((labels == ORGANS.index(organ)).sum().item() for labels in (womb, whole))
        assert within >= 0.97 * alone, organ


@pytest.mark.parametrize("k", range(4))
def test_bones_lie_before_and_behind_the_organs(k: int) -> None:
    around, pelvis = patient(k)
    where = grid()
    with torch.inference_mode():
        labels = mask(surroundings.scene(around, pelvis, Adhesion(), where), where)
    y, z = where.y.expand(labels.shape), where.z.expand(labels.shape)
    bone, uterus = labels == ORGANS.index("bone"), labels == ORGANS.index("uterus")
    middle, beside = torch.zeros_like(bone), torch.zeros_like(bone)
    middle[4], beside[5] = True, True
    low = bone & beside & (z < 10) & (y < -30)
    assert 200 < low.sum() * 2.4**2 < 1000  # mm2 of a pubic body
    assert float(y[low].mean()) < float(y[labels == ORGANS.index("bladder")].mean())
    sacrum = bone & middle & (z > 0)
    assert float(y[sacrum].mean()) > float(y[uterus].max()) - 25
    assert uterus.any()


def test_nothing_of_the_surroundings_knows_the_evidence() -> None:
    around, pelvis = patient(3)
    where = grid((3, 40, 40), 5.5)
    with torch.inference_mode():
        uneven = muscles.relief(around.muscles, where)
        before = [r.distance.sum().item() for r in surroundings.regions(around, pelvis, uneven, where)]
        after = [r.distance.sum().item() for r in surroundings.front(around, pelvis, uneven, where)]
        free, stuck = (
            [(r.tissue, r.distance.sum().item()) for r in surroundings.scene(around, pelvis, evidence, where)]
            for evidence in (Adhesion(), STUCK)
        )
    assert [d for _, d in free[: len(before)]] == [d for _, d in stuck[: len(before)]] == before
    assert [d for _, d in free[-len(after) :]] == [d for _, d in stuck[-len(after) :]] == after
    assert len(before) > 40


def test_boxes_of_a_tilted_stack_hold_all_their_points() -> None:
    rng = np.random.default_rng(0)
    where = grids.stack((3.0, -4.0, 12.0), (9, 50, 44), (7.0, 3.0, 2.5), tilt=0.12)
    for _ in range(40):
        corner, size = rng.uniform(-60, 40, 3), rng.uniform(3, 50, 3)
        x, y, z = ((float(a), float(a + b)) for a, b in zip(corner, size, strict=True))
        box = shapes.box_of(where, (x, y, z))
        held = torch.zeros(where.shape, dtype=torch.bool)
        if box is not None:
            held[box] = True
        inside = (where.x >= x[0]) & (where.x <= x[1]) & (where.y >= y[0]) & (where.y <= y[1])
        inside = inside & (where.z >= z[0]) & (where.z <= z[1])
        assert not (inside & ~held).any()


def test_distances_to_tubes_and_ellipsoids() -> None:
    where = grids.stack((0.0, 0.0, 0.0), (5, 41, 41), (4.0, 2.0, 2.0))
    tube = shapes.tube(where, [(0.0, -10.0, 0.0), (0.0, 10.0, 0.0)], [4.0, 4.0])
    truth = torch.hypot(torch.hypot(where.x, where.z), (where.y.abs() - 10).clamp_min(0)) - 4
    torch.testing.assert_close(tube, truth, atol=1e-2, rtol=0)
    ball = shapes.ellipsoid(where, (0.0, 0.0, 0.0), (12.0, 12.0, 12.0))
    sphere = (where.x.square() + where.y.square() + where.z.square()).sqrt() - 12
    near = sphere.abs() < 4
    torch.testing.assert_close(ball[near], sphere[near], atol=0.05, rtol=0)
