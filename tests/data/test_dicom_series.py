"""Folders of slices and DICOMDIR sets: geometry survives any order, and whatever is missing or doubled has a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.fileset import FileSet

from xmkd.data import slices
from xmkd.data.readers import list_series, read, read_all
from xmkd.errors import ReadError

from . import dicom_files as make
from .dicom_files import assert_same_place, volume

WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"

rng = np.random.default_rng(0)


def itk_affine(image: SimpleITK.Image) -> np.ndarray:
    """Affine in our index order, from SimpleITK's own index-to-point transform."""
    origin = np.array(image.TransformIndexToPhysicalPoint((0, 0, 0)))
    affine = np.eye(4)
    for column, step in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0)]):
        affine[:3, column] = np.array(image.TransformIndexToPhysicalPoint(step)) - origin
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize("angles", [(0, 0, 0), (0.3, -0.2, 0.5), (np.pi / 2, 0, 0.1), (0, np.pi / 2, np.pi)])
def test_series_survives_with_shuffled_names(tmp_path: Path, angles: tuple[float, float, float]) -> None:
    voxels, affine = volume(9, 12, 10), make.oblique_affine(angles=angles)
    folder = make.write_series(make.mr_slices(voxels, affine), tmp_path, order=rng.permutation(9).tolist())
    (folder / "notes.txt").write_text("not a slice")
    image = read(folder, modality="mri")
    assert_same_place(image, affine)
    assert image.modality == "mri"
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], voxels)


def test_series_equals_simpleitk(tmp_path: Path) -> None:
    files = make.mr_slices(volume(9, 12, 10), make.oblique_affine(), RescaleSlope=0.25, RescaleIntercept=-5)
    make.write_series(files, tmp_path, order=rng.permutation(9).tolist())
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    reference = reader.Execute()
    image = read(tmp_path)
    assert_same_place(image, itk_affine(reference))
    np.testing.assert_allclose(image.array[0], SimpleITK.GetArrayFromImage(reference))


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    voxels = volume(5, 4, 6)
    files = make.mr_slices(voxels, make.oblique_affine())
    for index, file in enumerate(files):
        file.RescaleSlope, file.RescaleIntercept = 1 + index, -index
    image = read(make.write_series(files, tmp_path))
    factor = np.arange(5)[:, None, None]
    np.testing.assert_array_equal(image.array[0], voxels.astype(int) * (1 + factor) - factor)
    assert image.array.dtype == np.int16


@settings(max_examples=60, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.05, 20)] * 3),
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    count=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_stack_in_any_order_is_put_right(
    spacing: tuple[float, float, float], angles: tuple[float, float, float], count: int, seed: int
) -> None:
    affine = make.oblique_affine(spacing, angles)
    directions = affine[:3, :3] / np.array(spacing)
    order = np.random.default_rng(seed).permutation(count)
    planes = [
        slices.plane(
            (affine @ [i, 0, 0, 1])[:3].tolist(), [*directions[:, 2], *directions[:, 1]], spacing[1:], spacing[0]
        )
        for i in order
    ]
    found, result = slices.stack([p for p in planes if p is not None], [str(i) for i in order], where=Path("x"))
    assert order[found].tolist() == list(range(count))
    np.testing.assert_allclose(result, affine, atol=1e-6)


def test_missing_slice_names_its_position(tmp_path: Path) -> None:
    affine = make.oblique_affine(angles=(0, 0, 0))
    files = make.mr_slices(volume(9, 4, 5), affine)
    make.write_series(files[:4] + files[5:], tmp_path)
    position = affine[2, 3] + 4 * 3.3
    with pytest.raises(ReadError, match=rf"1 slice\(s\) missing: at {position:.2f} mm .* IM0003.* and IM0004"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"DiffusionBValue": 800.0}, "share 4 positions.*they differ in DiffusionBValue: 50, 800"),
        ({}, "share 4 positions"),
    ],
)
def test_two_slices_at_one_position(tmp_path: Path, change: dict[str, object], message: str) -> None:
    affine = make.oblique_affine()
    first = make.mr_slices(volume(4, 4, 5), affine, **({"DiffusionBValue": 50.0} if change else {}))
    again = make.mr_slices(volume(4, 4, 5), affine, **change)
    for file in again:
        file.SeriesInstanceUID = first[0].SeriesInstanceUID
    make.write_series(first + again, tmp_path)
    with pytest.raises(ReadError, match=message):
        read(tmp_path)


def test_copy_of_a_slice_is_called_a_copy(tmp_path: Path) -> None:
    files = make.mr_slices(volume(4, 4, 5), make.oblique_affine())
    make.write_series([*files, files[2]], tmp_path)
    with pytest.raises(ReadError, match="copies of the same object"):
        read(tmp_path)


def shifted(file: pydicom.Dataset) -> None:
    file.ImagePositionPatient = make.decimals([float(v) + 1 for v in file.ImagePositionPatient])


def turned(file: pydicom.Dataset) -> None:
    file.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]


def cropped(file: pydicom.Dataset) -> None:
    file.Rows, file.PixelData = 2, bytes(2 * 2 * file.Columns)


