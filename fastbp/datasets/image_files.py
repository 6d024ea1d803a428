"""Opening images: the one place where Pillow is asked for pixels, for folders of images and for `fastbp predict`."""

import warnings
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .errors import DataError

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
LIGHT = 128  # shades from here on are light


class UnreadableImageError(DataError):
    """A file is no image, is damaged, or has too many pixels."""


def open_image(file: BinaryIO, name: object) -> "Image.Image":
    """The image in an open file as a viewer shows it: a Pillow image of mode "L" (greyscale) or "RGB".

    It stands upright: the EXIF orientation is applied, in which cameras and phones note how they were held. Of several
    frames or pages it is the first.

    Transparency is laid over paper: white paper, but black where all that is drawn is light, as white ink is. Drawn are
    the pixels at least half as opaque as the most opaque one; light are shades of 128 and more. Opaque images are never
    changed by this.

    Greyscale images of more than 8 bits keep their mode "I;16", "I" (32 bits) or "F"; see eight_bits. `name` stands for
    the file in messages.

    UnreadableImageError for a file that is no image or damaged, or has more pixels than Pillow's limit against
    decompression bombs.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged tags
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                # Pillow turns TIFF images itself as it loads them; some versions leave the tag
                return _plain(image if image.format == "TIFF" else _upright(image), image.format)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise UnreadableImageError(f"{name}: {most}; it is too large") from None
    except UnidentifiedImageError:
        raise UnreadableImageError(f"{name}: expected a readable image, found something else") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly every kind
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableImageError(f"{name}: expected a readable image, found {found}") from error


def eight_bits(image: "Image.Image", name: object) -> "Image.Image":
    """An image from open_image in mode "L" or "RGB": of 16 bits the value / 257, rounded.

    DataError for pixels of 32 bits and floating ones: nothing says which value is white.
    """
    from PIL import Image

    if image.mode in ("L", "RGB"):
        return image
    if not image.mode.startswith("I;16"):
        raise DataError(f"{name}: expected an image of 8 or 16 bits, found mode {image.mode}")
    values = np.asarray(image).astype(np.uint32)
    shades = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "transparency" not in image.info:  # one value, that of the paper
        return shades
    alpha = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    return _over_paper(Image.merge("LA", (shades, alpha)))


def _upright(image: "Image.Image") -> "Image.Image":
    """The image turned as its EXIF orientation says.

    ImageOps.exif_transpose also writes the other tags anew, and fails where one is damaged.
    """
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ORIENTATION))
    except Exception:  # damaged tags say nothing; the pixels are whole
        turn = None
    return image if turn is None else image.transpose(turn)


def _plain(image: "Image.Image", format: str | None) -> "Image.Image":
    """Mode "L" or "RGB", or a greyscale mode of more than 8 bits."""
    if image.mode == "I" and format in ("PNG", "PPM"):  # older Pillows open 16 bits so
        return image.convert("I;16")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return image.copy()
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_paper(image)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _over_paper(image: "Image.Image") -> "Image.Image":
    """A transparent image as open_image lays it over paper, in mode "L" or "RGB"."""
    from PIL import Image

    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode == "La":  # colours multiplied by alpha, which RGBA wants divided again
        image = image.convert("LA")
    image = image.convert("RGBA")
    shades, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
    drawn = shades[(alpha > 0) & (alpha >= alpha.max() / 2)]
    paper = "black" if drawn.size and drawn.min() >= LIGHT else "white"
    sheet = Image.new("RGBA", image.size, paper)
    sheet.alpha_composite(image)
    return sheet.convert(mode)
