"""What users get wrong, through the real command: exit code 2, one message, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import Variant, refused, run_folders, unfinished_files
from tests.conftest import Cli
from xmkd.data.toy import write_study

Change = Callable[[pd.DataFrame], pd.DataFrame]
CLIP = ("data.streams.tvus.view=clip", "method.backbone=small", "method.clip_frames=4")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("optim.lrr=1", ["optim.lrr: unknown key", "did you mean 'lr'"]),
        ("data.streams.tvus.batchsize=8", ["data.streams.tvus.batchsize", "'batch_size'"]),
        ("method.backbon=x", ["method.backbon", "'backbone'"]),
        ("data.streams.tvus.ultrasound.sise=[8,8]", ["ultrasound.sise", "'size'"]),
        ("otpim.lr=1", ["otpim: unknown key", "'optim'"]),
        ("optim.lrr=1 seed=x", ["2 problems", "optim.lrr", "seed: expected int"]),
        ("optim=3", ["optim: expected a section"]),
        ("method=teacher", ["method: expected a section"]),
        ("method.name=teachr", ["'teachr' is no method", "'teacher'"]),
        ("method.backbone=test_resne", ["method.backbone", "test_resne"]),
        ("method.loss=foccal", ["method.loss", "'focal'"]),
        ("optim.lr=nan", ["optim.lr", "nan"]),
        ("optim.lr=-1", ["optim.lr", "-1"]),
        ("optim.lr=", ["optim.lr", "None"]),
        ("optim.lr", ["key.sub=value"]),
        ("optim.lr=[1", ["optim.lr=[1"]),
        ("optim.lr=${x}", ["optim.lr=${x}"]),
        ("data.streams.tvus.ultrasound.size=[0,32]", ["size", "0"]),
        ("data.streams.tvus.ultrasound.size=[-1,32]", ["size", "-1"]),
        ("data.streams.tvus.ultrasound.frames=0", ["frames"]),
        ("data.streams.tvus.batch_size=0", ["batch_size"]),
        ("data.streams.tvus.augment.noise=-1", ["noise"]),
        ("data.num_workers=-1", ["data.num_workers"]),
        ("data.fold=9", ["data.fold: 9 is not in 0..4"]),
        ("data.split.val=0.9", ["leave no patients for training"]),
        ("seed=-1", ["seed"]),
        ("seed=4294967296", ["seed"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs"]),
        ("trainer.accelerator=tpuu", ["tpuu", "trainer.accelerator"]),
        ("trainer.devices=0", ["trainer.devices=0"]),
        ("evaluation.operating_point=sens>=2", ["evaluation.operating_point"]),
        ("experiment=../elsewhere", ["'../elsewhere'"]),
        ("method.weights=nowhere.ckpt", ["nowhere.ckpt"]),
        ("data.streams.tvus.view=clip", ["tvus.ultrasound.frames"]),
        ("data.streams.tvus.label=cyst", ["no label 'cyst'", "filled"]),
        ("data.streams.tvus.where.ward=3", ["'ward'", "site"]),
        ("data.streams.tvus.where.site=mars", ["no sample is left"]),
        ("data.streams.tvus.manifest=nowhere.csv", ["no such manifest", "nowhere.csv"]),
        ("data.streams.tvus.root=/nowhere", ["'toy'", "licence", "/nowhere"]),
        ("data.split.test=0", ["'test'", "two classes"]),
        ("data.folds=41 data.fold=0", ["40 patients can't make 41 folds", "toy.csv"]),
    ],
)
def test_a_wrong_setting(cli: Cli, quick: Path, overrides: str, words: list[str]) -> None:
    refused(cli("fit", quick, *overrides.split(" ")), *words)
    assert not run_folders(quick)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no such experiment file", "did you mean 'tiny.yaml'"]),
        ("a: [1\n", ["can't read"]),
        ("- 1\n", ["keys and values"]),
        ("", ["method.name: '' is no method"]),
        ("base: nowhere.yaml\n", ["nowhere.yaml"]),
        ("base: tinny.yaml\n", ["base"]),
    ],
)
def test_a_wrong_experiment_file(cli: Cli, quick: Path, text: str | None, words: list[str]) -> None:
    file = quick.with_name("tinny.yaml")
    if text is not None:
        file.write_text(text)
    refused(cli("fit", file), *words)


def sides(part: Callable[[str], str]) -> Change:
    return lambda table: table.assign(split=table["patient_id"].map(part))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.assign(split=["train", "test"] * (len(t) // 2)),
            ["patient 'p000' is in test, train at once", "lines 2, 3", "changed.csv"],
        ),
        (
            lambda t: t.assign(filled=t["filled"].replace("empty", "emtpy")),
            ["'emtpy' is none of empty, filled", "lines 2, 3, 6", "column filled"],
        ),
        (lambda t: t.iloc[:0], ["there are no rows"]),
        (lambda t: t.drop(columns="patient_id"), ["column patient_id: missing"]),
        (lambda t: t.assign(sample_id="one"), ["'one' is there more than once"]),
        (lambda t: t.assign(path="/etc/" + t["path"]), ["column path", "is absolute"]),
        (lambda t: t.assign(modality="mri"), ["reads ultrasound", "mri"]),
        (lambda t: t.assign(filled=None), ["no sample is left"]),
        (lambda t: t.assign(filled="empty"), ["label 'filled' has 1 class", "changed.csv"]),
        (lambda t: t.iloc[:6], ["2 patients have filled='empty'", "changed.csv"]),
        # odd numbers are filled: one class each in validation, in the test, in training
        (
            sides(lambda p: "val" if p in {"p001", "p003"} else "test" if p < "p020" else "train"),
            ["'val' holds 0 empty"],
        ),
        (
            sides(lambda p: "test" if p in {"p001", "p003"} else "val" if p < "p020" else "train"),
            ["'test' holds 0 empty"],
        ),
        (
            sides(lambda p: "train" if p in {"p001", "p003"} else "val" if p < "p020" else "test"),
            ["'train' holds 0 em"],
        ),
    ],
)
def test_a_wrong_manifest(cli: Cli, quick: Path, variant: Variant, change: Change, words: list[str]) -> None:
    refused(cli("fit", quick, *variant(change)), *words)
    assert not run_folders(quick)


@pytest.mark.parametrize("text", ["", "a;b\n1;2\n", "a,b\n1,2,3\n"])
def test_no_table_at_all(cli: Cli, quick: Path, variant: Variant, text: str) -> None:
    refused(cli("fit", quick, *variant(text=text)), "changed.csv")


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (lambda card: None, ["a manifest needs its card"]),
        (lambda card: card.replace("positive", "postive"), ["labels.filled.postive", "'positive'"]),
        (lambda card: card.replace("[empty, filled]", "[filled, empty]"), ["positive one", "labels.filled"]),
        (lambda card: "a: [1\n", ["can't read the card"]),
    ],
)
def test_a_wrong_card(
    cli: Cli, quick: Path, variant: Variant, card: Callable[[str], str | None], words: list[str]
) -> None:
    refused(cli("fit", quick, *variant(card=card)), "changed.yaml", *words)


def test_crossval_finds_a_fold_of_one_class_before_it_trains_the_first(cli: Cli, quick: Path, variant: Variant) -> None:
    last_is_filled = variant(
        lambda t: t.assign(fold=[2 if p in {"p001", "p003"} else int(p[1:]) // 2 % 2 for p in t["patient_id"]])
    )
    refused(cli("crossval", quick, *last_is_filled, "data.folds=3", "data.split.val=0"), "'test' holds 0 empty")
    assert not run_folders(quick)


def test_a_missing_image_stops_or_is_left_out_and_reported(cli: Cli, quick: Path, variant: Variant) -> None:
    lost = variant(lambda t: t.assign(path=t["path"].replace("images/p003_1.png", "images/lost.png")))
    refused(cli("fit", quick, *lost), "no such file", "lost.png", "data.on_error=skip")
    assert not run_folders(quick)
    with pytest.warns(UserWarning, match="left out because they can't be read: 1 of"):
        called = cli("fit", quick, *lost, "data.on_error=skip")
    assert called.code == 0, called.err
    assert_reported(called.out, quick, ["p003_1"])


def assert_reported(printed: str, experiment: Path, samples: list[str]) -> None:
    """Left out, counted on the terminal and named in the run folder, without the names of files."""
    (folder,) = run_folders(experiment)
    skipped = pd.read_csv(folder / "skipped.csv")
    assert skipped["sample_id"].tolist() == samples
    assert skipped["reason"].str.len().gt(0).all()
    assert "/" not in (folder / "skipped.csv").read_text()
    counts = ", ".join(f"{n} of {side}" for side, n in skipped["side"].value_counts(sort=False).items())
    assert f"left out because they can't be read: {counts}; see {folder / 'skipped.csv'}" in printed
    predicted = pd.concat([pd.read_csv(p) for p in folder.glob("predictions_*.csv")])
    assert not set(samples) & set(predicted["sample_id"])


def test_nan_in_a_clip(cli: Cli, quick: Path, tmp_path: Path) -> None:
    clips = write_study(tmp_path / "clips", patients=20, each=2, size=32, frames=8, name="clips")
    for sample in ("p003_0", "p004_1"):
        path = clips.parent / "images" / f"{sample}.npz"
        frames = np.load(path)["frames"].astype(np.float32)
        frames[0, 0, 0] = np.nan
        np.savez(path, frames=frames)
    words = [*CLIP, f"data.streams.tvus.manifest={clips}", "data.streams.tvus.ultrasound.frames=8"]
    refused(cli("fit", quick, *words), "1 of 8192 values are NaN", "p003_0.npz")
    with pytest.warns(UserWarning, match="left out because they can't be read: 2 of train"):
        called = cli("fit", quick, *words, "data.on_error=skip")
    assert called.code == 0, called.err
    assert_reported(called.out, quick, ["p003_0", "p004_1"])
    assert_reported(cli("fit", quick, *words, "data.on_error=skip").out, quick, ["p003_0", "p004_1"])
    refused(cli("fit", quick, *words[-2:], "data.on_error=skip"), "view is 'image', but the files hold clips")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A study that this test may damage."""
    return write_study(tmp_path / "own", patients=20, each=1, size=32, name="own")


