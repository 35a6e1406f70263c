"""MR physics against what the equations say."""

from __future__ import annotations

import math

import pytest
import torch

from xmkd.simulate import grids, mr_signal
from xmkd.simulate.mr_signal import Coil, Timing
from xmkd.simulate.tissues import Values

WATER = Values(t1=1000.0, t2=100.0, pd=0.8, adc=2.0, enhancement=1.0, hu=0.0)


def test_spin_echo_by_hand() -> None:
    expected = 0.8 * (1 - math.exp(-4)) * math.exp(-1)
    assert mr_signal.signal("t2", "urine", WATER, Timing(4000, 100)) == pytest.approx(expected)


def test_diffusion_weighting_by_hand_and_back() -> None:
    timing = Timing(4000, 80)
    b0, b1000 = (mr_signal.signal(c, "urine", WATER, timing) for c in ("b0", "b1000"))
    assert b1000 / b0 == pytest.approx(math.exp(-2))
    both = torch.tensor([b0, 1e-4]), torch.tensor([b1000, 1e-5])
    assert mr_signal.diffusion_map(*both, 0.01).tolist() == pytest.approx([2000, 0], abs=1)  # 1e-6 mm2/s; too little


def test_spoiled_gradient_echo_is_largest_at_the_ernst_angle() -> None:
    tr = 100.0
    ernst = math.degrees(math.acos(math.exp(-tr / WATER.t1)))
    best = [mr_signal.signal("t1ce", "urine", WATER, Timing(tr, 2, flip)) for flip in (ernst - 5, ernst, ernst + 5)]
    assert best[1] == max(best)


def test_fat_suppression_leaves_what_it_says() -> None:
    whole, left = (mr_signal.signal("t1ce", "fat", WATER, Timing(4, 2, 11, part)) for part in (1.0, 0.2))
    assert left == pytest.approx(0.2 * whole)


@pytest.mark.parametrize("amount", [0.2, 0.8])
def test_shading_is_as_strong_as_asked(amount: float) -> None:
    grid = grids.stack((0.0, 0.0, 0.0), (8, 60, 60), (5.0, 3.5, 3.5))
    factor = mr_signal.shading(Coil(amount, 0.6, 90, (0.3, 1.0), 0.0), grid)
    assert float(factor.mean()) == pytest.approx(1, abs=0.02)
    assert float(factor.max() - factor.min()) == pytest.approx(amount, rel=0.05)
    steps = torch.cat([factor.diff(dim=k).abs().flatten() / mm for k, mm in enumerate((5.0, 3.5, 3.5))])
    assert float(steps.max()) < amount / 25  # per mm: it takes many centimetres


def test_noise_is_rayleigh_in_air_and_gaussian_in_tissue() -> None:
    generator = torch.Generator().manual_seed(0)
    air = mr_signal.rician(torch.zeros(8, 96, 96), 2.0, generator)
    assert float(air.mean() / air.std()) == pytest.approx(1.913, rel=0.02)
    assert float(air.square().mean()) == pytest.approx(2 * 2.0**2, rel=0.03)
    tissue = mr_signal.rician(torch.full((8, 96, 96), 100.0), 2.0, generator)
    assert float(tissue.std()) == pytest.approx(2.0, rel=0.03)
    assert float(tissue.mean()) == pytest.approx(math.sqrt(100**2 + 2**2), rel=1e-3)


def test_finite_sampling_keeps_flat_regions_and_the_sum() -> None:
    flat = mr_signal.resolve(torch.full((2, 20, 20), 5.0), (0.12, 0.1), 0.04)
    torch.testing.assert_close(flat, torch.full((2, 20, 20), 5.0))
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    spread = mr_signal.resolve(point, (0.12, 0.1), 0.04)
    assert float(spread.sum()) == pytest.approx(1)
    assert float(spread[0, 10, 12]) < 0 < float(spread[0, 10, 11])  # it rings


def test_ghosts_repeat_the_front_wall_along_the_phase_direction() -> None:
    picture = torch.zeros(1, 4, 60)
    picture[..., 3] = 100
    mr_signal.ghosts(picture, 0.1, 20, 8)
    assert picture[0, 0].nonzero().flatten().tolist() == [3, 23, 43]
    assert float(picture[0, 0, 23]) == pytest.approx(10)


def test_a_saturation_band_darkens_only_the_front() -> None:
    grid = grids.stack((0.0, 0.0, 0.0), (3, 40, 40), (5.0, 5.0, 5.0))
    picture = torch.ones(grid.shape)
    mr_signal.saturate(picture, grid, -60, 0.3)
    assert float(picture[..., 0].max()) < 0.35
    assert float(picture[..., 20:].min()) > 0.99
