"""What was rendered comes back through the readers: values, geometry, time and masks; and headers tell no label."""

from __future__ import annotations

import errno
import io
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.dicom_files import TOLERANCE_MM, assert_same_place, rotation
from xmkd.data.readers import Image, list_series, read
from xmkd.errors import RunError
from xmkd.simulate.dicom_tags import decimal
from xmkd.simulate.dicom_write import write_clip, write_series
from xmkd.simulate.identity import Identity
from xmkd.simulate.masks import write_clip_mask, write_volume_mask
from xmkd.simulate.rendered import Clip, Header, Volume
from xmkd.simulate.slice_order import along_normal

WHO = Identity("pod 1", "P0001", 34)
SEQUENCES = ("t2_sag", "t1_sag", "t1ce_sag", "dwi_sag", "adc_sag")

rng = np.random.default_rng(0)


def clip(count: int = 5, shape: tuple[int, int] = (31, 40), header: Header | None = None) -> Clip:
    frames = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    facts: Header = {"TransducerFrequency": 6500.0, "MechanicalIndex": 0.9, "DepthOfScanField": 80}
    mask = rng.integers(0, 16, shape).astype(np.uint8)
    return Clip(frames, (0.43, 0.51), 13.0, (2, 3, 29, 37), mask, facts if header is None else header)


def volume(affine: np.ndarray, shape: tuple[int, int, int] = (5, 7, 6), sequence: str = "t2_sag") -> Volume:
    values = rng.integers(-1024, 3000, shape).astype(np.int16)
    facts: Header = {"EchoTime": 101.5, "RepetitionTime": 4200.0, "FlipAngle": 150.0, "MagneticFieldStrength": 1.5}
    if sequence == "dwi_sag":
        facts["DiffusionBValue"] = 1000
    return Volume(values, affine, rng.integers(0, 16, shape).astype(np.uint8), sequence, 4.0, facts)


