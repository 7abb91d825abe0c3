import os
import shutil
import tempfile
from pathlib import Path

# Most of the time of most tests is spent compiling; what is compiled is used once. Read when
# the first array is made.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """Compile once what tests, workers and the commands that tests start have in common.

    The process that was started first makes the folder and removes it at its end; all others
    inherit it. Set JAX_COMPILATION_CACHE_DIR to keep one from run to run: the next run then
    compiles almost nothing.
    """
    name = "JAX_COMPILATION_CACHE_DIR"
    if name not in os.environ:
        os.environ[name] = tempfile.mkdtemp(prefix="ttp-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[name], ignore_errors=True))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ[name])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


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
