"""Rendered clips and stills: what they may depend on, and that pictures, masks and truth agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from xmkd.simulate import anatomy
from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.evidence import SITES, Adhesion, Invasion
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.rendered import Clip
from xmkd.simulate.scene import ORGANS
from xmkd.simulate.ultrasound import machine, measure, tvus

FREE, STUCK = Adhesion(coupling=(0.05, 0.05)), Adhesion(coupling=(0.95, 0.95))
PLAIN = tvus.Settings(marks=False)


def patient(number: int, profile: anatomy.Profile = "pod") -> tuple[Pelvis, Seeds]:
    seeds = Seeds(11, f"patient {number}", "tvus clip1")
    return anatomy.draw(seeds, profile, "tvus"), seeds


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [tvus.render_clip(*patient_and(FREE, k), PLAIN) for k in range(4)]


def patient_and(evidence: tvus.Evidence, number: int) -> tuple[Pelvis, tvus.Evidence, Seeds]:
    pelvis, seeds = patient(number)
    return pelvis, evidence, seeds


def test_clip_has_the_stated_shape_and_its_mask_fits(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.frames.shape == (16, 160, 160)
        assert clip.frames.dtype == np.uint8
        assert clip.mask.shape == (160, 160)
        assert clip.mask.dtype == np.uint8
        top, left, bottom, right = clip.sector
        outside = np.ones((160, 160), bool)
        outside[top:bottom, left:right] = False
        assert not clip.frames[:, outside].any()
        assert not clip.mask[outside].any()
        assert ORGANS.index("uterus") in clip.mask
        assert 5 <= clip.frame_rate <= 10


def test_same_evidence_and_seeds_give_the_same_bytes(clips: list[Clip]) -> None:
    again = tvus.render_clip(*patient_and(FREE, 2), PLAIN)
    assert np.array_equal(again.frames, clips[2].frames)
    assert np.array_equal(again.mask, clips[2].mask)
    assert again.header == clips[2].header


def test_coupling_changes_motion_but_neither_anatomy_nor_settings(clips: list[Clip]) -> None:
    stuck = tvus.render_clip(*patient_and(STUCK, 0), PLAIN)
    free = clips[0]
    assert stuck.header == free.header
    assert stuck.truth["slip_mm_fundal"] < 0.4 * free.truth["slip_mm_fundal"]
    assert stuck.truth["push_mm_fundal"] == free.truth["push_mm_fundal"]
    uterus = ORGANS.index("endometrium")
    assert np.array_equal(stuck.mask == uterus, free.mask == uterus)


def test_motion_energy_is_alike_in_free_and_stuck(clips: list[Clip]) -> None:
    ratios = []
    for number, free in enumerate(clips):
        stuck = tvus.render_clip(*patient_and(STUCK, number), PLAIN)
        ratios.append(frame_difference(stuck) / frame_difference(free))
    assert float(np.mean(ratios)) == pytest.approx(1, abs=0.06)


def frame_difference(clip: Clip) -> float:
    return float(np.abs(np.diff(clip.frames.astype(float), axis=0)).mean())


def test_tracked_slip_tells_free_from_stuck(clips: list[Clip]) -> None:
    slips = {"free": 0.0, "stuck": 0.0}
    for number, free in enumerate(clips):
        pelvis, seeds = patient(number)
        stuck = tvus.render_clip(pelvis, STUCK, seeds, PLAIN)
        exam = tvus.examine(pelvis, seeds, PLAIN)
        for name, clip in (("free", free), ("stuck", stuck)):
            for site in SITES.values():
                strips = measure.read_strips(torch.from_numpy(clip.frames).float(), pelvis, exam, site)
                slips[name] += measure.track(strips.bowel)[0]
        least = [measure.measure_clip(c, pelvis, seeds, PLAIN)["slip_least"] for c in (free, stuck)]
        assert least[1] < least[0]
    assert slips["free"] > 2 * slips["stuck"]


def test_stills_of_one_patient_differ_in_view_only() -> None:
    pelvis, _ = patient(1)
    stills = [tvus.render_still(pelvis, FREE, Seeds(11, "patient 1", f"tvus still{k}"), PLAIN) for k in (1, 2)]
    assert all(still.frames.shape == (1, 160, 160) for still in stills)
    assert not np.array_equal(stills[0].frames, stills[1].frames)
    assert stills[0].header["TransducerFrequency"] != stills[1].header["TransducerFrequency"]


def grey(clip: Clip, organ: str) -> float | None:
    """Median grey level of an organ in the first frame; None where it fills less than 40 pixels."""
    where = clip.mask == ORGANS.index(organ)
    return float(np.median(clip.frames[0][where])) if where.sum() > 40 else None


def test_organs_are_ordered_in_brightness() -> None:
    darker = {("bladder", "uterus"): 0, ("junctional zone", "uterus"): 0, ("junctional zone", "endometrium"): 0}
    seen = dict.fromkeys(darker, 0)
    for number in range(10):
        pelvis, seeds = patient(number)
        clip = tvus.render_still(replace(pelvis, bladder_ml=90.0), FREE, seeds, PLAIN)  # else its mask is mostly wall
        for pair in darker:
            low, high = (grey(clip, organ) for organ in pair)
            if low is not None and high is not None:
                seen[pair] += 1
                darker[pair] += low < high
    for pair, count in seen.items():
        assert count >= 3, pair
        assert darker[pair] >= 0.7 * count, pair  # attenuation and TGC spoil some


def test_tumour_is_painted_where_the_mask_says_and_its_reach_is_measured() -> None:
    reaches, bright = [], []
    for number in range(6):
        pelvis, seeds = patient(number, "carcinoma")
        row = []
        for reach in (0.1, 0.9):
            tumour = Invasion(True, site=0.72, side=1.0, width_mm=26, thickness_mm=10, reach=reach, interruption=reach)
            clip = tvus.render_still(pelvis, tumour, seeds, PLAIN)
            assert (clip.mask == ORGANS.index("tumour")).sum() > 20
            row.append(measure.measure_still(clip, pelvis, tumour, seeds, PLAIN))
        reaches.append([found["reach"] for found in row])
        bright.append([found["inner"] for found in row])
    shallow, deep = np.mean(reaches, axis=0)
    assert deep > shallow + 0.4
    shallow, deep = np.mean(bright, axis=0)  # grey levels: seen in the picture, not in the mask
    assert deep > shallow + 5


def test_no_tumour_measures_none() -> None:
    pelvis, seeds = patient(3, "carcinoma")
    clip = tvus.render_still(pelvis, Invasion(), seeds, PLAIN)
    found = measure.measure_still(clip, pelvis, Invasion(), seeds, PLAIN)
    assert found["reach"] == found["area"] == 0.0
    assert len(found) <= 10


def test_marks_stand_still_and_are_told_in_the_header() -> None:
    seen = set()
    for number in range(6):
        pelvis, seeds = patient(number)
        settings = tvus.Settings(frames=3, shape=(96, 128))
        marked = tvus.render_clip(pelvis, FREE, seeds, settings)
        plain = tvus.render_clip(pelvis, FREE, seeds, replace(settings, marks=False))
        changed = (marked.frames != plain.frames).any(0)
        assert changed.any()
        assert (marked.frames[:, changed].max(0) == marked.frames[:, changed].min(0)).all()
        assert plain.header["BurnedInAnnotation"] == "NO"
        seen.add(marked.header["BurnedInAnnotation"])
    assert seen == {"YES", "NO"}


def test_a_hospital_always_has_the_same_maker() -> None:
    pelvis, seeds = patient(0)
    makers = {site: machine.maker_of(site).name for site in ("north", "south", "east", "west", "a", "b")}
    assert len(set(makers.values())) > 1
    for site, name in makers.items():
        exam = tvus.examine(pelvis, seeds, replace(PLAIN, site=site))
        assert exam.machine.maker.name == name


def test_track_finds_a_known_slip() -> None:
    texture = torch.randn(12, 120, generator=torch.Generator().manual_seed(3))
    texture = torch.nn.functional.avg_pool1d(texture[:, None], 3, 1, 1)[:, 0]
    slips = [0, 2, 4, 6]  # points of 0.75 mm
    strip = torch.stack([texture[:, 20 + k : 80 + k] for k in slips])
    slip, rigid = measure.track(strip)
    assert slip == pytest.approx(0.75 * 3, abs=0.8)  # of the six pairs: 2, 2, 2, 4, 4, 6 points
    still, same = measure.track(strip[:1].expand(4, -1, -1))
    assert still == pytest.approx(0, abs=0.05)
    assert same > 0.99 > rigid
