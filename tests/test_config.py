"""Experiments: every problem at once, bases and overrides, and an id that only what is computed can change."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from xmkd import config, runs
from xmkd.config import Experiment, OptimConfig
from xmkd.data.streams import plan
from xmkd.errors import ConfigError

Write = Callable[..., Path]

EXPERIMENTS = sorted(p for p in (REPOSITORY / "experiments").glob("*.yaml") if p.stem != "claims")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of this text."""

    def call(text: str, name: str = "small.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return call


BASE = """\
data: {streams: {tvus: {manifest: m.csv, label: finding}}}
method: {name: teacher}
optim: {lr: 0.1, betas: [0.8, 0.9]}
"""


def problems(path: Path, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path, list(words))
    assert caught.value.where
    assert len(caught.value.fixes) == 2
    return caught.value.what


@pytest.mark.parametrize(
    "path",
    sorted(set((REPOSITORY / "experiments").glob("*.yaml")) - {REPOSITORY / "experiments" / "claims.yaml"}),
    ids=lambda p: p.stem,
)
def test_every_experiment_of_the_project_is_valid(path: Path) -> None:
    assert config.load(path).name == path.stem


def test_all_problems_are_listed_at_once_with_the_nearest_name(write: Write) -> None:
    path = write(
        """\
sead: 3
data:
  streams:
    tvus: {manifest: m.csv, label: finding, sampler: balansed, ultrasound: {sizes: [64, 64]}}
  folds: three
method: {name: teacher, backbon: resnet18}
optim: {lr: fast, betas: [0.9], name: adam}
trainer: {max_epochs: 2.5, precision: 16}
"""
    )
    message = problems(path)
    assert message.startswith("10 problems in the experiment:")
    for line in (
        "sead: unknown key; did you mean 'seed'?",
        "data.streams.tvus.sampler: 'balansed' is none of uniform, balanced; did you mean 'balanced'?",
        "data.streams.tvus.ultrasound.sizes: unknown key; did you mean 'size'?",
        "data.folds: expected int, got 'three'",
        "method.backbon: unknown key; did you mean 'backbone'?",
        "optim.lr: expected float, got 'fast'",
        "optim.betas: expected 2 values, got 1",
        "optim.name: 'adam' is none of adamw, sgd; did you mean 'adamw'?",
        "trainer.max_epochs: expected int, got 2.5",
        "trainer.precision: 16 is none of",
    ):
        assert f"\n  - {line}" in message


def test_what_does_not_fit_together_is_listed_at_once_too(write: Write) -> None:
    words = ["optim.lr=0", "data.fold=5", "data.split.val=0.9", "method.test_views=3", "seed=-1"]
    message = problems(write(BASE), *words)
    assert message.startswith("5 problems")
    for key in ("optim.lr: 0.0", "data.fold: 5 is not in 0..4", "data.split:", "method.test_views: 3", "seed: -1"):
        assert f"\n  - {key}" in message


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr=nan", "optim.lr: nan is no finite number"),
        ("optim.warmup_epochs=.inf", "optim.warmup_epochs: inf is no finite number"),
        ("optim.momentum=1", "optim.momentum: 1.0 is not in [0, 1)"),
        ("optim.betas=[0.9,1.0]", "optim.betas[1]: 1.0 is not in [0, 1)"),
        ("data.num_workers=-1", "data.num_workers: -1 is less than 0"),
        ("data.streams.tvus.batch_size=0", "data.streams.tvus.batch_size: 0 is less than 1"),
        ("trainer.limit_train_batches=1.5", "trainer.limit_train_batches: 1.5"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: -1.0"),
        ("trainer.max_epochs=true", "trainer.max_epochs: expected int, got True"),
        ("evaluation.operating_point=sens", "evaluation.operating_point: 'sens'"),
        ("evaluation.operating_point='sens>=1.2'", "evaluation.operating_point: 'sens>=1.2'"),
        ("data.streams.tvus.augment.flip=1", "data.streams.tvus.augment.flip: expected bool, got 1"),
        ("data.streams.tvus=5", "data.streams.tvus: expected a section with keys, got 5"),
        ("data.streams.tvus.ultrasound.size=64", "data.streams.tvus.ultrasound.size: expected a list, got 64"),
        ("method=teacher", "method: expected a section with keys, got 'teacher'"),
        ("method.name=teecher", "method.name: 'teecher' is no method; did you mean 'teacher'?"),
    ],
)
def test_wrong_values_are_named(write: Write, word: str, message: str) -> None:
    found = problems(write(BASE), word)
    assert found.startswith("1 problem in the experiment:")
    assert message in found


