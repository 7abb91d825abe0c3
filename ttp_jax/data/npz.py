"""Pictures in one npz archive: plain arrays, or packed picture files."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from ttp_jax.data import pixels
from ttp_jax.data.pictures import Pictures, Split
from ttp_jax.types import InputError

_PLAIN = (("x", "y"), ("images", "labels"))
_PER_SPLIT = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def load_npz(path: str, split: Split = "train") -> Pictures:
    """Pictures of an npz archive, of either kind.

    Plain: pictures ``x`` or ``images``, ``[n, h, w]`` or ``[n, h, w, 1 or 3]``, with
    integer labels ``y`` or ``labels`` ``[n]``; or ``x_train``, ``y_train``, ``x_test``,
    ``y_test``. Pixels are uint8; or other numbers in the range that an optional array
    ``value_range = [low, high]`` states, by default 0..1 for floats and 0..255 for
    integers.

    Packed: ``blob`` (uint8, picture files end to end), ``offset`` (``[n + 1]``, where each
    starts and the last ends), ``label`` ``[n]``.

    Optional in both: ``split`` ``[n]`` (0 train, 1 test; otherwise all is train) and
    ``classes`` (names; otherwise the numbers are the names).

    Raises:
        InputError: A file that is not there, is truncated or holds Python objects; arrays
            that are missing or of the wrong shape or type; NaN; labels out of range.
    """
    source = f"npz:{path}"
    archive = _open(source, Path(path).expanduser())
    with archive:
        if "blob" in archive.files:
            return _packed(source, archive, split)
        return _plain(source, archive, split)


def _open(source: str, path: Path) -> NpzFile:
    if not path.is_file():
        came = "a folder" if path.is_dir() else "nothing there"
        raise InputError(f"{source} must be a file, got {came}; check the path")
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it has no zip directory")
        return np.load(path, allow_pickle=False)
    except _BROKEN as error:
        raise InputError(
            f"{source} must be an npz archive, but it is something else or is truncated: "
            f"{_line(error)}; write it again with numpy.savez"
        ) from error


def _array(source: str, archive: NpzFile, name: str) -> np.ndarray:
    if name not in archive.files:
        raise InputError(
            f"{source} must hold the array {name!r}, got only "
            f"{', '.join(archive.files) or 'nothing'}"
        )
    try:
        return archive[name]
    except _BROKEN as error:
        raise InputError(
            f"{source} holds an array {name!r} that cannot be read: {_line(error)}; write "
            f"the file again with numpy.savez, without Python objects"
        ) from error


def _plain(source: str, archive: NpzFile, split: Split) -> Pictures:
    if any(name in archive.files for pair in _PER_SPLIT.values() for name in pair):
        names = _PER_SPLIT[split]
        here = None
    else:
        names = next((p for p in _PLAIN if p[0] in archive.files), None)
        if names is None:
            raise InputError(
                f"{source} must hold pictures and labels as x and y, images and labels, "
                f"x_train and y_train, or blob, offset and label; got "
                f"{', '.join(archive.files) or 'nothing'}"
            )
        here = split
    x = _array(source, archive, names[0])
    y = _labels(source, archive, names[1], len(x) if x.ndim else 0)
    where = f"array {names[0]!r} of {source}"
    low, high = _checked_range(where, source, archive, x)
    chosen = _chosen(source, archive, here, len(x))

    def fetch(indices: np.ndarray) -> Iterator[tuple[str, pixels.Stored]]:
        for i in chosen[indices]:
            plain = x[i] if x.dtype == np.uint8 else pixels.to_uint8(x[i], low, high)
            yield f"picture {i} of {source}", plain

    return Pictures(source, split, y[chosen], _classes(source, archive, y), fetch)


def _checked_range(
    where: str, source: str, archive: NpzFile, x: np.ndarray
) -> tuple[float, float]:
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape:
        hint = ""
        if x.ndim == 4 and x.shape[1] in (1, 3):
            hint = "; move the channels last with x.transpose(0, 2, 3, 1)"
        elif x.ndim == 2:
            hint = "; reshape the rows to pictures"
        raise InputError(
            f"{where} must have shape [n, h, w] or [n, h, w, 1 or 3], got "
            f"{list(x.shape)}{hint}"
        )
    if x.dtype == np.uint8:
        return 0.0, 255.0
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise InputError(f"{where} must hold numbers, best uint8, got {x.dtype}")
    low, high = (0.0, 1.0) if np.issubdtype(x.dtype, np.floating) else (0.0, 255.0)
    if "value_range" in archive.files:
        stated = _array(source, archive, "value_range")
        if stated.shape != (2,) or stated.dtype.kind not in "fiu" or stated[0] >= stated[1]:
            raise InputError(
                f"array 'value_range' of {source} must be [low, high] with low < high, got "
                f"{stated.tolist()}"
            )
        low, high = float(stated[0]), float(stated[1])
    pixels.check_range(where, x, low, high)
    return low, high


def _packed(source: str, archive: NpzFile, split: Split) -> Pictures:
    blob = _array(source, archive, "blob")
    offset = _array(source, archive, "offset")
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise InputError(
            f"array 'blob' of {source} must be uint8 [bytes], got {blob.dtype} "
            f"{list(blob.shape)}"
        )
    if offset.ndim != 1 or offset.dtype.kind not in "iu" or len(offset) < 1:
        raise InputError(
            f"array 'offset' of {source} must be integers [n + 1], got {offset.dtype} "
            f"{list(offset.shape)}"
        )
    offset = offset.astype(np.int64)
    if offset[0] < 0 or offset[-1] > len(blob) or (np.diff(offset) < 0).any():
        raise InputError(
            f"array 'offset' of {source} must rise from 0 to at most {len(blob)} (the size "
            f"of 'blob'), got {offset[0]}..{offset[-1]}; the file is damaged"
        )
    label = _labels(source, archive, "label", len(offset) - 1)
    chosen = _chosen(source, archive, split, len(label))

    def fetch(indices: np.ndarray) -> Iterator[tuple[str, pixels.Stored]]:
        for i in chosen[indices]:
            yield f"picture {i} of {source}", blob[offset[i] : offset[i + 1]].tobytes()

    return Pictures(source, split, label[chosen], _classes(source, archive, label), fetch)


def _labels(source: str, archive: NpzFile, name: str, n: int) -> np.ndarray:
    labels = _array(source, archive, name)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"array {name!r} of {source} must be integers [{n}], one a picture, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    return labels.astype(np.int64)


def _chosen(source: str, archive: NpzFile, split: Split | None, n: int) -> np.ndarray:
    """Positions in the file of the pictures of a split; all of them for ``None``."""
    if split is None:
        return np.arange(n)
    if "split" not in archive.files:
        if split == "test":
            raise InputError(
                f"{source} must hold an array 'split' (0 train, 1 test) or x_test and "
                f"y_test to have a test split, got {', '.join(archive.files)}; use split "
                f"'train'"
            )
        return np.arange(n)
    which = _array(source, archive, "split")
    if which.shape != (n,) or not np.isin(which, (0, 1)).all():
        raise InputError(
            f"array 'split' of {source} must be [{n}] of 0 (train) and 1 (test), got "
            f"{which.dtype} {list(which.shape)} with {np.unique(which)[:5].tolist()}"
        )
    return np.flatnonzero(which == (split == "test"))


def _classes(source: str, archive: NpzFile, labels: np.ndarray) -> tuple[str, ...]:
    if "classes" in archive.files:
        names = _array(source, archive, "classes")
        if names.ndim != 1 or names.dtype.kind not in "Uiu":
            raise InputError(
                f"array 'classes' of {source} must be a list of names, got {names.dtype} "
                f"{list(names.shape)}"
            )
        return tuple(str(name) for name in names)
    # Without names the numbers are the names; a number past the count of pictures is no
    # class number but something else that was stored by mistake.
    if len(labels) and labels.max() >= len(labels):
        raise InputError(
            f"labels of {source} must be class numbers 0..c-1, got {labels.min()}.."
            f"{labels.max()} for {len(labels)} pictures; renumber them, or add an array "
            f"'classes' with the names"
        )
    return tuple(str(k) for k in range(int(labels.max(initial=0)) + 1))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
