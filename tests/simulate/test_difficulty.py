from __future__ import annotations

from dataclasses import astuple
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from xmkd.errors import ConfigError
from xmkd.simulate import difficulty, latent
from xmkd.simulate.difficulty import draw_evidence, patient_normals, stage_of
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.latent import DRAWS, SIGNS, Disease, sign_model
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.spec import Modality

BOTH: dict[Modality, float] = {"tvus": 1.0, "mri": 1.0}
DISEASES: tuple[Disease, ...] = get_args(Disease)


def patient(number: int, examination: str = "") -> Seeds:
    return Seeds(3, f"patient-{number}", examination)


def adhesions(ill: bool, modality: Modality, count: int = 400, visibility: float = 1.0) -> list[Adhesion]:
    found = [draw_evidence("pod", ill, patient(k), {modality: visibility}, 0.6)[modality] for k in range(count)]
    assert all(isinstance(e, Adhesion) for e in found)
    return [e for e in found if isinstance(e, Adhesion)]


def tumours(ill: bool, count: int = 600, visibility: float = 1.0) -> list[Invasion]:
    found = [draw_evidence("carcinoma", ill, patient(k), {"mri": visibility}, 0.6)["mri"] for k in range(count)]
    return [e for e in found if isinstance(e, Invasion)]


@pytest.mark.parametrize("disease", DISEASES)
def test_without_visibility_the_label_leaves_no_trace(disease: Disease) -> None:
    nothing: dict[Modality, float] = {"tvus": 0.0, "mri": 0.0, "ct": 0.0}
    for number in range(50):
        ill, healthy = (draw_evidence(disease, label, patient(number), nothing, 0.6) for label in (True, False))
        assert ill == healthy


@pytest.mark.parametrize("disease", DISEASES)
def test_evidence_is_the_patients_own_and_not_the_examinations(disease: Disease) -> None:
    first, again = (draw_evidence(disease, True, patient(1, e), BOTH, 0.6) for e in ("clip 1", "still 2"))
    other = draw_evidence(disease, True, patient(2), BOTH, 0.6)
    assert first == again
    assert first != other


def test_a_modality_is_the_same_whichever_others_are_asked_for() -> None:
    alone = draw_evidence("pod", True, patient(5), {"mri": 0.8}, 0.6)["mri"]
    beside = draw_evidence("pod", True, patient(5), {"tvus": 2.0, "ct": 1.0, "mri": 0.8}, 0.6)["mri"]
    assert alone == beside


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_normals_of_two_modalities_correlate_by_rho(rho: float) -> None:
    drawn = [patient_normals(patient(k), rho)[0] for k in range(1500)]
    tvus, mri = (np.concatenate([d[m] for d in drawn]) for m in ("tvus", "mri"))
    assert tvus.shape == (1500, DRAWS)
    assert np.corrcoef(tvus.ravel(), mri.ravel())[0, 1] == pytest.approx(rho, abs=0.02)
    np.testing.assert_allclose([tvus.std(), mri.std()], 1, atol=0.02)
    across = np.corrcoef(tvus[:, 0], mri[:, 1])[0, 1]  # different numbers have nothing to do with each other
    assert abs(across) < 0.1


