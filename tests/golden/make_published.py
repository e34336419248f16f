"""Write published/: what the peers do with the small files of a published folder.

    python tests/golden/make_published.py        # after pip install -e ".[bench]"

- ``pictures.safetensors``: pictures of odd sizes as transformers' CLIPImageProcessor (Pillow's) makes
  them ready, before normalising, for the settings in PREPROCESS.
- ``tokenizers.json``: the ids that transformers' CLIPTokenizer makes of TEXTS, and rows filled up to
  its model_max_length, for the folders in TOKENIZERS.
- ``states.safetensors``: what a CLIPTextModelWithProjection makes of such rows; its weights are
  computed, not stored.
- ``open_clip.safetensors``: what open_clip's CLIP computes for the settings in OPEN_CLIP, on
  make_clip's tensors.
- ``defaults.json``: every setting that the peers' classes know, with its default.
"""

import dataclasses
import importlib
import inspect
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "benchmarks")]
from golden.make_clip import (  # noqa: E402
    OPENAI_IDS,
    noise,
    openai_images,
    openai_tensors,
    spread,
)

HERE = Path(__file__).parent / "published"
SIDE = 16
SIZES = {"wide": (21, 38), "high": (50, 17), "small": (9, 13)}  # height, width
EDGE = {"size": {"shortest_edge": SIDE}}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
CROP = {"crop_size": {"height": SIDE, "width": SIDE}}
PREPROCESS = {
    "bicubic": EDGE | CROP,
    "lanczos": EDGE | CROP | {"resample": 1},
    "bilinear": EDGE | CROP | {"resample": 2},
    "nearest": EDGE | CROP | {"resample": 0},
    "box": EDGE | CROP | {"resample": 4},
    "hamming": EDGE | CROP | {"resample": 5},
    "squashed": SQUARE | {"do_center_crop": False},
    "squashed with crop": SQUARE | CROP,
    "larger": {"size": {"shortest_edge": 20}} | CROP,
    "smaller": {"size": {"shortest_edge": 11}} | CROP,  # than the crop: a black margin
    "unequal": {"size": {"height": 19, "width": 24}} | CROP,
    "not resized": {"do_resize": False} | CROP,
    "numbers alone": {"size": SIDE, "crop_size": SIDE},  # as in files of 2021
}

CAPTIONS = ["a photo of a cat!", "the cat's hat", "a hat, a cat: hats & cats", "hello toy toys"] * 3
VOCABULARY = 530
FIRST = 530  # the first id that is free
TEXTS = [
    "a photo of a cat",
    "a photo of a <cat-toy>",
    "A <CAT-TOY>  and <Cat-Toy>, a cat",
    "x<cat-toy>y <cat-toy>s <cat-toy>_1 <cat-toy><cat-toy>_1",
    "hello! a cat!! ! ",
    "the   <hat>   hat a<hat> <hat>. <HAT>",
    "an ärger Ärger and an a\u0308rger",
    "",
    "a cat a hat a cat a hat a cat a hat a cat",
]
START, END = "<|startoftext|>", "<|endoftext|>"


def token(content, **flags):
    base = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False)
    return {"content": content, "normalized": True, **base, **flags}


