"""Settings of the whole test session, made before anything imports JAX."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

# Compiled programs are kept between runs: most of a first run is compilation.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# Half of the session is compilation; with less optimization it takes a quarter less time, and programs run no slower.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

# The same examples in every run; no deadline, since the first example pays for compilation.
settings.register_profile("bayesharm", derandomize=True, deadline=None)
settings.load_profile("bayesharm")

# Files that take longest, longest first, so that no process waits for another at the end.
LONGEST = (
    "cli", "reference", "resume", "population_structure", "evaluate", "student_t", "labels", "noise_ratio", "missing",
    "protocol", "joint", "notebooks", "gain", "devices", "models_command",
)  # fmt: skip

# Fixtures that fit a study for one file, in more than a quarter of a minute: tests that use one are slow (`make test-slow`).
SLOW_FIXTURES = {
    "evaluate": {"found"}, "gain": {"fitted"}, "joint": {"exact", "learned"}, "labels": {"cases"},
    "model_comparison": {"runs"}, "noise_ratio": {"posterior"}, "population_structure": {"results"},
    "protocol": {"simulated", "posterior"}, "reference_models": {"simulated"}, "rpn": {"results"},
    "student_t": {"calibrated", "robust"}, "transform": {"fits"},
}  # fmt: skip

N_SMALL = 100  # features of `small_study`: with few of them the hyperparameters are hardly known


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for item in items:
        if SLOW_FIXTURES.get(item.path.stem.removeprefix("test_"), set()) & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _keep_programs() -> None:
    """Keep executables from the start, not from the first command on."""
    from bayesharm.algorithms.programs import cache_programs

    cache_programs()


@pytest.fixture(scope="module", autouse=True)
def _drop_programs() -> Iterator[None]:
    """Drop what a file has compiled from memory; what another one needs of it is read from the folder."""
    from bayesharm.algorithms.programs import clear_programs

    yield
    clear_programs()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets, from the environment variable ``BAYESHARM_DATA``.

    Without it a test that needs them is skipped; in CI it fails, so that such tests cannot go unrun unseen.
    """
    folder = os.environ.get("BAYESHARM_DATA", "")
    if folder and Path(folder).is_dir():
        return Path(folder).resolve()
    reason = (
        f"real data: got BAYESHARM_DATA={folder!r}, expected a folder that holds onharmony.csv; "
        "set BAYESHARM_DATA to it and run the tests again"
    )
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, request) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all processes of a session: `make` gets its path, the other processes wait."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if hasattr(request.config, "workerinput") else base  # common to the processes of pytest-xdist

    def in_root(name: str, make: Callable[[Path], None]) -> Path:
        with (root / f"{name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.seek(0)
            if lock.read() != "made":
                make(root / name)
                lock.write("made")
        return root / name

    return in_root


@pytest.fixture(scope="session")
def small_study(make_once) -> Path:
    """A folder with ``scans.csv`` and ``features.npy``: 47 scans on five scanners, `N_SMALL` features.

    Five travelers on three scanners, twice; a cohort on these and on `delta`, where nobody traveled; one scan
    on `omega`.
    """
    return make_once("study", _write_small_study)


def _write_small_study(folder: Path) -> None:
    rng = np.random.default_rng(7)
    rows = [(f"t{i}", name, "HC") for i in range(5) for name in ("alpha", "beta", "gamma") for _ in range(2)]
    cohort = ["alpha", "beta", "gamma", "delta"] * 4 + ["omega"]
    rows += [(f"c{i:02d}", name, "MDD" if i % 8 > 3 else "HC") for i, name in enumerate(cohort)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "diagnosis"])
    scans.insert(0, "scan_id", [f"scan{i:02d}" for i in range(len(scans))])
    scans["age"] = rng.integers(20, 60, len(scans))
    scans["age"] = scans.groupby("participant_id")["age"].transform("first")
    people, scanners = scans.participant_id.unique(), scans.scanner.unique()
    person = pd.DataFrame(rng.normal(0, 0.7, (len(people), N_SMALL)), index=people)
    bias = pd.DataFrame(rng.normal(0, 0.5, (len(scanners), N_SMALL)), index=scanners)
    features = 5 + person.loc[scans.participant_id].to_numpy() + bias.loc[scans.scanner].to_numpy()
    recruited = scans.scanner.where(~scans.participant_id.str.startswith("t"), "alpha") + scans.diagnosis
    groups = pd.DataFrame(rng.normal(0, 0.5, (recruited.nunique(), N_SMALL)), index=recruited.unique())
    features += groups.loc[recruited].to_numpy() + np.outer(scans.diagnosis == "MDD", rng.normal(0, 0.5, N_SMALL))
    features += rng.normal(0, 0.5, features.shape)
    folder.mkdir()
    scans.to_csv(folder / "scans.csv", index=False)
    np.save(folder / "features.npy", features.astype("float32"))


def report_of(run: Path) -> Path:
    """The report that `fit --report` wrote beside the run folder of a fixture."""
    return run.with_name(f"{run.name}.html")


@pytest.fixture(scope="session")
def small_run(small_study, make_once) -> Path:
    """The run folder of `small_study`, made by the command that users type, with its report; fitted once for all tests."""
    from typer.testing import CliRunner

    from bayesharm.cli.app import app

    def fit(out: Path) -> None:
        result = CliRunner().invoke(app, [
            "fit", str(small_study / "scans.csv"), str(small_study / "features.npy"),
            "--model", "traveling_and_cohort", "--seed", "1", "--keep-draws", "thin", "--out", str(out),
            "--report", str(report_of(out)),
        ])  # fmt: skip
        assert result.exit_code == 0, result.output

    return make_once("study_run", fit)
