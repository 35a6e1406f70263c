"""Claims that were written before the first run, and what the results say of them.

A claim names two arms, the setting they are compared in, what is predicted and on how many training cohorts. It is
judged on that many and not before: who looks earlier and stops at a welcome moment finds what is not there. The unit is
the cohort (`replicates.py`). Verdicts:

    superior, inferior   "no difference" is refused (two-sided, Holm-corrected p < alpha)
    equivalent           a difference of the margin or more is refused in both directions (Holm-corrected p < alpha)
    both                 a difference that is there and does not matter: "superior, within the margin"
    inconclusive         neither, which is no evidence of a tie

Three families: the primary claims, the others, and sanity checks. Holm (1979) corrects within the first two, on its own
for differences and for equivalence: a family's chance of any wrong "superior" or "inferior" is at most alpha, and so is
that of any wrong "equivalent". It would make a sanity check, which must find *no* gain, the easier to pass the more
claims there are, so those stay uncorrected. A claim that has not been measured counts in its family nonetheless.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from xmkd import settings
from xmkd.binding import bind
from xmkd.errors import ConfigError
from xmkd.evaluation.compare import holm
from xmkd.evaluation.control_results import ControlResults, Setting
from xmkd.evaluation.replicates import CohortDifference, paired_over_cohorts
from xmkd.evaluation.statistics import Interval, paired_clustered_delong

Test = Literal["superior", "equivalent", "not_superior", "question"]
Tier = Literal["head", "signs", "finetuned"]
Family = Literal["primary", "secondary", "sanity"]
Verdict = Literal[
    "superior",
    "superior, within the margin",
    "inferior",
    "inferior, within the margin",
    "equivalent",
    "inconclusive",
    "not yet measured",
]
Outcome = Literal["held", "held, but says nothing", "failed", "not shown", "answered", "open", ""]

FAMILIES: tuple[Family, ...] = ("primary", "secondary", "sanity")


@dataclass(frozen=True)
class Claim:
    """One prediction.

    Attributes:
        name: What to call it.
        arm: The arm it is about.
        against: The arm it is compared with.
        test: What is predicted of `arm`: superior; equivalent; not_superior, a sanity check; question: nothing, the
            verdict is the answer.
        tier: head: trained on frozen features; signs: likewise, with the true signs beside them; finetuned: all of
            the network.
        rho: Of the simulated cohorts.
        labels: Number of labelled MRI in a training cohort.
        cohorts: Number of training cohorts that it is judged on.
        why: The reason for the prediction.
        primary: Whether the study stands or falls with it.
        requires: Name of the claim that is its positive control, or none. Two arms that are alike where even that
            showed nothing are alike for want of anything to differ in.
    """

    name: str
    arm: str
    against: str
    test: Test
    tier: Tier
    rho: float
    labels: int
    cohorts: int
    why: str
    primary: bool = False
    requires: str = ""

    @property
    def setting(self) -> Setting:
        return Setting(self.tier, self.rho, self.labels)

    @property
    def family(self) -> Family:
        return "sanity" if self.test == "not_superior" else "primary" if self.primary else "secondary"


@dataclass(frozen=True)
class Claims:
    """A file of claims.

    Attributes:
        metric: What is compared.
        margin: Differences below it don't matter.
        alpha: Level of every family; intervals cover 1 - alpha.
        correction: For several claims in a family.
        claims: The claims.
    """

    metric: Literal["auroc"]
    margin: float
    alpha: float
    correction: Literal["holm"]
    claims: list[Claim]


@dataclass(frozen=True)
class Finding:
    """What the results say of a claim.

    Attributes:
        claim: The claim.
        difference: `arm` minus `against` over the training cohorts that both have.
        patients: The same mean difference with its interval over test patients, the trainings being what they are;
            None where no scores of test patients are there.
        comparisons: Number of claims corrected for.
        p_holm: p value of "no difference", corrected; NaN before all cohorts are there.
        p_equivalence_holm: p value of "they differ by the margin or more", likewise.
        verdict: What is shown.
        outcome: What that makes of the prediction; empty before all cohorts are there.
        note: What a reader must know.
    """

    claim: Claim
    difference: CohortDifference
    patients: Interval | None
    comparisons: int
    p_holm: float
    p_equivalence_holm: float
    verdict: Verdict
    outcome: Outcome
    note: str = ""


def load(path: str | Path) -> Claims:
    """Read a file of claims.

    Raises:
        ConfigError: It is missing or no YAML, or keys or values are wrong; all problems are listed.
    """
    tree = settings.read(path, what="claims", home="experiments/", sections="keys such as margin: and claims:")
    problems: list[str] = []
    found = bind(Claims, tree, "", problems)
    if found is not None:
        problems += _contradictions(found)
    if found is None or problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise ConfigError(
            f"{count} in the claims:\n  - " + "\n  - ".join(problems),
            where=path,
            fixes=("correct the keys in the file", "start from a copy of experiments/claims.yaml"),
        )
    return found


def _contradictions(found: Claims) -> list[str]:
    problems = []
    if not 0 < found.margin < 0.5:
        problems.append(f"margin: {found.margin:g} is no difference of two AUROCs between 0 and 0.5")
    if not 0 < found.alpha < 0.5:
        problems.append(f"alpha: {found.alpha:g} is not between 0 and 0.5")
    if not found.claims:
        problems.append("claims: there are none")
    names = Counter(claim.name for claim in found.claims)
    contrasts = Counter((frozenset((c.arm, c.against)), c.setting) for c in found.claims)
    for i, claim in enumerate(found.claims):
        wrong = {
            "name": [f"{claim.name!r} is the name of {names[claim.name]} claims"] * (names[claim.name] > 1),
            "against": [f"{claim.arm!r} is compared with itself"] * (claim.arm == claim.against),
            "rho": [f"{claim.rho:g} is no correlation from 0 to below 1"] * (not 0 <= claim.rho < 1),
            "labels": [f"{claim.labels} is no number of labelled MRI"] * (claim.labels < 1),
            "cohorts": [f"{claim.cohorts} give no spread; two or more are needed"] * (claim.cohorts < 2),
            "primary": ["a sanity check is judged by itself"] * (claim.primary and claim.family == "sanity"),
            "requires": [f"{claim.requires!r} is no other claim that predicts a gain"]
            * (claim.requires not in {"", *(c.name for c in found.claims if c.test == "superior" and c is not claim)}),
        }
        if contrasts[frozenset((claim.arm, claim.against)), claim.setting] > 1 and claim.arm != claim.against:
            wrong["arm"] = ["these two arms are compared in another claim with the same tier, rho and labels"]
        problems += [f"claims[{i}].{key}: {text}" for key, texts in wrong.items() for text in texts]
    return problems


def judge(claims: Claims, results: ControlResults) -> list[Finding]:
    """Judge every claim, in the order of the file.

    Raises:
        EvaluationError: The scores of the test patients don't belong to the table.
    """
    measured = [_measure(claim, claims, results) for claim in claims.claims]
    corrected: dict[str, tuple[float, float, int]] = {}
    for family in FAMILIES:
        members = [f for f in measured if f.claim.family == family]
        p, q = ([f.p_holm for f in members], [f.p_equivalence_holm for f in members])
        count = 1 if family == "sanity" else len(members)
        if family != "sanity":
            p, q = holm(p), holm(q)
        corrected |= {f.claim.name: (p[i], q[i], count) for i, f in enumerate(members)}
    judged = [_judged(f, *corrected[f.claim.name], claims) for f in measured]
    verdicts = {f.claim.name: f.verdict for f in judged}
    return [_beside_its_control(f, verdicts) for f in judged]


def _beside_its_control(found: Finding, verdicts: dict[str, Verdict]) -> Finding:
    """Whether a prediction that held could have failed: if its positive control shows a gain that may matter."""
    control = found.claim.requires
    if found.outcome != "held" or not control or verdicts[control] == "superior":
        return found
    note = f"its positive control, {control}: {verdicts[control]}"
    return replace(found, outcome="held, but says nothing", note="; ".join(filter(None, [found.note, note])))


def _measure(claim: Claim, claims: Claims, results: ControlResults) -> Finding:
    """The difference and its uncorrected p values; NaN where it is too early to test."""
    a, b = (results.aurocs(claim.setting, arm) for arm in (claim.arm, claim.against))
    common = a.index.intersection(b.index)
    level = 1 - claims.alpha
    difference = paired_over_cohorts((a.loc[common] - b.loc[common]).to_numpy(), claims.margin, level)
    cohorts = [int(cohort) for cohort in common]
    patients = _over_patients(claim, results, cohorts, level)
    early = len(common) < claim.cohorts
    p, q = (float("nan"),) * 2 if early else (difference.p, difference.p_equivalence)
    return Finding(claim, difference, patients, 1, p, q, "not yet measured", "", _note(claim, results, len(common)))


def _over_patients(claim: Claim, results: ControlResults, cohorts: list[int], level: float) -> Interval | None:
    """The mean over cohorts of the difference, with an interval over test patients.

    Each patient's part in it is the mean of her parts over the cohorts. Scores averaged over the cohorts would not do:
    they are those of an ensemble, which is another model with another AUROC.
    """
    a, b = (results.scores(claim.setting, arm, cohorts) for arm in (claim.arm, claim.against))
    if results.tested is None or a is None or b is None:
        return None
    return paired_clustered_delong(results.tested.label, a, b, results.tested.patient, level).difference


def _note(claim: Claim, results: ControlResults, cohorts: int) -> str:
    arms = set(results.at(claim.setting)["arm"])
    lacking = [arm for arm in (claim.arm, claim.against) if arm not in arms]
    if cohorts < claim.cohorts:
        rows = f"; no rows of {' and '.join(lacking)} ({claim.setting})" if lacking else ""
        return f"{cohorts} of {claim.cohorts} cohorts{rows}"
    return f"{cohorts} cohorts, {claim.cohorts} planned" if cohorts > claim.cohorts else ""


def _judged(found: Finding, p: float, q: float, comparisons: int, claims: Claims) -> Finding:
    claim, difference, alpha = found.claim, found.difference, claims.alpha
    if difference.cohorts < claim.cohorts:
        return replace(found, comparisons=comparisons)
    verdict = _verdict(difference.value, p < alpha, q < alpha)
    notes = [found.note, _doubt(verdict, found.patients, claims.margin)]
    if np.isnan(difference.p):
        notes.append("the same difference in all cohorts: no spread to judge it by")
    return replace(
        found,
        comparisons=comparisons,
        p_holm=p,
        p_equivalence_holm=q,
        verdict=verdict,
        outcome=_outcome(claim.test, verdict, difference.p_below < alpha),
        note="; ".join(filter(None, notes)),
    )


def _doubt(verdict: Verdict, patients: Interval | None, margin: float) -> str:
    """What holds for the test patients at hand need not for others: they are the same in all cohorts."""
    if patients is None or patients.low is None or patients.high is None:
        return ""
    zero_inside = patients.low <= 0 <= patients.high
    margin_inside = patients.low <= -margin or patients.high >= margin
    if (verdict.startswith(("superior", "inferior")) and zero_inside) or (verdict == "equivalent" and margin_inside):
        return "on these test patients; others may differ"
    return ""


def _verdict(value: float, different: bool, alike: bool) -> Verdict:
    if different and alike:
        return "superior, within the margin" if value > 0 else "inferior, within the margin"
    if different:
        return "superior" if value > 0 else "inferior"
    return "equivalent" if alike else "inconclusive"


def _outcome(test: Test, verdict: Verdict, gains_less: bool) -> Outcome:
    """What a verdict makes of a prediction; one that is neither shown nor refuted is "not shown".

    Args:
        test: The prediction.
        verdict: What is shown.
        gains_less: Whether a gain of the margin or more is refused.
    """
    side = verdict.split(",")[0]
    if test == "question":
        return "open" if verdict == "inconclusive" else "answered"
    if test == "not_superior":
        return "failed" if side == "superior" else "held" if gains_less else "not shown"
    if verdict == "inconclusive":
        return "not shown"
    if test == "superior":
        return "held" if side == "superior" else "failed"
    return "held" if verdict == "equivalent" or verdict.endswith("within the margin") else "failed"
