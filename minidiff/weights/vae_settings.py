"""The settings of an AutoencoderKL in a diffusers folder, read and written (names of 0.42)."""

from pathlib import Path

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.settings import LIBRARY_NOTES, Settings, Table
from minidiff.vae import VAEConfig
from minidiff.weights.unet_settings import MOST_BLOCKS, MOST_CHANNELS, MOST_LEVELS

NAME = "AutoencoderKL"
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"  # with attention: Attn before the name
SCALE = 0.18215  # of Stable Diffusion 1 and 2; older files are silent on it
TABLE = Table(
    NAME,
    read={
        "_class_name": NAME,
        "block_out_channels": (64,),
        "down_block_types": (DOWN,),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "mid_block_add_attention": True,
        "norm_num_groups": 32,
        "out_channels": 3,
        "scaling_factor": SCALE,
        "up_block_types": (UP,),
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    },
    fixed={
        "act_fn": ("silu", "swish"),  # two names for one function
        "latents_mean": (None,),
        "latents_std": (None,),
        "shift_factor": (None,),
    },
    # sample_size only says where decoding in tiles begins; upcasting is of half precision.
    idle=LIBRARY_NOTES | {"sample_size", "force_upcast"},
)


def read_config(folder: Path) -> VAEConfig:
    """What config.json of a folder says. InputError if it is no AutoencoderKL, or has another part."""
    path = folder / "config.json"
    settings = Settings(read_json(path), str(path), TABLE)
    settings.choice("_class_name", options=(NAME,))
    channels = _channels(settings)
    images = settings.whole("in_channels", high=MOST_CHANNELS)
    if settings.whole("out_channels", high=MOST_CHANNELS) != images:
        raise settings.wrong("out_channels", settings.get("out_channels"), f"in_channels, {images}")
    quant = settings.flag("use_quant_conv")
    if settings.flag("use_post_quant_conv") != quant:
        raise settings.wrong("use_post_quant_conv", not quant, f"{quant}, as use_quant_conv is")
    try:
        return VAEConfig(
            image_channels=images,
            latent_channels=settings.whole("latent_channels", high=MOST_CHANNELS),
            channels=channels,
            blocks=settings.whole("layers_per_block", high=MOST_BLOCKS),
            attention=_attention(settings, len(channels)),
            middle_attention=settings.flag("mid_block_add_attention"),
            groups=settings.whole("norm_num_groups"),
            quant=quant,
            scale=settings.number("scaling_factor", low=0.0, high=1e6),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _channels(settings: Settings) -> tuple[int, ...]:
    value = settings.get("block_out_channels")
    if (
        not isinstance(value, list | tuple)
        or not 1 <= len(value) <= MOST_LEVELS
        or any(type(n) is not int or not 1 <= n <= MOST_CHANNELS for n in value)
    ):
        wanted = f"a list of 1 to {MOST_LEVELS} whole numbers up to {MOST_CHANNELS}"
        raise settings.wrong("block_out_channels", value, wanted)
    return tuple(value)


def _attention(settings: Settings, count: int) -> tuple[int, ...]:
    """The levels with attention: the same ones in both towers."""
    found = {}
    for key, plain in (("down_block_types", DOWN), ("up_block_types", UP)):
        kinds = settings.get(key)
        if (
            not isinstance(kinds, list | tuple)
            or len(kinds) != count
            or any(kind not in (plain, f"Attn{plain}") for kind in kinds)
        ):
            raise settings.wrong(key, kinds, f"{count} times {plain} or Attn{plain}")
        found[key] = [i for i, kind in enumerate(kinds) if kind != plain]
    mirrored = sorted(count - 1 - i for i in found["up_block_types"])
    if found["down_block_types"] != mirrored:
        raise settings.wrong(
            "up_block_types", settings.get("up_block_types"), "down_block_types mirrored"
        )
    return tuple(mirrored)


def settings(config: VAEConfig) -> dict:
    """config.json of a VAE. InputError if diffusers has no settings for it."""
    refused = {
        "patch": config.patch != 1,
        "middle": not config.middle,
        "decoder_channels": config.wide != config.channels,
        "padding": config.padding != (0, 1),
        "eps": config.eps != 1e-6,
    }
    for name, other in refused.items():
        if other:
            value = getattr(config, name)
            raise InputError(f"diffusers has no AutoencoderKL with {name} {value}")
    looks = [("Attn" if i in config.attention else "") for i in range(len(config.channels))]
    return {
        "_class_name": NAME,
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": [f"{look}{DOWN}" for look in looks],
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.blocks,
        "mid_block_add_attention": config.middle_attention,
        "norm_num_groups": config.groups,
        "out_channels": config.image_channels,
        "scaling_factor": config.scale,
        "up_block_types": [f"{look}{UP}" for look in reversed(looks)],
        "use_post_quant_conv": config.quant,
        "use_quant_conv": config.quant,
    }
