"""Image files of any kind as what networks see: uint8, RGB, upright (Pillow, PyAV where Pillow keeps 8 of 16 bits).

`ENDINGS` and `read` are the rule for preparation and prediction. PNG and JPEG files that are `plain` have the same
pixels in `decode.image`, which training reads with; all others are prepared as what `read` makes of them.
"""

import contextlib
import io
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from proda_jax.system.extras import need
from proda_jax.system.stand_ins import stand_in

ENDINGS = (  # of files that are read, in lower case
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k",
    ".jpf", ".jpx", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi",
)  # fmt: skip
Range = tuple[float, float]  # values that are black and white
DARK = 2**14  # 16 bits of which all are below are not 16 bits of light
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # of PNG and JPEG
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands
_ORIENTATION, _SUBFILE = 274, 254  # tags of EXIF, of TIFF
_EXIF_OF_PNG = b"eXIf"  # name of the chunk; Pillow decodes all pixels to look for it
_BAND = 2**22  # pixels that are converted at once
_opening = threading.Lock()


class Unreadable(ValueError):
    """Why a file cannot be read; the message does not name it."""


class NoImage(Unreadable):
    """It is no image of a kind that is known."""


def read(encoded: bytes, value_range: Range | None = None, *, upright: bool = True) -> np.ndarray:
    """The pixels of an image file.

    Grey is repeated, colours of palettes are looked up, alpha is dropped, of several pages the first is taken; colour
    profiles are not applied. The camera's orientation (EXIF) is followed.

    Args:
      encoded: the file.
      value_range: values that become black and white where a file has more than 8 bits; default: of 16 bits the upper 8
        are taken.
      upright: whether the camera's orientation is followed; a label is drawn on pixels as they are stored.

    Returns:
      uint8 [height, width, 3], RGB.

    Raises:
      Unreadable: it is damaged, no image, has 32 bits and no `value_range`, or 16 that would come out nearly black.
    """
    try:
        with opened(encoded) as image:
            return of(image, value_range, encoded, upright=upright)
    except Unreadable:
        raise
    except MemoryError:
        raise Unreadable("there is not enough memory for it") from None
    except Exception as error:  # what a damaged file leads to depends on where it is damaged
        raise Unreadable(_reason(error)) from error


