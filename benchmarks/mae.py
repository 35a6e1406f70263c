"""Races: a pre-training step of the 3D masked auto-encoder, encoder 12 x 384, decoder 4 x 192, volumes of 96^3.

1. Against MONAI's MaskedAutoEncoderViT, to which patches, normalised targets and loss are added by hand, at patches
   of 16^3 and 8^3. Equal work: the same weights and the same kept patches give the same loss and the same gradients
   of all weights. A step draws its mask, runs forwards and backwards and updates the weights by the same fused AdamW.
2. Against a network of the same sizes that sees every token, the masked ones with voxels of 0 (report).
3. Against matrix products of as many operations, 1,024 cubed: the ratio is the fraction of the machine's own rate
   for them that a step achieves (report). Operations are counted, not estimated.

On a GPU steps run in bfloat16, the small patches are 8,000 of a volume of 160^3, and volumes per second and peak
memory are printed, too. The check is made in float32 everywhere.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from monai.networks.nets import MaskedAutoEncoderViT
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._race import Race, UnequalWorkError, run_all
from xmkd.nets.mae3d import Architecture, MaskedAutoencoder3d
from xmkd.nets.vit3d import Block, patchify

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = DEVICE == "cuda"
MASK_RATIO = 0.75
TOLERANCE = 1e-5  # relative, of the loss and of the gradients
GEMM = 8192 if ON_GPU else 1024  # rows of a square matrix product


def architecture(size: int, patch: int) -> Architecture:
    """ViT-S of a cube, and the narrow decoder of the preset "small"."""
    return Architecture((size,) * 3, (patch,) * 3, 384, 12, 6, 192, 4, 3)


class Theirs(nn.Module):
    """MONAI's network, with the patches and the loss that it leaves to its user."""

    def __init__(self, ours: Architecture) -> None:
        super().__init__()
        self.architecture = ours
        warnings.filterwarnings("ignore", message="torch.meshgrid")  # MONAI calls it the old way
        self.net = MaskedAutoEncoderViT(
            in_channels=1,
            img_size=ours.size,
            patch_size=ours.patch,
            hidden_size=ours.width,
            mlp_dim=4 * ours.width,
            num_layers=ours.depth,
            num_heads=ours.heads,
            masking_ratio=MASK_RATIO,
            decoder_hidden_size=ours.decoder_width,
            decoder_mlp_dim=4 * ours.decoder_width,
            decoder_num_layers=ours.decoder_depth,
            decoder_num_heads=ours.decoder_heads,
            qkv_bias=True,
        )
        # Under autocast it writes these into a float32 tensor, which fails for bfloat16.
        self.net.decoder_embed.register_forward_hook(lambda _module, _inputs, tokens: tokens.float())

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the mask `(B, N)` that it drew, 0 where a patch was kept."""
        prediction, mask = self.net(volume)
        target = patchify(volume, self.architecture)
        target = F.layer_norm(target, target.shape[-1:], eps=1e-6)
        error = (prediction.float() - target).square().mean(dim=-1)  # (B, N)
        return (error * mask).sum() / mask.sum(), mask


class FullTokens(nn.Module):
    """The same encoder and decoder, every token of a volume whose masked patches are 0."""

    def __init__(self, mae: MaskedAutoencoder3d) -> None:
        super().__init__()
        self.mae = mae

    def forward(self, volume: Tensor, noise: Tensor) -> Tensor:
        mae = self.mae
        patches = patchify(volume, mae.architecture)  # (B, N, voxels)
        _, masked = mae.mask(noise)
        index = masked[..., None].expand(-1, -1, patches.shape[-1])
        tokens = mae.encoder.encode(patches.scatter(1, index, 0.0), mae.encoder.position)
        x = mae.narrow(tokens)
        x = torch.cat([x[:, :1], x[:, 1:] + mae.position], dim=1)
        for block in mae.decoder:
            x = block(x)
        prediction = mae.predict(mae.norm(x[:, 1:])).gather(1, index)
        return F.mse_loss(prediction.float(), mae.target(patches.gather(1, index)))


class Contest:
    """The contenders at one patch size, with the same weights.

    Args:
        architecture: Sizes.
        batch: Volumes of a step.
    """

    def __init__(self, architecture: Architecture, batch: int) -> None:
        torch.manual_seed(0)
        torch.backends.cudnn.allow_tf32 = False  # the check compares to 1e-5
        self.architecture, self.batch = architecture, batch
        self.theirs = Theirs(self.architecture).to(DEVICE)
        self.ours = MaskedAutoencoder3d(self.architecture, mask_ratio=MASK_RATIO).to(DEVICE)
        self.ours.load_state_dict(translated(self.theirs.net.state_dict()))
        with torch.no_grad():  # theirs are fixed parameters
            self.theirs.net.patch_embedding.position_embeddings.copy_(self.ours.encoder.position)
            self.theirs.net.decoder_pos_embedding.copy_(self.ours.position)
        self.full = FullTokens(MaskedAutoencoder3d(self.architecture, mask_ratio=MASK_RATIO)).to(DEVICE)
        nets = (self.ours, self.theirs, self.full)
        self.optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True) for net in nets]
        self.volume = torch.randn(batch, 1, *self.architecture.size, device=DEVICE)
        self.flops = self.count()

    def our_step(self) -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            loss = self.ours(self.volume, self.noise()).loss
        self.update(loss, self.optimizers[0])

    def their_step(self) -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            loss, _ = self.theirs(self.volume)
        self.update(loss, self.optimizers[1])

    def full_step(self) -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            loss = self.full(self.volume, self.noise())
        self.update(loss, self.optimizers[2])

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if ON_GPU:
            torch.cuda.synchronize()

    def products(self) -> None:
        """Matrix products of as many operations as our step."""
        x = torch.ones(GEMM, GEMM, device=DEVICE, dtype=torch.bfloat16 if ON_GPU else torch.float32)
        products, rows = divmod(self.rows, GEMM)
        for _ in range(products):
            x @ x
        x[:rows] @ x
        if ON_GPU:
            torch.cuda.synchronize()

    @property
    def rows(self) -> int:
        """Rows to multiply by the square matrix for as many operations as our step."""
        return round(self.flops / (2 * GEMM**2))

    def count(self) -> int:
        """Operations of our step, forwards and backwards, by the plain attention, which hides none."""
        blocks = [m for m in self.ours.modules() if isinstance(m, Block)]
        for block in blocks:
            block.fused = False
        with FlopCounterMode(display=False) as counter:
            self.ours(self.volume, self.noise()).loss.backward()
        for block in blocks:
            block.fused = True
        self.ours.zero_grad()
        return cast(int, counter.get_total_flops())

    def noise(self) -> Tensor:
        return torch.rand(self.batch, self.architecture.tokens, device=DEVICE)

    def same_work(self) -> None:
        """Both sides give the same loss and gradients for the same kept patches.

        Raises:
            UnequalWorkError: They don't.
        """
        self.ours.load_state_dict(translated(self.theirs.net.state_dict()))
        theirs, mask = self.theirs(self.volume)
        result = self.ours(self.volume, mask.float())  # 0 where a patch was kept, so that ours keeps the same
        if result.kept.shape[1] != int((1 - mask).sum(dim=1)[0]):
            raise UnequalWorkError("the contenders keep different numbers of patches")
        apart = abs(float(result.loss.detach() / theirs.detach()) - 1)
        theirs.backward()
        result.loss.backward()
        their_gradient = translated({n: p.grad for n, p in self.theirs.net.named_parameters() if p.grad is not None})
        gradient = {n: p.grad for n, p in self.ours.named_parameters() if p.grad is not None}
        if gradient.keys() != their_gradient.keys():
            raise UnequalWorkError("the contenders have gradients of different weights")
        worst = max(float((g - their_gradient[n]).norm() / their_gradient[n].norm()) for n, g in gradient.items())
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        print(f"{self.label}: same weights; losses differ by {apart:.1g}, gradients by {worst:.1g}")
        if not max(apart, worst) <= TOLERANCE:
            raise UnequalWorkError(f"loss or gradients differ by {max(apart, worst):.2g}, more than {TOLERANCE:g}")

    def same_task(self) -> None:
        """The network of all tokens predicts the same targets: equal losses when both predict 0.

        Raises:
            UnequalWorkError: It doesn't.
        """
        ours, full = copy.deepcopy(self.ours), copy.deepcopy(self.full)
        for weight in (*ours.predict.parameters(), *full.mae.predict.parameters()):
            nn.init.zeros_(weight)
        noise = self.noise()
        with torch.inference_mode():
            losses = [float(ours(self.volume, noise).loss), float(full(self.volume, noise))]
        if not abs(losses[0] / losses[1] - 1) <= TOLERANCE:
            raise UnequalWorkError(f"the targets differ: mean squares {losses[0]:.6f} and {losses[1]:.6f}")

    def same_operations(self) -> None:
        """The products have as many operations as our step, to one in a thousand.

        Raises:
            UnequalWorkError: They don't.
        """
        with FlopCounterMode(display=False) as counter:
            self.products()
        apart = abs(counter.get_total_flops() / self.count() - 1)
        if not apart <= 1e-3:
            raise UnequalWorkError(f"operations differ by {apart:.2g}")

    @property
    def label(self) -> str:
        return f"mae_{self.architecture.patch[0]}"

    def report(self) -> None:
        """Operations of a step; on a GPU volumes per second and peak memory of either side, too."""
        print(f"{self.label}: {self.architecture.tokens} tokens, {self.flops / 1e9 / self.batch:.1f} GFLOP per volume")
        for side, step in (("ours", self.our_step), ("MONAI", self.their_step)) if ON_GPU else ():
            step()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            for _ in range(5):
                step()
            rate = 5 * self.batch / (time.perf_counter() - start)
            print(f"{self.label}: {side} {rate:.1f} volumes/s, {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


def translated(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MONAI's weights (or their gradients) under our names."""
    own = {
        "encoder.class_token": theirs["cls_token"].flatten(),
        "encoder.embed.weight": theirs["patch_embedding.patch_embeddings.weight"].flatten(1),
        "encoder.embed.bias": theirs["patch_embedding.patch_embeddings.bias"],
        "mask_token": theirs["mask_tokens"].flatten(),
    }
    last = {
        stack: max(int(n.split(".")[1]) for n in theirs if n.startswith(f"{stack}."))
        for stack in ("blocks", "decoder_blocks")
    }
    plain = {
        "decoder_embed": "narrow",
        "decoder_pred": "predict",
        f"blocks.{last['blocks']}": "encoder.norm",
        f"decoder_blocks.{last['decoder_blocks']}": "norm",
    }
    for stack, ours in (("blocks", "encoder.blocks"), ("decoder_blocks", "decoder")):
        for i in range(last[stack]):
            parts = {"norm1": "norm1", "norm2": "norm2", "attn.out_proj": "out"}
            parts |= {"mlp.linear1": "mlp.0", "mlp.linear2": "mlp.2"}
            plain |= {f"{stack}.{i}.{a}": f"{ours}.{i}.{b}" for a, b in parts.items()}
            for kind in ("weight", "bias"):
                qkv = theirs[f"{stack}.{i}.attn.qkv.{kind}"]
                own[f"{ours}.{i}.query.{kind}"], own[f"{ours}.{i}.key_value.{kind}"] = qkv.tensor_split([len(qkv) // 3])
    return own | {f"{b}.{kind}": theirs[f"{a}.{kind}"] for a, b in plain.items() for kind in ("weight", "bias")}


def races(size: int, patch: int, batch: int, target: float) -> list[Race]:
    """The three races at one patch size."""
    contest = Contest(architecture(size, patch), batch)
    contest.report()
    return [
        Race(contest.label, contest.our_step, contest.their_step, contest.same_work, target=target),
        Race(f"{contest.label}_full_tokens", contest.our_step, contest.full_step, contest.same_task),
        Race(f"{contest.label}_gemm_fraction", contest.our_step, contest.products, contest.same_operations),
    ]


def main(quick: bool = False) -> int:
    """Race at both patch sizes; `quick` runs each once, one volume a step, and records nothing."""
    sizes = ((96, 16, 64, 1.5), (160, 8, 4, 2.0)) if ON_GPU else ((96, 16, 8, 1.20), (96, 8, 2, 1.30))
    entries = [
        race for size, patch, batch, target in sizes for race in races(size, patch, 1 if quick else batch, target)
    ]
    return run_all("mae", entries, packages=("torch", "monai"), quick=quick)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))