def sagittal(step: float = 4.4) -> np.ndarray:
    """Slices from right to left, rows to the feet, columns to the back: their order is against their normal."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([(step, 0, 0), (0, 0, -0.7), (0, 0.7, 0)]).T
    affine[:3, 3] = -44.0, -70.5, 60.25
    return affine


def axial() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array([(0, 0, 3), (0, 0.7, 0), (0.7, 0, 0)]).T
    return affine


def found_at(image: Image, points: np.ndarray) -> np.ndarray:
    """Values of the voxels that lie at the points `(N, 3)` in LPS mm."""
    assert image.affine is not None
    index = np.linalg.solve(image.affine, np.c_[points, np.ones(len(points))].T)[:3].T
    whole = index.round().astype(int)
    np.testing.assert_allclose(index @ image.affine[:3, :3].T, whole @ image.affine[:3, :3].T, atol=TOLERANCE_MM)
    values: np.ndarray = image.array[0][tuple(whole.T)]
    return values


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_a_clip_or_still_comes_back(tmp_path: Path, count: int, colour: bool) -> None:
    rendered = clip(count)
    path = tmp_path / "patient" / "clip.dcm"
    write_clip(rendered, path, WHO, colour=colour)
    image = read(path, modality="us")
    frames = image.array if count > 1 else image.array[:, None]
    assert image.kind == ("clip" if count > 1 else "image")
    assert frames.dtype.name == "uint8"
    assert len(frames) == (3 if colour else 1)
    for channel in frames:
        np.testing.assert_array_equal(channel, rendered.frames)
    assert image.spacing_mm == pytest.approx(rendered.spacing_mm, abs=1e-9)
    assert image.frame_time_ms == (pytest.approx(1000 / 13) if count > 1 else None)
    assert [image.metadata[k] for k in ("region_y0", "region_x0", "region_y1", "region_x1")] == [2, 3, 28, 36]
    assert "reader_warnings" not in image.metadata
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).shape == (
        *rendered.frames.shape,
        *([3] if colour else []),
    )


def test_settings_of_the_probe_stand_where_the_standard_has_them(tmp_path: Path) -> None:
    write_clip(clip(), tmp_path / "a.dcm", WHO)
    header = pydicom.dcmread(tmp_path / "a.dcm")
    assert header.SequenceOfUltrasoundRegions[0].TransducerFrequency == 6500
    assert "TransducerFrequency" not in header
    assert (header.MechanicalIndex, header.DepthOfScanField, header.TransducerType) == (0.9, 80, "ENDOCAV_CLA")


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    origin=st.tuples(*[st.floats(-400, 400)] * 3),
    mirrored=st.booleans(),
    modality=st.sampled_from(["mri", "ct"]),
)
def test_every_voxel_and_its_organ_come_back_where_they_were(
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    origin: tuple[float, float, float],
    mirrored: bool,
    modality: Literal["mri", "ct"],
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles)[:, ::-1] * spacing * [-1 if mirrored else 1, 1, 1]
    affine[:3, 3] = origin
    rendered = volume(affine)
    index = np.argwhere(rendered.array > -9999)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    with tempfile.TemporaryDirectory() as folder:
        write_series(rendered, Path(folder) / "series", WHO, modality)
        write_volume_mask(rendered, Path(folder) / "mask.nii.gz")
        image = read(Path(folder) / "series", modality=modality)
        mask = read(Path(folder) / "mask.nii.gz")
        nifti = nibabel.load(Path(folder) / "mask.nii.gz")
        # A quaternion starts with sqrt(1 - squares of the others), which are float32: near 0 it is off by the root
        # of their rounding, and the angle by twice as much.
        rounding = 2 * 2**-11.5 * max(spacing)
        np.testing.assert_allclose(nifti.get_qform()[:, 3], nifti.get_sform()[:, 3], atol=TOLERANCE_MM / 10)
        np.testing.assert_allclose(nifti.get_qform(), nifti.get_sform(), atol=rounding)
    assert (image.array.dtype.name, mask.array.dtype.name) == ("int16", "uint8")
    np.testing.assert_array_equal(found_at(image, points), rendered.array.ravel())
    np.testing.assert_array_equal(found_at(mask, points), rendered.mask.ravel())
    # Masks are used by index: they have the same order of slices as the image.
    assert image.affine is not None
    assert_same_place(mask, image.affine)
    assert_same_place(image, along_normal(rendered).affine)


@pytest.mark.parametrize("step", [4.4, -4.4])
def test_other_libraries_agree_on_the_place(tmp_path: Path, step: float) -> None:
    rendered = volume(sagittal(step))
    write_series(rendered, tmp_path / "t2", WHO, "mri")
    write_volume_mask(rendered, tmp_path / "mask.nii.gz")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "t2")))
    image, mask = reader.Execute(), SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    expected = along_normal(rendered)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), expected.array)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask), expected.mask)
    for corner in ((0, 0, 0), (5, 6, 4)):
        place = (expected.affine @ [*corner[::-1], 1])[:3]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(corner), place, atol=TOLERANCE_MM)
        np.testing.assert_allclose(mask.TransformIndexToPhysicalPoint(corner), place, atol=TOLERANCE_MM)
    nifti = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(nifti.dataobj).T, expected.mask)
    left, back, up = (expected.affine @ [4, 6, 5, 1])[:3]
    np.testing.assert_allclose(nifti.affine @ [5, 6, 4, 1], [-left, -back, up, 1], atol=TOLERANCE_MM)


def test_slices_are_put_in_the_order_of_their_normal_once() -> None:
    rendered = volume(sagittal())
    turned = along_normal(rendered)
    assert (rendered.affine[0, 0], turned.affine[0, 0]) == (4.4, -4.4)
    np.testing.assert_allclose(turned.affine @ [0, 0, 0, 1], rendered.affine @ [4, 0, 0, 1])
    np.testing.assert_array_equal(turned.array[::-1], rendered.array)
    assert along_normal(turned) is turned


def test_acquisition_reaches_the_reader(tmp_path: Path) -> None:
    write_series(volume(sagittal(), sequence="dwi_sag"), tmp_path / "dwi", WHO, "mri", number=4)
    facts = read(tmp_path / "dwi").metadata
    names = ("field_strength_t", "echo_time_ms", "repetition_time_ms", "flip_angle_deg", "b_value")
    assert [facts[name] for name in names] == [1.5, 101.5, 4200, 150, 1000]
    assert facts["slice_thickness_mm"] == 4.0
    (series,) = list_series(tmp_path / "dwi")
    assert (series.description, series.number, series.modality, len(series.files)) == ("dwi_sag", 4, "mri", 5)
    slices = [pydicom.dcmread(file) for file in series.files]
    assert [int(s.InstanceNumber) for s in slices] == [1, 2, 3, 4, 5]
    steps = np.diff([float(s.SliceLocation) for s in slices])
    np.testing.assert_allclose(steps, 4.4, atol=TOLERANCE_MM)
    assert slices[0].SpacingBetweenSlices == pytest.approx(4.4)


def test_what_a_renderer_states_replaces_what_the_sequence_suggests(tmp_path: Path) -> None:
    rendered = volume(sagittal(), sequence="t1ce_sag")
    rendered.header["MRAcquisitionType"] = "2D"
    rendered.header["Manufacturer"] = "Simulated Alder"
    write_series(rendered, tmp_path / "t1ce", WHO, "mri")
    header = pydicom.dcmread(tmp_path / "t1ce" / "IM0001.dcm")
    assert (header.MRAcquisitionType, header.ScanningSequence, header.Manufacturer) == ("2D", "GR", "Simulated Alder")


def test_ct_stores_air_as_nothing(tmp_path: Path) -> None:
    rendered = volume(axial(), sequence="ct_axial")
    write_series(rendered, tmp_path / "ct", WHO, "ct")
    stored = pydicom.dcmread(tmp_path / "ct" / "IM0001.dcm").pixel_array
    np.testing.assert_array_equal(stored, rendered.array[0] + 1024)


def test_masks_of_pictures_are_read_as_they_are(tmp_path: Path) -> None:
    rendered = clip()
    write_clip_mask(rendered, tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "masks" / "a.png").array[0], rendered.mask)


def write_all(folder: Path, clips: Clip, series: Volume, who: Identity = WHO) -> dict[str, bytes]:
    write_clip(clips, folder / "clip.dcm", who)
    write_clip_mask(clips, folder / "clip.png")
    write_series(series, folder / "t2", replace(who, study="mri"), "mri")
    write_volume_mask(series, folder / "t2.nii.gz")
    return folder_bytes(folder)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    clips, series = clip(), volume(sagittal())
    first = write_all(tmp_path / "a", clips, series)
    assert first == write_all(tmp_path / "b", clips, series)
    assert first == write_all(tmp_path / "a", clips, series)  # over what is there
    assert len(first) == 8
    assert first["t2.nii.gz"][4:8] == bytes(4)  # the time of compression


def test_files_of_other_pictures_have_the_same_header_and_size(tmp_path: Path) -> None:
    """All that a label can change is the picture: no other byte may tell."""
    one, other = clip(), clip()
    write_clip(one, tmp_path / "one.dcm", WHO)
    write_clip(other, tmp_path / "other.dcm", WHO)
    size = one.frames.nbytes
    first, second = (tmp_path / "one.dcm").read_bytes(), (tmp_path / "other.dcm").read_bytes()
    assert first[:-size] == second[:-size]
    assert first[-size:] != second[-size:]
    lengths = set()
    for name in ("a", "b"):
        write_series(volume(sagittal()), tmp_path / name, WHO, "mri")
        lengths.add(sum(map(len, folder_bytes(tmp_path / name).values())))
    assert len(lengths) == 1


def test_every_header_says_that_it_is_simulated(tmp_path: Path) -> None:
    write_all(tmp_path, clip(), volume(sagittal()))
    for file in tmp_path.rglob("*.dcm"):
        header = pydicom.dcmread(file)
        assert str(header.PatientName) == "SIMULATED^P0001^NOT A PATIENT"
        assert header.ImageComments == "simulated, not a patient"
        assert header.QualityControlImage == "YES"
        assert (header.PatientID, header.PatientAge, header.PatientSex) == ("P0001", "034Y", "F")
        dates = {str(e.value) for e in header.iterall() if e.VR in ("DA", "TM", "DT")}
        assert dates <= {"20000101", "120000", ""}
    description = nibabel.load(tmp_path / "t2.nii.gz").header["descrip"]
    assert bytes(description.item()) == b"simulated, not a patient"


def test_uids_name_each_thing_once(tmp_path: Path) -> None:
    for number, sequence in enumerate(SEQUENCES, start=1):
        write_series(volume(sagittal(), sequence=sequence), tmp_path / sequence, WHO, "mri", number=number)
    headers = [pydicom.dcmread(file) for file in sorted(tmp_path.rglob("*.dcm"))]
    assert len({h.SOPInstanceUID for h in headers}) == len(headers) == 25
    assert len({h.SeriesInstanceUID for h in headers}) == 5
    assert len({(h.StudyInstanceUID, h.FrameOfReferenceUID) for h in headers}) == 1
    for header in headers:
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert all(e.value.is_valid and len(e.value) <= 64 for e in header.iterall() if e.VR == "UI" and e.VM == 1)
    others = [replace(WHO, cohort="pod 2"), replace(WHO, patient="P0002"), replace(WHO, study="2")]
    assert len({who.uid("t2_sag", 1) for who in (WHO, *others)}) == 4


@pytest.mark.parametrize("kind", ["clip", "series"])
def test_files_are_what_pydicom_would_write(tmp_path: Path, kind: str) -> None:
    if kind == "clip":
        odd = clip(3, (31, 39))  # an odd number of bytes
        write_clip(odd, tmp_path / "a.dcm", WHO)
    else:
        write_series(volume(sagittal()), tmp_path, WHO, "mri")
    for file in tmp_path.glob("*.dcm"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            header = pydicom.dcmread(file)
            header.walk(lambda _, element: element.value)  # decode every element
            again = io.BytesIO()
            header.save_as(again, enforce_file_format=True)
        assert again.getvalue() == file.read_bytes()
        assert len(file.read_bytes()) % 2 == 0


@given(st.floats(-1e6, 1e6))
def test_decimal_strings_are_short_and_close(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=1e-7)
    assert text != "-0.0"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, series = clip(), volume(sagittal())
    before = write_all(tmp_path, clips, series)
    write_bytes, written = Path.write_bytes, [0]

    def full(self: Path, data: bytes) -> int:
        written[0] += 1
        if written[0] % 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    attempts: list[Callable[[], None]] = [
        lambda: write_clip(clips, tmp_path / "clip.dcm", WHO),
        lambda: write_series(series, tmp_path / "t2", WHO, "mri"),
        lambda: write_volume_mask(series, tmp_path / "t2.nii.gz"),
        lambda: write_clip_mask(clips, tmp_path / "clip.png"),
    ]
    for write in attempts:
        written[0] = 0
        with pytest.raises(RunError, match=r"(?s)the disk is full.*--out FOLDER"):
            write()
    assert folder_bytes(tmp_path) == before


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    attempts: list[Callable[[], None]] = [
        lambda: write_clip(clip(), tmp_path / "file" / "a.dcm", WHO),
        lambda: write_series(volume(sagittal()), tmp_path / "file" / "t2", WHO, "mri"),
        lambda: write_series(volume(sagittal()), tmp_path / "file", WHO, "mri"),
        lambda: write_clip_mask(clip(), tmp_path / "file" / "a.png"),
    ]
    for write in attempts:
        with pytest.raises(RunError, match=rf"(?s)can't be written.*{tmp_path}.*--out FOLDER"):
            write()
    assert folder_bytes(tmp_path) == {"file": b"in the way"}


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".t2.tmp").mkdir()
    (tmp_path / ".t2.tmp" / "IM0099.dcm").write_bytes(b"half")
    write_series(volume(sagittal()), tmp_path / "t2", WHO, "mri")
    assert sorted(folder_bytes(tmp_path)) == [f"t2/IM000{n}.dcm" for n in range(1, 6)]


def test_what_no_header_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'Transducer' is no DICOM keyword"):
        write_clip(clip(header={"Transducer": "x"}), tmp_path / "a.dcm", WHO)
    with pytest.raises(ValueError, match=r"StationName: .*17.*16"):
        write_clip(clip(header={"StationName": "x" * 17}), tmp_path / "a.dcm", WHO)
    sheared = sagittal()
    sheared[1, 0] += 0.5
    with pytest.raises(ValueError, match="not at right angles"):
        write_series(volume(sheared), tmp_path / "t2", WHO, "mri")
    dense = volume(axial(), sequence="ct")
    dense.array[0, 0, 0] = 32000
    with pytest.raises(ValueError, match="32000 HU does not fit"):
        write_series(dense, tmp_path / "ct", WHO, "ct")
    for wrong in ({"patient": "A\\B"}, {"patient": ""}, {"site": "x" * 9}, {"age": -1}):
        with pytest.raises(ValueError, match="can't hold"):
            replace(WHO, **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None,
    reason="the validator dciodvfy is not installed; Debian and Ubuntu have it in the package dicom3tools",
)
@pytest.mark.parametrize("kind", ["clip", "colour", "still", *SEQUENCES, "unknown", "ct"])
def test_validator_finds_no_error(tmp_path: Path, kind: str) -> None:
    if kind in ("clip", "colour", "still"):
        path = tmp_path / "a.dcm"
        write_clip(clip(1 if kind == "still" else 5), path, WHO, colour=kind == "colour")
    else:
        modality: Literal["mri", "ct"] = "ct" if kind == "ct" else "mri"
        rendered = volume(axial() if kind == "ct" else sagittal(), sequence=kind)
        if kind == "ct":
            rendered = replace(rendered, header={"KVP": 120, "XRayTubeCurrent": 210})
        write_series(rendered, tmp_path / "series", WHO, modality)
        path = tmp_path / "series" / "IM0001.dcm"
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    findings = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line or "Warning" in line]
    # A b-value is no attribute of the MR Image object, yet where scanners that write it put it.
    known = [line for line in findings if "b-value" in line or "Standard Extended SOP Class" in line]
    assert findings == (known if kind == "dwi_sag" else [])
