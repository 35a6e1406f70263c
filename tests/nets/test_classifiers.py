"""Classifiers: shapes, normalisation inside the network, and which frames of a clip are seen."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xmkd.nets.classifiers import (
    GREY_MEAN,
    GREY_STD,
    KINETICS_MEAN,
    KINETICS_STD,
    ClipClassifier,
    ImageClassifier,
    take_frames,
)


def weights_of(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(scope="module")
def image_net() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("resnet10t", 3).eval()


@pytest.fixture(scope="module")
def clip_net() -> ClipClassifier:
    torch.manual_seed(0)
    return ClipClassifier("small", 3).eval()


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilevit_xxs"])
@pytest.mark.parametrize("outputs", [1, 4])
def test_image_classifier_takes_one_grey_channel(backbone: str, outputs: int) -> None:
    net = ImageClassifier(backbone, outputs).eval()
    with torch.inference_mode():
        assert net(torch.rand(2, 1, 64, 64)).shape == (2, outputs)
    with pytest.raises(RuntimeError, match="channels"):
        net(torch.rand(2, 3, 64, 64))


def test_features_and_head_compose_to_forward(image_net: ImageClassifier, clip_net: ClipClassifier) -> None:
    cases: list[tuple[ImageClassifier | ClipClassifier, Tensor, int]] = [
        (image_net, torch.rand(2, 1, 64, 64), 4),
        (clip_net, torch.rand(2, 1, 8, 32, 32), 5),
    ]
    for net, x, dimensions in cases:
        with torch.inference_mode():
            features = net.features(x)
            assert features.ndim == dimensions
            torch.testing.assert_close(net.head(features), net(x))
            assert net(x).shape == (2, 3)


def test_the_networks_normalise_for_themselves(image_net: ImageClassifier, clip_net: ClipClassifier) -> None:
    x = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(image_net(x), image_net.net((x - GREY_MEAN) / GREY_STD))
        clip = torch.rand(1, 1, 4, 32, 32)
        torch.testing.assert_close(clip_net.features(clip), clip_net.body((clip - GREY_MEAN) / GREY_STD))


def test_r2plus1d_gets_the_grey_channel_three_times_each_with_its_own_statistics() -> None:
    net = ClipClassifier("r2plus1d_18", 2).eval()
    assert weights_of(net) == pytest.approx(31.3e6, rel=0.02)  # 31.5 M less the head for 400 classes
    seen: list[Tensor] = []
    net.body[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    clip = torch.rand(1, 1, 4, 32, 32)
    with torch.inference_mode():
        assert net(clip).shape == (1, 2)
    expected = torch.cat([(clip - m) / s for m, s in zip(KINETICS_MEAN, KINETICS_STD, strict=True)], dim=1)
    torch.testing.assert_close(seen[0], expected)


def test_small_is_small(clip_net: ClipClassifier) -> None:
    assert weights_of(clip_net) < 1.0e6
    assert clip_net.classifier.in_features == 128


def test_dropout_acts_in_training_only() -> None:
    net = ClipClassifier("small", 1, drop_rate=0.9)
    features = torch.rand(1, 128, 1, 1, 1)
    net.eval()
    assert torch.equal(net.head(features), net.head(features))
    net.train()
    torch.manual_seed(0)
    assert len({net.head(features).item() for _ in range(5)}) > 1


def frames_of(length: int, count: int, start: float) -> list[int]:
    """Which frames are taken of a clip whose pixels hold their frame's number."""
    clip = torch.arange(length).float().view(1, 1, length, 1, 1).expand(1, 2, length, 3, 3)
    taken = take_frames(clip, count, torch.tensor([start]))
    assert taken.shape == (1, 2, count, 3, 3)
    assert torch.equal(taken[0, 0, :, 0, 0], taken[0, 1, :, 2, 2])
    return [int(t) for t in taken[0, 0, :, 0, 0]]


@pytest.mark.parametrize(
    ("length", "count", "start", "expected"),
    [
        (4, 4, 0.0, [0, 1, 2, 3]),
        (4, 4, 0.99, [0, 1, 2, 3]),  # no room to move
        (10, 4, 0.0, [0, 3, 6, 9]),  # spacing 9 // 3, one place
        (12, 4, 0.0, [0, 3, 6, 9]),  # spacing 11 // 3, three places
        (12, 4, 0.5, [1, 4, 7, 10]),
        (12, 4, 0.99, [2, 5, 8, 11]),
        (5, 1, 0.0, [0]),
        (5, 1, 0.99, [4]),
        (1, 1, 0.5, [0]),
        (3, 5, 0.5, [0, 1, 2, 2, 2]),
    ],
)
def test_take_frames_by_hand(length: int, count: int, start: float, expected: list[int]) -> None:
    assert frames_of(length, count, start) == expected


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(1, 40),
    count=st.integers(1, 40),
    start=st.floats(0, 1, exclude_max=True, width=32),
)
def test_take_frames_is_even_and_inside(length: int, count: int, start: float) -> None:
    found = frames_of(length, count, start)
    steps = {b - a for a, b in itertools.pairwise(found)}
    assert found[0] >= 0
    assert found[-1] < length
    if count <= length:
        assert len(steps) <= 1
        assert min(steps, default=1) >= 1


def test_each_clip_of_a_batch_has_its_own_start() -> None:
    clip = torch.arange(6).float().view(1, 1, 6, 1, 1).expand(3, 1, 6, 1, 1)
    taken = take_frames(clip, 2, torch.tensor([0.0, 0.0, 0.999]))
    assert taken[:, 0, :, 0, 0].tolist() == [[0, 5], [0, 5], [0, 5]]
    taken = take_frames(clip[:, :, :5], 3, torch.tensor([0.0, 0.5, 0.999]))  # spacing 2, one place
    assert taken[:, 0, :, 0, 0].tolist() == [[0, 2, 4]] * 3
    taken = take_frames(clip, 3, torch.tensor([0.0, 0.5, 0.999]))  # spacing 2, two places
    assert taken[:, 0, :, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5], [1, 3, 5]]
