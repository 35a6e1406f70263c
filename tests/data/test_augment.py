from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from xmkd.data.augment import AugmentSettings, augment, id_hash, mix, sample_keys
from xmkd.data.rng import uniform
from xmkd.errors import ConfigError

OFF = AugmentSettings(
    flip=False,
    rotate_deg=0,
    scale=0,
    translate=0,
    depth=0,
    brightness=0,
    contrast=0,
    gamma=0,
    noise=0,
    gain=0,
    shadow=0,
)
NAMES = [f"sample-{i}" for i in range(64)]
KEYS = sample_keys(0, 0, NAMES)


def smooth(*shape: int) -> Tensor:
    """A picture without symmetry, in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, shape[-2]), torch.linspace(0, 1, shape[-1]), indexing="ij")
    return (0.5 + 0.3 * torch.sin(7 * x + 3 * y * y) + 0.2 * torch.cos(9 * y - x)).expand(*shape).contiguous()


def blob(h: int, w: int, at: tuple[float, float], radius: float = 4.0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * radius**2))


def centre(x: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (row, column) of each image of `(B, 1, H, W)`."""
    mass = x.sum((1, 2, 3))
    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    return (x.sum((1, 3)) * rows).sum(1) / mass, (x.sum((1, 2)) * columns).sum(1) / mass


