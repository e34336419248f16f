"""A pipeline of diffusers: model_index.json says which parts lie in its folder, and of which class."""

from pathlib import Path
from typing import NamedTuple

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.settings import Settings, Table

NAME = "model_index.json"


class Component(NamedTuple):
    """One part of a pipeline, in a folder of its name."""

    library: str
    kind: str  # its class


# The pipelines that draw pixels from noise alone: a U-Net and a scheduler, and nothing else.
PIXELS = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
# What each part may be; any scheduler, for ``read_scheduler`` knows what it cannot read.
CLASSES = {
    "unet": ("UNet2DModel", "UNet2DConditionModel"),
    "scheduler": (),
}
# Parts that are there and change nothing that is drawn.
IDLE = {
    "feature_extractor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"),
}
TABLE = Table(
    NAME,
    read={"_class_name": None, **dict.fromkeys((*CLASSES, *IDLE))},
    idle=frozenset({"requires_safety_checker"}),
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
        if value != [None, None]:
            parts[key] = Component(*value)
    return kind, parts


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
        raise InputError(
            f"{folder}: its U-Net draws latents, which its {name}{what} turns into pictures, and that "
            "cannot be read yet"
        )
    if kind is None:
        return
    path = folder / NAME
    settings = Settings(read_json(path), str(path), TABLE)
    for name, part in parts.items():
        allowed = (CLASSES | IDLE)[name]
        if allowed and part.kind not in allowed:
            raise settings.wrong(f"the class of {name}", part.kind, " or ".join(allowed))
    settings.choice("_class_name", options=PIXELS)
