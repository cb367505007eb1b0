"""Settings of the whole test session, made before anything imports JAX."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Compiled programs are kept between runs: most of a first run is compilation.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# The same examples in every run; no deadline, since the first example pays for compilation.
settings.register_profile("bayesharm", derandomize=True, deadline=None)
settings.load_profile("bayesharm")


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
