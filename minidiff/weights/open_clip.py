"""The settings of a model of open_clip: open_clip_config.json beside weights with OpenAI's names.

Names and defaults are those of open_clip's ``CLIPVisionCfg``, ``CLIPTextCfg`` and ``PreprocessCfg``
(3.3). Without that file a model is OpenAI's own.
"""

from pathlib import Path
from typing import NamedTuple

from minidiff.clip import OPENAI_MEAN, OPENAI_STD
from minidiff.files import read_json
from minidiff.settings import Settings, Table, names
from minidiff.weights.preprocess import (
    FILES,
    FILTERS,
    Preprocess,
    read_normalization,
    read_preprocess,
)

NAME = "open_clip_config.json"
_OFF = (False, None)
_BLOCKS = {
    "mlp_ratio": (4.0,),
    "ls_init_value": (None,),
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
    "block_type": (None, "default"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads"), _OFF),
    **dict.fromkeys(("scale_attn_inner", "scale_attn", "scale_fc"), _OFF),
}
FILE = Table(NAME, read={"model_cfg": None, "preprocess_cfg": None})
MODEL = Table(
    "model_cfg of open_clip",
    read={"embed_dim": None, "vision_cfg": None, "text_cfg": None, "quick_gelu": False},
    fixed={
        "custom_text": _OFF,
        "init_logit_bias": (None,),
        "multimodal_cfg": (None, {}),
        "nonscalar_logit_scale": _OFF,
    },
    idle=frozenset({"cast_dtype", "init_logit_scale", "output_dict"}),
)
VISION = Table(
    "vision_cfg of open_clip",
    read={"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "head_width": 64},
    fixed=_BLOCKS
    | {
        "attentional_pool": _OFF,
        "global_average_pool": _OFF,
        "input_patchnorm": _OFF,
        "no_ln_pre": _OFF,
        "pool_type": ("tok",),
        "pos_embed_type": ("learnable", "sin_cos_2d"),  # the second is stored all the same
        "timm_model_name": (None, ""),
    },
    # Of training; of parts that are not there; and the norm of one token, before or after pooling.
    idle=names("""patch_dropout final_ln_after_pool output_tokens attn_pooler_queries attn_pooler_heads
        n_queries timm_model_pretrained timm_pool timm_proj timm_proj_bias timm_drop
        timm_drop_path"""),
)
TEXT = Table(
    "text_cfg of open_clip",
    read={"context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12}
    | {"pool_type": "argmax", "eos_id": 2},
    fixed=_BLOCKS
    | {
        "embed_cls": _OFF,
        "hf_model_name": (None, ""),
        "hf_tokenizer_name": (None, ""),
        "no_causal_mask": _OFF,
        "proj_bias": _OFF,
        "proj_type": ("linear",),
        "tokenizer_kwargs": (None, {}),
        "tokenizer_mode": (None, ""),
        "use_pad_mask": _OFF,
    },
    idle=names("""final_ln_after_pool output_tokens pad_id hf_model_pretrained hf_proj_type
        hf_pooler_type"""),
)
PREPROCESS = Table(
    "preprocess_cfg of open_clip",
    read={
        "mean": OPENAI_MEAN,
        "std": OPENAI_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
    fixed={"mode": ("RGB",)},
    idle=frozenset({"fill_color", "size"}),  # the network's side is taken, by open_clip too
)


class Told(NamedTuple):
    """What the shapes of OpenAI's names leave open."""

    preprocess: Preprocess
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    quick_gelu: bool = True
    heads: int | None = None  # none: as many as 64 numbers each make
    text_heads: int | None = None
    end: int | None = None  # none: the largest id of a row


def read_open_clip(folder: Path, embedding: int, sizes: dict[str, dict[str, int]]) -> Told:
    """What open_clip_config.json says, else preprocessor_config.json, else OpenAI's conventions.

    ``sizes`` of the towers, "image" and "text", by open_clip's names, as the tensors have them.
    InputError where the settings contradict them, or ask for what our towers have not.
    """
    path, side = folder / NAME, sizes["image"]["image_size"]
    if path.exists():
        return _read(path, side, embedding, sizes)
    preprocess = read_preprocess(folder, side)
    if preprocess:
        return Told(preprocess, *read_normalization(folder, 3))
    said = (
        f"no {NAME} and no {FILES[0]} beside it: taken for OpenAI's own, whose pictures are resized "
        "by a bicubic filter, cut to the centre square, and normalised by OpenAI's mean and std"
    )
    return Told(Preprocess(side, side, to_even=True, notes=(said,)))


def _read(path: Path, side: int, embedding: int, sizes: dict[str, dict[str, int]]) -> Told:
    file = Settings(read_json(path), str(path), FILE)
    model = file.section("model_cfg", MODEL)
    vision, text = model.section("vision_cfg", VISION), model.section("text_cfg", TEXT)
    for settings, found in (
        (model, {"embed_dim": embedding}),
        (vision, sizes["image"]),
        (text, sizes["text"]),
    ):
        for key in settings.facts.keys() & found.keys():
            value = settings.facts[key]
            if value not in (found[key], [found[key]] * 2):
                raise settings.wrong(key, value, f"{found[key]} as in the tensors")
    width, head = sizes["image"]["width"], vision.whole("head_width")
    heads = text.whole("heads")
    if width % max(1, width // head):
        raise vision.wrong("head_width", head, f"one that {width} numbers split into")
    if sizes["text"]["width"] % heads:
        raise text.wrong("heads", heads, f"a divisor of width {sizes['text']['width']}")
    pooled = text.choice("pool_type", options=("argmax", "eos"))
    told = file.section("preprocess_cfg").facts
    told = {key: value for key, value in told.items() if value is not None}  # as open_clip has it
    for key in ("mean", "std"):
        if type(told.get(key)) in (int, float):
            told[key] = [told[key]] * 3
    told = Settings(told, f"{path}: preprocess_cfg", PREPROCESS)
    std = told.numbers("std")
    if min(std) <= 0:
        raise told.wrong("std", list(std), "above 0")
    # Its "random" is of training alone, and bicubic otherwise.
    filters = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}
    resample = FILTERS.index(filters[told.choice("interpolation", options=filters)])
    squash = told.choice("resize_mode", options=("shortest", "squash")) == "squash"
    return Told(
        Preprocess(side, (side, side) if squash else side, resample, not squash, to_even=True),
        told.numbers("mean"),
        std,
        model.flag("quick_gelu"),
        max(1, width // head),
        heads,
        text.whole("eos_id", low=0, high=2**31 - 1) if pooled == "eos" else None,
    )
