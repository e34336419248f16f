r"""Sixteen images by our samplers beside diffusers' pipelines, with the same small U-Net.

    python benchmarks/bench_sampling.py [--sampler ddpm ddim] [--calls N] [--quick] [--turns N]
        [--steps K] [--cores C] [--peers [NAME ...]] [--peers-python PYTHON] [--out FILE]

DDPM calls the network 1000 times, DDIM 50 times, for all images at once; ``--calls`` asks for fewer
or more, in proportion to which both sides' times are. K is how often in a turn all images are drawn.
The contenders take turns as in bench_unet_step.py and have the same weights: one call of the network
on a fixed batch must agree, and the images must be finite and of the right shape. "First step"
includes compilation. Peers are DDPMPipeline and DDIMPipeline with UNet2DModel, without a progress
bar, under torch.inference_mode, in PyTorch's two memory formats, eager, and with ``--peers all``
compiled by torch.compile as well.
"""

from pathlib import Path

from bench_unet_step import EAGER, PEERS, fixed_batch, our_unet, their_unet
from peer_options import parser, settle
from turns import compare, work

SIZE = {"side": 16, "batch": 16, "channels": (32, 64, 64)}
CALLS = {"ddpm": 1000, "ddim": 50}
QUICK_CALLS = 5
WARM_UP = 1  # a whole drawing


def checked(images) -> float:
    """The mean square of the images, NaN or infinite if one pixel is. Unlike shapes: ValueError."""
    import numpy as np

    images = np.asarray(images, "float64")
    if images.shape != (SIZE["batch"], SIZE["side"], SIZE["side"], 3):
        raise ValueError(f"the images are shaped {images.shape}")
    return float(np.mean(np.square(images)))


def build_ours(sampler: str, calls: int, folder: Path):
    unet = our_unet(SIZE, folder)
    import jax
    import jax.numpy as jnp
    import train_steps

    from minidiff.layers import count_parameters
    from minidiff.sampling import ddim_sample, ddpm_sample
    from minidiff.schedules import linear_schedule

    accelerated = jax.default_backend() != "cpu"
    if accelerated:
        from minidiff.training.state import cast

        unet = cast(unet, "bfloat16")
    schedule = linear_schedule(CALLS["ddpm"])
    shape = (SIZE["batch"], SIZE["side"], SIZE["side"], 3)
    sample = {"ddpm": ddpm_sample, "ddim": ddim_sample}[sampler]
    xt, t, _ = map(jnp.asarray, fixed_batch(SIZE, SIZE["batch"]))
    probe = jax.jit(lambda unet: jnp.mean(jnp.square(unet(xt, t).astype(jnp.float32))))(unet)
    facts = {"parameters": count_parameters(unet), "probe": float(probe)}
    facts["machine"] = train_steps.machine()
    drawn = 0

    def take(times: int) -> float:
        nonlocal drawn
        for _ in range(times):
            drawn += 1
            # None is every step of the schedule, without respacing it.
            steps = None if calls == schedule.steps and sampler == "ddpm" else calls
            images = sample(jax.random.key(drawn), unet, schedule, shape, steps=steps)
            images.block_until_ready()
        return checked(images)

    return take, facts


def build_peer(sampler: str, calls: int, name: str, folder: Path, device: str):
    import diffusers
    import torch

    layout, _, compiled = name.partition("+")
    unet, memory_format = their_unet(SIZE, layout, folder, device)
    unet = unet.eval()
    facts = {
        "parameters": sum(w.numel() for w in unet.parameters()),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
    }
    if device == "cuda":
        unet = unet.to(torch.bfloat16)
    xt, t, _ = (torch.from_numpy(a).to(device) for a in fixed_batch(SIZE, SIZE["batch"]))
    xt = xt.permute(0, 3, 1, 2).contiguous(memory_format=memory_format).to(unet.dtype)
    with torch.inference_mode():
        facts["probe"] = unet(xt, t).sample.float().square().mean().item()
    kinds = {
        "ddpm": (diffusers.DDPMPipeline, diffusers.DDPMScheduler, {"variance_type": "fixed_large"}),
        "ddim": (diffusers.DDIMPipeline, diffusers.DDIMScheduler, {}),
    }
    pipeline, scheduler, settings = kinds[sampler]
    schedule = scheduler(CALLS["ddpm"], clip_sample=False, **settings)  # as ours: no clipping
    pipe = pipeline(unet=torch.compile(unet) if compiled else unet, scheduler=schedule)
    pipe.set_progress_bar_config(disable=True)

    def take(times: int) -> float:
        for _ in range(times):
            with torch.inference_mode():
                size, how = SIZE["batch"], {"num_inference_steps": calls, "output_type": "np"}
                images = pipe(batch_size=size, **how).images
        return checked(images)

    return take, facts


def main() -> None:
    from turns import at_least

    made = parser(__doc__, PEERS, turns=5, steps=1, unit="drawings of all images")
    made.add_argument("--sampler", choices=CALLS, nargs="+", help="default: both")
    made.add_argument("--calls", type=at_least(1), help="of the network; default: 1000 and 50")
    args = made.parse_args()
    settle(made, args, PEERS, EAGER)
    if args.calls and args.calls > CALLS["ddpm"]:
        made.error(f"--calls {args.calls}: the schedule has {CALLS['ddpm']} steps")
    samplers = list(dict.fromkeys(args.sampler or CALLS))
    if args.worker == "ours":
        build = lambda: build_ours(samplers[0], args.calls, args.weights)  # noqa: E731
        return work(build, args.cores, WARM_UP)
    if args.worker:
        rest = (args.worker, args.weights, args.device)
        return work(lambda: build_peer(samplers[0], args.calls, *rest), args.cores, WARM_UP)
    for name in samplers:
        calls = args.calls or (QUICK_CALLS if args.quick else CALLS[name])
        settings = {**SIZE, "calls": calls}
        options = ["--sampler", name, "--calls", str(calls)]
        compare(args, __file__, f"sampling_{name}_{calls}", options, settings, falls=False)


if __name__ == "__main__":
    main()
