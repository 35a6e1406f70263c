"""Batches: who comes when and in what form, for any number of workers and processes."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer
from torch import Tensor

from xmkd.config import DataConfig, SplitConfig, StreamConfig
from xmkd.data.datamodule import EpochSampler, EvaluationSampler, UnpairedDataModule
from xmkd.data.preprocess import UltrasoundPrep
from xmkd.data.rng import sample_keys
from xmkd.data.samplers import ROWS
from xmkd.data.streams import plan
from xmkd.data.toy import write_study
from xmkd.errors import ConfigError, ManifestError, ReadError

PREP = UltrasoundPrep(size=(32, 32), crop_sector=False, remove_overlays=False)
Batch = dict[str, dict[str, Any]]


def stream(manifest: Path, batch_size: int = 12, **where: str) -> StreamConfig:
    return StreamConfig(manifest=str(manifest), label="filled", batch_size=batch_size, ultrasound=PREP, where={**where})


def module(manifest: Path, rank: int = 0, world: int = 1, **data: Any) -> UnpairedDataModule:
    """The data of a study as process `rank` of `world` sees them, with a trainer that trains."""
    usual: dict[str, Any] = {
        "streams": {"tvus": stream(manifest)},
        "split": SplitConfig(val=0.2, test=0.3),
        "cache": str(manifest.parent / "cache"),
    }
    config = DataConfig(**usual | data)
    made = UnpairedDataModule(config, plan(config), seed=3, evaluated="tvus")
    stub = SimpleNamespace(training=True, current_epoch=0, global_rank=rank, world_size=world)
    made.trainer = cast(Trainer, stub)
    return made


def epochs(made: UnpairedDataModule, count: int = 1) -> list[list[Batch]]:
    """Training batches as a method gets them, epoch by epoch."""
    loader = made.train_dataloader()
    found = []
    for epoch in range(count):
        made.trainer.current_epoch = epoch  # type: ignore[misc, union-attr]  # a stub
        for part in loader.flattened:
            part.sampler.set_epoch(epoch)
        found.append([made.on_after_batch_transfer(batch, 0) for batch, _, _ in iter(loader)])
    return found


def by_sample(batches: list[Batch], name: str = "tvus") -> dict[str, Tensor]:
    return {i: x for batch in batches for i, x in zip(batch[name]["sample_id"], batch[name]["image"], strict=True)}


rows_and_worlds = st.tuples(st.integers(1, 60), st.integers(1, 5), st.integers(0, 99), st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(rows_and_worlds)
def test_uniform_draws_each_row_once_an_epoch_shared_out_among_processes(case: tuple[int, int, int, int]) -> None:
    n, world, seed, epoch = case
    rows = np.arange(100, 100 + n)
    labels = np.zeros(n, np.int64)
    shares = [list(EpochSampler(rows, labels, "uniform", (seed,), r, world, epoch)) for r in range(world)]
    assert {len(s) for s in shares} == {n // world}
    drawn = [row for share in shares for row in share]
    assert len(set(drawn)) == len(drawn) == n // world * world
    assert set(drawn) <= set(rows.tolist())
    alone = EpochSampler(rows, labels, "uniform", (seed,))
    alone.set_epoch(epoch)
    taking_turns = [row for turn in zip(*shares, strict=True) for row in turn]
    assert taking_turns == list(alone)[: len(drawn)], "the order does not depend on the number of processes"


def test_order_changes_with_seed_and_epoch_alone() -> None:
    rows, labels = np.arange(30), np.zeros(30, np.int64)
    orders = {
        tuple(EpochSampler(rows, labels, "uniform", (seed,), epoch=epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    sampler = EpochSampler(rows, labels, "uniform", (0,))
    assert list(sampler) == list(sampler)


def test_balanced_draws_classes_equally_often_and_repeats_evenly() -> None:
    labels = np.array([0] * 48 + [1] * 12)
    sampler = EpochSampler(np.arange(60), labels, "balanced", (0,))
    codes = list(sampler)
    drawn = [code % ROWS for code in codes]
    assert len(set(codes)) == 60, "a repeat has a number of its own"
    assert len(drawn) == len(sampler) == 60
    assert Counter(labels[drawn].tolist()) == {0: 30, 1: 30}
    times = Counter(drawn)
    assert {times[row] for row in range(48, 60)} == {2, 3}  # 30 draws of 12 rows
    assert max(times[row] for row in range(48)) == 1
    shares = [list(EpochSampler(np.arange(60), labels, "balanced", (0,), r, 3)) for r in range(3)]
    assert Counter(code % ROWS for share in shares for code in share) == times


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=50), seed=st.integers(0, 99))
def test_balanced_with_any_classes(labels: list[int], seed: int) -> None:
    rows = np.arange(len(labels))
    drawn = list(EpochSampler(rows, np.array(labels), "balanced", (seed,)))
    counts = Counter(labels[code % ROWS] for code in drawn)
    assert len(drawn) == len(labels)
    assert max(counts.values()) - min(counts[c] for c in set(labels)) <= len(set(labels))


@settings(max_examples=60, deadline=None)
@given(rows_and_worlds)
def test_evaluation_takes_each_row_once_and_marks_what_fills_up(case: tuple[int, int, int, int]) -> None:
    n, world, first, _ = case
    rows = np.arange(first, first + n)
    shares = [list(EvaluationSampler(rows, rank, world)) for rank in range(world)]
    assert {len(s) for s in shares} == {-(-n // world)}
    assert len({len(EvaluationSampler(rows, rank, world)) for rank in range(world)}) == 1
    valid = [row for share in shares for row in share if row >= 0]
    assert sorted(valid) == rows.tolist()
    assert {~row for share in shares for row in share if row < 0} <= {first}


def test_batches_do_not_depend_on_the_number_of_workers(toy: Path) -> None:
    expected = list(chain(*epochs(module(toy), 2)))
    for workers in (1, 2):
        found = chain(*epochs(module(toy, num_workers=workers), 2))
        for a, b in zip(expected, found, strict=True):
            assert a["tvus"]["sample_id"] == b["tvus"]["sample_id"]
            for key in ("image", "label", "index", "valid", "key"):
                assert torch.equal(a["tvus"][key], b["tvus"][key]), key


def test_training_batches_hold_what_is_promised(toy: Path) -> None:
    made = module(toy)
    first, second = epochs(made, 2)
    assert [len(b["tvus"]["label"]) for b in first] == [12, 12, 12]  # of 40: the last 4 would be a batch of their own
    table = made.study.streams["tvus"].table.set_index("sample_id")
    for batch in first:
        part = batch["tvus"]
        assert part["image"].shape == (12, 1, 32, 32)
        assert part["image"].dtype == torch.float32
        assert 0 <= part["image"].min() < part["image"].max() <= 1
        rows = table.loc[part["sample_id"]]
        assert part["patient_id"] == rows["patient_id"].tolist()
        assert part["label"].tolist() == (rows["filled"] == "filled").astype(int).tolist()
        assert set(rows["side"]) == {"train"}
        assert part["valid"].all()
        assert torch.equal(part["key"], sample_keys(3, 0, part["sample_id"]))
    one, two = by_sample(first), by_sample(second)
    assert list(one) != list(two)
    common = set(one) & set(two)
    assert not any(torch.equal(one[i], two[i]) for i in common), "another epoch, other changes"


def test_a_sample_is_changed_alike_in_any_process(toy: Path) -> None:
    alone = by_sample(epochs(module(toy))[0])
    parts = [by_sample(epochs(module(toy, rank, 2))[0]) for rank in range(2)]
    assert not set(parts[0]) & set(parts[1])
    for part in parts:
        assert all(torch.equal(x, alone[i]) for i, x in part.items() if i in alone)
    assert len(set(alone) & (set(parts[0]) | set(parts[1]))) > 12


def test_evaluation_gives_each_sample_once_as_it_is(toy: Path) -> None:
    for world in (1, 3):
        seen: dict[str, Tensor] = {}
        for rank in range(world):
            made = module(toy, rank, world)
            made.trainer.training = False  # type: ignore[union-attr]  # a stub
            made.tested = "test"
            for batch, _, _ in iter(made.test_dataloader()):
                part = made.on_after_batch_transfer(batch, 0)["tvus"]
                for i, x, valid in zip(part["sample_id"], part["image"], part["valid"], strict=True):
                    assert i not in seen or not valid
                    seen.setdefault(i, x)
        table = made.study.streams["tvus"].table
        assert sorted(seen) == table.loc[table["side"] == "test", "sample_id"].tolist()
        row = {i: n for n, i in enumerate(table["sample_id"])}
        pixels = made.datasets["tvus"].pictures(np.arange(len(table)))
        assert all(torch.equal(x, torch.tensor(pixels[row[i]]) / 255) for i, x in seen.items())


def test_the_longest_stream_sets_the_epoch_and_shorter_ones_start_over(toy: Path) -> None:
    made = module(toy, streams={"tvus": stream(toy), "again": stream(toy, 5, site="site_0")})
    (batches,) = epochs(made)
    sizes = {name: len(made.rows(name, "train")) for name in ("tvus", "again")}
    lengths = [sizes["tvus"] // 12, sizes["again"] // 5]
    assert len(batches) == max(lengths)
    assert len({len(b["again"]["label"]) for b in batches}) == 1
    drawn = Counter(i for batch in batches for i in batch[("tvus", "again")[int(np.argmax(lengths))]]["sample_id"])
    assert max(drawn.values()) == 1


def test_a_shorter_stream_goes_on_with_another_order_and_augmentation(toy: Path) -> None:
    made = module(toy, streams={"tvus": stream(toy, 6), "few": stream(toy, 12, site="site_0")})
    rows = made.rows("few", "train")
    (batches,) = epochs(made)
    assert len({len(b["few"]["label"]) for b in batches}) == 1
    ids = [i for batch in batches for i in batch["few"]["sample_id"]]
    keys = [int(k) for batch in batches for k in batch["few"]["key"]]
    assert len(ids) > 2 * len(rows)
    first, second = ids[: len(rows)], ids[len(rows) : 2 * len(rows)]
    assert set(first) == set(second), "each comes once before any comes again"
    assert first != second
    assert len(set(keys)) == len(keys), "each time it is changed in another way"
    other = epochs(module(toy, streams={"tvus": stream(toy, 6), "few": stream(toy, 12, site="site_0")}))[0]
    assert [int(k) for batch in other for k in batch["few"]["key"]] == keys


def test_streams_are_drawn_independently(toy: Path) -> None:
    made = module(toy, streams={"tvus": stream(toy, 40), "mri": stream(toy, 40)})
    (batches,) = epochs(made)
    partners = zip(batches[0]["tvus"]["sample_id"], batches[0]["mri"]["sample_id"], strict=True)
    assert sum(a == b for a, b in partners) < 10, "two streams of one length must not meet row by row"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A study of its own in which the files p003_0 (train or not) and p004_1 can't be read."""
    manifest = write_study(tmp_path, patients=40, each=2, size=32)
    (tmp_path / "images" / "p003_0.png").write_bytes(b"no picture")
    (tmp_path / "images" / "p004_1.png").unlink()
    return manifest


