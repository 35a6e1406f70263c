"""Rendered CT: HU, axial geometry, and that it shows the anatomy of the MRI."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from xmkd.simulate import anatomy, ct, mri_validate
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Volume
from xmkd.simulate.scan import Scan
from xmkd.simulate.scene import ORGANS

SETTINGS = Scan((24, 96, 96), (6.0, 4.0, 4.0))


@lru_cache(maxsize=8)
def render(k: int, examination: str = "ct") -> Volume:
    seeds = Seeds(11, f"P{k}", examination)
    return ct.render(anatomy.draw(seeds, "pod", "ct"), Adhesion(), seeds, SETTINGS)


def centre(volume: Volume, organ: str) -> np.ndarray:
    index = np.append(np.argwhere(volume.mask == ORGANS.index(organ)).mean(0), 1)
    place: np.ndarray = volume.affine @ index
    return place[:3]


def test_a_patient_is_her_seed() -> None:
    seeds = Seeds(11, "P0", "ct")
    again = ct.render(anatomy.draw(seeds, "pod", "ct"), Adhesion(), seeds, SETTINGS)
    assert again.array.tobytes() == render(0).array.tobytes()
    assert not np.array_equal(render(0).array, render(1).array)


@pytest.mark.parametrize("k", range(3))
def test_axial_slices_from_foot_to_head_with_her_right_on_the_left(k: int) -> None:
    volume = render(k)
    assert volume.array.shape == volume.mask.shape == SETTINGS.shape
    assert volume.array.dtype == np.int16
    slices, rows, columns = volume.affine[:3, :3].T
    assert slices[2] > 0
    assert rows[1] > 0
    assert columns[0] > 0
    assert np.count_nonzero(volume.affine[:3, :3]) == 3
    assert volume.thickness_mm == pytest.approx(slices[2])


def test_organs_are_where_the_affine_says() -> None:
    volume = render(0)
    assert np.linalg.norm(centre(volume, "cervix")) < 30  # mm; the external os is the origin
    assert centre(volume, "bladder")[1] < centre(volume, "rectum")[1]
    grid = ct.grid_of(ct.draw(Seeds(11, "P0", "ct"), SETTINGS), SETTINGS.shape)
    first = volume.affine @ (0, 0, 0, 1)
    lowest = (float(grid.x[0, 0, 0]), float(grid.y[-1, 0]), float(grid.z[-1, 0]))
    assert first[:3] == pytest.approx(lowest, abs=1e-3)


def test_tissues_have_their_numbers() -> None:
    means = [mri_validate.organ_means(render(k)) for k in range(4)]
    assert 60 < np.mean([found["uterus"] for found in means if "uterus" in found]) < 130
    for found in means:
        assert found["bone"] > 110  # mostly marrow
    assert -20 < np.median([found["bladder"] for found in means]) < 60  # urine and wall; few have contrast in it
    volume = render(0)
    assert volume.array.min() >= -1024
    assert (volume.array < -900).mean() > 0.05  # air around her
    inside = volume.array[(volume.mask == 0) & (volume.array > -300) & (volume.array < 0)]
    assert np.median(inside) == pytest.approx(-100, abs=15)  # fat


def test_noise_is_what_the_protocol_says() -> None:
    volume = render(2)
    inside = np.zeros_like(volume.mask, dtype=bool)
    for k, labels in enumerate(volume.mask):
        inside[k] = ndimage.binary_erosion(labels == ORGANS.index("bladder"), iterations=3)
    assert inside.sum() > 100
    assert 0.5 < volume.array[inside].std() / volume.truth["noise_hu"] < 1.6  # urine; more noise between the hips
