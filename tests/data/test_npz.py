import io

import numpy as np
import pytest
from PIL import Image

from ttp_jax import data
from ttp_jax.types import InputError

X = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def write(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return f"npz:{tmp_path / 'a.npz'}"

    return write


def pack(x, file_format="PNG"):
    files = []
    for picture in x:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, file_format)
        files.append(buffer.getvalue())
    return {
        "blob": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0] + [len(file) for file in files]),
    }


@pytest.mark.parametrize(
    "names", [("x", "y"), ("images", "labels"), ("x_train", "y_train")]
)
def test_plain_arrays(write, names):
    pictures = data.load(write(**dict(zip(names, (X, Y), strict=True))))
    assert pictures.classes == ("0", "1", "2")
    np.testing.assert_array_equal(pictures.labels, Y)
    np.testing.assert_array_equal(pictures.read(), X)
    np.testing.assert_array_equal(pictures.read(np.array([4, 1])), X[[4, 1]])


def test_splits_by_name_and_by_array(write):
    source = write(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    np.testing.assert_array_equal(data.load(source, split="test").read(), X[:2])
    source = write(x=X, y=Y, split=np.array([0, 1, 0, 0, 0, 1], np.uint8))
    np.testing.assert_array_equal(data.load(source).read(), X[[0, 2, 3, 4]])
    test = data.load(source, split="test")
    np.testing.assert_array_equal(test.read(np.array([1])), X[[5]])
    np.testing.assert_array_equal(test.labels, Y[[1, 5]])


def test_class_names(write):
    named = data.load(write(x=X, y=Y, classes=np.array(["ant", "bee", "cow", "dog"])))
    assert named.counts() == {"ant": 2, "bee": 2, "cow": 2, "dog": 0}


@pytest.mark.parametrize(
    ("dtype", "low", "high", "stated"),
    [
        (np.float32, 0, 1, False),
        (np.float64, -1, 1, True),
        (np.float32, 0, 255, True),
        (np.int64, 0, 255, False),
        (np.int16, -128, 127, True),
    ],
)
def test_other_numbers_come_back_in_their_range(write, dtype, low, high, stated):
    x = (X / 255 * (high - low) + low).astype(dtype)
    extra = {"value_range": np.array([low, high])} if stated else {}
    read = data.load(write(x=x, y=Y, **extra)).read()
    assert np.abs(read.astype(int) - X).max() <= (1 if x.dtype.kind == "i" else 0)


def test_grey_shapes(write):
    for x in (X[..., 0], X[..., :1]):
        read = data.load(write(x=x, y=Y)).read()
        np.testing.assert_array_equal(read, X[..., :1])


def test_packed_png_is_exact_and_split(write):
    split = np.array([0, 0, 1, 0, 1, 0], np.uint8)
    classes = np.array(["ant", "bee", "cow"])
    source = write(**pack(X), label=Y.astype(np.int16), split=split, classes=classes)
    train, test = data.load(source), data.load(source, split="test")
    assert (train.classes, len(train), len(test)) == (("ant", "bee", "cow"), 4, 2)
    np.testing.assert_array_equal(train.read(), X[split == 0])
    np.testing.assert_array_equal(test.read(np.array([1, 0])), X[[4, 2]])
    np.testing.assert_array_equal(test.labels, Y[[2, 4]])


def test_packed_jpeg_decodes_as_pillow_does(write):
    smooth = np.tile(np.arange(0, 240, 15, dtype=np.uint8), (16, 1))
    x = np.stack([np.stack([smooth, smooth.T, smooth], axis=2)] * 3)
    packed = pack(x, "JPEG")
    read = data.load(write(**packed, label=np.array([0, 1, 0]))).read()
    first = packed["blob"][: packed["offset"][1]].tobytes()
    np.testing.assert_array_equal(read[0], np.asarray(Image.open(io.BytesIO(first))))
    assert np.abs(read.astype(int) - x).mean() < 8


def test_a_damaged_packed_picture_is_named(write):
    packed = pack(X)
    packed["blob"] = packed["blob"].copy()
    packed["blob"][packed["offset"][2] : packed["offset"][3]] = 0
    pictures = data.load(write(**packed, label=Y))
    assert len(pictures.read(np.array([0, 1, 3]))) == 3
    with pytest.raises(InputError, match=r"picture 2 of npz:.* must be a readable picture"):
        pictures.read()


def test_same_pictures_same_sum_whatever_keeps_them(write, tmp_path):
    names = np.array(["ant", "bee", "cow"])
    packed = pack(X)
    source = write(**packed, label=Y, classes=names)
    offset = packed["offset"]
    for i, label in enumerate(Y):
        file = tmp_path / "dir" / names[label] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed["blob"][offset[i] : offset[i + 1]].tobytes())

    def total(source):
        return data.read_task(data.load(source), per_class=2, seed=1).sha256

    # Within a class both sources list the pictures in the same order.
    assert total(source) == total(f"dir:{tmp_path / 'dir'}")
    assert total(source) != total(write(**packed, label=Y[::-1].copy(), classes=names))
    assert total(source) != total(write(x=X, y=Y, classes=names))


