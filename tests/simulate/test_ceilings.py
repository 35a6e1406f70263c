from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import _race
from benchmarks import ceilings as benchmark
from tests.conftest import REPOSITORY
from xmkd.errors import LeakageError
from xmkd.evaluation.statistics import Interval, auroc, auroc_interval
from xmkd.simulate import ceilings
from xmkd.simulate.ceilings import check_against, latent_ceiling, site_shares, spearman
from xmkd.simulate.latent import SEEN, Disease, SignModel, sign_model
from xmkd.simulate.spec import Modality, Sites

DISEASES: tuple[Disease, ...] = get_args(Disease)
VIEWS: list[tuple[Disease, Modality]] = [(d, m) for d in DISEASES for m in ("tvus", "mri")]


@pytest.mark.parametrize("means", [[1.5], [1.0, 0.7, 0.0]])
@pytest.mark.parametrize("visibility", [0.5, 1.4])
def test_one_state_has_the_closed_form_of_two_normals(means: list[float], visibility: float) -> None:
    mean = np.array([means])
    model = SignModel("pod", "mri", tuple(range(mean.size)), np.full((mean.size, 1), 0.4), mean, np.ones(1))
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal(np.zeros(mean.size), model.covariance, 60_000)
    ill = np.arange(60_000) % 2
    score = model.log_ratio(noise + visibility * mean * ill[:, None], visibility)
    separation = visibility * np.sqrt(mean[0] @ np.linalg.solve(model.covariance, mean[0]))
    assert auroc(ill, score) == pytest.approx(stats.norm.cdf(separation / np.sqrt(2)), abs=0.004)


@pytest.mark.parametrize("disease, modality", VIEWS)
def test_the_likelihood_ratio_is_that_of_the_signs_that_are_drawn(disease: Disease, modality: Modality) -> None:
    """E[f1 / f0] = 1 among the healthy and E[f0 / f1] = 1 among the ill, only where both densities are right."""
    drawn = ceilings.sample(disease, 100_000, 1)
    model = sign_model(disease, modality)
    ratio = model.log_ratio(model.signs(drawn.stage, drawn.shared, 0.4), 0.4)
    for values in (np.exp(ratio[drawn.ill == 0]), np.exp(-ratio[drawn.ill == 1])):
        assert abs(values.mean() - 1) < 5 * values.std() / np.sqrt(values.size)


@pytest.mark.parametrize("disease", DISEASES)
def test_the_mixture_integrates_to_one(disease: Disease) -> None:
    """f1 over the plane of the first two signs, by quadrature; unseen tumours count by the mass of their class."""
    full = sign_model(disease, "tvus")
    model = SignModel(disease, "tvus", full.shown[:2], full.loadings[:2], full.means[:, :2], full.weights)
    axis = np.linspace(-9, 17, 600)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    healthy = stats.multivariate_normal(np.zeros(2), model.covariance).pdf(points)
    mass = (healthy * np.exp(model.log_ratio(points, 1.0))).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("disease, modality", VIEWS)
def test_more_visibility_raises_the_ceiling_from_one_half(disease: Disease, modality: Modality) -> None:
    found = [latent_ceiling(disease, modality, v, patients=20_000).value for v in (0.0, 0.3, 0.7, 1.0, 1.5, 3.0)]
    assert found[0] == pytest.approx(0.5, abs=0.02)
    assert found == sorted(found)
    assert found[-1] > 0.995


@pytest.mark.parametrize("disease, modality", VIEWS)
def test_no_other_score_of_the_same_signs_beats_the_ceiling(disease: Disease, modality: Modality) -> None:
    drawn = ceilings.sample(disease, 60_000, 0)
    model = sign_model(disease, modality)
    signs = model.signs(drawn.stage, drawn.shared, 0.8)
    ceiling = latent_ceiling(disease, modality, 0.8, patients=60_000)
    if disease == "carcinoma":  # a tumour that is not seen has no signs
        signs = np.where(signs[:, :1] > SEEN, signs, [[SEEN, -1.0, -1.0, -1.0]])
    direction = np.linalg.solve(model.covariance, model.weights @ model.means)
    linear = auroc_interval(drawn.ill, signs @ direction)
    assert ceiling.high is not None
    assert linear.value < ceiling.high
    assert check_against(linear, ceiling.high) == ""