def test_unreadable_files_stop_everything_unless_told_otherwise(broken: Path) -> None:
    with pytest.raises(ReadError, match=r"p003_0|p004_1"):
        module(broken).setup()


def test_unreadable_files_are_left_out_and_listed(broken: Path, toy: Path) -> None:
    made = module(broken, on_error="skip")
    made.setup()
    assert made.skipped["sample_id"].tolist() == ["p003_0", "p004_1"]
    assert set(made.skipped["stream"]) == {"tvus"}
    assert made.skipped["reason"].str.len().gt(0).all()
    assert not made.skipped["reason"].str.contains(str(broken.parent)).any()
    table = made.study.streams["tvus"].table
    assert len(table) == len(made.datasets["tvus"]) == 78
    assert not set(table["sample_id"]) & {"p003_0", "p004_1"}
    planned = made.planned.streams["tvus"].table.set_index("sample_id")["side"]
    assert table["side"].tolist() == planned[table["sample_id"]].tolist(), "all others stay where they were"
    rows = list(range(78))
    batch = made.datasets["tvus"].__getitems__(rows)
    whole = module(toy)
    whole.setup()
    names = whole.study.streams["tvus"].table["sample_id"].tolist()
    same = whole.datasets["tvus"].__getitems__([names.index(i) for i in batch["sample_id"]])
    assert torch.equal(batch["image"], same["image"]), "rows and pictures belong together"
    assert torch.equal(batch["label"], same["label"])


