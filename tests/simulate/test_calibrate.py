from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import REPOSITORY, Cli
from xmkd.data.limits import Limit
from xmkd.errors import ConfigError
from xmkd.evaluation.statistics import auroc_interval
from xmkd.simulate import calibrate as calibration
from xmkd.simulate import lock as locks
from xmkd.simulate import spec as specs
from xmkd.simulate.calibrate import Workshop, calibrate, lowest, make_lock, solve
from xmkd.simulate.ceilings import latent_ceiling
from xmkd.simulate.difficulty import patient_normals, stage_of
from xmkd.simulate.latent import sign_model
from xmkd.simulate.lock import Lock
from xmkd.simulate.oracle import Oracle, judge, reserved
from xmkd.simulate.plan import Patient, patients
from xmkd.simulate.pool import Job, Pool, Result
from xmkd.simulate.randomness import Seeds
from xmkd.simulate.spec import CohortSpec, Modality, Patients, Sites, UltrasoundPart, VolumePart

COHORTS = REPOSITORY / "experiments" / "cohorts"
SPEC = CohortSpec(
    "pod",
    name="pod_test",
    seed=5,
    tvus=UltrasoundPart(Patients(4, 2, 0, 4)),
    mri=VolumePart(Patients(4, 2, 0, 4)),
)


