r"""Scenes and captions: drawn in compiled batches, and one at a time.

    python benchmarks/bench_data.py [--quick] [--turns N] [--cores C] [--out FILE]

- scenes: picture, factors and words of a batch, in one call (ours) or one call each (reference);
- captions: the words of a batch as text, on the host.
"""

import harness
import jax
import numpy as np

from minidiff.data.scenes import SceneSource

SIDES, QUICK = (16, 32, 64), (16,)
BATCH, BATCH_ON_ACCELERATOR = 64, 4096


def scene_case(side: int, batch: int) -> harness.Case:
    """Its two contestants draw the same ``batch`` scenes."""
    source = SceneSource(size=side, batch_size=batch)
    many = harness.compiled(jax.jit(source.examples), np.arange(batch))
    one = harness.compiled(jax.jit(source.examples), np.arange(1))
    draw = one.program
    one.call = lambda: [draw(np.arange(i, i + 1)) for i in range(batch)]

    def images(out):
        out = [out] if isinstance(out, dict) else out
        return np.concatenate([np.asarray(each["image"]) for each in out])

    contestants = {"ours": many, "reference": one}
    return harness.Case(
        f"{batch} scenes of {side}x{side}", contestants, items=batch, tolerance=1e-4, same=images
    )


def cases(args):
    for side in QUICK if args.quick else SIDES:
        yield scene_case(side, BATCH)
        if harness.on_accelerator():
            source = SceneSource(size=side, batch_size=BATCH_ON_ACCELERATOR)
            yield harness.Case(
                f"{BATCH_ON_ACCELERATOR} scenes of {side}x{side}",
                {"ours": harness.compiled(jax.jit(source.batch), 0)},
                items=BATCH_ON_ACCELERATOR,
                reference="ours",
            )
    source = SceneSource(batch_size=BATCH)
    words = np.asarray(jax.jit(source.batch)(0)["words"])
    yield harness.Case(
        f"{BATCH} captions as text",
        {
            "ours": harness.Contestant(lambda: source.captions({"words": words})),
            "reference": harness.Contestant(
                lambda: [source.captions({"words": row[None]})[0] for row in words]
            ),
        },
        items=BATCH,
    )


if __name__ == "__main__":
    harness.main("data", __doc__, cases)
