"""The shared part of the benchmarks, and that the two statistical benchmarks run."""

from __future__ import annotations

import csv
import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks import _race, bootstrap
from benchmarks._race import Outcome, Race, UnequalWorkError, run_all, run_race


def nothing() -> None:
    return None


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_race, "RESULTS", tmp_path)
    return tmp_path


def test_ratios_and_verdicts_by_hand() -> None:
    speed = Race("speed", nothing, nothing, nothing, target=1.5)
    outcome = Outcome(speed, ours_s=(1.0, 2.0, 1.0), baseline_s=(3.0, 2.0, 2.0))
    assert (outcome.ratio_min, outcome.ratio_median) == (1.0, 2.0)
    assert outcome.line() == "speed ratio=2.00 target=1.50 ok"
    overhead = Race("overhead", nothing, nothing, nothing, target=1.05, bound="at most")
    assert Outcome(overhead, (1.1,), (1.0,)).line() == "overhead ratio=1.10 target=1.05 missed"
    assert (
        Outcome(Race("free", nothing, nothing, nothing), (1.0,), (1.0,)).line()
        == "free ratio=1.00 target=none reported"
    )


def test_contenders_take_turns_after_check_and_warm_up() -> None:
    calls: list[str] = []
    ours, baseline, check = (partial(calls.append, name) for name in ("ours", "baseline", "check"))
    race = Race("x", ours, baseline, check)
    outcome = run_race(race)
    assert calls[:3] == ["check", "ours", "baseline"]
    assert len(outcome.ratios) == 9
    rounds = [set(calls[i : i + 2]) for i in range(1, len(calls), 2)]
    assert rounds == [{"ours", "baseline"}] * 10


def test_a_slower_baseline_gives_a_ratio_above_one_and_a_row(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    race = Race("sleep", lambda: time.sleep(0.001), lambda: time.sleep(0.004), nothing, target=1.2)
    assert run_all("demo", [race], packages=("pandas",)) == 0
    assert run_all("demo", [race]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("target=1.20 ok")
    with (results / "demo.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == _race.COLUMNS
    assert len(rows) == 2
    assert float(rows[0]["ratio_median"]) > 1.2
    assert rows[0]["target"] == ">= 1.2"
    assert "pandas" in rows[0]["versions"]


def test_unequal_work_stops_the_race() -> None:
    def check() -> None:
        raise AssertionError("the losses differ")

    with pytest.raises(UnequalWorkError, match="losses differ"):
        run_race(Race("x", nothing, nothing, check))
    with pytest.raises(ValueError, match="at least 9"):
        Race("x", nothing, nothing, nothing, repeats=3)


def test_bootstrap_benchmark_runs(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(quick=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["bootstrap", "bootstrap_1500_75", "bootstrap_5000_800"]
    assert not list(results.iterdir())  # a short run is no record


def test_bootstrap_benchmark_checks_equal_work(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bootstrap.draw_set(60, 12)
    bootstrap.same_values(*data, 5)
    monkeypatch.setattr(bootstrap, "loop", lambda *args: bootstrap.ours(*args) + 1e-11)
    with pytest.raises(UnequalWorkError, match="differ by"):
        bootstrap.same_values(*data, 5)
