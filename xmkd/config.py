"""Experiments: dataclasses are the schema, YAML files hold the values, ``key.sub=value`` overrides them.

OmegaConf reads and merges; `binding.bind` turns the result into the dataclasses and lists *all* problems at once,
each with the nearest known name. A field marked `RUNTIME` says how a run is carried out rather than what it computes,
so it is no part of the run id.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from xmkd import settings
from xmkd.binding import bind, bind_fields, nearest
from xmkd.data.augment import AugmentSettings
from xmkd.data.augment3d import VolumeAugment
from xmkd.data.preprocess import MriPrep, Prep, UltrasoundPrep
from xmkd.errors import ConfigError

RUNTIME = {"runtime": True}
"""Field metadata: the value does not change what is computed."""


@dataclass
class StreamConfig:
    """One named source of samples: a filtered manifest, how its files become arrays, and how they are drawn.

    Attributes:
        manifest: CSV file; its card is the YAML of the same name beside it.
        root: Folder that the manifest's paths are relative to; default: as the card says.
        where: Rows to keep, as column: value or column: [values].
        label: Label column, or null for unlabelled streams.
        view: What a sample is: a still image, a clip, a whole volume, or a patch cut out of a volume.
        ultrasound: Preprocessing of images and clips.
        mri: Preprocessing of volumes and of those that patches are cut from; a volume view needs its `size`.
        patch: Shape (D, H, W) of a patch; in training it lies anywhere in the volume, in evaluation in the middle.
        sampler: "uniform" draws each sample once an epoch; "balanced" draws with equal class frequencies.
        batch_size: Samples per step, shared out over all processes.
        train_patients: How many patients train: that many at random, with the classes' proportions; the rest of the
            training side is left out. Of two numbers under one `data.split.seed` the smaller is a part of the larger.
        augment: Random transforms of training batches of images and clips.
        volume_augment: Random transforms of training batches of volumes and patches.
    """

    manifest: str = field(default="", metadata=RUNTIME)  # the run id holds its content instead
    root: str | None = field(default=None, metadata=RUNTIME)
    where: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    view: Literal["image", "clip", "volume", "patch"] = "image"
    ultrasound: UltrasoundPrep = field(default_factory=UltrasoundPrep)
    mri: MriPrep = field(default_factory=MriPrep)
    patch: tuple[int, int, int] | None = None
    sampler: Literal["uniform", "balanced"] = "uniform"
    batch_size: int = 32
    train_patients: int | None = None
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    volume_augment: VolumeAugment = field(default_factory=VolumeAugment)

    @property
    def is_volumetric(self) -> bool:
        """Whether the samples are volumes or parts of volumes."""
        return self.view in ("volume", "patch")

    @property
    def prep(self) -> Prep:
        """The preprocessing that belongs to the view."""
        return self.mri if self.is_volumetric else self.ultrasound


@dataclass
class SplitConfig:
    """Fractions of patients set aside; the rest trains. A `split` column in the manifest takes precedence.

    Attributes:
        val: Validation: threshold and calibration, and the checkpoint where `method.select` is "inner_val".
        calib: Calibration patients of their own; needed for a threshold where `val` chose the checkpoint.
        test: Test patients.
        seed: Seed of the split; apart from `seed` so that replicates can share a split.
    """

    val: float = 0.15
    calib: float = 0.0
    test: float = 0.2
    seed: int = 0


@dataclass
class DataConfig:
    """Streams, how patients are split, and what happens to unreadable files.

    Attributes:
        streams: The named sources; a method says which names it needs.
        split: Fractions of the train / val / calib / test split.
        folds: Number of cross-validation folds (by patient).
        fold: Which fold is the test set; null uses `split` instead.
        on_error: "raise" stops at unreadable files, "skip" leaves them out and lists them in the run folder.
        num_workers: Loader processes of each stream.
        cache: Cache folder; default `$XMKD_CACHE`, else `.cache/xmkd`.
    """

    streams: dict[str, StreamConfig] = field(default_factory=dict)
    split: SplitConfig = field(default_factory=SplitConfig)
    folds: int = 5
    fold: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    num_workers: int = field(default=0, metadata=RUNTIME)
    cache: str | None = field(default=None, metadata=RUNTIME)


@dataclass
class OptimConfig:
    """Optimiser and schedule: linear warm-up, then cosine to zero (or constant).

    Attributes:
        name: Optimiser.
        lr: Peak learning rate.
        weight_decay: Decoupled for AdamW; not applied to biases and normalisation weights.
        momentum: Of SGD.
        betas: Of AdamW.
        schedule: Shape after warm-up.
        warmup_epochs: Epochs of linear warm-up; may be fractional.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 1.0


@dataclass
class TrainerConfig:
    """Lightning's names with Lightning's meaning; what is not named here keeps Lightning's default."""

    max_epochs: int = 10
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    check_val_every_n_epoch: int = 1
    log_every_n_steps: int = 10
    limit_train_batches: int | float = 1.0
    accelerator: str = field(default="auto", metadata=RUNTIME)
    devices: int | str = field(default="auto", metadata=RUNTIME)
    num_nodes: int = field(default=1, metadata=RUNTIME)
    strategy: str = field(default="auto", metadata=RUNTIME)
    enable_progress_bar: bool = field(default=True, metadata=RUNTIME)