def test_a_stream_under_another_name_is_missed(write: Write) -> None:
    path = write("data: {streams: {tvs: {manifest: m.csv, label: finding}}}\nmethod: {name: teacher}\n")
    assert "data.streams.tvus: the method 'teacher' needs this stream; did you mean 'tvs'?" in problems(path)


@pytest.mark.parametrize("number", ["0.5", "sens>=0.95", "'spec >= 0.9'", "youden", "1"])
def test_operating_points(write: Write, number: str) -> None:
    config.load(write(BASE), [f"evaluation.operating_point={number}"])


def test_bases_are_followed_and_merged_key_by_key(write: Write) -> None:
    write(BASE, "first.yaml")
    write("base: ../first.yaml\noptim: {weight_decay: 0.3}\ntrainer: {max_epochs: 7}\n", "below/second.yaml")
    third = write("base: below/second.yaml\noptim: {lr: 0.2}\ndata: {streams: {tvus: {label: other}}}\n", "third.yaml")
    found = config.load(third)
    assert found.name == "third"
    assert found.optim == OptimConfig(lr=0.2, betas=(0.8, 0.9), weight_decay=0.3)
    assert found.trainer.max_epochs == 7
    assert (found.data.streams["tvus"].manifest, found.data.streams["tvus"].label) == ("m.csv", "other")


def test_a_loop_of_bases_ends(write: Write) -> None:
    write("base: b.yaml", "a.yaml")
    write("base: a.yaml", "b.yaml")
    assert "name each other as base" in problems(write("base: a.yaml", "c.yaml"))
    assert "name each other as base" in problems(write("base: own.yaml", "own.yaml"))


def test_a_missing_file_or_base_is_named_with_the_nearest(write: Write, tmp_path: Path) -> None:
    write(BASE, "teacher.yaml")
    assert "did you mean 'teacher.yaml'?" in problems(tmp_path / "teachr.yaml")
    assert "did you mean 'teacher.yaml'?" in problems(write("base: techer.yaml", "x.yaml"))
    assert "no such experiment" in problems(tmp_path / "nowhere" / "x.yaml")


@pytest.mark.parametrize("text", ["a: [1,", "- 1\n- 2\n", "just words", "a: ${b}", "a: 1\na: 2\n", "\xff: \x00"])
def test_what_is_no_experiment_is_a_named_error(write: Write, text: str) -> None:
    assert problems(write(text))


@pytest.mark.parametrize("word", ["optim.lr", "=3", "optim.lr=[1,", "runs=${nowhere}", "data.fold={"])
def test_an_unreadable_override_is_a_named_error(write: Write, word: str) -> None:
    assert "override" in problems(write(BASE), word)


def test_overrides(write: Write) -> None:
    words = [
        "optim.lr=1e-4",
        "--optim.weight_decay=0",
        "optim.betas=[0.5,0.6]",
        "data.streams.tvus.ultrasound.size=[64,48]",
        "data.fold=2",
        "data.fold=null",
        "data.streams.tvus.where.site=[a,b]",
        "trainer.limit_train_batches=3",
        "trainer.devices=2",
        "method.drop_rate=1e-1",
        "runs=/tmp/a b=c",
    ]
    found = config.load(write(BASE), words)
    assert found.optim == OptimConfig(lr=1e-4, weight_decay=0.0, betas=(0.5, 0.6))
    assert isinstance(found.optim.weight_decay, float)
    assert found.data.streams["tvus"].ultrasound.size == (64, 48)
    assert found.data.fold is None, "the last word counts"
    assert found.data.streams["tvus"].where == {"site": ["a", "b"]}
    assert found.trainer.limit_train_batches == 3
    assert isinstance(found.trainer.limit_train_batches, int), "three batches, not a share"
    assert found.trainer.devices == 2
    assert found.method.drop_rate == 0.1
    assert found.runs == "/tmp/a b=c"


def test_text_that_yaml_reads_as_text_is_a_number_where_one_is_asked_for(write: Write) -> None:
    found = config.load(write(BASE + "trainer: {gradient_clip_val: 1e+0}\nevaluation: {operating_point: 1e-1}\n"))
    assert found.trainer.gradient_clip_val == 1.0


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12).filter(
    lambda text: "${" not in text and text != "???"  # OmegaConf's own signs
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lr=st.floats(1e-12, 1e6),
    decay=st.floats(0, 10),
    seed=st.integers(0, 2**31),
    fold=st.none() | st.integers(0, 4),
    batches=st.integers(1, 9) | st.floats(0.01, 1.0),
    label=TEXT.filter(bool) | st.sampled_from(["1e3", "null", "true", "0x1F", "1:30", "no", "2020-01-01", "~", "007"]),
    where=st.dictionaries(TEXT.filter(bool), TEXT | st.integers() | st.lists(TEXT, max_size=3), max_size=3),
    name=TEXT.filter(lambda text: text == Path(text).name not in {"", ".."}),  # other names are refused
)
def test_a_saved_experiment_loads_as_an_equal_one(
    write: Write,
    tmp_path: Path,
    lr: float,
    decay: float,
    seed: int,
    fold: int | None,
    batches: float,
    label: str,
    where: dict[str, object],
    name: str,
) -> None:
    found = config.load(write(BASE))
    found.name, found.seed, found.data.fold = name, seed, fold
    found.optim = OptimConfig(lr=lr, weight_decay=decay)
    found.trainer.limit_train_batches = batches
    found.data.streams["tvus"].label = label
    found.data.streams["tvus"].where = where
    config.save(found, tmp_path / "saved.yaml")
    again = config.load(tmp_path / "saved.yaml")
    assert again == found
    assert config.to_tree(again) == config.to_tree(found)


