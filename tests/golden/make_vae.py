"""Write vae/: tiny autoencoders with random weights, and everything that diffusers computes with them.

    python tests/golden/make_vae.py        # after pip install -e ".[bench]"

Three AutoencoderKL: ``plain`` as Stable Diffusion's, ``old`` with attention at a level and its names of
before diffusers 0.15, ``bare`` without the convolutions beside z and attention in the middle. All runs
in float64, on weights that float16 holds exactly (``old`` is stored so, as a variant). Norms and biases
are random too, so that every number matters. full.json says which tensors the published ones have.
"""

import json
from pathlib import Path

import numpy as np
from make_clip import noise
from make_unet import manifest, spread

HERE = Path(__file__).parent / "vae"
SIDE = 12  # neither a power of two nor, with the other side, a square
WIDE = 8

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
PLAIN = {
    "block_out_channels": (4, 6, 8),
    "down_block_types": (DOWN,) * 3,
    "up_block_types": (UP,) * 3,
    "layers_per_block": 2,
    "latent_channels": 2,
    "norm_num_groups": 2,
    "scaling_factor": 0.25,
}
OLD = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (6, 4),
    "down_block_types": (DOWN, f"Attn{DOWN}"),
    "up_block_types": (f"Attn{UP}", UP),
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 2,
}
BARE = {
    "block_out_channels": (4, 4),
    "down_block_types": (DOWN,) * 2,
    "up_block_types": (UP,) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": False,
}
FULL = {
    "kl-f8": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": (DOWN,) * 4,
        "up_block_types": (UP,) * 4,
        "layers_per_block": 2,
    },
    "kl-f16": {
        "block_out_channels": (128, 128, 256, 256, 512),
        "down_block_types": (DOWN,) * 4 + (f"Attn{DOWN}",),
        "up_block_types": (f"Attn{UP}",) + (UP,) * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
    },
}
NEW_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def make(folder, settings, old=False):
    import torch
    from diffusers import AutoencoderKL
    from safetensors.numpy import load_file, save_file

    model = AutoencoderKL(**settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(spread(name, noise(name, parameter.shape))))
    model.eval()
    (model.half() if old else model).save_pretrained(folder, variant="fp16" if old else None)
    if old:
        path = folder / "diffusion_pytorch_model.fp16.safetensors"
        tensors = {}
        for name, x in load_file(path).items():
            for new, former in NEW_NAMES.items():
                name = name.replace(f".{new}.", f".{former}.") if ".attentions." in name else name
            tensors[name] = x
        save_file(tensors, path, {"format": "pt"})
    model.double()

    seen = {}

    def note(name, module):
        module.register_forward_hook(lambda module, inputs, output: seen.update({name: output}))

    for tower, side in (("encoder", "down"), ("decoder", "up")):
        part = getattr(model, tower)
        note(f"{tower}.conv_in", part.conv_in)
        for n, level in enumerate(getattr(part, f"{side}_blocks")):
            attentions = getattr(level, "attentions", None)
            for i, last in enumerate(attentions if attentions else level.resnets):
                note(f"{tower}.{side}.{n}.blocks.{i}", last)
            if resamplers := getattr(level, f"{side}samplers"):
                note(f"{tower}.{side}.{n}.resample", resamplers[0])
        note(f"{tower}.middle", part.mid_block)
        note(f"{tower}.out", part)
    images = noise("images", (2, settings.get("in_channels", 3), SIDE, WIDE))
    images = np.float32(np.clip(images, -1, 1))
    with torch.no_grad():
        posterior = model.encode(torch.from_numpy(images).double()).latent_dist
        z = posterior.mode()
        seen |= {"images": torch.from_numpy(images), "mean": z, "log_variance": posterior.logvar}
        seen["kl"] = posterior.kl()
        seen["decoded"] = model.decode(z).sample
    golden = {
        name: np.asarray(
            x.numpy().transpose(0, 2, 3, 1) if x.ndim == 4 else x.numpy(), np.float32, order="C"
        )
        for name, x in seen.items()
    }
    save_file(golden, folder.with_suffix(".safetensors"))


if __name__ == "__main__":
    from diffusers import AutoencoderKL

    make(HERE / "plain", PLAIN)
    make(HERE / "old", OLD, old=True)
    make(HERE / "bare", BARE)
    full = {name: manifest(AutoencoderKL, settings) for name, settings in FULL.items()}
    (HERE / "full.json").write_text(json.dumps(full, indent=2) + "\n")
