import numpy as np
import pytest
from PIL import Image

from ttp_jax import data
from ttp_jax.types import InputError


def save(path, value, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    save(root / "dog" / "2.png", 20)
    save(root / "dog" / "10.PNG", 10)
    save(root / "cat" / "sub" / "a.png", 2)
    save(root / "cat" / "b.bmp", 1)
    save(root / "cat" / ".hidden.png", 99)
    save(root / ".cache" / "a.png", 99)
    (root / "cat" / "notes.txt").write_text("no picture")
    (root / "README").write_text("no class")
    return root


def test_order_labels_and_what_is_skipped(folder):
    pictures = data.load(f"dir:{folder}")
    assert pictures.classes == ("cat", "dog")
    np.testing.assert_array_equal(pictures.labels, [0, 0, 1, 1])
    images = pictures.read()
    np.testing.assert_array_equal(images[:, 0, 0, 0], [1, 2, 10, 20])
    assert images.shape == (4, 6, 6, 3)
    assert pictures.counts() == {"cat": 2, "dog": 2}


def test_indices_choose_and_order(folder):
    images = data.load(f"dir:{folder}").read(np.array([3, 0]), image_size=4)
    assert images.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [20, 1])


def test_only_chosen_pictures_are_opened(folder):
    (folder / "dog" / "2.png").write_bytes(b"broken")
    pictures = data.load(f"dir:{folder}")
    assert len(pictures.read(np.array([0, 1, 2]))) == 3
    with pytest.raises(InputError, match=r"dog/2\.png' must be a readable picture"):
        pictures.read(np.array([3]))


def test_grey_folder_has_one_channel(tmp_path):
    save(tmp_path / "a" / "1.png", 5, mode="L")
    save(tmp_path / "b" / "1.png", 6, mode="L")
    assert data.load(f"dir:{tmp_path}").read().shape == (2, 6, 6, 1)


def test_split_folders(tmp_path):
    for k, split in enumerate(("train", "val")):
        save(tmp_path / split / "a" / "1.png", 10 + k)
    assert data.load(f"dir:{tmp_path}").read()[0, 0, 0, 0] == 10
    test = data.load(f"dir:{tmp_path}", split="test")
    assert test.classes == ("a",)
    assert test.read()[0, 0, 0, 0] == 11


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        save(tmp_path / name / "1.png", 1)
    assert data.load(f"dir:{tmp_path}").classes == ("bus", "train")


def test_a_picture_that_went_away_is_named(folder):
    pictures = data.load(f"dir:{folder}")
    (folder / "dog" / "2.png").unlink()
    with pytest.raises(InputError, match=r"2\.png' must be a readable picture: No such"):
        pictures.read()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "got nothing there"),
        (lambda root: root.write_text(""), "got a file"),
        (lambda root: root.mkdir(), "must hold a folder per class, got none"),
        (lambda root: (root / "cat").mkdir(parents=True), "every class folder .* got none"),
        (lambda root: save(root / "train" / "1.png", 1), "must hold a folder per class"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message) as error:
        data.load(f"dir:{tmp_path / 'x'}")
    assert "\n" not in str(error.value)


def test_missing_test_split(folder, tmp_path):
    with pytest.raises(InputError, match="use split 'train'"):
        data.load(f"dir:{folder}", split="test")
    save(tmp_path / "only" / "train" / "a" / "1.png", 1)
    with pytest.raises(InputError, match="must hold a folder 'test'"):
        data.load(f"dir:{tmp_path / 'only'}", split="test")


def test_different_sizes_need_a_size(folder):
    save(folder / "dog" / "3.png", 30, size=(9, 6))
    pictures = data.load(f"dir:{folder}")
    with pytest.raises(InputError, match="pass --image-size"):
        pictures.read()
    assert pictures.read(image_size=3).shape == (5, 3, 3, 3)