def test_bounds_are_narrow_and_the_seed_decides() -> None:
    one, again, other = (latent_ceiling("pod", "mri", 0.7, patients=50_000, seed=s) for s in (0, 0, 1))
    assert one == again
    assert one.value != other.value
    assert one.low is not None
    assert one.high is not None
    assert 0 < one.high - one.low < 0.01
    assert abs(one.value - other.value) < 0.006


def test_two_modalities_agree_only_as_far_as_rho_says() -> None:
    none, some, more = (spearman("pod", ("tvus", 1.0), ("mri", 0.8), r, patients=40_000) for r in (0.0, 0.6, 0.9))
    assert list(none) == ["free", "obliterated"]
    for name in none:
        assert abs(none[name]) < 0.03
        assert 0.3 < some[name] < 0.6 < more[name]


def test_within_a_stage_a_negative_control_has_no_correlation_in_carcinoma_either() -> None:
    found = spearman("carcinoma", ("tvus", 1.0), ("mri", 0.8), 0.0, patients=60_000)
    assert list(found) == ["none", "superficial", "deep"]
    assert max(map(abs, found.values())) < 0.03


def test_knowing_a_confounded_site_raises_the_ceiling() -> None:
    alike = Sites(confounding=0.0)
    apart = Sites(confounding=0.7)
    plain = latent_ceiling("pod", "mri", 0.5, patients=20_000)
    assert latent_ceiling("pod", "mri", 0.5, sites=alike, patients=20_000).value == pytest.approx(plain.value)
    assert latent_ceiling("pod", "mri", 0.5, sites=apart, patients=20_000).value > plain.value + 0.03
    np.testing.assert_allclose(site_shares(Sites(confounding=1.0), True), [1, 0, 0])
    np.testing.assert_allclose(site_shares(Sites(confounding=1.0), False), [0, 0.5, 0.5])
    assert latent_ceiling("pod", "mri", 0.0, sites=Sites(confounding=1.0), patients=4000).value == 1.0


def test_a_model_above_the_ceiling_stops_the_run() -> None:
    leak = Interval(0.99, 0.985, 0.995, 2000, 2000, "clustered DeLong")
    with pytest.raises(LeakageError, match=r"above the latent ceiling of this cohort, 0\.970"):
        check_against(leak, 0.970, "runs/x")
    lucky = Interval(0.98, 0.95, 0.99, 60, 60, "clustered DeLong")
    assert "chance" in check_against(lucky, 0.970)
    assert check_against(Interval(0.93, 0.9, 0.95, 60, 60, "clustered DeLong"), 0.970) == ""


def test_the_table_of_ceilings_is_made_by_a_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_race, "RESULTS", tmp_path)
    assert benchmark.main(quick=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line in lines:
        values = [float(value) for value in re.findall(r"([01]\.\d{3}) at", line)]
        assert len(values) == len(benchmark.VISIBILITIES)
        assert values == sorted(values), "the more shows, the more can be told"
    assert not list(tmp_path.iterdir()), "a short run is no record"


def test_the_documented_ceilings_are_those_that_were_computed() -> None:
    text = (REPOSITORY / "docs" / "difficulty.md").read_text()
    table = pd.read_csv(REPOSITORY / "benchmarks" / "results" / "ceilings.csv")
    for (disease, modality), rows in table.groupby(["disease", "modality"]):
        cells = " | ".join(f"{v:.3f}" for v in rows.sort_values("visibility")["auroc"])
        assert f"| {disease}, {'ultrasound' if modality == 'tvus' else 'MRI'} | {cells} |" in text
    assert (table["high"] - table["low"]).max() < 0.005
