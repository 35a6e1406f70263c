"""Random changes of volumes: what they are, how far they go, and what alone they depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.data import augment3d
from xmkd.data.augment import around_one, sample_keys
from xmkd.data.augment3d import VolumeAugment, augment_volumes, left_right_axis
from xmkd.data.rng import uniform
from xmkd.errors import ConfigError

OFF = VolumeAugment(flip=False, rotate_deg=0, scale=0, translate=0, brightness=0, contrast=0, gamma=0, noise=0, bias=0)
KEYS = sample_keys(0, 0, [f"sample-{i}" for i in range(64)])


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def ball(shape: tuple[int, int, int], at: tuple[float, float, float], radius: float = 3.0) -> Tensor:
    """`(64, 1, D, H, W)`, all alike."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    distance = sum(((axis - a) ** 2 for axis, a in zip(axes, at, strict=True)), torch.zeros(shape))
    return torch.exp(-distance / (2 * radius**2)).expand(64, 1, *shape)


def centre(x: Tensor) -> Tensor:
    """Centroid (d, h, w) of each volume of `(B, 1, D, H, W)`, `(B, 3)`."""
    mass = x.sum((1, 2, 3, 4))
    others = {2: (1, 3, 4), 3: (1, 2, 4), 4: (1, 2, 3)}
    return torch.stack([(x.sum(o) * torch.arange(x.shape[a])).sum(1) / mass for a, o in others.items()], dim=1)


