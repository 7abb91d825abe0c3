import numpy as np
import pytest

from ttp_jax.early_curves.logs import read_log
from ttp_jax.early_curves.tse import tse
from ttp_jax.types import InputError


def written(tmp_path, text, name="log.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv(tmp_path):
    found = read_log(
        written(tmp_path, "\ufeffstep,loss,accuracy,seconds\n0,2.5,0.1,0\n10,1.5,,3.5\n")
    )
    assert found.steps.tolist() == [0, 10]
    assert found.loss.tolist() == [2.5, 1.5]
    np.testing.assert_array_equal(found.accuracy, [0.1, np.nan])
    assert found.seconds.tolist() == [0, 3.5]
    assert found.budget_steps == 10


@pytest.mark.parametrize("name", ["log.jsonl", "log.NDJSON"])
def test_json_lines_with_names_of_their_own(tmp_path, name):
    text = (
        '{"global_step": 5, "train": {"lr": 1}, "train_loss": 2}\n'
        '{"global_step": 5, "eval_loss": 3}\n'
        "\n"
        '{"global_step": 6, "train_loss": "1.5", "note": "x"}\n'
    )
    found = read_log(written(tmp_path, text, name), step="global_step", loss="train_loss")
    assert found.steps.tolist() == [5, 6]
    assert found.loss.tolist() == [2, 1.5]
    assert np.isnan(found.accuracy).all()
    assert np.isnan(found.seconds).all()


def test_a_row_an_epoch(tmp_path):
    found = read_log(written(tmp_path, "epoch,loss\n1,4\n2,2\n3,1\n"), step="epoch")
    assert tse(found, steps_per_epoch=1).value == 7


def test_rows_without_a_loss_are_passed_over(tmp_path):
    found = read_log(written(tmp_path, "step,loss,val\n0,2,\n0,,3\n1,1,\n\n"))
    assert found.loss.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one row of a training log, got none"),
        ("step,loss\n", "at least one row"),
        ("step,train_loss\n0,1\n", "columns 'step' and 'loss', got 'step', 'train_loss'"),
        ("step;loss\n0;1\n", "got 'step;loss'"),
        ("step,loss\n0,\n1,\n", "must have a loss in some row, got none in 2"),
        ("step,loss\n0,2\n2,1\n1,1\n", "line 4: step must rise .* got 1 after 2"),
        ("step,loss\n0,2\n1,1\n1,1\n", "line 4: step must rise .* the same again"),
        ("step,loss\n0,2\n1,inf\n", "line 3: loss must be finite, got inf; end the log"),
        ("step,loss\n0,2\n1,nan\n", "line 3: loss must be finite, got nan"),
        ("step,loss\n0,2\n1,high\n", "line 3: loss must be a number, got 'high'"),
        ("step,loss\n0,2\nx,1\n", "line 3: step must be a number, got 'x'"),
        (
            "step,loss\n0,2\n0.5,1\n",
            "line 3: step must be a whole number from 0 on, got 0.5",
        ),
        ("step,loss\n-1,2\n", "line 2: step must be a whole number from 0 on, got -1"),
        ("step,loss\ninf,2\n", "step must be a whole number from 0 on, got inf"),
        ("step,loss\n,2\n", "step must be a whole number from 0 on, got none"),
        ("step,loss\n0,2,7\n", "line 2: .* the header's 2 columns, got more"),
        ('step,loss\n0,"2\n', "a row of CSV is expected"),
        ("step,loss,seconds\n0,2,5\n1,1,4\n", "seconds must be finite and never fall"),
        (b"step,loss\n\xff\xfe,1\n", "it is not UTF-8 text"),
    ],
)
def test_a_bad_csv_is_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_log(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n", "at least one row"),
        ('{"step": 0, "loss": 1}\n{"step": 1,\n', "line 2: a JSON object is expected"),
        ("[0, 1]\n", r"line 1: a JSON object is expected, got \[0, 1\]"),
        ('{"step": 0, "loss": [1]}\n', "loss must be a number, got"),
        ('{"step": 0, "loss": true}\n', "loss must be a number, got True"),
        ('{"step": 0, "loss": NaN}\n', "loss must be finite, got nan"),
        ('{"step": 0, "loss": 1e999}\n', "loss must be finite, got inf"),
        ('{"loss": 1}\n{"step": 1, "loss": 1}\n', "line 1: step must be .* got none"),
    ],
)
def test_bad_json_lines_are_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_log(written(tmp_path, text, "log.jsonl"))
    assert "\n" not in str(caught.value)


def test_what_is_no_log(tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        read_log(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"one of \.csv, \.jsonl, \.ndjson, got 'a\.xlsx'"):
        read_log(written(tmp_path, "", "a.xlsx"))
