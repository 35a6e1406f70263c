"""Drawings as `data:` addresses: vector graphics with the letters as outlines, so that they look alike everywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xmkd.evaluation.inputs import FloatArray
from xmkd.reporting.blocks import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by readers with any kind of colour vision (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#8a8a8a", "#222222"
MANY = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6a3d9a", "#444444", "#a05000", "#607d3b")
WIDTH, HEIGHT = 4.3, 3.5  # inches; at this width the letters stay legible on a telephone
STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": BLACK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "xmkd",  # the same drawing is the same text
    "path.simplify_threshold": 0.2,
}


class Drawing:
    """Axes to draw on; `src` is set when the `with` block ends."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.src = ""


@contextmanager
def drawing(height: float = HEIGHT) -> Iterator[Drawing]:
    """One drawing, without a window system and without touching the caller's own matplotlib settings."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")  # not through pyplot: no window, nothing global
        result = Drawing(figure.add_subplot())
        yield result
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        result.src = data_uri(content.getvalue(), "image/svg+xml")


def unit_square(axes: Axes, x: str, y: str) -> None:
    """Axes from 0 to 1 for two shares."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, xticks=_FIFTHS, yticks=_FIFTHS)
    axes.set_aspect("equal")


def band(axes: Axes, x: pd.Series, low: pd.Series, high: pd.Series, colour: str = BLUE) -> None:
    """A shaded band; nothing where its limits are NaN."""
    axes.fill_between(x.to_numpy(), low.to_numpy(), high.to_numpy(), color=colour, alpha=0.18, linewidth=0)


def histogram(axes: Axes, groups: Sequence[tuple[str, npt.ArrayLike, str]], bins: int = 20) -> None:
    """Outlined histograms of scores from 0 to 1 over each other: share of each group per bin.

    Args:
        axes: To draw on.
        groups: Name, scores and colour.
        bins: Number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    for name, scores, colour in groups:
        values: FloatArray = np.asarray(scores, dtype=np.float64)
        share = np.histogram(values, edges)[0] / max(1, values.size)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(share, edges, color=colour, linewidth=1.4, label=f"{name} (n={values.size})")
    axes.set(xlim=(0, 1), xlabel="score", ylabel="share of the class's samples")
    axes.set_ylim(bottom=0)


def forest(axes: Axes, rows: Sequence[tuple[str, float, float | None, float | None]], chance: float) -> None:
    """Values with their intervals, one below the other.

    Args:
        axes: To draw on.
        rows: Name, value, lower and upper end (None without an interval), from the top down.
        chance: Value of a guess, drawn as a line.
    """
    axes.axvline(chance, color=GREY, linewidth=1, linestyle=":")
    for y, (_, value, low, high) in enumerate(rows):
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=BLUE, linewidth=1.6)
        axes.plot([value], [y], "o", color=BLUE, markersize=5)
    axes.set(yticks=range(len(rows)), yticklabels=[name for name, *_ in rows], ylim=(len(rows) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")


_FIFTHS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
