"""Classifiers of grey images and clips that carry their own normalisation: uint8 grey scaled to [0, 1] goes in."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from xmkd.nets.motion import MotionMaps

GREY_MEAN, GREY_STD = 0.449, 0.226  # ImageNet's RGB statistics averaged to grey
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's video weights

CLIP_BACKBONES = ("r2plus1d_18", "small", "motion")


class ImageClassifier(nn.Module):
    """Any timm backbone on single-channel images.

    Args:
        backbone: A timm model name.
        outputs: Number of logits.
        pretrained: Load timm's weights; their first convolution is summed to one channel.
        drop_rate: Dropout before the last layer.
    """

    def __init__(self, backbone: str, outputs: int, *, pretrained: bool = False, drop_rate: float = 0.0) -> None:
        super().__init__()
        import timm

        net = timm.create_model(backbone, pretrained=pretrained, in_chans=1, num_classes=outputs, drop_rate=drop_rate)
        # Convolutions run faster with the channels innermost: ResNet-18 at 128 px in bfloat16 0.60 s for 0.69 s.
        self.net = net.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """`(B, 1, H, W)` in [0, 1] to the last feature map, `(B, C, h, w)` for convolutional backbones."""
        return cast(Tensor, self.net.forward_features((x - GREY_MEAN) / GREY_STD))

    def head(self, features: Tensor) -> Tensor:
        """Feature map to logits, `(B, outputs)`."""
        return cast(Tensor, self.net.forward_head(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ClipClassifier(nn.Module):
    """A network on single-channel clips.

    Args:
        backbone: "r2plus1d_18" (torchvision, 31.5 M parameters; Tran et al. 2018, arXiv 1711.11248); "small", a narrow
            3D ResNet-10 from MONAI with 0.9 M parameters; or "motion", timm's ResNet-10-T (5 M) on `MotionMaps`.
        outputs: Number of logits.
        pretrained: Load torchvision's Kinetics-400 weights ("r2plus1d_18" only).
        drop_rate: Dropout before the last layer.
    """

    def __init__(self, backbone: str, outputs: int, *, pretrained: bool = False, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.body, width = _motion() if backbone == "motion" else _network_3d(backbone, pretrained)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(width, outputs)

    def features(self, x: Tensor) -> Tensor:
        """`(B, 1, T, H, W)` in [0, 1] to the last feature map, `(B, C, t, h, w)`; t = 1 for "motion"."""
        if self.backbone == "motion":
            return cast(Tensor, self.body(x))[:, :, None]
        if self.backbone == "r2plus1d_18":
            mean, std = (x.new_tensor(v).view(1, 3, 1, 1, 1) for v in (KINETICS_MEAN, KINETICS_STD))
            return cast(Tensor, self.body((x - mean) / std))  # broadcasts the grey channel to three
        return cast(Tensor, self.body((x - GREY_MEAN) / GREY_STD))

    def head(self, features: Tensor) -> Tensor:
        """Feature map to logits, `(B, outputs)`."""
        return cast(Tensor, self.classifier(self.dropout(features.mean(dim=(2, 3, 4)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _motion() -> tuple[nn.Sequential, int]:
    import timm

    net = timm.create_model("resnet10t", in_chans=MotionMaps.channels, num_classes=0, global_pool="")
    normalise = nn.BatchNorm2d(MotionMaps.channels, affine=False)
    return nn.Sequential(MotionMaps(), normalise, net.to(memory_format=torch.channels_last)), net.num_features


def _network_3d(backbone: str, pretrained: bool) -> tuple[nn.Sequential, int]:
    net, layers, width = _r2plus1d(pretrained) if backbone == "r2plus1d_18" else _small()
    return nn.Sequential(*(getattr(net, name) for name in layers)), width


def _r2plus1d(pretrained: bool) -> tuple[nn.Module, list[str], int]:
    from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18

    net = r2plus1d_18(weights=R2Plus1D_18_Weights.KINETICS400_V1 if pretrained else None)
    return net, ["stem", "layer1", "layer2", "layer3", "layer4"], 512


def _small() -> tuple[nn.Module, list[str], int]:
    from monai.networks.nets.resnet import ResNet

    width = (16, 32, 64, 128)
    net = ResNet("basic", (1, 1, 1, 1), width, n_input_channels=1, conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2))
    return net, ["conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"], width[-1]


def take_frames(clip: Tensor, count: int, start: Tensor) -> Tensor:
    """Evenly spaced frames of each clip, `(B, C, T, H, W)` to `(B, C, count, H, W)`.

    Args:
        clip: The clips; one with fewer frames than asked for repeats its last.
        count: Frames to keep; the spacing is the largest that fits.
        start: Where between the first and the last possible first frame to begin, in [0, 1), `(B,)`.
    """
    frames = clip.shape[2]
    stride = max(1, (frames - 1) // max(1, count - 1))
    room = max(1, frames - (count - 1) * stride)
    first = (start * room).long().clamp(0, room - 1)
    at = (first[:, None] + stride * torch.arange(count, device=clip.device)).clamp(max=frames - 1)  # (B, count)
    return clip.transpose(1, 2)[torch.arange(len(clip), device=clip.device)[:, None], at].transpose(1, 2)
