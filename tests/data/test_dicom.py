"""Single DICOM files: pixel values against other decoders, calibration, enhanced multi-frame, damage, identifiers."""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image as Pillow
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRBigEndian

from xmkd.data.readers import read
from xmkd.errors import ReadError

from . import dicom_files as make

WHEEL = Path(pydicom.__file__).parent / "data"
FILES = WHEEL / "test_files"
SECONDS_PER_FILE = 30
# GDCM misreads RGB with several bytes per sample in RLE; these are checked against their 8-bit twin instead.
GDCM_WRONG = {"SC_rgb_rle_16bit", "SC_rgb_rle_16bit_2frame", "SC_rgb_rle_32bit", "SC_rgb_rle_32bit_2frame"}
GDCM_SLOW = {"SC_rgb_jpeg"}  # takes GDCM 5 s; its twin SC_rgb_jpeg_app14_dcmd is compared
JPEG_ROUNDING = 3  # grey levels two JPEG decoders may differ by

rng = np.random.default_rng(0)


def outcome(path: Path) -> str:
    try:
        image = read(path)
    except ReadError as error:
        complete = error.where == str(path) and len(error.fixes) == 2
        return "named error" if complete else f"an error that does not say enough: {error}"
    return "read" if image.array.ndim == {"image": 3, "clip": 4, "volume": 4}[image.kind] else "wrong shape"


def test_every_dicom_file_of_the_pydicom_wheel_reads_or_gives_a_named_error() -> None:
    files = sorted(WHEEL.rglob("*.dcm"))
    # In another process, so that a crash or an endless loop of a codec fails this test only.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        outcomes = [pool.submit(outcome, file).result(timeout=SECONDS_PER_FILE) for file in files]
    count = outcomes.count("read")
    print(f"\n{len(files)} files of the pydicom wheel: {count} read, {outcomes.count('named error')} named errors")
    assert set(outcomes) == {"read", "named error"}
    assert count >= 60


def comparable() -> list[Path]:
    """Files of the wheel that both we and SimpleITK (through GDCM) read."""
    return [f for f in sorted(WHEEL.rglob("*.dcm")) if f.stem not in GDCM_WRONG | GDCM_SLOW and outcome(f) == "read"]


def test_pixel_values_equal_those_of_simpleitk() -> None:
    checked = 0
    for file in comparable():
        reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))).astype(float)
        image = read(file)
        ours = np.moveaxis(image.array if image.kind == "clip" else image.array[:, None], 0, -1)
        ours = ours[..., 0] if image.array.shape[0] == 1 else ours
        tolerance = JPEG_ROUNDING if str(image.metadata["compression"]).startswith(("JPEG B", "JPEG E")) else 0
        assert ours.shape == reference.shape, file.name
        assert np.abs(ours - reference).max() <= tolerance, file.name
        assert ours.dtype.isnative
        checked += 1
    assert checked >= 55


@pytest.mark.parametrize("name", sorted(GDCM_WRONG))
def test_wide_rle_colours_equal_their_eight_bit_twin(name: str) -> None:
    wide = read(FILES / f"{name}.dcm").array
    twin = read(FILES / ("SC_rgb_rle_2frame.dcm" if "2frame" in name else "SC_rgb_rle.dcm")).array
    np.testing.assert_allclose(wide / np.iinfo(wide.dtype).max, twin / 255)


def test_ultrasound_clip_is_rgb_with_its_calibration_and_frame_time() -> None:
    path = FILES / "examples_ybr_color.dcm"
    image = read(path, modality="tvus")
    assert (image.kind, image.modality, image.array.shape) == ("clip", "us", (3, 30, 240, 320))
    region = pydicom.dcmread(path).SequenceOfUltrasoundRegions[0]
    assert image.spacing_mm == pytest.approx((10 * region.PhysicalDeltaY, 10 * region.PhysicalDeltaX))
    assert image.frame_time_ms == pytest.approx(33.333)
    stream = get_frame(pydicom.dcmread(path).PixelData, 7, number_of_frames=30)
    reference = np.moveaxis(np.asarray(Pillow.open(io.BytesIO(stream)).convert("RGB")), -1, 0).astype(int)
    assert np.abs(image.array[:, 7] - reference).max() <= JPEG_ROUNDING


