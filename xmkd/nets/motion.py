"""How tissue moves in a clip, as a few pictures: displacement between frames, and its shear, over time.

Where organs slide on each other, displacement jumps across their interface; where they are stuck, it does not. A
network that sees frames must first learn to measure motion, which takes thousands of clips; here it is computed, and a
two-dimensional network reads the result. Two-stream networks do the same for actions (Simonyan and Zisserman 2014,
arXiv 1406.2199). The displacement is that of Lucas and Kanade (IJCAI 1981) on two scales, refined by warping.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WINDOW = 5  # pixels; used twice, so that the weights fall off to the rim
_NOISE = 2e-4  # added to the gradients' energy: where there is no texture, nothing is said to move
_STEP = 2.0  # pixels; the most that one refinement may add
_FLOOR = 1e-4  # squared pixels; motion below a hundredth of a pixel is noise


class MotionMaps(nn.Module):
    """Grey clips to pictures of their motion; it has no weights and passes no gradient.

    The eight channels are the mean of the frames, their standard deviation, and the logarithms of the root mean
    square over time of: sideways and downward displacement (pixels per frame), and the sideways and downward
    derivatives of each. The difference of two logarithms does not depend on how hard the probe is pushed.
    """

    channels = 8

    @torch.no_grad()
    def forward(self, clip: Tensor) -> Tensor:
        """`(B, 1, T, H, W)` in [0, 1] to `(B, 8, H, W)`."""
        with torch.autocast(clip.device.type, enabled=False):
            frames = clip[:, 0].float()  # (B, T, H, W)
            # One clip's intermediate pictures fit into a processor's cache, those of a batch do not.
            parts = torch.split(frames, 1) if frames.device.type == "cpu" else [frames]
            return torch.cat([_maps(part) for part in parts])


def _maps(frames: Tensor) -> Tensor:
    """`(B, T, H, W)` to `(B, 8, H, W)`."""
    batch, times, height, width = frames.shape
    change = frames - frames[:, :1]  # exactly 0 where nothing changes, and so is the deviation
    deviation = (change - change.mean(1, keepdim=True)).square().mean(1).sqrt()
    look = torch.stack((frames.mean(1), deviation), 1)  # (B, 2, H, W)
    if times == 1:
        flow = frames.new_zeros(batch, 1, 2, height, width)
    else:
        before, after = (part.reshape(-1, 1, height, width) for part in (frames[:, :-1], frames[:, 1:]))
        flow = displacement(before, after).view(batch, times - 1, 2, height, width)
    sideways = F.pad(flow[..., 2:] - flow[..., :-2], (1, 1)) / 2
    downward = F.pad(flow[..., 2:, :] - flow[..., :-2, :], (0, 0, 1, 1)) / 2
    motion = torch.cat((flow, sideways, downward), 2)  # (B, T - 1, 6, H, W)
    return torch.cat((look, 0.5 * (motion.square().mean(1) + _FLOOR).log()), 1)


def displacement(before: Tensor, after: Tensor) -> Tensor:
    """Where each pixel of one picture is in another.

    Args:
        before: `(N, 1, H, W)` in [0, 1].
        after: The same shape.

    Returns:
        Sideways and downward displacement in pixels, `(N, 2, H, W)`; at most about 8.
    """
    small = before.shape[-2] // 2, before.shape[-1] // 2
    if min(small) < 2 * _WINDOW:
        return _refine(before, after, None)
    flow = _refine(F.avg_pool2d(before, 2), F.avg_pool2d(after, 2), None)
    flow = 2 * F.interpolate(flow, size=before.shape[-2:], mode="bilinear", align_corners=False)
    return _refine(before, after, flow)


def _refine(before: Tensor, after: Tensor, flow: Tensor | None) -> Tensor:
    """One step of Lucas and Kanade from a first guess."""
    moved = after if flow is None else _warp(after, flow)
    mean, change = (before + moved) / 2, moved - before
    gx = F.pad(mean[..., 2:] - mean[..., :-2], (1, 1)) / 2
    gy = F.pad(mean[..., 2:, :] - mean[..., :-2, :], (0, 0, 1, 1)) / 2
    products = torch.cat((gx * gx, gx * gy, gy * gy, gx * change, gy * change), 1)
    xx, xy, yy, xt, yt = _window(products).unbind(1)
    xx, yy = xx + _NOISE, yy + _NOISE
    determinant = xx * yy - xy * xy
    step = torch.stack(((xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant), 1)
    step = step.clamp(-_STEP, _STEP)
    return step if flow is None else flow + step


def _window(values: Tensor) -> Tensor:
    """Local means, twice, of `(N, C, H, W)`, by banded matrices: pooling took a dozen times as long on a CPU."""
    height, width = values.shape[-2:]
    return _twice(height, values) @ (values @ _twice(width, values))


def _twice(size: int, like: Tensor) -> Tensor:
    """The matrix that takes means over a line of pixels twice, with zeros beyond its ends, `(size, size)`."""
    at = torch.arange(size, device=like.device)
    once = ((at[:, None] - at).abs() <= _WINDOW // 2).to(like.dtype) / _WINDOW
    return once @ once


def _warp(image: Tensor, flow: Tensor) -> Tensor:
    """The picture seen at each pixel plus its displacement."""
    height, width = image.shape[-2:]
    y = torch.arange(height, device=image.device, dtype=image.dtype)[:, None] + flow[:, 1]
    x = torch.arange(width, device=image.device, dtype=image.dtype) + flow[:, 0]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    return F.grid_sample(image, grid, align_corners=False, padding_mode="border")
