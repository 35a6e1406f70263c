"""Writing a cohort: the same bytes however it is made, nothing lost or overwritten, tables that pass the check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.simulate.standin import examine, examine_and_fail
from xmkd.data import manifest
from xmkd.data.check import check
from xmkd.data.readers import read
from xmkd.errors import ConfigError, DataMissingError, RunError
from xmkd.simulate import cards, cohort
from xmkd.simulate import lock as locks
from xmkd.simulate import spec as specs
from xmkd.simulate.plan import patients
from xmkd.simulate.spec import CohortSpec

COHORTS = REPOSITORY / "experiments" / "cohorts"


def tiny(kind: str = "pod", *words: str) -> CohortSpec:
    return specs.load(COHORTS / f"{kind}_tiny.yaml", list(words))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, except locks and the record of which code made them."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in (cohort.COHORT, ".lock"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(autouse=True, scope="module")
def _same_code() -> Iterator[None]:
    """The code may be edited while its tests run; the warning about that has a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "_versions", dict)
        yield


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny POD cohort, written by this process."""
    out = tmp_path_factory.mktemp("once") / "pod"
    cohort.simulate(tiny(), out, examine, workers=1)
    return out


def refusal(kind: type[Exception], *args: object, **words: object) -> str:
    with pytest.raises(kind) as caught:
        cohort.simulate(*args, **words)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n  either: " in text
    assert "\n  or: " in text
    return text


def test_the_number_of_processes_does_not_change_a_byte(once: Path, tmp_path: Path) -> None:
    cohort.simulate(tiny(), tmp_path / "pod", examine, workers=2)
    assert contents(tmp_path / "pod") == contents(once)


def test_parts_made_one_by_one_are_the_same(once: Path, tmp_path: Path) -> None:
    for part in ("mri_unlabelled", "tvus", "mri"):
        (done,) = cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1, only=part)
        assert done.name == part
    assert contents(tmp_path / "pod") == contents(once)


def test_a_cohort_goes_on_where_it_was_killed(once: Path, tmp_path: Path) -> None:
    """The process is killed for good, in the middle of an examination."""
    code = (
        "from pathlib import Path; from tests.simulate import standin, test_cohort; from xmkd.simulate import cohort; "
        f"cohort.simulate(test_cohort.tiny(), Path({str(tmp_path / 'pod')!r}), standin.examine_and_die, workers=1)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert len(complete(tmp_path / "pod")) == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pod").glob("tvus/pod*/*")}
    tvus, *_ = cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1)
    assert (tvus.patients, tvus.rendered) == (10, 7)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert contents(tmp_path / "pod") == contents(once)


def complete(out: Path) -> list[Path]:
    return sorted(out.glob("*/*/examination.json"))


def test_an_interrupted_cohort_goes_on(once: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cohort.simulate(tiny(), tmp_path / "pod", examine_and_fail, workers=1)
    assert not list((tmp_path / "pod").glob("*.csv"))
    cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1)
    assert contents(tmp_path / "pod") == contents(once)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        '{"files": [',
        '{"files": [{"nme": 1}], "truth": {}}',
        '{"truth": {}}',
        "[]",
        '{"files": [], "slices": [], "truth": {}}',
    ],
)
def test_a_damaged_examination_is_made_again(once: Path, tmp_path: Path, text: str | None) -> None:
    shutil.copytree(once, tmp_path / "pod")
    record = complete(tmp_path / "pod")[0]
    record.unlink()
    if text is not None:
        record.write_text(text)
    found = cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1)
    assert sum(part.rendered for part in found) == 1
    assert contents(tmp_path / "pod") == contents(once)


@pytest.mark.parametrize("name", ["tvus/*/still0_mask.png", "tvus/*/clip0.dcm", "mri/*/t2_sag", "mri/*/t2_sag/*"])
def test_an_examination_that_lacks_a_file_is_made_again(once: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(once, tmp_path / "pod")
    lost = sorted((tmp_path / "pod").glob(name))[0]
    lost.rename(tmp_path / "elsewhere")
    found = cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1)
    assert sum(part.rendered for part in found) == 1
    assert contents(tmp_path / "pod") == contents(once)


def test_a_damaged_examination_of_another_part_is_left_out_of_the_truth(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    damaged = tmp_path / "pod" / "mri" / "pod31-mri-train-00001"
    (damaged / "examination.json").write_text("")
    cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1, only="tvus")
    truth = set(pd.read_csv(tmp_path / "pod" / "truth.csv")["patient_id"])
    assert set(pd.read_csv(once / "truth.csv")["patient_id"]) - truth == {damaged.name}


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        '{"hash": "a", "versions": {}, "specification": {}}',
        '{"hash": "a", "versions": 1, "specification": {"name": "a", "cohort": "pod"}}',
        '{"hash": "a", "versions": {}, "specification": {"name": "a", "cohort": ".*"}}',
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_damaged_record_of_the_cohort_is_refused(once: Path, tmp_path: Path, text: str, force: bool) -> None:
    shutil.copytree(once, tmp_path / "pod")
    (tmp_path / "pod" / cohort.COHORT).write_text(text)
    message = refusal(RunError, tiny(), tmp_path / "pod", examine, workers=1, force=force)
    assert "which says which cohort is here, is damaged" in message
    assert contents(tmp_path / "pod") == contents(once)


def test_a_complete_cohort_is_left_alone_and_says_so(once: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in once.rglob("*.dcm")}
    found = cohort.simulate(tiny(), once, examine_and_fail, workers=1)
    assert all("complete already" in part.text() for part in found)
    assert {path: path.stat().st_mtime_ns for path in once.rglob("*.dcm")} == before


def test_another_cohort_is_replaced_only_by_force(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    (tmp_path / "pod" / "notes.txt").write_text("mine")
    other = tiny("pod", "seed=5", "mri.patients.train=1", "mri_unlabelled=null")
    before = contents(tmp_path / "pod")
    message = refusal(RunError, other, tmp_path / "pod", examine, workers=1)
    assert "another cohort is here" in message
    assert "--force" in message
    assert contents(tmp_path / "pod") == before
    cohort.simulate(other, tmp_path / "pod", examine, workers=1, force=True)
    cohort.simulate(other, tmp_path / "fresh", examine, workers=1)
    assert contents(tmp_path / "pod") == contents(tmp_path / "fresh") | {"notes.txt": b"mine"}


MORE = ("tvus.patients={train: 9, val: 2, calib: 3, test: 7}", "mri_unlabelled.patients.train=4")


def test_a_cohort_is_extended_by_the_patients_that_are_new(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pod").rglob("*.dcm")}
    larger = tiny("pod", *MORE)
    (tvus,) = cohort.simulate(larger, tmp_path / "pod", examine, workers=1, only="tvus")
    assert (tvus.patients, tvus.rendered) == (21, 11)
    found = cohort.simulate(larger, tmp_path / "pod", examine, workers=1)
    assert [part.rendered for part in found] == [0, 0, 2]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    cohort.simulate(larger, tmp_path / "fresh", examine, workers=1)
    assert contents(tmp_path / "pod") == contents(tmp_path / "fresh")
    message = refusal(RunError, tiny(), tmp_path / "pod", examine, workers=1)
    assert "which has fewer patients" in message
    assert contents(tmp_path / "pod") == contents(tmp_path / "fresh")


def test_force_makes_one_part_of_an_extended_cohort_anew(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    found = cohort.simulate(tiny("pod", *MORE), tmp_path / "pod", examine, workers=1, only="tvus", force=True)
    assert [part.rendered for part in found] == [21]
    assert len(list((tmp_path / "pod" / "mri").glob("pod31-*"))) == 7, "the others stay"


@pytest.mark.parametrize(
    "words",
    [
        ["tvus.patients={train: 9, val: 1, test: 4}"],
        ["tvus.patients.train=9", "tvus.stills=2"],
        ["tvus.patients.train=9", "prevalence=0.4"],
        ["tvus.patients.train=9", "mri_unlabelled=null"],
        ["oracle_pair.clips=1"],
    ],
)
def test_larger_numbers_with_another_change_are_another_cohort(once: Path, tmp_path: Path, words: list[str]) -> None:
    shutil.copytree(once, tmp_path / "pod")
    message = refusal(RunError, tiny("pod", *words), tmp_path / "pod", examine, workers=1)
    assert "another cohort is here" in message
    assert contents(tmp_path / "pod") == contents(once)


def test_force_leaves_what_no_simulation_wrote(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    mine = {"mri/mine/notes.txt": b"mine", "mri/readme": b"mine", "mri_unlabelled/readme": b"mine"}
    for name, text in mine.items():
        (tmp_path / "pod" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pod" / name).write_bytes(text)
    cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1, only="mri", force=True)
    assert contents(tmp_path / "pod") == contents(once) | mine
    other = tiny("pod", "seed=5", "mri_unlabelled=null")
    cohort.simulate(other, tmp_path / "pod", examine, workers=1, force=True)
    cohort.simulate(other, tmp_path / "fresh", examine, workers=1)
    assert contents(tmp_path / "pod") == contents(tmp_path / "fresh") | mine


def test_force_deletes_nothing_that_another_process_writes(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    with held(tmp_path / "pod" / "mri"):
        message = refusal(RunError, tiny(), tmp_path / "pod", examine, workers=1, only="mri", force=True)
    assert "another process" in message
    assert contents(tmp_path / "pod") == contents(once)


def test_force_for_one_part_leaves_the_others(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    cohort.simulate(tiny("pod", "replicate=2"), tmp_path / "pod", examine, workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pod").rglob("*.dcm")}
    (done,) = cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1, only="mri", force=True)
    assert done.rendered == 7
    kept = {path for path in before if path.is_file() and path.stat().st_mtime_ns == before[path]}
    assert {path.relative_to(tmp_path / "pod").parts[0] for path in kept} == {"tvus", "mri_unlabelled"}
    assert all(path in kept for path in before if "tvus" in path.parts)
    tables = {path.name for path in (tmp_path / "pod").glob("*.csv")}
    assert "pod_mri_r2.csv" not in tables, "its examinations are gone"
    assert {"pod_mri.csv", "pod_tvus_r2.csv", "pod_mri_unlabelled_r2.csv", "truth.csv"} <= tables


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for force in (False, True):
        message = refusal(RunError, tiny(), tmp_path, examine, workers=1, force=force)
        assert "thesis.tex" in message
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(RunError, tiny(), tmp_path / "file" / "pod", examine, workers=1)
    assert "--out FOLDER" in message


@contextmanager
def held(part: Path) -> Iterator[None]:
    """As long as another process writes a part."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(part / cohort.LOCKED)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.communicate("\n")


