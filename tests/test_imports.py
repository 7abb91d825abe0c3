"""What importing the package loads, and what it must not."""

import subprocess
import sys

LATE = (
    "tensorflow",
    "tensorflow_datasets",
    "neural_tangents",
    "matplotlib",
    "flax",
    "optax",
)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = loaded_after("import ttp_jax")
    assert "jax" not in loaded or not loaded.intersection(LATE)
    assert not loaded.intersection(LATE)


def test_the_predictor_loads_no_training():
    loaded = loaded_after("import ttp_jax; ttp_jax.predict, ttp_jax.SGD, ttp_jax.Task")
    assert not loaded.intersection(LATE)


def test_the_command_line_loads_no_data_sets():
    loaded = loaded_after("import ttp_jax.cli")
    assert not loaded.intersection({"tensorflow", "tensorflow_datasets", "neural_tangents"})
    assert "matplotlib" not in loaded


def test_a_function_stays_one_whatever_was_imported_before():
    loaded_after(
        "import ttp_jax.study, ttp_jax as ttp; from ttp_jax.finetune import loop;"
        "assert callable(ttp.finetune) and callable(ttp.predict)"
    )