TOY = {str(FIRST): token("<cat-toy>")}
TOYS = TOY | {str(FIRST + 1): token("<cat-toy>_1")}
# name: the files beside vocab.json and merges.txt; "fast": as save_pretrained writes it then
TOKENIZERS = {
    "plain": {"tokenizer_config.json": {}},
    "stable diffusion 1": {
        "tokenizer_config.json": {"pad_token": END, "model_max_length": 12, "do_lower_case": True},
        "special_tokens_map.json": {"pad_token": END, "bos_token": token(START)},
    },
    "stable diffusion 2": {
        "tokenizer_config.json": {"pad_token": "!", "model_max_length": 12},
        "special_tokens_map.json": {"pad_token": "!"},
    },
    "only the map": {"special_tokens_map.json": {"pad_token": "!"}},
    "the map comes second": {
        "tokenizer_config.json": {"pad_token": END, "added_tokens_decoder": TOY},
        "special_tokens_map.json": {"pad_token": "!"},
    },
    "the map comes first": {
        "tokenizer_config.json": {"pad_token": END},
        "special_tokens_map.json": {"pad_token": token("!", normalized=False)},
    },
    "added": {"added_tokens.json": {"<cat-toy>": FIRST}, "tokenizer_config.json": {}},
    "added, special": {
        "added_tokens.json": {"<cat-toy>": FIRST, "<cat-toy>_1": FIRST + 1},
        "tokenizer_config.json": {"additional_special_tokens": ["<cat-toy>"]},
    },
    "decoder": {"tokenizer_config.json": {"added_tokens_decoder": TOYS}},
    "exact": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(FIRST): token("<cat-toy>", normalized=False),
                str(FIRST + 1): token("<hat>", normalized=False, lstrip=True, rstrip=True),
            }
        }
    },
    "single words": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(FIRST): token("<cat-toy>", single_word=True),
                str(FIRST + 1): token("hat", single_word=True, normalized=False),
                str(FIRST + 2): token("Ärger"),
            }
        }
    },
    "fast": {"tokenizer_config.json": {"added_tokens_decoder": TOYS, "model_max_length": 12}},
}
ROW = 16  # where model_max_length is silent

TEXT = {
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": FIRST + 3,
    "max_position_embeddings": ROW,
    "projection_dim": 7,
    "bos_token_id": FIRST - 2,
    "eos_token_id": FIRST - 1,
}

OTHER = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
OPEN_CLIP = {  # heads fit both towers of make_clip's tensors
    "gelu": {"model_cfg": {"text_cfg": {"heads": 1}}},
    "other heads": {
        "model_cfg": {
            "quick_gelu": True,
            "vision_cfg": {"head_width": 32},
            "text_cfg": {"heads": 3},
        }
    },
    "eos": {
        "model_cfg": {"quick_gelu": True, "text_cfg": {"heads": 1, "pool_type": "eos", "eos_id": 9}}
    },
    "other mean": {
        "model_cfg": {"quick_gelu": True, "text_cfg": {"heads": 1}},
        "preprocess_cfg": OTHER,
    },
}


def picture(name):
    """RGB pixels of one of SIZES: waves and noise."""
    height, width = SIZES[name]
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 3 + y / 5), np.cos(x * y / 40), np.sin(y / 2)]
    mixed = np.stack(waves, -1) + 0.4 * noise(f"picture {name}", (height, width, 3))
    return np.clip(127.5 + 90 * mixed, 0, 255).astype(np.uint8)


def write_tokenizer(folder, files):
    """One of TOKENIZERS, of the byte pairs of CAPTIONS."""
    from minidiff.tokenizer import Tokenizer

    tokenizer = Tokenizer.learn(CAPTIONS, VOCABULARY)
    assert tokenizer.size == FIRST, tokenizer.size
    tokenizer.save(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def text_weights(shapes):
    """The weights of the text model, by name."""
    return {name: spread(name, noise(name, shape)) for name, shape in shapes.items()}


def make_pictures():
    from safetensors.numpy import save_file
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    found = {}
    for name, settings in PREPROCESS.items():
        processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False, **settings)
        for one in SIZES:
            [pixels] = processor(picture(one), return_tensors="np")["pixel_values"]
            found[f"{name}.{one}"] = np.ascontiguousarray(pixels.transpose(1, 2, 0), np.uint8)
    processor = CLIPImageProcessorPil(**PREPROCESS["bicubic"])
    [pixels] = processor(picture("wide"), return_tensors="np")["pixel_values"]
    found["normalised"] = np.ascontiguousarray(pixels.transpose(1, 2, 0), np.float32)
    save_file(found, HERE / "pictures.safetensors")


