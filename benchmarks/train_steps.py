"""One training step on a fixed batch, ours and PyTorch's: what the benchmarks of steps share.

Forward, backward, clipping of the gradient's norm, AdamW and a running average of the weights. In
float32 on a CPU; on an accelerator both compute in bfloat16 and keep float32 weights.
"""

from collections.abc import Callable

LEARNING_RATE, WEIGHT_DECAY, CLIP, EMA_DECAY = 1e-3, 0.01, 1.0, 0.999
SHAKE = 0.03  # of every weight: a network that begins near zero would show little of itself


def shaken(model: object) -> object:
    """The model with normal noise on every weight, so that each of them shows in the first loss."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(7)  # not JAX's: nothing to compile
    return jax.tree.map(
        lambda w: jnp.asarray(w + SHAKE * rng.normal(size=w.shape), "float32"), model
    )


def machine() -> dict:
    """What ours runs on."""
    import minidiff

    facts = minidiff.runtime.describe()
    del facts["cache_dir"], facts["cache_bytes"]
    return facts


def ours(model: object, loss: Callable, batch: tuple, constrain: Callable = lambda model: model):
    """(take, facts) for ``turns.work``; ``loss(model, *batch)`` is a scalar."""
    import jax
    import jax.numpy as jnp
    from flax import struct

    from minidiff.layers import count_parameters
    from minidiff.training.state import TrainState, make_optimizer, make_train_step

    @struct.dataclass
    class FixedBatch:
        arrays: tuple[jax.Array, ...]

        def batch(self, step):
            return self.arrays

    def loss_of(key, model, arrays):
        return loss(model, *arrays)

    optimizer = make_optimizer(
        10_000, LEARNING_RATE, warmup=1, weight_decay=WEIGHT_DECAY, clip=CLIP
    )
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    facts = {"parameters": count_parameters(model), "batch": len(batch[0]), "dtype": dtype}
    facts["machine"] = machine()
    source = FixedBatch(tuple(map(jnp.asarray, batch)))
    state, key, programs = TrainState.init(model, optimizer), jax.random.key(1), {}

    def compiled(steps: int):
        """``steps`` steps in one call, as our recipes take them."""
        train_step = make_train_step(
            loss_of,
            optimizer,
            ema_decay=EMA_DECAY,
            dtype=dtype,
            steps=steps,
            constrain=constrain,
        )
        lowered = train_step.lower(key, state, source)
        # Of the program as written, a scan's body once: XLA does not count inside a library's part.
        facts["flops_per_step"] = (lowered.cost_analysis() or {}).get("flops")
        return lowered.compile()

    def take(steps: int) -> float:
        nonlocal state
        if steps not in programs:
            programs[steps] = compiled(steps)
        state, metrics = programs[steps](key, state, source)
        jax.block_until_ready(state)
        value = float(metrics["loss"][-1])
        facts.setdefault("probe", value)  # the loss at the weights that all begin with
        return value

    return take, facts


def peer(
    network, loss: Callable[[], object], device: str, constrain: Callable[[], None] = lambda: None
):
    """The same for a PyTorch network, on the device already; ``loss()`` runs it on its batch."""
    import torch

    torch.set_float32_matmul_precision("high")  # of use on a GPU alone
    weights = list(network.parameters())
    ema = [w.detach().clone() for w in weights]
    optimizer = torch.optim.AdamW(
        weights, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
    )
    facts = {
        "parameters": sum(w.numel() for w in weights),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }

    def take(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            with torch.no_grad():
                constrain()
                torch._foreach_lerp_(ema, weights, 1 - EMA_DECAY)
        last = value.item()  # waits for the device
        facts.setdefault("probe", last)
        return last

    return take, facts


def batch_size(on_cpu: int, on_accelerator: int) -> int:
    """Ours decides, by the backend that JAX has found."""
    import jax

    return on_cpu if jax.default_backend() == "cpu" else on_accelerator
