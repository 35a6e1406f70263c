"""Random numbers that depend on (seed, epoch, sample) alone, on any device and in any batch.

A counter-based generator: every number is a hash of a key and a counter, so no state is carried from sample to
sample, and neither the batch size nor the number of workers or processes can change what a sample gets.
The hash is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), in wrapping int64 arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 that has the bits of this unsigned 64-bit number."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def id_hash(sample_id: str) -> int:
    """A stable int64 for a sample's id (Python's own hash differs from process to process)."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest(), "big", signed=True)


def mix(seed: int, epoch: int, ids: Tensor) -> Tensor:
    """One key per sample.

    Args:
        seed: The run's seed.
        epoch: The epoch, counted from 0.
        ids: `id_hash` of each sample, int64 `(B,)`.

    Returns:
        Keys, int64 `(B,)`, on the device of `ids`.
    """
    return _scramble(_scramble(_scramble(ids) + _signed(seed * 0x9E3779B97F4A7C15 % (1 << 64))) + epoch * 2 + 1)


def sample_keys(seed: int, epoch: int, sample_ids: Sequence[str]) -> Tensor:
    """One key per sample from the ids themselves, int64 `(B,)` on the CPU."""
    return mix(seed, epoch, torch.tensor([id_hash(i) for i in sample_ids], dtype=torch.int64))


def uniform(keys: Tensor, count: int) -> Tensor:
    """Numbers in [0, 1), float32 `(B, count)`: row b depends on `keys[b]` alone."""
    counters = torch.arange(1, count + 1, device=keys.device)
    bits = _scramble(keys[:, None] + counters * _GOLDEN)
    return _shift(bits, 40).float() * 2.0**-24  # 24 bits: every value is exact in float32


def _scramble(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without the sign: torch's `>>` keeps it."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
