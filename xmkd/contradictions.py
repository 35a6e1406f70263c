"""What no single value of an experiment shows: numbers out of range, sections that do not fit each other.

Found before anything is read or trained, and all at once; what concerns one method alone stands with that method.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from xmkd.binding import nearest
from xmkd.config import Experiment, StreamConfig
from xmkd.evaluation.thresholds import POLICY
from xmkd.methods import METHODS

LOWEST = {
    "seed": 0,
    "data.folds": 2,
    "data.split.seed": 0,
    "data.num_workers": 0,
    "optim.weight_decay": 0,
    "optim.warmup_epochs": 0,
    "trainer.max_epochs": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.num_nodes": 1,
}
"""The smallest value of each of these settings."""
OTHER_VIEWS = {
    "image": ("mri", "patch", "volume_augment"),
    "clip": ("mri", "patch", "volume_augment"),
    "volume": ("ultrasound", "patch", "augment"),
    "patch": ("ultrasound", "augment"),
}
"""The settings of a stream that each view does not read."""
SHARES = ("data.split.val", "data.split.calib", "data.split.test", "optim.momentum")
"""Settings from 0 to below 1."""


def contradictions(experiment: Experiment) -> list[str]:
    """A line for each problem."""
    data = experiment.data
    problems = _out_of_range(experiment)
    if Path(experiment.name).name != experiment.name or experiment.name == "..":
        problems.append(f"experiment: {experiment.name!r} is to be a folder of its own below runs: no '/', no '..'")
    problems += [
        f"data.streams.{name}: the method {experiment.method_name!r} needs this stream" + nearest(name, data.streams)
        for name in METHODS[experiment.method_name].streams
        if name not in data.streams
    ]
    problems += [
        f"data.streams.{name}: the method {experiment.method_name!r} does not use it"
        + nearest(name, METHODS[experiment.method_name].streams)
        for name in data.streams
        if name not in (*METHODS[experiment.method_name].streams, *METHODS[experiment.method_name].optional)
    ]
    for name, stream in data.streams.items():
        problems += [f"data.streams.{name}.{problem}" for problem in _of_stream(stream)]
    if data.split.val + data.split.calib + data.split.test >= 1:
        problems.append("data.split: val + calib + test leave no patients for training")
    if data.fold is not None and not 0 <= data.fold < data.folds:
        problems.append(f"data.fold: {data.fold} is not in 0..{data.folds - 1}")
    if not _is_policy(str(experiment.evaluation.operating_point)):
        problems.append(
            f"evaluation.operating_point: {experiment.evaluation.operating_point!r} is neither a probability nor like "
            "'sens>=0.90', 'spec>=0.90' or 'youden'"
        )
    return problems


def _of_stream(stream: StreamConfig) -> list[str]:
    problems = [] if stream.batch_size >= 1 else [f"batch_size: {stream.batch_size} is less than 1"]
    if not stream.manifest:
        problems.append("manifest: a value is needed")
    if stream.view == "clip" and stream.ultrasound.frames is None:
        problems.append("ultrasound.frames: a clip view needs the number of frames")
    if stream.sampler == "balanced" and not stream.label:
        problems.append("sampler: balanced drawing needs a label")
    unset = StreamConfig()
    problems += [
        f"{key}: the view {stream.view!r} does not use it; leave it out, or choose another view"
        for key in OTHER_VIEWS[stream.view]
        if getattr(stream, key) != getattr(unset, key)
    ]
    return problems + _of_volumes(stream)


def _of_volumes(stream: StreamConfig) -> list[str]:
    size, patch = stream.mri.size, stream.patch
    if stream.view == "volume" and size is None:
        return ["mri.size: a volume view needs one shape (D, H, W) for all volumes, such as [32, 128, 128]"]
    if stream.view != "patch":
        return []
    if patch is None:
        return ["patch: a patch view needs the patch's shape (D, H, W), such as [32, 96, 96]"]
    if min(patch) < 1:
        return [f"patch: {list(patch)} must be 1 or more in each direction"]
    if size is not None and any(p > s for p, s in zip(patch, size, strict=True)):
        return [f"patch: {list(patch)} is larger than the volumes, mri.size {list(size)}"]
    return []


def _out_of_range(experiment: Experiment) -> list[str]:
    """Numbers that the libraries below would refuse with a traceback, or worse, take."""
    at_least = {key: (attrgetter(key)(experiment), low) for key, low in LOWEST.items()}
    problems = [f"{key}: {value} is less than {low}" for key, (value, low) in at_least.items() if value < low]
    shares = {key: attrgetter(key)(experiment) for key in SHARES}
    shares |= {f"optim.betas[{i}]": beta for i, beta in enumerate(experiment.optim.betas)}
    problems += [f"{key}: {value} is not in [0, 1)" for key, value in shares.items() if not 0 <= value < 1]
    if experiment.seed >= 2**32:  # numpy's limit
        problems.append(f"seed: {experiment.seed} is not below {2**32}")
    if experiment.optim.lr <= 0:
        problems.append(f"optim.lr: {experiment.optim.lr} is not positive")
    if (experiment.trainer.gradient_clip_val or 0) < 0:
        problems.append(f"trainer.gradient_clip_val: {experiment.trainer.gradient_clip_val} is less than 0")
    batches = experiment.trainer.limit_train_batches
    if batches <= 0 or (isinstance(batches, float) and batches > 1):
        problems.append(f"trainer.limit_train_batches: {batches} is neither a share (at most 1.0) nor a whole number")
    return problems


def _is_policy(text: str) -> bool:
    """Whether an operating point will be understood; asked here, because it is used only after the training."""
    match = POLICY.fullmatch(text.strip().lower())
    try:
        number = float(match[2] if match else text)
    except ValueError:
        return text.strip().lower() == "youden"
    return 0 < number < 1 if match else 0 <= number <= 1
