"""A small generated two-class study, for tests and for a first run without any data.

Every image is speckle with a dark ellipse; in the positive class the ellipse tends to be filled with faint echoes, in
the negative class to be empty and to brighten what lies behind it; the two overlap. It looks like nothing in medicine
and says nothing about any method; it only has the form of a real study: files, patients with several images, sites, a
card.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CARD = """\
name: {name}
title: Generated speckle with a filled or an empty ellipse
licence: Apache-2.0, made by xmkd
source: xmkd.data.toy.write_study
root: .
grouping: patient_id is a generated patient with {each} images
labels:
  filled:
    classes: [empty, filled]
    positive: filled
"""


def write_study(
    folder: Path,
    *,
    patients: int = 40,
    each: int = 4,
    size: int = 64,
    frames: int = 0,
    seed: int = 0,
    name: str = "toy",
) -> Path:
    """Write images (or clips), card and manifest.

    Args:
        folder: Where; made if it is not there.
        patients: Number of patients, half of them positive.
        each: Samples of each patient.
        size: Height and width in pixels.
        frames: 0 for PNG stills, else the number of frames of NPZ clips.
        seed: Seed of everything.
        name: Name of the data set and of the manifest.

    Returns:
        The manifest, `<folder>/<name>.csv`.
    """
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for p in range(patients):
        rng = np.random.default_rng([seed, p])
        for i in range(each):
            sample = f"p{p:03d}_{i}"
            pixels = _sample(rng, size, max(1, frames), filled=bool(p % 2))
            path = f"images/{sample}.{'npz' if frames else 'png'}"
            if frames:
                np.savez(folder / path, frames=pixels)
            else:
                Image.fromarray(pixels[0]).save(folder / path)
            rows.append((sample, f"p{p:03d}", "tvus", path, f"site_{p % 3}", "filled" if p % 2 else "empty"))
    columns = ["sample_id", "patient_id", "modality", "path", "site", "filled"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.yaml").write_text(CARD.format(name=name, each=each))
    return folder / f"{name}.csv"


def _sample(rng: np.random.Generator, size: int, frames: int, *, filled: bool) -> NDArray[np.uint8]:
    """`(frames, size, size)`; the ellipse drifts from frame to frame."""
    y, x = np.mgrid[0:size, 0:size] / size
    cy, cx = rng.uniform(0.35, 0.6, 2)
    ry, rx = rng.uniform(0.12, 0.22, 2)
    drift = rng.normal(0, 0.01, (frames, 2)).cumsum(axis=0)
    level = rng.uniform(0.35, 0.5)
    inner = max(0.0, rng.normal(0.35 if filled else 0.2, 0.1))
    enhancement = rng.normal(1.1 if filled else 1.25, 0.1)
    out = np.empty((frames, size, size), np.uint8)
    for t, (dy, dx) in enumerate(drift):
        inside = ((y - cy - dy) / ry) ** 2 + ((x - cx - dx) / rx) ** 2 < 1
        behind = (np.abs(x - cx - dx) < rx) & (y > cy + dy) & ~inside
        echo = level * np.where(inside, inner, 1.0) * np.where(behind, enhancement, 1.0)
        speckle = rng.rayleigh(0.8, (size, size))
        out[t] = np.clip(255 * echo * speckle, 0, 255)
    return out


if __name__ == "__main__":
    import sys

    print(write_study(Path(sys.argv[1]), patients=100))
