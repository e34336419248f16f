"""The programs lower for the accelerators that this machine need not have.

That proves that every operation has a lowering there, not that the program compiles or is quick.
"""

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

from minidiff.data.scenes import SceneSource
from minidiff.guidance import ClipX0
from minidiff.noising import cosine_schedule, noise_loss
from minidiff.sampling import ddim_sample, ddpm_sample
from minidiff.training.state import TrainState, make_train_step
from minidiff.unet import UNet, UNetConfig

KEY = jax.random.key(0)
CONFIG = UNetConfig(channels=(8, 16), attention=(1,), groups=4)


def lower(function, *args):
    exported = jax.export.export(jax.jit(function), platforms=["cuda", "tpu"])(*args)
    assert exported.platforms == ("cuda", "tpu")
    return exported


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_train_step(dtype):
    schedule, optimizer = cosine_schedule(), optax.adamw(1e-3)

    def loss(key, model, batch):
        return noise_loss(key, model, schedule, batch["image"])

    def start(key):
        return TrainState.init(UNet.init(key, CONFIG), optimizer)

    state = jax.eval_shape(start, KEY)
    step = make_train_step(loss, optimizer, dtype=dtype, steps=2)
    exported = lower(step, KEY, state, SceneSource(size=8, batch_size=4))
    leaves = len(jax.tree.leaves(state))
    assert len(exported.out_avals) == leaves + 2  # and the two metrics


@pytest.mark.parametrize("every", [None, 10])
@pytest.mark.parametrize("sample", [ddpm_sample, ddim_sample])
def test_samplers(sample, every):
    schedule = cosine_schedule()
    net = jax.eval_shape(lambda: UNet.init(KEY, CONFIG))

    def draw(key, net):
        return sample(key, ClipX0(net, schedule), schedule, (2, 8, 8, 3), every=every)

    exported = lower(draw, KEY, net)
    assert exported.out_avals[0].shape == (2, 8, 8, 3)
    assert exported.out_avals[0].dtype == jnp.float32
