"""From what a source stores (the bytes of a picture file, or an array) to uint8 pixels."""

import io
import struct
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ttp_jax.types import InputError

Stored = bytes | np.ndarray
"""The content of a picture file, or uint8 pixels ``[h, w]`` or ``[h, w, 1 or 3]``."""

_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,  # Pillow's word for a broken PNG
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def stack(
    stored: Iterable[tuple[str, Stored]],
    *,
    image_size: int | None = None,
    channels: int | None = None,
) -> UInt8[np.ndarray, "k h w ch"]:
    """Decode pictures and bring them to one size and one number of channels.

    A central square crop, then Pillow's bilinear filter (which widens with the reduction,
    so that nothing aliases). Pictures that already are ``image_size`` square pass
    unchanged. Pictures are turned as their EXIF orientation says, transparency is laid on
    white, of a moving picture the first frame counts.

    Args:
        stored: ``(where, content)`` of each picture; ``where`` is for error messages.
        image_size: Side of the result in pixels; ``None`` keeps the size they have.
        channels: 1 or 3; ``None`` is 1 where all of these pictures are grey, else 3.

    Raises:
        InputError: A picture that cannot be read; sizes that differ where ``image_size``
            is ``None``; an impossible ``image_size`` or ``channels``.

    Cost: one decoded picture of full size at a time, plus the result.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image size must be at least 1 pixel, got {image_size}")
    if channels not in (None, 1, 3):
        raise InputError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    pictures: list[Image.Image] = []
    for where, content in stored:
        picture = _picture(where, content)
        if image_size is not None:
            picture = _square(picture, image_size)
        elif pictures and picture.size != pictures[0].size:
            raise InputError(
                f"pictures must share one size, got {_size(pictures[0])} and "
                f"{_size(picture)} ({where}); pass --image-size to crop and resize them"
            )
        pictures.append(picture)
    if channels is None:
        channels = 1 if all(picture.mode == "L" for picture in pictures) else 3
    mode = "L" if channels == 1 else "RGB"
    arrays = [np.asarray(picture.convert(mode)) for picture in pictures]
    return np.stack([a.reshape(*a.shape[:2], channels) for a in arrays])


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``round(255 (v - low)/(high - low))`` for values known to lie in ``[low, high]``."""
    scaled = (np.asarray(values, np.float64) - low) * (255 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def check_range(where: str, values: np.ndarray, low: float, high: float) -> None:
    """Refuse pixels that are NaN, infinite or outside ``[low, high]``.

    Raises:
        InputError: Says how many, or which range they have.
    """
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise InputError(
            f"{where} must be finite, got {bad} NaN or infinite of {values.size} values; "
            f"remove those pictures"
        )
    if values.size and (values.min() < low or values.max() > high):
        raise InputError(
            f"{where} must lie in {low:g}..{high:g}, got {values.min():g}.."
            f"{values.max():g}; store uint8, or state the range as an array "
            f"'value_range' = [low, high] in the file"
        )


def _picture(where: str, content: Stored) -> Image.Image:
    """One picture in mode L or RGB."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(content[..., 0] if content.shape[2:] == (1,) else content)
    try:
        with Image.open(io.BytesIO(content)) as file:
            return _plain(where, ImageOps.exif_transpose(file))
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        # Pillow names the buffer it was given here, which says nothing to the reader.
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture that Pillow knows"
        raise InputError(
            f"{where} must be a readable picture: {reason}; replace or remove it"
        ) from error


def _plain(where: str, picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray(to_uint8(np.asarray(picture), 0.0, 65535.0))
    if picture.mode in ("I", "F"):
        raise InputError(
            f"{where} must hold 8 or 16 bits a channel, got Pillow's mode "
            f"{picture.mode!r}; convert it, for example to PNG"
        )
    grey = picture.mode in ("1", "L", "La", "LA")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("L" if grey else "RGB")
    return picture.convert("L" if grey else "RGB")


def _square(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    if width != height:
        crop = min(width, height)
        left, top = (width - crop) // 2, (height - crop) // 2
        # Cropped first: resize(box=...) would let pixels outside the box leak in.
        picture = picture.crop((left, top, left + crop, top + crop))
    if picture.size == (side, side):
        return picture
    return picture.resize((side, side), Image.Resampling.BILINEAR)


def _size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"
