"""Steps that bring MR volumes onto a common grid and a common scale of intensity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xmkd.data.image import SKIP, Image
from xmkd.errors import ReadError

if TYPE_CHECKING:
    import SimpleITK

Array = NDArray[np.generic]


def grid_of(image: Image, *, needed: bool) -> NDArray[np.float64]:
    """The volume's affine; where the file has none, one that only knows the spacing (or 1 mm).

    Raises:
        ReadError: Neither affine nor spacing is known although it is needed.
    """
    if image.affine is not None:
        return np.asarray(image.affine, dtype=np.float64)
    if image.spacing_mm is None and needed:
        raise ReadError(
            "the volume has no voxel size, so it can't be resampled to millimetres",
            fixes=("store it in a format that has one (NIfTI, MHA, DICOM)", f"set mri.spacing_mm=null, or {SKIP}"),
        )
    grid = np.zeros((4, 4))
    grid[[2, 1, 0, 3], [0, 1, 2, 3]] = (*(image.spacing_mm or (1.0, 1.0, 1.0)), 1.0)
    return grid


def to_numpy(volume: SimpleITK.Image) -> NDArray[np.float32]:
    """The voxels, `(D, H, W)`."""
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(volume), dtype=np.float32)


def to_itk(array: Array, affine: NDArray[np.float64]) -> SimpleITK.Image:
    """An ITK volume of `(D, H, W)` voxels; `affine` maps their index (d, h, w, 1) to LPS mm."""
    import SimpleITK

    out = SimpleITK.GetImageFromArray(array.astype(np.float32))
    columns = affine[:3, [2, 1, 0]]  # ITK counts columns, rows, slices
    spacing = np.linalg.norm(columns, axis=0)
    out.SetSpacing([float(s) for s in spacing])
    out.SetDirection((columns / spacing).ravel().tolist())
    out.SetOrigin(affine[:3, 3].tolist())
    return out


def affine_of(volume: SimpleITK.Image) -> NDArray[np.float64]:
    """From an index (d, h, w, 1) to LPS mm, `(4, 4)`."""
    affine = np.eye(4)
    columns = np.array(volume.GetDirection()).reshape(3, 3) * np.array(volume.GetSpacing())
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = volume.GetOrigin()
    return affine


def resample(
    volume: SimpleITK.Image, orientation: str, spacing_mm: tuple[float, float, float] | None
) -> SimpleITK.Image:
    """Turn the axes and bring the voxels to size; the outer edge of the volume stays where it was."""
    import SimpleITK

    volume = SimpleITK.DICOMOrient(volume, orientation)
    if spacing_mm is None:
        return volume
    old, new = np.array(volume.GetSpacing()), np.array(spacing_mm[::-1], dtype=float)
    for axis in np.flatnonzero(new > old):
        if volume.GetSize()[axis] < 4:  # the filter's least; too few slices to alias
            continue
        # Blur before thinning out, to the new voxel's point spread (Cardoso et al., MICCAI 2015, eq. 4).
        sigma = float(np.sqrt(new[axis] ** 2 - old[axis] ** 2) / (2 * np.sqrt(2 * np.log(2))))
        volume = SimpleITK.RecursiveGaussian(volume, sigma=sigma, direction=int(axis))
    direction = np.array(volume.GetDirection()).reshape(3, 3)
    grid = SimpleITK.ResampleImageFilter()
    grid.SetSize(np.maximum(1, np.round(np.array(volume.GetSize()) * old / new)).astype(int).tolist())
    grid.SetOutputSpacing(new.tolist())
    grid.SetOutputDirection(volume.GetDirection())
    grid.SetOutputOrigin((np.array(volume.GetOrigin()) + direction @ ((new - old) / 2)).tolist())
    grid.SetInterpolator(SimpleITK.sitkLinear)
    grid.UseNearestNeighborExtrapolatorOn()  # the outermost half voxel
    return grid.Execute(volume)


def correct_bias(volume: SimpleITK.Image) -> SimpleITK.Image:
    """N4 (Tustison et al., IEEE TMI 2010), fitted on a thinned-out volume, as the field is smooth."""
    import SimpleITK

    body = SimpleITK.GetImageFromArray(body_of(SimpleITK.GetArrayViewFromImage(volume)).astype(np.uint8))
    body.CopyInformation(volume)
    thinner = [max(1, size // 64) for size in volume.GetSize()]
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50, 50])
    n4.Execute(SimpleITK.Shrink(volume, thinner), SimpleITK.Shrink(body, thinner))
    return volume / SimpleITK.Exp(n4.GetLogBiasFieldAsImage(volume))


def body_of(volume: NDArray[np.float32]) -> NDArray[np.bool_]:
    """All but air: above a tenth of the range, where the noise of magnitude images does not reach."""
    low, high = np.percentile(volume, (0.5, 99.5))
    body: NDArray[np.bool_] = volume > low + 0.1 * (high - low)
    return body if body.any() else np.ones_like(body)


def normalise(volume: NDArray[np.float32], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    """Clip at the percentiles, then mean 0 and standard deviation 1 over the body."""
    body = body_of(volume)
    volume = np.clip(volume, *np.percentile(volume, percentiles))
    inside = volume[body].astype(np.float64)
    return np.asarray((volume - inside.mean()) / max(float(inside.std()), 1e-6), dtype=np.float32)


def crop_or_pad(
    array: NDArray[np.float32], size: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Centre `(C, D, H, W)` in `size`, air outside; also the index of the new first voxel in the old array."""
    out = np.full((array.shape[0], *size), array.min(), dtype=np.float32)
    start = np.array([(old - new) // 2 for old, new in zip(array.shape[1:], size, strict=True)])
    source = tuple(slice(max(s, 0), s + n if s >= 0 else None) for s, n in zip(start, size, strict=True))
    part = array[(slice(None), *source)]
    target = tuple(slice(max(-s, 0), max(-s, 0) + n) for s, n in zip(start, part.shape[1:], strict=True))
    out[(slice(None), *target)] = part
    return out, start.astype(np.float64)
