"""Vision transformer of volumes: patches, fixed positions, blocks, an encoder, and a classifier on it.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929, in three dimensions: patches may be
thin along one axis and volumes of any size that is a whole number of patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int, int]
Pool = Literal["mean", "cls"]

WAVELENGTH = 10_000.0  # the longest, over 2 pi, in patches: Vaswani et al. 2017, arXiv 1706.03762, section 3.5


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network; `dataclasses.replace` makes the same network for other volumes.

    Attributes:
        size: Voxels of a volume, (D, H, W).
        patch: Voxels of a patch, (D, H, W); thin through-plane where slices are thick.
        width: Channels of the encoder.
        depth: Blocks of the encoder.
        heads: Attention heads of the encoder.
        decoder_width: Channels of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        channels: Channels of a volume.

    Raises:
        ValueError: The volume is no whole number of patches, or a width no whole number of heads.
    """

    size: Size
    patch: Size
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    channels: int = 1

    def __post_init__(self) -> None:
        for axis, size, patch in zip("DHW", self.size, self.patch, strict=True):
            if patch < 1 or size < patch or size % patch:
                raise ValueError(
                    f"a volume of {as_text(self.size)} voxels is no whole number of {as_text(self.patch)} patches: "
                    f"{axis} = {size} is not divisible by {patch}; crop or pad the volume, or choose another patch"
                )
        for name, width, heads in (
            ("width", self.width, self.heads),
            ("decoder_width", self.decoder_width, self.decoder_heads),
        ):
            if width < 6 or width % heads:
                raise ValueError(f"{name} = {width} must be at least 6 and divisible by its {heads} heads")
        if min(self.depth, self.decoder_depth) < 1:
            raise ValueError("the encoder and the decoder need at least one block each")

    @property
    def grid(self) -> Size:
        """Patches along each axis."""
        d, h, w = (s // p for s, p in zip(self.size, self.patch, strict=True))
        return d, h, w

    @property
    def tokens(self) -> int:
        """Patches of a volume."""
        return math.prod(self.grid)

    @property
    def voxels(self) -> int:
        """Values of a patch."""
        return self.channels * math.prod(self.patch)


PRESETS = {
    # ViT-Ti at half its depth: demonstrations, tests, control tables
    "tiny": Architecture((24, 96, 96), (4, 16, 16), 192, 6, 3, 96, 2, 3),
    # ViT-S (Touvron et al. 2021, arXiv 2012.12877, table 1)
    "small": Architecture((32, 224, 224), (4, 16, 16), 384, 12, 6, 192, 4, 3),
    # ViT-B and the decoder of He et al.
    "large": Architecture((64, 128, 128), (16, 16, 16), 768, 12, 12, 512, 8, 16),
}


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021, arXiv 2010.11929, eq. 2 and 3), MLP four times as wide.

    Args:
        width: Channels.
        heads: Attention heads.
        drop_path: Probability that a sample skips a branch in training.

    Attributes:
        fused: Attention by torch's fused kernel; False gives the same by plain products, whose operations any
            counter sees.
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.heads, self.fused = heads, True
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop: nn.Module = nn.Identity()
        if drop_path:
            from timm.layers import DropPath

            self.drop = DropPath(drop_path)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """`(B, N, C)` to the tokens from `first` on, `(B, N - first, C)`; those before are only attended to."""
        x, normed = x[:, first:], self.norm1(x)
        x = x + self.drop(self.out(self._attend(normed[:, first:], normed)))
        return x + cast(Tensor, self.drop(self.mlp(self.norm2(x))))

    def _attend(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, M, c)
        k, v = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, c)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
        return y.transpose(1, 2).flatten(2)  # (B, M, C)


class Encoder3d(nn.Module):
    """Vision transformer of volumes: one linear map of a patch's voxels, fixed positions, a class token, blocks.

    The positions are no weights, so the weights of one volume size load into an encoder of another.

    Args:
        architecture: Sizes.
        drop_path: Probability of skipping a branch in the last block; rises linearly from 0 in the first.
    """

    def __init__(self, architecture: Architecture, *, drop_path: float = 0.0) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.embed = nn.Linear(a.voxels, a.width)
        self.class_token = nn.Parameter(torch.zeros(a.width))
        rates = [drop_path * i / max(1, a.depth - 1) for i in range(a.depth)]
        self.blocks = nn.ModuleList(Block(a.width, a.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(a.width)
        self.register_buffer("position", sincos_positions(a.grid, a.width), persistent=False)
        self.position: Tensor  # (N, C)
        initialise(self)
        nn.init.normal_(self.class_token, std=0.02)

    def forward(self, volume: Tensor) -> Tensor:
        """Volumes `(B, C, D, H, W)` to normalised tokens `(B, 1 + N, width)`, the class token first."""
        return self.encode(patchify(volume, self.architecture), self.position)

    def encode(self, patches: Tensor, position: Tensor) -> Tensor:
        """Any patches `(B, K, voxels)` to tokens `(B, 1 + K, width)`; positions are `(K, width)` or `(B, K, width)`."""
        x = self.embed(patches) + position
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x))