class Backwards(Pool):
    """Gives results in another order, as several processes may."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        return map(function, reversed(jobs))


drawn: list[tuple[Modality, float, int]] = []


def perfect(spec: CohortSpec, modality: Modality, visibility: float, patient: Patient) -> dict[str, float]:
    """Reads the signs themselves, as if the pictures hid nothing of them."""
    drawn.append((modality, visibility, patient.number))
    seeds = Seeds(spec.seed, patient.id)
    model = sign_model("pod", modality)
    stage = np.array([stage_of("pod", patient.ill, seeds)])
    signs = model.signs(stage, patient_normals(seeds, 0.0)[0][modality], visibility)[0]
    return dict(zip(model.names[:10], signs[:10].tolist(), strict=True))


def blind(spec: CohortSpec, modality: Modality, visibility: float, patient: Patient) -> dict[str, float]:
    return {"noise": Seeds(spec.seed, patient.id).numpy("texture").normal()}


def smooth_oracle(visibility: float, size: int, *, slope: float = 1.3, seed: int = 0) -> Oracle:
    """A known curve with the noise of the given number of patients: AUROC = Phi(slope * visibility / sqrt 2)."""
    rng = np.random.default_rng(seed)
    ill = np.arange(size // 2) % 2
    score = rng.standard_normal(size // 2) + slope * visibility * ill
    return Oracle(auroc_interval(ill, score), size // 2, size // 2, {})


@pytest.mark.parametrize("target", [0.88, 0.97])
@pytest.mark.parametrize("slope", [0.8, 3.0])
def test_bisection_finds_the_visibility_of_a_known_oracle(target: float, slope: float) -> None:
    truth = np.sqrt(2) * stats.norm.ppf(target) / slope
    value, oracle = solve(partial(smooth_oracle, slope=slope), target, 0.8 * truth, sizes=(400, 4000, 40_000))
    assert abs(oracle.auroc.value - target) <= calibration.TOLERANCE
    assert oracle.scored == 20_000
    assert value == pytest.approx(truth, rel=0.06)


def test_first_steps_take_few_patients() -> None:
    sizes: list[int] = []

    def counting(visibility: float, size: int) -> Oracle:
        sizes.append(size)
        return smooth_oracle(visibility, size)

    solve(counting, 0.88, 0.3, sizes=(400, 8000))  # starts far from the solution, about 1.28
    assert sizes == sorted(sizes)
    assert sizes.count(400) > sizes.count(8000)


def test_a_start_that_is_known_to_be_near_is_left_only_for_a_reason() -> None:
    def steps(near: float) -> int:
        tried: list[float] = []

        def examine(visibility: float, size: int) -> Oracle:
            tried.append(visibility)
            return smooth_oracle(visibility, size, seed=size)

        solve(examine, 0.88, np.sqrt(2) * stats.norm.ppf(0.88) / 1.3, sizes=(400, 1600, 40_000), near=near)
        return len(set(tried))

    assert steps(2.0) == 1 < steps(0.1)


def test_a_target_out_of_reach_is_said() -> None:
    with pytest.raises(ConfigError, match=r"brings the oracle to an AUROC of 0\.88; the best was 0\.[45]"):
        solve(partial(smooth_oracle, slope=0.0), 0.88, 0.5, sizes=(400,))


def test_the_search_starts_where_the_ceiling_allows_the_target() -> None:
    floor = lowest(partial(latent_ceiling, "pod", "mri", patients=20_000), 0.88)
    assert latent_ceiling("pod", "mri", floor, patients=20_000).value == pytest.approx(0.88, abs=0.002)


def test_a_calibration_from_start_to_lock(tmp_path: Path) -> None:
    said: list[str] = []
    shop = Workshop(SPEC, perfect, tmp_path, Pool(1), said.append)
    found = calibrate(shop, sizes=(400, 1200), monte_carlo=10_000)
    for modality, target in (("tvus", 0.97), ("mri", 0.88)):
        part = found.modalities[modality]
        assert part.target == target
        assert abs(part.oracle.auroc - target) <= 0.005
        assert part.oracle.low < part.oracle.auroc < part.oracle.high
        assert part.oracle.patients == part.fitted == 600
        assert part.oracle.low < part.ceiling.high  # nobody beats the likelihood ratio
        assert part.ceiling.patients == 10_000
    assert found.rho == 0.6
    assert 0.2 < found.spearman["free"] < 0.6
    assert any("tvus: solved" in line for line in said)
    drawn.clear()
    again = calibrate(shop, sizes=(400, 1200), monte_carlo=10_000)
    assert again == found
    assert not drawn  # everything was kept
    assert shop.solved("mri", 0.88, 1200) == found.visibility["mri"]
    assert shop.solved("mri", 0.88, 1204) is None
    assert shop.solved("mri", 0.7, 1200) is None
    control = calibrate(
        Workshop(replace(SPEC, rho=0.0), perfect, tmp_path, Pool(1), said.append), sizes=(400, 1200), monte_carlo=10_000
    )
    assert not drawn  # rho changes no picture of one modality
    assert control.visibility == found.visibility
    assert abs(control.spearman["free"]) < 0.05


def test_a_new_lock_starts_from_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "pod_demo.yaml"
    spec.write_text((COHORTS / "pod_demo.yaml").read_text())
    monkeypatch.setattr(calibration, "measurements", perfect)
    quick = partial(make_lock, spec, patients=400, workers=1, monte_carlo=10_000, report=lambda _: None)
    place, found = quick(tmp_path / "work")
    assert place == tmp_path / "pod_demo.lock"
    assert locks.check(specs.load(spec), place, strict=True) == locks.read(place)
    drawn.clear()
    quick(tmp_path / "other")
    assert {(m, v) for m, v, _ in drawn} == set(found.visibility.items())


def test_a_damaged_lock_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message names this way out."""
    spec = tmp_path / "pod_demo.yaml"
    spec.write_text((COHORTS / "pod_demo.yaml").read_text())
    locks.path_of(spec).write_text("cohort: [")
    monkeypatch.setattr(calibration, "measurements", perfect)
    place, found = make_lock(
        spec, tmp_path / "work", patients=400, workers=1, monte_carlo=10_000, report=lambda _: None
    )
    assert locks.read(place).hash == found.hash


@pytest.mark.parametrize("patients", [0, 396, 802])
def test_a_number_of_reserved_patients_that_does_not_do(patients: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="400 reserved patients or more"):
        make_lock(COHORTS / "pod_demo.yaml", tmp_path, patients=patients)


