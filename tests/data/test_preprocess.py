from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from xmkd.data import preprocess
from xmkd.data.image import Image
from xmkd.data.preprocess import MriPrep, UltrasoundPrep, prepare, prepare_mask, spec_hash
from xmkd.errors import ConfigError, ReadError

Bytes = NDArray[np.uint8]

TOP, BOTTOM, LEFT, RIGHT = 26, 230, 103, 297  # of the fan below


def fan(height: int = 256, width: int = 400, seed: int = 0) -> tuple[Bytes, NDArray[np.bool_]]:
    """A speckled sector on black, and where it is."""
    y, x = np.mgrid[:height, :width]
    radius, angle = np.hypot(y + 20, x - width / 2), np.arctan2(x - width / 2, y + 20)
    inside = (radius > 50) & (radius < 250) & (abs(angle) < 0.4)
    speckle = np.random.default_rng(seed).gamma(2, 30, (height, width)).clip(12, 220)
    return np.where(inside, speckle, 0).astype(np.uint8), inside


def write_text(image: Bytes, at: tuple[int, int], text: str, size: int = 10) -> Bytes:
    canvas = Pillow.fromarray(image)
    ImageDraw.Draw(canvas).text(at, text, fill=255, font_size=size)
    return np.asarray(canvas)


def still(array: NDArray[np.generic], spacing: tuple[float, float] | None = None) -> Image:
    return Image(array if array.ndim == 3 else array[None], "image", spacing, modality="us")


def test_ultrasound_output_has_the_size_asked_for_and_keeps_the_aspect() -> None:
    image = np.random.default_rng(0).integers(20, 200, (100, 200), dtype=np.uint8)
    out = prepare(still(image, (0.4, 0.4)), UltrasoundPrep(size=(64, 64)))
    assert out.array.shape == (1, 64, 64)
    assert out.array.dtype == np.uint8
    assert (out.array[0, :16] == 0).all()  # 200 columns fill 64, so 100 rows fill 32
    assert (out.array[0, 48:] == 0).all()
    assert out.array[0, 16:48].min() > 0
    assert out.spacing_mm == pytest.approx((0.4 * 100 / 32, 0.4 * 200 / 64))


def test_an_image_that_is_all_sector_is_only_resized() -> None:
    image = np.random.default_rng(0).integers(20, 200, (128, 128), dtype=np.uint8)
    out = prepare(still(image), UltrasoundPrep(size=(128, 128)))
    np.testing.assert_array_equal(out.array[0], image)
    np.testing.assert_allclose(out.to_source, np.eye(3))


def test_the_sector_is_cut_out_and_text_around_it_is_gone() -> None:
    image, inside = fan()
    image = write_text(image, (5, 5), "Hospital 12:30")
    image = write_text(image, (330, 120), "Gn 8 C6/M4")
    out = prepare(still(image), UltrasoundPrep(size=(200, 200)))
    corners = out.to_source @ np.array([[-0.5, 0, 1], [199.5, 0, 1]]).T
    assert corners[0] == pytest.approx([TOP, BOTTOM], abs=4)
    outside = prepare_mask(~ndimage.binary_dilation(inside, iterations=4), out)
    assert out.array[0][outside].max() == 0


def test_without_crop_and_removal_the_whole_picture_stays() -> None:
    image = write_text(fan()[0], (5, 5), "Hospital 12:30")
    out = prepare(still(image), UltrasoundPrep(size=image.shape, crop_sector=False, remove_overlays=False))
    np.testing.assert_array_equal(out.array[0], image)


def test_a_dark_cyst_that_splits_the_sector_is_kept() -> None:
    image, inside = fan()
    image[90:180] //= 60  # an anechoic band from side to side
    out = prepare(still(image), UltrasoundPrep(size=(200, 200)))
    corners = out.to_source @ np.array([[-0.5, 0, 1], [199.5, 0, 1]]).T
    assert corners[0] == pytest.approx([TOP, BOTTOM], abs=4)
    assert prepare_mask(inside, out).sum() * out.to_source[0, 0] ** 2 == pytest.approx(inside.sum(), rel=0.03)


