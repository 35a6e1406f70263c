"""The volume transformer: positions, attention, the classifier on it and the rates of its layers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmkd.nets.mae3d import MaskedAutoencoder3d
from xmkd.nets.vit3d import (
    PRESETS,
    Architecture,
    Block,
    Encoder3d,
    Pool,
    VolumeClassifier,
    layer_rates,
    sincos_positions,
)

TINY = Architecture((4, 12, 8), (2, 4, 4), 24, 3, 2, 12, 1, 2)


def classifier(architecture: Architecture = TINY, pool: Pool = "mean", drop_path: float = 0.0) -> VolumeClassifier:
    torch.manual_seed(0)
    return VolumeClassifier(architecture, 1, pool=pool, drop_path=drop_path)


def volumes(size: tuple[int, int, int] = TINY.size, count: int = 2) -> Tensor:
    return torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(1))


def test_positions_by_hand() -> None:
    found = sincos_positions((1, 2, 3), 12)  # 2 frequencies, 1 and 1/100, for each axis
    assert found.shape == (6, 12)
    d, h, w = 0.0, 0.5, -1.0  # of patch 3: the first of the second row, from the centre
    expected = [f(x * omega) for x in (d, h, w) for f in (math.sin, math.cos) for omega in (1, 0.01)]
    assert found[3].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("preset", ["tiny", "small", "large"])
def test_positions_differ_from_place_to_place(preset: str) -> None:
    architecture = PRESETS[preset]
    for width in (architecture.width, architecture.decoder_width):
        codes = sincos_positions(architecture.grid, width)
        assert codes.shape == (architecture.tokens, width)
        assert codes.abs().max() <= 1
        assert torch.pdist(codes[:300]).min() > 0.1


def test_channels_that_six_does_not_divide_stay_0() -> None:
    codes = sincos_positions((4, 8, 8), 512)
    assert codes[:, 510:].abs().max() == 0
    assert torch.equal(codes[:, :510], sincos_positions((4, 8, 8), 510))


@settings(max_examples=20, deadline=None)
@given(grid=st.tuples(*[st.integers(1, 4)] * 3), more=st.tuples(*[st.integers(0, 2)] * 3))
def test_a_centred_crop_keeps_the_code_of_each_place(grid: tuple[int, int, int], more: tuple[int, int, int]) -> None:
    large = (grid[0] + 2 * more[0], grid[1] + 2 * more[1], grid[2] + 2 * more[2])
    codes = sincos_positions(large, 12).view(*large, 12)
    (d, h, w), (i, j, k) = grid, more
    assert torch.equal(codes[i : i + d, j : j + h, k : k + w].flatten(0, 2), sincos_positions(grid, 12))


def test_fused_attention_is_the_plain_one() -> None:
    torch.manual_seed(0)
    block, x = Block(24, 3), torch.randn(2, 7, 24)
    q = block.query(block.norm1(x))
    k, v = block.key_value(block.norm1(x)).chunk(2, dim=-1)
    heads = []
    for a, b, c in zip(q.split(8, -1), k.split(8, -1), v.split(8, -1), strict=True):  # by hand, head by head
        heads.append(torch.softmax(a @ b.mT / math.sqrt(8), dim=-1) @ c)
    y = x + block.out(torch.cat(heads, dim=-1))
    expected = y + block.mlp(block.norm2(y))
    for fused in (True, False):
        block.fused = fused
        torch.testing.assert_close(block(x), expected)
        torch.testing.assert_close(block(x, first=4), expected[:, 4:])


def test_patches_are_embedded_with_their_position() -> None:
    torch.manual_seed(0)
    encoder = Encoder3d(TINY)
    seen: list[Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    x = volumes()
    tokens = encoder(x)
    assert tokens.shape == (2, 13, 24)
    patch = x[:, 0, 2:4, 4:8, 0:4].flatten(1)  # number 8: (1, 1, 0) of a grid of 2 x 3 x 2
    torch.testing.assert_close(seen[0][:, 9], encoder.embed(patch) + sincos_positions(TINY.grid, 24)[8])
    torch.testing.assert_close(seen[0][:, 0], encoder.class_token.expand(2, -1))


def test_the_order_of_patches_is_of_no_account() -> None:
    torch.manual_seed(0)
    encoder, patches = Encoder3d(TINY), torch.randn(2, 12, TINY.voxels)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    straight, mixed = (
        encoder.encode(patches, encoder.position),
        encoder.encode(patches[:, order], encoder.position[order]),
    )
    torch.testing.assert_close(mixed[:, 1:], straight[:, 1 + order])
    torch.testing.assert_close(mixed[:, 0], straight[:, 0])


def test_pooling() -> None:
    mean, token = classifier(pool="mean"), classifier(pool="cls")
    tokens = mean.encoder(volumes())
    torch.testing.assert_close(mean.features(volumes()), tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(token.features(volumes()), tokens[:, 0])
    for net in (mean, token):
        assert net(volumes()).shape == (2, 1)
        torch.testing.assert_close(net.head(net.features(volumes())), net(volumes()))


def test_the_encoder_goes_on_at_another_size_without_the_decoder() -> None:
    torch.manual_seed(0)
    mae = MaskedAutoencoder3d(TINY)
    same, other = classifier(), classifier(replace(TINY, size=(8, 20, 16)))
    for net in (same, other):
        net.encoder.load_state_dict(
            mae.encoder.state_dict()
        )  # strict: every weight of the encoder, none of the decoder
    torch.testing.assert_close(same.encoder(volumes()), mae.encoder(volumes()))
    assert other(volumes((8, 20, 16))).shape == (2, 1)
    assert not [name for name in same.state_dict() if not name.startswith(("encoder.", "classifier."))]
    with pytest.raises(ValueError, match="build the network for their size"):
        other(volumes())


def test_a_sample_skips_a_branch_in_training_only() -> None:
    net = classifier(drop_path=0.5)
    plain = classifier()
    plain.load_state_dict(net.state_dict())
    x = volumes(count=8)
    assert torch.equal(net.eval()(x), plain.eval()(x))
    net.train()
    assert not torch.equal(net(x), net(x))
    rates = [getattr(block.drop, "drop_prob", 0.0) for block in net.encoder.blocks]
    assert rates == pytest.approx([0.0, 0.25, 0.5])


def test_rates_by_hand() -> None:
    net = classifier()
    rates = layer_rates(net, 0.5)
    rate = {id(p): factor for factor, layer in rates for p in layer}
    assert len(rate) == sum(len(layer) for _, layer in rates) == len(list(net.parameters())), "each weight once"
    found = {name: rate[id(p)] for name, p in net.named_parameters()}
    expected = {"classifier": 1.0, "encoder.norm": 1.0, "encoder.embed": 0.0625, "encoder.class_token": 0.0625}
    expected |= {f"encoder.blocks.{i}": 0.5 ** (3 - i) for i in range(3)}
    for name, value in found.items():
        assert value == next(v for prefix, v in expected.items() if name.startswith(prefix)), name


def test_frozen_weights_have_no_rate() -> None:
    net = classifier()
    net.encoder.requires_grad_(False)
    assert [(factor, [p.shape for p in layer]) for factor, layer in layer_rates(net)] == [(1.0, [(1, 24), (1,)])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (5, 12, 8)}, "D = 5 is not divisible by 2; crop or pad"),
        ({"size": (4, 12, 2)}, "W = 2 is not divisible by 4"),
        ({"patch": (2, 0, 4)}, "H = 12 is not divisible by 0"),
        ({"heads": 5}, "width = 24 must be at least 6 and divisible by its 5 heads"),
        ({"decoder_width": 4}, "decoder_width = 4"),
        ({"depth": 0}, "at least one block"),
    ],
)
def test_impossible_architectures(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]
