"""`xmkd compare --claims`: what could be detected, then what was found, as text and as claims.csv beside the results.

The smallest detectable difference stands first, and needs a standard deviation over cohorts that nobody knows before
the first run. So it is given for a range of them; where cohorts have been measured, also for the one seen, which says
nothing of the sign or size of the difference itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from xmkd.evaluation import claims as claim_file
from xmkd.evaluation import control_results
from xmkd.evaluation.claims import FAMILIES, Claims, Family, Finding
from xmkd.evaluation.control_results import ControlResults, Setting
from xmkd.evaluation.replicates import POWER, detectable, largest_sd, paired_over_cohorts
from xmkd.evaluation.statistics import Interval, paired_clustered_delong
from xmkd.files import write_table

SDS = (0.01, 0.02, 0.03)  # of the difference over cohorts, in AUROC
TABLE = "claims.csv"
COHORTS = "cohorts"  # the folder of cohorts and their locks, beside the claims


def report(claims_path: Path, results_path: Path) -> str:
    """Judge claims by a table of controls, and write claims.csv beside it.

    Args:
        claims_path: The file of claims.
        results_path: The table, or its folder.

    Raises:
        ConfigError: The claims, or a lock beside them, are wrong.
        EvaluationError: The results can't be used.
        LeakageError: An arm is better than the evidence in the pictures allows.
        RunError: claims.csv can't be written.
    """
    claims, results = claim_file.load(claims_path), control_results.load(results_path)
    limits = _against_the_ceiling(results, claims_path.parent / COHORTS)
    found = claim_file.judge(claims, results)
    digest = hashlib.sha256(claims_path.read_bytes()).hexdigest()[:12]
    table = results.path.with_name(TABLE)
    write_table(table, to_frame(found, results, claims.alpha).assign(claims=digest))
    head = [f"{claims_path} (sha256 {digest}) on {results.path}", *limits, ""]
    return "\n".join([*head, *plan(claims, found), "", *lines(claims, found), "", f"written: {table}"])


def plan(claims: Claims, found: list[Finding]) -> list[str]:
    """What can be detected: for a range of standard deviations, and for those seen."""
    text = [
        f"smallest difference found with a power of {POWER:.0%} at alpha {claims.alpha:g}, before Holm, "
        f"if its SD over cohorts is {', '.join(f'{sd:g}' for sd in SDS)}:"
    ]
    for cohorts in sorted({claim.cohorts for claim in claims.claims}, reverse=True):
        sizes = ", ".join(f"{detectable(sd, cohorts, claims.alpha):.3f}" for sd in SDS)
        most = largest_sd(claims.margin, cohorts, claims.alpha)
        equal = f"arms that are alike are shown to be within {claims.margin:g} up to an SD of {most:.3f}"
        text.append(f"  {cohorts:>3} cohorts: {sizes}; {equal}")
    seen = [(f, detectable(f.difference.sd, f.difference.cohorts, claims.alpha)) for f in found]
    seen = [(f, size) for f, size in seen if np.isfinite(size)]
    if seen:
        width = max(len(f.claim.name) for f, _ in seen)
        text.append("and with the SD seen:")
        text += [
            f"  {f.claim.name:<{width}}  {size:.4f} (SD {f.difference.sd:.4f}, {f.difference.cohorts} cohorts)"
            for f, size in seen
        ]
    return text


def lines(claims: Claims, found: list[Finding]) -> list[str]:
    """One line per claim, by family; then how many held."""
    level = f"{1 - claims.alpha:.0%}"
    text = [
        f"mean difference in AUROC [{level} t interval over training cohorts] {{{level} interval over test patients}}",
        f"p of no difference, p of {claims.margin:g} or more; verdict; what it makes of the prediction",
    ]
    cells = [_cells(f) for f in found]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for family in FAMILIES:
        rows = [row for f, row in zip(found, cells, strict=True) if f.claim.family == family]
        if rows:
            padded = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
            text += [_heading(family, len(rows)), *(f"  {line}".rstrip() for line in padded)]
    counts = Counter(f.outcome or "not yet measured" for f in found)
    text.append("predictions: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))
    if counts["failed"]:
        text.append(
            "a failed prediction is a result: look for a leak and at the sanity checks; change no cohort or baseline"
        )
    return text


def _heading(family: Family, members: int) -> str:
    if family == "sanity":
        return "sanity, each by itself"
    return f"{family}, Holm over {members}" if members > 1 else family


def _cells(found: Finding) -> tuple[str, ...]:
    """Name, difference, interval over cohorts, over test patients, p values, verdict with what it means."""
    d, patients = found.difference, found.patients
    value = f"{d.value:+.4f}" if d.cohorts else ""
    over_cohorts = f"[{d.low:+.4f}, {d.high:+.4f}]" if np.isfinite(d.low) else ""
    beside = ""
    if patients is not None and patients.low is not None and patients.high is not None:
        beside = f"{{{patients.low:+.4f}, {patients.high:+.4f}}}"
    if not found.outcome:
        return found.claim.name, value, over_cohorts, beside, "", f"not yet measured: {found.note}"
    note = f" ({found.note})" if found.note else ""
    tests = f"{_p(found.p_holm)} {_p(found.p_equivalence_holm)}"
    return found.claim.name, value, over_cohorts, beside, tests, f"{found.verdict}: {found.outcome}{note}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:6.3f}"


def to_frame(found: list[Finding], results: ControlResults, alpha: float) -> pd.DataFrame:
    """One row per claim, with everything that the text says."""
    rows = []
    for f in found:
        claim, d, patients = f.claim, f.difference, f.patients
        rows.append(
            {
                **{key: getattr(claim, key) for key in ("name", "family", "test", "arm", "against")},
                **{key: getattr(claim, key) for key in ("tier", "rho", "labels")},
                "planned": claim.cohorts,
                "cohorts": d.cohorts,
                "difference": d.value,
                **{key: getattr(d, key) for key in ("low", "high", "sd")},
                "patients_low": None if patients is None else patients.low,
                "patients_high": None if patients is None else patients.high,
                "detectable": detectable(d.sd, d.cohorts, alpha),
                **{key: getattr(f, key) for key in ("p_holm", "p_equivalence_holm", "comparisons")},
                **{key: getattr(f, key) for key in ("verdict", "outcome", "note")},
                "lock": results.locks.get(round(claim.rho, 6), ""),
            }
        )
    return pd.DataFrame(rows)


def _against_the_ceiling(results: ControlResults, folder: Path) -> list[str]:
    """One line per rho: how the highest arm stands to the latent ceiling of its cohorts' MRI.

    Raises:
        LeakageError: One is above it by more than chance explains.
        ConfigError: A lock is damaged.
    """
    from xmkd.simulate import ceilings
    from xmkd.simulate import lock as locks

    known = {lock.hash: lock for lock in map(locks.read, sorted(folder.glob("*.lock")))}
    text = []
    for rho, name in results.locks.items():
        rows = results.table[results.table["rho"] == rho]
        means = rows.groupby(["tier", "rho", "labels", "arm"], as_index=False)["auroc"].mean()
        if name not in known or "mri" not in known[name].modalities:
            reason = f"no lock in {folder} has this hash" if name else "these cohorts are not calibrated"
            text.append(f"rho {rho:g}: lock {name or '(none)'}; latent ceiling unknown, {reason}")
            continue
        ceiling = known[name].modalities["mri"].ceiling
        for arm, setting in [_arm(row) for _, row in means[means["auroc"] > ceiling.high].iterrows()]:
            auroc = _mean_auroc(results, setting, arm)
            if auroc.low is not None:  # one training without its scores: nobody can tell it from chance
                ceilings.check_against(auroc, ceiling.high, f"{arm} ({setting})")
        highest = means.loc[means["auroc"].idxmax()]
        arm, setting = _arm(highest)
        text.append(
            f"rho {rho:g}: lock {name}; latent ceiling {ceiling.auroc:.3f}, "
            f"highest arm {highest['auroc']:.3f} ({arm}: {setting.tier}, {setting.labels} labels)"
        )
    return text


def _arm(row: pd.Series) -> tuple[str, Setting]:
    return str(row["arm"]), Setting(str(row["tier"]), float(row["rho"]), int(row["labels"]))


def _mean_auroc(results: ControlResults, setting: Setting, arm: str) -> Interval:
    """Mean AUROC of an arm over cohorts; its interval holds that over cohorts and that over test patients."""
    by_cohort = results.aurocs(setting, arm)
    over = paired_over_cohorts(by_cohort.to_numpy(), margin=1.0)
    ends = [end for end in (over.low, over.high) if np.isfinite(end)]
    scores, patients = results.scores(setting, arm, [int(cohort) for cohort in by_cohort.index]), 0
    if scores is not None and results.tested is not None:
        # Against a constant, whose AUROC is one half, the difference is that of the arm itself.
        constant, tested = np.zeros_like(scores), results.tested
        over_patients = paired_clustered_delong(tested.label, scores, constant, tested.patient).difference
        patients = over_patients.patients
        ends += [0.5 + end for end in (over_patients.low, over_patients.high) if end is not None]
    low, high = (min(ends), max(ends)) if ends else (None, None)
    return Interval(over.value, low, high, over.cohorts, patients, "over cohorts and over test patients")
