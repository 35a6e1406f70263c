"""Pre-training by masked auto-encoding: masks, figures, probes and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.chain import Chain, small_networks
from xmkd import runs, training
from xmkd.callbacks import Checkpoints
from xmkd.config import OptimConfig
from xmkd.data import augment3d
from xmkd.data.pseudonyms import pseudonym, salt
from xmkd.data.rng import id_hash, mix, uniform
from xmkd.errors import ConfigError
from xmkd.evaluation.reconstruction import fill_linearly, psnr, ssim
from xmkd.methods.base import Task
from xmkd.methods.mae import Mae, MaeSettings, mean_patch
from xmkd.nets.vit3d import patchify
from xmkd.runs import Run

SIZE = (8, 16, 24)  # 2 x 2 x 3 = 12 patches


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_networks(monkeypatch)


def method(**settings: Any) -> Mae:
    torch.manual_seed(0)
    settings = {"student": "tiny", "patch": (4, 8, 8), "normalise": False, **settings}
    return Mae(MaeSettings(**settings), Task((), (), (1, *SIZE)), OptimConfig()).eval()


def samples(count: int = 3, epoch: int = 0) -> dict[str, Tensor]:
    hashes = torch.tensor([id_hash(f"s{i}") for i in range(count)])
    image = torch.randn(count, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    return {"image": image, "hash": hashes, "key": mix(0, epoch, hashes)}


def metrics(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.metrics)


def weights(run: Run) -> dict[str, Tensor]:
    state: dict[str, Tensor] = runs.checkpoint(run.last)["state_dict"]
    return state


def test_what_is_masked_does_not_depend_on_how_the_volume_is_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    net = method()
    mask = net.net.mask

    def watched(noise: Tensor, *, whole: bool = False) -> tuple[Tensor, Tensor]:
        drawn.append(noise)
        return mask(noise, whole=whole)

    monkeypatch.setattr(net.net, "mask", watched)
    many = samples(400)
    net.step({"mri": many})
    change = uniform(many["key"], augment3d.COUNT)
    together = torch.corrcoef(torch.cat([drawn[0], change], dim=1).T)[: drawn[0].shape[1], drawn[0].shape[1] :]
    assert together.abs().max() < 0.25, "five standard errors of independent numbers"


def test_the_mask_of_a_sample_depends_on_its_key_alone() -> None:
    net, whole = method(), samples()
    together = net.step({"mri": whole}).loss
    alone = [net.step({"mri": {name: x[i : i + 1] for name, x in whole.items()}}).loss for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    assert torch.equal(net.step({"mri": whole}).loss, together)
    masks = [net.net.mask(uniform(samples(epoch=epoch)["key"], 12))[0] for epoch in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2]), "another epoch, other patches"
    assert not torch.equal(net.step({"mri": samples(epoch=1)}).loss, together)


def test_a_training_masks_by_seed_epoch_and_sample_and_by_nothing_else(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked: dict[tuple[int, str], list[int]] = {}
    step = Mae.step

    def watched(self: Mae, batch: Any) -> Any:
        part = batch["mri"]
        kept, _ = self.net.mask(uniform(part["key"], self.net.architecture.tokens))
        masked.update(((self.current_epoch, i), k.tolist()) for i, k in zip(part["sample_id"], kept, strict=True))
        return step(self, batch)

    monkeypatch.setattr(Mae, "step", watched)
    found = []
    for name, words in (
        ("first", []),
        ("others", ["data.streams.mri.batch_size=2", "data.num_workers=1", "method.mask_ratio=0.75"]),
        ("seed", ["seed=1"]),
    ):
        masked.clear()
        training.fit(chain.pretraining(tmp_path / name, "data.streams.mri.mri.size=[16,32,32]", *words))
        found.append(dict(masked))
    assert len(found[0]) == 2 * 8, "eight patients train in two epochs"
    assert found[1] == found[0]
    assert all(found[0][1, i] != found[0][0, i] for epoch, i in found[0] if epoch == 0)
    assert all(found[2][key] != kept for key, kept in found[0].items())


def test_patches_hidden_in_an_evaluation_are_the_same_in_every_epoch() -> None:
    net = method(decode_ratio=0.5)
    with torch.inference_mode():
        assert torch.equal(net.scores(samples(epoch=0)), net.scores(samples(epoch=7)))
        swapped = {name: x.flip(0) for name, x in samples().items()}
        torch.testing.assert_close(net.scores(swapped), net.scores(samples()).flip(0))


@pytest.mark.parametrize("normalise", [False, True])
def test_figures_by_hand(normalise: bool) -> None:
    net, part = method(normalise=normalise), samples()
    volume, noise = part["image"], uniform(part["hash"], 12)
    with torch.inference_mode():
        found = dict(zip(net.figures, net.scores(part).T, strict=True))
        result = net.net(volume, noise)
    torch.testing.assert_close(found["loss_model"].mean(), result.loss)
    sizes, rows = net.net.architecture, torch.arange(3)[:, None]
    patches = patchify(volume, sizes)
    true = net.net.target(patches[rows, result.decoded])
    shown = torch.zeros(3, 12, dtype=torch.bool).scatter(1, result.kept, True)  # (B, N)
    visible = shown.view(3, 1, 2, 2, 3).repeat_interleave(4, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    filled = {"mean_patch": mean_patch(volume, result.kept, sizes), "linear": fill_linearly(volume, visible)}
    for name, other in filled.items():
        target = net.net.target(patchify(other, sizes)[rows, result.decoded])
        torch.testing.assert_close(found[f"loss_{name}"], (target - true).square().mean((1, 2)))
    if normalise:
        assert set(found) == {"loss_model", "loss_mean_patch", "loss_linear"}
        return
    whole = {"model": net.net.paint(volume, result)}
    whole |= {name: torch.where(visible, volume, other) for name, other in filled.items()}
    for name, other in whole.items():
        torch.testing.assert_close(found[f"psnr_{name}"], psnr(other, volume, ~visible))
        torch.testing.assert_close(found[f"ssim_{name}"], ssim(other, volume))


def test_mean_patch_knows_what_is_visible_and_nothing_else() -> None:
    net, part = method(), samples()
    kept, _ = net.net.mask(uniform(part["hash"], 12))
    patches = patchify(part["image"], net.net.architecture)
    made = patchify(mean_patch(part["image"], kept, net.net.architecture), net.net.architecture)
    for b in range(3):
        torch.testing.assert_close(made[b], patches[b, kept[b]].mean(dim=0).expand(12, -1))


def test_a_run_leaves_figures_of_patients_and_pictures(chain: Chain) -> None:
    run = runs.find(chain.mae)
    table = pd.read_csv(chain.mae / "predictions_test.csv")
    names = [f"{kind}_{of}" for kind in ("loss", "psnr", "ssim") for of in ("model", "mean_patch", "linear")]
    assert list(table.columns) == ["sample_id", "patient_id", "site", "fold", "label", *names]
    assert table["label"].isna().all()
    summary = run.summary()
    assert summary["classes"] == []
    for name in names:
        assert summary["metrics"][name]["value"] == pytest.approx(table[name].mean())  # each patient has one volume
        assert summary["metrics"][name]["patients"] == 4
    assert [p.name for p in sorted((chain.mae / "pictures").iterdir())] == ["epoch_0000.png", "epoch_0001.png"]
    last = metrics(run).groupby("metric")["value"].last()
    val = pd.read_csv(chain.mae / "predictions_val.csv")
    assert last["val/loss"] == pytest.approx(val["loss_model"].mean())
    assert last["val/psnr"] == pytest.approx(val["psnr_model"].mean())
    assert last["val/loss_over_linear"] == pytest.approx(val["loss_model"].mean() / val["loss_linear"].mean())


def test_pictures_are_of_as_many_volumes_as_asked_for_whatever_the_batch(chain: Chain, tmp_path: Path) -> None:
    sheets = []
    for size in (1, 4):
        words = [f"data.streams.mri.batch_size={size}", "method.pictures=3", "trainer.limit_train_batches=1"]
        run = training.fit(chain.pretraining(tmp_path / str(size), *words, "trainer.max_epochs=1", "optim.lr=1e-12"))
        with Image.open(run.folder / "pictures" / "epoch_0000.png") as image:
            sheets.append(np.array(image))
    assert len(sheets[0]) == 14 + 3 * (64 + 4), "a row of enlarged slices each"
    np.testing.assert_allclose(sheets[0], sheets[1], atol=1)


def test_probes_are_told_and_change_nothing(chain: Chain, tmp_path: Path) -> None:
    with_probe = training.fit(chain.pretraining(tmp_path / "runs", *chain.probe))
    without = runs.find(chain.mae)
    assert with_probe.id != without.id
    assert weights(with_probe).keys() == weights(without).keys()
    assert all(torch.equal(x, weights(without)[name]) for name, x in weights(with_probe).items())
    told = metrics(with_probe)
    for name in ("val/knn_auroc", "val/linear_auroc"):
        assert told.loc[told["metric"] == name, "value"].between(0, 1).sum() == 2
    assert not metrics(without)["metric"].str.contains("auroc").any()
    record = with_probe.provenance()
    assert record["fitted_on"] == without.provenance()["fitted_on"]
    secret = salt(tmp_path / "runs")
    patients = pd.read_csv(chain.labelled)["patient_id"]
    assert not {pseudonym(secret, f"labelled/{p}") for p in patients} & set(record["fitted_on"])


def test_a_resumed_training_ends_as_if_never_cut(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training.fit(chain.pretraining(tmp_path / "whole", "trainer.max_epochs=4"))
    broken = cut_after(2, chain.pretraining(tmp_path / "broken", "trainer.max_epochs=4"), monkeypatch)
    pd.testing.assert_frame_equal(metrics(broken), metrics(whole), check_exact=True)
    assert all(torch.equal(x, weights(whole)[name]) for name, x in weights(broken).items())


def cut_after(epochs: int, experiment: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A training that dies after some epochs, and is taken up again."""
    told = Checkpoints.on_train_epoch_end

    def dying(self: Checkpoints, trainer: Any, module: Any) -> None:
        told(self, trainer, module)
        if trainer.current_epoch + 1 == epochs:
            raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", dying)
        with pytest.raises(RuntimeError, match="power"):
            training.fit(experiment)
    return training.fit(experiment)


