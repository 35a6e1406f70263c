"""The report of real, small runs, read as a reader would: figures, proof, warnings, pictures, checklists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Cli
from tests.reporting.conftest import only_run
from tests.reporting.page import Page, load
from xmkd import config, runs
from xmkd.data.pseudonyms import pseudonym
from xmkd.data.toy import write_study
from xmkd.reporting import checklist, mistakes, report, reproduction
from xmkd.reporting.blocks import ABSOLUTE_PATH
from xmkd.reporting.evidence import collect

NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "sensitivity": "Sensitivity", "brier": "Brier score", "f1": "F1"}


@pytest.fixture(scope="session")
def page(finished: Path) -> Page:
    return load(only_run(finished))


def test_fit_writes_a_report_that_needs_nothing_else(page: Page, finished: Path) -> None:
    assert page.problems == []
    assert (only_run(finished) / "report.html").stat().st_size < 3e6
    assert "script" not in page.tags
    assert all(src.startswith("data:") and alt for src, alt in page.images)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page.source), "nothing may be fetched"
    assert not re.findall(r"url\(|@import", page.source)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))


def test_every_caption_names_its_file(page: Page) -> None:
    assert len(page.captions) > 12
    assert all(re.search(r"From .+\.$", caption.strip()) for caption in page.captions), page.captions


def test_figures_are_those_of_the_summary(page: Page, finished: Path) -> None:
    summary = json.loads((only_run(finished) / "summary.json").read_text())
    for key, name in NAMES.items():
        found = summary["metrics"][key]
        expected = [name, f"{found['value']:.3f}", f"[{found['low']:.3f}, {found['high']:.3f}]", str(found["n"])]
        assert page.row(name)[:4] == expected
    assert f"positive from {summary['threshold']['value']:.4f} on (sens>=0.8, from" in page.text
    assert f"slope {summary['calibration']['slope']:.3f}" in page.text
    assert "last.ckpt after 2 of 2 epochs" in page.text


def test_confusion_matrix_counts_every_test_sample_once(page: Page, finished: Path) -> None:
    run = runs.find(only_run(finished))
    table, threshold = run.predictions("test"), run.summary()["threshold"]["value"]
    counts = Counter(zip(table["label"], (table["score"] >= threshold).astype(int), strict=True))
    assert page.confusion() == [[counts[0, 0], counts[0, 1]], [counts[1, 0], counts[1, 1]]]


def test_every_site_by_itself(page: Page, finished: Path) -> None:
    test = runs.find(only_run(finished)).predictions("test")
    for site, rows in test.groupby("site"):
        assert page.row(str(site))[1:3] == [str(len(rows)), str(rows["patient_id"].nunique())]
    assert page.headings.count("Sites") == 1


def test_split_and_the_proof_that_it_is_by_patient(page: Page, finished: Path) -> None:
    test = runs.find(only_run(finished)).predictions("test")
    row = page.row("Test")
    assert row[1:3] == [str(test["patient_id"].nunique()), str(len(test))]
    assert [int(n) for n in row[3:]] == [int((test["label"] == k).sum()) for k in (0, 1)]
    pairs = [row for row in page.rows if " and " in row[0]]
    assert [row[1] for row in pairs] == ["0", "0", "0"]
    assert page.row("this run") == ["this run", str(test["patient_id"].nunique()), "0"]


def test_a_leak_stands_at_the_top(copied: Path) -> None:
    run = runs.find(copied)
    secret = (copied.parents[1] / ".xmkd_salt").read_text().strip().encode()
    patient = run.predictions("test")["patient_id"].iloc[0]
    record = run.provenance()
    record["fitted_on"].append(pseudonym(secret, f"toy/{patient}"))
    (copied / "provenance.json").write_text(json.dumps(record))
    report.write_report(run)
    found = load(copied)
    assert "LEAK: 1 of 22 evaluated patients were used to fit this run" in found.text
    assert found.row("this run") == ["this run", "22", "1"]


def test_a_simulated_label_shows_its_limits_lock_and_gap(copied: Path, page: Page) -> None:
    summary, record = (json.loads((copied / name).read_text()) for name in ("summary.json", "provenance.json"))
    own = summary["metrics"]["auroc"]
    known = {"n": 2000, "patients": 2000, "method": "from the cohort's lock", "note": ""}
    oracle = {"value": 0.97, "low": 0.96, "high": 0.98, **known}
    summary["limits"] = {"oracle": oracle, "ceiling": {"value": 0.99, "low": 0.988, "high": 0.992, **known}}
    (stream,) = record["manifests"].values()
    stream["lock"] = "5f54770bbcdd"
    (copied / "summary.json").write_text(json.dumps(summary))
    (copied / "provenance.json").write_text(json.dumps(record))
    report.write_report(runs.find(copied))
    shown = load(copied)
    assert shown.problems == []
    assert shown.row("Oracle")[1:4] == ["0.970", "[0.960, 0.980]", "2,000"]
    assert shown.row("Latent ceiling")[1:3] == ["0.990", "[0.988, 0.992]"]
    gap, low = 0.97 - own["value"], 0.01**2 + (own["high"] - own["value"]) ** 2
    assert shown.row("Gap to the oracle")[1] == f"{gap:.3f}"
    assert shown.row("Gap to the oracle")[2].startswith(f"[{gap - low**0.5:.3f}, ")
    assert shown.row("Simulated, under lock")[1].startswith("5f54770bbcdd")
    assert any("under the cohort's lock 5f54770bbcdd" in caption for caption in shown.captions)
    assert "Gap to the oracle" not in page.text
    assert "under lock" not in page.text


def test_nothing_tells_who_or_where(page: Page, finished: Path) -> None:
    table = pd.read_csv(finished / "study" / "toy.csv", dtype=str)
    assert not [p for p in table["patient_id"] if re.search(rf"\b{p}\b(?!_)", page.readable)]
    assert str(finished) not in page.readable
    assert not ABSOLUTE_PATH.search(page.text), ABSOLUTE_PATH.search(page.text)
    assert (finished / "runs" / ".xmkd_salt").read_text().strip() not in page.source
    record = runs.find(only_run(finished)).provenance()
    assert not [hashed for hashed in record["fitted_on"] if hashed in page.source]


def test_mistakes_are_shown_with_a_map(page: Page, finished: Path) -> None:
    run = runs.find(only_run(finished))
    table, threshold = run.predictions("test"), run.summary()["threshold"]["value"]
    missed = table[(table["label"] == 1) & (table["score"] < threshold)]["patient_id"].nunique()
    alarms = table[(table["label"] == 0) & (table["score"] >= threshold)]["patient_id"].nunique()
    shown = min(4, missed) + min(4, alarms)
    assert shown > 0
    assert len([a for _, a in page.images if a == "The picture as the model saw it"]) == shown
    assert len([a for _, a in page.images if a == "The same with the Grad-CAM map"]) == shown
    assert page.text.count("map of 1 x 1 places") == shown, "32 pixels leave one place"


def test_every_item_of_the_checklists_is_answered_or_not_reported(page: Page) -> None:
    from omegaconf import OmegaConf

    entries = OmegaConf.to_container(OmegaConf.load(checklist.FILE))
    assert isinstance(entries, list)
    items = [item for entry in entries for item in entry["items"]]
    assert [len(entry["items"]) for entry in entries] == [44, 52, 48]
    assert all(set(item) <= {"item", "title", "facts", "section"} for item in items)
    assert all(item.get("section", "summary") in page.ids for item in items)
    start = page.rows.index(["item", "asks for", "in this run"])
    rows = [row for row in page.rows[start:] if row[0] != "item"]
    assert [(row[0], row[1]) for row in rows] == [(item["item"], item["title"]) for item in items]
    answers = {row[0] + row[1]: row[2] for row in rows}
    assert all(answers.values())
    assert {answers[i["item"] + i["title"]] for i in items if "facts" not in i} == {"not reported"}
    assert "clustered DeLong" in answers["29Statistical uncertainty and significance"]
    assert "Platt scaling" in answers["12fModel updating"]
    assert 40 < list(answers.values()).count("not reported") < 100


def test_facts_of_the_checklists_are_known_by_name(finished: Path) -> None:
    from omegaconf import OmegaConf

    entries = OmegaConf.to_container(OmegaConf.load(checklist.FILE))
    assert isinstance(entries, list)
    asked = {fact for entry in entries for item in entry["items"] for fact in item.get("facts", [])}
    assert asked == set(checklist.facts(collect(runs.find(only_run(finished)))))


def test_command_and_settings_make_the_same_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    evidence = collect(runs.find(only_run(finished)))
    words = shlex.split(reproduction.command(evidence))
    assert words[:5] == ["python", "-m", "xmkd", "fit", "experiments/tiny.yaml"]
    again = config.load(words[4], words[5:])
    assert config.to_tree(again, runtime=False) == config.to_tree(evidence.experiment, runtime=False)
    assert set(words[5:]) == {"data.split.val=0.25", "data.split.test=0.55", "evaluation.operating_point=sens>=0.8"}
    monkeypatch.chdir(finished / "study")
    assert reproduction.command(evidence).endswith("config.yaml"), "without the file the run's own settings serve"


def test_report_command_writes_it_again(cli: Cli, copied: Path) -> None:
    (copied / "report.html").unlink()
    called = cli("report", copied)
    assert called.code == 0
    assert called.out.strip() == str(copied / "report.html")
    assert "AUROC" in load(copied).text
    (copied / "summary.json").unlink()
    called = cli("report", copied)
    assert called.code == 2
    assert "not finished" in called.err


def test_a_report_that_fails_does_not_lose_the_run(cli: Cli, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr(report, "render", broken)
    with pytest.warns(UserWarning, match=r"report.html could not be written \(ZeroDivisionError: no reason\)"):
        called = cli("fit", experiment)
    assert called.code == 0
    assert "test/auroc" in called.out
    run = only_run(experiment.parent)
    assert (run / "summary.json").is_file()
    assert not (run / "report.html").exists()


def test_without_validation_sites_and_masks(cli: Cli, experiment: Path, tmp_path: Path) -> None:
    manifest = write_study(tmp_path / "bare", patients=20, each=1, size=32)
    pd.read_csv(manifest, dtype=str).drop(columns="site").to_csv(manifest, index=False)
    words = [f"data.streams.tvus.manifest={manifest}", "data.split.val=0", "trainer.max_epochs=1"]
    assert cli("fit", experiment, *words).code == 0
    found = load(only_run(experiment.parent))
    assert "Too few patients for an interval of AUROC" in found.text
    assert "refused: there are no validation patients" in found.text
    assert "The manifest names no site" in found.text
    assert "nothing recalibrates them" in found.text
    assert "There were no validation patients" in found.text
    assert "too few patients for a calibration curve" in found.text
    assert found.row("Training")[0] == "Training"
    assert "Validation" not in [row[0] for row in found.rows]


def test_several_classes(cli: Cli, experiment: Path, tmp_path: Path) -> None:
    manifest = write_study(tmp_path / "three", patients=45, each=1, size=32)
    table = pd.read_csv(manifest, dtype=str)
    table["kind"] = [("a", "b", "c")[int(p[1:]) % 3] for p in table["patient_id"]]
    table.to_csv(manifest, index=False)
    with manifest.with_suffix(".yaml").open("a") as card:
        card.write("  kind:\n    classes: [a, b, c, d]\n")
    words = [f"data.streams.tvus.manifest={manifest}", "data.streams.tvus.label=kind", "trainer.max_epochs=1"]
    assert cli("fit", experiment, *words).code == 0
    run = only_run(experiment.parent)
    found, summary = load(run), json.loads((run / "summary.json").read_text())
    assert found.row("Macro-F1")[1] == f"{summary['metrics']['macro_f1']['value']:.3f}"
    matrix = found.confusion()
    test = pd.read_csv(run / "predictions_test.csv")
    assert [sum(row) for row in matrix] == [int((test["label"] == k).sum()) for k in range(4)]
    assert found.row("d")[3:5] == ["does not occur", "does not occur"]
    assert "missing: d" in found.text
    assert "Wrong class" in found.text
    assert "Calibration is assessed for two classes" in found.text


def test_cross_validation_with_an_audit(cli: Cli, experiment: Path) -> None:
    assert cli("crossval", experiment, "data.folds=3", "trainer.max_epochs=1").code == 0
    parent = only_run(experiment.parent)
    assert (parent / "report.html").is_file()
    assert all((parent / f"fold_{k}" / "report.html").is_file() for k in range(3))
    lines = ["condition,auroc,low,high,n,patients,note", "lesion blanked,0.611,0.501,0.701,80,40,filled"]
    (parent / "audit.csv").write_text("\n".join([*lines, "size only,0.432,,,80,40,too few patients"]) + "\n")
    assert cli("report", parent).code == 0
    found, summary = load(parent), json.loads((parent / "summary.json").read_text())
    assert found.problems == []
    within = summary["metrics"]["auroc"]
    assert found.row("Within folds: pairs of the same fold")[1].startswith(f"{within['value']:.3f} [")
    pooled = re.search(r"pooled (\d\.\d+)", within["note"])
    assert pooled is not None
    assert found.row("Pooled: all pairs, scores of several models mixed")[1] == pooled[1]
    for k in range(3):
        fold = json.loads((parent / f"fold_{k}" / "summary.json").read_text())["metrics"]["auroc"]
        row = next(r for r in found.rows if r[0] == str(k) and len(r) > 5)
        assert row[1:3] == [str(fold["patients"]), str(fold["n"])]
        assert row[4].startswith(f"{fold['value']:.3f}")
        assert found.row(f"fold {k}, this run")[2] == "0"
    assert found.row("lesion blanked") == ["lesion blanked", "0.611", "[0.501, 0.701]", "80", "40", "filled"]
    assert found.row("size only")[1:3] == ["0.432", ""]
    assert "Recalibrated: each fold's scores by that fold's own validation patients" in found.text
    assert "python -m xmkd crossval" in found.text


def test_warning_when_pooled_and_within_folds_differ(copied: Path) -> None:
    path = copied / "summary.json"
    summary = json.loads(path.read_text())
    note = "pairs within folds; pooled 0.612: warning, differs by more than 0.02: the folds' scores are on other scales"
    summary["metrics"]["auroc"]["note"] = note
    path.write_text(json.dumps(summary))
    record = json.loads((copied / "provenance.json").read_text())
    record["continued"] = [["torch 2.1 -> 2.2", "commit aaa -> bbb"]]
    (copied / "provenance.json").write_text(json.dumps(record))
    report.write_report(runs.find(copied))
    text = load(copied).text.split("Contents")[0]
    assert "AUROC: pooled 0.612: differs by more than 0.02" in text
    assert "The run went on under other code: torch 2.1 -> 2.2, commit aaa -> bbb" in text


def test_unreadable_files_are_in_the_flow(cli: Cli, experiment: Path, tmp_path: Path) -> None:
    manifest = write_study(tmp_path / "damaged", patients=40, each=1, size=32)
    for name in ("p000_0", "p001_0"):
        (manifest.parent / "images" / f"{name}.png").write_bytes(b"not a picture")
    words = [f"data.streams.tvus.manifest={manifest}", "data.on_error=skip", "trainer.max_epochs=1"]
    assert cli("fit", experiment, *words).code == 0
    found = load(only_run(experiment.parent))
    assert "2 left out: file not readable" in found.text
    assert "2 samples were left out because their files could not be read" in found.text
    assert "38 samples of 38 patients" in found.text
    assert not ABSOLUTE_PATH.search(found.text)


@pytest.mark.parametrize("gone", ["pictures", "manifest", "checkpoints", "salt", "metrics"])
def test_what_is_gone_is_said_and_the_rest_stands(copied: Path, gone: str) -> None:
    study = copied.parents[2] / "study"
    if gone == "pictures":
        shutil.rmtree(study / "images")
        said = "The pictures can't be shown"
    elif gone == "manifest":
        shutil.rmtree(study)
        said = "The flow of samples and the split can't be shown: there is no such manifest."
    elif gone == "checkpoints":
        shutil.rmtree(copied / "checkpoints")
        said = "No Grad-CAM: the checkpoint is not there any more."
    elif gone == "salt":
        (copied.parents[1] / ".xmkd_salt").unlink()
        said = "Patients can't be compared with those of earlier runs: the project's salt is not here"
    else:
        (copied / "metrics.csv").unlink()
        said = "There is no metrics.csv here"
    report.write_report(runs.find(copied))
    found = load(copied)
    assert said in found.text
    assert found.problems == []
    assert found.row("AUROC")[1] == f"{runs.find(copied).summary()['metrics']['auroc']['value']:.3f}"
    assert not (copied.parents[1] / ".xmkd_salt").exists() or gone != "salt", "a report makes no secret"


def test_another_manifest_than_the_runs_is_said(copied: Path) -> None:
    manifest = copied.parents[2] / "study" / "toy.csv"
    table = pd.read_csv(manifest, dtype=str)
    table.assign(site="elsewhere").to_csv(manifest, index=False)
    report.write_report(runs.find(copied))
    assert "The manifest of the stream tvus is not the one that the run was made from" in load(copied).text
    table[table["sample_id"] != runs.find(copied).predictions("test")["sample_id"][0]].to_csv(manifest, index=False)
    report.write_report(runs.find(copied))
    assert "1 of the predicted samples are not where the manifest has them now" in load(copied).text


def test_backbones_without_places_have_pictures_but_no_map(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "gradcam", lambda *_: None)
    report.write_report(runs.find(copied))
    found = load(copied)
    assert found.text.count("No Grad-CAM: the backbone's features have no places in the picture.") == 1
    assert "The picture as the model saw it" in [alt for _, alt in found.images]
    assert "The same with the Grad-CAM map" not in [alt for _, alt in found.images]


def test_further_test_on_other_data_has_its_own_report(cli: Cli, copied: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", patients=24, each=1, size=32, seed=5, name="hospital")
    assert cli("test", copied, f"data.streams.tvus.manifest={other}").code == 0
    (folder,) = copied.glob("test_*")
    tested = len(pd.read_csv(folder / "predictions_test.csv"))
    for _ in range(2):
        found = load(folder)
        assert "others than the run's own test patients" in found.text
        assert "on hospital, written" in found.text
        assert found.row("Test")[2] == str(tested)
        assert "is not the one that the run was made from" not in found.text
        assert "Another data set than in training." in found.row("33")[2]
        assert "come from the same data set" not in found.text
        assert "map of" in found.text, "the weights lie one folder up"
        assert cli("report", folder).code == 0


def test_clips(cli: Cli, experiment: Path, tmp_path: Path) -> None:
    manifest = write_study(tmp_path / "clips", patients=16, each=1, size=32, frames=8)
    stream = "data.streams.tvus"
    words = [f"{stream}.manifest={manifest}", f"{stream}.view=clip", f"{stream}.ultrasound.frames=8"]
    words += ["method.backbone=small", "method.clip_frames=8", "method.drop_rate=0", "trainer.max_epochs=1"]
    assert cli("fit", experiment, *words).code == 0
    found = load(only_run(experiment.parent))
    assert "Of a clip the middle frame is shown" in found.text
    assert "The same with the Grad-CAM map" in [alt for _, alt in found.images]