def test_a_truncated_picture(cli: Cli, quick: Path, own: Path) -> None:
    picture = own.parent / "images" / "p005_0.png"
    picture.write_bytes(picture.read_bytes()[:300])
    refused(cli("fit", quick, f"data.streams.tvus.manifest={own}"), "p005_0.png", "truncated", "data.on_error=skip")
    assert not run_folders(quick)
    assert not unfinished_files(own.parent)


def test_skipping_may_not_leave_one_class(cli: Cli, quick: Path, own: Path) -> None:
    words = [f"data.streams.tvus.manifest={own}", "data.on_error=skip"]
    for number in range(1, 20, 2):
        (own.parent / "images" / f"p{number:03d}_0.png").write_bytes(b"")
    refused(cli("fit", quick, *words), "0 filled", "two classes")
    for picture in (own.parent / "images").iterdir():
        picture.write_bytes(b"")
    refused(cli("fit", quick, *words), "none of the files can be read")
    assert not run_folders(quick)


def test_a_training_that_diverges_is_no_result(cli: Cli, quick: Path) -> None:
    refused(cli("fit", quick, "optim.lr=1e30"), "diverged", "optim.lr")
    (folder,) = run_folders(quick)
    assert not (folder / "summary.json").exists()


def test_a_batch_of_one_pixel(cli: Cli, quick: Path) -> None:
    refused(cli("fit", quick, "data.streams.tvus.batch_size=1"), "batch_size")


@pytest.mark.parametrize("command", ["fit", "nonsense", "compare", "bench"])
def test_missing_words_are_usage_errors(cli: Cli, command: str) -> None:
    called = cli(command)
    assert called.code == 2
    assert "Usage" in called.err
    assert "Traceback" not in called.err


def test_bench_of_nothing(cli: Cli) -> None:
    refused(cli("bench", "nonsense"), "no benchmark 'nonsense'", "loader")