@pytest.mark.parametrize("ill", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_evidence_of_two_modalities_given_the_label(ill: bool, rho: float) -> None:
    drawn = [draw_evidence("pod", ill, patient(k), BOTH, rho) for k in range(1500)]
    tvus, mri = (np.array([np.hstack(astuple(e[m]))[2:] for e in drawn]) for m in ("tvus", "mri"))  # static signs
    size = tvus.shape[1]
    found = stats.spearmanr(tvus, mri).statistic[:size, size:]  # each with each
    if rho == 0:
        assert np.abs(found).max() < 4 / np.sqrt(1500)  # place and grade too, among the ill
    elif ill:  # place and grade agree as the noise does, but move a sign that shows little by little
        assert np.diag(found).min() > 0.2
    else:  # a Gaussian copula; a sign that loads unequally on its factor in two modalities agrees less
        models = [sign_model("pod", m) for m in ("tvus", "mri")]
        loadings, own = [models[0].loadings[2:], models[1].loadings], [models[0].own[2:], models[1].own]
        expected = rho * ((loadings[0] * loadings[1]).sum(1) + own[0] * own[1])
        np.testing.assert_allclose(np.diag(found), 6 / np.pi * np.arcsin(expected / 2), atol=0.06)


def test_free_and_stuck_are_where_the_literature_puts_them() -> None:
    free, stuck = adhesions(False, "tvus"), adhesions(True, "tvus")
    slip_free = 1 - np.array([e.coupling for e in free])
    slip_stuck = 1 - np.array([max(e.coupling) for e in stuck])
    assert np.median(slip_free) == pytest.approx(0.8, abs=0.03)
    assert np.median(slip_stuck) < 0.2
    gap = np.log([e.gap_mm[0] for e in adhesions(False, "mri")])
    assert np.exp(np.median(gap)) == pytest.approx(1.5, rel=0.15)
    assert gap.std() == pytest.approx(0.8, rel=0.15)
    assert np.quantile(slip_free, 0.02) < np.quantile(slip_stuck, 0.9)  # they overlap


def test_what_is_stuck_shows_more_of_every_sign() -> None:
    free, stuck = adhesions(False, "mri"), adhesions(True, "mri")
    for sign, direction in (("plaque_mm", 1), ("plaque_contrast", 1), ("tether_mm", 1), ("kink_deg", 1),
                            ("gap_mm", -1), ("fluid_mm", -1)):  # fmt: skip
        means = [np.mean([getattr(e, sign) for e in es]) for es in (free, stuck)]
        assert direction * (means[1] - means[0]) > 0, sign
    assert {e.coupling for e in stuck} == {Adhesion().coupling}  # MRI does not move


@pytest.mark.parametrize("disease", DISEASES)
def test_more_visibility_moves_the_ill_further_and_the_healthy_not_at_all(disease: Disease) -> None:
    name, rising = ("plaque_contrast", [0.0, 0.5, 1.0, 2.0]) if disease == "pod" else ("width_mm", [0.0, 0.5, 1.0, 2.0])
    for number in range(40):
        ill, healthy = (
            [getattr(draw_evidence(disease, label, patient(number), {"mri": v}, 0.6)["mri"], name) for v in rising]
            for label in (True, False)
        )
        assert ill == sorted(ill)
        assert len(set(healthy)) == 1


def test_all_evidence_stays_in_its_range() -> None:
    for visibility in (0.1, 1.0, 4.0):
        for e in adhesions(True, "tvus", 200, visibility):
            assert 0 <= min(e.coupling) <= max(e.coupling) <= 1
            assert 0 <= min(e.plaque_mm) <= max(e.plaque_mm) <= 16
            assert 0 <= e.plaque_contrast <= 1
            assert 0 <= min(e.tether_mm) <= max(e.tether_mm) <= 25
            assert 0 <= e.kink_deg <= 75
            assert min(*e.gap_mm, e.fluid_mm) >= 0
        for t in tumours(True, 200, visibility):
            assert 0 <= t.reach <= 0.98
            assert 0 <= t.interruption <= 1
            assert 0 <= t.width_mm <= 80
            assert 0.6 <= t.site <= 0.9
            assert 0.5 <= t.contrast <= 1


def test_tumours_are_as_wide_and_as_deep_as_they_should_look() -> None:
    confined = [t for t in tumours(False) if t.present]
    assert len(confined) / 600 == pytest.approx(0.45, abs=0.05)
    assert 15 < np.median([t.width_mm for t in confined]) < 21
    stages = np.array([stage_of("carcinoma", True, patient(k)) for k in range(600)])
    assert np.mean(stages == 2) == pytest.approx(1 - latent.HALF_WALL, abs=0.06)
    everybody = np.array([t.reach for t in tumours(True, visibility=3.0)])  # sharp: all are seen
    assert np.mean((everybody > 0.5) == (stages == 2)) > 0.9
    blurred = np.array([t.reach for t in tumours(True, visibility=0.5)])
    assert np.mean((blurred > 0.5) == (stages == 2)) < np.mean((everybody > 0.5) == (stages == 2))


def test_side_and_place_of_a_tumour_say_nothing_and_are_the_same_everywhere() -> None:
    for number in range(30):
        views = [
            draw_evidence("carcinoma", ill, patient(number), {m: 1.0}, 0.0)[m]
            for ill in (True, False)
            for m in ("tvus", "mri")
        ]
        assert len({(v.site, v.side) for v in views if isinstance(v, Invasion)}) == 1


def test_every_shown_sign_reaches_the_evidence_by_a_monotone_map() -> None:
    model = sign_model("pod", "tvus")
    assert len(model.names) == len(SIGNS["pod"])
    for k, name in enumerate(model.names):
        rows = []
        for t in np.linspace(-4, 8, 60):
            signs = dict.fromkeys(model.names, 0.0) | {name: float(t)}
            rows.append(np.hstack(astuple(difficulty.adhesion(signs))))
        moved = np.diff(rows, axis=0)
        assert (moved != 0).any(axis=0).sum() == 1, name  # one field and no other
        column = moved[:, (moved != 0).any(axis=0)]
        assert (column > 0).all() or (column < 0).all(), (k, name)


@pytest.mark.parametrize("visibility", [-0.1, float("nan"), float("inf")])
def test_a_visibility_that_is_none(visibility: float) -> None:
    with pytest.raises(ConfigError, match="visibility on mri"):
        draw_evidence("pod", True, patient(0), {"mri": visibility}, 0.6)


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_a_correlation_that_is_none(rho: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        draw_evidence("pod", True, patient(0), BOTH, rho)