def zoomed(file: pydicom.Dataset) -> None:
    file.PixelSpacing = [1, 1]


def unplaced(file: pydicom.Dataset) -> None:
    del file.ImagePositionPatient


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shifted, "unevenly placed"),
        (turned, "different directions"),
        (cropped, "differ in size: .*IM0002"),
        (zoomed, "differ in pixel size: .*IM0002"),
        (unplaced, "1 of 6 slices have no position.*IM0002"),
    ],
)
def test_slices_that_make_no_volume(tmp_path: Path, damage: Callable[[pydicom.Dataset], None], message: str) -> None:
    files = make.mr_slices(volume(6, 4, 5), make.oblique_affine())
    damage(files[2])
    with pytest.raises(ReadError, match=message) as caught:
        read(make.write_series(files, tmp_path))
    assert len(caught.value.fixes) == 2


def test_cut_and_empty_slices_are_not_passed_over(tmp_path: Path) -> None:
    make.write_series(make.mr_slices(volume(6, 40, 50), make.oblique_affine()), tmp_path)
    last = tmp_path / "IM0005.dcm"  # the gap check can't see a lost last slice
    whole = last.read_bytes()
    for keep in (len(whole) - 100, 600, 200, 0):
        last.write_bytes(whole[:keep])
        with pytest.raises(ReadError) as caught:
            read(tmp_path)
        assert caught.value.where == str(last)
    assert "empty" in caught.value.what


def test_several_series_are_kept_apart(tmp_path: Path) -> None:
    voxels = volume(5, 4, 5)
    first = make.mr_slices(voxels, make.oblique_affine(), SeriesNumber=7, SeriesDescription="t2_tra")
    second = make.mr_slices(voxels[::-1], make.oblique_affine(), SeriesNumber=3)
    make.write_series(first, tmp_path / "a")
    make.write_series(second, tmp_path / "b")
    make.save(make.us_clip(np.zeros((2, 4, 5), np.uint8), SeriesNumber=9), tmp_path / "clip.dcm")
    (tmp_path / "report.dcm").write_bytes((WHEEL / "test-SR.dcm").read_bytes())
    found = list_series(tmp_path)
    assert [(s.number, s.modality, len(s.files)) for s in found] == [(3, "mri", 5), (7, "mri", 5), (9, "us", 1)]
    assert found[1].description == "t2_tra"
    with pytest.raises(ReadError, match="3 series here") as caught:
        read(tmp_path)
    assert all(s.uid in str(caught.value) for s in found)
    assert "series=UID" in str(caught.value)
    np.testing.assert_array_equal(read(tmp_path, series=found[1].uid).array[0], voxels)
    np.testing.assert_array_equal(read(tmp_path / "a").array[0], voxels)
    with pytest.raises(ReadError, match=r"no series 1\.2 here"):
        read(tmp_path, series="1.2")
    with pytest.raises(ReadError, match='says "mri"'):
        read(tmp_path / "a", modality="us")
    assert [image.kind for image in read_all(tmp_path)] == ["volume", "volume", "clip"]


def test_stills_of_one_series_are_no_volume(tmp_path: Path) -> None:
    uid = pydicom.uid.generate_uid()
    stills = [make.us_image(np.zeros((4, 6), np.uint8), SeriesInstanceUID=uid) for _ in range(3)]
    make.write_series(stills, tmp_path)
    with pytest.raises(ReadError, match="3 images without a position"):
        read(tmp_path)
    assert [image.kind for image in read_all(tmp_path)] == ["image"] * 3


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no DICOM image here"):
        read(tmp_path)
    (tmp_path / "a.dcm").write_bytes((WHEEL / "rtstruct.dcm").read_bytes())
    with pytest.raises(ReadError, match="only 1 x RT Structure Set Storage"):
        read(tmp_path)


def test_dicomdir(tmp_path: Path) -> None:
    voxels, affine = volume(5, 4, 5), make.oblique_affine()
    file_set = FileSet()
    study = {"StudyDate": "20240101", "StudyTime": "120000", "StudyID": "1", "PatientName": "A"}
    for file in make.mr_slices(voxels, affine, SeriesNumber=1, **study):
        file_set.add(file)
    file_set.write(tmp_path)
    image = read(tmp_path / "DICOMDIR")
    assert_same_place(image, affine)
    np.testing.assert_array_equal(image.array[0], voxels)
    np.testing.assert_array_equal(read(tmp_path).array, image.array)
    assert len(read_all(tmp_path / "DICOMDIR")) == 1
    next(p for p in tmp_path.rglob("*") if p.is_file() and p.name != "DICOMDIR").unlink()
    with pytest.raises(ReadError, match="names 5 images, but 1 are not there"):
        read(tmp_path / "DICOMDIR")


def test_dicomdir_of_the_pydicom_wheel() -> None:
    path = WHEEL / "dicomdirtests" / "DICOMDIR"
    found = list_series(path)
    assert len(found) == 13
    assert sum(len(s.files) for s in found) == 31
    ct = next(s for s in found if len(s.files) == 5)
    assert read(path, series=ct.uid, modality="ct").array.shape[1] == 5
