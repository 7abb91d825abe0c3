"""A source by its word: ``digits``, ``dir:FOLDER``, ``npz:FILE``, ``tfds:NAME``."""

import difflib
from pathlib import Path

from ttp_jax.data import builtin, folder, npz, tfds
from ttp_jax.data.pictures import Pictures, Split, require_split
from ttp_jax.types import InputError

WORDS = ("digits", "dir:FOLDER", "npz:FILE", "tfds:NAME")


def load(
    source: str,
    *,
    split: Split = "train",
    data_dir: str | Path | None = None,
    download: bool = False,
) -> Pictures:
    """Labels and class names of a source, with a way to its pictures.

    Args:
        source: ``digits`` (scikit-learn's, 1,797 of 8x8), ``dir:FOLDER`` (a folder per
            class), ``npz:FILE`` (arrays, or packed picture files), ``tfds:NAME``
            (tensorflow-datasets).
        split: ``"train"`` or ``"test"``. Sources without splits are all train.
        data_dir: Where tensorflow-datasets keeps prepared sets; by default
            ``TFDS_DATA_DIR`` or ``~/tensorflow_datasets``. Of no use to other sources.
        download: Whether tensorflow-datasets may download what is not there.

    Raises:
        InputError: An unknown word, or a source that cannot be read, in one line.

    Cost: labels are read, pictures are not; an archive is read whole but not decoded, a
    tensorflow-datasets split is passed through once.
    """
    require_split(split)
    word, colon, rest = source.partition(":")
    if word == "digits" and not colon:
        return builtin.load_digits(split)
    if word in ("dir", "npz", "tfds") and not rest:
        form = next(known for known in WORDS if known.startswith(word))
        raise InputError(f"data source {word!r} must be given as {form}, got {source!r}")
    if word == "dir":
        return folder.load_folder(rest, split)
    if word == "npz":
        return npz.load_npz(rest, split)
    if word == "tfds":
        return tfds.load_tfds(rest, split, data_dir=data_dir, download=download)
    raise InputError(
        f"data source must be one of {', '.join(WORDS)}, got {source!r}{_advice(source)}"
    )


def _advice(source: str) -> str:
    path = Path(source).expanduser()
    if path.is_dir():
        return f"; did you mean 'dir:{source}'?"
    if path.is_file():
        return f"; did you mean 'npz:{source}'?"
    word, _, rest = source.partition(":")
    close = difflib.get_close_matches(word, [known.partition(":")[0] for known in WORDS], 1)
    if not close:
        return ""
    suggestion = close[0] if close[0] == "digits" else f"{close[0]}:{rest or '...'}"
    return f"; did you mean {suggestion!r}?"
