"""Loops of small bowel above the pelvic organs: hairpins of tubes with wall, folds, fluid and gas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate import shapes
from xmkd.simulate.grids import Grid
from xmkd.simulate.scene import Region
from xmkd.simulate.shapes import Point3

COUNT = 26


@dataclass(frozen=True)
class Loop:
    """One loop: its centre line (x, y, z in mm), its radius in mm, its content: share of fluid and of gas."""

    points: tuple[Point3, ...]
    radius: float
    fluid: float
    gas: bool
    folds: float


def draw(rng: np.random.Generator) -> tuple[Loop, ...]:
    """Draw the loops of a patient; the number of draws is fixed."""
    loops = []
    for k in range(COUNT):
        normal, uniform = rng.normal(size=(6, 3)), rng.uniform(size=8)
        centre = np.array(
            [-60 + 120 * ((7 * k % COUNT) + uniform[0]) / COUNT, -84 + 112 * uniform[1], 44 + 84 * uniform[2] ** 0.8]
        )
        along = normal[0] * (1.0, 1.0, 0.55)
        along /= np.linalg.norm(along)
        aside = np.cross(along, normal[1])
        aside /= np.linalg.norm(aside)
        t = np.linspace(-1.1, 1.1, 6)[:, None]  # a hairpin or an S
        bend = np.cos(1.4 * t) if uniform[3] < 0.6 else np.sin(2.4 * t)
        points = centre + 26 * along * t + 15 * aside * bend + 3 * normal[:6]
        loops.append(
            Loop(
                tuple((float(a), float(b), float(c)) for a, b, c in points),
                float(8.5 + 5.5 * uniform[4]),
                float(uniform[5]),
                bool(uniform[6] < 0.25),
                float(4.0 + 2.0 * uniform[7]),
            )
        )
    return tuple(loops)


def regions(loops: tuple[Loop, ...], relief: Tensor, depth: Tensor, grid: Grid) -> Iterator[Region]:
    """Wall, content and gas of every loop; later loops lie over earlier ones.

    Args:
        loops: The patient's loops.
        relief: Unevenness of their surface in mm, `(X, P, Q)`.
        depth: How far behind the abdominal wall each point lies in mm, `(X, P, Q)`.
        grid: Where.
    """
    for loop in loops:
        reach = loop.radius + 3
        box = shapes.box_of(grid, shapes.around(loop.points, reach))
        if box is None:
            continue
        part = grid.crop(box)
        uneven = relief[box]
        tube = torch.maximum(_distance(loop, part) + 0.7 * uneven, 2 - depth[box])
        yield Region("bowel_wall", tube, box, None, 0.4)
        inner = tube + 2.3
        if loop.fluid > 0.4:  # only in a filled loop can folds be told apart
            ripple = (part.z * 0.8 + part.y * 0.55 + part.x * 0.3 + 2.0 * uneven) * (6.2832 / loop.folds)
            inner += (torch.cos(ripple) - 0.4).clamp_(min=0) * (1.0 + uneven.clamp(-1, 1))
        yield Region("bowel_content" if loop.fluid > 0.4 else "chyme", inner, box, None, 0.6)
        if loop.gas:  # gas lies at the front
            middle = sum(p[1] for p in loop.points) / len(loop.points)
            yield Region("gas", torch.maximum(inner + 0.5, (part.y - middle) * 0.9 + 4), box, None, 0.5)


def _distance(loop: Loop, part: Grid) -> Tensor:
    radii = [loop.radius * f for f in (0.85, 1.05, 0.95, 1.1, 0.9, 1.0)]
    return shapes.thick_tube(part, loop.points, radii)
