"""Pictures through tensorflow-datasets, from a prepared folder unless told to download."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ttp_jax.data import pixels
from ttp_jax.data.pictures import Pictures, Split
from ttp_jax.progress import bar
from ttp_jax.types import InputError

_SPLITS = {"train": ("train",), "test": ("test", "validation")}


def load_tfds(
    name: str,
    split: Split = "train",
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
) -> Pictures:
    """Pictures of ``NAME``, ``NAME/CONFIG`` or ``NAME:VERSION``.

    The prepared set is looked up on disk under ``data_dir/NAME[/CONFIG]/VERSION``, the
    latest version first; nothing asks the network before ``download`` is true. The test
    split is ``test`` or, where there is none, ``validation``. Pictures keep the order of
    their files, so that indices mean the same everywhere.

    Args:
        name: Name as tensorflow-datasets knows it.
        split: ``"train"`` or ``"test"``.
        data_dir: By default ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        download: Whether to download and prepare what is not there.

    Raises:
        InputError: Not prepared and not to be downloaded (says what would be); no such
            name, config or split; features that are not one picture and one label.

    Cost: one pass over the split for its labels; then one up to the last picture that is
    read. Only the pictures asked for are decoded.
    """
    root = _root(data_dir)
    folder = _prepared(root, name)
    if folder is None:
        folder = _download(root, name) if download else _refuse(root, name)
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # TensorFlow would claim the accelerator's memory on its first operation.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")

    source = f"tfds:{name}"
    try:
        # Typed as anything: its annotations hide behind decorators.
        builder: Any = tfds.builder_from_directory(str(folder))
        features = dict(builder.info.features.items())
    except Exception as error:
        raise InputError(
            f"{source} must be a prepared folder, but {str(folder)!r} cannot be read: "
            f"{_line(error)}; prepare it again"
        ) from error
    which = _split_name(source, list(builder.info.splits), split)
    image, label = _feature_names(source, features, builder.info.supervised_keys)
    total = builder.info.splits[which].num_examples
    read = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)

    undecoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }

    def rows() -> Iterator[dict[str, Any]]:
        try:
            ordered = builder.as_dataset(
                split=which, shuffle_files=False, read_config=read, decoders=undecoded
            )
            yield from tfds.as_numpy(ordered)
        except (tf.errors.OpError, NotImplementedError, OSError, ValueError) as error:
            raise InputError(
                f"{source} in {str(folder)!r} cannot be read: {_line(error)}; prepare it "
                f"again as TFRecord"
            ) from error

    with bar(f"reading the labels of {source}", total) as advance:
        labels = []
        for row in rows():
            labels.append(int(row[label]))
            advance()

    def fetch(indices: np.ndarray) -> Iterator[tuple[str, pixels.Stored]]:
        wanted = set(indices.tolist())
        last = max(wanted, default=-1)
        found: dict[int, pixels.Stored] = {}
        for i, row in enumerate(rows()):
            if i in wanted:
                found[i] = _content(source, i, features[image], row[image])
            if i >= last:
                break
        return ((f"picture {i} of {source}", found[i]) for i in indices.tolist())

    names = tuple(features[label].names)
    return Pictures(source, split, np.array(labels, np.int64), names, fetch)


def _root(data_dir: str | Path | None) -> Path:
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def _prepared(root: Path, name: str) -> Path | None:
    """Folder of the latest prepared version, or ``None``."""
    path, _, version = name.partition(":")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise InputError(f"tfds: must be given as tfds:NAME, got 'tfds:{name}'")
    base = root / path
    versions = _versions(base)
    configs = [p for p in _subfolders(base) if _versions(p)]
    if not versions and len(configs) > 1:
        names = ", ".join(f"{path}/{p.name}" for p in configs)
        raise InputError(
            f"tfds:{name} must name one of the prepared configs, got none; choose from "
            f"{names}"
        )
    if not versions and configs:
        versions = _versions(configs[0])
    if version:
        versions = [p for p in versions if p.name == version]
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def _versions(folder: Path) -> list[Path]:
    return [
        p
        for p in _subfolders(folder)
        if (p / "dataset_info.json").is_file()
        and all(number.isdigit() for number in p.name.split("."))
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _refuse(root: Path, name: str) -> Path:
    """Say what would be downloaded; asks no network."""
    import tensorflow_datasets as tfds

    base, _, _ = name.partition(":")[0].partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        close = difflib.get_close_matches(base, known, 1)
        advice = f"; did you mean 'tfds:{close[0]}'?" if close else ""
        raise InputError(
            f"tfds:{name} must be prepared in {str(root)!r} or be a name that "
            f"tensorflow-datasets knows, got neither{advice}"
        )
    try:
        sizes = [url.size for url in (tfds.builder_cls(base).url_infos or {}).values()]
    except Exception:  # the size is a courtesy: whatever is wrong with it, say the rest
        sizes = []
    size = f"up to {sum(sizes) / 2**20:,.0f} MiB" if sizes else "an unknown size"
    raise InputError(
        f"tfds:{name} is not prepared in {str(root)!r} and would be downloaded ({size}); "
        f"point TFDS_DATA_DIR or data_dir at a folder that holds "
        f"{name.partition(':')[0]}/VERSION, or allow it with download=True"
    )


def _download(root: Path, name: str) -> Path:
    import tensorflow_datasets as tfds

    try:
        # It reports on standard output, which belongs to the caller.
        with contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=str(root))
            builder.download_and_prepare()
    except Exception as error:  # whatever network, disk or data set raise
        raise InputError(
            f"tfds:{name} could not be downloaded to {str(root)!r}: {_line(error)}; "
            f"prepare it where there is a network and point TFDS_DATA_DIR at the folder"
        ) from error
    return Path(builder.data_dir)


def _split_name(source: str, there: list[str], split: Split) -> str:
    for option in _SPLITS[split]:
        if option in there:
            return option
    raise InputError(
        f"{source} must have the split {' or '.join(_SPLITS[split])}, got "
        f"{', '.join(there) or 'none'}"
    )


def _feature_names(
    source: str, features: dict[str, Any], supervised: Any
) -> tuple[str, str]:
    """Names of the picture and of the label, by their kind.

    Where there are several, the set's own ``supervised_keys`` decide.
    """
    import tensorflow_datasets as tfds

    def only(kind: type, what: str, preferred: Any) -> str:
        found = [name for name, feature in features.items() if type(feature) is kind]
        if isinstance(preferred, str) and preferred in found:
            return preferred
        if len(found) != 1:
            listed = ", ".join(f"{n} ({type(f).__name__})" for n, f in features.items())
            raise InputError(
                f"{source} must have one {what} feature, got {len(found)} among {listed}"
            )
        return found[0]

    keys = supervised if supervised and len(supervised) == 2 else (None, None)
    image = only(tfds.features.Image, "Image", keys[0])
    return image, only(tfds.features.ClassLabel, "ClassLabel", keys[1])


def _content(source: str, i: int, feature: Any, stored: bytes) -> pixels.Stored:
    if feature.np_dtype != np.float32:
        return stored
    # tensorflow-datasets keeps float pictures as the bytes of a PNG of four channels.
    values = feature.decode_example(stored).numpy()
    pixels.check_range(f"picture {i} of {source}", values, 0.0, 1.0)
    return pixels.to_uint8(values, 0.0, 1.0)


def _line(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {' '.join(first.split())[:200]}"
