r"""One training step of our U-Net beside the same network in diffusers.

    python benchmarks/bench_unet_step.py [--size small large] [--quick] [--turns N] [--steps K]
        [--cores C] [--peers [NAME ...]] [--peers-python PYTHON] [--out FILE]

Every contender is a process of its own. They take turns: K steps of ours, K steps of each peer, and
again, so that what else the machine does falls on all of them. Even so, leave the machine alone, or
give --cores 1: PyTorch's threads wait for each other, so that one held up by another program holds
up all, and its two-core times on a busy machine are several times too long.

A step is forward, backward, clipping, AdamW and EMA on one fixed batch, in float32; on an accelerator
in bfloat16 with float32 weights, and a larger batch. All begin with the same weights. Before anything
is timed, every contender must have the same number of parameters, the same first loss, and a loss
that falls. Peers are diffusers' UNet2DModel in PyTorch's two memory formats, eager, and with
``--peers all`` compiled by torch.compile as well. Without PyTorch and diffusers, ours alone is timed.
"""

from pathlib import Path

import numpy as np
from peer_options import parser, settle
from turns import carry_over, compare, work

SIZES = {  # side, batch, channels of each level; one ResBlock a level, attention in the middle
    "small": {"side": 16, "batch": 64, "channels": (32, 64, 64)},
    "large": {"side": 32, "batch": 32, "channels": (48, 96, 96)},
}
ACCELERATOR_BATCH, ACCELERATOR_STEPS = 256, 20  # times the steps of a turn
GROUPS = 8
EAGER = ("contiguous", "channels_last")  # PyTorch's two memory formats
COMPILED = tuple(f"{name}+compile" for name in EAGER)
PEERS = dict.fromkeys(
    (*EAGER, *COMPILED), ("torch", "diffusers")
)  # and the modules that each needs
WEIGHTS = "diffusion_pytorch_model.safetensors"


def fixed_batch(size: dict, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy images (NHWC), their t, and the noise in them that is to be predicted."""
    rng = np.random.default_rng(0)
    shape = (batch, size["side"], size["side"], 3)
    x0, eps = rng.uniform(-1, 1, shape), rng.normal(size=shape)
    xt = np.sqrt(0.5) * x0 + np.sqrt(0.5) * eps
    return xt.astype("float32"), rng.integers(0, 1000, batch), eps.astype("float32")


def our_unet(size: dict, folder: Path):
    """Our network, whose weights now lie in the folder, under diffusers' names."""
    import minidiff  # noqa: F401  first: it sets XLA's flags  # isort: skip
    import jax
    from train_steps import shaken

    from minidiff.unet import UNet, UNetConfig
    from minidiff.weights import save_unet

    config = UNetConfig(channels=size["channels"], groups=GROUPS)
    unet = shaken(jax.jit(UNet.init, static_argnums=1)(jax.random.key(0), config))
    save_unet(unet, folder, side=size["side"])
    return unet


def their_unet(size: dict, layout: str, folder: Path, device: str):
    """(the network in diffusers with our weights, its memory format); ``layout`` is one of EAGER."""
    import diffusers
    import torch

    memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
    unet = diffusers.UNet2DModel(
        sample_size=size["side"],
        block_out_channels=size["channels"],
        layers_per_block=1,
        norm_num_groups=GROUPS,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=size["channels"][-1],  # the width of a head: one head, as ours
        # The order of sines and cosines, and their frequencies, as ours.
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    carry_over(unet, folder / WEIGHTS)
    return unet.to(device=device, memory_format=memory_format), memory_format


def build_ours(size: dict, folder: Path):
    unet = our_unet(size, folder)
    import jax.numpy as jnp
    import train_steps

    def loss(unet, xt, t, eps):
        return jnp.mean(jnp.square(unet(xt, t).astype(jnp.float32) - eps))

    batch = train_steps.batch_size(size["batch"], ACCELERATOR_BATCH)
    return train_steps.ours(unet, loss, fixed_batch(size, batch))


def build_peer(size: dict, name: str, folder: Path, device: str):
    import diffusers
    import torch
    import train_steps

    layout, _, compiled = name.partition("+")
    unet, memory_format = their_unet(size, layout, folder, device)
    batch = size["batch"] if device == "cpu" else ACCELERATOR_BATCH
    xt, t, eps = (torch.from_numpy(a).to(device) for a in fixed_batch(size, batch))
    xt, eps = (a.permute(0, 3, 1, 2).contiguous(memory_format=memory_format) for a in (xt, eps))
    network = torch.compile(unet) if compiled else unet

    def loss():
        return torch.nn.functional.mse_loss(network(xt, t).sample.float(), eps)

    take, facts = train_steps.peer(unet, loss, device)
    facts["diffusers"] = diffusers.__version__
    return take, facts


def main() -> None:
    made = parser(__doc__, PEERS, turns=20, steps=3, unit="steps")
    made.add_argument("--size", choices=SIZES, nargs="+", help="default: both; small if --quick")
    args = made.parse_args()
    settle(made, args, PEERS, EAGER)
    names = args.size or (["small"] if args.quick else list(SIZES))
    size = SIZES[names[0]]
    if args.worker == "ours":
        return work(lambda: build_ours(size, args.weights), args.cores)
    if args.worker:
        return work(lambda: build_peer(size, args.worker, args.weights, args.device), args.cores)
    for name in dict.fromkeys(names):
        key, options = f"unet_step_{name}", ["--size", name]
        compare(args, __file__, key, options, SIZES[name], accelerated=ACCELERATOR_STEPS)


if __name__ == "__main__":
    main()
