"""Images as clients send them: PNG files of 28 x 28 grey levels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

SIZE = (28, 28)  # width and height of FashionMNIST's images


def as_png(image: np.ndarray) -> bytes:
    """Pack grey levels into a PNG file.

    Args:
        image: uint8 array of shape (height, width); 0 is black, 255 is white.

    Returns:
        The bytes of the file.

    Source: Pillow.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """Unpack the grey levels of a PNG file that a stranger may have made.

    The size is looked at before anything is unpacked, because a few kilobytes can hold
    an image that fills the memory.

    Args:
        png: the bytes of the file; colours become grey, and 16 bits become 8.

    Returns:
        uint8 array of shape (28, 28).

    Raises:
        ValueError: it is no complete PNG, or has another size; the message says which.

    Source: Pillow.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size == SIZE:
                if image.mode.startswith("I"):  # 16 bits: convert would cut at 255
                    return (np.asarray(image.convert("I")) >> 8).astype(np.uint8)
                return np.asarray(image.convert("L"))
            width, height = image.size
    except Image.DecompressionBombError:
        raise ValueError("expected 28 x 28 pixels, found far more") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise ValueError("expected a PNG, found none") from None
    raise ValueError(f"expected 28 x 28 pixels, found {width} x {height}")
