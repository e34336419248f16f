r"""Training on records that are read while it runs, and on the same ones in memory.

    python benchmarks/bench_stream.py [--records N] [--data DIR] [--quick] [--turns N] [--calls K]
        [--cores C] [--out FILE]

Both are processes of their own that train the network of ``train ddpm --preset cpu`` (if --quick, of
smoke) on the same scenes of 16x16 pixels, written once as array_record in DIR. They take turns, each
K calls of 25 steps. Before anything is timed both must have the same losses, to the bit. The ratio
of "in memory" to ours is the share of the in-memory rate that streaming reaches. What each process
holds in memory is told after every turn: the stream's must not grow.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peer_options import check_out
from turns import Parser, at_least, compare, work

OURS, OTHER, MAKER = "ours", "in memory", "maker"
RECORDS, QUICK_RECORDS = 200_000, 1_000
TURNS, QUICK_TURNS = 9, 2
CALLS, QUICK_CALLS = 4, 2
STEPS_PER_CALL = 25  # log_every of the preset cpu
FOREVER = 2**30


def default_folder(records: int) -> Path:
    """Where the records stay for the next time."""
    return Path(tempfile.gettempdir()) / f"minidiff_bench_stream_{records}"


def make(records: int, folder: Path) -> None:
    """Write the scenes, unless they are there."""
    from minidiff.data.builders import prepare

    prepare("minidiff_scenes", folder, counts={"train": records})


def build(name: str, preset: str, folder: Path):
    """(take, facts) for ``turns.work``."""
    os.environ["TFDS_DATA_DIR"] = str(folder)
    import jax
    import train_steps

    from minidiff.data.sources import open_source
    from minidiff.data.stream import feed
    from minidiff.layers import count_parameters
    from minidiff.recipes.ddpm import PRESETS, make_loss
    from minidiff.training.state import TrainState, make_optimizer, make_train_step
    from minidiff.unet import UNet

    # AdamW costs less than the preset's Muon, so that reading is the larger part.
    config = dataclasses.replace(PRESETS[preset], optimizer="adamw", learning_rate=1e-3)
    spec = ("stream:" if name == OURS else "") + "tfds:minidiff_scenes"
    source = open_source(spec, batch_size=config.batch_size)
    unet_config = config.unet(source.image_shape)
    optimizer = make_optimizer(10_000, config.learning_rate)
    begin = jax.jit(lambda key: TrainState.init(UNet.init(key, unet_config), optimizer))
    state, key = begin(jax.random.key(0)), jax.random.key(1)
    train_step = make_train_step(make_loss(config), optimizer, steps=STEPS_PER_CALL)
    fed = feed(source, 0, STEPS_PER_CALL, FOREVER)
    facts = {"parameters": count_parameters(state.model), "batch": config.batch_size}
    facts["machine"] = train_steps.machine()

    def take(calls: int) -> float:
        nonlocal state
        for _ in range(calls):
            state, metrics = train_step(key, state, next(fed))
            jax.block_until_ready(state)  # as `fit` does
        value = float(metrics["loss"].sum())
        facts.setdefault("probe", value)
        return value

    return take, facts


def told(result: dict) -> str:
    """The two results that matter, in words."""
    rows = result["contenders"]
    low, middle, high = rows[OTHER]["ratio_quartiles"]
    lines = [f"streaming trains at {middle:.1%} ({low:.1%} to {high:.1%}) of the rate in memory"]
    for name, row in rows.items():
        held = [f"{bytes_ / 2**20:.0f}" for bytes_ in row["held_bytes"] if bytes_]
        lines.append(f"MiB held by {name} after each turn: {', '.join(held) or 'not known here'}")
    return "\n".join(lines)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, whole = parser.add_argument, at_least(1)
    add("--records", type=at_least(64), help=f"default: {RECORDS}; {QUICK_RECORDS} if --quick")
    add("--data", type=Path, help="folder of the records; default: one for temporary files")
    add("--turns", type=at_least(2), help=f"turns each takes; default: {TURNS}")
    add("--calls", type=whole, help=f"of {STEPS_PER_CALL} steps, in a turn; default: {CALLS}")
    add("--quick", action="store_true", help="few records and turns: does it run at all?")
    add("--cores", type=whole, help="cores to use (Linux); default: all")
    add("--out", type=Path, help="JSON to write or add to; see README.md")
    for hidden in ("--worker", "--device", "--weights"):
        add(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.records = args.records or (QUICK_RECORDS if args.quick else RECORDS)
    args.data = args.data or default_folder(args.records)
    if args.worker == MAKER:
        return make(args.records, args.data)
    if args.worker:
        preset = "smoke" if args.quick else "cpu"
        return work(
            lambda: build(args.worker, preset, args.data),
            args.cores,
            warm_up=3,
            per_call=STEPS_PER_CALL,
        )
    args.turns = args.turns or (QUICK_TURNS if args.quick else TURNS)
    args.steps = args.calls or (QUICK_CALLS if args.quick else CALLS)
    if args.out:
        check_out(parser, args.out)
    options = ["--records", str(args.records), "--data", str(args.data)]
    options += ["--quick"] * args.quick
    # In a process of its own, so that none that is timed has drawn scenes before.
    subprocess.run([sys.executable, __file__, "--worker", MAKER, *options], check=True)
    args.peers, args.peers_python = [OTHER], sys.executable
    settings = {"records": args.records, "side": 16, "steps_per_call": STEPS_PER_CALL}
    key = "stream_quick" if args.quick else "stream"
    result = compare(args, __file__, key, options, settings, falls=False, tolerance=0.0)
    print(told(result))


if __name__ == "__main__":
    main()
