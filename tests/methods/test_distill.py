"""Unpaired distillation: the two terms, their weight, what reaches the student and what never does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.chain import MAE, Chain, small_networks, write_volumes
from tests.methods.test_mae import cut_after, metrics, weights
from xmkd import config, runs, training
from xmkd.config import OptimConfig
from xmkd.data.partners import FEATURES, FeaturePool, Targets
from xmkd.data.pseudonyms import pseudonym, salt
from xmkd.data.rng import sample_keys
from xmkd.data.streams import Study
from xmkd.errors import ConfigError, LeakageError, RunError
from xmkd.evaluation.teacher_scores import recalibrated
from xmkd.methods import distill
from xmkd.methods.base import Task
from xmkd.methods.distill import Distill, DistillSettings, encoder_weights
from xmkd.nets.vit3d import VolumeClassifier
from xmkd.runs import Run

SIZE = (8, 16, 16)
ALONE = ["method.alpha=0", "method.epoch_offset=1", "method.teacher=none"]
IDS = ["a", "b", "c", "d"]
pytestmark = pytest.mark.filterwarnings("ignore:.*higher scores don't go with more positives")  # a teacher of one epoch


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_networks(monkeypatch)


def student(epoch: int = 0, epochs: int = 10, **settings: Any) -> Distill:
    torch.manual_seed(0)
    settings = {"student": "tiny", "patch": (4, 8, 8), "drop_path": 0.0, **settings}
    method = Distill(DistillSettings(**settings), Task(("no", "yes"), (30, 10), (1, *SIZE)), OptimConfig())
    method._trainer = SimpleNamespace(max_epochs=epochs, current_epoch=epoch)  # type: ignore[assignment]  # a stub
    return method


def batch(epoch: int = 0) -> dict[str, dict[str, Any]]:
    image = torch.randn(4, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 1, 0])
    return {"mri": {"image": image, "label": label, "key": sample_keys(0, epoch, IDS), "index": torch.arange(4)}}


def pools() -> Targets:
    scores = torch.tensor([0.1, 0.3, 0.2, 0.9, 0.8])
    return Targets.build("same-class", scores, torch.tensor([0, 0, 0, 1, 1]))


def told(run: Run, name: str) -> list[float]:
    table = metrics(run)
    return table.loc[table["metric"] == name].groupby("epoch")["value"].last().tolist()


def captured(monkeypatch: pytest.MonkeyPatch) -> list[Distill]:
    """The methods that are built from here on."""
    found: list[Distill] = []
    build = training._build

    def watched(*args: Any, **kwargs: Any) -> Any:
        data, method = build(*args, **kwargs)
        assert isinstance(method, Distill)
        found.append(method)
        return data, method

    monkeypatch.setattr(training, "_build", watched)
    return found


@pytest.mark.parametrize("epoch", [0, 5, 9])
def test_the_step_mixes_both_terms_by_the_epochs_weight(epoch: int) -> None:
    method, part = student(epoch), batch(epoch)
    method.targets = pools()
    logits = method(part["mri"]["image"])
    target = method.targets.draw(part["mri"]["key"], part["mri"]["label"], part["mri"]["index"])
    label = part["mri"]["label"].float()
    weight = torch.where(label == 1, 40 / 20, 40 / 60)  # inverse frequency of 30 and 10
    supervised = (weight * F.binary_cross_entropy_with_logits(logits, label, reduction="none")).sum() / weight.sum()
    distilled = (logits.sigmoid() - target).abs().mean()
    w = 2.0 ** (-2 * epoch / 10)
    found = method.step(part)
    assert method.weight == pytest.approx(w)
    torch.testing.assert_close(found.logs["l_kd"], distilled)
    torch.testing.assert_close(found.logs["l_ptm"], supervised)
    torch.testing.assert_close(found.loss, w * distilled + (1 - w) * supervised)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.999, 1.0])
def test_the_first_epoch_is_pure_distillation_unless_the_offset_is_1(alpha: float) -> None:
    assert student(0, alpha=alpha).weight == 1
    assert student(0, alpha=alpha, epoch_offset=1).weight == alpha
    assert student(3, alpha=alpha, epoch_offset=1).weight == pytest.approx(alpha**4)


def test_automatic_alpha_gives_both_terms_the_same_weight_in_the_middle() -> None:
    for epochs in (2, 20, 50):
        assert student(epochs // 2, epochs).weight == pytest.approx(0.5, abs=1e-12)
    assert student(10, 100, alpha=0.9).weight == pytest.approx(0.34868, abs=1e-5)


def test_supervision_alone_is_the_same_gradient_whatever_targets_there_are() -> None:
    gradients = []
    for targets in (None, pools()):
        method, part = student(0, alpha=0.0, epoch_offset=1), batch()
        method.targets = targets
        result = method.step(part)
        assert set(result.logs) == {"l_ptm"}
        torch.autograd.backward(result.loss)
        gradients.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(method.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_distillation_alone_has_no_gradient_of_the_labels_loss() -> None:
    method, part = student(0, alpha=1.0, pairing="any"), batch()
    method.targets = Targets.build("any", torch.tensor([0.3, 0.6]), torch.tensor([0, 1]))
    torch.autograd.backward(method.step(part).loss)
    first = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    method.zero_grad()
    part["mri"]["label"] = 1 - part["mri"]["label"]  # with `any` the label decides nothing
    torch.autograd.backward(method.step(part).loss)
    again = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_partners_are_drawn_anew_in_each_epoch_and_do_not_depend_on_the_batch() -> None:
    method = student()
    method.targets = Targets.build("same-class", torch.rand(50), torch.arange(50) % 2)
    drawn = []
    for epoch in (0, 0, 1):
        part = batch(epoch)["mri"]
        drawn.append(method.targets.draw(part["key"], part["label"], part["index"]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    part = batch()["mri"]
    alone = [method.targets.draw(part["key"][i : i + 1], part["label"][i : i + 1], part["index"][:1]) for i in range(4)]
    assert torch.equal(torch.cat(alone), drawn[0])


def test_two_free_scalars_come_to_the_median_or_the_mean_of_their_class() -> None:
    scores, labels = torch.tensor([0.2, 0.9, 1.0, 0.1]), torch.tensor([1, 1, 1, 0])
    for norm, expected in (("l1", 0.9), ("l2", 0.7)):
        logits = nn.Parameter(torch.zeros(2))
        targets = Targets.build("same-class", scores, labels)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
        label = torch.arange(300) % 2
        for epoch in range(600):
            target = targets.draw(sample_keys(0, epoch, [str(i) for i in range(300)]), label, label)
            loss = F.l1_loss if norm == "l1" else F.mse_loss
            optimizer.zero_grad()
            torch.autograd.backward(loss(logits.sigmoid()[label], target))
            optimizer.step()
            schedule.step()
        assert logits.sigmoid()[1].item() == pytest.approx(expected, abs=0.02)


def test_the_weight_is_told_in_each_epoch_and_both_losses(chain: Chain, tmp_path: Path) -> None:
    run = training.fit(chain.student(tmp_path / "runs", "trainer.max_epochs=4"))
    assert told(run, "train/w") == pytest.approx([1, 2**-0.5, 0.5, 2**-1.5])
    table = metrics(run).pivot_table(index="step", columns="metric", values="value")
    steps = table.dropna(subset=["train/l_kd", "train/l_ptm"])
    assert len(steps) == 4 * 3  # three batches of four of twelve patients
    w = 2 ** (-2 * (np.arange(12) // 3) / 4)
    mixed = w * steps["train/l_kd"] + (1 - w) * steps["train/l_ptm"]
    np.testing.assert_allclose(steps["train/loss"], mixed, rtol=1e-5)


def test_targets_are_out_of_fold_scores_at_the_students_prevalence(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = captured(monkeypatch)
    training.fit(chain.student(tmp_path / "runs", "trainer.max_epochs=1"))
    assert found[0].targets is not None
    table = recalibrated(pd.read_csv(chain.teacher / "predictions_oof.csv"), 0.5)
    assert sorted(found[0].targets.pools.tolist()) == pytest.approx(sorted(table["score"]), abs=1e-6)


def test_the_students_prevalence_counts_patients_and_no_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    oof = pd.DataFrame({"score": [0.2, 0.8], "label": [0, 1]})
    teacher = SimpleNamespace(folder=Path("teacher"), predictions=lambda _: oof)
    monkeypatch.setattr(distill, "_teacher", lambda *_: teacher)

    def noted(table: pd.DataFrame, prevalence: float) -> pd.DataFrame:
        seen.append(prevalence)
        return table

    monkeypatch.setattr(distill, "recalibrated", noted)
    rows = pd.DataFrame({"patient_id": ["a", "a", "a", "b", "c", "d"], "side": ["train"] * 5 + ["val"]})
    table: Any = SimpleNamespace(table=rows, label_index=lambda: np.array([1, 1, 1, 0, 0, 1]))
    distill.read_targets(DistillSettings(teacher="teacher"), table)
    assert seen == [pytest.approx(1 / 3)], "one of three training patients, whatever the number of her volumes"


def test_nothing_of_the_teacher_is_learnt_or_kept(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, Tensor] = {}
    read = Distill.before_fit

    def watched(self: Distill, study: Study) -> None:
        read(self, study)
        before.update(_teachers(self))

    monkeypatch.setattr(Distill, "before_fit", watched)
    found = captured(monkeypatch)
    run = training.fit(chain.student(tmp_path / "runs", "method.feature_weight=0.5"))
    (method,) = found
    assert isinstance(method.partners, FeaturePool)
    after = _teachers(method)
    assert before.keys() == after.keys()
    assert len(before) >= 5
    assert all(torch.equal(before[name], x) and not x.requires_grad for name, x in after.items())
    assert not [n for n, _ in method.named_parameters() if n.split(".")[0] in ("targets", "partners")]
    kept = weights(run)
    assert {name.split(".")[0] for name in kept} == {"student", "to_teacher"}
    assert all(len(x.flatten()) != len(before["targets.pools"]) for x in kept.values()), "no table of scores"
    assert {n for n in kept if n.startswith("to_teacher")} == {"to_teacher.weight", "to_teacher.bias"}
    assert kept["to_teacher.weight"].shape == (FEATURES, 24)


def _teachers(method: Distill) -> dict[str, Tensor]:
    buffers = {name: x.clone() for name, x in method.named_buffers() if name.split(".")[0] in ("targets", "partners")}
    for name in ("targets", "partners"):
        part = getattr(method, name)
        assert isinstance(part, nn.Module)
        assert not list(part.parameters())
    return buffers


def test_what_predicts_holds_no_teacher_and_no_decoder(chain: Chain, tmp_path: Path) -> None:
    run = training.fit(chain.student(tmp_path / "runs", "trainer.max_epochs=1"))
    kept = {name.removeprefix("student.") for name in weights(run)}
    plain = VolumeClassifier(student().student.encoder.architecture, 1)
    assert kept == set(plain.state_dict()), "an encoder and one linear layer"
    assert not [name for name in kept if any(word in name for word in ("decoder", "predict", "mask", "teacher"))]
    plain.load_state_dict({name.removeprefix("student."): x for name, x in weights(run).items()})
    exported = torch.export.export(plain.eval(), (torch.zeros(2, 1, *SIZE),))
    inputs = {*exported.graph_signature.parameters, *exported.graph_signature.buffers}
    assert inputs == {*(name for name, _ in plain.named_parameters()), "encoder.position"}


def test_an_untrained_student_has_the_auto_encoders_encoder(chain: Chain) -> None:
    sizes = student().student.encoder.architecture
    state = runs.checkpoint(chain.mae / "checkpoints" / "last.ckpt")["state_dict"]
    found = student(mae=str(chain.mae)).student.encoder.state_dict()
    assert encoder_weights(chain.mae, sizes).keys() == found.keys()
    assert all(torch.equal(x, state[f"net.encoder.{name}"]) for name, x in found.items())
    assert not torch.equal(found["embed.weight"], student().student.encoder.state_dict()["embed.weight"])


def test_a_resumed_training_goes_on_with_its_weight(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trainer.max_epochs=4", "method.feature_weight=0.5"]
    whole = training.fit(chain.student(tmp_path / "whole", *words))
    broken = cut_after(2, chain.student(tmp_path / "broken", *words), monkeypatch)
    assert told(broken, "train/w") == pytest.approx([1, 2**-0.5, 0.5, 2**-1.5])
    pd.testing.assert_frame_equal(metrics(broken), metrics(whole), check_exact=True)
    assert all(torch.equal(x, weights(whole)[name]) for name, x in weights(broken).items())


def test_a_trained_student_is_tested_without_its_teacher(chain: Chain, tmp_path: Path) -> None:
    run = training.fit(chain.student(tmp_path / "runs", "trainer.max_epochs=1"))
    before = (run.folder / "predictions_test.csv").read_bytes()
    text = (run.folder / "config.yaml").read_text()
    for folder in (chain.teacher, chain.mae):
        text = text.replace(str(folder), str(tmp_path / "gone"))
    (run.folder / "config.yaml").write_text(text)
    training.test(run, [])
    assert (run.folder / "predictions_test.csv").read_bytes() == before


def own_scores(chain: Chain, folder: Path) -> Path:
    table = pd.read_csv(chain.labelled)
    score = np.random.default_rng(0).uniform(0.2, 0.6, len(table)) + 0.2 * (table["filled"] == "filled")
    given = table[["sample_id", "patient_id"]].assign(label=(table["filled"] == "filled").astype(int), score=score)
    given.assign(fold=np.arange(len(table)) // 2 % 2).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


@pytest.mark.parametrize(
    "pairing", ["same-class", "any", "constant", "shuffled", "surrogate", "hard", "self", "oracle_pair"]
)
@pytest.mark.filterwarnings("ignore:.*lies in no run folder")
def test_every_pairing_trains(chain: Chain, tmp_path: Path, pairing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"method.pairing={pairing}", "trainer.max_epochs=1"]
    if pairing in ("self", "oracle_pair"):
        words.append(f"method.own_scores={own_scores(chain, tmp_path)}")
    if pairing in ("hard", "self"):
        words.append("method.teacher=none")
    found = captured(monkeypatch)
    run = training.fit(chain.student(tmp_path / "runs", *words))
    assert run.finished
    assert found[0].targets is not None
    if pairing == "hard":
        assert found[0].targets.pools.tolist() == [0, 1]
    if pairing in ("self", "oracle_pair"):
        assert len(found[0].targets.pools) == 24


def test_supervision_alone_reads_no_teacher(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = captured(monkeypatch)
    run = training.fit(chain.student(tmp_path / "runs", *ALONE))
    assert found[0].targets is None
    assert told(run, "train/w") == [0, 0]
    assert not metrics(run)["metric"].str.contains("l_kd").any()


def test_an_auto_encoder_that_saw_an_evaluated_patient_stops_the_run(chain: Chain, tmp_path: Path) -> None:
    stage = chain.write("stage", MAE, chain.labelled, tmp_path / "runs")
    mae = training.fit(config.load(stage, [*chain.probe, "data.split.seed=7"]))
    with pytest.raises(LeakageError, match="patients to be evaluated were used to fit") as caught:
        training.fit(chain.student(tmp_path / "runs", f"method.mae={mae.folder}", *ALONE))
    assert "data.split.seed is 7 there and 0 here" in str(caught.value)
    assert not list((tmp_path / "runs").glob("distill/*")), "before anything is trained"


def test_stages_that_divide_the_patients_alike_are_an_ancestor_and_a_descendant(chain: Chain, tmp_path: Path) -> None:
    stage = chain.write("stage", MAE, chain.labelled, tmp_path / "runs")
    mae = training.fit(config.load(stage, list(chain.probe)))
    words = [f"method.mae={mae.folder}", *ALONE, "trainer.max_epochs=1"]
    (ancestor,) = training.fit(chain.student(tmp_path / "runs", *words)).provenance()["ancestors"]
    assert ancestor["fitted_on"] == mae.provenance()["fitted_on"]
    assert len(ancestor["fitted_on"]) == 12, "the auto-encoder trains on these volumes, without their labels"


def test_stages_of_other_folds_are_refused_and_of_the_same_fold_are_not(chain: Chain, tmp_path: Path) -> None:
    fold = ["data.folds=3", "data.split.test=0"]
    stage = chain.write("stage", MAE, chain.labelled, tmp_path / "runs")
    mae = training.fit(config.load(stage, [*chain.probe, *fold, "data.fold=2"]))
    words = [f"method.mae={mae.folder}", *ALONE, "trainer.max_epochs=1", *fold]
    for other, message in (
        (["data.fold=1"], "data.fold is 2 there and 1 here"),
        (["data.fold=1", "data.folds=4"], "data.folds is 3 there and 4 here"),
        (["data.split.test=0.3"], "data.fold is 2 there and null here"),
    ):
        with pytest.raises(LeakageError) as caught:
            training.fit(chain.student(tmp_path / "runs", *words, *other))
        assert message in str(caught.value)
    assert training.fit(chain.student(tmp_path / "runs", *words, "data.fold=2")).finished


def test_folds_of_a_student_start_from_the_same_folds_of_an_auto_encoder(chain: Chain, tmp_path: Path) -> None:
    words = ["data.folds=2", "data.split.test=0", "trainer.max_epochs=1"]
    stage = chain.write("stage", MAE, chain.labelled, tmp_path / "runs")
    mae = training.crossval(config.load(stage, [*chain.probe, *words]))
    student = training.crossval(chain.student(tmp_path / "runs", f"method.mae={mae.folder}", *ALONE, *words))
    for fold in range(2):
        started = (student.folder / f"fold_{fold}" / "config.yaml").read_text()
        assert f"mae: {mae.folder / f'fold_{fold}'}" in started
    assert len(student.predictions("oof")) == 24


def test_no_score_to_distil_is_of_a_patient_whom_its_model_was_fitted_on(chain: Chain) -> None:
    secret = salt(chain.base / "runs")
    oof = pd.read_csv(chain.teacher / "predictions_oof.csv", dtype=str)
    assert len(oof) == 20
    for fold, rows in oof.groupby("fold"):
        fitted = set(Run(chain.teacher / f"fold_{int(float(str(fold)))}").provenance()["fitted_on"])
        assert fitted
        scored = {pseudonym(secret, f"tvus/{patient}") for patient in rows["patient_id"]}
        assert not scored & fitted
        rest = oof.loc[oof["fold"] != fold, "patient_id"]
        assert fitted <= {pseudonym(secret, f"tvus/{patient}") for patient in rest}, "the hashes are of these patients"


def test_a_teacher_is_a_run_of_the_method_teacher(chain: Chain, tmp_path: Path) -> None:
    others = write_volumes(tmp_path / "others", patients=12, name="others")
    words = ["data.folds=2", "data.split.test=0", "trainer.max_epochs=1", "method.mae=none", *ALONE]
    words.append(f"data.streams.mri.manifest={others}")
    other = training.crossval(chain.student(tmp_path / "runs", *words))
    with pytest.raises(RunError, match="a run of method distill"):
        training.fit(chain.student(tmp_path / "runs", f"method.teacher={other.folder}"))


@pytest.mark.parametrize("told", ["name: tvus", "name: labelled\npatients: tvus"])
def test_a_teacher_that_saw_an_evaluated_patient_stops_the_run(chain: Chain, tmp_path: Path, told: str) -> None:
    """Patients with both examinations: the same ids, of one data set or of two that say so."""
    table = pd.read_csv(chain.labelled, dtype=str)
    seen = pd.read_csv(chain.base / "ultrasound" / "tvus.csv", dtype=str)["patient_id"]
    table["patient_id"] = [*seen, *(f"new{i}" for i in range(len(table) - len(seen)))]
    table.to_csv(tmp_path / "both.csv", index=False)
    card = chain.labelled.with_suffix(".yaml").read_text()
    (tmp_path / "both.yaml").write_text(card.replace("name: labelled", told))
    stream = "data.streams.mri"
    words = [f"{stream}.manifest={tmp_path / 'both.csv'}", f"{stream}.root={chain.labelled.parent}"]
    with pytest.raises(LeakageError, match="patients to be evaluated were used to fit"):
        training.fit(chain.student(tmp_path / "runs", *words))
    assert training.fit(chain.student(tmp_path / "runs", *words, *ALONE)).finished, "without that teacher"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["method.alpha=1.1"], "method.alpha: 1.1 is neither in [0, 1] nor 'auto'"),
        (["method.alpha=-0.1"], "method.alpha: -0.1 is neither"),
        (["method.alpha=often"], "method.alpha: 'often' is neither"),
        (["method.epoch_offset=2"], "method.epoch_offset: 2 is neither 0 nor 1"),
        (["method.teacher=none"], "method.teacher: distillation needs"),
        (["method.kd_norm=kl", "method.kd_space=logit"], "method.kd_space: kl compares probabilities"),
        (["method.own_scores=x.csv"], "method.own_scores: a predictions CSV, which self and oracle_pair need"),
        (["method.pairing=self"], "method.own_scores: a predictions CSV"),
        (["method.pairing=twins"], "method.pairing"),
        (["method.feature_weight=-1"], "method.feature_weight: -1.0 is less than 0"),
        (["method.feature_weight=1", "method.pairing=surrogate"], "method.feature_weight: features are real"),
        (["method.layer_decay=0"], "method.layer_decay: 0.0 is not in (0, 1]"),
        (["method.drop_path=1"], "method.drop_path: 1.0 is not in [0, 1)"),
        (["method.label_smoothing=1"], "method.label_smoothing: 1.0 is not in [0, 1)"),
        (["method.patch=[4,8,12]"], "16 is not divisible by 12"),
        (["data.streams.mri.sampler=balanced"], "method.loss: imbalance is met twice"),
        (["data.streams.mri.view=patch", "data.streams.mri.patch=[4,8,8]"], "'patch' is no volume"),
    ],
)
def test_settings_that_do_not_fit_are_named(chain: Chain, tmp_path: Path, words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match="1 problem ") as caught:
        chain.student(tmp_path / "runs", *words)
    assert line in str(caught.value)