@contextlib.contextmanager
def opened(encoded: bytes) -> Iterator[Image.Image]:
    """An image file of any size as a Pillow image, whose pixels are not read yet.

    Pillow refuses images of more than 179 megapixels, in case one from a stranger fills the memory. Here people name
    their own, and see how large they are.

    Raises:
      Unreadable: it is no image.
    """
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIF:
        _register_heif()
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(encoded))
        except UnidentifiedImageError:
            reason = stand_in(encoded) if encoded else "it is empty"
            raise NoImage(reason or "it is no image of a kind that Pillow knows") from None
        except Exception as error:
            raise Unreadable(_reason(error)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.format == "EPS":
        raise NoImage("it is a PostScript file, which another program would have to draw: convert it to PNG")
    with image:
        yield image


def of(
    image: Image.Image, value_range: Range | None = None, encoded: bytes | None = None, *, upright: bool = True
) -> np.ndarray:
    """A Pillow image as a network sees it, see `read`.

    Args:
      image: any; one of 16 bits in colour has lost half of them to Pillow, unless it comes with its file.
      value_range, upright: see `read`.
      encoded: its file.
    """
    before = image.getexif().get(_ORIENTATION, 1) if image.format == "TIFF" else 1
    pixels = _loaded(image, value_range, encoded)
    orientation = image.getexif().get(_ORIENTATION, 1)
    if upright:
        return _upright(pixels, orientation)
    followed = before if orientation == 1 else 1  # of TIFF, Pillow itself turns the pixels
    return _upright(pixels, {6: 8, 8: 6}.get(followed, followed))


def _loaded(image: Image.Image, value_range: Range | None, encoded: bytes | None) -> np.ndarray:
    """The same with rows and columns as Pillow has them."""
    if image.format == "TIFF" and image.tag_v2.get(_SUBFILE, 0) & 1:
        raise Unreadable("it is a camera's raw file, of which Pillow reads the preview alone: develop it first")
    if encoded is not None and _is_deep(image):
        return to_bytes(_deep(encoded), value_range)
    image.load()
    if (values := _grey(image)) is not None:
        if values.dtype.itemsize == 4 and value_range is None:
            raise Unreadable("its pixels have 32 bits: name the values that are black and white as value_range, or "
                             "convert it to 8 or 16")  # fmt: skip
        return np.repeat(to_bytes(values, value_range)[..., None], 3, axis=-1)
    # palettes with transparency have no way straight to RGB
    twice = image.mode in ("P", "LA", "PA") or "transparency" in image.info
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(_BAND // image.width, 1)
    for top in range(0, image.height, rows):  # a large image is not held in several ways at once
        band = image if rows >= image.height else image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray((band.convert("RGBA") if twice else band).convert("RGB"))
    return pixels


def plain(encoded: bytes, value_range: Range | None = None, *, upright: bool = True) -> bool:
    """Whether training reads from the file itself what `read` does: a PNG or JPEG, of 8 bits a channel or of 16 without
    a `value_range`, that no camera's orientation turns where it is to be `upright`.
    """  # fmt: skip
    if not encoded.startswith(_MAGIC):
        return False
    with opened(encoded) as image:
        deep = _is_deep(image) or image.mode.startswith("I")
        return not (deep and value_range or upright and image.getexif().get(_ORIENTATION, 1) != 1)


def is_rotated(encoded: bytes) -> bool:
    """Whether an image file asks for a rotation by its EXIF data."""
    if encoded.startswith(_MAGIC[0]) and _EXIF_OF_PNG not in encoded:
        return False
    with opened(encoded) as image:
        return image.getexif().get(_ORIENTATION, 1) != 1


def has_pages(image: Image.Image) -> bool:
    """Whether a file, not yet read, has several pages or frames, of which `read` takes the first.

    What a camera adds to a JPEG (a preview, depths) is none, nor are smaller copies of a TIFF's first page.
    """
    with contextlib.suppress(Exception):  # of a damaged file, which shows when it is read
        if image.format == "MPO" or getattr(image, "n_frames", 1) == 1:
            return False
        if image.format != "TIFF":
            return True
        image.seek(1)
        return not image.tag_v2.get(_SUBFILE, 0) & 1
    return False


def largest_value(encoded: bytes) -> int | None:
    """The largest value of an image of 16 bits; None: it has another number of bits."""
    with opened(encoded) as image:
        values = _deep(encoded) if _is_deep(image) else _grey(image)
        return int(values.max()) if values is not None and values.dtype.itemsize == 2 else None


def suggested_range(largest: int) -> Range | None:
    """The range that 16 bits with this largest value seem to have; None: they are well used, or black."""
    if not 0 < largest < DARK:
        return None
    return (0, next(2**bits for bits in (8, 10, 12, 14) if largest < 2**bits) - 1)


def check_range(value_range: Sequence[float], what: str) -> Range | None:
    """A setting's range of values as `read` takes it; none where it is empty.

    Raises:
      ValueError: it is no pair of numbers, the second larger; `what` names the setting.
    """
    if not len(value_range):
        return None
    if len(value_range) != 2 or not value_range[0] < value_range[1]:
        raise ValueError(f"{what} = {tuple(value_range)}: expected the values that are black and white, as in 0, 4095")
    return tuple(value_range)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise Unreadable("HEIC is read by a package that is not installed here: pip install pillow-heif") from None
    pillow_heif.register_heif_opener()


def check_av(what: str) -> None:
    """Refuses what cannot be read without PyAV, where that is not installed.

    Raises:
      Unreadable: with pip's command.
    """
    try:
        need(what, "video", "av")
    except ValueError as error:
        raise Unreadable(str(error)) from None


def _is_deep(image: Image.Image) -> bool:
    """Whether a file, not yet read, has 16 bits in colour or with alpha, of which Pillow keeps the upper 8."""
    formats = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]]
    return not image.mode.startswith("I") and any(";16" in str(name) for name in formats)


def _deep(encoded: bytes) -> np.ndarray:
    """uint16 [height, width, 3] of such a file."""
    check_av("an image of 16 bits a colour")
    import av

    with av.open(io.BytesIO(encoded)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb48le")


def _grey(image: Image.Image) -> np.ndarray | None:
    """Values of a grey image of 16 bits (two bytes each) or 32 (four); None: it is another."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    values = np.asarray(image)
    return values.astype(np.uint16) if image.format == "PPM" else values  # Pillow scales these to 16 bits


def to_bytes(values: np.ndarray, value_range: Range | None) -> np.ndarray:
    """Values of more than 8 bits as uint8 of the same shape: 256 equal steps from black to white.

    Raises:
      Unreadable: they would come out nearly black, and there is no `value_range`.
    """
    whole = values.dtype.kind in "iu"
    if value_range is None:
        largest = int(values.max())
        if (wanted := suggested_range(largest)) is not None:
            raise Unreadable(
                f"its 16 bits hold no value above {largest}, so it would be nearly black: value_range {wanted[0]},"
                f"{wanted[1]} takes them as {wanted[1].bit_length()} bits, 0,65535 as they are"
            )
        return (values >> 8).astype(np.uint8)
    black, white = value_range
    steps = (values.astype(np.float64) - black) * (256 / (white - black + whole))
    return np.clip(np.nan_to_num(np.floor(steps)), 0, 255).astype(np.uint8)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [height, width, 3] turned by what EXIF says of where their first row and column are seen."""
    if orientation in (5, 6, 7, 8):  # rows are seen as columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
