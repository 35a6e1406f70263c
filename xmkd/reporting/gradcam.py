"""Grad-CAM: which part of the last feature map raises a logit.

R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
arXiv 1610.02391, equations 1 and 2. With A_c the channels of the feature map and y a logit,

    alpha_c = mean over places of dy / dA_c,      map = relu(sum over c of alpha_c A_c),

scaled here to a maximum of 1 and enlarged to the picture. It shows where the evidence lies, not what it is, and no more
finely than the feature map.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Network(Protocol):
    """A network in two parts: everything up to the last feature map, and the rest."""

    def features(self, x: Tensor) -> Tensor:
        """Pictures to the feature map."""

    def head(self, features: Tensor) -> Tensor:
        """Feature map to logits."""


def gradcam(net: Network, image: Tensor, output: int, sign: float = 1.0) -> Tensor | None:
    """The map of one logit for each picture, as coarse as the feature map; all zero where nothing raises the logit.

    Args:
        net: The network, in evaluation mode.
        image: `(B, 1, H, W)`, or `(B, 1, T, H, W)`.
        output: Number of the logit.
        sign: -1 asks what lowers the logit: the evidence for the negative one of two classes.

    Returns:
        `(B, h, w)` or `(B, t, h, w)`; None where the features have no places, such as the tokens of a transformer.
    """
    with torch.no_grad():
        features = net.features(image)  # (B, C, h, w) or (B, C, t, h, w)
    if features.ndim != image.ndim:
        return None
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logit = sign * net.head(features.clone())[:, output].sum()  # a copy: a head may work in place
    (gradient,) = torch.autograd.grad(logit, features)
    channel = features.ndim - 1 if _channels_last(net) else 1
    places = [d for d in range(1, features.ndim) if d != channel]
    weight = gradient.mean(dim=places, keepdim=True)
    return (weight * features).sum(dim=channel).relu().detach()


def enlarge(found: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps `(B, h, w)` or `(B, t, h, w)` at the size of the picture, each scaled to a maximum of 1 (or all zero)."""
    mode = "bilinear" if found.ndim == 3 else "trilinear"
    large = interpolate(found[:, None], size=size, mode=mode, align_corners=False)[:, 0]
    highest = large.amax(dim=tuple(range(1, large.ndim)), keepdim=True)
    return large / highest.clamp_min(torch.finfo(large.dtype).tiny)


def _channels_last(net: Network) -> bool:
    """Whether timm says that the backbone keeps channels last, as Swin does."""
    return str(getattr(getattr(net, "net", None), "output_fmt", "")) in {"NHWC", "Format.NHWC"}
