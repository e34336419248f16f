"""What a process prints for tests/test_environment.py: numbers that no setting of JAX may change."""

import hashlib
import json

import minidiff  # noqa: F401  before jax

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from minidiff import contrastive
from minidiff.data.sources import open_source
from minidiff.keys import key_of_seed
from minidiff.layers import Linear
from minidiff.noising import logit_normal_steps, noise_loss
from minidiff.sampling import ddpm_sample
from minidiff.schedules import cosine_schedule, linear_schedule
from minidiff.training.state import TrainState, make_optimizer, make_train_step
from minidiff.unet import UNet, UNetConfig


def digest(tree):
    """Of every number and its kind."""
    arrays = [np.asarray(x) for x in jax.tree.leaves(tree)]
    told = [(str(x.dtype), x.shape, x.tobytes()) for x in arrays]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def kinds(tree):
    return sorted({str(x.dtype) for x in jax.tree.leaves(tree)})


schedule = cosine_schedule(4)


@jax.jit
def drawn(key, first):
    return ddpm_sample(key, lambda xt, t: 0.1 * xt, schedule, (4, 2, 2, 1), first=first)


def batches(key):
    """Images 4 to 7: of a batch that begins with them, and of one that begins two before."""
    return bool(np.array_equal(drawn(key, 4)[:2], drawn(key, 2)[2:]))


def loss(key, model, batch):
    def denoiser(xt, t):
        return model(xt.reshape(len(xt), -1)).reshape(xt.shape)

    return noise_loss(key, denoiser, schedule, batch["image"], draw_steps=logit_normal_steps)


digits = open_source("digits", size=8, batch_size=1438)
scenes = open_source("scenes", size=8, batch_size=4)
optimizer = make_optimizer(4, 1e-2, warmup=1)
state = TrainState.init(Linear.init(key_of_seed(0), 64, 64), optimizer)
first = digest((state.model, linear_schedule(8), schedule))
step = make_train_step(loss, optimizer, ema_decay=0.9, steps=2)
trained, metrics = step(key_of_seed(1), state, open_source("digits", size=8, batch_size=8))
images, texts = (
    jnp.asarray(np.random.default_rng(i).normal(size=(8, 16)), "float32") for i in (0, 1)
)
unet = jax.jit(UNet.init, static_argnums=1)(key_of_seed(0), UNetConfig(channels=(8,), attention=()))
found = {
    "batches": [batches(key) for key in (key_of_seed(0), jax.random.key(0), jax.random.PRNGKey(0))],
    "an epoch": len(set(np.asarray(digits.batch(2)["index"]).tolist())),
    "numbers": {
        "sample": digest(drawn(key_of_seed(0), 0)),
        "order": digest(digits.batch(1)["index"]),
        "words": digest(scenes.batch(3)["words"]),
        "factors": digest(scenes.batch(3)["factors"]),
        "unet": digest(unet),
        "first state": first,
    },
    "kinds": [kinds(tree) for tree in (unet, trained.model, trained.ema, scenes.batch(3)["image"])],
    "close": {
        "scenes": np.asarray(scenes.batch(3)["image"], np.float64).ravel()[::7].tolist(),
        "trained": np.asarray(trained.ema.weight, np.float64).ravel()[::97].tolist(),
        "losses": np.asarray(metrics["loss"], np.float64).tolist(),
        "contrastive": float(contrastive.contrastive_loss(images, texts, jnp.float32(2.0))),
    },
}
print(json.dumps(found))