def test_palette_is_looked_up_to_eight_bits() -> None:
    header = pydicom.dcmread(FILES / "examples_palette.dcm")
    tables = [
        np.frombuffer(header[f"{c}PaletteColorLookupTableData"].value, "<u2") >> 8 for c in ("Red", "Green", "Blue")
    ]
    image = read(FILES / "examples_palette.dcm")
    assert image.array.dtype == np.uint8
    np.testing.assert_array_equal(image.array, np.stack([table[header.pixel_array] for table in tables]))


def test_big_endian_palette_gives_the_same_colours(tmp_path: Path) -> None:
    file = pydicom.dcmread(FILES / "examples_palette.dcm")
    expected = read(FILES / "examples_palette.dcm").array
    for colour in ("Red", "Green", "Blue"):
        element = file[f"{colour}PaletteColorLookupTableData"]
        element.value = np.frombuffer(element.value, "<u2").astype(">u2").tobytes()
    file["PixelData"].VR = "OB"
    file.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = tmp_path / "big.dcm"
    pydicom.dcmwrite(path, file, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(read(path).array, expected)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([make.us_region((0.02, 0.03), (0, 0, 40, 30))], (0.3, 0.2)),
        # a spectrum in seconds beside the tissue, larger than it
        ([make.us_region((0.5, 0.5), (0, 0, 48, 32), units=4), make.us_region((0.02, 0.03), (0, 0, 9, 9))], (0.3, 0.2)),
        # two tissue regions: the larger
        ([make.us_region((0.1, 0.1), (0, 0, 9, 9)), make.us_region((-0.02, 0.03), (0, 9, 40, 30))], (0.3, 0.2)),
        ([make.us_region((0.0, 0.03), (0, 0, 40, 30))], (5.0, 4.0)),  # no delta: the header's pixel spacing
        ([], (5.0, 4.0)),
    ],
)
def test_calibration_of_ultrasound_regions(
    tmp_path: Path, regions: list[pydicom.Dataset], expected: tuple[float, float]
) -> None:
    file = make.us_image(np.zeros((32, 48), np.uint8), SequenceOfUltrasoundRegions=regions, PixelSpacing=[5, 4])
    assert read(make.save(file, tmp_path / "us.dcm")).spacing_mm == pytest.approx(expected)


def test_region_beyond_the_image_is_told() -> None:
    metadata = read(FILES / "examples_ybr_color.dcm").metadata  # 320 x 240, but its region ends at 595 x 414
    assert metadata["calibration"] == "ultrasound region, larger than the image"
    assert "region_x0" not in metadata


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"PixelSpacing": [0, 0.5]}, None),
        ({}, None),
    ],
)
def test_other_calibrations(tmp_path: Path, elements: dict[str, object], expected: tuple[float, float] | None) -> None:
    file = make.us_image(np.zeros((4, 6), np.uint8), **elements)
    assert read(make.save(file, tmp_path / "us.dcm")).spacing_mm == expected


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"FrameTime": "40"}, 40),
        ({"FrameTimeVector": ["0", "30", "50"]}, 40),
        ({"CineRate": "25"}, 40),
        ({"FrameTime": "0", "RecommendedDisplayFrameRate": "20"}, 50),
        ({}, None),
    ],
)
def test_frame_time(tmp_path: Path, elements: dict[str, object], expected: float | None) -> None:
    image = read(make.save(make.us_clip(rng.integers(0, 255, (3, 4, 6), np.uint8), **elements), tmp_path / "clip.dcm"))
    assert (image.kind, image.array.shape) == ("clip", (1, 3, 4, 6))
    assert image.frame_time_ms == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_inverted_within_the_stored_bits(tmp_path: Path, dtype: type[np.integer]) -> None:
    pixels = np.array([[0, 1], [100, 7]], dtype)
    path = make.save(make.us_image(pixels, PhotometricInterpretation="MONOCHROME1"), tmp_path / "a.dcm")
    limits = np.iinfo(dtype)
    np.testing.assert_array_equal(read(path).array[0], limits.max + limits.min - pixels.astype(int))


