"""Optimisers and schedules: AdamW or SGD, linear warm-up, then cosine to zero or constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from xmkd.config import OptimConfig


def build(
    parameters: Sequence[tuple[float, Sequence[nn.Parameter]]],
    config: OptimConfig,
    *,
    steps: int,
    steps_per_epoch: float,
) -> tuple[Optimizer, LambdaLR]:
    """An optimiser over the trainable parameters and its per-step schedule.

    Args:
        parameters: Groups of weights, each with a factor of the learning rate. Biases and normalisation weights (fewer
            than two dimensions) get no weight decay.
        config: Settings.
        steps: Optimiser steps of the whole training.
        steps_per_epoch: Optimiser steps of one epoch, for the warm-up.
    """
    groups: list[dict[str, Any]] = []
    for rate, weights in parameters:
        trainable = [p for p in weights if p.requires_grad]
        decayed = {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay}
        others = {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}
        groups += [group | {"lr": rate * config.lr} for group in (decayed, others)]
    optimizer: Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    cosine = config.schedule == "cosine"
    return optimizer, LambdaLR(optimizer, lambda step: factor(step, warmup, steps, cosine=cosine))


def factor(step: int, warmup: int, total: int, *, cosine: bool) -> float:
    """What the peak learning rate is multiplied by at a step: linear from 1/warmup to 1, then (1 + cos) / 2 to 0."""
    if step < warmup:
        return (step + 1) / warmup
    if not cosine:
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))
