"""The settings of a U-Net in a diffusers folder, read and written.

Names and defaults are those of diffusers' ``UNet2DModel`` and ``UNet2DConditionModel`` (0.42).
"""

from pathlib import Path

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.settings import LIBRARY_NOTES, Settings, Table, names, same
from minidiff.unet import UNetConfig

PLAIN, TEXT = "UNet2DModel", "UNet2DConditionModel"
MOST_LEVELS = 12
MOST_BLOCKS = 32  # of a level
MOST_CHANNELS = 2**16

# How diffusers calls a level without attention and one with it, on the way down and up.
KINDS = {
    PLAIN: (("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")),
    TEXT: (("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")),
}
DEFAULT_LEVELS = {  # of channels, and which have attention
    PLAIN: ([224, 448, 672, 896], (False, True, True, True)),
    TEXT: ([320, 640, 1280, 1280], (True, True, True, False)),
}
_READ = {
    "_class_name": "",
    "attention_head_dim": 8,
    "block_out_channels": None,
    "down_block_types": None,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": None,
    "time_embedding_dim": None,
    "up_block_types": None,
}
# Settings with which diffusers builds what our U-Net has no part for, but for these values.
_FIXED = {
    "act_fn": ("silu", "swish"),  # two names for one function
    "center_input_sample": (False,),
    "mid_block_scale_factor": (1,),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
}
# Of training; of how the same numbers are computed; and what an average of weights notes of itself.
_IDLE = {"dropout", "num_train_timesteps", "upcast_attention"} | LIBRARY_NOTES
_IDLE |= names("decay inv_gamma min_decay optimization_step power update_after_step")
_IDLE |= {"use_ema_warmup"}
TABLES = {
    PLAIN: Table(
        PLAIN,
        read=_READ | {"attn_norm_num_groups": None},
        fixed=_FIXED
        | {
            "add_attention": (True,),
            "class_embed_type": (None,),
            "downsample_type": ("conv",),
            "mid_block_type": ("UNetMidBlock2D",),
            "upsample_type": ("conv",),
        },
        idle=_IDLE,
    ),
    TEXT: Table(
        TEXT,
        read=_READ
        | {
            "cross_attention_dim": 1280,
            "in_channels": 4,
            "out_channels": 4,
            "projection_class_embeddings_input_dim": 0,
            "use_linear_projection": False,
        },
        fixed=_FIXED
        | {
            "addition_embed_type": (None,),
            "attention_type": ("default",),
            "class_embed_type": (None, "simple_projection"),
            "class_embeddings_concat": (False,),
            "conv_in_kernel": (3,),
            "conv_out_kernel": (3,),
            "cross_attention_norm": (None,),
            "dual_cross_attention": (False,),
            "encoder_hid_dim": (None,),
            "encoder_hid_dim_type": (None,),
            "mid_block_only_cross_attention": (None, False),
            "mid_block_type": ("UNetMidBlock2DCrossAttn",),
            "num_attention_heads": (None,),
            "only_cross_attention": (False,),
            "resnet_out_scale_factor": (1,),
            "resnet_skip_time_act": (False,),
            "reverse_transformer_layers_per_block": (None,),
            "time_cond_proj_dim": (None,),
            "time_embedding_act_fn": (None,),
            "timestep_post_act": (None,),
            "transformer_layers_per_block": (1,),
        },
        idle=_IDLE | {"addition_embed_type_num_heads", "addition_time_embed_dim"},
    ),
}
# Given once, or once for each level.
PER_LEVEL = (
    "cross_attention_dim",
    "layers_per_block",
    "only_cross_attention",
    "transformer_layers_per_block",
)


def read_config(folder: Path) -> tuple[UNetConfig, bool]:
    """(what config.json of a folder says, whether its transformers begin and end in a Linear).

    InputError if it is no U-Net, or one with a part that ours has not.
    """
    path = folder / "config.json"
    settings = Settings(read_json(path), str(path))
    name = settings.choice("_class_name", "", KINDS)
    channels = _channels(settings, DEFAULT_LEVELS[name][0])
    facts = _once(settings.facts, len(channels)) if name == TEXT else settings.facts
    settings = Settings(facts, str(path), TABLES[name])
    attention = _attention(settings, name, len(channels))
    text = _text(settings) if name == TEXT else {}
    config = UNetConfig(
        image_channels=_equal(settings, "out_channels", "in_channels"),
        channels=channels,
        blocks=settings.whole("layers_per_block", high=MOST_BLOCKS),
        attention=attention,
        groups=settings.whole("norm_num_groups"),
        eps=settings.number("norm_eps"),
        zeros=None if settings.whole("downsample_padding", low=0, high=1) else (0, 1),
        cos_first=settings.flag("flip_sin_to_cos"),
        last=settings.whole("freq_shift", low=0, high=channels[0] // 2 - 1),
        **_heads(settings, name, {i: channels[i] for i in (*attention, len(channels) - 1)}),
        **text,
    )
    width = settings.get("time_embedding_dim")
    if width not in (None, 4 * channels[0]):
        raise settings.wrong("time_embedding_dim", width, f"{4 * channels[0]} or null")
    groups = settings.get("attn_norm_num_groups") if name == PLAIN else None
    if groups not in (None, config.groups):
        raise settings.wrong("attn_norm_num_groups", groups, f"{config.groups} or null")
    return config, name == TEXT and settings.flag("use_linear_projection")


def _once(facts: dict, levels: int) -> dict:
    """The settings with one value instead of the same one for every level."""
    lists = {key: facts[key] for key in PER_LEVEL if isinstance(facts.get(key), list)}
    return facts | {
        key: values[0]
        for key, values in lists.items()
        if len(values) == levels and all(same(value, values[0]) for value in values)
    }


def _equal(settings: Settings, key: str, other: str) -> int:
    value = settings.whole(other, high=MOST_CHANNELS)
    if settings.whole(key, high=MOST_CHANNELS) != value:
        raise settings.wrong(key, settings.get(key), f"{other}, {value}")
    return value


def _channels(settings: Settings, default: list[int]) -> tuple[int, ...]:
    value = settings.facts.get("block_out_channels", default)
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= MOST_LEVELS
        or any(type(n) is not int or not 1 <= n <= MOST_CHANNELS for n in value)
        or value[0] % 2
    ):
        wanted = f"a list of 1 to {MOST_LEVELS} whole numbers up to {MOST_CHANNELS}, the first even"
        raise settings.wrong("block_out_channels", value, wanted)
    return tuple(value)