def test_the_command(cli: Cli) -> None:
    for words, said in (
        (["ct_mr_tiny.yaml", "--calibrate"], "no label whose difficulty"),
        (["pod_demo.yaml", "--calibrate", "rho=0.1"], "as its file has it"),
        (["pod_demo.yaml", "--calibrate", "--reserved", 10], "400 reserved patients"),
        (["pod_demo.yaml", "--calibrate", "--out", "cohort"], "writes a lock and no cohort"),
        (["pod_demo.yaml", "--calibrate", "--only", "mri"], "writes a lock and no cohort"),
        (["pod_tiny.yaml"], "not said where the cohort is to go"),
        (["pod_tiny.yaml", "--out", "cohort", "--reserved", 400], "these are options of calibration"),
        (["pod_tiny.yaml", "--work", "elsewhere"], "these are options of calibration"),
    ):
        called = cli("simulate", COHORTS / str(words[0]), *words[1:])
        assert called.code == 2
        assert said in called.err


def test_an_interrupted_calibration_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    shop = Workshop(SPEC, perfect, tmp_path, Pool(1), lambda _: None)
    whole = shop.table("mri", 0.7, 120)
    file = next(tmp_path.rglob("*.jsonl"))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:50]) + lines[50][:20])  # killed while writing
    drawn.clear()
    pd.testing.assert_frame_equal(shop.table("mri", 0.7, 120), whole)
    assert len(drawn) == 70
    pd.testing.assert_frame_equal(Workshop(SPEC, perfect, tmp_path / "b", Backwards(1)).table("mri", 0.7, 120), whole)


def test_measurements_of_other_pictures_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SPEC.tvus is not None
    larger = replace(SPEC, tvus=replace(SPEC.tvus, size=(256, 256)))
    more = replace(SPEC, tvus=replace(SPEC.tvus, patients=Patients(900, 10, 0, 10)))
    assert calibration.key(larger, "tvus") != calibration.key(SPEC, "tvus") == calibration.key(more, "tvus")
    assert calibration.key(larger, "mri") == calibration.key(SPEC, "mri")
    monkeypatch.setattr(calibration, "simulator_hash", lambda: "other code")
    assert calibration.key(replace(SPEC), "mri") != key_now()


