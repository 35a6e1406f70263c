"""Optimisers and schedules: AdamW or SGD, linear warm-up, then cosine to zero or constant."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from xmkd.config import OptimConfig


def build(
    parameters: Iterable[nn.Parameter], config: OptimConfig, *, steps: int, steps_per_epoch: float
) -> tuple[Optimizer, LambdaLR]:
    """An optimiser over the trainable parameters and its per-step schedule.

    Args:
        parameters: Biases and normalisation weights (fewer than two dimensions) get no weight decay.
        config: Settings.
        steps: Optimiser steps of the whole training.
        steps_per_epoch: Optimiser steps of one epoch, for the warm-up.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
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
