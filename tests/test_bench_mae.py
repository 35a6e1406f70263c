"""The race of the masked auto-encoder: its checks pass for equal work and fail for unequal."""

from __future__ import annotations

import pytest
import torch

from benchmarks import mae
from benchmarks._race import UnequalWorkError
from xmkd.nets.mae3d import Architecture

TINY = Architecture((4, 12, 8), (2, 4, 4), 24, 2, 2, 12, 2, 2)


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch) -> mae.Contest:
    monkeypatch.setattr(mae, "GEMM", 16)  # small products for a small network
    return mae.Contest(TINY, batch=3)


def test_equal_work_before_and_after_steps(contest: mae.Contest, capsys: pytest.CaptureFixture[str]) -> None:
    contest.same_work()
    before = contest.ours.predict.weight.clone()
    contest.our_step()
    contest.their_step()
    contest.full_step()
    contest.products()
    assert not torch.equal(contest.ours.predict.weight, before)
    contest.same_work()
    contest.same_task()
    contest.same_operations()
    assert "same weights" in capsys.readouterr().out


def test_unequal_work_is_seen(contest: mae.Contest) -> None:
    contest.ours.normalise = False
    with pytest.raises(UnequalWorkError, match="loss or gradients differ"):
        contest.same_work()
    with pytest.raises(UnequalWorkError, match="targets differ"):
        contest.same_task()
    contest.ours.kept -= 1
    with pytest.raises(UnequalWorkError, match="different numbers of patches"):
        contest.same_work()
    contest.flops *= 2
    with pytest.raises(UnequalWorkError, match="operations differ"):
        contest.same_operations()


def test_operations_by_hand(contest: mae.Contest) -> None:
    """Multiply-adds of a volume: 3 kept and 9 masked patches of 32 voxels, twice forwards and four times backwards."""

    def block(width: int, queries: int, tokens: int) -> int:
        return width * width * (10 * queries + 2 * tokens) + 2 * queries * tokens * width

    embed, encoder = 3 * 32 * 24, 2 * block(24, 4, 4)
    decoder = 4 * 24 * 12 + block(12, 13, 13) + block(12, 9, 13) + 9 * 12 * 32
    assert contest.flops == 3 * (6 * (encoder + decoder) + 4 * embed)  # no gradient of the voxels is needed