def test_saved_experiment_has_the_same_run_id(experiment: Path, tmp_path: Path) -> None:
    found = config.load(experiment, ["optim.lr=3e-4", "seed=7"])
    config.save(found, tmp_path / "config.yaml")
    again = config.load(tmp_path / "config.yaml")
    study = plan(found.data)
    assert runs.run_id(again, plan(again.data)) == runs.run_id(found, study)
    other = config.load(tmp_path / "config.yaml", ["optim.lr=4e-4"])
    assert runs.run_id(other, study) != runs.run_id(found, study)


def test_the_schema_marks_what_is_runtime() -> None:
    assert config.runtime_keys() == {
        "data.streams.*.manifest",
        "data.streams.*.root",
        "data.num_workers",
        "data.cache",
        *(f"trainer.{k}" for k in ("accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar")),
        *(f"logging.{f.name}" for f in fields(config.LoggingConfig)),
        "resume",
        "runs",
    }


def test_runtime_keys_do_not_change_the_id_and_all_others_do(experiment: Path, toy: Path, tmp_path: Path) -> None:
    found = config.load(experiment)
    study = plan(found.data)
    (tmp_path / "copy.yaml").write_bytes(toy.with_suffix(".yaml").read_bytes())
    (tmp_path / "copy.csv").write_bytes(toy.read_bytes())
    same = [
        f"data.streams.tvus.manifest={tmp_path / 'copy.csv'}",
        f"data.streams.tvus.root={toy.parent}",
        "data.num_workers=2",
        f"data.cache={tmp_path}",
        "trainer.accelerator=auto",
        "trainer.devices=2",
        "trainer.num_nodes=2",
        "trainer.strategy=ddp",
        "trainer.enable_progress_bar=true",
        "logging.wandb=offline",
        "logging.project=other",
        "resume=never",
        f"runs={tmp_path}",
    ]
    assert len(same) == len(config.runtime_keys())
    assert runs.run_id(config.load(experiment, same), study) == runs.run_id(found, study)
    for word in ("seed=1", "method.loss=plain", "trainer.max_epochs=3", "data.streams.tvus.augment.flip=false"):
        assert runs.run_id(config.load(experiment, [word]), study) != runs.run_id(found, study), word


def test_the_id_depends_on_the_manifest_s_content_and_the_split(experiment: Path, toy: Path, tmp_path: Path) -> None:
    found = config.load(experiment)
    study = plan(found.data)
    other_split = plan(config.load(experiment, ["data.split.seed=1"]).data)
    assert runs.run_id(found, other_split) != runs.run_id(found, study)
    (tmp_path / "toy.yaml").write_bytes(toy.with_suffix(".yaml").read_bytes())
    lines = toy.read_text().splitlines()
    os.symlink(toy.parent / "images", tmp_path / "images")  # noqa: PTH211
    (tmp_path / "toy.csv").write_text("\n".join(lines[:-1]) + "\n")
    fewer = plan(config.load(experiment, [f"data.streams.tvus.manifest={tmp_path / 'toy.csv'}"]).data)
    assert runs.run_id(found, fewer) != runs.run_id(found, study)


def test_the_id_depends_on_the_content_of_the_weights(experiment: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.ckpt"
    weights.write_bytes(b"one")
    found = config.load(experiment, [f"method.weights={weights}"])
    study = plan(found.data)
    before = runs.run_id(found, study)
    weights.write_bytes(b"two")
    assert runs.run_id(found, study) != before


def test_a_stream_that_the_method_does_not_use_is_a_problem(experiment: Path) -> None:
    with pytest.raises(ConfigError, match=r"tvuss: the method 'teacher' does not use it; did you mean 'tvus'"):
        config.load(experiment, ["data.streams.tvuss.manifest=a.csv"])


def test_every_default_experiment_is_plain_yaml() -> None:
    tree = config.to_tree(Experiment())
    assert yaml.safe_load(yaml.safe_dump(tree)) == tree
