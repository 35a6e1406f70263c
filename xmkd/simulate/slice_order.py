"""Volumes as scanners and readers have them: slices in the order of their normal, directions at right angles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xmkd.simulate.rendered import Volume

_RIGHT_ANGLES = 1e-4  # cosine between two directions; readers of NIfTI refuse what is sheared


def along_normal(volume: Volume) -> Volume:
    """The same volume with its slices in the order of the normal, rows x columns as PS3.3 C.7.6.2.1.1 has them.

    Whoever puts slices in order by their position gets this order: image and mask must both have it.

    Raises:
        ValueError: The axes of the volume are not at right angles.
    """
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)  # columns: of d, h, w
    if not np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=_RIGHT_ANGLES):
        raise ValueError(f"the axes of {volume.sequence} are not at right angles: {directions.tolist()}")
    if np.cross(directions[:, 2], directions[:, 1]) @ directions[:, 0] > 0:
        return volume
    affine = volume.affine.copy()
    affine[:3, 3] += (len(volume.array) - 1) * affine[:3, 0]
    affine[:3, 0] *= -1
    return replace(volume, array=volume.array[::-1], mask=volume.mask[::-1], affine=affine)
