"""The anatomy: where things are, that truths are exact, and that nothing but evidence changes with disease."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.simulate.labels import mask
from xmkd.simulate import anatomy, organs
from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES, Adhesion, Invasion
from xmkd.simulate.grids import Grid, stack
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scene import ORGANS

STUCK = Adhesion((0.9, 0.9), (6.0, 6.0), 1.0, (10.0, 10.0), (0.0, 0.0), 0.5, 30.0)


def pelvis(k: int, profile: anatomy.Profile = "pod", examination: anatomy.Examination = "mri") -> Pelvis:
    return anatomy.draw(Seeds(7, f"P{k:03d}"), profile, examination)


def grid(shape: tuple[int, int, int] = (9, 120, 120), spacing: float = 1.8) -> Grid:
    return stack((0.0, -5.0, 10.0), shape, (6.0, spacing, spacing))


def centroid(labels: torch.Tensor, where: Grid, organ: str) -> tuple[float, float, float]:
    inside = labels == ORGANS.index(organ)
    assert inside.any(), organ
    x, y, z = (v.expand(labels.shape)[inside].mean().item() for v in (where.x, where.y, where.z))
    return x, y, z


def test_a_patient_is_her_seed() -> None:
    assert repr(pelvis(1)) == repr(pelvis(1))
    assert repr(pelvis(1)) != repr(pelvis(2))


def test_examinations_share_the_anatomy_but_not_the_bladder() -> None:
    first, second = pelvis(3, examination="mri"), pelvis(3, examination="tvus")
    assert first.uterus.body == second.uterus.body
    assert first.ovaries == second.ovaries
    assert first.bladder_ml > second.bladder_ml


def test_frequencies_of_the_population() -> None:
    women = [pelvis(k) for k in range(400)]
    assert 0.18 < np.mean([w.retroverted for w in women]) < 0.32
    assert 0.2 < np.mean([bool(w.uterus.fibroids) for w in women]) < 0.4
    assert 65 < np.mean([w.uterus.length for w in women]) < 90
    old = [pelvis(k, "carcinoma") for k in range(300)]
    assert 0.8 < np.mean([w.menopause for w in old]) < 0.96
    assert np.mean([w.uterus.length for w in old]) < 68


@pytest.mark.parametrize("k", range(6))
def test_neighbours_are_where_they_belong(k: int) -> None:
    where, woman = grid(), pelvis(k)
    with torch.inference_mode():
        labels = mask(organs.scene(woman, where, Adhesion()), where)
    uterus, bladder = centroid(labels, where, "uterus"), centroid(labels, where, "bladder")
    vagina, cervix = centroid(labels, where, "vagina"), centroid(labels, where, "cervix")
    lower = where.z < 0  # the rectum proper, not the sigmoid that comes forward over the uterus
    rectum = ((labels == ORGANS.index("rectum")) & lower).nonzero()[:, 2].float().mean()
    canal = (labels == ORGANS.index("vagina")).nonzero()[:, 2].float().mean()
    assert rectum > canal, "the rectum lies behind the vagina"
    assert vagina[2] < cervix[2], "the vagina lies below the cervix"
    assert bladder[1] < cervix[1], "the bladder lies in front of the cervix"
    if not woman.retroverted and not woman.retroflexed:
        assert uterus[1] < cervix[1], "an anteverted body leans to the front"


def test_the_back_surface_faces_the_bowel() -> None:
    for k in range(12):
        woman, where = pelvis(k), grid((1, 120, 120), 1.8)
        at = womb.coordinates(woman, where)
        for site in range(2):
            y, z = organs.contact(woman, Adhesion(), site)
            nearest = ((where.y - y).square() + (where.z - z).square()).argmin()
            assert at.n.flatten()[nearest] > 0


def test_organs_do_not_interpenetrate() -> None:
    where = grid()
    for k in range(4):
        woman = pelvis(k)
        with torch.inference_mode():
            at = womb.coordinates(woman, where)
            tube = organs.bowel_distance(woman, where, at, STUCK)
            assert not ((tube < 0) & (at.distance < 0)).any()
            for region in organs.scene(woman, where, STUCK, at):
                if region.tissue in {"urine", "ovary_stroma", "endometrioma"}:
                    assert (at.distance[region.box][region.distance < 0] > 0).all(), region.tissue


@pytest.mark.parametrize("gap", [1.0, 5.0])
def test_the_bowel_keeps_its_gap_at_both_sites(gap: float) -> None:
    """Measured on a fine grid, along the back surface at each site."""
    adhesion = Adhesion(gap_mm=(gap, gap), fluid_mm=0.0)
    errors = []
    for k in range(8):
        woman = pelvis(k)
        for site, place in enumerate(SITES.values()):
            s = place * woman.uterus.length
            y, z = woman.uterus.axis.beside(s, float(womb.radius(woman.uterus, torch.tensor(s))) + gap / 2)
            where = stack((0.0, y, z), (1, 96, 96), (4.0, 0.5, 0.5))
            with torch.inference_mode():
                at = womb.coordinates(woman, where)
                tube = organs.bowel_distance(woman, where, at, adhesion)
            between = (at.s - s).abs()[None] < 3
            free = torch.where(between & (at.distance > 0) & (tube > 0), at.distance + tube, torch.inf)
            errors.append(float(free.min()) - gap)
            assert site in (0, 1)
    assert abs(float(np.median(errors))) < 2.0, errors
    assert np.mean([abs(e) < 5 for e in errors]) > 0.7, errors


@pytest.mark.parametrize("reach", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_depth_of_invasion_is_exact(reach: float, side: float) -> None:
    """The deepest point of the tumour's mask, from the junction, over the thickness of the wall."""
    for k in range(4):
        woman = pelvis(k, "carcinoma")
        woman = dataclasses.replace(woman, uterus=dataclasses.replace(woman.uterus, fibroids=(), deviation=0.0))
        tumour = Invasion(True, 0.75, side, 30.0, 9.0, reach, 1.0, 1.0, 1.0)
        y, z = woman.uterus.axis.at(0.75 * woman.uterus.length)[0]
        where = stack((0.0, y, z), (1, 240, 240), (1.0, 0.25, 0.25), coarse_mm=0.5)
        with torch.inference_mode():
            at = womb.coordinates(woman, where)
            deepest = -torch.inf
            for region in organs.scene(woman, where, tumour, at):
                if region.tissue == "carcinoma":
                    inside = (region.distance < 0)[0]
                    depth = (at.n * side - womb.thickness(woman.uterus, at.s, tumour))[region.box[1:]]
                    deepest = max(deepest, float(depth[inside].max()))
        assert deepest / womb.wall_depth(woman.uterus, tumour) == pytest.approx(reach, abs=0.04)


def test_without_a_tumour_nothing_of_it_is_drawn() -> None:
    where, woman = grid((3, 60, 60), 3.0), pelvis(2, "carcinoma")
    tissues = {r.tissue for r in organs.scene(woman, where, Invasion(present=False))}
    assert "carcinoma" not in tissues
    assert "carcinoma" in {r.tissue for r in organs.scene(woman, where, Invasion(True, width_mm=20, thickness_mm=6))}


def test_disease_changes_the_recess_alone() -> None:
    """Away from the pouch a stuck and a free woman are the same woman."""
    where, woman = grid(), pelvis(4)
    with torch.inference_mode():
        at = womb.coordinates(woman, where)
        free, stuck = (mask(organs.scene(woman, where, e, at), where) for e in (Adhesion(), STUCK))
    for organ in ("uterus", "bladder", "endometrium", "ovary", "vagina"):
        inside = free == ORGANS.index(organ)
        changed = (inside != (stuck == ORGANS.index(organ))).sum() / inside.sum().clamp_min(1)
        assert changed < 0.12, organ
    assert (stuck == ORGANS.index("plaque")).any()
    assert not (free == ORGANS.index("plaque")).any()
