r"""One training step of our CLIP beside the same network in transformers and in open_clip.

    python benchmarks/bench_clip_step.py [--size small medium] [--quick] [--turns N] [--steps K]
        [--cores C] [--peers [NAME ...]] [--peers-python PYTHON] [--out FILE]

How the contenders take turns, and what they must agree in, is as in bench_unet_step.py: the same
weights, so the same first loss. A step is both towers on one fixed batch of random pairs, the
symmetric loss with a learned temperature (clamped after the step, as recipes do), backward,
clipping, AdamW and EMA. Peers are transformers' CLIPModel with PyTorch's fused attention (sdpa) and
open_clip's CLIP, eager, and with ``--peers all`` compiled by torch.compile as well.
"""

import math
from pathlib import Path

import numpy as np
from peer_options import parser, settle
from turns import carry_over, compare, work

# Pixels and patch: 64 patches and a class token. Both towers have the same width, layers and heads.
BOTH = {"batch": 128, "side": 32, "patch": 4, "layers": 3, "context": 16, "vocabulary": 100}
SIZES = {
    "small": {**BOTH, "width": 96, "heads": 3, "embedding": 64},
    "medium": {**BOTH, "width": 192, "heads": 6, "embedding": 64},  # four times the parameters
    # Of no use but to see whether all of this runs.
    "tiny": {**BOTH, "batch": 16, "side": 8, "layers": 1, "width": 16, "heads": 2, "embedding": 8},
}
USUAL = ("small", "medium")
ACCELERATOR_BATCH, ACCELERATOR_STEPS = 1024, 20  # times the steps of a turn
MOST_LOG_SCALE = math.log(100)
EAGER = ("transformers", "open_clip")
PEERS = {f"{name}{way}": ("torch", name) for way in ("", "+compile") for name in EAGER}
WEIGHTS = {"transformers": "model.safetensors", "open_clip": "openai_names.safetensors"}


def fixed_batch(size: dict, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (NHWC) in [-1, 1], and token ids: some words, the end, and zeros."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch, size["side"], size["side"], 3)).astype("float32")
    end, places = size["vocabulary"] - 1, np.arange(size["context"])[None]
    words = rng.integers(1, end, (batch, size["context"]))
    lengths = rng.integers(4, size["context"], (batch, 1))  # where the end stands
    ids = np.where(places < lengths, words, np.where(places == lengths, end, 0))
    return images, ids.astype("int32")


def build_ours(size: dict, folder: Path):
    """Ours; its weights lie in the folder then, under the names of each peer."""
    import minidiff  # noqa: F401  first: it sets XLA's flags  # isort: skip
    import jax
    import safetensors.numpy
    import train_steps

    from minidiff.clip import CLIP, CLIPConfig
    from minidiff.contrastive import clamp_log_scale
    from minidiff.recipes.clip import pair_loss
    from minidiff.text import TextConfig
    from minidiff.vit import ViTConfig
    from minidiff.weights import save_clip
    from minidiff.weights.mapping import write
    from minidiff.weights.openai import openai_entries

    both = {name: size[name] for name in ("width", "layers", "heads")}
    words = {"context": size["context"], "vocabulary": size["vocabulary"]}
    config = CLIPConfig(
        embedding=size["embedding"],
        image=ViTConfig(image_size=size["side"], patch=size["patch"], **both),
        text=TextConfig(end=size["vocabulary"] - 1, **words, **both),
    )
    clip = jax.jit(CLIP.init, static_argnums=1)(jax.random.key(0), config)
    clip = train_steps.shaken(clip)
    save_clip(clip, folder)
    safetensors.numpy.save_file(write(openai_entries(config), clip), folder / WEIGHTS["open_clip"])

    def constrain(clip):
        return clip.replace(log_scale=clamp_log_scale(clip.log_scale))

    batch = train_steps.batch_size(size["batch"], ACCELERATOR_BATCH)
    return train_steps.ours(clip, pair_loss, fixed_batch(size, batch), constrain)


def transformers_clip(size: dict):
    import transformers

    tower = {
        "hidden_size": size["width"],
        "intermediate_size": 4 * size["width"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "hidden_act": "gelu",
    }
    end = size["vocabulary"] - 1
    words = {"vocab_size": size["vocabulary"], "max_position_embeddings": size["context"]}
    config = transformers.CLIPConfig(
        projection_dim=size["embedding"],
        text_config={**words, "eos_token_id": end, "bos_token_id": 1, "pad_token_id": 0, **tower},
        vision_config={"image_size": size["side"], "patch_size": size["patch"], **tower},
    )
    return transformers.CLIPModel._from_config(config, attn_implementation="sdpa")


def open_clip_clip(size: dict):
    model = open_clip_model()
    both = {"layers": size["layers"], "width": size["width"]}
    image = model.CLIPVisionCfg(
        head_width=size["width"] // size["heads"],
        patch_size=size["patch"],
        image_size=size["side"],
        **both,
    )
    words = {"context_length": size["context"], "vocab_size": size["vocabulary"]}
    text = model.CLIPTextCfg(heads=size["heads"], **words, **both)
    return model.CLIP(size["embedding"], image, text)


def open_clip_model():
    """The module ``open_clip.model``.

    The package as a whole needs torchvision for image files and ResNets, its CLIP with a ViT does
    not: where torchvision is missing, the module is imported without the package's own __init__.
    """
    import contextlib
    import importlib
    import importlib.util
    import sys
    import types

    if not importlib.util.find_spec("torchvision"):
        with contextlib.suppress(ImportError):
            import transformers  # noqa: F401  it looks for torchvision: before there seems to be one
        package = types.ModuleType("open_clip")
        package.__path__ = list(importlib.util.find_spec("open_clip").submodule_search_locations)
        sys.modules["open_clip"] = package
        for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})
    return importlib.import_module("open_clip.model")