def test_without_validation_patients_the_figures_are_those_of_the_test(chain: Chain, tmp_path: Path) -> None:
    run = training.fit(chain.pretraining(tmp_path / "runs", "data.split.val=0", "method.normalise=true"))
    assert set(run.summary()["metrics"]) == {"loss_model", "loss_mean_patch", "loss_linear"}
    assert not (run.folder / "pictures").exists()


def test_it_trains_on_parts_of_volumes(chain: Chain, tmp_path: Path) -> None:
    words = ["data.streams.mri.view=patch", "data.streams.mri.patch=[4,8,16]"]
    run = training.fit(chain.pretraining(tmp_path / "runs", *words))
    assert np.isfinite(pd.read_csv(run.folder / "predictions_test.csv")["psnr_model"]).all()


def test_folds_are_joined(chain: Chain, tmp_path: Path) -> None:
    run = training.crossval(chain.pretraining(tmp_path / "runs", "data.folds=2", "trainer.max_epochs=1"))
    table = pd.read_csv(run.folder / "predictions_oof.csv")
    assert sorted(table["sample_id"]) == sorted(pd.read_csv(chain.corpus)["sample_id"])
    assert run.summary()["metrics"]["psnr_model"]["value"] == pytest.approx(table["psnr_model"].mean())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["method.mask_ratio=0"], "method.mask_ratio: 0.0 is not in (0, 1)"),
        (["method.mask_ratio=1"], "method.mask_ratio: 1.0 is not in (0, 1)"),
        (["method.decode_ratio=0"], "method.decode_ratio: 0.0 is not in (0, 1]"),
        (["method.decode_ratio=1.5"], "method.decode_ratio: 1.5 is not in (0, 1]"),
        (["method.patch=[3,8,8]"], "is not divisible by 3"),
        (["method.patch=[8,16,16]"], "method.patch: a volume of a single patch leaves nothing to mask"),
        (["data.streams.mri.mri.size=[8,16,20]"], "is not divisible by 8"),
        (["data.streams.mri.view=patch", "data.streams.mri.patch=[4,8,12]"], "is not divisible by 8"),
        (["data.streams.mri.label=filled"], "data.streams.mri.label: no label is looked at"),
        (["method.pictures=-1"], "method.pictures: -1 is less than 0"),
        (["method.student=huge"], "method.student"),
    ],
)
def test_settings_that_do_not_fit_are_named(chain: Chain, tmp_path: Path, words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match="1 problem ") as caught:
        chain.pretraining(tmp_path / "runs", *words)
    assert line in str(caught.value)


