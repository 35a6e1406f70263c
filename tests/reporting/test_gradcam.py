"""Grad-CAM against maps computed by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from xmkd.nets.classifiers import ClipClassifier, ImageClassifier
from xmkd.reporting.gradcam import enlarge, gradcam


class Linear:
    """Two channels, the picture and its mirror image; the logit weighs their means."""

    def __init__(self, first: float, second: float) -> None:
        self.weight = torch.tensor([first, second])

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.flip(-1)], dim=1)

    def head(self, features: Tensor) -> Tensor:
        pooled = features.relu_().mean(dim=tuple(range(2, features.ndim)))  # in place, as some heads work
        return (pooled * self.weight).sum(dim=1, keepdim=True)


PICTURE = torch.tensor([[[[4.0, 0.0], [2.0, 1.0]]]])


def by_hand(first: float, second: float) -> Tensor:
    """alpha_c = w_c / 4 where the channel is positive; map = relu(alpha_1 A_1 + alpha_2 A_2)."""
    mirrored = PICTURE.flip(-1)
    alphas = [w * (c > 0).float().mean() / 4 for w, c in ((first, PICTURE), (second, mirrored))]
    return (alphas[0] * PICTURE + alphas[1] * mirrored).relu()[:, 0]


def test_map_is_the_weighted_sum_of_the_channels() -> None:
    found = gradcam(Linear(1.0, 0.5), PICTURE, 0)
    assert found is not None
    # A_1 = 4 0 / 2 1, A_2 = 0 4 / 1 2, each positive in 3 of 4 places: alpha_1 = 3/16, alpha_2 = 3/32.
    expected = torch.tensor([[[12 / 16, 12 / 32], [6 / 16 + 3 / 32, 3 / 16 + 6 / 32]]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, by_hand(1.0, 0.5))


def test_sign_asks_for_the_other_class_and_what_speaks_against_is_cut_off() -> None:
    found = gradcam(Linear(1.0, -1.0), PICTURE, 0, sign=-1)
    torch.testing.assert_close(found, by_hand(-1.0, 1.0))
    assert found is not None
    assert found[0, 0, 0] == 0, "the first place speaks for the positive class only"
    nothing = gradcam(Linear(-1.0, -1.0), PICTURE, 0)
    assert nothing is not None
    assert not nothing.any()


def test_clips_keep_their_frames() -> None:
    clip = torch.stack([PICTURE, 2 * PICTURE, 0 * PICTURE], dim=2)  # (1, 1, 3, 2, 2)
    found = gradcam(Linear(1.0, 0.0), clip, 0)
    assert found is not None
    assert found.shape == (1, 3, 2, 2)
    torch.testing.assert_close(found[:, 1], 2 * found[:, 0])
    assert not found[:, 2].any()


def test_channels_last_give_the_same_map() -> None:
    class Swin(Linear):
        net = torch.nn.Identity()

        def features(self, x: Tensor) -> Tensor:
            return super().features(x).permute(0, 2, 3, 1)

        def head(self, features: Tensor) -> Tensor:
            return super().head(features.permute(0, 3, 1, 2))

    swin = Swin(1.0, 0.5)
    swin.net.output_fmt = "NHWC"  # type: ignore[assignment]  # as timm's models say it
    torch.testing.assert_close(gradcam(swin, PICTURE, 0), by_hand(1.0, 0.5))


def test_tokens_have_no_map() -> None:
    class Tokens(Linear):
        def features(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)  # (B, N, C)

    assert gradcam(Tokens(1.0, 1.0), PICTURE, 0) is None


def test_enlarged_map_has_the_size_of_the_picture_and_a_maximum_of_one() -> None:
    large = enlarge(torch.stack([by_hand(1.0, 0.5)[0], torch.zeros(2, 2)]), (8, 6))
    assert large.shape == (2, 8, 6)
    assert large[0].max() == 1
    assert large[0].argmax() == 0, "the highest place stays top left"
    assert not large[1].any(), "an empty map stays empty"


def test_our_networks_have_maps_and_give_no_gradient_away() -> None:
    still, clip = ImageClassifier("resnet10t", 3).eval(), ClipClassifier("small", 1).eval()
    found = gradcam(still, torch.rand(2, 1, 64, 64), 2)
    moving = gradcam(clip, torch.rand(2, 1, 8, 32, 32), 0)
    assert found is not None
    assert moving is not None
    assert found.shape == (2, 2, 2)
    assert moving.ndim == 4
    assert not found.requires_grad
    assert all(p.grad is None for p in [*still.parameters(), *clip.parameters()])
