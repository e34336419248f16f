"""Write clip/: tiny CLIPs with random weights, and everything that the real code computes with them.

    python tests/golden/make_clip.py        # after pip install -e ".[bench]"

``quick`` and ``gelu`` are transformers' CLIPModel, as it saves itself, with every stage of both towers
in golden.safetensors. ``openai`` holds only what open_clip's reader of OpenAI's files makes of
``openai_tensors()``: those are computed, not stored. All runs in float64, on weights of fewer bits.
Norms and biases are random too, so that every number matters; embeddings are small, so that the eps
of the norms does.
"""

import math
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "clip"

# Widths differ from each other and from their transposes wherever the architecture lets them.
QUICK = {
    "projection_dim": 20,
    "text_config": {
        "hidden_size": 24,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 40,
        "max_position_embeddings": 12,
        "hidden_act": "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 2,  # legacy: the largest id of a row is its end
    },
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
        "hidden_act": "quick_gelu",
    },
}
QUICK_IDS = [
    [37, 5, 2, 9, 39, 0, 0, 0, 0, 0, 0, 0],  # the id 2 is no end, whatever the settings say
    [37, 4, 39, 7, 39, 3, 1, 0, 0, 0, 0, 0],  # the first of two largest
    [37, 39, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
    [37, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 38],
]
GELU = {
    "projection_dim": 12,
    "text_config": {
        "hidden_size": 20,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": 30,
        "max_position_embeddings": 10,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
        "bos_token_id": 3,
        "eos_token_id": 17,
    },
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "image_size": 24,
        "patch_size": 8,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-2,
    },
}
GELU_IDS = [  # shorter than the context; larger ids before and after the end
    [3, 5, 17, 29, 28, 1, 1, 1],
    [3, 29, 4, 17, 17, 17, 17, 17],
    [3, 2, 8, 9, 10, 11, 12, 17],
    [3, 17, 6, 17, 25, 0, 0, 0],
]
OPENAI_IDS = [[47, 6, 9, 49, 0, 0], [47, 49, 0, 0, 0, 0], [47, 1, 2, 3, 4, 49]]


def openai_tensors():
    """A CLIP under OpenAI's names: heads of 64 (image, two) and 96 numbers (text, one)."""
    shapes = {
        "visual.class_embedding": (128,),
        "visual.conv1.weight": (128, 3, 4, 4),
        "visual.positional_embedding": (5, 128),
        "visual.proj": (128, 20),
        "token_embedding.weight": (50, 96),
        "positional_embedding": (6, 96),
        "text_projection": (96, 20),
        "logit_scale": (),
    }
    norms = {"visual.ln_pre": 128, "visual.ln_post": 128, "ln_final": 96}
    for blocks, width, layers in (("visual.transformer", 128, 1), ("transformer", 96, 2)):
        for i in range(layers):
            block = f"{blocks}.resblocks.{i}"
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            shapes[f"{block}.attn.in_proj_weight"] = (3 * width, width)
            shapes[f"{block}.attn.in_proj_bias"] = (3 * width,)
            for name, outputs, inputs in (
                ("attn.out_proj", width, width),
                ("mlp.c_fc", 4 * width, width),
                ("mlp.c_proj", width, 4 * width),
            ):
                shapes[f"{block}.{name}.weight"] = (outputs, inputs)
                shapes[f"{block}.{name}.bias"] = (outputs,)
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return {name: spread(name, noise(name, shape)) for name, shape in shapes.items()}


def openai_images():
    """Three images for it, in [-1, 1]."""
    return np.clip(noise("images", (3, 8, 8, 3)) / 2, -1, 1).astype(np.float32)


def noise(name, shape):
    """Uniform with variance 1, of the name and integers alone (splitmix64): the same everywhere."""
    z = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (math.sqrt(3) * (2 * (z >> np.uint64(11)) / 2**53 - 1)).reshape(shape)


