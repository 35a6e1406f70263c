"""Masked auto-encoder of volumes.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377, carried to three
dimensions. Of the patches of a volume a random few are kept; the encoder sees these alone, and a narrow decoder
predicts the masked ones:
    l = 1/|M| sum_{p in M} mean_v (x_pv - xhat_pv)^2,    M the masked patches, v the voxels of a patch.

Nothing is computed that the loss doesn't need: voxels are gathered before they are embedded, the order of the
tokens is never restored (attention doesn't mind, each token carries its position), and the decoder's last block
and its projection are evaluated at masked tokens only.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmkd.nets.vit3d import (
    PRESETS,
    Architecture,
    Block,
    Encoder3d,
    as_text,
    initialise,
    patchify,
    sincos_positions,
    unpatchify,
)

__all__ = ["PRESETS", "Architecture", "MaskedAutoencoder3d", "Reconstruction"]

FLAT = 1e-6  # added to the variance of a patch, so that air becomes 0 and not noise


class Reconstruction(NamedTuple):
    """What a masked auto-encoder makes of a batch.

    Attributes:
        loss: Mean squared error over the voxels of the decoded patches, a scalar.
        prediction: Decoded patches in units of the target, `(B, M, voxels)`.
        kept: Numbers of the patches that the encoder saw, `(B, K)`.
        decoded: Numbers of the masked patches that were decoded, `(B, M)`.
    """

    loss: Tensor
    prediction: Tensor
    kept: Tensor
    decoded: Tensor


class MaskedAutoencoder3d(nn.Module):
    """Encoder of the kept patches and decoder of the masked ones.

    Args:
        architecture: Sizes, such as `PRESETS["small"]`.
        mask_ratio: Share of the patches that are masked; the number kept is rounded, at least 1 and not all.
        decode_ratio: Share of the masked patches that are decoded. Below 1 the decoder has fewer tokens: a cheaper
            step whose loss is that of a random subset.
        normalise: Each patch's target has mean 0 and variance 1 over its voxels (He et al., section 4.1). Without,
            the predictions are in the volume's own units.

    Attributes:
        encoder: What outlives the pre-training.

    Raises:
        ValueError: A ratio is out of its range.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        mask_ratio: float = 0.75,
        decode_ratio: float = 1.0,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1 or not 0 < decode_ratio <= 1:
            raise ValueError(f"mask_ratio {mask_ratio} must be in (0, 1) and decode_ratio {decode_ratio} in (0, 1]")
        if architecture.tokens < 2:
            raise ValueError(f"a volume of {as_text(architecture.size)} voxels is a single patch: nothing to mask")
        a = self.architecture = architecture
        self.normalise = normalise
        self.kept = min(max(1, round((1 - mask_ratio) * a.tokens)), a.tokens - 1)
        self.decoded = max(1, round(decode_ratio * (a.tokens - self.kept)))
        self.narrow = nn.Linear(a.width, a.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(a.decoder_width))
        self.decoder = nn.ModuleList(Block(a.decoder_width, a.decoder_heads) for _ in range(a.decoder_depth))
        self.norm = nn.LayerNorm(a.decoder_width)
        self.predict = nn.Linear(a.decoder_width, a.voxels)
        self.register_buffer("position", sincos_positions(a.grid, a.decoder_width), persistent=False)
        self.position: Tensor  # (N, C)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)
        self.encoder = Encoder3d(architecture)

    def forward(self, volume: Tensor, noise: Tensor, *, whole: bool = False) -> Reconstruction:
        """Reconstruct masked patches.

        Args:
            volume: `(B, C, D, H, W)`.
            noise: Random numbers `(B, N)` on the volume's device, one per patch: those with the smallest are kept.
                They alone decide what is masked.
            whole: Decode all masked patches, whatever `decode_ratio` is.
        """
        kept, decoded = self.mask(noise, whole=whole)  # (B, K), (B, M)
        patches = patchify(volume, self.architecture)  # (B, N, voxels)
        tokens = self.encoder.encode(_take(patches, kept), self.encoder.position[kept])  # (B, 1 + K, width)
        prediction = self.decode(tokens, kept, decoded)  # (B, M, voxels)
        loss = F.mse_loss(prediction.float(), self.target(_take(patches, decoded)))
        return Reconstruction(loss, prediction, kept, decoded)

    def mask(self, noise: Tensor, *, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Numbers of the kept patches, `(B, K)`, and of those to decode, `(B, M)`, from noise `(B, N)`.

        Raises:
            ValueError: There isn't one number per patch.
        """
        if noise.shape[1] != self.architecture.tokens:
            raise ValueError(f"{noise.shape[1]} random numbers for {self.architecture.tokens} patches of a volume")
        order = noise.argsort(dim=1, stable=True)  # stable: ties fall alike on every device
        last = self.architecture.tokens if whole else self.kept + self.decoded
        return order[:, : self.kept], order[:, self.kept : last]

    def decode(self, tokens: Tensor, kept: Tensor, decoded: Tensor) -> Tensor:
        """Encoded tokens `(B, 1 + K, width)` to predictions of the patches to decode, `(B, M, voxels)`."""
        x = self.narrow(tokens)
        x = torch.cat([x[:, :1], x[:, 1:] + self.position[kept], self.mask_token + self.position[decoded]], dim=1)
        for block in self.decoder[:-1]:
            x = block(x)
        x = self.decoder[-1](x, first=tokens.shape[1])  # (B, M, C)
        return cast(Tensor, self.predict(self.norm(x)))

    def target(self, patches: Tensor) -> Tensor:
        """What is to be predicted of patches `(B, M, voxels)`."""
        patches = patches.float()
        return F.layer_norm(patches, patches.shape[-1:], eps=FLAT) if self.normalise else patches

    def paint(self, volume: Tensor, result: Reconstruction) -> Tensor:
        """The volume with its decoded patches replaced by their predictions, `(B, C, D, H, W)`.

        With normalised targets a prediction has no brightness of its own: it gets the mean and the standard
        deviation of the true patch, which a picture may show and a figure of merit may not use.
        """
        patches = patchify(volume, self.architecture).float()
        predicted = result.prediction.float()
        if self.normalise:
            true = _take(patches, result.decoded)
            variance, mean = torch.var_mean(true, dim=-1, keepdim=True, correction=0)
            predicted = predicted * (variance + FLAT).sqrt() + mean
        index = result.decoded[..., None].expand_as(predicted)
        return unpatchify(patches.scatter(1, index, predicted), self.architecture)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` `(B, K)` of `x` `(B, N, C)`: `(B, K, C)`."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]