class VolumeClassifier(nn.Module):
    """Logits of volumes: encoder, LayerNorm, pooled tokens, one linear layer.

    `net.encoder.load_state_dict(mae.encoder.state_dict())` starts it from a masked auto-encoder, of whatever volume
    size.

    Args:
        architecture: Sizes; those of the decoder don't matter.
        outputs: Number of logits.
        pool: The mean of the patch tokens, or the class token.
        drop_path: Probability of skipping a branch in the last block.
        drop_rate: Dropout before the last layer.
    """

    def __init__(
        self,
        architecture: Architecture,
        outputs: int,
        *,
        pool: Pool = "mean",
        drop_path: float = 0.1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.encoder = Encoder3d(architecture, drop_path=drop_path)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(architecture.width, outputs)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> Tensor:
        """`(B, C, D, H, W)` to pooled features, `(B, width)`."""
        tokens = self.encoder(x)
        return cast(Tensor, tokens[:, 1:].mean(dim=1) if self.pool == "mean" else tokens[:, 0])

    def head(self, features: Tensor) -> Tensor:
        """Pooled features to logits, `(B, outputs)`."""
        return cast(Tensor, self.classifier(self.dropout(features)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def layer_rates(net: VolumeClassifier, decay: float = 0.75) -> list[tuple[float, list[nn.Parameter]]]:
    """Factors of the learning rate that fall from the head to the patches, each with its trainable weights.

    1 for the linear layer and the last LayerNorm, `decay` for the last block, `decay` squared for the one before it,
    down to the embedding and the class token (Clark et al. 2020, arXiv 2003.10555, appendix B). Layers without
    trainable weights are left out.
    """
    encoder = net.encoder
    layers = [[*net.classifier.parameters(), *encoder.norm.parameters()]]
    layers += [list(block.parameters()) for block in reversed(encoder.blocks)]
    layers += [[*encoder.embed.parameters(), encoder.class_token]]
    trainable = [[p for p in layer if p.requires_grad] for layer in layers]
    return [(decay**below, layer) for below, layer in enumerate(trainable) if layer]


def sincos_positions(grid: Size, width: int) -> Tensor:
    """Sines and cosines of each patch's place along the three axes, `(N, width)`.

    Places are counted in patches from the volume's centre: a volume that is cropped or padded about its centre to
    another number of patches of the same parity keeps the code of each place. A third of the channels belongs to
    each axis, half of it sines; what six doesn't divide stays 0.
    """
    each = width // 6
    frequency = WAVELENGTH ** (-torch.arange(each, dtype=torch.float64) / each)
    codes = []
    for axis, count in enumerate(grid):
        place = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
        angle = place[:, None] * frequency  # (count, each)
        shape = [1, 1, 1, 2 * each]
        shape[axis] = count
        codes.append(torch.cat([angle.sin(), angle.cos()], dim=1).view(shape).expand(*grid, -1))
    return F.pad(torch.cat(codes, dim=-1).flatten(0, 2), (0, width - 6 * each)).float()


def patchify(volume: Tensor, architecture: Architecture) -> Tensor:
    """`(B, C, D, H, W)` to patches `(B, N, C * d * h * w)`, the last axis of the volume fastest.

    Raises:
        ValueError: The volume is not of the architecture's size.
    """
    a = architecture
    if tuple(volume.shape[1:]) != (a.channels, *a.size):
        raise ValueError(
            f"volumes of {as_text(tuple(volume.shape[1:]))} for a network of {as_text((a.channels, *a.size))} "
            "(channels x D x H x W); crop or pad them, or build the network for their size"
        )
    (d, h, w), (pd, ph, pw) = a.grid, a.patch
    parts = volume.reshape(-1, a.channels, d, pd, h, ph, w, pw)
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, a.tokens, a.voxels)


def unpatchify(patches: Tensor, architecture: Architecture) -> Tensor:
    """Patches `(B, N, C * d * h * w)` to volumes `(B, C, D, H, W)`."""
    a = architecture
    parts = patches.reshape(-1, *a.grid, a.channels, *a.patch)
    return parts.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, a.channels, *a.size)


def initialise(net: nn.Module) -> None:
    """Xavier weights and biases of 0 in every linear layer (He et al. 2022, arXiv 2111.06377, appendix A.1)."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def as_text(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
