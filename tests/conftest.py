import os
from pathlib import Path

# Most of the time of most tests is spent compiling; what is compiled is used once. Read when
# the first array is made.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def x64():
    """Run the test with 64-bit arrays."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and pictures, where there is one."""
    folder = Path(os.environ.get("TTP_SHARED_DATA", "../shared/data"))
    folder = folder if folder.is_absolute() else ROOT / folder
    if not (folder / "weights").is_dir():
        pytest.skip(f"no shared data: set TTP_SHARED_DATA (looked in {folder})")
    return folder