def test_text_at_the_edge_of_the_sector_is_filled_in_but_bright_tissue_is_not_touched() -> None:
    smooth = np.full((200, 200), 70, np.uint8)
    smooth += np.random.default_rng(0).integers(0, 20, smooth.shape, dtype=np.uint8)
    smooth[100:103, 40:150] = 250  # a specular echo, as bright and thin as letters
    smooth[60:70, 100:104] = 240
    marked = write_text(smooth, (150, 180), "5.77cm", size=14)
    keep = UltrasoundPrep(size=(200, 200), remove_overlays=False)
    clean = UltrasoundPrep(size=(200, 200))
    before, after = prepare(still(marked), keep).array[0], prepare(still(marked), clean).array[0]
    assert before[175:].max() == 255
    assert after[175:].max() < 120
    np.testing.assert_array_equal(after[:175], before[:175])


def test_coloured_marks_are_filled_from_their_surroundings() -> None:
    grey, inside = fan()
    grey = np.where(inside, 80, 0).astype(np.uint8)
    coloured = np.stack([grey] * 3)
    coloured[:, 120, 150:250] = np.array([255, 255, 0])[:, None]  # a yellow caliper
    coloured[:, 100:140, 200] = np.array([0, 255, 255])[:, None]
    plain = UltrasoundPrep(size=(200, 200), remove_overlays=False)
    reference = prepare(still(grey), plain).array.astype(int)
    assert abs(prepare(still(coloured), plain).array - reference).max() > 100
    assert abs(prepare(still(coloured), UltrasoundPrep(size=(200, 200))).array - reference).max() <= 3


def test_a_tinted_grey_map_is_no_mark() -> None:
    grey, _ = fan()
    sepia = (np.stack([grey] * 3) * np.array([1.0, 0.8, 0.5])[:, None, None]).astype(np.uint8)
    with_removal = prepare(still(sepia), UltrasoundPrep()).array
    without = prepare(still(sepia), UltrasoundPrep(remove_overlays=False)).array
    assert abs(with_removal.astype(int) - without).max() <= 12  # only the sector's outermost pixels


def test_in_a_clip_only_what_moves_is_the_sector() -> None:
    frames = np.stack([fan(seed=s)[0] for s in range(6)])
    frames[:, 20:240, 330:390] = 180  # a still panel, as large and bright as tissue
    clip = Image(frames[None], "clip", None, modality="us")
    out = prepare(clip, UltrasoundPrep(size=(300, 200)))
    corners = out.to_source @ np.array([[0, -0.5, 1], [0, 199.5, 1]]).T
    assert out.array.shape == (1, 6, 300, 200)
    assert corners[1] == pytest.approx([LEFT, RIGHT], abs=4)


def test_frames_are_evenly_spaced_from_first_to_last() -> None:
    levels = np.arange(10, 170, 8, dtype=np.uint8)
    frames = np.tile(levels[:, None, None], (1, 32, 32))
    frames[:, ::2, ::2] += 60
    out = prepare(Image(frames[None], "clip"), UltrasoundPrep(size=(32, 32), frames=4, crop_sector=False))
    assert out.array[0, :, 1, 1].tolist() == [levels[i] for i in (0, 6, 13, 19)]
    short = prepare(Image(frames[None, :3], "clip"), UltrasoundPrep(size=(32, 32), frames=6, crop_sector=False))
    assert short.array.shape == (1, 6, 32, 32)


