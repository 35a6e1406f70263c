"""Grids, centre lines, uneven surfaces and noise: what holds whatever the patient is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.simulate.labels import mask
from xmkd.simulate import noise, waves
from xmkd.simulate.curves import project, project_on, smooth
from xmkd.simulate.grids import Grid, stack
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import Region, bounds, coverage, placed


def ball(grid: Grid, radius: float) -> torch.Tensor:
    return (grid.x.square() + grid.y.square() + grid.z.square()).sqrt() - radius


def test_rows_run_to_the_feet_and_columns_to_the_back() -> None:
    grid = stack((0.0, 0.0, 0.0), (3, 5, 7), (4.0, 2.0, 1.0))
    assert grid.z[0, 0] > grid.z[-1, 0]
    assert grid.y[0, 0] < grid.y[0, -1]
    assert grid.x.flatten().tolist() == [-4.0, 0.0, 4.0]


@given(tilt=st.floats(-0.5, 0.5), rows=st.integers(2, 40), columns=st.integers(2, 40))
def test_a_tilt_keeps_distances(tilt: float, rows: int, columns: int) -> None:
    grid = stack((1.0, 2.0, 3.0), (2, rows, columns), (4.0, 1.5, 0.7), tilt=tilt)
    assert torch.hypot(grid.y.diff(dim=0), grid.z.diff(dim=0)).allclose(torch.tensor(1.5), atol=1e-4)
    assert torch.hypot(grid.y.diff(dim=1), grid.z.diff(dim=1)).allclose(torch.tensor(0.7), atol=1e-4)


@given(rows=st.integers(3, 33), columns=st.integers(3, 33), step=st.integers(1, 4))
def test_a_linear_field_survives_the_coarse_grid(rows: int, columns: int, step: int) -> None:
    """Away from the border, where the upsampling has nothing to interpolate with."""
    grid = stack((0.0, 0.0, 0.0), (1, rows, columns), (1.0, 1.0, 1.0), coarse_mm=float(step))
    y, z = grid.coarse_plane()
    fine = grid.refine(2 * y - 3 * z)
    inner = (slice(step, max(step, rows - 2 * step)), slice(step, max(step, columns - 2 * step)))
    assert fine[inner].allclose((2 * grid.y - 3 * grid.z)[inner], atol=1e-3)


def test_crop_is_the_same_points() -> None:
    grid = stack((0.0, 0.0, 0.0), (5, 20, 30), (4.0, 2.0, 1.0))
    box = grid.box((-4.5, 4.5), (-6.0, 3.0), (0.0, 9.0))
    assert box is not None
    part = grid.crop(box)
    assert part.x.flatten().tolist() == [-4.0, 0.0, 4.0]
    assert part.y.min() >= -6
    assert part.y.max() <= 3
    assert part.z.min() >= 0
    assert torch.equal(part.y, grid.y[box[1:]])
    assert grid.box(y=(500.0, 600.0)) is None


def test_projection_on_a_straight_line() -> None:
    line = smooth([(0.0, 0.0), (0.0, 30.0), (0.0, 60.0)])  # to the head
    s, n = project(line, torch.tensor([5.0, -5.0, 2.0, 1.0]), torch.tensor([10.0, 10.0, -4.0, 64.0]))
    assert s.tolist() == pytest.approx([10, 10, -4, 64], abs=1e-3)
    assert n.tolist() == pytest.approx([5, -5, 2, 1], abs=1e-3), "the back is positive where the line runs to the head"


@given(angle=st.floats(0, 2 * math.pi), n=st.floats(-6, 6), q=st.floats(0.05, 0.95))
def test_beside_and_project_are_inverse(angle: float, n: float, q: float) -> None:
    c, s = math.cos(angle), math.sin(angle)
    bend = [(0.0, 0.0), (5.0, 20.0), (18.0, 36.0), (40.0, 44.0)]
    line = smooth([(c * y - s * z, s * y + c * z) for y, z in bend])
    y, z = line.beside(q * line.length, n)
    found_s, found_n = project(line, torch.tensor(y), torch.tensor(z))
    assert float(found_n) == pytest.approx(n, abs=0.4)
    assert float(found_s) == pytest.approx(q * line.length, abs=1.2)


def test_no_false_surface_far_from_a_bent_line() -> None:
    """Where the sign of the offset changes between coarse points, the offset itself must not pass through 0."""
    grid = stack((0.0, 0.0, 0.0), (1, 200, 200), (1.0, 1.0, 1.0), coarse_mm=4.0)
    line = smooth([(-10.0, -40.0), (-12.0, 0.0), (20.0, 8.0), (22.0, -40.0)])
    _, n = project_on(line, grid)
    exact = project(line, grid.y, grid.z)[1].abs()
    assert (n.abs() - exact).abs().max() < 6.0


def test_waves_are_a_function_of_the_place() -> None:
    bumps = waves.draw(Seeds(1, "A").numpy("anatomy"), 2.0, 20.0)
    grid = stack((0.0, 0.0, 0.0), (6, 40, 50), (5.0, 1.0, 1.0))
    whole = bumps.on(grid)
    box = (slice(1, 4), slice(7, 30), slice(5, 22))
    assert bumps.on(grid.crop(box)).allclose(whole[box], atol=1e-4)
    fan = Grid(torch.full((1, 40, 50), 7.5), grid.y, grid.z, (1, 1))  # the same points, as a plane of its own
    assert bumps.on(fan)[0].allclose(whole[4], atol=1e-3)
    assert float(whole.std()) == pytest.approx(2.0, rel=0.35)


def test_a_fan_cut_down_to_a_row_is_still_a_fan() -> None:
    grid = stack((0.0, 0.0, 0.0), (1, 12, 9), (1.0, 1.0, 1.0))
    fan = Grid(torch.linspace(0, 3, 108).reshape(1, 12, 9), grid.y, grid.z, (1, 1))
    bumps = waves.draw(Seeds(1, "B").numpy("anatomy"), 1.0, 9.0)
    for box in ((slice(0, 1), slice(4, 5), slice(2, 7)), (slice(0, 1), slice(3, 9), slice(2, 3))):
        assert bumps.on(fan.crop(box)).allclose(bumps.on(fan)[box], atol=1e-5)
    found = fan.box(x=(1.0, 2.0), z=(0.4, 0.6))
    assert found is not None
    assert fan.crop(found).shape == fan.crop(found).x.shape


def test_noise_has_its_variance_and_correlation() -> None:
    field = noise.bank((64, 256), (0.0, 3.0))
    assert float(field.std()) == pytest.approx(1.0, abs=1e-3)
    shifted = torch.stack([(field * field.roll((0, k), (0, 1))).mean() for k in (0, 3, 6)])
    expected = torch.exp(-(torch.tensor([0.0, 3.0, 6.0]) ** 2) / (4 * 3.0**2))  # of a Gaussian filter of sigma 3
    assert shifted.allclose(expected, atol=0.06)
    assert abs(float((field * field.roll(1, 0)).mean())) < 0.05, "the other axis is white"


def test_components_have_generators_of_their_own() -> None:
    a, b = Seeds(1, "P1"), Seeds(1, "P1", "second")
    assert a.numpy("anatomy", shared=True).uniform() == b.numpy("anatomy", shared=True).uniform()
    assert a.numpy("motion").uniform() != b.numpy("motion").uniform()
    assert a.numpy("motion").uniform() != a.numpy("machine").uniform()
    assert Seeds(1, "P1").numpy("motion").uniform() != Seeds(2, "P1").numpy("motion").uniform()
    assert torch.equal(torch.rand(3, generator=a.torch("texture")), torch.rand(3, generator=a.torch("texture")))


def test_a_slanted_surface_is_blurred_across_thick_slices() -> None:
    thick = stack((0.0, 0.0, 0.0), (9, 40, 40), (5.0, 1.0, 1.0), blur=0)
    region = Region("urine", ball(thick, 15.0))
    flat = Region("urine", thick.z.expand(thick.shape))
    partial = ((coverage(region, thick) > 0.05) & (coverage(region, thick) < 0.95)).sum(dim=(1, 2))
    assert partial[6] > 1.5 * partial[4], "near the dome the edge is wider than at the equator"
    assert coverage(flat, thick).sum() == pytest.approx(9 * 40 * 20, rel=0.01), "coverage keeps the volume"


def test_a_mask_is_what_lies_inside() -> None:
    grid = stack((0.0, 0.0, 0.0), (9, 40, 40), (2.0, 1.0, 1.0))
    region = Region("urine", ball(grid, 8.0), organ="bladder")
    assert torch.equal(mask([region], grid) > 0, ball(grid, 8.0) < 0)
    assert torch.equal(mask([region], grid) > 0, coverage(region, grid) > 0.5), "where it covers more than half"


def test_regions_of_a_part_are_placed_in_the_whole() -> None:
    grid = stack((0.0, 0.0, 0.0), (9, 40, 40), (3.0, 1.0, 1.0))
    distance = ball(grid, 9.0)
    box = bounds(distance, 2.0)
    assert box is not None
    inner = (slice(1, 3), slice(2, 9), slice(0, 8))
    part = [Region("urine", distance[box], organ="bladder"),
            Region("stool", distance[box][inner] - 1, inner, organ="rectum")]  # fmt: skip
    labels = mask(placed(part, box), grid)
    expected = mask([Region("urine", distance, organ="bladder")], grid)
    assert torch.equal(labels > 0, (expected > 0) | (labels == 7))
    shifted = labels[box][inner] == 7
    assert torch.equal(shifted, distance[box][inner] - 1 < 0)
    assert bounds(distance + 100, 2.0) is None
