"""Claims: what a file may say, and what results make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import REPOSITORY
from tests.evaluation.controls import against, claim, rows, scored, spread, write_claims
from xmkd.errors import ConfigError
from xmkd.evaluation import control_results
from xmkd.evaluation.claims import Finding, judge, load
from xmkd.evaluation.statistics import auroc, paired_clustered_delong


def judged(folder: Path, table: pd.DataFrame, *claims: dict[str, Any], **changes: Any) -> list[Finding]:
    table.to_csv(folder / "results.csv", index=False)
    return judge(load(write_claims(folder / "claims.yaml", *claims, **changes)), control_results.load(folder))


VERDICTS = [
    # mean, SD, verdict; what it makes of the predictions superior, equivalent, not_superior and of a question
    (0.03, 0.01, "superior", ("held", "failed", "failed", "answered")),
    (-0.03, 0.01, "inferior", ("failed", "failed", "held", "answered")),
    (0.0, 0.005, "equivalent", ("failed", "held", "held", "answered")),
    (0.004, 0.003, "superior, within the margin", ("held", "held", "failed", "answered")),
    (-0.004, 0.003, "inferior, within the margin", ("failed", "held", "held", "answered")),
    (0.005, 0.03, "inconclusive", ("not shown", "not shown", "not shown", "open")),
    (-0.012, 0.03, "inconclusive", ("not shown", "not shown", "held", "open")),  # a gain of the margin is refused
]


@pytest.mark.parametrize(("mean", "sd", "verdict", "outcomes"), VERDICTS)
def test_verdicts(tmp_path: Path, mean: float, sd: float, verdict: str, outcomes: tuple[str, ...]) -> None:
    table = against(spread(mean, sd, 10))
    for test, outcome in zip(("superior", "equivalent", "not_superior", "question"), outcomes, strict=True):
        (found,) = judged(tmp_path, table, claim(test=test))
        assert (found.verdict, found.outcome) == (verdict, outcome)
        assert found.difference.value == pytest.approx(mean, abs=1e-12)
        assert found.difference.sd == pytest.approx(sd, rel=1e-9)
        assert (found.comparisons, found.p_holm) == (1, found.difference.p)


def test_cohorts_are_paired_by_their_number_and_not_by_their_row(tmp_path: Path) -> None:
    table = against(spread(0.03, 0.001, 10)).sample(frac=1, random_state=1)
    (found,) = judged(tmp_path, table, claim())
    assert found.difference.sd == pytest.approx(0.001)


def test_truth_is_found_as_often_as_it_should_be(tmp_path: Path) -> None:
    """Without a difference, superiority is claimed once in twenty times; at the margin, so is equivalence."""
    rng = np.random.default_rng(0)
    claims = load(write_claims(tmp_path / "claims.yaml", claim(test="question")))

    def one(true: float) -> Finding:
        differences = list(true + 0.004 * rng.normal(size=10))
        return judge(claims, control_results.ControlResults(tmp_path, against(differences)))[0]

    different = sum(one(0.0).verdict.startswith(("superior", "inferior")) for _ in range(200))
    equivalent = sum(one(0.01).p_equivalence_holm < 0.05 for _ in range(200))
    for shown in (different, equivalent):
        assert 2 <= shown <= 20, "binomial, 200 times 0.05: all but 1 in 700"


def test_holm_by_hand(tmp_path: Path) -> None:
    """In order: 4 x 0.005 = 0.02; 3 x 0.01 = 0.03; 2 x 0.03 = 0.06; 0.04 is less than that, so 0.06 as well."""
    tables, claims = [], []
    for labels, p in ((20, 0.01), (40, 0.04), (80, 0.03), (160, 0.005)):
        mean = stats.t.ppf(1 - p / 2, 9) * 0.01 / np.sqrt(10)
        tables.append(against(spread(mean, 0.01, 10), labels=labels))
        claims.append(claim(f"{labels}", labels=labels, test="question"))
    found = judged(tmp_path, pd.concat(tables), *claims)
    assert [f.difference.p for f in found] == pytest.approx([0.01, 0.04, 0.03, 0.005])
    assert [f.p_holm for f in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [f.verdict for f in found] == ["superior", "inconclusive", "inconclusive", "superior"]
    assert {f.comparisons for f in found} == {4}


def test_each_family_is_corrected_by_itself_and_sanity_checks_are_not(tmp_path: Path) -> None:
    arms = ("full", "hard", "constant", "shuffled", "oracle_pair")
    level = np.linspace(0.7, 0.9, 10)
    table = rows({"surrogate": list(level), **{arm: list(level + spread(0.008, 0.01, 10)) for arm in arms}})
    found = judged(
        tmp_path,
        table,
        claim("a", arm="full", primary=True),
        claim("b", arm="hard"),
        claim("c", arm="constant", test="question"),
        claim("d", arm="shuffled", test="not_superior"),
        claim("e", arm="oracle_pair", test="not_superior"),
    )
    p = found[0].difference.p
    assert [f.p_holm / p for f in found] == pytest.approx([1, 2, 2, 1, 1])
    assert [f.comparisons for f in found] == [1, 2, 2, 1, 1]
    assert [f.verdict for f in found] == ["superior", "inconclusive", "inconclusive", "superior", "superior"]
    assert [f.outcome for f in found[3:]] == ["failed", "failed"]


def test_what_is_not_measured_is_not_judged_and_counts_all_the_same(tmp_path: Path) -> None:
    table = pd.concat(
        [against(spread(0.01, 0.01, 10)), against(spread(0.03, 0.01, 4), labels=20), rows({"full": [0.8]}, labels=40)]
    )
    found = judged(tmp_path, table, claim("all"), claim("some", labels=20), claim("one arm", labels=40))
    full, part, none = found
    assert full.p_holm == pytest.approx(3 * full.difference.p)
    assert (full.note, full.difference.cohorts) == ("", 10)
    assert (part.verdict, part.outcome, part.note) == ("not yet measured", "", "4 of 10 cohorts")
    assert part.difference.value == pytest.approx(0.03)
    assert none.note == "0 of 10 cohorts; no rows of surrogate (head, rho 0.6, 40 labels)"
    assert [np.isnan(f.p_holm) for f in found] == [False, True, True]


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [(0.03, "held"), (0.004, "held, but says nothing"), (0.0, "held, but says nothing")],
    ids=["shown", "within the margin", "none"],
)
def test_arms_that_are_alike_say_something_only_beside_a_positive_control(
    tmp_path: Path, gain: float, outcome: str
) -> None:
    level = np.linspace(0.7, 0.9, 10)
    arms = {"full": spread(0.0, 0.003, 10), "oracle_pair": spread(gain, 0.003, 10)}
    table = rows({"surrogate": list(level), **{arm: list(level + np.array(d)) for arm, d in arms.items()}})
    control = claim("control", arm="oracle_pair", test="superior")
    alike, alone, shown = judged(
        tmp_path, table, claim("alike", requires="control"), claim("alone", against="ptm"), control
    )
    assert (alike.verdict, alike.outcome) == ("equivalent", outcome)
    assert alike.note == ("" if outcome == "held" else f"its positive control, control: {shown.verdict}")
    assert alone.outcome == ""


def test_a_positive_control_is_another_claim_that_predicts_a_gain(tmp_path: Path) -> None:
    for wrong in ("no such claim", "itself", "question"):
        claims = [claim("itself", requires=wrong, test="superior"), claim("question", test="question", labels=20)]
        with pytest.raises(ConfigError, match=rf"claims\[0\]\.requires: '{wrong}' is no other claim"):
            load(write_claims(tmp_path / "claims.yaml", *claims))


def test_only_cohorts_of_both_arms_count(tmp_path: Path) -> None:
    table = against(spread(0.03, 0.01, 10))
    table = table[(table["arm"] != "full") | (table["cohort"] > 2)]
    (found,) = judged(tmp_path, table, claim())
    assert (found.verdict, found.note) == ("not yet measured", "7 of 10 cohorts")


def test_more_cohorts_than_planned_are_said(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, against(spread(0.0, 0.005, 12)), claim())
    assert (found.verdict, found.note) == ("equivalent", "12 cohorts, 10 planned")


def test_a_difference_without_spread_is_not_judged(tmp_path: Path) -> None:
    table = rows({"full": [0.75] * 10, "surrogate": [0.5] * 10, "hard": [0.75] * 10})
    found = judged(tmp_path, table, claim("far"), claim("same", against="hard"))
    assert (found[0].verdict, found[0].outcome) == ("inconclusive", "not shown")
    assert "no spread" in found[0].note
    assert (found[1].verdict, found[1].outcome, found[1].note) == ("equivalent", "held", "")


def test_the_interval_over_test_patients_is_that_of_the_mean_difference(tmp_path: Path) -> None:
    results = control_results.load(scored(tmp_path, {"full": 1.0, "surrogate": 1.1}, cohorts=10))
    (found,) = judge(load(write_claims(tmp_path / "claims.yaml", claim())), results)
    with np.load(tmp_path / "scores.npz") as stored:
        label = stored["label"]
        full, surrogate = (np.stack([stored[f"head/0.6/80/{a}/{c}"] for c in range(10)]) for a in ("full", "surrogate"))
    assert found.patients == paired_clustered_delong(label, full, surrogate).difference
    ensemble = auroc(label, full.mean(0)) - auroc(label, surrogate.mean(0))
    assert found.patients.value == pytest.approx(found.difference.value, abs=1e-4)
    assert abs(found.patients.value - ensemble) > 1e-3, "the mean score is another model"


def test_what_other_test_patients_might_not_show_is_said(tmp_path: Path) -> None:
    """Few test patients and much alike cohorts: certain of these patients, and not of others."""
    rng = np.random.default_rng(1)
    label = np.arange(60) % 2
    score = label + rng.normal(size=60)
    other = score + 0.3 * rng.normal(size=60)
    arrays: dict[str, Any] = {"label": label, "patient_id": np.arange(60)}
    found: dict[str, list[float]] = {"full": [], "surrogate": []}
    for cohort in range(10):
        for arm, base in (("full", score), ("surrogate", other)):
            values = base + 0.01 * rng.normal(size=60)
            arrays[f"head/0.6/80/{arm}/{cohort}"] = values
            found[arm].append(auroc(label, values))
    np.savez(tmp_path / "scores.npz", **arrays)
    (one,) = judged(tmp_path, rows(found), claim())
    assert one.patients is not None
    assert one.patients.low is not None
    assert one.patients.high is not None
    assert one.verdict.startswith(("superior", "inferior"))
    assert one.patients.low < 0 < one.patients.high
    assert one.note == "on these test patients; others may differ"


def test_all_problems_of_a_file_are_listed(tmp_path: Path) -> None:
    file = write_claims(
        tmp_path / "claims.yaml",
        claim("twice", arm="ptm", against="ptm", rho=1.0),
        claim("twice", test="supperior", why=None),
        claim("few", cohorts=1, labels=0, margin=0.02),
        claim("sane", test="not_superior", primary=True, tier="heads"),
        metric="auc",
        margin="wide",
    )
    with pytest.raises(ConfigError, match="problems in the claims") as caught:
        load(file)
    said = str(caught.value)
    for words in (
        "metric: 'auc' is none of auroc",
        "margin: expected float, got 'wide'",
        "claims[1].test: 'supperior' is none of",
        "did you mean 'superior'?",
        "claims[1].why: expected str",
        "claims[2].margin: unknown key",
        "claims[3].tier: 'heads' is none of head, signs, finetuned",
    ):
        assert words in said
    assert str(file) in said


def test_contradictions_are_listed_as_well(tmp_path: Path) -> None:
    file = write_claims(
        tmp_path / "claims.yaml",
        claim("twice", arm="ptm", against="ptm", rho=1.0),
        claim("twice"),
        claim("other way round", arm="surrogate", against="full", test="question"),
        claim("few", cohorts=1, labels=0, rho=-0.1),
        claim("sane", test="not_superior", primary=True, labels=20),
        margin=0,
        alpha=1,
    )
    with pytest.raises(ConfigError, match="12 problems in the claims") as caught:
        load(file)
    said = str(caught.value)
    for words in (
        "margin: 0 is no difference",
        "alpha: 1 is not between 0 and 0.5",
        "claims[0].name: 'twice' is the name of 2 claims",
        "claims[0].against: 'ptm' is compared with itself",
        "claims[0].rho: 1 is no correlation",
        "claims[1].arm: these two arms are compared in another claim",
        "claims[2].arm: these two arms",
        "claims[3].rho: -0.1",
        "claims[3].labels: 0 is no number",
        "claims[3].cohorts: 1 give no spread",
        "claims[4].primary: a sanity check",
    ):
        assert words in said


@pytest.mark.parametrize("text", ["", "claims: [1]", "claims: {", "metric: auroc"])
def test_no_file_of_claims(tmp_path: Path, text: str) -> None:
    file = tmp_path / "claims.yaml"
    with pytest.raises(ConfigError, match="no such claims file"):
        load(file)
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file)


def test_a_file_without_claims(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="claims: there are none"):
        load(write_claims(tmp_path / "claims.yaml"))


def test_the_claims_of_this_study_name_arms_of_the_controls() -> None:
    claims = load(REPOSITORY / "experiments" / "claims.yaml")
    from xmkd.controls.arms import ARMS
    from xmkd.controls.doses import dose_arm
    from xmkd.controls.spec import load as table

    doses = table(REPOSITORY / "experiments" / "controls" / "demo.yaml").doses
    known = {arm.name for arm in ARMS} | {dose_arm(dose).name for dose in doses}
    assert {arm for c in claims.claims for arm in (c.arm, c.against)} <= known
    assert claims.margin == 0.01
    (primary,) = (c for c in claims.claims if c.primary)
    assert (primary.arm, primary.against, primary.test) == ("full", "surrogate", "equivalent")
    assert {c.test for c in claims.claims if c.rho == 0} == {"not_superior"}
