"""Volume and patch views: what a method gets of MR volumes, from where they are cut, and where left and right are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from tests.conftest import REPOSITORY, real_data
from xmkd import config
from xmkd.config import DataConfig, SplitConfig, StreamConfig
from xmkd.data.augment3d import VolumeAugment, left_right_axis
from xmkd.data.datamodule import UnpairedDataModule
from xmkd.data.datasets import PatchDataset
from xmkd.data.image import Image
from xmkd.data.manifest import load
from xmkd.data.preprocess import MriPrep, mask_classes, prepare, prepare_mask
from xmkd.data.readers import read, write_nifti
from xmkd.data.streams import plan
from xmkd.errors import ConfigError, ManifestError, ReadError

PATIENTS = 20
SIZE, PATCH = (8, 24, 20), (4, 12, 10)
OFF = VolumeAugment(False, 0, 0, 0, 0, 0, 0, 0, 0)
CARD = """\
name: volumes
labels:
  finding:
    classes: [absent, present]
    positive: present
"""
Batch = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of different shapes, one of each patient, a quarter of them positive, every second sagittal."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    rows = []
    for p in range(PATIENTS):
        shape = (6 + p % 4, 20 + p % 3, 18 + p % 5)
        affine = np.zeros((4, 4))
        affine[[2, 1, 0, 3], [0, 1, 2, 3]] = (4, 1, 1, 1)
        write_nifti(
            Image(rng.gamma(2, 100, (1, *shape)).astype(np.float32), "volume", (4, 1, 1), affine, "mri"),
            folder / f"p{p}.nii",
        )
        rows.append((f"s{p:02d}", f"p{p:02d}", "mri", "t2_sag" if p % 2 else "t2_tra", f"p{p}.nii", _finding(p)))
    columns = ["sample_id", "patient_id", "modality", "sequence", "path", "finding"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "volumes.csv", index=False)
    (folder / "volumes.yaml").write_text(CARD)
    return folder / "volumes.csv"


def _finding(patient: int) -> str:
    return "absent" if patient % 4 else "present"


def stream(manifest: Path, view: str, **changes: Any) -> StreamConfig:
    usual: dict[str, Any] = {"mri": MriPrep(size=SIZE)} if view == "volume" else {"patch": PATCH}
    return StreamConfig(manifest=str(manifest), view=cast(Any, view), **{"batch_size": 4, **usual, **changes})


def module(*streams: StreamConfig, rank: int = 0, world: int = 1, **data: Any) -> UnpairedDataModule:
    """The streams "mri", "mri_1" ..., as process `rank` of `world` sees them, with a trainer that trains."""
    names = [f"mri_{i}" if i else "mri" for i in range(len(streams))]
    settings = DataConfig(
        streams=dict(zip(names, streams, strict=True)),
        split=SplitConfig(val=0.2, test=0.2),
        cache=str(Path(streams[0].manifest).parent / "cache"),
        **data,
    )
    made = UnpairedDataModule(settings, plan(settings), seed=3, evaluated="mri")
    made.trainer = cast(Trainer, SimpleNamespace(training=True, current_epoch=0, global_rank=rank, world_size=world))
    return made


def epochs(made: UnpairedDataModule, count: int = 1) -> list[list[Batch]]:
    loader = made.train_dataloader()
    found = []
    for epoch in range(count):
        made.trainer.current_epoch = epoch  # type: ignore[misc, union-attr]  # a stub
        for part in loader.flattened:
            part.sampler.set_epoch(epoch)
        found.append([made.on_after_batch_transfer(batch, 0) for batch, _, _ in iter(loader)])
    return found


def evaluation(made: UnpairedDataModule, side: str) -> list[dict[str, Any]]:
    made.trainer.training = False  # type: ignore[union-attr]  # a stub
    loader = made.evaluation_loader(cast(Any, side))
    return [made.on_after_batch_transfer(batch, 0)["mri"] for batch, _, _ in iter(loader)]


def by_sample(parts: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {i: x for part in parts for i, x in zip(part["sample_id"], part["image"], strict=True)}


def prepared(made: UnpairedDataModule, name: str = "mri") -> dict[str, NDArray[np.float32]]:
    """The whole prepared volume of each sample."""
    table, prep = made.study.streams[name].table, made.data.streams[name].prep
    root = made.study.streams[name].manifest.root
    files = zip(table["sample_id"], table["path"], strict=True)
    return {i: made.cache.get(root / path, prep, modality="mri").astype(np.float32) for i, path in files}


@pytest.mark.parametrize("view, shape", [("volume", SIZE), ("patch", PATCH)])
def test_batches_hold_what_is_promised(study: Path, view: str, shape: tuple[int, ...]) -> None:
    made = module(stream(study, view, label="finding"))
    (batches,) = epochs(made)
    assert made.shape("mri") == (1, *shape)
    assert len(batches) == 3  # 12 patients train
    for batch in batches:
        part = batch["mri"]
        assert part["image"].shape == (4, 1, *shape)
        assert part["image"].dtype == torch.float32
        assert part["image"].min() < -1, "z-scores are not clamped"
        assert part["image"].max() > 1.5
        assert part["label"].tolist() == [int(_finding(int(i[1:])) == "present") for i in part["sample_id"]]
    for side in ("val", "test"):
        whole = prepared(made)
        for i, x in by_sample(evaluation(made, side)).items():
            volume = whole[i]
            start = (np.array(volume.shape[1:]) - shape) // 2
            middle = volume[(slice(None), *(slice(s, s + n) for s, n in zip(start, shape, strict=True)))]
            np.testing.assert_array_equal(x, middle)


@pytest.mark.parametrize("view", ["volume", "patch"])
def test_neither_workers_nor_batches_nor_processes_change_a_sample(study: Path, view: str) -> None:
    def drawn(made: UnpairedDataModule, count: int = 2) -> list[dict[str, Tensor]]:
        return [by_sample([batch["mri"] for batch in epoch]) for epoch in epochs(made, count)]

    expected = drawn(module(stream(study, view)))
    different = [expected[0][i] for i in expected[0]], [expected[1][i] for i in expected[0]]
    assert not any(torch.equal(a, b) for a, b in zip(*different, strict=True)), "another epoch, other changes"
    others = [drawn(module(stream(study, view), num_workers=workers)) for workers in (1, 2)]
    others += [drawn(module(stream(study, view, batch_size=1)))]
    others += [drawn(module(stream(study, view), rank=rank, world=2)) for rank in range(2)]
    for found in others:
        for epoch in range(2):
            assert len(found[epoch]) >= 6
            for i, x in found[epoch].items():
                torch.testing.assert_close(x, expected[epoch][i], rtol=0, atol=1e-5)


def test_patches_lie_anywhere_in_the_volume_and_nowhere_else(study: Path) -> None:
    made = module(stream(study, "patch", volume_augment=OFF, label="finding"))
    whole = prepared(made)
    seen: dict[str, set[tuple[int, ...]]] = {}
    made.setup()
    dataset = made.datasets["mri"]
    assert isinstance(dataset, PatchDataset)
    for epoch, batches in enumerate(epochs(made, 60)):
        for part in (batch["mri"] for batch in batches):
            starts = dataset.starts(part["index"].numpy(), part["hash"], epoch)
            for i, x, start in zip(part["sample_id"], part["image"], starts, strict=True):
                place = tuple(slice(s, s + n) for s, n in zip(start, PATCH, strict=True))
                assert (start >= 0).all()
                np.testing.assert_array_equal(x, whole[i][(slice(None), *place)])
                seen.setdefault(i, set()).add(tuple(start))
    for i, places in seen.items():
        spare = np.array(whole[i].shape[1:]) - PATCH
        reached = np.array(list(places))
        assert (reached.min(axis=0) == 0).all(), "the first place is reached on every axis"
        assert (reached.max(axis=0) == spare).all(), "and the last"


def test_a_patch_longer_than_a_volume_is_filled_up_around_it(study: Path) -> None:
    made = module(stream(study, "patch", patch=(10, 12, 10), volume_augment=OFF))
    whole = prepared(made)
    for batch in epochs(made)[0]:
        for i, x in zip(batch["mri"]["sample_id"], batch["mri"]["image"], strict=True):
            depth = whole[i].shape[1]
            first = -((depth - 10) // 2)
            filled = x[0, first : first + depth]
            outside = torch.cat([x[0, :first], x[0, first + depth :]])
            assert (outside == float(whole[i].min())).all()
            windows = np.lib.stride_tricks.sliding_window_view(whole[i][0], (depth, 12, 10))
            assert (windows == filled.numpy()).all(axis=(-3, -2, -1)).any()


def test_volumes_of_rare_classes_are_drawn_as_often(study: Path) -> None:
    made = module(stream(study, "volume", label="finding", sampler="balanced"))
    for batches in epochs(made, 2):
        labels = torch.cat([batch["mri"]["label"] for batch in batches])
        assert labels.bincount().tolist() == [6, 6]
        keys = torch.cat([batch["mri"]["key"] for batch in batches])
        assert len(set(keys.tolist())) == 12, "a repeat is changed in another way"


def test_unlabelled_volumes_can_be_evaluated(study: Path) -> None:
    made = module(stream(study, "volume"))
    table = made.study.streams["mri"].table
    assert made.study.streams["mri"].class_counts("train") == {}
    for side in ("val", "test"):
        parts = evaluation(made, side)
        assert sorted(by_sample(parts)) == table.loc[table["side"] == side, "sample_id"].tolist()
        assert all((part["label"] == -1).all() for part in parts)


def test_one_sequence_of_several_is_chosen_by_where(study: Path) -> None:
    made = module(stream(study, "volume", where={"sequence": "t2_sag"}))
    assert set(made.study.streams["mri"].table["sequence"]) == {"t2_sag"}
    assert len(made.study.streams["mri"].table) == PATIENTS // 2


def test_views_refuse_rows_of_other_modalities(study: Path, toy: Path) -> None:
    with pytest.raises(ManifestError, match=r"reads ultrasound .*view=image.* are mri") as caught:
        plan(DataConfig(streams={"us": StreamConfig(manifest=str(study))}))
    assert "data.streams.us.view=volume or patch" in str(caught.value)
    for view in ("volume", "patch"):
        with pytest.raises(ManifestError, match=rf"reads MRI .*view={view}.* are tvus") as caught:
            plan(DataConfig(streams={"mri": stream(toy, view)}))
        assert "data.streams.mri.view=image or clip" in str(caught.value)


@pytest.mark.parametrize(
    "words, line",
    [
        (["view=volume"], "mri.size: a volume view needs one shape"),
        (["view=patch"], "patch: a patch view needs the patch's shape"),
        (["view=patch", "patch=[4,0,8]"], "patch: [4, 0, 8] must be 1 or more"),
        (["view=patch", "patch=[4,8,8]", "mri.size=[3,9,9]"], "patch: [4, 8, 8] is larger than the volumes"),
        (["view=volume", "mri.size=[3,9,9]"], "ultrasound: the view 'volume' does not use it"),
        (["view=volume", "mri.size=[3,9,9]", "patch=[2,2,2]"], "patch: the view 'volume' does not use it"),
        (["view=patch", "patch=[2,2,2]", "augment.noise=0"], "augment: the view 'patch' does not use it"),
        (["mri.n4=true"], "mri: the view 'image' does not use it"),
        (["view=clip", "patch=[2,2,2]"], "patch: the view 'clip' does not use it"),
        (["volume_augment.flip=false"], "volume_augment: the view 'image' does not use it"),
        (["view=volume", "volume_augment.noise=-1"], "volume_augment: noise must lie between 0 and"),
    ],
)
def test_settings_that_do_not_fit_the_view_are_listed(experiment: Path, words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(experiment, [f"data.streams.tvus.{word}" for word in words])
    assert f"data.streams.tvus.{line}" in str(caught.value)


@pytest.mark.parametrize("view", ["volume", "patch"])
def test_unreadable_volumes_are_left_out_and_listed(study: Path, tmp_path: Path, view: str) -> None:
    for file in study.parent.glob("p*.nii"):
        (tmp_path / file.name).symlink_to(file)
    for name in ("volumes.csv", "volumes.yaml"):
        (tmp_path / name).write_bytes((study.parent / name).read_bytes())
    (tmp_path / "p3.nii").unlink()
    (tmp_path / "p3.nii").write_bytes(b"no volume")
    broken = stream(tmp_path / "volumes.csv", view, volume_augment=OFF)
    with pytest.raises(ReadError, match=r"p3\.nii"):
        module(broken).setup()
    made = module(broken, on_error="skip")
    made.setup()
    assert made.skipped["sample_id"].tolist() == ["s03"]
    assert len(made.datasets["mri"]) == PATIENTS - 1
    whole, names = prepared(made), made.study.streams["mri"].table["sample_id"]
    assert "s03" not in whole
    for i, x in zip(names, made.datasets["mri"].pictures(np.arange(PATIENTS - 1)), strict=True):
        assert x[0, 2, 6, 5] in whole[i], "rows and volumes belong together"


def test_patches_of_volumes_that_differ_in_channels_are_refused(study: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 2):
        write_nifti(Image(rng.random((channels, 5, 6, 7)), "volume", (1, 1, 1)), tmp_path / f"c{channels}.nii")
    rows = [f"s{c},p{c},mri,c{c}.nii,train" for c in (1, 2)]
    (tmp_path / "volumes.csv").write_text("\n".join(["sample_id,patient_id,modality,path,split", *rows]))
    (tmp_path / "volumes.yaml").write_text("name: volumes")
    made = module(stream(tmp_path / "volumes.csv", "patch"))
    with pytest.raises(ReadError, match="2 channels, others have 1"):
        made.setup()


class Witness(LightningModule):
    """Learns nothing and keeps what it was given in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, dict[str, Tensor]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        epoch = self.seen.setdefault(self.current_epoch, {})
        epoch |= zip(batch["mri"]["sample_id"], batch["mri"]["image"], strict=True)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_a_resumed_training_cuts_the_same_patches(study: Path, tmp_path: Path) -> None:
    def trained(last: int, checkpoint: Path | None = None) -> tuple[Witness, Trainer]:
        made, method = module(stream(study, "patch"), num_workers=1), Witness()
        made.first_epoch = 1 if checkpoint else 0
        trainer = Trainer(
            max_epochs=last,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(method, made, ckpt_path=checkpoint, weights_only=True)
        return method, trainer

    whole, _ = trained(3)
    _, first = trained(1)
    first.save_checkpoint(tmp_path / "first.ckpt")
    resumed, _ = trained(3, tmp_path / "first.ckpt")
    assert sorted(whole.seen) == [0, 1, 2]
    assert sorted(resumed.seen) == [1, 2]
    for epoch in (1, 2):
        assert resumed.seen[epoch].keys() == whole.seen[epoch].keys()
        assert all(torch.equal(x, whole.seen[epoch][i]) for i, x in resumed.seen[epoch].items())
    assert not any(torch.equal(whole.seen[1][i], x) for i, x in whole.seen[0].items() if i in whole.seen[1])


# --- where left and right are


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of two simulated pelvic MRI, sagittal DICOM series with masks."""
    from xmkd.simulate import cohort, spec
    from xmkd.simulate.examination import examine

    out = tmp_path_factory.mktemp("simulated") / "pod"
    cohort.simulate(
        spec.load(REPOSITORY / "experiments/cohorts/pod_tiny.yaml"), out, examine, workers=1, only="mri_unlabelled"
    )
    return out / "pod_mri_unlabelled.csv"


def organ(simulated: Path, orientation: str) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], int]]:
    """For each patient the affine of the prepared volume, the bladder's middle as an index of it, and its depth."""
    manifest = load(simulated)
    bladder = manifest.card.mask_classes.index("bladder")
    for path, mask in manifest.table[["path", "mask"]].to_numpy():
        made = prepare(read(manifest.root / path), MriPrep(orientation=orientation, size=(50, 51, 52)))
        assert made.affine is not None
        labels = prepare_mask(mask_classes(read(manifest.root / mask).array[0]), made)
        found = np.argwhere(labels == bladder)
        assert len(found) > 20
        yield made.affine, found.mean(axis=0), made.array.shape[left_right_axis(orientation)]


@pytest.mark.parametrize("orientation", ["PIL", "LPS", "RIA"])
def test_a_landmark_stays_in_place_and_a_flip_moves_it_to_the_other_side(simulated: Path, orientation: str) -> None:
    for (affine, index, length), (other, there, _) in zip(
        organ(simulated, orientation), organ(simulated, "LAS"), strict=True
    ):
        mm = affine @ (*index, 1)
        np.testing.assert_allclose(mm[:3], (other @ (*there, 1))[:3])
        flipped = index.copy()
        axis = left_right_axis(orientation)
        flipped[axis] = length - 1 - index[axis]
        change = affine @ (*flipped, 1) - mm
        np.testing.assert_allclose(change[1:], 0, atol=1e-6)
        middle = affine @ (*(np.array((50, 51, 52)) - 1) / 2, 1)
        assert mm[0] + change[0] / 2 == pytest.approx(middle[0]), "mirrored about the volume's middle"


def test_sagittal_voxels_of_a_simulated_examination(simulated: Path) -> None:
    """PIL: slices from right to left, rows downwards, columns from front to back; spacing and shape as asked for."""
    prep = MriPrep(orientation="PIL", spacing_mm=(12.0, 3.0, 3.0), size=(6, 64, 64))
    made = module(StreamConfig(manifest=str(simulated), view="volume", mri=prep, batch_size=2, volume_augment=OFF))
    (batch,) = epochs(made)[0]
    assert batch["mri"]["image"].shape == (2, 1, 6, 64, 64)
    assert made.datasets["mri"].pictures(np.arange(2)).dtype == np.float16
    root = made.study.streams["mri"].manifest.root
    for path in made.study.streams["mri"].table["path"]:
        affine = prepare(read(root / path), prep).affine
        assert affine is not None
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (12, 3, 3))
        along = affine[:3, :3] / (12, 3, 3)  # the scan is tilted by some degrees about the axis from left to right
        np.testing.assert_allclose(along, [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=0.2)


# --- public data


@pytest.mark.parametrize("view", ["volume", "patch"])
@pytest.mark.parametrize(
    "name, where, size",
    [
        ("msd_hippocampus", {"sample_id": [f"hippocampus_{i:03d}" for i in range(1, 30)]}, (32, 48, 32)),
        ("tcia_prostate_mri", {"sequence": ["t2_sag", "t2_cor"]}, (16, 64, 64)),
    ],
)
def test_real_volumes_of_all_sizes(
    tmp_path: Path, view: str, name: str, where: dict[str, Any], size: tuple[int, int, int]
) -> None:
    real_data(name)
    manifest = REPOSITORY / "data_manifests" / f"{name}.csv"
    fitting = {"mri": MriPrep(size=size)} if view == "volume" else {"patch": size}
    settings = DataConfig(
        streams={"mri": stream(manifest, view, **{"where": where, "batch_size": 2, **fitting})}, cache=str(tmp_path)
    )
    made = UnpairedDataModule(settings, plan(settings), seed=0, evaluated="mri")
    made.trainer = cast(Trainer, SimpleNamespace(training=True, current_epoch=0, global_rank=0, world_size=1))
    (batches,) = epochs(made)
    assert batches[0]["mri"]["image"].shape == (2, 1, *size)
    images = torch.cat([batch["mri"]["image"] for batch in batches])
    assert images.isfinite().all()
    assert 0.3 < images.std() < 3