def test_two_processes_do_not_write_one_part(once: Path) -> None:
    with held(once / "mri"):
        assert "another process" in refusal(RunError, tiny(), once, examine, workers=1)
        cohort.simulate(tiny(), once, examine, workers=1, only="tvus")
    cohort.simulate(tiny(), once, examine, workers=1)


def test_without_a_terminal_a_line_tells_of_every_tenth(
    once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort.simulate(tiny(), once, examine, workers=1)
    assert capsys.readouterr().err == "", "nothing was made"
    cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1, only="tvus")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" after ")[0] for line in lines] == [
        f"simulating tvus: {n} of 10 patients" for n in range(1, 11)
    ]
    cohort._follow(iter([None] * 40), "mri", 10, 50)
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == [str(n) for n in range(15, 51, 5)]
    monkeypatch.setattr(cohort, "QUIET", 0.0)
    cohort._follow(iter([None] * 3), "mri", 1, 400)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_missing_card_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "BASES", tmp_path)
    assert "sim_pod.yaml" in refusal(DataMissingError, tiny(), tmp_path / "a", examine, workers=1)
    assert not (tmp_path / "a").exists()


def test_words_about_the_code_are_no_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is warned about when code changes, not when a comment does."""
    locks.code_hash.cache_clear()
    monkeypatch.setattr(locks, "__file__", str(tmp_path / "lock.py"))
    found = []
    for text in ("x = 1\n", '"""Words."""\n\nx = 1  # why\n', "x = 2\n"):
        (tmp_path / "lock.py").write_text(text)
        locks.code_hash.cache_clear()
        found.append(locks.code_hash())
    locks.code_hash.cache_clear()
    assert found[0] == found[1] != found[2]


def test_other_code_is_warned_about(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(once, tmp_path / "pod")
    monkeypatch.setattr(cohort, "_versions", lambda: {"simulator": "another"})
    with pytest.warns(UserWarning, match="begun with other code .*-> another"):
        cohort.simulate(tiny(), tmp_path / "pod", examine, workers=1)


def test_bad_calls_are_refused(tmp_path: Path) -> None:
    assert "did you mean 'tvus'?" in refusal(ConfigError, tiny(), tmp_path / "a", examine, only="tvs")
    assert "--workers 0" in refusal(ConfigError, tiny(), tmp_path / "a", examine, workers=0)
    unlocked = replace(tiny(), visibility="from lock")
    assert "how visible" in refusal(ConfigError, unlocked, tmp_path / "a", examine, workers=1)
    assert not (tmp_path / "a").exists()


def test_visibilities_come_from_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "pod_mine.yaml"
    path.write_text((COHORTS / "pod_demo.yaml").read_text())
    with pytest.raises(ConfigError, match="--calibrate"):
        cohort.load(path)
    given = cohort.load(path, ["visibility={tvus: 1.5, mri: 0.5}"])
    assert (given.visibility, given.lock) == ({"tvus": 1.5, "mri": 0.5}, "")
    spec = specs.load(path)
    lock = locks.Lock(
        format=locks.FORMAT,
        cohort=spec.name,
        specification=locks.specification_hash(spec),
        simulator=locks.simulator_hash(),
        seed=1,
        rho=spec.rho,
        visibility={"tvus": 0.9, "mri": 0.4},
        modalities={},
    )
    locks.write(lock, locks.path_of(path))
    found = cohort.load(path)
    assert (found.visibility, found.lock) == ({"tvus": 0.9, "mri": 0.4}, lock.hash)
    with pytest.raises(ConfigError, match="--calibrate"):
        cohort.load(path, ["rho=0.1"])


def test_the_card_names_the_lock(tmp_path: Path) -> None:
    (part,) = cohort.simulate(replace(tiny("ct_mr"), lock="abc"), tmp_path / "a", examine, workers=1, only="ct")
    assert manifest.load(part.manifests[0]).card.lock == "abc"


def test_other_pictures_under_the_same_names_are_another_manifest(tmp_path: Path) -> None:
    spec = replace(tiny("ct_mr"), lock="abc")
    parts = [
        cohort.simulate(one, tmp_path / name, examine, workers=1, only="ct")[0]
        for name, one in (("a", spec), ("b", replace(spec, rho=0.25)), ("c", spec))
    ]
    first, second, third = (manifest.load(part.manifests[0]) for part in parts)
    assert first.table.equals(second.table)
    assert first.hash == third.hash != second.hash


@pytest.mark.parametrize("kind", ["pod", "carcinoma", "ct_mr", "multisequence"])
def test_manifests_pass_the_check_and_match_the_plan(kind: str, tmp_path: Path) -> None:
    spec = tiny(kind)
    for part in cohort.simulate(spec, tmp_path / kind, examine, workers=1):
        people = {p.id: p for p in patients(spec, part.name)}
        assert part.prevalence == sum(p.ill for p in people.values()) / len(people)
        for path in part.manifests:
            loaded = manifest.load(path)
            report = check(loaded)
            assert report.ok, report.text()
            table = loaded.table
            assert set(table["patient_id"]) == set(people)
            planned = [people[str(patient)] for patient in table["patient_id"]]
            assert table["split"].tolist() == [p.split for p in planned]
            assert table["site"].tolist() == [p.site for p in planned]
            assert {read(loaded.resolve(row)).modality for _, row in table.head(2).iterrows()} <= {"us", "mri", "ct"}
            for label in loaded.card.labels:
                assert table[label].notna().all()


def test_unlabelled_mri_carry_no_label(once: Path) -> None:
    loaded = manifest.load(once / "pod_mri_unlabelled.csv")
    assert not loaded.card.labels
    assert "pod" not in loaded.table.columns


def test_the_truth_stands_apart(once: Path) -> None:
    truth = pd.read_csv(once / "truth.csv")
    assert {"ill", "stage", "flipped", "strength"} <= set(truth.columns)
    assert list(truth["patient_id"]) == [p.id for part in tiny().parts() for p in patients(tiny(), part)]
    for path in once.glob("pod_*.csv"):
        assert not {"ill", "stage", "flipped", "strength"} & set(pd.read_csv(path).columns)


def test_flipped_labels_are_in_the_manifest_of_the_training_patients_alone(once: Path, tmp_path: Path) -> None:
    """They share the images, and the tables with the true labels stay."""
    shutil.copytree(once, tmp_path / "pod")
    before = contents(tmp_path / "pod")
    spec = tiny("pod", "label_flips=0.45")
    found = cohort.simulate(spec, tmp_path / "pod", examine, workers=1)
    assert not any(part.rendered for part in found)
    after = contents(tmp_path / "pod")
    assert {name: after[name] for name in before} == before
    truth = pd.read_csv(tmp_path / "pod" / "truth_flips45.csv").set_index("patient_id")
    table = pd.read_csv(tmp_path / "pod" / "pod_tvus_flips45.csv")
    shown = {p.id: p.shown for p in patients(spec, "tvus")}
    assert (table["pod"] == "obliterated").tolist() == [shown[p] for p in table["patient_id"]]
    wrong = table[(table["pod"] == "obliterated") != truth.loc[table["patient_id"], "ill"].to_numpy()]
    assert len(wrong) > 0
    assert set(wrong["split"]) == {"train"}
    assert set(wrong["patient_id"]) <= set(truth.index[truth["flipped"]])


def test_a_replicate_shares_the_test_patients_of_its_folder(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "pod")
    before = contents(tmp_path / "pod")
    spec = tiny("pod", "replicate=1")
    tvus, *_ = cohort.simulate(spec, tmp_path / "pod", examine, workers=1)
    assert (tvus.patients, tvus.rendered) == (10, 6)
    after = contents(tmp_path / "pod")
    assert {name: after[name] for name in before} == before
    cohort.simulate(spec, tmp_path / "alone", examine, workers=1)
    alone = contents(tmp_path / "alone")
    assert {name: after[name] for name in alone} == alone


def test_the_same_evidence_under_another_label_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a disease does not show, it is in no byte of any file: nothing but the evidence carries the label."""
    blind, seeing = tiny("pod", "visibility={tvus: 0.0, mri: 0.0}"), tiny()
    images = {}
    for name, spec in (("blind", blind), ("seeing", seeing)):
        cohort.simulate(spec, tmp_path / name, examine, workers=1, only="tvus")
        others = [replace(p, ill=not p.ill) for p in patients(spec, "tvus")]
        with monkeypatch.context() as patch:
            patch.setattr(cohort, "patients", lambda _, part, others=others: others if part == "tvus" else [])
            cohort.simulate(spec, tmp_path / f"{name}_others", examine, workers=1, only="tvus")
        images[name] = [contents(tmp_path / folder / "tvus") for folder in (name, f"{name}_others")]
    assert images["blind"][0] == images["blind"][1]
    assert images["seeing"][0] != images["seeing"][1]
