"""Candidates as they are written down."""

import json

import pytest

from ttp_jax import candidates, study
from ttp_jax.types import InputError

COMMON = study.Config(per_class=6, lr=1e-2)


def read(*texts, **options):
    return candidates.read(COMMON, texts, **options)


def test_options_names_and_what_is_common():
    found = read(
        "model=resnet20,weights=a/resnet20_cifar10.npz,lr=1e-3",
        "model=mlp,weights=random,batch_size=None,nesterov=true,head-init=zeros",
        "freeze_until=none,image_size=16",
        "weights=None,head_scale=1",
    )
    assert [of.name for of in found] == [
        "resnet20, lr 0.001",
        "mlp, random weights, head init zeros, nesterov True, batch size None",
        "embedded, image size 16, all trained",
        "embedded, default weights, head scale 1",
    ]
    first, second, third, last = (of.config for of in found)
    assert (first.weights, first.lr, first.per_class) == ("a/resnet20_cifar10.npz", 1e-3, 6)
    assert (second.batch_size, second.nesterov, second.head_init) == (None, True, "zeros")
    assert (third.lr, third.image_size, third.freeze_until) == (1e-2, 16, "none")
    assert last.weights is None
    assert found[1].own["nesterov"] is True


def test_rates_are_for_those_that_name_none():
    found = read("model=mlp", "lr=3e-3", rates=[1e-4, 1e-3])
    assert [(of.config.model, of.config.lr) for of in found] == [
        ("mlp", 1e-4),
        ("mlp", 1e-3),
        ("embedded", 3e-3),
    ]


def test_names_that_would_be_the_same_are_written_out():
    found = read("weights=a/embedded.npz", "weights=b/embedded.npz", "lr=1")
    assert [of.name for of in found] == [
        "weights=a/embedded.npz",
        "weights=b/embedded.npz",
        "embedded, lr 1",
    ]


def test_from_a_file(tmp_path):
    rows = [{"model": "mlp", "weights": "a,b.npz"}, {"lr": 1e-3, "batch_size": None}]
    as_json, as_toml = tmp_path / "c.json", tmp_path / "c.toml"
    as_json.write_text(json.dumps(rows))
    as_toml.write_text(
        '[[candidates]]\nmodel = "mlp"\nweights = "a,b.npz"\n'
        '[[candidates]]\nlr = 1e-3\nbatch_size = "None"\n'
    )
    of_json, of_toml = (candidates.read(COMMON, file=str(f)) for f in (as_json, as_toml))
    assert of_json == of_toml
    assert of_json[0].config.weights == "a,b.npz"
    assert of_json[1].config.batch_size is None


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "at least 2 candidates, got 0"),
        (["lr=1"], "at least 2 candidates, got 1"),
        (["lr=1", "lr=1.0"], "candidates must differ, got 'lr=1.0' twice"),
        (["lr=1e-2", "momentum=0.9"], "candidates must differ"),
        (["lr=1", "ler=2"], "got 'ler'; perhaps lr"),
        (["lr=1", "data=digits"], "candidates may differ in model"),
        (["lr=1", "epochs=2"], "candidates may differ in model"),
        (["lr=1", "lr=2,lr=3"], "got lr twice"),
        (["lr=1", "mlp"], "option=value,option=value, got 'mlp'"),
        (["lr=1", ""], "option=value"),
        (["lr=1", "lr=fast"], "option lr of a candidate must be float, got 'fast'"),
        (["lr=1", "nesterov=yes"], "must be bool"),
        (["lr=1", "batch_size=2.5"], "must be int, None"),
        (["lr=1", "head_init=ones"], "must be lecun_normal or zeros"),
    ],
)
def test_what_cannot_be_candidates(texts, said):
    with pytest.raises(InputError, match=said.replace("(", "\\(")):
        read(*texts)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.json", "[{]", "JSON or TOML that can be read"),
        ("c.toml", "a = ", "JSON or TOML that can be read"),
        ("c.toml", "a = 1", "list of candidates"),
        ("c.json", '{"lr": 1}', "list of candidates"),
        ("c.json", "[1, 2]", "list of candidates"),
        ("c.json", '[{"lr": [1, 2]}, {"lr": 1}]', "option lr of a candidate must be float"),
    ],
)
def test_files_that_cannot_be_read(name, content, said, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        candidates.read(COMMON, file=str(tmp_path / name))
    with pytest.raises(InputError, match=r"none\.json"):
        candidates.read(COMMON, file=str(tmp_path / "none.json"))