def test_quantities_are_not_inverted(tmp_path: Path) -> None:
    pixels = np.array([[0, 1], [100, 7]], np.int16)
    path = make.save(make.us_image(pixels, PhotometricInterpretation="MONOCHROME1", Modality="CT"), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read(path).array[0], pixels)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"), [(1, -1024, np.int16), (3, 70000, np.int32), (0.25, 1.5, np.float32)]
)
def test_rescale(tmp_path: Path, slope: float, intercept: float, dtype: type) -> None:
    pixels: np.ndarray = rng.integers(1, 500, (5, 6)).astype(np.uint16)
    file = make.us_image(pixels, RescaleSlope=slope, RescaleIntercept=intercept)
    image = read(make.save(file, tmp_path / "a.dcm"))
    assert image.array.dtype == dtype
    np.testing.assert_allclose(image.array[0], pixels * float(slope) + intercept)


def test_data_set_without_meta_header(tmp_path: Path) -> None:
    pixels = rng.integers(0, 255, (5, 6), np.uint8)
    path = tmp_path / "1.2.3.4"
    pydicom.dcmwrite(path, make.without(make.us_image(pixels), "file_meta"), implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read(path).array[0], pixels)


def test_metadata_carries_no_identifiers(tmp_path: Path) -> None:
    secret = "SECRET"
    file = make.us_image(
        np.zeros((4, 6), np.uint8),
        PatientName=secret, PatientBirthDate="19700102", AccessionNumber=secret, StudyDate="20240203",
        InstitutionName=secret, StudyDescription=secret, SeriesDescription=secret, ReferringPhysicianName=secret,
        ImageComments=secret, StationName=secret, DeviceSerialNumber=secret, StudyID=secret, ProtocolName=secret,
        PatientID=secret, OperatorsName=secret, Manufacturer="ACME", TransducerType="ENDOCAVITY",
    )  # fmt: skip
    metadata = read(make.save(file, tmp_path / "a.dcm")).metadata
    assert metadata["manufacturer"] == "ACME"
    assert metadata["series_uid"] == file.SeriesInstanceUID
    shown = " ".join(map(str, metadata.values()))
    for hidden in (secret, "19700102", "20240203", file.SOPInstanceUID, file.StudyInstanceUID):
        assert hidden not in shown


