"""Two models on the same patients: superior, equivalent or inconclusive.

The difference of two AUROCs has a standard error that counts patients and their pairing (paired clustered DeLong).
Superior: a two-sided t test refuses "no difference". Equivalent: two one-sided tests (Schuirmann 1987) refuse a
difference of the margin or more, in either direction. Neither: inconclusive, which is no evidence of a tie. With
several comparisons both p values are corrected by Holm (1979). What could have been detected is printed first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from xmkd.errors import EvaluationError
from xmkd.evaluation.classification import fold_codes
from xmkd.evaluation.inputs import SHOWN, FloatArray, binary_score
from xmkd.evaluation.readers import ReaderComparison, compare_readers, format_readers, load_readers
from xmkd.evaluation.statistics import Interval, PairedDifference, auroc_interval, paired_clustered_delong

__all__ = [
    "Comparison",
    "ReaderComparison",
    "compare",
    "compare_many",
    "compare_readers",
    "format_comparisons",
    "format_readers",
    "holm",
    "holm_corrected",
    "load_readers",
]

Verdict = Literal["superior", "equivalent", "inconclusive"]
MARGIN = 0.01  # AUROC: differences below it don't matter
POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """Two models on the same samples.

    Attributes:
        names: Names of A and B.
        a: AUROC of A.
        b: AUROC of B.
        difference: A minus B.
        detectable: Smallest true difference that such data detect with a power of 80 %.
        p: Two-sided p value of "no difference".
        p_equivalence: p value of "they differ by the margin or more" (the larger of two one-sided tests).
        p_holm: `p`, corrected for the number of comparisons.
        p_equivalence_holm: `p_equivalence`, corrected likewise.
        comparisons: Number of comparisons corrected for.
        margin: Margin of equivalence.
        verdict: superior, equivalent or inconclusive.
        better: Name of the superior model, else empty.
    """

    names: tuple[str, str]
    a: Interval
    b: Interval
    difference: Interval
    detectable: float
    p: float
    p_equivalence: float
    p_holm: float
    p_equivalence_holm: float
    comparisons: int
    margin: float
    verdict: Verdict
    better: str


def compare(
    table_a: pd.DataFrame,
    table_b: pd.DataFrame,
    *,
    names: tuple[str, str] = ("A", "B"),
    margin: float = MARGIN,
    level: float = 0.95,
) -> Comparison:
    """Compare the AUROC of two models on the same samples.

    Args:
        table_a: Predictions of A: `sample_id, patient_id, label, score`, optionally `fold`.
        table_b: Predictions of B on the same samples, in any order.
        names: What to call them.
        margin: Margin of equivalence, in AUROC.
        level: Nominal coverage; tests use 1 - level.

    Raises:
        EvaluationError: The tables differ in samples, patients, labels or folds, or are unusable.
    """
    a, b = _aligned(table_a, table_b, names)
    label, patient, fold = a["label"].to_numpy(), a["patient_id"].to_numpy(), fold_codes(a)
    score_a, score_b = a["score"].to_numpy(), b["score"].to_numpy()
    paired = paired_clustered_delong(label, score_a, score_b, patient, level, fold)
    equivalence = _tost(paired, margin)
    quantiles = stats.t.ppf([0.5 + level / 2, POWER], paired.df) if np.isfinite(paired.p) else np.full(2, np.nan)
    comparison = Comparison(
        names=names,
        a=auroc_interval(label, score_a, patient, level=level, fold=fold),
        b=auroc_interval(label, score_b, patient, level=level, fold=fold),
        difference=paired.difference,
        detectable=float(quantiles.sum() * paired.se),
        p=paired.p,
        p_equivalence=equivalence,
        p_holm=paired.p,
        p_equivalence_holm=equivalence,
        comparisons=1,
        margin=margin,
        verdict="inconclusive",
        better="",
    )
    return _judge(comparison, 1 - level)


def compare_many(
    table: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    *,
    name: str = "this run",
    margin: float = MARGIN,
    level: float = 0.95,
) -> list[Comparison]:
    """Compare one model with several others, Holm-corrected.

    Args:
        table: Predictions of the one model; it is A in every comparison.
        others: Predictions of the others by name, on the same samples.
        name: What to call the one model.
        margin: Margin of equivalence, in AUROC.
        level: Nominal coverage; tests use 1 - level.

    Raises:
        EvaluationError: There are no others, or a comparison is impossible.
    """
    if not others:
        raise EvaluationError(
            f"nothing to compare {name} with", fixes=("name another run", "name a readers.csv to compare with readers")
        )
    found = [
        compare(table, other, names=(name, called), margin=margin, level=level) for called, other in others.items()
    ]
    return holm_corrected(found, level=level)


def holm_corrected(comparisons: Sequence[Comparison], *, level: float = 0.95) -> list[Comparison]:
    """Correct the p values of a family of comparisons, and judge again."""
    superiority = holm([c.p for c in comparisons])
    equivalence = holm([c.p_equivalence for c in comparisons])
    corrected = [
        replace(c, p_holm=p, p_equivalence_holm=q, comparisons=len(comparisons))
        for c, p, q in zip(comparisons, superiority, equivalence, strict=True)
    ]
    return [_judge(c, 1 - level) for c in corrected]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p values; a NaN stays NaN, and still counts as a comparison."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)  # NaN last
    factors = np.arange(p.size, 0, -1)
    adjusted: FloatArray = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return [float(value) for value in adjusted]


def _judge(comparison: Comparison, alpha: float) -> Comparison:
    verdict: Verdict = "inconclusive"
    better = ""
    if comparison.p_holm < alpha:
        verdict, better = "superior", comparison.names[0 if comparison.difference.value > 0 else 1]
    elif comparison.p_equivalence_holm < alpha:
        verdict = "equivalent"
    return replace(comparison, verdict=verdict, better=better)


def _tost(paired: PairedDifference, margin: float) -> float:
    """The larger p value of two one-sided t tests against a difference of -margin and of +margin."""
    if not np.isfinite(paired.p):
        return float("nan")
    value = paired.difference.value
    if paired.p == 1.0 and value == 0 and paired.difference.low == 0:  # both rank all samples alike
        return 0.0
    below, above = (value + margin) / paired.se, (value - margin) / paired.se
    return float(max(stats.t.sf(below, paired.df), stats.t.cdf(above, paired.df)))


def _aligned(table_a: pd.DataFrame, table_b: pd.DataFrame, names: tuple[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, checked, with the samples in the order of A."""
    a, b = (
        binary_score(table, name).set_index("sample_id") for table, name in zip((table_a, table_b), names, strict=True)
    )
    only = {names[0]: a.index.difference(b.index), names[1]: b.index.difference(a.index)}
    if any(map(len, only.values())):
        counts = "; ".join(f"{len(ids)} only in {name}" for name, ids in only.items() if len(ids))
        examples = [str(sample) for ids in only.values() for sample in ids[:SHOWN]]
        raise EvaluationError(
            f"{names[0]} and {names[1]} were not evaluated on the same samples: {counts}",
            where=f"sample_id {', '.join(examples)}",
            fixes=("evaluate both on one manifest and split", "keep the common samples in both files, and say so"),
        )
    b = b.loc[a.index]
    for column, meaning in (("label", "labels"), ("patient_id", "patients")):
        differ = a.index[a[column].astype(str).to_numpy() != b[column].astype(str).to_numpy()]
        if len(differ):
            raise EvaluationError(
                f"{names[0]} and {names[1]} disagree on the {meaning} of {len(differ)} samples",
                where=f"sample_id {', '.join(map(str, differ[:SHOWN]))}",
                fixes=("evaluate both with the same manifest and card", "find out which file is right"),
            )
    fold_a, fold_b = fold_codes(a), fold_codes(b)  # numbered by first appearance: equal for equal partitions
    same = fold_a is fold_b if fold_a is None or fold_b is None else np.array_equal(fold_a, fold_b)
    if not same:
        raise EvaluationError(
            f"{names[0]} and {names[1]} were cross-validated with different folds",
            fixes=("run both with one split hash", "compare them on a common test split"),
        )
    return a.reset_index(), b.reset_index()


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """A short text for the terminal; what could be detected stands first."""
    lines = []
    for c in comparisons:
        detectable = f"{c.detectable:.3f}" if np.isfinite(c.detectable) else "unknown"
        lines.append(
            f"smallest detectable difference {' - '.join(c.names)}: {detectable} AUROC "
            f"(power {POWER:.0%}, n={c.difference.n} patients={c.difference.patients})"
        )
    for c in comparisons:
        low, high = c.difference.low, c.difference.high
        bounds = "(no interval)" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
        holm_note = f", Holm over {c.comparisons}" if c.comparisons > 1 else ""
        verdict = f"{c.better} is superior" if c.better else c.verdict
        width = max(map(len, c.names))
        lines += [
            *(f"{name:<{width}}  auroc {interval}" for name, interval in zip(c.names, (c.a, c.b), strict=True)),
            f"{' - '.join(c.names)}  {c.difference.value:+.3f} {bounds}  p={c.p_holm:.3g}, "
            f"p of a difference of {c.margin:g} or more={c.p_equivalence_holm:.3g}{holm_note}: {verdict}",
        ]
        notes = dict.fromkeys(filter(None, (c.difference.note, c.a.note, c.b.note)))
        lines += [f"  ({note})" for note in notes]
    return "\n".join(lines)
