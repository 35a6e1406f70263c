"""What a machine burns into the picture: text, rulers, a grey bar, calipers. It stands still while the tissue moves.

Drawn after the scan conversion, with a 3 x 5 font of its own, so that no font file is needed. Calipers measure the
uterus of the shared anatomy, never the disease, so that neither they nor their readings tell anything of the label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkd.simulate.anatomy import Pelvis
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.ultrasound.fan import Picture
from xmkd.simulate.ultrasound.machine import Machine
from xmkd.simulate.ultrasound.motion import Motion
from xmkd.simulate.ultrasound.probe import POSE_DRAWS, Pose

# Five rows per glyph, each an octal digit whose bits are the three columns.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71317", "4": "55711", "5": "74717", "6": "74757", "7": "71122",
    "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644",
    "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "65555",
    "O": "25552", "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552",
    "W": "55775", "X": "55255", "Y": "55222", "Z": "71247", ".": "00002", ":": "02020", "/": "11244", "%": "51245",
    "-": "00700", "+": "02720", " ": "00000",
}  # fmt: skip
_LABELS = ("UT SAG", "UT", "SAG", "ML", "TV", "LONG", "UTERUS", "SAG ML")


@dataclass(frozen=True, eq=False)
class _Screen:
    """Frames `(T, H, W)` that are drawn on, and the size of one dot of the font in pixels."""

    frames: np.ndarray
    dot: int

    def box(self, top: float, left: float, height: int, width: int, value: int) -> None:
        """Fill a rectangle, clipped to the picture."""
        rows, columns = (slice(max(0, round(a)), max(0, round(a) + size)) for a, size in ((top, height), (left, width)))
        self.frames[:, rows, columns] = value

    def text(self, words: str, top: float, left: float, value: int) -> None:
        """Write a line of text."""
        for index, letter in enumerate(words.upper()):
            for row, bits in enumerate(_GLYPHS.get(letter, _GLYPHS["-"])):
                for column in range(3):
                    if int(bits) >> (2 - column) & 1:
                        x = left + (4 * index + column) * self.dot
                        self.box(top + row * self.dot, x, self.dot, self.dot, value)

    def cross(self, row: float, column: float, value: int) -> None:
        """A caliper's mark."""
        arm = 2 * self.dot
        self.box(row - arm, column, 2 * arm + 1, 1, value)
        self.box(row, column - arm, 1, 2 * arm + 1, value)

    def dots(self, start: tuple[float, float], end: tuple[float, float], value: int) -> None:
        """A dotted line between two pixels."""
        count = max(2, int(np.hypot(end[0] - start[0], end[1] - start[1]) / (4 * self.dot)))
        for share in np.linspace(0, 1, count + 1)[1:-1]:
            self.box(start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]), 1, 1, value)


