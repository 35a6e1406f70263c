"""The worst mistakes as pictures, with what the network looked at. Pictures of patients stay in the run folder."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from xmkd.data.preprocess import prepare
from xmkd.data.readers import read
from xmkd.data.streams import Stream
from xmkd.errors import XmkdError
from xmkd.evaluation.inputs import score_columns
from xmkd.evaluation.thresholds import DEFAULT_THRESHOLD, Threshold, cuts
from xmkd.methods import METHODS
from xmkd.methods.base import Method, Task
from xmkd.nets.classifiers import take_frames
from xmkd.reporting.blocks import Gallery, Picture, Section, Text, data_uri, public
from xmkd.reporting.evidence import Evidence
from xmkd.reporting.gradcam import Network, enlarge, gradcam

EACH = 4  # pictures of each kind of mistake
SHOWN_PX = 224  # smaller pictures are enlarged to this: a browser would smear them otherwise
SLICES = (0.35, 0.5, 0.65)  # of the depth
OVERLAY = 0.6  # opacity where the map is 1

MAPPED = (
    "Left: the picture as the model saw it. Right: Grad-CAM, brighter where the last feature map spoke for the model's "
    "wrong answer; each map is scaled to its own maximum and can show no more than its few places."
)
SLICED = (
    "Three slices of each volume as the model saw it. There is no Grad-CAM of volumes: the network's last features are "
    "tokens that have all looked at each other."
)

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Mistake:
    """A sample that the model got wrong.

    Attributes:
        sample_id: The sample.
        fold: Which fold's model predicted it; None without folds.
        kind: As in "False negative".
        truth: Its class.
        said: The class that the model chose.
        score: Probability of the positive class, or of the chosen one of several.
        output: Number of the logit behind the decision.
        sign: -1 where a low logit made the decision.
    """

    sample_id: str
    fold: int | None
    kind: str
    truth: str
    said: str
    score: float
    output: int
    sign: float


def mistakes(evidence: Evidence) -> Section:
    """The most confident mistakes."""
    section = Section("mistakes", "Worst mistakes")
    chosen = worst(evidence.table, evidence.classes, evidence.threshold or DEFAULT_THRESHOLD)
    if not chosen:
        section.blocks.append(Text("There are no mistakes to show."))
        return section
    if evidence.stream is None:
        section.blocks.append(Text(f"The pictures can't be shown: {public(evidence.study_problem)}."))
        return section
    try:
        pictures, doubts = _pictures(evidence, chosen)
    except XmkdError as error:
        section.blocks.append(Text(f"The pictures can't be shown: {public(error.what)}."))
        return section
    caption = f"The most confident mistakes, at most one of a patient. {SLICED if _sliced(evidence) else MAPPED}"
    if evidence.stream.config.view == "clip":
        caption += " Of a clip the middle frame is shown; the first number of places is over time."
    if evidence.binary:
        caption += f" The score is the model's probability of {evidence.classes[1]}."
    section.blocks.append(Text("These are patients' pictures: this file must stay with the run folder."))
    section.blocks.append(Gallery(pictures, caption, f"{evidence.source}, the data set's files and checkpoints/"))
    section.blocks += [Text(f"No Grad-CAM: {doubt}.") for doubt in doubts]
    return section


def worst(table: pd.DataFrame, classes: list[str], threshold: float | Threshold, each: int = EACH) -> list[Mistake]:
    """The mistakes furthest from being right, at most one of a patient and kind.

    Args:
        table: A predictions table.
        classes: Names of the classes in order.
        threshold: Positive from this score on, or an operating point (two classes).
        each: How many of each kind; twice as many where there are no kinds, of several classes.
    """
    columns = score_columns(table)
    if len(columns) == 1:
        called = table["score"] >= cuts(table, threshold)
        missed = table[(table["label"] == 1) & ~called].sort_values("score")
        alarms = table[(table["label"] == 0) & called].sort_values("score", ascending=False)
        kinds = (("False negative", missed, 1, -1.0), ("False positive", alarms, 0, 1.0))
        return [
            Mistake(i, fold, kind, classes[truth], classes[1 - truth], score, 0, sign)
            for kind, rows, truth, sign in kinds
            for i, fold, score in _first(rows.assign(said=rows["score"]), each)
        ]
    scores = table[columns].to_numpy(dtype=np.float64)
    rows = table.assign(said=scores.max(axis=1), chosen=scores.argmax(axis=1))
    rows = rows[rows["chosen"] != rows["label"]].sort_values("said", ascending=False)
    found = []
    for sample_id, fold, score in _first(rows, 2 * each):
        row = rows[rows["sample_id"] == sample_id].iloc[0]
        truth, said = classes[int(row["label"])], classes[int(row["chosen"])]
        found.append(Mistake(sample_id, fold, "Wrong class", truth, said, score, int(row["chosen"]), 1.0))
    return found


def _first(rows: pd.DataFrame, count: int) -> list[tuple[str, int | None, float]]:
    kept = rows.drop_duplicates("patient_id").head(count)
    folds = [None if pd.isna(f) else int(f) for f in kept["fold"]] if "fold" in kept.columns else [None] * len(kept)
    return list(zip(kept["sample_id"].astype(str), folds, kept["said"].astype(float), strict=True))


def _pictures(evidence: Evidence, chosen: list[Mistake]) -> tuple[list[Picture], list[str]]:
    """Every mistake as a picture, and why some have no map."""
    stream, sliced = cast(Stream, evidence.stream), _sliced(evidence)
    root, rows = stream.manifest.require_root(), stream.table.set_index("sample_id")
    pictures: list[Picture] = []
    doubts: list[str] = []
    models: dict[int | None, Method | str] = {}
    for mistake in chosen:
        row = rows.loc[mistake.sample_id]
        file = read(root / str(row["path"]), modality=str(row["modality"]))
        array = prepare(file, stream.config.prep).array
        lines = [mistake.sample_id, f"truth: {mistake.truth}", f"model: {mistake.said}, score {mistake.score:.3f}"]
        if sliced:
            pictures.append(
                Picture(_jpeg(_slices(array), SHOWN_PX * len(SLICES)), None, mistake.kind, lines, wide=True)
            )
            continue
        fold = mistake.fold if evidence.folds else None
        if fold not in models:
            models[fold] = _model(evidence if fold is None else evidence.folds[fold], array.shape)
        image = _as_seen(evidence, torch.from_numpy(np.array(array)))
        found = _map(models[fold], image, mistake)
        grey, overlay = _middle(image[0, 0].mul(255).round().byte()).numpy(), None
        if isinstance(found, str):
            doubts += [found] if found not in doubts else []
        else:
            overlay = _jpeg(_blend(grey, _middle(enlarge(found, image.shape[2:])[0]).numpy()))
            places = " x ".join(str(n) for n in found.shape[1:])
            lines.append(f"map of {places} places" + ("" if found.any() else ", empty: nothing spoke for the answer"))
        pictures.append(Picture(_jpeg(grey), overlay, mistake.kind, lines))
    return pictures, doubts


def _model(evidence: Evidence, shape: tuple[int, ...]) -> Method | str:
    """The method with the weights that made the predictions, or why it can't be had."""
    if not evidence.weights:
        return "the checkpoint is not there any more"
    kind, stream = METHODS[evidence.experiment.method_name], evidence.stream
    if stream is None:
        return public(evidence.study_problem)
    counts = stream.class_counts("train")
    settings = evidence.experiment.method
    if hasattr(settings, "weights"):  # the checkpoint holds everything: nothing is to be fetched
        settings = type(settings)(**{**vars(settings), "weights": "none"})
    task = Task(tuple(counts), tuple(max(1, n) for n in counts.values()), shape)
    method = kind(settings, task, evidence.experiment.optim)  # type: ignore[call-arg, arg-type]  # as in training
    method.load_state_dict(evidence.weights["state_dict"])
    return method.eval()


