"""From a picture of any size to the square that an image tower sees, as its folder says.

The settings are those of transformers' ``CLIPImageProcessor`` (preprocessor_config.json) and of
open_clip's ``PreprocessCfg``. Both resize first, with one of Pillow's filters, and crop then. Pixels
become numbers in the tower itself: see ``ViTConfig.mean`` and ``std``.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from minidiff.clip import OPENAI_MEAN, OPENAI_STD
from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.settings import LIBRARY_NOTES, Settings, Table, names

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
MOST_PIXELS = 80_000_000  # of what a picture is resized to
FILES = ("preprocessor_config.json", "processor_config.json")  # the second of transformers 5

TABLE = Table(
    "preprocessor_config.json",
    read={
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": OPENAI_MEAN,
        "image_std": OPENAI_STD,
    },
    fixed={
        "image_processor_type": (
            "CLIPImageProcessor",
            "CLIPImageProcessorFast",
            "CLIPImageProcessorPil",
            "CLIPFeatureExtractor",
        ),
        "feature_extractor_type": ("CLIPFeatureExtractor",),
        "processor_class": ("CLIPProcessor",),
        "default_to_square": (False,),
        "use_square_size": (False,),
        "do_pad": (False,),
        "do_grayscale": (False,),
    },
    # Pictures are always made RGB; the others say how arrays are passed on.
    idle=LIBRARY_NOTES
    | names("data_format device disable_grouping do_convert_rgb input_data_format return_tensors"),
)
BOTH = Table(
    "processor_config.json",
    read={"image_processor": None},
    fixed={"processor_class": ("CLIPProcessor", None)},
    idle=frozenset({"tokenizer", "auto_map"}),
)


@dataclass(frozen=True)
class Preprocess:
    """A picture made ready: ``preprocess(image)``, of a PIL image in RGB."""

    side: int  # of the square that comes out
    size: int | tuple[int, int] | None  # of the shorter edge; (height, width); none: as it is
    resample: int = 3  # number of one of FILTERS
    crop: bool = True  # to the centre; what is smaller gets a black margin
    to_even: bool = False  # where margins differ by one, torchvision's way to round their half
    notes: tuple[str, ...] = field(default=(), compare=False)  # what was assumed

    def __call__(self, image) -> UInt8[np.ndarray, "side side 3"]:
        """InputError for a picture so long and thin that it cannot be resized."""
        width, height = image.size
        if isinstance(self.size, int):
            long = int(self.size * max(width, height) / min(width, height))
            width, height = (self.size, long) if width <= height else (long, self.size)
        elif self.size:
            height, width = self.size
        if width * height > MOST_PIXELS:
            raise InputError(f"resized to {width}x{height}, it has more than {MOST_PIXELS} pixels")
        if (width, height) != image.size:
            image = image.resize((width, height), self.resample)
        if self.crop:
            half = (lambda x: round(x / 2)) if self.to_even else (lambda x: x // 2)
            left, top = half(width - self.side), half(height - self.side)
            image = image.crop((left, top, left + self.side, top + self.side))
        return np.asarray(image)


def assumed(side: int) -> Preprocess:
    """How pictures are made ready for a CLIP that was published without a word on that."""
    said = (
        f"no {FILES[0]}: pictures are resized by a bicubic filter, cut to the centre square, and "
        "reach the network in [-1, 1] (mean and std 0.5)"
    )
    return Preprocess(side, side, notes=(said,))


def read_normalization(folder: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of pixels in [0, 1] by a folder's file; one half each where there is none."""
    settings = _settings(folder)
    if settings is None:
        return (0.5,) * channels, (0.5,) * channels
    factor = settings.number("rescale_factor")
    if not settings.flag("do_rescale") or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise InputError(f"{settings.source}: its pixels are not brought from 0..255 to 0..1")
    if not settings.flag("do_normalize"):
        return (0.0,) * channels, (1.0,) * channels
    mean = settings.numbers("image_mean", count=channels)
    std = settings.numbers("image_std", count=channels)
    if min(std) <= 0:
        raise settings.wrong("image_std", list(std), "above 0")
    return mean, std


def read_preprocess(folder: Path, side: int) -> Preprocess | None:
    """How pictures are made ready by a folder's file; none where there is no such file.

    InputError where what comes out is not ``side`` pixels square, as the network sees it.
    """
    settings = _settings(folder)
    if settings is None:
        return None
    resized, cropped = settings.flag("do_resize"), settings.flag("do_center_crop")
    resample = settings.whole("resample", low=0, high=len(FILTERS) - 1)
    size = _size(settings, "size", edge=True) if resized else None
    seen = f"{side} by {side}, which its network sees"
    if cropped:
        if _size(settings, "crop_size") != (side, side):
            raise settings.wrong("crop_size", settings.get("crop_size"), seen)
    elif size is None:
        raise settings.wrong("do_center_crop", False, "true, nor is do_resize")
    elif size != (side, side):
        raise settings.wrong("size", settings.get("size"), f"{seen}, and do_center_crop is false")
    return Preprocess(side, size, resample, cropped)


def _settings(folder: Path) -> Settings | None:
    path, newer = (folder / name for name in FILES)
    if path.exists():
        settings = Settings(read_json(path), str(path))
    elif newer.exists():
        settings = Settings(read_json(newer), str(newer), BOTH).section("image_processor")
    else:
        return None
    told = {key: value for key, value in settings.facts.items() if value is not None}
    return Settings(told, settings.source, TABLE)  # null stands for the default here


def _size(settings: Settings, key: str, edge: bool = False) -> int | tuple[int, int]:
    """(height, width); or the length of the shorter edge, if ``edge``. A number alone was once it."""
    value = settings.get(key)
    facts = {"shortest_edge": value} if edge else {"height": value, "width": value}
    if isinstance(value, list) and len(value) == 2:
        facts = dict(zip(("height", "width"), value, strict=True))
    facts = value if isinstance(value, dict) else facts
    facts = {name: n for name, n in facts.items() if n is not None}
    allowed = [["height", "width"], ["shortest_edge"]][: 1 + edge]
    wrong = any(type(n) is not int or not 0 < n < 2**16 for n in facts.values())
    if sorted(facts) not in allowed or wrong:
        raise settings.wrong(key, value, "a height and width" + " or a shortest_edge" * edge)
    return facts["shortest_edge"] if len(facts) == 1 else (facts["height"], facts["width"])
