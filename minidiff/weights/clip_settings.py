"""The settings of a CLIP in a Hugging Face folder, read and written.

Names and defaults are those of transformers' ``CLIPConfig`` and ``CLIPImageProcessor``.
"""

import math
from pathlib import Path

from minidiff.clip import OPENAI_MEAN, OPENAI_STD, CLIPConfig
from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.text import TextConfig
from minidiff.vit import ViTConfig
from minidiff.weights.folders import Settings

LEGACY_END = 2  # as eos_token_id: from when transformers knew no end token; the largest id is it
MOST_LAYERS = 1000
MOST_PIXELS = 2**12  # on a side, and channels


def read_config(folder: Path) -> CLIPConfig:
    """What config.json and preprocessor_config.json of a folder say; InputError if it is no CLIP."""
    path = folder / "config.json"
    settings = Settings(read_json(path), str(path))
    settings.choice("model_type", "clip", ("clip",))
    text, vision = _section(settings, "text"), _section(settings, "vision")
    channels = vision.whole("num_channels", 3, high=MOST_PIXELS)
    mean, std = _read_normalization(folder, channels)
    end = text.whole("eos_token_id", 49_407, low=0, high=2**31 - 1)
    return CLIPConfig(
        embedding=settings.whole("projection_dim", 512),
        image=_made(
            ViTConfig,
            vision,
            _tower(vision, width=768, heads=12),
            image_size=vision.whole("image_size", 224, high=MOST_PIXELS),
            patch=vision.whole("patch_size", 32, high=MOST_PIXELS),
            channels=channels,
            mean=mean,
            std=std,
        ),
        text=_made(
            TextConfig,
            text,
            _tower(text, width=512, heads=8),
            vocabulary=text.whole("vocab_size", 49_408),
            context=text.whole("max_position_embeddings", 77),
            end=None if end == LEGACY_END else end,
        ),
    )


def _section(settings: Settings, tower: str) -> Settings:
    """Files of 2022 have a tower's settings twice; transformers takes these, and none of the others."""
    old = f"{tower}_config_dict"
    return settings.section(f"{tower}_config" if settings.facts.get(old) is None else old)


def _tower(settings: Settings, width: int, heads: int) -> dict:
    """What both towers have; ``width`` and ``heads`` where the settings are silent."""
    inner, width = 4 * width, settings.whole("hidden_size", width)
    inner = settings.whole("intermediate_size", inner)
    if inner % width:
        raise settings.wrong("intermediate_size", inner, f"a multiple of hidden_size {width}")
    return {
        "width": width,
        "layers": settings.whole("num_hidden_layers", 12, high=MOST_LAYERS),
        "heads": settings.whole("num_attention_heads", heads),
        "expand": inner // width,
        "activation": settings.choice("hidden_act", "quick_gelu", ("gelu", "quick_gelu")),
        "eps": settings.number("layer_norm_eps", 1e-5, 0.0, 1.0),
    }


def _made(kind: type, settings: Settings, tower: dict, **others):
    try:
        return kind(**tower, **others)
    except ValueError as error:  # sizes that do not fit each other
        raise InputError(f"{settings.source}: {error}") from None


def _read_normalization(folder: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of pixels in [0, 1]; one half each where the folder says nothing."""
    path = folder / "preprocessor_config.json"
    newer = folder / "processor_config.json"  # of transformers 5, for both inputs
    if path.exists():
        settings = Settings(read_json(path), str(path))
    elif newer.exists():
        settings = Settings(read_json(newer), str(newer)).section("image_processor")
    else:
        return (0.5,) * channels, (0.5,) * channels
    factor = settings.number("rescale_factor", 1 / 255, 0.0, 1.0)
    if not settings.flag("do_rescale", True) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise InputError(f"{settings.source}: its pixels are not brought from 0..255 to 0..1")
    if not settings.flag("do_normalize", True):
        return (0.0,) * channels, (1.0,) * channels
    mean = settings.numbers("image_mean", OPENAI_MEAN, channels)
    std = settings.numbers("image_std", OPENAI_STD, channels)
    if min(std) <= 0:
        raise settings.wrong("image_std", list(std), "above 0")
    return mean, std


def settings(config: CLIPConfig) -> dict:
    """config.json of a model."""

    def tower(config):
        return {
            "hidden_size": config.width,
            "intermediate_size": config.expand * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "hidden_act": config.activation,
            "layer_norm_eps": config.eps,
        }

    image, text = config.image, config.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embedding,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.context,
            "bos_token_id": None,  # CLIPModel does not use it, and its default may be out of range
            "eos_token_id": LEGACY_END if text.end is None else text.end,
            **tower(text),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": image.image_size,
            "patch_size": image.patch,
            "num_channels": image.channels,
            **tower(image),
        },
    }


def preprocessor_settings(image: ViTConfig) -> dict:
    """preprocessor_config.json: how an image of any size becomes what the model sees."""
    side = image.image_size
    mean, std = (x if len(x) > 1 else x * image.channels for x in (image.mean, image.std))
    steps = ("resize", "center_crop", "rescale", "normalize", "convert_rgb")
    return {
        "image_processor_type": "CLIPImageProcessor",
        **{f"do_{step}": True for step in steps},
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "image_mean": mean,
        "image_std": std,
    }