def make_tokenizers():
    import transformers

    cases = {}
    for name, files in TOKENIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            write_tokenizer(folder, files)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
            if name == "fast":
                tokenizer.save_pretrained(folder / "again")
                files = {
                    path.name: json.loads(path.read_text()) for path in (folder / "again").iterdir()
                }
                tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "again")
            length = tokenizer.model_max_length if tokenizer.model_max_length < 100 else ROW
            settings = {"padding": "max_length", "truncation": True, "max_length": length}
            cases[name] = {
                "files": files,
                "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
                "rows": tokenizer(TEXTS, **settings)["input_ids"],
            }
    (HERE / "tokenizers.json").write_text(json.dumps(cases) + "\n")
    return cases


def make_states(cases):
    import torch
    from safetensors.numpy import save_file
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    model = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            full = name if name.startswith("text_") else f"text_model.{name}"
            parameter.copy_(torch.from_numpy(spread(full, noise(full, parameter.shape))))
        found = {}
        for name in ("stable diffusion 1", "stable diffusion 2", "decoder"):
            out = model(torch.tensor(cases[name]["rows"][:5]))
            found[f"{name}.states"] = out.last_hidden_state.numpy().astype(np.float32)
            found[f"{name}.embeddings"] = out.text_embeds.numpy().astype(np.float32)
    save_file(found, HERE / "states.safetensors")


def make_open_clip(defaults):
    import torch
    from bench_clip_step import open_clip_model
    from safetensors.numpy import save_file

    module, tensors = open_clip_model(), openai_tensors()
    usual = importlib.import_module("open_clip.constants")
    found = {}
    for name, settings in OPEN_CLIP.items():
        told = settings["model_cfg"]
        image = {"image_size": 8, "patch_size": 4, "width": 128, "layers": 1}
        text = {"context_length": 6, "vocab_size": 50, "width": 96, "layers": 2}
        image |= told.get("vision_cfg", {})
        text |= told.get("text_cfg", {})
        configs = module.CLIPVisionCfg(**image), module.CLIPTextCfg(**text)
        model = module.CLIP(20, *configs, quick_gelu=told.get("quick_gelu", False)).double().eval()
        model.load_state_dict({k: torch.from_numpy(v).double() for k, v in tensors.items()})
        shown = {"mean": usual.OPENAI_DATASET_MEAN, "std": usual.OPENAI_DATASET_STD}
        shown |= settings.get("preprocess_cfg", {})
        pixels = (openai_images().astype(np.float64) + 1) / 2
        pixels = torch.from_numpy((pixels - shown["mean"]) / shown["std"]).permute(0, 3, 1, 2)
        with torch.no_grad():
            found[f"{name}.image_embeddings"] = model.encode_image(pixels).numpy()
            found[f"{name}.text_embeddings"] = model.encode_text(torch.tensor(OPENAI_IDS)).numpy()
    found = {name: np.ascontiguousarray(x, np.float32) for name, x in found.items()}
    save_file(found, HERE / "open_clip.safetensors")
    for kind in (module.CLIPVisionCfg, module.CLIPTextCfg):
        defaults[kind.__name__] = dataclasses.asdict(kind())
    (HERE / "defaults.json").write_text(json.dumps(defaults, default=list) + "\n")


def make_defaults():
    import diffusers
    import transformers

    def defaults(kind):
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        facts = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
        return {"_class_name": kind.__name__, "_diffusers_version": diffusers.__version__} | facts

    schedulers = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    kinds = {name: getattr(diffusers, name) for name in schedulers}
    kinds = {name: kind for name, kind in kinds.items() if ".dummy" not in kind.__module__}
    facts = {name: defaults(kind) for name, kind in kinds.items()}
    facts = {name: x for name, x in facts.items() if {"beta_schedule", "beta_start"} & x.keys()}
    for name in ("UNet2DModel", "UNet2DConditionModel"):
        facts[name] = defaults(getattr(diffusers, name))
    facts["CLIPConfig"] = transformers.CLIPConfig().to_dict()
    with tempfile.TemporaryDirectory() as folder:
        processor = transformers.CLIPImageProcessor()
        facts["CLIPImageProcessor"] = processor.to_dict()
        write_tokenizer(Path(folder), {})
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts["CLIPTokenizer"] = json.loads(Path(folder, "tokenizer_config.json").read_text())
    return facts


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    make_pictures()
    make_states(make_tokenizers())
    make_open_clip(make_defaults())
