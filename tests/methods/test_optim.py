"""Schedules by hand, and who gets weight decay."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from xmkd.config import OptimConfig
from xmkd.methods.optim import build, factor


def test_cosine_by_hand() -> None:
    found = [factor(step, 4, 12, cosine=True) for step in range(13)]
    half = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(9)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, *half])
    assert found[8] == pytest.approx(0.5)  # half-way down
    assert found[12] == pytest.approx(0.0)
    assert factor(20, 4, 12, cosine=True) == 0.0, "no second wave"


def test_constant_by_hand() -> None:
    assert [factor(step, 2, 5, cosine=False) for step in range(5)] == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert factor(0, 0, 5, cosine=False) == 1.0


@given(warmup=st.integers(0, 50), total=st.integers(1, 200), cosine=st.booleans())
def test_rises_then_never_rises_again(warmup: int, total: int, cosine: bool) -> None:
    values = [factor(step, warmup, total, cosine=cosine) for step in range(total)]
    assert all(0 < v <= 1 for v in values), "a step with a rate of 0 would be wasted"
    peak = min(warmup, total)
    assert values[:peak] == sorted(values[:peak])
    assert values[peak:] == sorted(values[peak:], reverse=True)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_biases_and_norms_and_frozen_weights_get_no_step(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2), nn.Linear(2, 1))
    net[3].requires_grad_(False)
    config = OptimConfig(name=name, lr=0.1, weight_decay=0.5)  # type: ignore[arg-type]  # both are valid names
    optimizer, _ = build([(1.0, list(net.parameters()))], config, steps=10, steps_per_epoch=5)
    decayed, spared = (group["params"] for group in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]
    assert [tuple(p.shape) for p in decayed] == [(2, 1, 3, 3), (2, 2)]
    assert [tuple(p.shape) for p in spared] == [(2,), (2,), (2,), (2,)]


def test_decoupled_decay_by_hand() -> None:
    weight, bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    config = OptimConfig(lr=0.1, weight_decay=0.5, schedule="constant", warmup_epochs=0)
    optimizer, _ = build([(1.0, [weight, bias])], config, steps=10, steps_per_epoch=10)
    weight.grad, bias.grad = torch.zeros(1, 1), torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 * 0.5)  # Loshchilov and Hutter 2019, eq. 12 with a gradient of 0
    assert bias.item() == 1.0


def test_the_rate_follows_the_schedule() -> None:
    config = OptimConfig(lr=0.2, warmup_epochs=0.5, schedule="cosine")
    optimizer, schedule = build([(1.0, [nn.Parameter(torch.ones(1, 1))])], config, steps=12, steps_per_epoch=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.2 * factor(step, 2, 12, cosine=True) for step in range(12)])
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.2])


def test_groups_have_rates_of_their_own() -> None:
    head, trunk = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1, 1))
    config = OptimConfig(lr=0.1, weight_decay=0.0, schedule="constant", warmup_epochs=0)
    optimizer, schedule = build([(1.0, [head]), (0.25, [trunk])], config, steps=10, steps_per_epoch=10)
    head.grad, trunk.grad = torch.ones(1, 1), torch.ones(1, 1)
    optimizer.step()
    schedule.step()
    assert 1 - trunk.item() == pytest.approx(0.25 * (1 - head.item()))  # the first step of Adam is its rate