def build_peer(size: dict, name: str, folder: Path, device: str):
    import importlib.metadata

    import torch
    import train_steps

    library, _, compiled = name.partition("+")
    clip = transformers_clip(size) if library == "transformers" else open_clip_clip(size)
    carry_over(clip, folder / WEIGHTS[library])
    clip = clip.to(device).train()
    batch = size["batch"] if device == "cpu" else ACCELERATOR_BATCH
    images, ids = (torch.from_numpy(a).to(device) for a in fixed_batch(size, batch))
    images, ids = images.permute(0, 3, 1, 2).contiguous(), ids.long()
    network = torch.compile(clip) if compiled else clip
    pairs = torch.arange(batch, device=device)

    def transformers_loss():
        return network(input_ids=ids, pixel_values=images, return_loss=True).loss

    def open_clip_loss():  # as its ClipLoss, for one device
        image, text, scale = network(images, ids)
        logits = scale * image @ text.T
        cross_entropy = torch.nn.functional.cross_entropy
        return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2

    def constrain():
        clip.logit_scale.clamp_(0, MOST_LOG_SCALE)

    loss = transformers_loss if library == "transformers" else open_clip_loss
    take, facts = train_steps.peer(clip, loss, device, constrain)
    package = {"open_clip": "open_clip_torch"}.get(library, library)
    facts[library] = importlib.metadata.version(package)
    return take, facts


def main() -> None:
    made = parser(__doc__, PEERS, turns=15, steps=3, unit="steps")
    made.add_argument(
        "--size", choices=SIZES, nargs="+", help="default: small medium; small if --quick"
    )
    args = made.parse_args()
    settle(made, args, PEERS, EAGER)
    names = args.size or (["small"] if args.quick else USUAL)
    size = SIZES[names[0]]
    if args.worker == "ours":
        return work(lambda: build_ours(size, args.weights), args.cores)
    if args.worker:
        return work(lambda: build_peer(size, args.worker, args.weights, args.device), args.cores)
    for name in dict.fromkeys(names):
        key, options = f"clip_step_{name}", ["--size", name]
        compare(args, __file__, key, options, SIZES[name], accelerated=ACCELERATOR_STEPS)


if __name__ == "__main__":
    main()
