"""Measurements for the oracle: at most ten, where the anatomy says, and moved by the evidence as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xmkd.simulate import anatomy, mri, mri_measure, oracle
from xmkd.simulate import uterus as womb
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import Adhesion, Invasion
from xmkd.simulate.grids import stack
from xmkd.simulate.organs import Evidence
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scan import Scan

SETTINGS = Scan((16, 128, 128), (5.0, 1.6, 1.6))
FREE = Adhesion(gap_mm=(3.0, 3.0), fluid_mm=5.0)
STUCK = Adhesion((0.9, 0.9), (7.0, 7.0), 1.0, (10.0, 10.0), (0.0, 0.0), 0.0, 30.0)


def patient(k: int, profile: anatomy.Profile) -> tuple[Seeds, Pelvis]:
    seeds = Seeds(4, f"M{k}", "mri")
    return seeds, anatomy.draw(seeds, profile, "mri")


def measured(k: int, profile: anatomy.Profile, evidence: Evidence) -> dict[str, float]:
    seeds, pelvis = patient(k, profile)
    return mri_measure.measure(mri.render(pelvis, evidence, seeds, SETTINGS)["t2_sag"], pelvis, evidence)


def test_places_in_the_uterus_agree_with_its_coordinates() -> None:
    _, pelvis = patient(0, "pod")
    grid = stack((2.0, 0.0, 30.0), (3, 60, 60), (4.0, 1.0, 1.0), coarse_mm=1.0)
    at = womb.coordinates(pelvis, grid)
    inside = (at.distance < -4) & (at.n.abs() < 12)
    s, n, x = (v.expand(grid.shape)[inside] for v in (at.s, at.n, at.x))
    found = mri_measure.uterine_points(pelvis, s, n, x)
    truth = torch.stack([v.expand(grid.shape)[inside] for v in (grid.x, grid.y, grid.z)], -1)
    assert float((found - truth).norm(dim=-1).quantile(0.95)) < 1.5  # mm; bends of the axis are rounded


def test_sampling_is_exact_on_voxels_and_linear_between() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(4, 5, 6))).float()
    affine = np.eye(4)
    affine[:3, :3] = np.diag((4.0, 1.5, 1.5))
    affine[:3, 3] = (-7, 3, 2)
    index = np.array([[1, 2, 3, 1], [3, 0, 5, 1], [0, 0, 0, 1]])
    points = torch.from_numpy((index @ affine.T)[:, :3]).float()
    values = mri_measure.sample(image, affine, points)
    torch.testing.assert_close(values, torch.stack([image[tuple(i[:3])] for i in index]), atol=1e-4, rtol=0)
    middle = mri_measure.sample(image, affine, points[:1] + torch.tensor([0.0, 0.75, 0.0]))
    assert float(middle) == pytest.approx(float(image[1, 2:4, 3].mean()), abs=1e-4)


def test_adhesion_moves_the_measurements() -> None:
    rows = [(measured(k, "pod", FREE), measured(k, "pod", STUCK)) for k in range(4)]
    assert 1 <= len(rows[0][0]) <= oracle.MOST
    assert rows[0][0].keys() == rows[0][1].keys()
    for name, sign in (("dark_retrocervical", -1), ("line_fundal", -1), ("gap_retrocervical", 1), ("fluid", -1)):
        assert sign * np.mean([stuck[name] - free[name] for free, stuck in rows]) > 0, name


def test_depth_of_invasion_moves_the_measurements() -> None:
    def tumour(reach: float) -> Invasion:
        return Invasion(True, 0.75, 1.0, 28.0, 10.0, reach, 1.0)

    rows = [[measured(k, "carcinoma", tumour(reach)) for reach in (0.05, 0.5, 0.9)] for k in range(3)]
    assert 1 <= len(rows[0][0]) <= oracle.MOST
    for name in ("middle", "depth"):
        shallow, half, deep = (np.mean([row[i][name] for row in rows]) for i in range(3))
        assert shallow < half <= deep + 0.02, name
    assert np.mean([row[2]["outer"] - row[0]["outer"] for row in rows]) > 0