def test_a_probe_needs_volumes_of_the_same_size(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"probe: its .* are not those of the stream mri"):
        chain.pretraining(tmp_path / "runs", *chain.probe, "data.streams.probe.mri.size=[8,16,24]")


def test_a_probe_needs_two_classes_on_both_sides(chain: Chain, tmp_path: Path) -> None:
    table = pd.read_csv(chain.labelled, dtype=str)
    table["filled"] = [("empty", "half", "filled")[i % 3] for i in range(len(table))]
    table.to_csv(tmp_path / "three.csv", index=False)
    card = chain.labelled.with_suffix(".yaml").read_text().replace("[empty, filled]", "[empty, half, filled]")
    (tmp_path / "three.yaml").write_text(card.replace("    positive: filled\n", ""))
    stream = "data.streams.probe"
    words = [*chain.probe, f"{stream}.manifest={tmp_path / 'three.csv'}", f"{stream}.root={chain.labelled.parent}"]
    with pytest.raises(ConfigError, match="a probe needs a label of two classes") as caught:
        training.fit(chain.pretraining(tmp_path / "runs", *words))
    assert "half" in str(caught.value)
    assert not list((tmp_path / "runs").glob("mae/*")), "before anything is trained"


def test_a_probe_needs_a_label_and_the_same_view(chain: Chain, tmp_path: Path) -> None:
    words = [f"data.streams.probe.manifest={chain.corpus}", "data.streams.probe.view=volume"]
    with pytest.raises(ConfigError, match="probe: it needs a label"):
        chain.pretraining(tmp_path / "runs", *words, "data.streams.probe.mri={size: [8, 16, 16]}")
