import socket
import time

import numpy as np
import pytest

from ttp_jax import data
from ttp_jax.types import InputError

RGB = np.random.default_rng(0).integers(0, 256, (30, 5, 7, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 30)
GREY = RGB[:8, :5, :5, :1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    label = tfds.features.ClassLabel(names=["ant", "bee", "cow"])
    integer = tfds.features.Scalar(np.int64)

    def store(name, image, pictures, *, labels=LABELS, parts, config=None, **more):
        features = {"picture": image, "kind": label, "number": integer, **more}

        def rows(part):
            for i in range(len(pictures))[part]:
                row = {"picture": pictures[i], "kind": int(labels[i]), "number": i}
                yield i, {**row, **{key: pictures[i] for key in more}}

        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.2.0",
            config=config,
            data_dir=root,
            features=tfds.features.FeaturesDict(features),
            split_datasets={split: rows(part) for split, part in parts.items()},
        )

    image = tfds.features.Image
    parts = {"train": slice(0, 25), "validation": slice(25, 30)}
    train = {"train": slice(0, 8)}
    store("made", image(shape=(5, 7, 3)), RGB, parts=parts)
    store("grey", image(shape=(5, 5, 1)), GREY, parts=train)
    floats = (GREY / 255).astype(np.float32)
    real = image(shape=(5, 5, 1), dtype=np.float32)
    store("floats", real, floats, parts=train)
    store("wild", real, floats * 3, parts=train)
    store("two", image(shape=(5, 5, 1)), GREY, parts=train, mask=image(shape=(5, 5, 1)))
    store("unlabelled", image(shape=(5, 5, 1)), GREY, labels=np.full(8, -1), parts=train)
    for config in ("small", "large"):
        store("configs", image(shape=(5, 5, 1)), GREY, parts=train, config=config)
    return root


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def by_content(images):
    return sorted(image.tobytes() for image in images)


@pytest.mark.usefixtures("no_network")
def test_a_prepared_set_is_read_back(data_dir):
    train = data.load("tfds:made", data_dir=data_dir)
    assert train.classes == ("ant", "bee", "cow")
    images = train.read()
    assert images.shape == (25, 5, 7, 3)
    # The writer shuffles; pictures and labels must still belong together.
    for image, label in zip(images, train.labels, strict=True):
        original = np.flatnonzero((RGB == image).all(axis=(1, 2, 3)))
        assert LABELS[original] == [label]
    assert by_content(images) == by_content(RGB[:25])
    again = data.load("tfds:made", data_dir=data_dir)
    np.testing.assert_array_equal(again.labels, train.labels)
    np.testing.assert_array_equal(again.read(np.array([20, 3, 3])), images[[20, 3, 3]])


@pytest.mark.usefixtures("no_network")
def test_validation_stands_in_for_test(data_dir):
    test = data.load("tfds:made", data_dir=data_dir, split="test")
    assert by_content(test.read()) == by_content(RGB[25:])


@pytest.mark.usefixtures("no_network")
def test_environment_names_the_folder(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(data.load("tfds:made:1.2.0")) == 25


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["grey", "floats"])
def test_grey_and_float_pictures(data_dir, name):
    images = data.load(f"tfds:{name}", data_dir=data_dir).read()
    assert images.shape == (8, 5, 5, 1)
    assert by_content(images) == by_content(GREY)


@pytest.mark.usefixtures("no_network")
def test_configs(data_dir):
    assert len(data.load("tfds:configs/small", data_dir=data_dir)) == 8
    with pytest.raises(InputError, match="from configs/large, configs/small"):
        data.load("tfds:configs", data_dir=data_dir)


@pytest.mark.usefixtures("no_network")
def test_what_the_features_do_not_offer(data_dir):
    with pytest.raises(InputError, match=r"one Image feature, got 2 .*mask \(Image\)"):
        data.load("tfds:two", data_dir=data_dir)
    with pytest.raises(InputError, match="split test or validation, got train"):
        data.load("tfds:grey", data_dir=data_dir, split="test")
    with pytest.raises(InputError, match=r"got -1\.\.-1"):
        data.load("tfds:unlabelled", data_dir=data_dir)
    with pytest.raises(InputError, match=r"must lie in 0\.\.1"):
        data.load("tfds:wild", data_dir=data_dir).read()


@pytest.mark.usefixtures("no_network")
def test_damaged_files(data_dir, tmp_path):
    folder = tmp_path / "made" / "1.2.0"
    folder.mkdir(parents=True)
    for file in (data_dir / "made" / "1.2.0").iterdir():
        content = file.read_bytes()
        whole = "tfrecord" not in file.name
        (folder / file.name).write_bytes(content if whole else content[:-100])
    with pytest.raises(InputError, match="cannot be read: DataLossError") as error:
        data.load("tfds:made", data_dir=tmp_path)
    assert "\n" not in str(error.value)
    (folder / "features.json").write_text("{")
    with pytest.raises(InputError, match="prepare it again"):
        data.load("tfds:made", data_dir=tmp_path)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", r"would be downloaded \(up to 11 MiB\); point TFDS_DATA_DIR"),
        ("mnistt", "did you mean 'tfds:mnist'"),
        ("no_such_set_anywhere", "or be a name that tensorflow-datasets knows"),
        ("huggingface:mnist", "or be a name that tensorflow-datasets knows"),
        ("../made", "must be given as tfds:NAME"),
    ],
)
def test_what_is_not_there_is_said_at_once(tmp_path, name, message):
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as error:
        data.load(f"tfds:{name}", data_dir=tmp_path)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