def spread(name, values):
    """Weights of a sensible size for the name, which float16 holds exactly."""
    norm = any(part.startswith(("ln_", "layer_norm")) or "norm" in part for part in name.split("."))
    if "logit_scale" in name:
        values = 1.7 + 0 * values
    elif norm and name.endswith("weight"):
        values = 1 + 0.3 * values
    elif "bias" in name:
        values = 0.2 * values
    elif "embedding" in name and "patch_" not in name:
        values = 0.05 * values
    elif name in ("visual.proj", "text_projection"):
        values = values / math.sqrt(values.shape[0])
    else:
        gain = 2 if "q_proj" in name or "k_proj" in name or "in_proj" in name else 1
        values = values * gain / math.sqrt(values[0].size)
    return np.asarray(values, np.float16).astype(np.float32)


def make_hugging_face(folder, settings, ids, normalized):
    import torch
    from safetensors.numpy import save_file
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    model = CLIPModel(CLIPConfig(**settings))
    model.set_attn_implementation("eager")  # the only one that tells its attention maps
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(spread(name, noise(name, parameter.shape))))
    model.eval().save_pretrained(folder)

    side = settings["vision_config"]["image_size"]
    pixels = ((noise("pixels", (4, side, side, 3)) / math.sqrt(3) + 1) * 127.5).astype(np.uint8)
    images = (pixels / 127.5 - 1).astype(np.float32)
    if normalized:
        size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        processor = CLIPImageProcessor(**size)
        processor.save_pretrained(folder)
        pixel_values = processor(list(pixels), return_tensors="pt")["pixel_values"].double()
    else:
        pixel_values = torch.from_numpy(images).permute(0, 3, 1, 2).double()

    seen = {}

    def note(name, module, which=None):
        def keep(module, inputs, output):
            seen[name] = output if which is None else output[which]

        module.register_forward_hook(keep)

    vision, text = model.vision_model, model.text_model
    note("image.embedded", vision.pre_layrnorm)
    note("image.out", vision.post_layernorm)
    note("text.embedded", text.embeddings)
    note("text.states", text.final_layer_norm)
    for tower, part in (("image", vision), ("text", text)):
        for i, layer in enumerate(part.encoder.layers):
            note(f"{tower}.blocks.{i}", layer)
            note(f"{tower}.attention.{i}", layer.self_attn, 1)
    note("image_embeddings", model.visual_projection)
    note("text_embeddings", model.text_projection)
    model.text_projection.register_forward_pre_hook(lambda m, x: seen.update({"text.out": x[0]}))
    with torch.no_grad():
        out = model.double()(torch.tensor(ids), pixel_values, return_loss=True)
    seen |= {"logits_per_image": out.logits_per_image, "clip_loss": out.loss}
    golden = {name: np.asarray(x.numpy(), np.float32, order="C") for name, x in seen.items()}
    golden |= {"images": images, "ids": np.array(ids, np.int32)}
    save_file(golden, folder / "golden.safetensors")


def make_openai(folder):
    import torch
    from open_clip.model import build_model_from_openai_state_dict
    from safetensors.numpy import save_file

    from minidiff.clip import OPENAI_MEAN, OPENAI_STD

    tensors = {name: torch.from_numpy(x) for name, x in openai_tensors().items()}
    model = build_model_from_openai_state_dict(tensors, cast_dtype=torch.float32).double()
    images = (openai_images().astype(np.float64) + 1) / 2
    images = torch.from_numpy((images - OPENAI_MEAN) / OPENAI_STD).permute(0, 3, 1, 2)
    with torch.no_grad():
        golden = {
            "image_embeddings": model.encode_image(images),
            "text_embeddings": model.encode_text(torch.tensor(OPENAI_IDS)),
            "logits_per_image": model.get_logits(images, torch.tensor(OPENAI_IDS))[0],
        }
    golden = {name: np.asarray(x.numpy(), np.float32, order="C") for name, x in golden.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(golden, folder / "golden.safetensors")


if __name__ == "__main__":
    make_hugging_face(HERE / "quick", QUICK, QUICK_IDS, normalized=True)
    make_hugging_face(HERE / "gelu", GELU, GELU_IDS, normalized=False)
    make_openai(HERE / "openai")
