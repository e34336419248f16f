r"""One training step of our U-Net beside the same network in diffusers, on the CPU.

    python benchmarks/bench_unet_step.py [--size small|large] [--turns N] [--steps K] [--cores C]
                                         [--peers [NAME ...]] [--out FILE]

Every contender is a process of its own. They take turns: K steps of ours, K steps of each peer, and
again, so that what else the machine does falls on all of them. Even so, leave the machine alone, or
give --cores 1: PyTorch's threads wait for each other, so that one held up by another program holds
up all, and its two-core times on a busy machine are several times too long.

A step is forward, backward, clipping, AdamW and EMA on one fixed batch, in float32. Before anything
is timed, every contender must have the same number of parameters and a loss that is finite and
falls. Without PyTorch and diffusers, ours alone is timed.
"""

import argparse
import datetime
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
from turns import Contender, Parser, at_least, save, table, work

SIZES = {  # side, batch, channels of each level; one ResBlock a level, attention in the middle
    "small": {"side": 16, "batch": 64, "channels": (32, 64, 64)},
    "large": {"side": 32, "batch": 32, "channels": (48, 96, 96)},
}
LEARNING_RATE, WEIGHT_DECAY, CLIP, EMA_DECAY, GROUPS = 1e-3, 0.01, 1.0, 0.999, 8
EAGER = ("contiguous", "channels_last")  # PyTorch's two memory formats
PEERS = (*EAGER, "contiguous+compile", "channels_last+compile")


def fixed_batch(size: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy images (NHWC), their t, and the noise in them that is to be predicted."""
    rng = np.random.default_rng(0)
    shape = (size["batch"], size["side"], size["side"], 3)
    x0, eps = rng.uniform(-1, 1, shape), rng.normal(size=shape)
    xt = np.sqrt(0.5) * x0 + np.sqrt(0.5) * eps
    return xt.astype("float32"), rng.integers(0, 1000, size["batch"]), eps.astype("float32")


def build_ours(size: dict):
    """(take, facts): take(k) does k steps, waits for them, and returns the loss."""
    import minidiff  # first: it sets XLA's flags  # isort: skip
    import jax
    import jax.numpy as jnp
    from flax import struct

    from minidiff.layers import count_parameters
    from minidiff.training.state import TrainState, make_optimizer, make_train_step
    from minidiff.unet import UNet, UNetConfig

    @struct.dataclass
    class FixedBatch:
        arrays: tuple[jax.Array, ...]

        def batch(self, step):
            return self.arrays

    def loss(key, model, batch):
        xt, t, eps = batch
        return jnp.mean(jnp.square(model(xt, t) - eps))

    config = UNetConfig(channels=size["channels"], groups=GROUPS)
    unet = jax.jit(UNet.init, static_argnums=1)(jax.random.key(0), config)
    optimizer = make_optimizer(
        10_000, LEARNING_RATE, warmup=1, weight_decay=WEIGHT_DECAY, clip=CLIP
    )
    train_step = make_train_step(loss, optimizer, ema_decay=EMA_DECAY)
    source = FixedBatch(tuple(map(jnp.asarray, fixed_batch(size))))
    state, key = TrainState.init(unet, optimizer), jax.random.key(1)

    def take(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = train_step(key, state, source)
        jax.block_until_ready(state)
        return float(metrics["loss"][-1])

    machine = minidiff.runtime.describe()
    del machine["cache_dir"], machine["cache_bytes"]
    return take, {"parameters": count_parameters(unet), "machine": machine}


def build_peer(size: dict, layout: str):
    """The same, in PyTorch; ``layout`` is one of PEERS, and "+compile" after it compiles it."""
    import diffusers
    import torch

    layout, _, compiled = layout.partition("+")
    memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=size["side"],
        block_out_channels=size["channels"],
        layers_per_block=1,
        norm_num_groups=GROUPS,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=size["channels"][-1],  # the width of a head: one head, as ours
    ).to(memory_format=memory_format)
    weights = list(unet.parameters())
    ema = [w.detach().clone() for w in weights]
    optimizer = torch.optim.AdamW(
        weights, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
    )
    xt, t, eps = (torch.from_numpy(a) for a in fixed_batch(size))
    xt, eps = (a.permute(0, 3, 1, 2).contiguous(memory_format=memory_format) for a in (xt, eps))
    network = torch.compile(unet) if compiled else unet

    def take(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.mse_loss(network(xt, t).sample, eps)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            torch._foreach_lerp_(ema, [w.detach() for w in weights], 1 - EMA_DECAY)
        return loss.item()

    return take, {
        "parameters": sum(w.numel() for w in weights),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
    }


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--turns", type=at_least(2), default=20, help="turns each contender takes")
    parser.add_argument("--steps", type=at_least(1), default=3, help="steps in a turn")
    parser.add_argument("--cores", type=at_least(1), help="cores to use (Linux); default: all")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="none named: ours alone")
    parser.add_argument("--out", type=Path, help="JSON to write or add to; see README.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cores and not hasattr(os, "sched_setaffinity"):
        parser.error("--cores works on Linux only")
    installed = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    if args.peers and not installed:
        parser.error("--peers needs torch and diffusers, which are not installed here")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent}")
    if args.peers is None:
        args.peers = EAGER if installed else ()
        if not installed and not args.worker:  # a worker's output is read as answers
            print("torch and diffusers are not installed here: timing ours alone")
    return args


def main() -> None:
    args = arguments()
    size = SIZES[args.size]
    if args.worker == "ours":
        return work(lambda: build_ours(size), args.cores)
    if args.worker:
        return work(lambda: build_peer(size, args.worker), args.cores)

    contenders = []
    for name in ("ours", *args.peers):
        command = [__file__, "--worker", name, "--size", args.size]
        command += ["--cores", str(args.cores)] if args.cores else []
        contenders.append(Contender(name, command))
    ours = contenders[0]
    counts = {c.name: c.facts["parameters"] for c in contenders}
    if len(set(counts.values())) > 1:
        sys.exit(f"not the same network, so not timed: parameters {counts}")
    for _ in range(args.turns):
        for contender in contenders:
            contender.turn(args.steps)

    machine = ours.facts.pop("machine")
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/bench_unet_step.py", *sys.argv[1:]]),
        **size,
        "cores": args.cores or machine["cpu_count"],
        "steps_per_turn": args.steps,
        "machine": machine,
        "contenders": {c.name: c.report(ours) for c in contenders},
    }
    print(f"{machine['cpu']}, {result['cores']} cores; {counts['ours']:,} parameters, {size}")
    print(table(result["contenders"]))
    key = f"unet_step_{args.size}_{result['cores']}_cores"
    print(f"wrote {save(args.out, key, machine, result)}")


if __name__ == "__main__":
    main()
