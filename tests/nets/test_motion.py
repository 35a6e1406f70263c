"""Motion maps: known displacements are found, sliding shows as shear, and a still clip does not move."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xmkd.nets import motion
from xmkd.nets.classifiers import ClipClassifier
from xmkd.nets.motion import MotionMaps, displacement


def texture(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth noise in [0, 1], `(1, 1, H, W)`, larger than asked for by 16 on each side."""
    noise = torch.rand(1, 1, height + 32, width + 32, generator=torch.Generator().manual_seed(seed))
    for _ in range(2):
        noise = F.avg_pool2d(noise, 5, stride=1, padding=2)
    return (noise - noise.min()) / (noise.max() - noise.min())


def moved(picture: Tensor, x: float, y: float) -> Tensor:
    """The middle 64 x 64 pixels, moved to the right and down."""
    size = picture.shape[-1]
    shift = torch.tensor([[[1.0, 0.0, -2 * x / size], [0.0, 1.0, -2 * y / size]]])
    grid = F.affine_grid(shift, list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, align_corners=False)[..., 16:-16, 16:-16]


@pytest.mark.parametrize(("x", "y"), [(0.6, 0.0), (0.0, -1.3), (2.2, 1.1), (-3.0, 2.0)])
def test_a_known_displacement_is_found(x: float, y: float) -> None:
    picture = texture()
    found = displacement(moved(picture, 0, 0), moved(picture, x, y))[0, :, 10:-10, 10:-10]
    assert float(found[0].median()) == pytest.approx(x, abs=0.15 + 0.1 * abs(x))
    assert float(found[1].median()) == pytest.approx(y, abs=0.15 + 0.1 * abs(y))


def clip(upper: Tensor, lower: Tensor) -> Tensor:
    """Sixteen frames whose upper and lower halves move sideways by so many pixels, `(1, 1, T, H, W)`."""
    a, b = texture(seed=1), texture(seed=2)
    frames = []
    for u, v in zip(upper.tolist(), lower.tolist(), strict=True):
        frame = moved(a, u, 0.0).clone()
        frame[..., 32:, :] = moved(b, v, 0.0)[..., 32:, :]
        frames.append(frame)
    return torch.stack(frames, 2)


def test_sliding_shows_as_shear_at_the_interface() -> None:
    wave = 3 * torch.sin(torch.linspace(0, 6.28, 16))
    other = 3 * torch.cos(torch.linspace(0, 6.28, 16))
    maps = MotionMaps()
    stuck, free = maps(clip(wave, wave))[0], maps(clip(wave, other))[0]
    shear = 6  # downward derivative of sideways displacement
    at, away = slice(28, 37), slice(10, 22)
    assert float(free[shear, at].mean() - stuck[shear, at].mean()) > 0.5
    assert float((free[shear, away] - stuck[shear, away]).abs().mean()) < 0.2, "far from it they are the same"


def test_what_does_not_move_has_no_motion() -> None:
    still = texture()[..., 16:-16, 16:-16][:, :, None].expand(-1, -1, 8, -1, -1)
    maps = MotionMaps()(still)[0]
    torch.testing.assert_close(maps[0], still[0, 0, 0])
    assert torch.equal(maps[1], torch.zeros(64, 64))
    torch.testing.assert_close(maps[2:], torch.full((6, 64, 64), 0.5 * torch.tensor(1e-4).log().item()))
    torch.testing.assert_close(MotionMaps()(still[:, :, :1])[0], maps)


def test_the_window_is_pooling_twice_and_clips_do_not_meet() -> None:
    values = torch.rand(3, 5, 24, 40, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool2d(F.avg_pool2d(values, 5, 1, 2), 5, 1, 2)
    torch.testing.assert_close(motion._window(values), expected, atol=1e-6, rtol=0)
    clips = torch.rand(3, 1, 6, 24, 40, generator=torch.Generator().manual_seed(1))
    together = MotionMaps()(clips)
    assert torch.equal(together[1:2], MotionMaps()(clips[1:2]))
    torch.testing.assert_close(motion._maps(clips[:, 0]), together)  # as where all are taken at once


def test_the_network_on_motion_maps() -> None:
    net = ClipClassifier("motion", 2)
    x = torch.rand(3, 1, 6, 48, 48)
    features = net.features(x)
    assert features.ndim == 5
    assert features.shape[2] == 1
    torch.testing.assert_close(net.head(features), net(x), atol=1e-5, rtol=1e-4)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(net(x)).all()
