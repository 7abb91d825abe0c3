"""Pictures in folders, one folder a class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ttp_jax.data.pictures import Pictures, Split
from ttp_jax.data.pixels import Stored
from ttp_jax.types import InputError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
_SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}


def load_folder(path: str, split: Split = "train") -> Pictures:
    """Pictures of ``path/CLASS/...``; classes and pictures in the order of their names.

    Within a class folders may nest. Hidden files and files of other suffixes than
    :data:`SUFFIXES` are skipped. Where all the folders are called train, test, val or
    validation, they are the splits and the classes lie within them; otherwise everything
    is train. No file is opened before its picture is read.

    Raises:
        InputError: No such folder, no folders in it, a class without pictures, a split
            that is not there.
    """
    root = Path(path).expanduser()
    source = f"dir:{path}"
    if not root.is_dir():
        came = "a file" if root.exists() else "nothing there"
        raise InputError(f"{source} must be a folder with a folder per class, got {came}")
    root = _split_folder(source, root, split)
    classes = _folders(root)
    if not classes:
        raise InputError(
            f"{source} must hold a folder per class, got none in {str(root)!r}; put the "
            f"pictures of each class into a folder of the class's name"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = _pictures(folder)
        if not found:
            raise InputError(
                f"every class folder must hold pictures ({', '.join(SUFFIXES)}), got none "
                f"in {str(folder)!r}; add some or remove the folder"
            )
        files += found
        labels += [label] * len(found)

    def fetch(indices: np.ndarray) -> Iterator[tuple[str, Stored]]:
        return ((repr(str(files[i])), _content(files[i])) for i in indices)

    names = tuple(folder.name for folder in classes)
    return Pictures(source, split, np.array(labels), names, fetch)


def _split_folder(source: str, root: Path, split: Split) -> Path:
    names = [folder.name for folder in _folders(root)]
    known = [name for options in _SPLITS.values() for name in options]
    if not names or any(name not in known for name in names):
        if split == "train":
            return root
        raise InputError(
            f"{source} must hold the folders train and test to have a test split, got "
            f"classes only; use split 'train'"
        )
    for option in _SPLITS[split]:
        if option in names:
            return root / option
    raise InputError(
        f"{source} must hold a folder {_SPLITS[split][0]!r} for that split, got only "
        f"{', '.join(names)}"
    )


def _folders(root: Path) -> list[Path]:
    try:
        entries = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{str(root)!r} must be readable: {error.strerror}") from error
    return sorted(entries, key=lambda p: p.name)


def _pictures(folder: Path) -> list[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not hidden(path) and path.is_file()
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{str(file)!r} must be a readable picture: {error.strerror}"
        ) from error