@pytest.mark.parametrize("shape", [(8, 1, 40, 56), (8, 3, 40, 56), (8, 1, 5, 24, 32)])
def test_a_sample_is_changed_alike_in_any_batch(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    whole = augment(x, KEYS[:8], AugmentSettings())
    order = torch.tensor([5, 2, 7, 0])
    torch.testing.assert_close(augment(x[order], KEYS[order], AugmentSettings()), whole[order], rtol=0, atol=1e-6)
    for i in range(8):
        alone = augment(x[i : i + 1], KEYS[i : i + 1], AugmentSettings())[0]
        torch.testing.assert_close(alone, whole[i], rtol=0, atol=1e-6)


def test_seed_epoch_and_sample_each_matter_and_nothing_else_does() -> None:
    x = smooth(1, 1, 32, 32)
    base = augment(x, sample_keys(1, 2, ["a"]), AugmentSettings())
    assert torch.equal(augment(x, sample_keys(1, 2, ["a"]), AugmentSettings()), base)
    for other in (sample_keys(2, 2, ["a"]), sample_keys(1, 3, ["a"]), sample_keys(1, 2, ["b"])):
        assert (augment(x, other, AugmentSettings()) - base).abs().mean() > 1e-3


def test_keys_do_not_collide_and_the_hash_is_fixed() -> None:
    assert id_hash("sample-0") == -4323769514072237491  # a change would silently alter every run
    ids = torch.tensor([id_hash(n) for n in NAMES])
    assert torch.equal(mix(3, 4, ids), sample_keys(3, 4, NAMES))
    keys = torch.cat([mix(seed, epoch, ids) for seed in range(20) for epoch in range(20)])
    assert len(set(keys.tolist())) == len(keys)
    big = mix(2**63 + 5, 10**6, ids)
    assert len(set(big.tolist())) == len(ids)


def test_random_numbers_are_uniform_and_independent() -> None:
    u = uniform(mix(0, 0, torch.arange(20_000)), 6).double()  # consecutive ids: the hardest case
    assert u.min() >= 0
    assert u.max() < 1
    assert (u.mean(0) - 0.5).abs().max() < 4 * (1 / 12 / 20_000) ** 0.5
    counts = torch.stack([torch.histc(column, 20, 0, 1) for column in u.T])
    assert ((counts - 1000) ** 2 / 1000).sum(1).max() < 50  # chi-square, 19 degrees of freedom, p < 0.0002
    neighbours = torch.cat([u, u.roll(1, 0)], dim=1)
    off_diagonal = torch.corrcoef(neighbours.T) - torch.eye(12, dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / 20_000**0.5


def test_numbers_keep_their_place_when_more_are_drawn() -> None:
    assert torch.equal(uniform(KEYS, 5), uniform(KEYS, 9)[:, :5])


def test_everything_off_changes_nothing() -> None:
    x = torch.rand(4, 1, 16, 16)
    assert torch.equal(augment(x, KEYS[:4], OFF), x)
    data = (x * 255).to(torch.uint8)
    torch.testing.assert_close(augment(data, KEYS[:4], OFF), data / 255)


def test_the_input_is_left_alone_and_the_output_is_in_range() -> None:
    for x in (torch.rand(8, 1, 16, 16), torch.randint(0, 256, (8, 1, 4, 16, 16), dtype=torch.uint8)):
        before = x.clone()
        for settings in (AugmentSettings(brightness=0.9, noise=0.5, gain=0.9), replace(OFF, gamma=0.5, brightness=0.5)):
            out = augment(x, KEYS[:8], settings)
            assert torch.equal(x, before)
            assert out.shape == x.shape
            assert out.dtype == torch.float32
            assert 0 <= out.min() <= out.max() <= 1


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    image = smooth(8, 1, 32, 32)
    settings = AugmentSettings(noise=0)
    clip = augment(image[:, :, None].expand(-1, -1, 5, -1, -1), KEYS[:8], settings)
    for t in range(5):
        torch.testing.assert_close(clip[:, :, t], augment(image, KEYS[:8], settings), rtol=0, atol=1e-6)
    noisy = augment(torch.full((1, 1, 5, 32, 32), 0.5), KEYS[:1], replace(OFF, noise=0.2))
    assert (noisy[:, :, 0] - noisy[:, :, 1]).abs().max() > 0.01  # but noise is new in each frame


def test_flip_mirrors_left_and_right_in_about_half() -> None:
    x = smooth(64, 1, 20, 30)
    out = augment(x, KEYS, replace(OFF, flip=True))
    plain = (out - x).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (out - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    assert (plain ^ mirrored).all()
    assert 20 <= mirrored.sum() <= 44


def test_rotation_turns_by_at_most_the_angle_and_keeps_distances() -> None:
    x = blob(80, 120, (39.5, 89.5)).expand(64, 1, 80, 120)  # 30 pixels right of the centre of a picture not square
    rows, columns = centre(augment(x, KEYS, replace(OFF, rotate_deg=20)))
    radius = torch.hypot(rows - 39.5, columns - 59.5)
    angle = torch.rad2deg(torch.atan2(rows - 39.5, columns - 59.5))
    torch.testing.assert_close(radius, torch.full((64,), 30.0), rtol=0, atol=0.05)
    assert angle.abs().max() <= 20.1
    assert angle.min() < -15
    assert angle.max() > 15


def test_scale_changes_areas_both_ways() -> None:
    x = blob(64, 64, (31.5, 31.5)).expand(64, 1, 64, 64)
    growth = augment(x, KEYS, replace(OFF, scale=0.25)).sum((1, 2, 3)).div(x[0].sum()).sqrt()
    assert 1 / 1.25 - 0.01 <= growth.min() < 0.85
    assert 1.18 < growth.max() <= 1.26


def test_translation_is_a_fraction_of_each_side() -> None:
    x = blob(60, 100, (29.5, 49.5)).expand(64, 1, 60, 100)
    rows, columns = centre(augment(x, KEYS, replace(OFF, translate=0.1)))
    assert 4.5 < (rows - 29.5).abs().max() <= 6.01
    assert 8 < (columns - 49.5).abs().max() <= 10.01


def test_depth_stretches_along_the_beam_from_the_top() -> None:
    x = (blob(80, 40, (0, 20), 2) + blob(80, 40, (50, 20), 2)).expand(64, 1, 80, 40)
    out = augment(x, KEYS, replace(OFF, depth=0.2))
    assert (out[:, :, :2].sum((1, 2, 3)) / x[:1, :, :2].sum() - 1).abs().max() < 0.1  # at the probe all stays
    rows, columns = centre(out[:, :, 20:])
    assert 50 / 1.2 - 1 <= rows.min() + 20 < 44
    assert 57 < rows.max() + 20 <= 61
    assert (columns - 20).abs().max() < 0.05


def test_brightness_contrast_and_gamma_stay_within_their_limits() -> None:
    grey = torch.full((64, 1, 4, 4), 0.5)
    shift = augment(grey, KEYS, replace(OFF, brightness=0.2))[:, 0, 0, 0] - 0.5
    assert 0.17 < shift.abs().max() <= 0.2001
    pair = torch.tensor([0.3, 0.7]).expand(64, 1, 1, 2)
    out = augment(pair, KEYS, replace(OFF, contrast=0.4))[:, 0, 0]
    torch.testing.assert_close(out.mean(1), torch.full((64,), 0.5))
    ratio = (out[:, 1] - out[:, 0]) / 0.4
    assert 1 / 1.4 - 0.001 <= ratio.min() < 0.78
    assert 1.3 < ratio.max() <= 1.401
    ramp = torch.linspace(0, 1, 21).expand(64, 1, 1, 21)
    bent = augment(ramp, KEYS, replace(OFF, gamma=0.25))[:, 0, 0]
    exponent = bent[:, 10].log() / torch.tensor(0.5).log()
    assert 1 / 1.25 - 0.001 <= exponent.min() < 0.85
    assert 1.18 < exponent.max() <= 1.251
    assert (bent - ramp[0, 0, 0] ** exponent[:, None]).abs().max() < 0.06
    assert (bent[:, [0, 20]] == torch.tensor([0.0, 1.0])).all()


def test_noise_is_gaussian_new_for_each_sample_and_bounded() -> None:
    noise = augment(torch.full((64, 1, 40, 40), 0.5), KEYS, replace(OFF, noise=0.1))[:, 0] - 0.5
    spread = noise.std((1, 2))
    assert 0.08 < spread.max() < 0.105
    assert spread.min() < 0.02
    standard = (noise / spread[:, None, None])[spread > 0.02].flatten(1)
    assert standard.mean(1).abs().max() < 0.1
    assert (standard.abs() < 1).float().mean() == pytest.approx(0.683, abs=0.01)
    between = torch.corrcoef(standard) - torch.eye(len(standard))
    assert between.abs().max() < 0.15


def test_gain_varies_smoothly_with_depth_alone() -> None:
    x = torch.full((64, 1, 50, 30), 0.5)
    gain = augment(x, KEYS, replace(OFF, gain=0.4)) / x
    assert (gain.amax(3) == gain.amin(3)).all()
    assert 0.2 < (gain - 1).abs().max() <= 0.4
    assert (gain[:, :, 1:] - gain[:, :, :-1]).abs().max() < 0.05
    assert (gain.amax(2) - gain.amin(2)).min() > 0.01


def test_a_shadow_darkens_one_sector_of_about_half_the_samples() -> None:
    x = torch.full((64, 1, 60, 60), 0.8)
    factor = (augment(x, KEYS, replace(OFF, shadow=0.6)) / x)[:, 0]
    assert factor.max() <= 1.0001
    assert 0.4 <= factor.min() < 0.55
    shadowed = factor.amin((1, 2)) < 0.99
    assert 20 <= shadowed.sum() <= 44
    bottom = factor[:, -1] < 0.99
    assert (bottom.int().diff(dim=1) == 1).sum(1).max() <= 1  # one stretch of columns
    middle = (bottom * torch.arange(60)).sum(1) / bottom.sum(1)
    higher = factor[:, 40] < 0.99
    middle_above = (higher * torch.arange(60)).sum(1) / higher.sum(1)
    inside = (bottom.sum(1) > 3) & (higher.sum(1) > 3) & ~bottom[:, 0] & ~bottom[:, -1]
    assert inside.sum() >= 5
    assert ((middle - 29.5).abs() >= (middle_above - 29.5).abs() - 0.6)[inside].all()  # it fans out from above


@pytest.mark.parametrize("bad", [{"noise": -0.1}, {"rotate_deg": 200.0}, {"shadow": 1.5}, {"scale": float("nan")}])
def test_settings_that_make_no_sense_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        replace(OFF, **bad)  # type: ignore[arg-type]  # mypy can't know which field


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives_without_waiting() -> None:
    x = torch.rand(8, 1, 32, 32)
    expected = augment(x, KEYS[:8], AugmentSettings())
    x, keys = x.cuda(), KEYS[:8].cuda()
    augment(x, keys, AugmentSettings())  # the noise tile goes over once
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(x, keys, AugmentSettings())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-4)