@pytest.mark.filterwarnings("error")
def test_warnings_stay_off_the_terminal(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert read(FILES / "MR_small_padded.dcm").metadata["reader_warnings"] == 1
    with pytest.raises(ReadError):
        read(FILES / "JPEG-lossy.dcm")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# --- enhanced multi-frame


def test_enhanced_mr_becomes_a_volume_in_spatial_order(tmp_path: Path) -> None:
    volume, affine = rng.integers(0, 900, (6, 5, 7)).astype(np.uint16), make.oblique_affine()
    rescale = [(1 + 0.5 * i, 10 * i) for i in range(6)]
    file = make.enhanced_mr(volume, affine, rescale)
    shuffled = [3, 0, 5, 1, 4, 2]
    file.PixelData = volume[shuffled].tobytes()
    file.PerFrameFunctionalGroupsSequence = [file.PerFrameFunctionalGroupsSequence[i] for i in shuffled]
    image = read(make.save(file, tmp_path / "enhanced.dcm"))
    assert (image.kind, image.modality) == ("volume", "mri")
    assert image.affine is not None
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert image.spacing_mm == pytest.approx((3.3, 0.5, 0.7))
    slopes, intercepts = np.array(rescale).T[:, :, None, None]
    np.testing.assert_allclose(image.array[0], volume * slopes + intercepts)


def test_enhanced_mr_with_a_missing_frame_is_an_error(tmp_path: Path) -> None:
    volume, affine = np.zeros((6, 5, 7), np.uint16), make.oblique_affine()
    file = make.enhanced_mr(volume, affine, [(1, 0)] * 6)
    file.PerFrameFunctionalGroupsSequence = [f for i, f in enumerate(file.PerFrameFunctionalGroupsSequence) if i != 2]
    file.NumberOfFrames, file.PixelData = 5, volume[:5].tobytes()
    with pytest.raises(ReadError, match=r"missing: at .* between frame 2 .* and frame 3"):
        read(make.save(file, tmp_path / "enhanced.dcm"))


def test_enhanced_frames_without_position_are_an_error(tmp_path: Path) -> None:
    file = make.enhanced_mr(np.zeros((3, 5, 7), np.uint16), make.oblique_affine(), [(1, 0)] * 3)
    del file.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    with pytest.raises(ReadError, match="1 of 3 frames have no position"):
        read(make.save(file, tmp_path / "enhanced.dcm"))


def test_ultrasound_volume_is_not_taken_for_a_clip(tmp_path: Path) -> None:
    file = make.enhanced_mr(np.zeros((3, 5, 7), np.uint8), make.oblique_affine(), [(1, 0)] * 3)
    file.Modality = "US"
    for groups in file.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence
    assert read(make.save(file, tmp_path / "clip.dcm")).kind == "clip"
    for groups in file.PerFrameFunctionalGroupsSequence:
        groups.PlanePositionVolumeSequence = [make.item(ImagePositionVolume=[0.0, 0.0, 1.0])]
    with pytest.raises(ReadError, match="3 of 3 frames have no position"):
        read(make.save(file, tmp_path / "volume.dcm"))


def test_enhanced_cine_at_one_place_becomes_a_clip(tmp_path: Path) -> None:
    volume = rng.integers(0, 900, (3, 5, 7)).astype(np.uint16)
    still = make.oblique_affine()
    still[:3, 0] = 0
    file = make.enhanced_mr(volume, make.oblique_affine(), [(1, 0)] * 3)
    for groups in file.PerFrameFunctionalGroupsSequence:
        groups.PlanePositionSequence[0].ImagePositionPatient = make.decimals(still[:3, 3])
    image = read(make.save(file, tmp_path / "cine.dcm"))
    assert image.kind == "clip"
    assert image.spacing_mm == pytest.approx((0.5, 0.7))
    np.testing.assert_array_equal(image.array[0], volume)


# --- what is no image, or not a whole one


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtstruct.dcm", "no image .*RTSTRUCT"),
        ("rtplan.dcm", "no image .*RTPLAN"),
        ("test-SR.dcm", "no image .*SR"),
        ("waveform_ecg.dcm", "no image .*Waveform"),
        ("rtdose.dcm", "no image: a radiotherapy dose map"),
        ("liver_1frame.dcm", "no image: a segmentation"),
        ("MR_truncated.dcm", "less than expected"),
    ],
)
def test_other_objects_say_what_they_are(name: str, message: str) -> None:
    with pytest.raises(ReadError, match=message) as caught:
        read(FILES / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_rgb_color.dcm", "MR_small_RLE.dcm"])
@pytest.mark.parametrize("share", [0.0, 0.0005, 0.002, 0.1, 0.5, 0.9, 0.97])
def test_cut_files_are_named_errors(tmp_path: Path, name: str, share: float) -> None:
    whole = (FILES / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ReadError) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_encrypted_files(tmp_path: Path) -> None:
    file = make.without(make.us_image(np.zeros((4, 6), np.uint8)), "PixelData", "Rows", "Columns")
    file.EncryptedAttributesSequence = [make.item(EncryptedContent=b"1234")]
    envelope = tmp_path / "secure.dcm"
    envelope.write_bytes(bytes.fromhex("30820400") + bytes.fromhex("06092a864886f70d010703") + bytes(200))
    for path in (make.save(file, tmp_path / "a.dcm"), envelope):
        with pytest.raises(ReadError, match="is encrypted"):
            read(path)


def test_wrong_modality_and_series(tmp_path: Path) -> None:
    path = FILES / "examples_rgb_color.dcm"
    with pytest.raises(ReadError, match='modality "mri", but the file says "us"'):
        read(path, modality="mri")
    with pytest.raises(ReadError, match=r"not 1\.2\.3"):
        read(path, series="1.2.3")
    assert read(path, series=str(pydicom.dcmread(path).SeriesInstanceUID)).modality == "us"
    other = make.save(make.us_image(np.zeros((4, 6), np.uint8), Modality="OT"), tmp_path / "sc.dcm")
    assert read(other).modality is None
    assert read(other, modality="us").modality == "us"


def test_video_codec_says_how_to_convert(tmp_path: Path) -> None:
    file = pydicom.dcmread(FILES / "examples_ybr_color.dcm")
    file.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    with pytest.raises(ReadError, match="MPEG-4") as caught:
        read(make.save(file, tmp_path / "video.dcm"))
    assert "gdcmconv" in str(caught.value)
