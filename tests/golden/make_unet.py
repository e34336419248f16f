"""Write unet/: tiny U-Nets with random weights, and everything that diffusers computes with them.

    python tests/golden/make_unet.py        # after pip install -e ".[bench]"

Two UNet2DModel (``ddpm``, ``heads``) and two UNet2DConditionModel (``latent``, ``linear``), each as
it saves itself, with the output of every block beside it. All runs in float64, on weights
that float16 holds exactly (``heads`` and ``linear`` are stored so, as variants). Norms and biases are
random too, so that every number matters. full.json says which tensors the networks of full size have,
which are built without memory: their number, their numbers and a hash of names and shapes.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from make_clip import noise

HERE = Path(__file__).parent / "unet"
SIDE = 8

# They differ in everything that we read; numbers of channels differ wherever the architecture lets
# them. ``small`` makes what reaches the first transformer so small that the eps of its norm matters.
DDPM = {  # as google/ddpm-cifar10-32: one head, sines first, zeros at the far edge
    "block_out_channels": (6, 10, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "norm_num_groups": 2,
    "norm_eps": 1e-3,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
HEADS = {  # the class's defaults where they can be: cosines first, heads of a fixed width
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
LATENT = {  # as Stable Diffusion 1: a number of heads, convolutions around transformers
    "block_out_channels": (6, 10),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 9,
    "norm_num_groups": 2,
}
LINEAR = {  # as Stable Diffusion 2: heads of one width, Linear around transformers; and a pooled text
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (6, 12),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 7,
    "norm_num_groups": 2,
    "norm_eps": 1e-2,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "use_linear_projection": True,
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 5,
}
FULL = {
    "ddpm-cifar10": {  # google/ddpm-cifar10-32
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "stable-diffusion-1": {"cross_attention_dim": 768},  # the rest are the class's defaults
}
LAST = ("conv2.", "to_out.", "ff.net.2.", "proj_out.")  # layers whose output is added to something


def spread(name, values):
    """Weights of a sensible size for the name, which float16 holds exactly."""
    norm = "norm" in name.split(".")[-2]
    if norm and name.endswith("weight"):
        values = 1 + 0.3 * values
    elif name.endswith("bias"):
        values = 0.2 * values
    else:
        gain = 2 if "to_q" in name or "to_k" in name else 1
        if any(part in name for part in LAST):
            gain = 0.5  # else sums of sums grow, and float32's roundings with them
        values = values * gain / math.sqrt(values[0].size)
    return np.asarray(values, np.float16).astype(np.float32)


def small(name):
    """Of ``latent``: what the input of the first transformer is made of."""
    return name.startswith(("conv_in", "down_blocks.0.resnets.0.conv2"))


def make(folder, kind, settings, variant=None, shrink=False):
    import torch
    from safetensors.numpy import save_file

    model = kind(sample_size=SIDE, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = spread(name, noise(name, parameter.shape))
            if shrink and small(name):
                values = (values / 1024).astype(np.float16).astype(np.float32)
            parameter.copy_(torch.from_numpy(values))
    model.eval()
    (model.half() if variant else model).save_pretrained(folder, variant=variant)
    model.double()

    seen = {}

    def note(name, module):
        def keep(module, inputs, output):
            seen[name] = output[0] if isinstance(output, tuple) else output

        module.register_forward_hook(keep)

    def keep_time(module, inputs):
        seen["time"] = inputs[1]

    model.down_blocks[0].resnets[0].register_forward_pre_hook(keep_time)
    note("conv_in", model.conv_in)
    for side in ("down", "up"):
        for n, level in enumerate(getattr(model, f"{side}_blocks")):
            for i, last in enumerate(getattr(level, "attentions", level.resnets)):
                note(f"{side}.{n}.blocks.{i}", last)
            if resamplers := getattr(level, f"{side}samplers"):
                note(f"{side}.{n}.resample", resamplers[0])
    note("middle", model.mid_block)
    note("out", model)

    inputs = {
        "images": noise("images", (2, settings.get("in_channels", channels(kind)), SIDE, SIDE)),
        "t": np.array([3.0, 57.0]),
    }
    keywords = {}
    if "cross_attention_dim" in settings:
        inputs["states"] = noise("states", (2, 5, settings["cross_attention_dim"]))
        keywords["encoder_hidden_states"] = inputs["states"]
    if "class_embed_type" in settings:
        width = settings["projection_class_embeddings_input_dim"]
        inputs["pooled"] = keywords["class_labels"] = noise("pooled", (2, width))
    inputs = {name: np.float32(x) for name, x in inputs.items()}
    keywords = {name: torch.from_numpy(np.float32(x)).double() for name, x in keywords.items()}
    with torch.no_grad():
        images, t = (torch.from_numpy(inputs[name]).double() for name in ("images", "t"))
        model(images, t, **keywords, return_dict=False)
    golden = {name: x.numpy() for name, x in seen.items()} | inputs
    golden = {
        name: np.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x, np.float32, order="C")
        for name, x in golden.items()
    }
    save_file(golden, folder.with_suffix(".safetensors"))


def channels(kind):
    return {"UNet2DModel": 3, "UNet2DConditionModel": 4}[kind.__name__]


def manifest(kind, settings):
    """What is in the file of a network: too many names to keep, so their hash."""
    import torch

    with torch.device("meta"):
        tensors = kind(**settings).state_dict()
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    return {
        "tensors": len(tensors),
        "numbers": sum(tensor.numel() for tensor in tensors.values()),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


if __name__ == "__main__":
    from diffusers import UNet2DConditionModel, UNet2DModel

    make(HERE / "ddpm", UNet2DModel, DDPM)
    make(HERE / "heads", UNet2DModel, HEADS, variant="fp16")
    make(HERE / "latent", UNet2DConditionModel, LATENT, shrink=True)
    make(HERE / "linear", UNet2DConditionModel, LINEAR, variant="fp16")
    kinds = {"ddpm-cifar10": UNet2DModel, "stable-diffusion-1": UNet2DConditionModel}
    full = {name: manifest(kinds[name], settings) for name, settings in FULL.items()}
    (HERE / "full.json").write_text(json.dumps(full, indent=2) + "\n")
