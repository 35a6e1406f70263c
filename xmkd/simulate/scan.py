"""What MRI and CT have in common: what is asked of a scanner, whose it is, and where its voxels lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmkd.simulate.randomness import Seeds

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Scan:
    """What to acquire.

    Attributes:
        shape: Slices, rows, columns.
        spacing: Usual distance between them in mm; patients differ.
        site: Whose scanner; empty for one of the patient's own.
    """

    shape: tuple[int, int, int]
    spacing: Triple
    site: str = ""

    def scanner(self, seeds: Seeds) -> Seeds:
        """Where a patient's scanner is drawn from: the same for all patients of a site."""
        return Seeds(seeds.cohort, f"site {self.site}") if self.site else seeds

    def fitted(self, in_plane: float, across: float) -> Triple:
        """The spacing for one patient.

        Args:
            in_plane: Relative change of the distance of rows and columns, as its logarithm.
            across: The same of the distance of slices.
        """
        zoom, thick = float(np.exp(in_plane)), float(np.exp(across))
        slices, rows, columns = self.spacing
        return slices * thick, rows * zoom, columns * zoom


def affine(directions: np.ndarray, spacing: Triple, centre: Triple, shape: tuple[int, int, int]) -> np.ndarray:
    """Index (slice, row, column, 1) to LPS in mm, `(4, 4)`, in double precision.

    Args:
        directions: Of slices, rows and columns, unit vectors as columns, `(3, 3)`.
        spacing: Distance of slices, rows, columns in mm.
        centre: x, y, z of the middle of the volume, mm.
        shape: Slices, rows, columns.
    """
    found = np.eye(4)
    found[:3, :3] = directions * np.asarray(spacing)
    found[:3, 3] = np.asarray(centre) - found[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return found
