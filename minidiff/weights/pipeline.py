"""A pipeline of diffusers: model_index.json says which parts lie in its folder, and of which class."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.pipeline import Pipeline
from minidiff.settings import Settings, Table
from minidiff.weights.clip import load_tokenizer
from minidiff.weights.scheduler import read_scheduler
from minidiff.weights.text_encoder import load_text_encoder
from minidiff.weights.unet import image_side, load_unet
from minidiff.weights.vae import load_vae

NAME = "model_index.json"
LATENT_SIDE = 64  # of a U-Net that does not say


class Component(NamedTuple):
    """One part of a pipeline, in a folder of its name."""

    library: str
    kind: str  # its class


# The pipelines that draw pixels from noise alone: a U-Net and a scheduler, and nothing else.
PIXELS = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
# Those of Stable Diffusion 1 and 2: all are made of the same parts.
LATENTS = tuple(f"StableDiffusion{x}Pipeline" for x in ("", "Img2Img", "Inpaint"))
LATENTS += ("StableDiffusionInpaintPipelineLegacy",)
# What each part may be; any scheduler, for ``read_scheduler`` knows what it cannot read.
PIXEL_PARTS = {"unet": ("UNet2DModel", "UNet2DConditionModel"), "scheduler": ()}
LATENT_PARTS = {
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "scheduler": (),
}
# Parts that are there and change nothing that is drawn.
IDLE = {
    "feature_extractor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"),
}
TABLE = Table(
    NAME,
    read={"_class_name": None, **dict.fromkeys((*PIXEL_PARTS, *IDLE))},
    idle=frozenset({"requires_safety_checker"}),
)
LATENT_TABLE = Table(
    f"{NAME} of latents",
    read={"_class_name": None, **dict.fromkeys((*LATENT_PARTS, *IDLE))},
    # What looks at the pictures afterwards; what only an adapter asks for.
    idle=frozenset({"requires_safety_checker", "safety_checker", "image_encoder"}),
)


def read_components(folder: Path | str) -> tuple[str | None, dict[str, Component]]:
    """(class of the pipeline, its parts by name) of a folder; (None, none) without model_index.json.

    Parts that are null are left out; whether they can be used is for who asks: see ``check_pixels``.
    InputError for what is no list of a library and a class.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return None, {}
    settings = Settings(read_json(path), str(path))
    kind = settings.facts.get("_class_name")
    if not isinstance(kind, str):
        raise settings.wrong("_class_name", kind, "the name of a pipeline")
    parts = {}
    for key, value in settings.facts.items():
        if key[:1] == "_" or not isinstance(value, list):
            continue
        if len(value) != 2 or any(not isinstance(x, str | None) for x in value):
            raise settings.wrong(key, value, "a library and a class")
        if not _is_absent(value):
            parts[key] = Component(*value)
    return kind, parts


def _is_absent(value: object) -> bool:
    """A part that the pipeline could have had."""
    return value == [None, None]


def is_latent(folder: Path | str) -> bool:
    """Whether a folder is a pipeline of latents, by its class, or by the parts that lie in it."""
    kind, _ = read_components(folder)
    return kind in LATENTS or (
        kind is None and all((Path(folder) / name).is_dir() for name in LATENT_PARTS)
    )


def check_pixels(folder: Path | str) -> None:
    """InputError unless a folder's U-Net draws pictures by itself: no latents, no other parts.

    A folder without model_index.json is told by the parts that lie in it.
    """
    folder = Path(folder)
    kind, parts = read_components(folder)
    latent = [
        name for name in ("vae", "vqvae", "movq") if name in parts or (folder / name).is_dir()
    ]
    for name in latent:
        what = f" ({parts[name].kind})" if name in parts else ""
        rest = ", ".join(LATENT_PARTS)
        raise InputError(
            f"{folder}: its U-Net draws latents, which its {name}{what} turns into pictures: that is "
            f"read of a {LATENTS[0]}, with {rest}, and of none else"
        )
    if kind is not None:
        _check_classes(folder, parts, PIXEL_PARTS, TABLE, PIXELS)


def check_latents(folder: Path | str) -> None:
    """InputError unless a folder is a pipeline of latents, with all its parts, of classes that are read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    kind, parts = read_components(folder)
    if kind is not None:
        _check_classes(folder, parts, LATENT_PARTS, LATENT_TABLE, LATENTS)
    for name in LATENT_PARTS:
        if kind is not None and name not in parts:
            raise InputError(f"{folder / NAME} names no {name}, and a {kind} needs one")
        if not (folder / name).is_dir():
            raise InputError(f"{folder} holds no folder {name}: a part of the pipeline is missing")


def _check_classes(
    folder: Path, parts: dict, allowed: dict, table: Table, kinds: tuple[str, ...]
) -> None:
    """InputError for a part, the class of one, or one of the whole, that is not read."""
    path = folder / NAME
    there = {key: x for key, x in read_json(path).items() if not _is_absent(x)}
    settings = Settings(there, str(path), table)
    for name, part in parts.items():
        classes = (allowed | IDLE).get(name)
        if classes and part.kind not in classes:
            raise settings.wrong(f"the class of {name}", part.kind, " or ".join(classes))
    settings.choice("_class_name", options=kinds)


def load_pipeline(folder: Path | str) -> Pipeline:
    """Stable Diffusion 1.x or 2.x, in float32, from a folder as it lies on the hub.

    model_index.json names the parts, which lie in unet/ vae/ text_encoder/ tokenizer/ scheduler/; without
    it, those folders do. Each part is read as by the function for it alone. As its own pipeline does, it
    never clips the predicted z, and leading spacing has the offset 1, whatever the scheduler says.

    InputError for a part that is missing, of a class that is not read, or does not fit the others.
    Pickled weights are not read.
    """
    folder = Path(folder)
    check_latents(folder)
    scheduler = dataclasses.replace(read_scheduler(folder), clip=None, offset=1)
    tokenizer, text = load_tokenizer(folder), load_text_encoder(folder)
    unet, vae = load_unet(folder), load_vae(folder)
    side = image_side(folder) or LATENT_SIDE
    for wrong, what in (
        (
            tokenizer.size > text.config.vocabulary,
            "the tokenizer has more ids than the text encoder",
        ),
        (unet.config.context != text.config.width, "the U-Net looks at states of another width"),
        (unet.config.pooled, "the U-Net wants a class embedding beside the prompt"),
        (
            unet.config.image_channels != vae.config.latent_channels,
            "U-Net and VAE differ in latents",
        ),
        (vae.config.image_channels != 3, "the VAE's pictures have no 3 channels"),
    ):
        if wrong:
            raise InputError(f"{folder}: its parts do not fit each other: {what}")
    try:
        unet.config.check_image(side)
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from None
    return Pipeline(
        tokenizer=tokenizer,
        text=text,
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        side=side * vae.config.factor,
    )
