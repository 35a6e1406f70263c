"""Rendered MRI: reproducible, aligned, exact in space, with contrasts and noise as they should be."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from xmkd.simulate import anatomy, mr_protocol, mr_signal, mri, mri_validate, surroundings, tissues
from xmkd.simulate.evidence import Adhesion
from xmkd.simulate.mr_protocol import SEQUENCES, Sequence
from xmkd.simulate.paint import Look, paint
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Volume
from xmkd.simulate.scan import Scan
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.textures import Textures

SMALL = Scan((14, 72, 72), (6.0, 3.0, 3.0))
USUAL = Scan((20, 128, 128), (4.8, 1.7, 1.7))
FREE = Adhesion()
STUCK = Adhesion((0.9, 0.9), (6.0, 6.0), 1.0, (10.0, 10.0), (0.0, 0.0), 0.5, 30.0)


def render(
    k: int, evidence: Adhesion = FREE, wanted: Scan = SMALL, sequences: tuple[Sequence, ...] = SEQUENCES
) -> dict[str, Volume]:
    seeds = Seeds(11, f"P{k}", "mri")
    return mri.render(anatomy.draw(seeds, "pod", "mri"), evidence, seeds, wanted, sequences)


@lru_cache(maxsize=8)
def usual(k: int) -> Volume:
    return render(k, FREE, USUAL, ("t2_sag",))["t2_sag"]


def test_a_patient_is_her_seed() -> None:
    first, second, other = render(1), render(1), render(2)
    for name in SEQUENCES:
        assert first[name].array.tobytes() == second[name].array.tobytes()
        assert not np.array_equal(first[name].array, other[name].array)


def test_sequences_share_mask_and_space() -> None:
    volumes = render(1)
    assert list(volumes) == list(SEQUENCES)
    for volume in volumes.values():
        assert volume.array.dtype == np.int16
        assert volume.array.shape == volume.mask.shape == SMALL.shape
        assert np.array_equal(volume.mask, volumes["t2_sag"].mask)
        assert np.array_equal(volume.affine, volumes["t2_sag"].affine)


def test_a_sequence_looks_the_same_whatever_else_is_acquired() -> None:
    alone = render(1, sequences=("adc_sag", "t1_sag"))
    for name, volume in alone.items():
        assert np.array_equal(volume.array, render(1)[name].array)


def test_evidence_changes_nothing_far_from_the_recess() -> None:
    free, stuck = (render(4, evidence, USUAL)["t2_sag"] for evidence in (FREE, STUCK))
    changed = np.abs(free.array.astype(int) - stuck.array) > 1  # 1: the rounding of edges' far tails
    assert changed.any()
    assert not changed[..., :12].any()  # the front wall
    assert not changed[0].any()  # the side wall
    assert changed.mean() < 0.3
    assert free.header == stuck.header
    assert np.array_equal(free.affine, stuck.affine)


@pytest.mark.parametrize("k", range(3))
def test_slices_lie_where_the_affine_says(k: int) -> None:
    seeds = Seeds(11, f"P{k}", "mri")
    protocol = mr_protocol.draw(seeds, USUAL)
    assert mri_validate.geometry_error(usual(k), mri.grid_of(protocol, USUAL.shape)) < 1e-3
    steps = np.linalg.norm(usual(k).affine[:3, :3], axis=0)
    assert steps == pytest.approx(protocol.spacing)
    assert 0.8 * steps[0] < usual(k).thickness_mm <= steps[0]
    directions = usual(k).affine[:3, :3] / steps
    assert directions.T @ directions == pytest.approx(np.eye(3), abs=1e-12)


def test_rows_run_to_the_feet_and_columns_to_the_back() -> None:
    volume = usual(0)
    assert volume.affine[0, 0] > 0
    assert volume.affine[2, 1] < 0
    assert volume.affine[1, 2] > 0
    organ = {name: np.argwhere(volume.mask == ORGANS.index(name)).mean(0) for name in ("bladder", "rectum", "vagina")}
    assert organ["bladder"][2] < organ["rectum"][2]
    assert organ["vagina"][1] > organ["bladder"][1]
    place = (volume.affine @ np.append(np.argwhere(volume.mask == ORGANS.index("cervix")).mean(0), 1))[:3]
    assert np.linalg.norm(place) < 30  # the external os is the origin


@pytest.mark.parametrize("k", range(4))
def test_masks_lie_on_their_pictures(k: int) -> None:
    found = mri_validate.alignment(usual(k))
    assert max(np.abs(found.shift)) <= 1  # uneven fat beside an organ can favour a voxel's shift by a little
    assert found.share > 0.95


@pytest.mark.parametrize("k", range(3))
def test_what_is_painted_lies_on_its_mask_to_a_fraction_of_a_voxel(k: int) -> None:
    seeds = Seeds(11, f"P{k}", "mri")
    pelvis, around = anatomy.draw(seeds, "pod", "mri"), surroundings.draw(seeds)
    grid = mri.grid_of(mr_protocol.draw(seeds, USUAL), USUAL.shape)
    shown = {"urine": 1.0, "bladder_wall": 1.0}
    looks = {name: Look((shown.get(name, 0.0),), (0.0,), "grain") for name in tissues.TABLE}
    textures = Textures(grid.shape, USUAL.spacing, seeds.torch("texture"))
    with torch.inference_mode():
        everything = surroundings.scene(around, pelvis, FREE, grid)
        picture, labels = paint(everything, grid, looks, textures, background="air")
    painted, marked = picture[0].numpy(), labels.numpy() == ORGANS.index("bladder")
    places = np.indices(painted.shape).reshape(3, -1)
    shift = (places * painted.ravel()).sum(1) / painted.sum() - (places * marked.ravel()).sum(1) / marked.sum()
    assert np.abs(shift).max() < 0.3
    assert painted.sum() == pytest.approx(marked.sum(), rel=0.05)


def test_organs_are_in_the_order_of_the_tables() -> None:
    means = [mri_validate.organ_means(usual(k)) for k in range(4)]
    together = {organ: np.mean([m[organ] for m in means if organ in m]) for organ in ORGANS if organ in means[0]}
    order = ["bladder", "endometrium", "uterus", "junctional zone"]
    levels = [together[organ] for organ in order]
    assert levels == sorted(levels, reverse=True)
    assert together["cervix"] < together["uterus"]


@pytest.mark.parametrize("k", range(4))
def test_noise_is_what_the_protocol_says(k: int) -> None:
    volume = usual(k)
    asked = volume.truth["snr_t2"]
    strong = volume.header["MagneticFieldStrength"] == 3.0
    low, high = mr_protocol.SNR["t2"][strong]
    assert low <= asked <= high
    try:
        measured = mri_validate.noise(volume).snr
    except ValueError:
        pytest.skip("no air in this field of view")
    assert 0.5 < measured / asked < 1.5  # the wall's brightness varies with the tissue and the coil


def test_shading_stays_within_its_range() -> None:
    for k in range(12):
        protocol = mr_protocol.draw(Seeds(11, f"P{k}", "mri"), USUAL)
        low, high = mr_protocol.SHADING[0 if protocol.machine.corrected else 1]
        factor = mr_signal.shading(protocol.coil, mri.grid_of(protocol, (6, 40, 40)))
        assert 0.9 * low <= mri_validate.shading(factor.numpy()) <= 1.1 * high


def test_diffusion_of_urine_is_that_of_water_in_the_body() -> None:
    volume = render(0, FREE, USUAL, ("adc_sag",))["adc_sag"]
    assert 2500 < mri_validate.organ_means(volume, margin=4)["bladder"] < 3500  # 1e-6 mm2/s


def test_contrast_makes_the_wall_brighter_than_fat() -> None:
    means = mri_validate.organ_means(render(0, FREE, USUAL, ("t1ce_sag",))["t1ce_sag"])
    assert means["uterus"] > 1.2 * means["endometrium"]
    assert means["uterus"] > 2 * means["bladder"]