def test_a_side_without_a_readable_file_is_named(tmp_path: Path, toy: Path) -> None:
    shutil.copytree(toy.parent / "images", tmp_path / "images")
    (tmp_path / "toy.yaml").write_bytes(toy.with_suffix(".yaml").read_bytes())
    table = pd.read_csv(toy, dtype=str)
    table["split"] = ["test" if p == "p000" else "val" if p < "p010" else "train" for p in table["patient_id"]]
    table.to_csv(tmp_path / "toy.csv", index=False)
    for i in range(2):
        (tmp_path / "images" / f"p000_{i}.png").unlink()
    made = module(tmp_path / "toy.csv", on_error="skip")
    assert len(made.rows("tvus", "val")) == 18
    with pytest.raises(ManifestError, match="no readable sample on the side 'test'"):
        made.rows("tvus", "test")


def test_clips_under_a_still_s_settings_are_named(tmp_path: Path) -> None:
    manifest = write_study(tmp_path, patients=12, each=1, size=16, frames=3)
    with pytest.raises(ManifestError, match="view is 'image', but the files hold clips"):
        module(manifest).setup()


def test_a_batch_is_shared_out_over_the_processes(toy: Path) -> None:
    for world in (1, 2, 3):
        assert {len(b["tvus"]["index"]) for b in epochs(module(toy, world=world))[0]} == {12 // world}
    with pytest.raises(ConfigError, match="shared out"):
        epochs(module(toy, rank=0, world=5))
