"""What MRI and CT ask of a scanner: whose it is, how patients differ, and where its voxels lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmkd.simulate.randomness import Seeds
from xmkd.simulate.scan import Scan, affine

SHAPE, SPACING = (12, 40, 30), (5.0, 1.5, 1.2)


def test_a_site_has_one_scanner_and_a_patient_without_a_site_her_own() -> None:
    first, second = Seeds(3, "P1", "mri"), Seeds(3, "P2", "mri")
    north, south, none = (Scan(SHAPE, SPACING, site) for site in ("north", "south", ""))
    assert north.scanner(first) == north.scanner(second) != south.scanner(first)
    assert none.scanner(first) == first
    assert north.scanner(Seeds(4, "P1", "mri")) != north.scanner(first), "of another cohort"


@given(in_plane=st.floats(-0.3, 0.3), across=st.floats(-0.3, 0.3))
def test_pixels_keep_their_shape_and_slices_vary_by_themselves(in_plane: float, across: float) -> None:
    slices, rows, columns = Scan(SHAPE, SPACING).fitted(in_plane, across)
    assert rows / columns == pytest.approx(SPACING[1] / SPACING[2])
    assert math.log(rows / SPACING[1]) == pytest.approx(in_plane, abs=1e-9)
    assert math.log(slices / SPACING[0]) == pytest.approx(across, abs=1e-9)


@given(turn=st.floats(-math.pi, math.pi), centre=st.tuples(*[st.floats(-50, 50)] * 3))
def test_the_middle_of_the_voxels_is_the_centre(turn: float, centre: tuple[float, float, float]) -> None:
    c, s = math.cos(turn), math.sin(turn)
    found = affine(np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]]), SPACING, centre, SHAPE)
    corners = found @ np.array([[0, 0, 0, 1], [n - 1 for n in SHAPE] + [1]]).T
    assert corners.mean(axis=1) == pytest.approx([*centre, 1], abs=1e-9)
    assert np.linalg.norm(found[:3, :3], axis=0) == pytest.approx(SPACING)