@pytest.mark.parametrize("shape", [(8, 1, 6, 20, 28), (8, 2, 12, 16, 16)])
def test_a_volume_is_changed_alike_in_any_batch(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    whole = augment_volumes(x, KEYS[:8], VolumeAugment(), orientation="PIL")
    order = torch.tensor([5, 2, 7, 0])
    some = augment_volumes(x[order], KEYS[order], VolumeAugment(), orientation="PIL")
    torch.testing.assert_close(some, whole[order], rtol=0, atol=1e-5)
    for i in range(8):
        alone = augment_volumes(x[i : i + 1], KEYS[i : i + 1], VolumeAugment(), orientation="PIL")[0]
        torch.testing.assert_close(alone, whole[i], rtol=0, atol=1e-5)


def test_only_the_key_matters() -> None:
    x = noise(1, 1, 8, 16, 16).expand(64, -1, -1, -1, -1)
    out = augment_volumes(x, KEYS, VolumeAugment())
    assert torch.equal(augment_volumes(x, KEYS, VolumeAugment()), out)
    for i in range(1, 64):
        assert (out[i] - out[0]).abs().mean() > 0.01


def test_half_precision_comes_in_and_float32_goes_out_unclamped() -> None:
    x = (4 * noise(4, 1, 6, 8, 8) - 3).half()
    before = x.clone()
    same = augment_volumes(x, KEYS[:4], OFF)
    assert same.dtype == torch.float32
    assert torch.equal(same, x.float())
    out = augment_volumes(x, KEYS[:4], VolumeAugment())
    assert out.shape == x.shape
    assert out.min() < -5
    assert out.max() > 1.5
    assert torch.equal(x, before), "the batch itself is left alone"


@pytest.mark.parametrize("orientation", ["LPS", "PIL", "ALS"])
def test_it_is_one_trilinear_resampling(orientation: str) -> None:
    """Against torch's own, on a grid of positions in the volume; outside lies the mirror image."""
    x, spacing = noise(16, 2, 7, 12, 18), (4.0, 1.5, 1.0)
    settings = replace(OFF, flip=True, rotate_deg=40, scale=0.3, translate=0.2)
    u = uniform(KEYS[:16], augment3d.COUNT)
    angle = (2 * u[:, augment3d.ROTATE] - 1) * math.radians(40)
    zoom = around_one(u[:, augment3d.SCALE], 0.3)
    ratio = 12 * 1.5 / (18 * 1.0)
    theta = torch.zeros(16, 3, 4)  # rows: where x, y, z come from
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() / zoom
    theta[:, 0, 1], theta[:, 1, 0] = -ratio * angle.sin() / zoom, angle.sin() / ratio / zoom
    theta[:, 2, 2] = 1 / zoom
    for row, place in enumerate((augment3d.SHIFT_W, augment3d.SHIFT_H, augment3d.SHIFT_D)):
        theta[:, row, 3] = (2 * u[:, place] - 1) * 0.4
    theta[:, -1 - left_right_axis(orientation)] *= torch.where(u[:, augment3d.FLIP] < 0.5, -1, 1)[:, None]
    grid = F.affine_grid(theta, [16, 2, 7, 12, 18], align_corners=False)
    expected = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    out = augment_volumes(x, KEYS[:16], settings, orientation=orientation, spacing_mm=spacing)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("orientation, axis", [("LPS", -1), ("PIL", -3), ("RAS", -1), ("ARI", -2), ("SAR", -3)])
def test_flip_mirrors_left_and_right_in_about_half(orientation: str, axis: int) -> None:
    assert left_right_axis(orientation) == axis
    x = noise(64, 1, 5, 6, 7)
    out = augment_volumes(x, KEYS, replace(OFF, flip=True), orientation=orientation)
    plain = (out - x).abs().amax((1, 2, 3, 4)) < 1e-4
    mirrored = (out - x.flip(axis)).abs().amax((1, 2, 3, 4)) < 1e-4
    assert (plain ^ mirrored).all()
    assert 20 <= mirrored.sum() <= 44


def test_rotation_stays_within_the_slice_and_keeps_distances_in_mm() -> None:
    x = ball((9, 40, 96), (4, 19.5, 71.5))  # 24 columns right of the centre; a pixel is twice as high as it is wide
    out = augment_volumes(x, KEYS, replace(OFF, rotate_deg=20), spacing_mm=(3.0, 2.0, 1.0))
    offset = (centre(out) - torch.tensor([4.0, 19.5, 47.5])) * torch.tensor([3.0, 2.0, 1.0])  # mm
    assert offset[:, 0].abs().max() < 0.01
    torch.testing.assert_close(offset.norm(dim=1), torch.full((64,), 24.0), rtol=0, atol=0.1)
    angle = torch.rad2deg(torch.atan2(offset[:, 1], offset[:, 2]))
    assert angle.abs().max() <= 20.1
    assert angle.min() < -15
    assert angle.max() > 15


def test_scale_and_shift_stay_within_their_limits_on_every_axis() -> None:
    x = ball((30, 40, 50), (14.5, 19.5, 24.5))
    growth = augment_volumes(x, KEYS, replace(OFF, scale=0.25)).sum((1, 2, 3, 4)).div(x[0].sum()).pow(1 / 3)
    assert 1 / 1.25 - 0.01 <= growth.min() < 0.85
    assert 1.18 < growth.max() <= 1.26
    moved = (centre(augment_volumes(x, KEYS, replace(OFF, translate=0.1))) - centre(x)).abs().amax(0)
    assert (moved <= torch.tensor([3.01, 4.01, 5.01])).all()
    assert (moved > torch.tensor([2.5, 3.3, 4.2])).all()


def test_what_comes_from_outside_has_values_of_the_volume() -> None:
    x = noise(64, 1, 6, 12, 12) - 2
    settings = replace(OFF, flip=True, rotate_deg=45, scale=0.4, translate=0.3)
    out = augment_volumes(x, KEYS, settings)
    assert (out.amin((1, 2, 3, 4)) >= x.amin((1, 2, 3, 4)) - 1e-4).all()
    assert (out.amax((1, 2, 3, 4)) <= x.amax((1, 2, 3, 4)) + 1e-4).all()


def test_brightness_and_contrast_are_about_the_mean_of_the_body() -> None:
    pair = torch.tensor([-1.0, 3.0]).expand(64, 1, 2, 2, 2)
    shift = (augment_volumes(pair, KEYS, replace(OFF, brightness=0.2)) - pair)[:, 0]
    torch.testing.assert_close(shift, shift[:, :1, :1, :1].expand_as(shift))
    assert 0.17 < shift.abs().max() <= 0.2001
    ratio = (augment_volumes(pair, KEYS, replace(OFF, contrast=0.4)) / pair)[:, 0]
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
    assert 1 / 1.4 - 0.001 <= ratio.min() < 0.78
    assert 1.3 < ratio.max() <= 1.401


def test_gamma_bends_between_the_ends_of_each_volume() -> None:
    ramp = torch.linspace(-2, 4, 21).expand(64, 1, 1, 1, 21)
    bent = augment_volumes(ramp, KEYS, replace(OFF, gamma=0.25)).flatten(1)
    torch.testing.assert_close(bent[:, [0, -1]], torch.tensor([-2.0, 4.0]).expand(64, 2))
    assert (bent.diff(dim=1) > 0).all()
    exponent = ((bent[:, 10] + 2) / 6).log() / math.log(0.5)
    assert 1 / 1.25 - 0.001 <= exponent.min() < 0.85
    assert 1.18 < exponent.max() <= 1.251


def test_bias_is_a_smooth_bounded_gain_on_what_is_above_the_least_value() -> None:
    x = torch.full((64, 1, 10, 20, 30), 1.0)
    x[:, :, 0, 0, 0] = -2.0  # air
    out = augment_volumes(x, KEYS, replace(OFF, bias=0.5))
    torch.testing.assert_close(out[:, 0, 0, 0, 0], torch.full((64,), -2.0))
    gain = (out + 2) / 3
    gain[:, :, 0, 0, 0] = 1
    assert 1 / 1.5 <= gain.min() < 0.85
    assert 1.18 < gain.max() <= 1.5
    for axis in (2, 3, 4):
        step = gain[:, :, 1:, 1:, 1:].diff(dim=axis).abs()
        assert 0 < step.max() < 0.1, "it varies along each axis, and slowly"


def test_noise_is_gaussian_of_bounded_strength_and_new_for_each_sample() -> None:
    added = augment_volumes(torch.zeros(64, 1, 6, 16, 16), KEYS, replace(OFF, noise=0.3)).flatten(1)
    spread = added.std(1)
    assert 0.25 < spread.max() < 0.31
    assert spread.min() < 0.05
    standard = (added / spread[:, None])[spread > 0.05]
    assert standard.mean(1).abs().max() < 0.15
    assert (standard.abs() < 1).float().mean() == pytest.approx(0.683, abs=0.01)
    assert (torch.corrcoef(standard) - torch.eye(len(standard))).abs().max() < 0.2


def test_switching_one_change_off_leaves_the_others() -> None:
    x = noise(8, 1, 6, 10, 10)
    both = augment_volumes(x, KEYS[:8], replace(OFF, brightness=0.5, contrast=0.5))
    contrast = augment_volumes(x, KEYS[:8], replace(OFF, contrast=0.5))
    brightness = augment_volumes(x, KEYS[:8], replace(OFF, brightness=0.5))
    torch.testing.assert_close(both, contrast + (brightness - x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "bad", [{"noise": -0.1}, {"rotate_deg": 200.0}, {"translate": 1.5}, {"scale": math.nan}, {"bias": math.inf}]
)
def test_settings_that_make_no_sense_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        replace(OFF, **bad)  # type: ignore[arg-type]  # mypy can't know which field


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives_without_waiting() -> None:
    x = noise(8, 1, 8, 32, 32).half()
    expected = augment_volumes(x, KEYS[:8], VolumeAugment(), orientation="PIL")
    x, keys = x.cuda(), KEYS[:8].cuda()
    augment_volumes(x, keys, VolumeAugment(), orientation="PIL")  # the noise tile goes over once
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment_volumes(x, keys, VolumeAugment(), orientation="PIL")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-4)
