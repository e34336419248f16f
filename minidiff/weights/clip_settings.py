"""The settings of a CLIP in a Hugging Face folder, read and written.

Names and defaults are those of transformers' ``CLIPConfig`` and ``CLIPImageProcessor``.
"""

from pathlib import Path

from minidiff.clip import CLIPConfig
from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.settings import LIBRARY_NOTES, Settings, Table, names
from minidiff.text import TextConfig
from minidiff.vit import ViTConfig
from minidiff.weights.preprocess import Preprocess, read_normalization

LEGACY_END = 2  # as eos_token_id: from when transformers knew no end token; the largest id is it
MOST_LAYERS = 1000
MOST_PIXELS = 2**12  # on a side, and channels


# What transformers wrote beside the settings of every model until its version 5; nothing of it
# reaches the network of a CLIP.
GENERATION = names("""add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torchscript
    typical_p use_bfloat16""")
# Of training, or of how the same numbers are computed.
TRAINING = {"attention_dropout", "dropout", "initializer_factor", "initializer_range"}
IDLE = LIBRARY_NOTES | GENERATION | TRAINING | {"attn_implementation"}
PLAIN = {"pruned_heads": ({}, None), "quantization_config": (None,)}
TABLE = Table(
    "config.json of a CLIP",
    read={"model_type": "clip", "projection_dim": 512}
    | dict.fromkeys(
        f"{tower}_config{old}" for tower in ("text", "vision") for old in ("", "_dict")
    ),
    fixed=PLAIN,
    idle=IDLE | {"eos_token_id", "logit_scale_init_value"},
)
_TOWER = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
TEXT = Table(
    "text_config of a CLIP",
    read=_TOWER
    | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    | {"vocab_size": 49_408, "max_position_embeddings": 77, "eos_token_id": 49_407},
    fixed=PLAIN | {"model_type": ("clip_text_model", "clip")},
    idle=IDLE | {"projection_dim"},  # CLIPModel asks for it once, for both towers
)
VISION = Table(
    "vision_config of a CLIP",
    read=_TOWER
    | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    | {"image_size": 224, "patch_size": 32, "num_channels": 3},
    fixed=PLAIN | {"model_type": ("clip_vision_model", "clip")},
    idle=IDLE | {"projection_dim", "eos_token_id"},
)


def read_config(folder: Path) -> CLIPConfig:
    """What config.json and preprocessor_config.json of a folder say; InputError if it is no CLIP."""
    path = folder / "config.json"
    settings = Settings(read_json(path), str(path))
    settings.choice("model_type", "clip", ("clip",))  # else all of it is of another model
    settings = Settings(settings.facts, str(path), TABLE)
    text, vision = _section(settings, "text", TEXT), _section(settings, "vision", VISION)
    channels = vision.whole("num_channels", high=MOST_PIXELS)
    side = vision.whole("image_size", high=MOST_PIXELS)
    mean, std = read_normalization(folder, channels)
    return CLIPConfig(
        embedding=settings.whole("projection_dim"),
        image=_made(
            ViTConfig,
            vision,
            image_size=side,
            patch=vision.whole("patch_size", high=MOST_PIXELS),
            channels=channels,
            mean=mean,
            std=std,
        ),
        text=_text(text),
    )


def read_text_config(folder: Path) -> TextConfig:
    """What config.json of a CLIPTextModel's folder says; InputError if it is none."""
    path = folder / "config.json"
    settings = Settings(read_json(path), str(path))
    settings.choice("model_type", "clip_text_model", ("clip_text_model",))
    return _text(Settings(settings.facts, str(path), TEXT))


def _text(settings: Settings) -> TextConfig:
    end = settings.whole("eos_token_id", low=0, high=2**31 - 1)
    return _made(
        TextConfig,
        settings,
        vocabulary=settings.whole("vocab_size"),
        context=settings.whole("max_position_embeddings"),
        end=None if end == LEGACY_END else end,
    )


def _section(settings: Settings, tower: str, table: Table) -> Settings:
    """Files of 2022 have a tower's settings twice; transformers takes these, and none of the others."""
    old = f"{tower}_config_dict"
    return settings.section(f"{tower}_config" if settings.get(old) is None else old, table)


def _made(kind: type, settings: Settings, **others):
    """The settings of a tower: what both have, and the others."""
    width = settings.whole("hidden_size")
    inner = settings.whole("intermediate_size")
    if inner % width:
        raise settings.wrong("intermediate_size", inner, f"a multiple of hidden_size {width}")
    try:
        return kind(
            width=width,
            layers=settings.whole("num_hidden_layers", high=MOST_LAYERS),
            heads=settings.whole("num_attention_heads"),
            expand=inner // width,
            activation=settings.choice("hidden_act", options=("gelu", "quick_gelu")),
            eps=settings.number("layer_norm_eps"),
            **others,
        )
    except InputError:
        raise
    except ValueError as error:  # sizes that do not fit each other
        raise InputError(f"{settings.source}: {error}") from None


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


def preprocessor_settings(image: ViTConfig, preprocess: Preprocess | None) -> dict:
    """preprocessor_config.json: how an image of any size becomes what the model sees."""
    side = image.image_size
    mean, std = (x if len(x) > 1 else x * image.channels for x in (image.mean, image.std))
    done = preprocess or Preprocess(side, side)
    size = done.size or side
    edge = isinstance(size, int)
    steps = {"resize": done.size is not None, "center_crop": done.crop}
    steps |= dict.fromkeys(("rescale", "normalize", "convert_rgb"), True)
    return {
        "image_processor_type": "CLIPImageProcessor",
        **{f"do_{step}": does for step, does in steps.items()},
        "size": {"shortest_edge": size}
        if edge
        else dict(zip(("height", "width"), size, strict=True)),
        "crop_size": {"height": side, "width": side},
        "resample": done.resample,
        "rescale_factor": 1 / 255,
        "image_mean": mean,
        "image_std": std,
    }
