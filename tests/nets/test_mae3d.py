"""The masked auto-encoder: what is masked, what the loss compares, and what reaches what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xmkd.nets.mae3d import PRESETS, Architecture, MaskedAutoencoder3d
from xmkd.nets.vit3d import Block, patchify, unpatchify

TINY = Architecture((4, 12, 8), (2, 4, 4), 24, 2, 2, 12, 2, 2)  # 2 x 3 x 2 = 12 patches of 32 voxels


def network(architecture: Architecture = TINY, seed: int = 0, **options: float) -> MaskedAutoencoder3d:
    torch.manual_seed(seed)
    return MaskedAutoencoder3d(architecture, **options)  # type: ignore[arg-type]  # no option here is a bool


def volumes(count: int = 2, seed: int = 1, architecture: Architecture = TINY) -> Tensor:
    shape = (count, architecture.channels, *architecture.size)
    return 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise(count: int = 2, seed: int = 2, tokens: int = TINY.tokens) -> Tensor:
    return torch.rand(count, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("preset", "tokens", "seen"), [("tiny", 216, 54), ("small", 1568, 392), ("large", 256, 64)])
def test_tokens_of_the_presets(preset: str, tokens: int, seen: int) -> None:
    architecture = PRESETS[preset]
    assert architecture.tokens == tokens
    with torch.device("meta"):
        net = MaskedAutoencoder3d(architecture, mask_ratio=0.75)
    assert (net.kept, net.decoded) == (seen, tokens - seen)


@pytest.mark.parametrize("preset", ["tiny", "small", "large"])
def test_weights_of_the_presets_by_hand(preset: str) -> None:
    a = PRESETS[preset]

    def blocks(count: int, width: int) -> int:  # two LayerNorms; query, key, value and output; the MLP
        return count * (4 * width + 4 * (width * width + width) + 8 * width * width + 5 * width)

    encoder = (a.voxels + 1) * a.width + a.width + blocks(a.depth, a.width) + 2 * a.width
    decoder = (a.width + 1) * a.decoder_width + a.decoder_width + blocks(a.decoder_depth, a.decoder_width)
    decoder += 2 * a.decoder_width + (a.decoder_width + 1) * a.voxels
    with torch.device("meta"):
        net = MaskedAutoencoder3d(a)
    assert sum(p.numel() for p in net.encoder.parameters()) == encoder
    assert sum(p.numel() for p in net.parameters()) == encoder + decoder
    assert encoder == pytest.approx({"tiny": 2.87e6, "small": 21.7e6, "large": 88.2e6}[preset], rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "tokens", "kept"), [(0.9, 1000, 100), (0.75, 216, 54), (0.999, 12, 1), (0.001, 12, 11)]
)
def test_the_number_kept_is_rounded(ratio: float, tokens: int, kept: int) -> None:
    architecture = Architecture((tokens, 1, 1), (1, 1, 1), 6, 1, 1, 6, 1, 1)
    net = MaskedAutoencoder3d(architecture, mask_ratio=ratio)  # 1 - 0.9 is a little less than 0.1
    assert net.kept == kept
    found = net(torch.randn(1, 1, tokens, 1, 1), torch.rand(1, tokens))
    assert found.kept.shape == (1, kept)
    assert found.decoded.shape == (1, tokens - kept)


def test_the_noise_alone_decides_what_is_masked() -> None:
    net, given_noise = network(), noise(3)
    kept, decoded = net.mask(given_noise)
    for row, k, d in zip(given_noise, kept, decoded, strict=True):
        assert row[k].max() < row[d].min()
        assert sorted([*k.tolist(), *d.tolist()]) == list(range(TINY.tokens))
    alone, _ = net.mask(given_noise[1:2])
    assert torch.equal(alone, kept[1:2]), "not what else is in the batch"
    assert len({tuple(sorted(k.tolist())) for k in net.mask(noise(20))[0]}) > 10


@settings(max_examples=25, deadline=None)
@given(
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    patch=st.tuples(*[st.integers(1, 4)] * 3),
    channels=st.integers(1, 2),
    count=st.integers(1, 2),
)
def test_patches_make_the_volume_again(
    grid: tuple[int, int, int], patch: tuple[int, int, int], channels: int, count: int
) -> None:
    size = (grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
    architecture = Architecture(size, patch, 6, 1, 1, 6, 1, 1, channels)
    volume = torch.arange(float(count * channels * size[0] * size[1] * size[2])).view(count, channels, *size)
    patches = patchify(volume, architecture)
    assert patches.shape == (count, architecture.tokens, architecture.voxels)
    assert torch.equal(unpatchify(patches, architecture), volume)
    d, h, w = patch
    last = volume[:, :, -d:, -h:, -w:].flatten(1)  # one patch by hand
    assert torch.equal(patches[:, -1], last)


def test_targets_have_mean_0_and_variance_1_per_patch_and_air_stays_0() -> None:
    net = network()
    patches = patchify(volumes(), TINY)
    patches[0, 3] = 7.0  # no variance
    target = net.target(patches)
    flat = torch.zeros(2, TINY.tokens, dtype=torch.bool)
    flat[0, 3] = True
    assert target[flat].abs().max() == 0
    torch.testing.assert_close(target[~flat].mean(dim=1), torch.zeros(23), atol=1e-5, rtol=0)
    torch.testing.assert_close(target[~flat].var(dim=1, correction=0), torch.ones(23), atol=1e-4, rtol=0)
    torch.testing.assert_close(net.target(5 * patches - 2)[~flat], target[~flat], atol=1e-4, rtol=0)
    plain = MaskedAutoencoder3d(TINY, normalise=False)
    assert torch.equal(plain.target(patches), patches)


def test_loss_by_hand() -> None:
    net, x = network(), volumes()
    with torch.no_grad():
        found = net(x, noise())
    error = []
    for b in range(2):
        for m, number in enumerate(found.decoded[b].tolist()):
            i, j, k = number // 6, number // 2 % 3, number % 2
            patch = x[b, 0, 2 * i : 2 * i + 2, 4 * j : 4 * j + 4, 4 * k : 4 * k + 4].flatten()
            target = (patch - patch.mean()) / (patch.var(correction=0) + 1e-6).sqrt()
            error.append((found.prediction[b, m] - target).square().mean())
    assert len(error) == 2 * 9
    torch.testing.assert_close(found.loss, torch.stack(error).mean())


def test_the_loss_compares_masked_patches_only() -> None:
    net, x = network(), volumes()
    with torch.no_grad():
        found = net(x, noise())
        changed = patchify(x, TINY)
        changed[torch.arange(2)[:, None], found.kept] += torch.randn(2, 3, TINY.voxels)
        target = net.target(changed[torch.arange(2)[:, None], found.decoded])
    torch.testing.assert_close(found.loss, (found.prediction - target).square().mean())


def test_the_encoder_sees_kept_patches_only() -> None:
    net, x = network(), volumes()
    hidden = patchify(x, TINY)
    _, decoded = net.mask(noise())
    hidden[torch.arange(2)[:, None], decoded] = torch.randn(2, 9, TINY.voxels)
    with torch.no_grad():
        first, second = net(x, noise()), net(unpatchify(hidden, TINY), noise())
    assert torch.equal(first.prediction, second.prediction)
    assert first.loss != second.loss


def test_every_weight_learns_and_no_position_does() -> None:
    net = network()
    net(volumes(), noise()).loss.backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent
    assert not [n for n in net.state_dict() if "position" in n], "positions are computed, not stored"


def test_a_prediction_has_the_place_of_its_number() -> None:
    net, x = network(), volumes()
    shuffled = noise()
    _, decoded = net.mask(shuffled)
    shuffled[torch.arange(2)[:, None], decoded] = shuffled.gather(1, decoded).flip(1)  # another order, the same set
    with torch.no_grad():
        first, second = net(x, noise()), net(x, shuffled)
    assert torch.equal(first.decoded, second.decoded.flip(1))
    torch.testing.assert_close(first.prediction, second.prediction.flip(1))
    assert not torch.allclose(first.prediction[:, 0], first.prediction[:, 1], atol=1e-3)


def test_a_subset_of_the_masked_patches_is_decoded_without_bias() -> None:
    whole, part = network(), network(decode_ratio=1 / 3)
    for net in (whole, part):
        for block in net.decoder:
            assert isinstance(block, Block)
            nn.init.zeros_(block.out.weight)  # without attention a prediction depends on its own token only
    x = volumes(1)
    order = torch.randperm(TINY.tokens, generator=torch.Generator().manual_seed(3))
    ranks = torch.empty(TINY.tokens)
    subsets, losses = [], []
    with torch.no_grad():
        for shift in range(9):  # the same patches kept; each masked one is among the first three as often as any other
            ranks[torch.cat([order[:3], order[3:].roll(shift)])] = torch.arange(float(TINY.tokens))
            found = part(x, ranks[None])
            subsets.append(found.decoded)
            losses.append(found.loss)
        everything = whole(x, ranks[None])
    assert part.decoded == 3
    assert torch.equal(torch.cat(subsets, dim=1).sort().values[0, ::3], order[3:].sort().values)
    torch.testing.assert_close(torch.stack(losses).mean(), everything.loss)


def test_random_subsets_take_every_patch_alike() -> None:
    _, decoded = network(decode_ratio=1 / 3).mask(noise(6000))
    share = torch.bincount(decoded.flatten(), minlength=TINY.tokens) / 6000  # 3 of 12 patches: 0.25 +- 0.0056
    torch.testing.assert_close(share, torch.full((TINY.tokens,), 0.25), atol=0.025, rtol=0)


def test_the_same_seed_gives_the_same_training() -> None:
    ends = []
    for _ in range(2):
        net = network(seed=5)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        for step in range(5):
            optimizer.zero_grad()
            net(volumes(seed=step), noise(seed=step)).loss.backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*ends)


def test_it_learns_to_continue_a_plane() -> None:
    net = network(replace(TINY, size=(4, 16, 16)))
    axes = torch.meshgrid(*(torch.linspace(-1, 1, s) for s in (4, 16, 16)), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        slope = torch.randn(8, 3, 1, 1, 1, generator=generator)
        x = (slope * torch.stack(axes)).sum(dim=1, keepdim=True)  # (8, 1, D, H, W)
        loss = net(x, torch.rand(8, net.architecture.tokens, generator=generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert sum(losses[-10:]) / 10 < 0.6, "predicting 0, the mean of every target, has a loss of 1"


def test_painting_puts_predictions_where_they_belong() -> None:
    net, x = network(), volumes()
    with torch.no_grad():
        found = net(x, noise())
        perfect = found._replace(prediction=net.target(patchify(x, TINY)[torch.arange(2)[:, None], found.decoded]))
        torch.testing.assert_close(net.paint(x, perfect), x)
        painted = patchify(net.paint(x, found), TINY)
    rows = torch.arange(2)[:, None]
    assert torch.equal(painted[rows, found.kept], patchify(x, TINY)[rows, found.kept])
    assert not torch.allclose(painted[rows, found.decoded], patchify(x, TINY)[rows, found.decoded], atol=0.1)


def test_painting_without_normalisation_is_the_prediction_itself() -> None:
    torch.manual_seed(0)
    net, x = MaskedAutoencoder3d(TINY, normalise=False), volumes()
    with torch.no_grad():
        found = net(x, noise())
        painted = patchify(net.paint(x, found), TINY)
    assert torch.equal(painted[torch.arange(2)[:, None], found.decoded], found.prediction)


def test_unusable_settings_and_input() -> None:
    for name, value in (("mask_ratio", 0.0), ("mask_ratio", 1.0), ("decode_ratio", 0.0), ("decode_ratio", 1.1)):
        with pytest.raises(ValueError, match="ratio"):
            network(TINY, 0, **{name: value})
    with pytest.raises(ValueError, match="single patch"):
        network(replace(TINY, size=(2, 4, 4)))
    with pytest.raises(ValueError, match="11 random numbers for 12 patches"):
        network()(volumes(), noise(tokens=11))
    with pytest.raises(ValueError, match=r"1 x 4 x 12 x 16 for a network of 1 x 4 x 12 x 8"):
        network()(torch.zeros(1, 1, 4, 12, 16), noise(1))
