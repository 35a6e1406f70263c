"""The controls as a figure and as text: every arm has its place, and means are means over training cohorts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.evaluation.controls import rows, spread
from xmkd.controls.arms import ARMS
from xmkd.controls.figure import STYLE, draw, draw_doses, draw_gains, text
from xmkd.controls.summary import gains, means

NAMES = [arm.name for arm in ARMS]


def study() -> pd.DataFrame:
    """All arms as heads at two values of rho and two budgets, three arms fine-tuned, two that see the signs."""
    heads = [
        rows({name: spread(0.7 + rho / 10 + labels / 1000, 0.02, 5) for name in NAMES}, rho=rho, labels=labels)
        for rho in (0.0, 0.6)
        for labels in (80, 20)
    ]
    heads.append(rows({name: spread(0.9, 0.01, 5) for name in ("full", "surrogate")}, tier="signs"))
    return pd.concat([rows({name: spread(0.8, 0.01, 3) for name in NAMES[:3]}, tier="finetuned"), *heads])


def test_every_arm_has_a_style_of_its_own() -> None:
    assert list(STYLE) == NAMES
    assert len(set(STYLE.values())) == len(NAMES)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_means_have_the_t_interval_of_scipy(level: float) -> None:
    values = {"full": [0.71, 0.74, 0.69, 0.8], "ptm": [0.7, 0.72]}
    found = means(rows(values), level).set_index("arm")
    for arm, aurocs in values.items():
        n = len(aurocs)
        low, high = stats.t.interval(level, n - 1, loc=np.mean(aurocs), scale=stats.sem(aurocs))
        row = found.loc[arm]
        assert row["cohorts"] == n
        assert [row["mean"], row["low"], row["high"]] == pytest.approx([np.mean(aurocs), low, high], rel=1e-12)


def test_settings_are_not_mixed_and_one_cohort_has_no_interval() -> None:
    table = pd.concat([rows({"ptm": [0.6]}), rows({"ptm": [0.7]}, rho=0.0), rows({"ptm": [0.8]}, tier="finetuned")])
    found = means(table)
    assert sorted(found["mean"]) == [0.6, 0.7, 0.8]
    assert found[["low", "high"]].isna().all(axis=None)


def test_the_figure_has_a_panel_for_each_setting_and_all_arms_in_its_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, "close", lambda *_: None)
    draw(study(), {0.6: {"oracle": 0.88, "ceiling": 0.99}}, tmp_path / "new" / "auroc.png")
    assert (tmp_path / "new" / "auroc.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["auroc.png"]

    axes = plt.gcf().axes
    titles = ["head, rho 0.6", "signs, rho 0.6", "finetuned, rho 0.6", "head, rho 0"]
    assert [axis.get_title().split(" (")[0] for axis in axes] == titles
    assert axes[0].get_title().endswith("(5 training cohorts)")
    assert [[note.get_text() for note in axis.texts] for axis in axes] == [*[["oracle", "ceiling"]] * 3, []]
    (legend,) = plt.gcf().legends
    assert [entry.get_text() for entry in legend.get_texts()] == NAMES
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["20", "80"]
    low, high = axes[0].get_xlim()
    drawn = [float(x) for line in axes[0].lines for x in np.asarray(line.get_xdata()) if x > 1]
    assert low < min(drawn), "no point lies outside"
    assert max(drawn) < high


def test_the_text_has_a_row_for_each_arm_and_says_what_was_measured() -> None:
    lines = text(study()).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == NAMES
    places = [
        lines[0].index(name)
        for name in ("head 0.6 n20", "head 0.6 n80", "head 0 n20", "head 0 n80", "sign 0.6 n80", "fine 0.6 n80")
    ]
    assert places == sorted(places)
    half = stats.t.ppf(0.975, 4) * 0.02 / 5**0.5
    assert lines[2].split()[1] == f"0.780±{half:.3f}"
    assert lines[2].count("±") == 5
    assert lines[-2].count("±") == 4, "not fine-tuned"


def test_gains_are_paired_by_cohort_and_drawn_without_the_arm_they_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot as plt

    table = pd.concat(
        [rows({"ptm": [0.6, 0.7, 0.8], "surrogate": [0.5, 0.62, 0.69]}), rows({"ptm": [0.6, 0.7]}, tier="finetuned")]
    )
    (row,) = gains(table, "surrogate").itertuples()
    assert (row.tier, row.arm, row.cohorts) == ("head", "ptm", 3)
    test = stats.ttest_rel([0.6, 0.7, 0.8], [0.5, 0.62, 0.69])
    interval = test.confidence_interval(0.95)
    assert [row.mean, row.low, row.high] == pytest.approx([29 / 300, interval.low, interval.high])

    monkeypatch.setattr(plt, "close", lambda *_: None)
    draw_gains(table, tmp_path / "gains.png")
    assert [axis.get_title().split(" (")[0] for axis in plt.gcf().axes] == ["head, rho 0.6"]
    assert plt.gcf().axes[0].get_ylabel() == "AUROC minus that of surrogate"
    assert [p.name for p in tmp_path.iterdir()] == ["gains.png"]
    draw_gains(rows({"ptm": [0.6, 0.7]}), tmp_path / "gains.png")
    assert not list(tmp_path.iterdir()), "gains of another table would be left"


def test_a_title_tells_the_fewest_and_the_most_training_cohorts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, "close", lambda *_: None)
    table = pd.concat([rows({"ptm": [0.6, 0.7]}, labels=20), rows({"ptm": [0.6, 0.7, 0.8]}, labels=80)])
    draw(table, {}, tmp_path / "auroc.png")
    assert plt.gcf().axes[0].get_title() == "head, rho 0.6 (2 to 3 training cohorts)"


def test_doses_are_drawn_at_their_agreement_with_a_line_per_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, "close", lambda *_: None)
    level = [0.6, 0.7, 0.9]
    arms = {"dose_1": 0.3, "surrogate": 0.0, "dose_0": 0.1, "oracle_pair": 0.2, "full": 0.5}
    values = {arm: [value + gain for value in level] for arm, gain in arms.items()}
    table = pd.concat([rows(values, tier="signs", labels=n) for n in (20, 80)])
    without = {arm: value for arm, value in values.items() if not arm.startswith("dose")}
    table = pd.concat([table, rows(without, tier="signs", rho=0.0), rows(without, tier="head")])
    follows = {"oracle_pair": {"negatives": 0.1, "positives": 0.3}, "dose_0": {"a": 0.0}, "dose_1": {"a": 1.0}}
    draw_doses(table, follows, tmp_path / "doses.png")
    (axis,) = plt.gcf().axes
    lines = [line for line in axis.lines if line.get_marker() in ("o", "x")]
    drawn = [[np.asarray(values).tolist() for values in line.get_data()] for line in lines]
    assert len(drawn) == 2 * 2, "doses and true pairs, at two budgets"
    for (doses_x, doses_y), (pair_x, pair_y) in (drawn[:2], drawn[2:]):
        assert [*doses_x, *pair_x] == pytest.approx([0, 1, 0.2], abs=0.02)
        assert [*doses_y, *pair_y] == pytest.approx([0.1, 0.3, 0.2])
    legend = axis.get_legend()
    assert legend is not None
    assert [entry.get_text() for entry in legend.get_texts()] == ["20 labelled MRI", "80 labelled MRI"]
    assert text(table).splitlines()[-2].startswith("dose_1")

    assert axis.get_title() == "signs, rho 0.6 (3 training cohorts)"
    assert [p.name for p in tmp_path.iterdir()] == ["doses.png"]
    draw_doses(table[~table["arm"].str.startswith("dose")], follows, tmp_path / "doses.png")
    assert not list(tmp_path.iterdir()), "doses of another table would be left"
