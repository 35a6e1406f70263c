"""Tissue tables: complete, physical, sourced, and in the order that every picture must keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from xmkd.simulate import anatomy, grids, mr_protocol, mr_signal, mri, surroundings, tissues
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.organs import Evidence
from xmkd.simulate.randomness import Seeds

STUCK = Adhesion((0.9, 0.9), (6.0, 6.0), 1.0, (10.0, 10.0), (0.0, 0.0), 4.0, 30.0)
DEEP = Invasion(True, 0.75, 1.0, 30.0, 10.0, 0.8, 1.0)


@pytest.mark.parametrize("profile, evidence", [("pod", STUCK), ("carcinoma", DEEP)])
def test_every_tissue_of_a_scene_is_in_the_table(profile: Literal["pod", "carcinoma"], evidence: Evidence) -> None:
    grid = grids.stack((0.0, -5.0, 15.0), (11, 24, 24), (16.0, 9.0, 9.0))
    seen: set[str] = set()
    for k in range(12):
        seeds = Seeds(3, f"P{k}")
        pelvis = anatomy.draw(seeds, profile, "mri")
        around = surroundings.draw(seeds)
        with torch.inference_mode():
            seen |= {region.tissue for region in surroundings.scene(around, pelvis, evidence, grid)}
    assert seen <= set(tissues.TABLE)


@pytest.mark.parametrize("name", tissues.TABLE)
def test_rows_are_physical_and_say_where_they_come_from(name: str) -> None:
    row = tissues.TABLE[name]
    assert row.source
    assert 0 <= row.pd <= 1
    assert 0 <= row.adc < 3.3
    for t1, t2 in zip(row.t1, row.t2, strict=True):
        assert 0 < t2 < t1
    assert row.t1[1] >= row.t1[0]  # T1 rises with the field, T2 falls
    assert row.t2[1] <= row.t2[0]


def test_layers_keep_the_published_ratios() -> None:
    for field in (0, 1):
        outer = np.mean([tissues.TABLE[name].t2[field] for name in ("myometrium", "myometrium_outer")])
        assert 0.50 < tissues.TABLE["junctional_zone"].t2[field] / outer < 0.65
        for phase in ("proliferative", "secretory"):
            assert 1.30 < tissues.TABLE[f"endometrium_{phase}"].t2[field] / outer < 1.60


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_order_of_signals_on_t2(field: float) -> None:
    timing = mr_signal.Timing(tr=4200, te=100)
    k = int(field > 2)
    values = {
        name: tissues.Values(row.t1[k], row.t2[k], row.pd, row.adc, row.enhancement, row.hu)
        for name, row in tissues.TABLE.items()
    }
    level = {name: mr_signal.signal("t2", name, v, timing) for name, v in values.items()}
    order = ["urine", "endometrium_secretory", "myometrium_outer", "junctional_zone", "muscle", "cortical_bone", "air"]
    signals = [level[name] for name in order]
    assert signals == sorted(signals, reverse=True)
    assert level["urine"] > level["fat"] > level["myometrium_outer"]  # fat is bright in an echo train
    assert level["plaque"] < level["myometrium"]
    assert 1.1 < level["fibroid"] / level["muscle"] < 2.5  # 1.8 +- 0.7 in Med Phys 2010 (PMID 20964196)
    assert 0.3 < level["fibroid"] / level["myometrium_outer"] < 1.1  # 0.7 +- 0.4 there


def test_patients_differ_but_their_layers_stay_in_order() -> None:
    women = [tissues.draw(np.random.default_rng(k)) for k in range(200)]
    ordered = [
        w["junctional_zone"].t2 < w["myometrium"].t2 < w["endometrium_secretory"].t2 < w["urine"].t2 for w in women
    ]
    assert np.mean(ordered) > 0.97
    spread = np.std(np.log([w["myometrium"].t2 for w in women]))
    assert spread == pytest.approx(tissues.TABLE["myometrium"].spread[0], rel=0.25)


def test_a_patient_is_the_same_at_either_field() -> None:
    low, high = (tissues.draw(np.random.default_rng(5), field) for field in (1.5, 3.0))
    for name, row in tissues.TABLE.items():
        assert low[name].t2 / row.t2[0] == pytest.approx(high[name].t2 / row.t2[1])
        assert low[name].hu == high[name].hu


def test_after_the_menopause_the_wall_diffuses_and_enhances_less() -> None:
    young, old = (tissues.draw(np.random.default_rng(5), menopause=m) for m in (False, True))
    assert old["myometrium"].adc < young["myometrium"].adc
    assert old["myometrium"].hu < young["myometrium"].hu
    assert old["urine"] == young["urine"]


def test_a_site_has_one_scanner() -> None:
    def scanner(patient: str, site: str) -> mr_protocol.Machine:
        return mr_protocol.draw(Seeds(1, patient), replace(mri.USUAL, site=site)).machine

    assert scanner("A", "north") == scanner("B", "north")
    assert any(scanner("A", "north") != scanner("A", site) for site in ("south", "east", "west"))