def _attention(settings: Settings, name: str, levels: int) -> tuple[int, ...]:
    """The levels with attention: the same ones down and up."""
    down, up = KINDS[name]
    default = DEFAULT_LEVELS[name][1]
    types = settings.facts.get("down_block_types", [down[looks] for looks in default])
    if (
        not isinstance(types, list)
        or len(types) != levels
        or any(kind not in down for kind in types)
    ):
        raise settings.wrong("down_block_types", types, f"{levels} times {' or '.join(down)}")
    found = settings.facts.get("up_block_types", [up[looks] for looks in reversed(default)])
    mirrored = [up[down.index(kind)] for kind in reversed(types)]
    if found != mirrored:
        raise settings.wrong("up_block_types", found, f"{mirrored}, as down_block_types mirrored")
    return tuple(i for i, kind in enumerate(types) if kind == down[1])


def _text(settings: Settings) -> dict:
    """Through what the network sees a text."""
    key = "projection_class_embeddings_input_dim"
    projected = settings.get("class_embed_type") is not None
    return {
        "context": settings.whole("cross_attention_dim"),
        "pooled": settings.whole(key) if projected else None,
    }


def _heads(settings: Settings, name: str, channels: dict[int, int]) -> dict:
    """``heads`` or ``head_width``, given the channels of the levels with attention.

    attention_head_dim is a width in UNet2DModel and, in spite of its name, a number of heads in
    UNet2DConditionModel.
    """
    key = "attention_head_dim"
    value = settings.get(key)
    if name == PLAIN:
        if value is None:
            return {"heads": 1}
        if any(n % settings.whole(key) for n in channels.values()):
            raise settings.wrong(key, value, "a divisor of the channels where there is attention")
        return {"head_width": value}
    heads = value if isinstance(value, list) else [settings.whole(key)] * (max(channels) + 1)
    if len(heads) != max(channels) + 1 or any(type(n) is not int or n < 1 for n in heads):
        raise settings.wrong(key, value, "a number of heads, or one for each level")
    if any(n % heads[i] for i, n in channels.items()):
        raise settings.wrong(key, value, "a divisor of the channels where there is attention")
    if len({heads[i] for i in channels}) == 1:
        return {"heads": heads[-1]}
    widths = {n // heads[i] for i, n in channels.items()}
    if len(widths) > 1:
        raise settings.wrong(key, value, "heads of one number or of one width at every level")
    return {"head_width": widths.pop()}


def settings(config: UNetConfig, side: int | None) -> dict:
    """config.json of a network; InputError if diffusers has no settings for it."""
    name = TEXT if config.context else PLAIN
    if config.patch != 1:
        raise InputError(
            f"diffusers has no U-Net whose positions are patches: patch {config.patch}"
        )
    if config.pooled and not config.context:
        raise InputError(
            "diffusers has no U-Net with a pooled text (pooled) but no states (context)"
        )
    if config.zeros not in (None, (1, 1), (0, 1)):
        raise InputError(f"diffusers has no convolution of stride 2 with zeros {config.zeros}")
    down, up = KINDS[name]
    looks = [i in config.attention for i in range(len(config.channels))]
    facts = {
        "_class_name": name,
        "sample_size": side,
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "down_block_types": [down[x] for x in looks],
        "up_block_types": [up[x] for x in reversed(looks)],
        "block_out_channels": config.channels,
        "layers_per_block": config.blocks,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps,
        "downsample_padding": 0 if config.zeros == (0, 1) else 1,
        "flip_sin_to_cos": config.cos_first,
        "freq_shift": config.last,
        "attention_head_dim": _head_dim(config),
    }
    if config.context:
        facts["cross_attention_dim"] = config.context
    if config.pooled:
        facts["class_embed_type"] = "simple_projection"
        facts["projection_class_embeddings_input_dim"] = config.pooled
    return facts


def _head_dim(config: UNetConfig) -> int | list[int] | None:
    """What ``_heads`` reads."""
    seen = [config.channels[i] for i in (*config.attention, -1)]
    width = config.head_width
    if width and any(n % width for n in seen):
        raise InputError(f"diffusers has no heads of width {width} in {min(seen)} channels")
    if config.context:
        return [max(1, n // width) for n in config.channels] if width else config.heads
    if width or config.heads == 1:
        return width
    widths = {n // config.heads for n in seen}
    if len(widths) > 1:
        raise InputError(
            f"heads {config.heads}: the heads of a {PLAIN} have one width at every level, "
            f"not {' and '.join(map(str, sorted(widths)))}"
        )
    return widths.pop()