def burn(
    frames: np.ndarray, pelvis: Pelvis, pose: Pose, machine: Machine, motion: Motion, seeds: Seeds, *, still: bool
) -> bool:
    """Draw on frames, uint8 `(T, H, W)`, in place.

    Args:
        frames: The picture.
        pelvis: Whose uterus the calipers measure.
        pose: How the probe is held.
        machine: Its maker decides where things stand.
        motion: Where the uterus is in the first frame, to which calipers are set.
        seeds: Component "protocol" of the examination; the first draws of it are the probe's.
        still: Stills carry calipers more often than clips.

    Returns:
        Whether anything that reads as an annotation was drawn; rulers alone are none.
    """
    rng = seeds.numpy("protocol")
    rng.normal(size=POSE_DRAWS)
    uniform = rng.uniform(size=16)
    screen = _Screen(frames, max(1, min(frames.shape[1:]) // 200))
    value = int(150 + 90 * uniform[0])
    _ruler(screen, machine, value)
    drawn = False
    if uniform[1] < 0.6:
        _grey_bar(screen, machine.maker.ruler)
    if uniform[2] < 0.7:
        _settings(screen, machine, 2 + int(3 * uniform[3]), value)
        drawn = True
    if uniform[4] < 0.2:
        label = _LABELS[int(uniform[5] * len(_LABELS))]
        place = (0.15 + 0.6 * uniform[6]) * frames.shape[1], (0.15 + 0.5 * uniform[7]) * frames.shape[2]
        screen.text(label, *place, value)
        drawn = True
    if uniform[8] < (0.35 if still else 0.08):
        ends = motion.frames(0, 1).in_frames(_diameters(pelvis, pose), machine.fan)[0]
        _calipers(screen, ends.numpy(), machine.picture, uniform[9:12], value)
        drawn = True
    return drawn


def _ruler(screen: _Screen, machine: Machine, value: int) -> None:
    """A tick per centimetre of depth, and the focus."""
    _, height, width = screen.frames.shape
    column = 1.0 if machine.maker.ruler == "left" else width - 3.0 * screen.dot
    picture = machine.picture
    for centimetre in range(int(machine.fan.depth_mm // 10) + 1):
        row = (10 * centimetre - picture.top_mm) / picture.spacing_mm
        if row < height - 1:
            screen.box(row, column, 1, screen.dot * (2 if centimetre % 5 == 0 else 1), value)
    row = (machine.beam.focus_mm - picture.top_mm) / picture.spacing_mm
    screen.box(row - screen.dot, column + 2 * screen.dot, 2 * screen.dot, screen.dot, value)


def _grey_bar(screen: _Screen, side: str) -> None:
    """The grey map, white on top."""
    _, height, width = screen.frames.shape
    top, size, thick = round(0.04 * height), round(0.28 * height), 2 * screen.dot
    left = 0 if side == "left" else width - thick
    ramp = np.linspace(255, 0, size).astype(np.uint8)
    screen.frames[:, top : top + size, left : left + thick] = ramp[None, :, None]


def _settings(screen: _Screen, machine: Machine, lines: int, value: int) -> None:
    """A block of text: maker, frequency, depth, gain, dynamic range."""
    words = (
        machine.maker.name,
        f"{machine.beam.frequency_mhz:.1f}MHZ",
        f"{machine.fan.depth_mm / 10:.1f}CM",
        f"GN {round(machine.gain_db + 34)}",
        f"DR {machine.range_db:.0f}",
    )[:lines]
    width = screen.frames.shape[2]
    for index, line in enumerate(words):
        left = 5 * screen.dot if machine.maker.corner == "left" else width - (4 * len(line) + 4) * screen.dot
        screen.text(line, (2 + 7 * index) * screen.dot, left, value)


def _diameters(pelvis: Pelvis, pose: Pose) -> Tensor:
    """Ends of the uterus' length and front-back diameter at rest, lateral and axial mm, `(2, 2, 2)`."""
    axis, length, body = pelvis.uterus.axis, pelvis.uterus.length, pelvis.uterus.body
    pairs = ((2.0, 0.0), (length - 1.0, 0.0)), ((0.72 * length, -body), (0.72 * length, body))
    return torch.tensor([[pose.plane(*axis.beside(s, n)) for s, n in pair] for pair in pairs])


def _calipers(screen: _Screen, ends: np.ndarray, picture: Picture, uniform: np.ndarray, value: int) -> None:
    """One or two distances, set by a hand that is not quite steady, and the box with their lengths."""
    _, height, width = screen.frames.shape
    readings = []
    for number, pair in enumerate(ends[: 1 + int(uniform[0] < 0.6)], start=1):
        planar = pair + 3.0 * (uniform[1:3] - 0.5)
        pixels = [picture.pixel_of(*point) for point in planar.tolist()]
        for pixel in pixels:
            screen.cross(*pixel, value)
        screen.dots(pixels[0], pixels[1], value)
        readings.append(f"{number} D {np.hypot(*(planar[1] - planar[0])) / 10:.2f}CM")
    tall, wide = 7 * screen.dot, 4 * screen.dot * max(len(r) for r in readings) + 2 * screen.dot
    top, left = height - tall * len(readings) - 2 * screen.dot, width - wide - screen.dot
    screen.box(top, left, tall * len(readings), wide, 20)
    for index, reading in enumerate(readings):
        screen.text(reading, top + index * tall + screen.dot, left + screen.dot, value)
