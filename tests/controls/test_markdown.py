"""The table of the controls for a document."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from tests.evaluation.controls import rows, spread
from xmkd.controls.markdown import write
from xmkd.controls.summary import difference

LEVEL = [0.70, 0.74, 0.66, 0.81, 0.72]


def written(folder: Path, table: pd.DataFrame, limits: dict[float, dict[str, float]] | None = None) -> str:
    write(table, limits or {}, 2000, folder / "table.md")
    assert [p.name for p in folder.iterdir()] == ["table.md"]
    return (folder / "table.md").read_text()


def tables(said: str) -> dict[str, dict[str, list[str]]]:
    """Cells by the corner of their table and the name of their row."""
    found: dict[str, dict[str, list[str]]] = {}
    for block in said.split("\n\n"):
        if block.startswith("|"):
            head, rule, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
            assert set(rule) == {"---"}
            assert {len(line) for line in lines} == {len(head)}
            found[head[0]] = {line[0]: line[1:] for line in lines}
    return found


def test_differences_are_those_of_a_paired_t_test(tmp_path: Path) -> None:
    gains = [0.01, 0.012, 0.03, 0.02, 0.015]
    full = [a + b for a, b in zip(LEVEL, gains, strict=True)]
    table = rows({"full": full, "surrogate": LEVEL})
    test = stats.ttest_rel(full, LEVEL)
    low, high = test.confidence_interval(0.95)
    found = difference(table, "full", "surrogate")
    assert [found.value, found.low, found.high] == pytest.approx([sum(gains) / 5, low, high])
    assert tables(written(tmp_path, table))["minus surrogate"]["full"] == [f"**+0.017 [{low:+.3f}, {high:+.3f}]**"]


def test_what_is_known_of_a_cohort_comes_first(tmp_path: Path) -> None:
    write(rows({"ptm": LEVEL}), {}, 2000, tmp_path / "table.md", {0.6: "scores agree by 0.10"})
    assert (tmp_path / "table.md").read_text().startswith("Rho 0.6: scores agree by 0.10.\n\n**Tier head, rho 0.6**")


def test_an_interval_without_zero_is_bold_and_no_other(tmp_path: Path) -> None:
    arms = {"ptm": LEVEL}
    for name, mean in (("full", 0.03), ("hard", -0.03), ("constant", 0.005), ("shuffled", -0.005)):
        arms[name] = [a + b for a, b in zip(LEVEL, spread(mean, 0.01, 5), strict=True)]
    cells = tables(written(tmp_path, rows(arms)))["minus ptm"]
    bold = {name: cell.startswith("**") and cell.endswith("**") for name, (cell,) in cells.items()}
    assert bold == {"full": True, "hard": True, "constant": False, "shuffled": False}
    assert "excludes 0" in (tmp_path / "table.md").read_text()


def test_every_arm_and_budget_stands_in_it_in_the_order_of_the_arms(tmp_path: Path) -> None:
    budgets = {labels: 0.6 + labels / 1000 for labels in (80, 20)}
    table = pd.concat(
        [
            rows({name: spread(mean, 0.02, 5) for name in ("oracle_pair", "surrogate", "ptm")}, labels=labels)
            for labels, mean in budgets.items()
        ]
    )
    said = written(tmp_path, table, {0.6: {"oracle": 0.8837, "ceiling": 0.99}})
    assert said.startswith(
        "**Tier head, rho 0.6**: 5 training cohorts, 2000 test patients; lock c0ffee; oracle 0.884; ceiling 0.990."
    )
    assert "| AUROC | 20 labels | 80 labels |" in said
    half = stats.t.ppf(0.975, 4) * 0.02 / 5**0.5
    cells = tables(said)
    assert list(cells) == ["AUROC", "minus surrogate", "minus ptm"]
    assert list(cells["AUROC"]) == ["ptm", "surrogate", "oracle_pair"]
    assert cells["AUROC"]["ptm"] == [f"{m:.3f} [{m - half:.3f}, {m + half:.3f}]" for m in (0.62, 0.68)]
    assert list(cells["minus surrogate"]) == ["ptm", "oracle_pair"], "not with itself"


def test_tiers_and_cohorts_stand_apart_with_their_locks(tmp_path: Path) -> None:
    table = pd.concat(
        [
            rows({"ptm": LEVEL}, tier="finetuned", lock="aa"),
            rows({"ptm": LEVEL}, rho=0.0, lock="bb"),
            rows({"ptm": LEVEL}, lock=""),
        ]
    )
    said = written(tmp_path, table, {0.0: {"oracle": 0.87}})
    heads = [line for line in said.splitlines() if line.startswith("**Tier")]
    assert [head.split("**")[1] for head in heads] == [
        "Tier head, rho 0.6",
        "Tier head, rho 0",
        "Tier finetuned, rho 0.6",
    ]
    assert "lock not calibrated." in heads[0]
    assert "lock bb; oracle 0.870." in heads[1]
    assert "lock aa." in heads[2]


def test_an_unfinished_table_says_how_many_cohorts_each_figure_has(tmp_path: Path) -> None:
    table = pd.concat(
        [rows({"ptm": LEVEL, "full": LEVEL[:3], "surrogate": LEVEL[:1]}), rows({"ptm": LEVEL}, labels=20)]
    )
    cells = tables(written(tmp_path, table))
    assert cells["AUROC"]["full"][0] == ""
    assert cells["AUROC"]["full"][1].endswith("], 3 of 5 cohorts")
    assert cells["AUROC"]["surrogate"] == ["", "0.700 (no interval), 1 of 5 cohorts"]
    assert cells["minus ptm"]["full"] == ["", "+0.000 [+0.000, +0.000], 3 of 5 cohorts"]
    assert "cohorts" not in cells["AUROC"]["ptm"][1]