NAN = np.where(np.arange(75).reshape(5, 5, 3) == 7, np.nan, 0.5)[None].repeat(6, 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "must hold the array 'y', got only x"),
        ({"y": Y}, "must hold pictures and labels as x and y"),
        ({}, "got nothing"),
        ({"x": X, "y": Y[:5]}, r"'y' .* integers \[6\], one a picture, got int64 \[5\]"),
        ({"x": X, "y": Y.astype(float)}, "must be integers"),
        ({"x": X, "y": Y[:, None]}, r"got int64 \[6, 1\]"),
        ({"x": X, "y": Y - 1}, r"must lie in 0\.\.1 .* got -1\.\.1"),
        ({"x": X, "y": Y + 100}, r"class numbers 0\.\.c-1, got 100\.\.102"),
        ({"x": X, "y": Y, "classes": np.array(["a", "b"])}, r"0\.\.1 .* got 0\.\.2"),
        ({"x": X, "y": Y, "classes": np.array(["a", "b", "a"])}, "'a' more than once"),
        ({"x": X, "y": Y, "classes": np.ones((2, 2))}, "must be a list of names"),
        ({"x": X.reshape(6, -1), "y": Y}, "reshape the rows"),
        ({"x": X.transpose(0, 3, 1, 2), "y": Y}, "move the channels last"),
        ({"x": X[0, 0, 0, 0], "y": Y[0]}, "must"),
        ({"x": X[:0], "y": Y[:0]}, r"must have shape"),
        ({"x": NAN, "y": Y}, "got 6 NaN or infinite of 450"),
        ({"x": X.astype(float), "y": Y}, r"must lie in 0\.\.1, got 0\.\.25\d; store"),
        ({"x": X.astype(np.int32) * 2, "y": Y}, r"must lie in 0\.\.255"),
        ({"x": X > 9, "y": Y}, "must hold numbers"),
        ({"x": X / 255, "y": Y, "value_range": np.array([1, 0])}, "low < high"),
        ({"x": X, "y": Y.astype(object)}, "'y' that cannot be read"),
        ({"x": X, "y": Y, "split": Y}, r"of 0 \(train\) and 1 \(test\)"),
        ({"x": X, "y": Y, "split": Y * 0 + 1}, "found none in its train split"),
        ({**pack(X)}, "must hold the array 'label'"),
        ({**pack(X), "label": Y[:3]}, r"integers \[6\]"),
        ({**pack(X), "label": Y, "offset": np.arange(7) * 10**6}, "file is damaged"),
        ({**pack(X), "label": Y, "offset": np.arange(7)[::-1]}, "file is damaged"),
        ({**pack(X), "label": Y, "offset": np.arange(7.0)}, r"integers \[n \+ 1\]"),
        ({"blob": X, "offset": np.arange(7), "label": Y}, r"uint8 \[bytes\]"),
    ],
)
def test_archives_that_cannot_be_used(write, arrays, message):
    with pytest.raises(InputError, match=message) as error:
        data.load(write(**arrays))
    assert "\n" not in str(error.value)


def test_missing_test_split(write):
    with pytest.raises(InputError, match="use split 'train'"):
        data.load(write(x=X, y=Y), split="test")
    with pytest.raises(InputError, match="must hold the array 'x_test'"):
        data.load(write(x_train=X, y_train=Y), split="test")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_archive(write, share):
    source = write(x=X, y=Y)
    path = source.removeprefix("npz:")
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: int(share * len(content))])
    with pytest.raises(InputError, match="truncated") as error:
        data.load(source)
    assert "\n" not in str(error.value)


def test_damaged_within(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[100:200] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match="array 'x' that cannot be read") as error:
        data.load(f"npz:{path}")
    assert "\n" not in str(error.value)


def test_files_that_are_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "b.npz").write_text("text")
    for path, message in (
        (tmp_path / "a.npy", "must be an npz archive"),
        (tmp_path / "b.npz", "must be an npz archive"),
        (tmp_path / "c.npz", "got nothing there"),
        (tmp_path, "got a folder"),
    ):
        with pytest.raises(InputError, match=message):
            data.load(f"npz:{path}")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "side"),
    [("flowers5_128", 5, 3453, 864, 128), ("clothing10_128", 10, 3409, 372, 128)],
)
def test_real_packed_archives(shared_data, name, classes, train, test, side):
    source = f"npz:{shared_data / 'datasets' / name}.npz"
    for split, n in (("train", train), ("test", test)):
        pictures = data.load(source, split=split)
        assert (len(pictures), len(pictures.classes)) == (n, classes)
        assert sum(pictures.counts().values()) == n
        assert min(pictures.counts().values()) > 0
    task = data.read_task(pictures, per_class=2)
    assert task.images.shape == (2 * classes, side, side, 3)
    assert task.images.std() > 30