def test_positions_return_to_the_source() -> None:
    _, inside = fan()
    y, x = np.mgrid[: inside.shape[0], : inside.shape[1]]
    spot = 150 * np.exp(-((y - 156) ** 2 + (x - 186) ** 2) / (2 * 8**2))
    out = prepare(still(np.where(inside, 60 + spot, 0).astype(np.uint8)), UltrasoundPrep(size=(96, 160)))
    assert out.to_source[0, 0] > 2
    seen = (out.array[0].astype(float) - 75).clip(0)
    rows, columns = np.indices(seen.shape)
    back = out.to_source @ [(rows * seen).sum() / seen.sum(), (columns * seen).sum() / seen.sum(), 1]
    assert back[:2] == pytest.approx([156, 186], abs=0.15)
    mask = prepare_mask(spot > 40, out)  # and by the matrix
    assert seen[mask].min() > 0
    assert (seen[mask == 0] > 40).sum() == 0


def test_other_types_are_brought_to_eight_bits() -> None:
    image = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)
    out = prepare(still(image), UltrasoundPrep(size=(64, 64), crop_sector=False, remove_overlays=False)).array
    assert out.dtype == np.uint8
    assert (out.min(), out.max()) == (0, 255)
    small = (image // 32).astype(np.float32)  # 0 to 124: fits as it is
    kept = prepare(still(small), UltrasoundPrep(size=(64, 64), crop_sector=False, remove_overlays=False)).array
    np.testing.assert_array_equal(kept[0], small)


@pytest.mark.parametrize(
    "bad, word",
    [
        (np.full((1, 8, 8), np.nan, np.float32), "64 values"),
        (np.array([[[0.0, np.inf], [1.0, 2.0]]], np.float32), "1 values"),
        (np.full((1, 8, 8), 7, np.uint8), "same value"),
        (np.zeros((1, 0, 8), np.uint8), "empty"),
    ],
)
def test_images_without_sense_are_refused(bad: NDArray[np.generic], word: str) -> None:
    with pytest.raises(ReadError, match=word):
        prepare(Image(bad, "image"), UltrasoundPrep())


def test_the_wrong_kind_is_refused() -> None:
    noise = np.random.default_rng(0).random((1, 8, 8, 8), dtype=np.float32)
    with pytest.raises(ReadError, match="volume"):
        prepare(Image(noise, "volume"), UltrasoundPrep())
    with pytest.raises(ReadError, match="clip"):
        prepare(Image(noise, "clip"), MriPrep())
    with pytest.raises(ReadError, match="voxel size"):
        prepare(Image(noise, "volume"), MriPrep(spacing_mm=(1, 1, 1)))


def wave(mm: NDArray[np.generic]) -> NDArray[np.float64]:
    """Something smooth and without symmetry in LPS mm, `(3, ...)`."""
    x, y, z = mm.astype(np.float64)
    return np.asarray(500 + 100 * np.sin(x / 17 + 1) + 60 * np.cos(y / 23) + 3 * z)


def volume(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Image:
    index = np.indices(shape).reshape(3, -1)
    mm = (affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Image(wave(mm).reshape(1, *shape).astype(np.float32), "volume", spacing, affine, "mri")


OBLIQUE = np.array(
    [
        [0.0, -0.8 * np.sin(0.3), -0.7 * np.cos(0.3), 40.0],  # columns run to the right, rows to the front: both turned
        [0.0, -0.8 * np.cos(0.3), 0.7 * np.sin(0.3), 30.0],
        [3.0, 0.0, 0.0, -20.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.mark.parametrize("size", [None, (40, 30, 48)])
def test_mr_voxels_stay_where_they_are_in_the_patient(size: tuple[int, int, int] | None) -> None:
    image = volume((20, 60, 50), OBLIQUE)
    out = prepare(image, MriPrep(spacing_mm=(2, 1, 1), size=size, percentiles=(0, 100)))
    assert out.affine is not None
    assert out.array.dtype == np.float16
    assert out.spacing_mm == pytest.approx((2, 1, 1))
    assert (out.affine[[2, 1, 0], [0, 1, 2]] > 0).all()  # LPS: columns run left, rows back, slices up
    index = np.indices(out.array.shape[1:]).reshape(3, -1)
    homogeneous = np.vstack([index, np.ones(index.shape[1])])
    source = out.to_source @ homogeneous
    deep = ((source[:3] > 1) & (source[:3] < np.array([[18], [58], [48]]))).all(axis=0)
    expected = wave((out.affine @ homogeneous)[:3])[deep]
    got = out.array[0].ravel()[deep].astype(float)
    slope, offset = np.polyfit(got, expected, 1)
    assert abs(got * slope + offset - expected).max() < 2.5  # of a range of about 400
    np.testing.assert_allclose(OBLIQUE @ out.to_source, out.affine)


def test_ultrasound_pixels_stay_where_they_are_in_the_patient() -> None:
    picture = fan()[0]
    picture[150:153, 180:183] = 255
    image = Image(picture[None], "image", (0.8, 0.7), OBLIQUE, "us")
    out = prepare(image, UltrasoundPrep(size=(64, 96)))
    assert out.affine is not None
    for h, w in ((0, 0), (10, 80), (63.5, 41)):
        source_h, source_w, _ = out.to_source @ (h, w, 1)
        np.testing.assert_allclose(out.affine @ (0, h, w, 1), OBLIQUE @ (0, source_h, source_w, 1))
    assert abs(out.affine - OBLIQUE).max() > 1
    assert np.linalg.norm(out.affine[:3, 1:3], axis=0) == pytest.approx(out.spacing_mm)
    clip = prepare(Image(np.stack([picture] * 2)[None], "clip", (0.8, 0.7), OBLIQUE), UltrasoundPrep(crop_sector=False))
    assert clip.affine is not None
    np.testing.assert_allclose(clip.affine, OBLIQUE @ np.block([[1, np.zeros(3)], [np.zeros((3, 1)), clip.to_source]]))
    assert prepare(still(picture), UltrasoundPrep()).affine is None


def test_mr_resampling_keeps_the_outer_edge() -> None:
    image = volume((20, 60, 50), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    out = prepare(image, MriPrep(spacing_mm=(2, 0.5, 2)))
    assert out.array.shape == (1, 10, 120, 25)
    corners = out.to_source @ np.array([[-0.5, -0.5, -0.5, 1], [9.5, 119.5, 24.5, 1]]).T
    np.testing.assert_allclose(corners[:3].T, [[-0.5, -0.5, -0.5], [19.5, 59.5, 49.5]], atol=1e-9)


def test_mr_size_crops_and_pads_about_the_centre() -> None:
    image = volume((20, 60, 50), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    out = prepare(image, MriPrep(size=(30, 40, 50)))
    assert out.array.shape == (1, 30, 40, 50)
    np.testing.assert_allclose(out.to_source[:3, 3], [-5, 10, 0])
    mask = prepare_mask(np.ones((20, 60, 50), np.uint8), out)
    assert mask.sum() == 20 * 40 * 50
    assert (out.array[0][mask == 0] == out.array.min()).all()


def test_mr_is_standardised_over_the_body_and_clipped() -> None:
    rng = np.random.default_rng(0)
    array = abs(rng.normal(0, 10, (1, 20, 40, 40)))  # air
    array[:, 5:15, 10:30, 10:30] = rng.normal(600, 80, (1, 10, 20, 20))
    array[0, 10, 20, 20] = 1e5  # a spike
    body = np.zeros(array.shape, bool)
    body[:, 5:15, 10:30, 10:30] = True
    out = prepare(Image(array.astype(np.float32), "volume", (1, 1, 1)), MriPrep()).array.astype(float)
    assert out[body].mean() == pytest.approx(0, abs=0.01)
    assert out[body].std() == pytest.approx(1, abs=0.01)
    assert out.max() < 3
    assert out[~body].max() < out[body].min()


def test_mr_thinning_out_does_not_alias() -> None:
    stripes = np.zeros((1, 16, 64, 64), np.float32)
    stripes[..., ::2] = 1000  # at half the new spacing: only grey is left of it
    stripes[:, :8] += 3000
    out = prepare(Image(stripes, "volume", (1, 1, 1)), MriPrep(spacing_mm=(1, 1, 3))).array.astype(float)
    assert out[0, 2, 30].std() < 0.02 * (out.max() - out.min())


def test_n4_takes_a_slow_shading_off() -> None:
    rng = np.random.default_rng(0)
    _, y, x = np.mgrid[:10, :32, :32]
    body = (x - 16) ** 2 + (y - 16) ** 2 < 14**2
    shaded = np.where(body, 500 + rng.normal(0, 10, body.shape), 5) * (1 + 0.4 * (x - 16) / 16)
    spread = [
        prepare(Image(shaded[None].astype(np.float32), "volume", (2, 1, 1)), MriPrep(n4=n4)).array[0]
        for n4 in (False, True)
    ]
    slopes = [abs(np.polyfit(x[body], s[body].astype(float), 1)[0]) * 16 for s in spread]
    contrast = [np.median(s[body].astype(float)) - np.median(s[~body].astype(float)) for s in spread]
    assert slopes[1] / contrast[1] < 0.25 * slopes[0] / contrast[0]


@pytest.mark.parametrize(
    "kind, bad",
    [
        (UltrasoundPrep, {"size": (0, 64)}),
        (UltrasoundPrep, {"frames": 0}),
        (MriPrep, {"size": (8, 8, -1)}),
        (MriPrep, {"spacing_mm": (1.0, 0.0, 1.0)}),
        (MriPrep, {"percentiles": (99.5, 0.5)}),
        (MriPrep, {"orientation": "LPX"}),
        (MriPrep, {"orientation": "LRS"}),
        (MriPrep, {"orientation": "LP"}),
    ],
)
def test_settings_that_make_no_sense_are_named(kind: Any, bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        kind(**bad)


def test_the_spec_hash_knows_settings_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {spec_hash(p) for p in (UltrasoundPrep(), UltrasoundPrep(frames=16), MriPrep(), MriPrep(n4=True))}
    assert len(hashes) == 4
    before = spec_hash(MriPrep())
    assert before == spec_hash(MriPrep())
    monkeypatch.setattr(preprocess, "code_hash", lambda: "other code")
    assert spec_hash(MriPrep()) != before


def test_the_code_hash_follows_each_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(preprocess.__file__).parent
    for name in preprocess._CODE:
        shutil.copy(package / f"{name}.py", tmp_path)
    monkeypatch.setattr(preprocess, "__file__", str(tmp_path / "preprocess.py"))
    code_hash = preprocess.code_hash.__wrapped__
    assert code_hash() == preprocess.code_hash()
    seen = {code_hash()}
    for count, name in enumerate(preprocess._CODE, start=2):
        with (tmp_path / f"{name}.py").open("a") as file:
            file.write("# changed\n")
        seen.add(code_hash())
        assert len(seen) == count


def test_the_code_hash_covers_all_that_readers_and_preprocessing_import() -> None:
    package = Path(preprocess.__file__).parent
    known, new = set[str](), {"readers", "preprocess"}
    while new:
        known |= new
        text = "\n".join((package / f"{name}.py").read_text() for name in new)
        found = {
            name for names in re.findall(r"from xmkd\.data import (.+)", text) for name in re.findall(r"\w+", names)
        }
        found |= set(re.findall(r"from xmkd\.data\.(\w+) import", text))
        new = {name for name in found if (package / f"{name}.py").exists()} - known
    assert set(preprocess._CODE) == known


def test_preprocessing_needs_no_torch() -> None:
    code = "import sys, xmkd.data.preprocess, xmkd.data.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
