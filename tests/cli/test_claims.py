"""`xmkd compare --claims` as users call it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import refused
from tests.conftest import REPOSITORY, Cli
from tests.evaluation.controls import against, claim, rows, scored, spread, write_claims
from xmkd.simulate import lock

COHORTS = REPOSITORY / "experiments" / "cohorts"


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    return write_claims(
        tmp_path / "claims.yaml",
        claim("no transfer", primary=True),
        claim("distilling", against="ptm", test="superior"),
        claim("shuffling", arm="shuffled", against="ptm", test="not_superior"),
        claim("far fewer", labels=20),
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    scored(folder, {"full": 1.0, "surrogate": 1.0, "ptm": 1.4, "shuffled": 1.0}, cohorts=10)
    return folder


def test_claims_are_judged_by_a_table(cli: Cli, claims: Path, results: Path) -> None:
    called = cli("compare", "--claims", claims, results / "results.csv")
    assert called.code == 0, called.err
    said = called.out
    order = (
        "smallest difference found",
        "with the SD seen",
        "primary",
        "secondary, Holm over 2",
        "sanity",
        "written: ",
    )
    places = [said.index(word) for word in order]
    assert places == sorted(places), "what could be detected comes first"
    verdicts = {line[2:13].strip(): line for line in said[places[2] :].splitlines()}
    assert verdicts["distilling"].endswith("superior: held")
    assert verdicts["shuffling"].endswith("superior: failed")
    assert verdicts["far fewer"].endswith(
        "not yet measured: 0 of 10 cohorts; no rows of full and surrogate (head, rho 0.6, 20 labels)"
    )
    assert "a failed prediction is a result" in said
    assert "lock c0ffee; latent ceiling unknown" in said

    table = pd.read_csv(results / "claims.csv").set_index("name")
    assert list(table["outcome"].fillna("")) == [table["outcome"]["no transfer"], "held", "failed", ""]
    row = table.loc["distilling"]
    assert f"{row['difference']:+.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]" in verdicts["distilling"]
    assert f"{{{row['patients_low']:+.4f}, {row['patients_high']:+.4f}}}" in verdicts["distilling"]
    assert set(table["lock"]) == {"c0ffee"}
    assert cli("compare", results, "--claims", claims).out == said, "the folder names its table"


def test_partial_tables_are_no_error(cli: Cli, claims: Path, results: Path) -> None:
    table = pd.read_csv(results / "results.csv")
    table[table["cohort"] < 4].to_csv(results / "results.csv", index=False)
    (results / "scores.npz").unlink()
    called = cli("compare", "--claims", claims, results)
    assert called.code == 0, called.err
    assert called.out.count("not yet measured: 4 of 10 cohorts") == 3
    assert "predictions: 4 not yet measured" in called.out
    table[table["cohort"] < 0].to_csv(results / "results.csv", index=False)
    assert "predictions: 4 not yet measured" in cli("compare", "--claims", claims, results).out
    assert pd.read_csv(results / "claims.csv")["p_holm"].isna().all()


def test_what_can_not_be_judged(cli: Cli, claims: Path, results: Path, tmp_path: Path) -> None:
    refused(cli("compare", "--claims", claims, results, results), "one table")
    refused(cli("compare", "--claims", claims, results, "--cut", "0.5"), "--cut")
    refused(cli("compare", "--claims", tmp_path / "claim.yaml", results), "did you mean 'claims.yaml'?")
    refused(cli("compare", "--claims", claims, tmp_path / "nowhere"), "no such table of results", "nowhere")
    refused(cli("compare", "--claims", claims, claims), "claims.yaml")
    table = pd.read_csv(results / "results.csv", dtype=str)
    table.loc[3, "lock"] = "beef"
    table.to_csv(results / "results.csv", index=False)
    refused(cli("compare", "--claims", claims, results), "of different difficulty", "beef", "c0ffee")
    assert not (results / "claims.csv").exists()


def test_nothing_to_compare_with(cli: Cli, tmp_path: Path) -> None:
    refused(cli("compare", tmp_path), "nothing to compare", "--claims")


def test_an_arm_above_the_latent_ceiling_stops_the_comparison(cli: Cli, claims: Path, tmp_path: Path) -> None:
    (tmp_path / "cohorts").mkdir()
    shutil.copy(COHORTS / "pod_demo.lock", tmp_path / "cohorts")
    known = lock.read(tmp_path / "cohorts" / "pod_demo.lock")
    ceiling = known.modalities["mri"].ceiling
    file = tmp_path / "results.csv"

    against(spread(0.0, 0.005, 10), lock=known.hash).to_csv(file, index=False)
    called = cli("compare", "--claims", claims, file)
    assert f"rho 0.6: lock {known.hash}; latent ceiling {ceiling.auroc:.3f}, highest arm 0.800" in called.out

    above = rows({"full": spread(ceiling.high + 0.01, 0.002, 10)}, lock=known.hash)
    above.to_csv(file, index=False)
    refused(cli("compare", "--claims", claims, file), "above the latent ceiling", "full (head, rho 0.6, 80 labels)")
    above.assign(auroc=spread(ceiling.high + 0.001, 0.01, 10)).to_csv(file, index=False)
    assert cli("compare", "--claims", claims, file).code == 0, "no more than chance explains"
    above.iloc[:1].to_csv(file, index=False)
    assert cli("compare", "--claims", claims, file).code == 0, "one training has no interval"


def test_few_test_patients_may_be_lucky(cli: Cli, claims: Path, tmp_path: Path) -> None:
    """All cohorts lie above the ceiling, on 50 patients: among them, only one ill woman is placed too low."""
    (tmp_path / "cohorts").mkdir()
    shutil.copy(COHORTS / "pod_demo.lock", tmp_path / "cohorts")
    known = lock.read(tmp_path / "cohorts" / "pod_demo.lock")
    label = (np.arange(50) < 15).astype(int)
    arrays = {"label": label, "patient_id": np.arange(50)}
    found = []
    for cohort, healthy_above in enumerate((9, 10, 11)):
        score = np.where(label, 100.0, np.arange(50))
        score[0] = 49.5 - healthy_above
        found.append(1 - healthy_above / (15 * 35))
        arrays[f"head/0.6/80/full/{cohort}"] = score
    assert min(found) > known.modalities["mri"].ceiling.high
    rows({"full": found}, lock=known.hash).to_csv(tmp_path / "results.csv", index=False)
    refused(cli("compare", "--claims", claims, tmp_path), "above the latent ceiling")
    np.savez(tmp_path / "scores.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    assert cli("compare", "--claims", claims, tmp_path).code == 0, "no more than chance explains"
