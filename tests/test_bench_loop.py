"""The race of the training loop: its check passes for equal work and fails for the smallest difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loop
from benchmarks._race import UnequalWorkError


def test_both_trainings_end_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contest = loop.Contest(tmp_path, steps=2, epochs=1)
    weights = contest.by_hand()
    monkeypatch.setattr(contest, "by_hand", lambda: weights)
    contest.check()
    assert "after 2 steps" in capsys.readouterr().out
    assert (tmp_path / "ours" / "checkpoints" / "last.ckpt").is_file()
    name = next(iter(weights))
    changed = {**weights, name: weights[name] + 2e-5}
    monkeypatch.setattr(contest, "ours", lambda: changed)
    with pytest.raises(UnequalWorkError, match="final weights differ by 2"):
        contest.check()
