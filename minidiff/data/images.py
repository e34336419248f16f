"""Reading image files that somebody else made: any size, any mode, and possibly not images at all.

Every file comes out as a square uint8 RGB array. Sizes are checked in the header, before anything
is decoded, and only the formats named here are ever opened.
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from minidiff.errors import InputError, naming

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif")
# Pictures that are not read, by the suffixes that they have: a folder says how many it passes over.
UNREAD = (
    ".avif", ".heic", ".heif", ".jxl", ".jp2", ".tif", ".tiff", ".svg", ".ico", ".psd", ".pdf", ".eps",
    ".tga", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".nef", ".arw",
)  # fmt: skip
CONVERT = "convert them to PNG or JPEG"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # tried in turn, whatever the file is called
# What a file of another kind is, by how it begins: (at, bytes, name).
KINDS = (
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftyp", "a video"),
    (0, b"II*\0", "TIFF, or a camera's raw format"),
    (0, b"MM\0*", "TIFF, or a camera's raw format"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG, or other XML"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "PSD"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the files with git lfs pull"),
)
MAX_PIXELS = 80_000_000  # below the 89 million at which Pillow begins to warn of bombs
MOST_THREADS = 4  # a picture of MAX_PIXELS takes up to a gigabyte while it is decoded
NAMED_AT_MOST = 3  # bad files named in an error line


def read_images(
    paths: Sequence[Path], size: int, root: Path, fit: Callable | None = None
) -> UInt8[np.ndarray, "n h w 3"]:
    """Decode ``paths`` into one array of size x size RGB images; errors name them relative to root.

    ``fit`` as of ``read_image``. Raises one InputError that counts every bad file and names the first few.
    """
    from tqdm import tqdm

    inside = (path.relative_to(root) if path.is_relative_to(root) else path for path in paths)
    names = [path.as_posix() for path in inside]
    # Headers first and in one thread: warnings cannot be caught separately in several.
    headers = [_attempt(check_header, path) for path in paths]
    images = np.zeros((len(paths), size, size, 3), np.uint8)
    bad = []

    def read(header, path):
        return header if isinstance(header, InputError) else _attempt(read_image, path, size, fit)

    # Pillow releases the interpreter's lock while it decodes. What it merely warns of, such as EXIF
    # that makes no sense, leaves a picture all the same.
    with ThreadPoolExecutor(MOST_THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = pool.map(read, headers, paths)
        bar = tqdm(outcomes, "reading images", len(paths), leave=False, disable=len(paths) < 500)
        for number, image in enumerate(bar):
            if isinstance(image, InputError):
                bad.append((names[number], str(image)))
            else:
                images[number] = image
    complain(bad, "image file(s)")
    return images


def check_header(path: Path) -> tuple[int, int]:
    """(width, height) of what begins like an allowed image; else InputError, saying only why not."""
    from PIL import Image, UnidentifiedImageError

    if path.stat().st_size == 0:
        raise InputError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the check below is lower
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except UnidentifiedImageError:
        kind = _kind(path)
        which = f": it is {kind}" if kind else ""
        raise InputError(f"not an image of a known kind ({', '.join(FORMATS)}){which}") from None
    except Image.DecompressionBombError:
        raise InputError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders raise nearly anything when fed damaged files
        raise InputError(f"unreadable ({_reason(error)})") from None
    if width * height > MAX_PIXELS:
        raise InputError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")
    return width, height


def _kind(path: Path) -> str:
    """What a file that is no image of ours seems to be; "" if that is not known."""
    with open(path, "rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    found = (name for at, begins, name in KINDS if head[at:].lower().startswith(begins.lower()))
    return next(found, "")


def image_size(path: Path | str) -> tuple[int, int]:
    """(width, height) of an image file, undecoded. InputError names the file."""
    with naming(_one_line(path)):
        return check_header(Path(path))


def read_image(path: Path, size: int, fit: Callable | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The first frame of ``path``, upright, centre-cropped to a square, as (size, size, 3) uint8.

    ``fit`` makes the array of the upright PIL image in another way. Transparency is laid over white.
    Call ``check_header`` first. Raises InputError, saying only what is wrong, for a file that cannot
    be decoded.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            # JPEG can be decoded at a half, a quarter or an eighth; leave twice `size` to reduce.
            if fit is None:
                image.draft(None, (2 * size, 2 * size))
            upright = to_rgb(ImageOps.exif_transpose(image))
            return square(upright, size) if fit is None else fit(upright)
    except InputError:
        raise
    except Exception as error:  # decoders raise nearly anything when fed damaged files
        raise InputError(f"unreadable or cut short ({_reason(error)})") from None


def to_rgb(image):
    """A PIL image of any mode as RGB: 16 bits scaled to 8, transparency laid over white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; convert("L") would clip it to white
        grey = np.asarray(image).astype(np.float32) * (255 / 65535)
        image = Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def square(image, size: int) -> UInt8[np.ndarray, "h w *channels"]:
    """Centre-crop a PIL image to a square and resize it with antialiasing to size x size."""
    from PIL import Image

    width, height = image.size
    if width == height == size:
        return np.asarray(image)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    # A box filter first brings huge images near the size (reducing_gap), Lanczos does the rest.
    small = image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(small)


def drop_colour_if_grey(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w c"]:
    """One channel if red, green and blue agree in every pixel of every image, else all three."""
    first = images[..., :1]
    grey = all(np.array_equal(image[..., :1].repeat(3, -1), image) for image in images)
    return np.ascontiguousarray(first) if grey else images


def complain(bad: Sequence[tuple[str, str]], what: str) -> None:
    """Raise one InputError that counts all ``bad`` (name, reason) pairs and names the first few."""
    if bad:
        named = "; ".join(f"{_one_line(name)}: {reason}" for name, reason in bad[:NAMED_AT_MOST])
        more = f"; and {len(bad) - NAMED_AT_MOST} more" if len(bad) > NAMED_AT_MOST else ""
        raise InputError(f"{len(bad)} bad {what}: {named}{more}")


def _attempt(action: Callable, *arguments):
    """What ``action`` returns, or the InputError that it raises."""
    try:
        return action(*arguments)
    except InputError as error:
        return error


def _one_line(text: object) -> str:
    """Text that can be printed anywhere: file names may hold line breaks and undecodable bytes."""
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())


def _reason(error: Exception) -> str:
    return _one_line(error)[:100] or type(error).__name__
