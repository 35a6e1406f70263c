"""Figures of how masked parts of volumes are filled in, against values by hand and laws that they obey."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from xmkd.evaluation.reconstruction import MAX_PSNR, figures, fill_linearly, psnr, ssim
from xmkd.evaluation.statistics import MIN_PATIENTS

SHAPE = (2, 1, 6, 12, 10)


def volumes(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some(share: float = 0.25, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(seed)) < share


def test_a_gap_in_one_line_is_bridged_linearly_and_its_ends_go_on() -> None:
    line = torch.tensor([9.0, 2.0, 9.0, 9.0, 8.0, 9.0]).view(1, 1, 1, 1, 6)
    visible = torch.tensor([0, 1, 0, 0, 1, 0]).bool().view(1, 1, 1, 1, 6)
    for axis in (-1, -2, -3):
        found = fill_linearly(line.movedim(-1, axis), visible.movedim(-1, axis)).flatten()
        torch.testing.assert_close(found, torch.tensor([2.0, 2.0, 4.0, 6.0, 8.0, 8.0]))


def test_shorter_gaps_weigh_more() -> None:
    plane = torch.zeros(1, 1, 1, 3, 5)
    visible = torch.zeros(1, 1, 1, 3, 5, dtype=torch.bool)
    plane[..., 0, 2], plane[..., 2, 2] = 6.0, 6.0  # two apart, above and below
    plane[..., 1, 0], plane[..., 1, 4] = 0.0, 0.0  # four apart, left and right
    visible[..., [0, 2], 2] = True
    visible[..., 1, [0, 4]] = True
    assert fill_linearly(plane, visible)[0, 0, 0, 1, 2] == pytest.approx((6 / 2 + 0 / 4) / (1 / 2 + 1 / 4))


def test_an_affine_volume_is_found_again_between_what_is_visible() -> None:
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE[2:]), indexing="ij")
    volume = (1 + 2 * axes[0] - 3 * axes[1] + 0.5 * axes[2]).expand(SHAPE)
    visible = some(0.3)
    for index in (0, -1):  # the whole surface is visible, so every hidden voxel lies between two visible ones
        visible[:, :, index], visible[..., index, :], visible[..., index] = True, True, True
    torch.testing.assert_close(fill_linearly(volume, visible), volume, atol=1e-4, rtol=0)


def test_what_is_visible_stays_and_what_is_hidden_is_not_looked_at() -> None:
    volume, visible = volumes(), some()
    found = fill_linearly(volume, visible)
    assert torch.equal(found[visible], volume[visible])
    assert torch.equal(fill_linearly(torch.where(visible, volume, 1e6), visible), found)
    torch.testing.assert_close(fill_linearly(3 * volume - 2, visible), 3 * found - 2, atol=1e-4, rtol=0)
    assert found.max() <= volume[visible].max() + 1e-5
    assert found.min() >= volume[visible].min() - 1e-5
    torch.testing.assert_close(fill_linearly(volume.flip(-2), visible.flip(-2)), found.flip(-2))
    swapped = fill_linearly(volume.transpose(-1, -3), visible.transpose(-1, -3))
    torch.testing.assert_close(swapped, found.transpose(-1, -3))
    torch.testing.assert_close(fill_linearly(volume[1:], visible[1:]), found[1:])


def test_voxels_in_no_line_with_a_visible_one_become_the_mean() -> None:
    volume, visible = volumes(shape=(1, 1, 4, 4, 4)), torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    visible[0, 0, 0, 0, 0] = visible[0, 0, 1, 1, 1] = True
    mean = (volume[0, 0, 0, 0, 0] + volume[0, 0, 1, 1, 1]) / 2
    torch.testing.assert_close(fill_linearly(volume, visible)[0, 0, 3, 3, 3], mean)


def test_psnr_by_hand_over_hidden_voxels_alone() -> None:
    volume, hidden = volumes(), some()
    volume[0].clamp_(-2, 2)
    volume[0, 0, 0, 0, :2] = torch.tensor([-2.0, 2.0])  # a range of 4
    found = torch.where(hidden, volume + 0.5, volume + 100)
    assert psnr(found, volume, hidden)[0].item() == pytest.approx(10 * math.log10(4**2 / 0.5**2), abs=1e-4)
    torch.testing.assert_close(psnr(7 * found, 7 * volume, hidden), psnr(found, volume, hidden))
    half = psnr(volume + 0.25 * hidden, volume, hidden) - psnr(volume + 0.5 * hidden, volume, hidden)
    torch.testing.assert_close(half, torch.full((2,), 20 * math.log10(2)))
    assert psnr(volume, volume, hidden).tolist() == [MAX_PSNR] * 2


def test_figures_of_a_volume_of_nothing_but_air_are_finite() -> None:
    air, hidden = torch.full(SHAPE, -1.0), some()
    for found in (air, air + 0.1):
        assert psnr(found, air, hidden).isfinite().all()
        assert ssim(found, air).isfinite().all()


def test_structural_similarity_is_1_for_the_same_and_falls_with_noise_and_blur() -> None:
    smooth = torch.from_numpy(ndimage.gaussian_filter(volumes().numpy(), (0, 0, 1, 1, 1)))
    torch.testing.assert_close(ssim(smooth, smooth), torch.ones(2))
    noise, last = volumes(5), torch.ones(2)
    for level in (0.01, 0.1, 1.0):
        found = ssim(smooth + level * noise, smooth)
        assert (found < last).all()
        last = found
    assert (ssim(torch.zeros_like(smooth) + smooth.mean(), smooth) < 0.5).all()


def test_structural_similarity_does_not_depend_on_scale_offset_or_the_batch() -> None:
    volume = volumes()
    found = volume + 0.3 * volumes(5)
    expected = ssim(found, volume)
    torch.testing.assert_close(ssim(4 * found + 9, 4 * volume + 9), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(found[1:], volume[1:]), expected[1:])
    torch.testing.assert_close(ssim(found.flip(-3), volume.flip(-3)), expected)


def test_structural_similarity_in_the_middle_of_a_volume_by_another_library() -> None:
    """Of one window: with scipy's Gaussian, truncated alike, where the border is far away."""
    shape = (1, 1, 15, 15, 15)
    y = volumes(shape=shape).numpy()[0, 0].astype(np.float64)
    x = y + 0.5 * volumes(3, shape).numpy()[0, 0]
    extent, least = y.max() - y.min(), y.min()
    a, b = x - least, y - least

    def blur(z: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.gaussian_filter(z, 1.0, truncate=3.0, mode="constant"))

    inside = blur(np.ones_like(a))
    ma, mb, aa, bb, ab = (blur(z) / inside for z in (a, b, a * a, b * b, a * b))
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    each = (2 * ma * mb + c1) * (2 * (ab - ma * mb) + c2)
    each /= (ma**2 + mb**2 + c1) * (aa - ma**2 + bb - mb**2 + c2)
    found = ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert found.item() == pytest.approx(each.mean(), abs=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shallow_volumes_have_a_structural_similarity(depth: int) -> None:
    volume = volumes(shape=(2, 1, depth, 8, 8))
    torch.testing.assert_close(ssim(volume, volume), torch.ones(2))
    assert (ssim(volume + 0.1 * volumes(2, (2, 1, depth, 8, 8)), volume) < 1).all()


def test_means_are_over_patients_with_a_t_interval() -> None:
    rng = np.random.default_rng(0)
    each = rng.normal(20, 2, 15)
    patients = np.repeat([f"p{i}" for i in range(15)], np.arange(15) % 3 + 1)
    shift = np.concatenate([np.linspace(-1, 1, n) if n > 1 else [0.0] for n in np.arange(15) % 3 + 1])
    table = pd.DataFrame({"patient_id": patients, "psnr": np.repeat(each, np.arange(15) % 3 + 1) + shift})
    found = figures(table, ["psnr"])["psnr"]
    expected = stats.t.interval(0.95, 14, each.mean(), stats.sem(each))
    assert found.value == pytest.approx(each.mean())
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.n, found.patients) == (len(table), 15)


def test_few_patients_have_a_mean_and_no_interval() -> None:
    table = pd.DataFrame({"patient_id": [f"p{i}" for i in range(MIN_PATIENTS - 1)], "loss": 1.0})
    found = figures(table, ["loss"])["loss"]
    assert found.value == 1
    assert found.low is None
    assert str(MIN_PATIENTS - 1) in found.note
