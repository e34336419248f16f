"""Write pipeline/: tiny Stable Diffusions with random weights, and what diffusers draws with them.

    python tests/golden/make_pipeline.py        # after pip install -e ".[bench]"

``one`` is built as generation 1 (quick GELU, padding with the end token, convolutions around
transformers, PNDM, eps), ``two`` as generation 2 (GELU, padding with "!", Linear around transformers,
DDIM, v), each as it saves itself. All runs in float64, on weights that float16 holds exactly and that
are stored so. The noise of the start is computed, not stored. full.json says which tensors the text
encoders of full size have.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.make_clip import noise

HERE = Path(__file__).parent / "pipeline"
SIDE, STEPS, SCALE, STRENGTH = 16, 8, 3.0, 0.5
ROW = 12  # tokens of a text
LATENT = (2, 8, 8, 4)
PROMPTS = ["a photo of a cat!", "a hat"]
NEGATIVE = "hello toy"
SAMPLERS = {  # ours: theirs, and what it is told beside the folder's settings
    "ddim": ("DDIM", {"clip_sample": False}),  # as the pipeline makes it when it is opened
    "plms": ("PNDM", {"skip_prk_steps": True}),
    "euler": ("EulerDiscrete", {}),
    "dpm++": ("DPMSolverMultistep", {}),
}
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 530

NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
TEXT = {
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": ROW,
    "bos_token_id": VOCABULARY - 2,
}
UNET = {
    "block_out_channels": (4, 6),
    "down_block_types": DOWN,
    "up_block_types": UP,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": LATENT[1],
}
VAE = {
    "block_out_channels": (2, 4),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
GENERATIONS = {
    "one": {
        "text": {
            "hidden_size": 12,
            "num_hidden_layers": 2,
            "eos_token_id": 2,
            "projection_dim": 12,
        },
        "unet": {"cross_attention_dim": 12, "attention_head_dim": 2},
        "vae": {},
        "scheduler": ("PNDM", {"skip_prk_steps": True}),
        "tokenizer": {"pad_token": END},
    },
    "two": {
        "text": {
            "hidden_size": 8,
            "num_hidden_layers": 3,
            "hidden_act": "gelu",
            "eos_token_id": VOCABULARY - 1,
            "projection_dim": 7,
        },
        "unet": {
            "cross_attention_dim": 8,
            "attention_head_dim": (2, 3),
            "use_linear_projection": True,
        },
        "vae": {"scaling_factor": 0.5},
        "scheduler": ("DDIM", {"clip_sample": False, "prediction_type": "v_prediction"}),
        "tokenizer": {"pad_token": "!"},
    },
}
FULL = {
    "stable-diffusion-1": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "stable-diffusion-2": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}


def picture():
    """What image-to-image begins with, in [-1, 1]."""
    return np.float32(np.clip(noise("picture", (2, SIDE, SIDE, 3)), -1, 1))


def pixels(x):
    """PyTorch's order of axes as ours."""
    return np.asarray(x.permute(0, 2, 3, 1).numpy(), np.float32, order="C")


def theirs(x):
    """Ours as PyTorch's, in float64."""
    import torch

    return torch.from_numpy(x.transpose(0, 3, 1, 2)).double()


def build(settings):
    """A pipeline with random weights."""
    import diffusers
    import torch
    import transformers
    from make_published import write_tokenizer
    from make_unet import spread

    kind, told = settings["scheduler"]
    folder = HERE / "words"
    folder.mkdir()
    facts = {"bos_token": START, "eos_token": END, "unk_token": END, "model_max_length": ROW}
    write_tokenizer(folder, {"tokenizer_config.json": facts | settings["tokenizer"]})
    parts = {
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**TEXT, **settings["text"])
        ),
        "unet": diffusers.UNet2DConditionModel(**UNET, **settings["unet"]),
        "vae": diffusers.AutoencoderKL(**VAE, **settings["vae"]),
        "scheduler": getattr(diffusers, f"{kind}Scheduler")(**NOISE, **told),
    }
    shutil.rmtree(folder)
    for part in ("text_encoder", "unet", "vae"):
        with torch.no_grad():
            for name, parameter in parts[part].named_parameters():
                full = f"{part}.{name}"
                parameter.copy_(torch.from_numpy(spread(full, noise(full, parameter.shape))))
        parts[part].eval()
    nothing = {"safety_checker": None, "feature_extractor": None}
    return diffusers.StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False)


def make(name, settings):
    import diffusers
    import torch
    from safetensors.numpy import save_file

    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    pipeline = build(settings)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    pipeline.to(torch.float64)
    pipeline.set_progress_bar_config(disable=True)

    rows = pipeline.tokenizer(
        [*PROMPTS, NEGATIVE], padding="max_length", max_length=ROW, return_tensors="pt"
    )["input_ids"]
    found = {"ids": rows.numpy().astype(np.int32)}
    common = {
        "prompt": PROMPTS,
        "negative_prompt": [NEGATIVE] * 2,
        "num_inference_steps": STEPS,
        "guidance_scale": SCALE,
        "output_type": "latent",
    }

    def decoded(latents):
        return pixels(pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample)

    with torch.no_grad():
        found["states"] = pipeline.text_encoder(rows)[0].numpy().astype(np.float32)
        usual = pipeline.scheduler
        for sampler, (kind, told) in SAMPLERS.items():
            if sampler == "plms" and usual.config.prediction_type != "epsilon":
                continue  # theirs mixes what the network says, ours what it means
            kind = getattr(diffusers, f"{kind}Scheduler")
            pipeline.scheduler = kind.from_config(dict(usual.config), **told)
            latents = pipeline(latents=theirs(noise("start", LATENT)), **common).images
            found[f"{sampler}.latents"] = pixels(latents)
            found[f"{sampler}.images"] = decoded(latents)
        kind, told = SAMPLERS["ddim"]
        kind = getattr(diffusers, f"{kind}Scheduler")
        pipeline.scheduler = kind.from_config(dict(usual.config), **told)
        other = diffusers.StableDiffusionImg2ImgPipeline(**pipeline.components)
        other.set_progress_bar_config(disable=True)
        z = pipeline.vae.encode(theirs(picture())).latent_dist.mode()
        z *= pipeline.vae.config.scaling_factor
        found["encoded"] = pixels(z)
        # The mode, for theirs draws; and a given noise.
        other.prepare_latents = lambda image, t, *_: other.scheduler.add_noise(
            z, theirs(noise("start", LATENT)), t
        )
        latents = other(image=theirs(picture()), strength=STRENGTH, **common).images
        found["img2img.latents"], found["img2img.images"] = pixels(latents), decoded(latents)
    save_file(found, folder.with_suffix(".safetensors"))


if __name__ == "__main__":
    import transformers
    from make_unet import manifest

    HERE.mkdir(exist_ok=True)
    for name, settings in GENERATIONS.items():
        make(name, settings)
    full = {
        name: manifest(
            lambda **told: transformers.CLIPTextModel(transformers.CLIPTextConfig(**told)), told
        )
        for name, told in FULL.items()
    }
    (HERE / "full.json").write_text(json.dumps(full, indent=2) + "\n")