def key_now() -> str:
    """Of the MRI, under the simulator as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "simulator_hash", locks.simulator_hash)
        return calibration.key(SPEC, "mri")


def test_nothing_to_calibrate() -> None:
    organs = CohortSpec("ct_mr", ct=VolumePart(Patients(2, 1, 0, 1)), mri=VolumePart(Patients(2, 1, 0, 1)))
    with pytest.raises(ConfigError, match="no label whose difficulty"):
        calibrate(Workshop(organs, blind, Path("nowhere"), Pool(1)))


def test_reserved_patients_are_nobody_elses() -> None:
    kept = reserved(SPEC, "mri", 40)
    assert reserved(SPEC, "mri", 12) == kept[:12]
    assert not {p.id for p in kept} & {p.id for name in SPEC.parts() for p in patients(SPEC, name)}
    assert [p.ill for p in kept] == [False, True] * 20
    assert {p.site for p in kept} == set(SPEC.sites.names)
    confounded = replace(SPEC, sites=Sites(confounding=1.0))
    assert [p.site for p in reserved(confounded, "mri", 40)] == [p.site for p in kept]


def test_the_oracle_is_fair() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"number": np.arange(4000), "ill": np.arange(4000) % 2})
    assert judge(table.assign(noise=rng.standard_normal(4000))).auroc.value == pytest.approx(0.5, abs=0.03)
    signal = rng.standard_normal(4000) + 1.5 * table["ill"]
    alone = judge(table.assign(signal=signal))
    assert alone.auroc.value == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)), abs=0.02)
    assert (alone.fitted, alone.scored) == (2000, 2000)
    scaled = judge(table.assign(signal=1e6 * signal + 7, constant=1.0))
    assert scaled.auroc == alone.auroc
    shuffled = table.assign(signal=signal).sample(frac=1.0, random_state=0)
    assert judge(shuffled) == alone


def test_what_could_not_be_measured_counts_as_the_mean() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"number": np.arange(2000), "ill": np.arange(2000) % 2})
    signal = rng.standard_normal(2000) + 2.0 * table["ill"]
    gaps = signal.where(rng.random(2000) > 0.2, np.inf)
    found = judge(table.assign(signal=gaps, never=np.nan))
    assert 0.75 < found.auroc.value < judge(table.assign(signal=signal)).auroc.value
    assert found.weights["never"] == 0.0


@pytest.mark.parametrize("names", [0, 11])
def test_the_oracle_takes_ten_measurements_at_most(names: int) -> None:
    table = pd.DataFrame({"number": range(8), "ill": [0, 1] * 4} | {f"m{k}": range(8) for k in range(names)})
    with pytest.raises(ValueError, match=f"1 to 10 measurements, not {names}"):
        judge(table)


@pytest.fixture
def locked(tmp_path: Path) -> tuple[Lock, Path]:
    part = locks.Difficulty(0.88, Limit(0.881, 0.87, 0.89, 4000), 4000, Limit(0.93, 0.929, 0.931, 9), {})
    found = Lock(
        locks.FORMAT,
        SPEC.name,
        locks.specification_hash(SPEC),
        locks.simulator_hash(),
        SPEC.seed,
        SPEC.rho,
        {"tvus": 1.1, "mri": 0.7},
        {"tvus": part, "mri": part},
        {"free": 0.45},
    )
    path = locks.path_of(tmp_path / "pod_test.yaml")
    locks.write(found, path)
    return found, path


def test_a_lock_is_read_as_it_was_written(locked: tuple[Lock, Path]) -> None:
    found, path = locked
    assert path.name == "pod_test.lock"
    assert locks.read(path) == found
    before = path.read_bytes()
    locks.write(locks.read(path), path)
    assert path.read_bytes() == before
    assert locks.read(path).hash == found.hash != replace(found, visibility={"tvus": 1.1, "mri": 0.71}).hash


def test_a_lock_holds_until_the_specification_or_the_simulator_moves(
    locked: tuple[Lock, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, path = locked
    assert SPEC.mri is not None
    assert locks.check(SPEC, path) == found
    assert locks.check(replace(SPEC, prevalence=0.1, label_flips=0.2, seed=9), path) == found  # none of the difficulty
    assert locks.check(replace(SPEC, visibility={"tvus": 1.1, "mri": 0.7}), path) == found
    for other in (
        replace(SPEC, rho=0.0),
        replace(SPEC, mri=replace(SPEC.mri, spacing=(4.0, 1.0, 1.0))),
        replace(SPEC, sites=Sites(["north"])),
    ):
        with pytest.raises(ConfigError, match="made for other pictures, sites or rho"):
            locks.check(other, path)
    with pytest.raises(ConfigError, match="other visibilities than the lock"):
        locks.check(replace(SPEC, visibility={"tvus": 2.0, "mri": 0.7}), path)
    locks.write(replace(found, visibility={"tvus": 1.1}), path)
    with pytest.raises(ConfigError, match="no visibility on mri"):
        locks.check(SPEC, path)
    locks.write(found, path)
    monkeypatch.setattr(locks, "simulator_hash", lambda: "f" * 16)
    with pytest.raises(ConfigError, match=r"not the one that was calibrated .* ffff") as stop:
        locks.check(SPEC, path, strict=True)
    assert len(stop.value.fixes) == 2
    with pytest.warns(UserWarning, match="easier or harder"):
        assert locks.check(SPEC, path) == found


@pytest.mark.parametrize("path", sorted(COHORTS.glob("*.lock")), ids=lambda p: p.stem)
def test_every_lock_holds(path: Path) -> None:
    """Fails when a specification or the simulator moves without a new calibration."""
    found = locks.check(specs.load(path.with_suffix(".yaml")), path, strict=True)
    for part in found.modalities.values():
        assert abs(part.oracle.auroc - part.target) <= calibration.TOLERANCE
        assert part.oracle.auroc < part.ceiling.high


@pytest.mark.parametrize("path", sorted(COHORTS.glob("pod_*.yaml")), ids=lambda p: p.stem)
def test_every_pod_cohort_is_ready_to_simulate(path: Path) -> None:
    spec = specs.load(path)
    assert isinstance(spec.visibility, dict) or locks.path_of(path).is_file()


@pytest.mark.parametrize("text", ["", "visibility: [", "cohort: x\n", "format: 1\nunknown: 2\n", "\xff"])
def test_a_damaged_lock(locked: tuple[Lock, Path], text: str) -> None:
    locked[1].write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="damaged"):
        locks.read(locked[1])


def test_a_lock_with_a_negative_visibility_is_damaged(locked: tuple[Lock, Path]) -> None:
    found, path = locked
    locks.write(replace(found, visibility={"tvus": 1.1, "mri": -0.7}), path)
    with pytest.raises(ConfigError, match=r"damaged: visibility\.mri: -0\.7 is negative"):
        locks.read(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tvus: 1.1", "tvus: 0.9"),
        ("auroc: 0.881", "auroc: 0.8810000001"),
        ("target: 0.88", "target: 0.97"),
        ("seed: 5", "seed: 6"),
        ("checksum: '", "checksum: 'f"),
        ("checksum: ", "# checksum: "),
    ],
)
def test_a_lock_that_was_edited_by_hand_is_refused(locked: tuple[Lock, Path], old: str, new: str) -> None:
    _, path = locked
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"edited by hand: .*checksum"):
        locks.read(path)


def test_layout_and_comments_of_a_lock_are_not_its_content(locked: tuple[Lock, Path]) -> None:
    """Git on Windows, for one, changes the ends of lines."""
    found, path = locked
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"# a word\r\n")
    assert locks.read(path) == found


def test_no_lock(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not been calibrated"):
        locks.read(tmp_path / "pod.lock")


def test_words_about_the_code_do_not_move_the_simulator() -> None:
    plain = 'def f(x):\n    """Old."""\n    return x + 1\n'
    assert locks._code(plain) == locks._code('def f(x):  # why\n    """New words."""\n\n    return (x + 1)\n')
    assert locks._code(plain) != locks._code(plain.replace("+ 1", "+ 2"))
    source = "def f(x: int | None = None, *y: str) -> list[str]:\n    return [f'{x:{y}}', '', None, 1e3]\n"
    # Written down under Python 3.11; later versions have to give the same, so that a lock holds under all of them.
    assert locks._code(source) == (
        "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='x', annotation=BinOp("
        "left=Name(id='int', ctx=Load()), op=BitOr(), right=Constant(value=None)))], vararg=arg(arg='y', annotation="
        "Name(id='str', ctx=Load())), kwonlyargs=[], kw_defaults=[], defaults=[Constant(value=None)]), body=[Return("
        "value=List(elts=[JoinedStr(values=[FormattedValue(value=Name(id='x', ctx=Load()), conversion=-1, format_spec="
        "JoinedStr(values=[FormattedValue(value=Name(id='y', ctx=Load()), conversion=-1)]))]), Constant(value=''), "
        "Constant(value=None), Constant(value=1000.0)], ctx=Load()))], decorator_list=[], returns=Subscript(value="
        "Name(id='list', ctx=Load()), slice=Name(id='str', ctx=Load()), ctx=Load()))], type_ignores=[])"
    )
    files = {
        p.relative_to(REPOSITORY / "xmkd" / "simulate").as_posix() for p in Path(locks.__file__).parent.rglob("*.py")
    }
    assert {"latent.py", "difficulty.py", "oracle.py", "organs.py"} <= files - locks.ELSEWHERE
    assert files >= locks.ELSEWHERE
