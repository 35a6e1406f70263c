"""What every modality of the simulator returns, before it becomes a file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Header = dict[str, str | float | int]


@dataclass(frozen=True, eq=False)
class Clip:
    """An ultrasound clip or still as a machine would export it.

    Attributes:
        frames: uint8 `(T, H, W)`; T = 1 is a still.
        spacing_mm: Pixel size, `(H, W)`.
        frame_rate: Frames per second.
        sector: Rows and columns `(top, left, bottom, right)` of the picture, for the calibrated region of the header.
        mask: Organ labels of the first frame, uint8 `(H, W)`, by `scene.ORGANS`.
        header: Acquisition facts under DICOM keywords, such as "TransducerFrequency".
        truth: Numbers known only to the simulator, such as the slip in mm.
    """

    frames: np.ndarray
    spacing_mm: tuple[float, float]
    frame_rate: float
    sector: tuple[int, int, int, int]
    mask: np.ndarray
    header: Header = field(default_factory=dict)
    truth: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Volume:
    """One MR sequence or CT series.

    Attributes:
        array: int16 `(D, H, W)`: slices, rows, columns (HU for CT).
        affine: `(4, 4)` float64, index `(d, h, w, 1)` to LPS mm; row and column directions are orthogonal.
        mask: Organ labels, uint8 `(D, H, W)`, by `scene.ORGANS`.
        sequence: Its name in the manifest, such as "t2_sag".
        thickness_mm: Slice thickness; the distance between slices may be larger (gap).
        header: Acquisition facts under DICOM keywords, such as "EchoTime".
        truth: Numbers known only to the simulator.
    """

    array: np.ndarray
    affine: np.ndarray
    mask: np.ndarray
    sequence: str
    thickness_mm: float
    header: Header = field(default_factory=dict)
    truth: dict[str, float] = field(default_factory=dict)