@dataclass
class LoggingConfig:
    """Where metrics go beside metrics.csv.

    Attributes:
        wandb: Weights & Biases mode.
        project: W&B project.
    """

    wandb: Literal["online", "offline", "disabled"] = field(default="disabled", metadata=RUNTIME)
    project: str = field(default="xmkd", metadata=RUNTIME)


@dataclass
class EvaluationConfig:
    """How scores become statements.

    Attributes:
        operating_point: Rule fixed on validation patients ("sens>=0.90", "spec>=0.90", "youden"), or a number.
        calibration: "auto" is Platt where classes were reweighted in training, temperature otherwise.
    """

    operating_point: str | float = "sens>=0.90"
    calibration: Literal["auto", "platt", "temperature", "none"] = "auto"


@dataclass
class Experiment:
    """Everything that a run is made from. `method` holds the settings of the method named in `method.name`."""

    name: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    method_name: str = ""
    method: Any = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    resume: Literal["auto", "never"] = field(default="auto", metadata=RUNTIME)
    runs: str = field(default="runs", metadata=RUNTIME)


SECTIONS = [f.name for f in fields(Experiment) if f.name not in {"name", "method_name"}]


def load(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file, follow its `base:`, apply overrides and check everything.

    Args:
        path: YAML file in experiments/, or the config.yaml of a run folder.
        overrides: `key.sub=value` words.

    Raises:
        ConfigError: The file is missing or no YAML, or keys or values are wrong; all problems are listed.
    """
    file = Path(path)
    sections = "sections such as data:, method: and trainer:"
    tree = settings.read(file, overrides, what="experiment", home="experiments/", sections=sections)
    return from_tree(tree, name=str(tree.pop("experiment", None) or file.stem), where=file)


def from_tree(tree: dict[str, Any], *, name: str, where: object) -> Experiment:
    """Check a plain tree of settings and turn it into an `Experiment`.

    Raises:
        ConfigError: Listing every problem.
    """
    from xmkd.contradictions import contradictions
    from xmkd.methods import METHODS

    tree = dict(tree)
    problems: list[str] = []
    method = tree.pop("method", None) or {}
    if not isinstance(method, dict):
        problems.append(f"method: expected a section with keys, got {method!r}")
        method = {"name": method}
    method_name = str(method.get("name", ""))
    hints = {k: v for k, v in get_type_hints(Experiment).items() if k in SECTIONS and k != "method"}
    values = bind_fields(hints, tree, "", problems, known=SECTIONS)
    own_settings = None
    if method_name in METHODS:
        own = {key: value for key, value in method.items() if key != "name"}
        own_settings = bind(METHODS[method_name].Settings, own, "method", problems)
    else:
        problems.append(f"method.name: {method_name!r} is no method" + nearest(method_name, METHODS))
    experiment = Experiment(name=name, method_name=method_name, method=own_settings, **values)
    if not problems:
        problems = contradictions(experiment)
        if set(METHODS[method_name].streams) <= set(experiment.data.streams):
            problems += METHODS[method_name].contradictions(experiment)
    if problems:
        raise ConfigError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in the experiment:\n  - " + "\n  - ".join(problems),
            where=where,
            fixes=("correct the keys in the file", "correct the key=value words on the command line"),
        )
    return experiment


def to_tree(experiment: Experiment, *, runtime: bool = True) -> dict[str, Any]:
    """The experiment as plain types; without `runtime` fields it is what the run id is made from."""
    tree: dict[str, Any] = _plain(experiment, runtime)
    method = {"name": tree.pop("method_name"), **(tree.pop("method") or {})}
    return {"experiment": tree.pop("name"), **tree, "method": method}


def save(experiment: Experiment, path: Path) -> None:
    """Write the resolved experiment; `load` of that file gives an equal one."""
    from omegaconf import OmegaConf

    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_tree(experiment))))


def runtime_keys(cls: type = Experiment, prefix: str = "") -> set[str]:
    """Dotted names of the fields that do not enter the run id (streams appear as ``data.streams.*``)."""
    keys: set[str] = set()
    hints = get_type_hints(cls)
    for f in fields(cls):
        name = f"{prefix}{f.name}"
        hint = hints[f.name]
        if f.metadata.get("runtime"):
            keys.add(name)
        elif is_dataclass(hint) and isinstance(hint, type):
            keys |= runtime_keys(hint, f"{name}.")
        elif get_origin(hint) is dict and is_dataclass(get_args(hint)[1]):
            keys |= runtime_keys(get_args(hint)[1], f"{name}.*.")
    return keys


def _plain(value: Any, runtime: bool) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(getattr(value, f.name), runtime)
            for f in fields(value)
            if runtime or not f.metadata.get("runtime")
        }
    if isinstance(value, dict):
        return {k: _plain(v, runtime) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, runtime) for v in value]
    return value