def _as_seen(evidence: Evidence, array: Tensor) -> Tensor:
    """A prepared sample as the network takes it, `(1, 1, H, W)` or `(1, 1, T, H, W)` in [0, 1]."""
    image = array[None].float() / 255 if array.dtype == torch.uint8 else array[None].float()
    frames = getattr(evidence.experiment.method, "clip_frames", None)
    return take_frames(image, frames, image.new_full((1,), 0.5)) if image.ndim == 5 and frames else image


def _map(method: Method | str, image: Tensor, mistake: Mistake) -> Tensor | str:
    """The Grad-CAM map, or why there is none."""
    if isinstance(method, str):
        return method
    net = getattr(method, "net", None)
    if not hasattr(net, "features") or not hasattr(net, "head"):
        return "the method's network is not divided into features and head"
    found = gradcam(cast(Network, net), image, mistake.output, mistake.sign)
    return "the backbone's features have no places in the picture" if found is None else found


def _sliced(evidence: Evidence) -> bool:
    """Whether samples are volumes, of which slices are shown and no map."""
    return evidence.stream is not None and evidence.stream.config.is_volumetric


def _slices(volume: npt.NDArray[np.generic]) -> Grey:
    """Three slices about the middle of a volume `(C, D, H, W)` side by side, in grey."""
    shown = np.asarray(volume[0], dtype=np.float32)
    low, high = np.percentile(shown, (0.5, 99.5))
    places = [int(share * (len(shown) - 1)) for share in SLICES]
    row = np.concatenate([shown[place] for place in places], axis=1)
    return np.asarray(np.clip((row - low) / max(high - low, 1e-6), 0, 1) * 255, dtype=np.uint8)


def _middle(image: Tensor) -> Tensor:
    """The picture, or the middle frame of a clip."""
    return image[len(image) // 2] if image.ndim == 3 else image


def _blend(grey: Grey, found: npt.NDArray[np.float32]) -> Grey:
    """The map in colour over the picture, transparent where it is 0."""
    from matplotlib import colormaps

    colour = colormaps["inferno"](0.4 + 0.45 * found)[..., :3] * 255
    opacity = OVERLAY * found[..., None]
    return np.asarray((1 - opacity) * grey[..., None] + opacity * colour, dtype=np.uint8)


def _jpeg(picture: Grey, shown: int = SHOWN_PX) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    factor = shown / max(image.size)
    if factor > 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return data_uri(content.getvalue(), "image/jpeg")
