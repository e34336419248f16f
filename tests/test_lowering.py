"""The programs lower for the accelerators that this machine need not have.

That proves that every operation has a lowering there, not that the program compiles or is quick.
"""

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

from minidiff.clip import CLIP, CLIPConfig, ClipScore
from minidiff.data.scenes import SceneSource
from minidiff.guidance import ClassifierFree, ClipGuided, ClipX0, Conditioned, drop_condition
from minidiff.kernels.platform import assume
from minidiff.noising import noise_loss
from minidiff.objectives import FromV
from minidiff.recipes.clip import init, pair_loss
from minidiff.sampling import ddim_sample, ddpm_sample
from minidiff.schedules import cosine_schedule
from minidiff.solvers import SAMPLERS
from minidiff.text import TextConfig, Tokenizer
from minidiff.training.state import TrainState, cast, make_optimizer, make_train_step
from minidiff.unet import Condition, UNet, UNetConfig
from minidiff.vae import VAE, VAEConfig, vae_loss
from minidiff.vit import ViTConfig

KEY = jax.random.key(0)
CONFIG = UNetConfig(channels=(8, 16), attention=(1,), groups=4)


def lower(function, *args):
    """Lower the program for both, each with the kernels chosen there."""
    for target, device in (("cuda", "gpu"), ("tpu", "tpu")):
        jax.clear_caches()  # or a function that was traced before keeps its kernels
        with assume(device, pallas=True):
            exported = jax.export.export(jax.jit(function), platforms=[target])(*args)
        assert exported.platforms == (target,)
    jax.clear_caches()
    return exported


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
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


def small_clip(layers=1):
    tokenizer = Tokenizer.from_merges(())
    source = SceneSource(size=8, batch_size=4)
    source = source.tokenized(tokenizer)
    config = CLIPConfig(
        embedding=8,
        image=ViTConfig(image_size=8, width=8, layers=layers, heads=2),
        text=TextConfig(
            vocabulary=tokenizer.size,
            context=source.tokens.context,
            width=8,
            layers=layers,
            heads=2,
            end=tokenizer.end,
        ),
    )
    return config, source


@pytest.mark.parametrize(
    ("loss", "dtype", "kind"), [("clip", "bfloat16", "adamw"), ("siglip", "float32", "muon")]
)
def test_train_step_of_clip(loss, dtype, kind):
    config, source = small_clip()
    optimizer = make_optimizer(10, 1e-3, kind=kind, weight_decay=0.1)

    def loss_of(key, clip, batch):
        value = pair_loss(clip, batch["image"], batch["ids"])
        return value, {"temperature": jnp.exp(-clip.log_scale)}

    state = jax.eval_shape(lambda key: TrainState.init(init(key, config, loss), optimizer), KEY)
    step = make_train_step(loss_of, optimizer, dtype=dtype, steps=2)
    exported = lower(step, KEY, state, source)
    assert len(exported.out_avals) == len(jax.tree.leaves(state)) + 3


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.long)])
def test_train_step_of_vae(dtype):
    config = VAEConfig(latent_channels=2, channels=(8, 16), blocks=1, groups=4, patch=2)
    optimizer = make_optimizer(10, 1e-2, kind="muon")

    def loss(key, vae, batch):
        return vae_loss(key, vae, batch["image"])

    state = jax.eval_shape(lambda key: TrainState.init(VAE.init(key, config), optimizer), KEY)
    step = make_train_step(loss, optimizer, dtype=dtype, steps=2)
    exported = lower(step, KEY, state, SceneSource(size=8, batch_size=4))
    assert len(exported.out_avals) == len(jax.tree.leaves(state)) + 5


def test_logits_of_clip():
    config, _ = small_clip(layers=13)  # looped over everywhere
    clip = jax.eval_shape(lambda: CLIP.init(KEY, config))
    exported = lower(CLIP.logits, clip, jnp.zeros((3, 8, 8, 3)), jnp.zeros((2, 5), jnp.int32))
    assert exported.out_avals[0].shape == (3, 2)


TEXT = UNetConfig(channels=(8, 16), attention=(1,), groups=4, context=16, pooled=16, heads=2)


def condition(batch):
    return Condition(jnp.zeros((batch, 5, 16)), jnp.zeros((batch, 16)))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_train_step_with_text(dtype):
    schedule, optimizer = cosine_schedule(), make_optimizer(10, 1e-2, kind="muon")

    def loss(key, model, batch):
        dropped = drop_condition(key, condition(4), condition(1), 0.1)
        denoiser = Conditioned(FromV(model, schedule), dropped)
        return noise_loss(key, denoiser, schedule, batch["image"])

    state = jax.eval_shape(lambda key: TrainState.init(UNet.init(key, TEXT), optimizer), KEY)
    step = make_train_step(loss, optimizer, dtype=dtype, steps=2)
    lower(step, KEY, state, SceneSource(size=8, batch_size=4))


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_guided_samplers(name, dtype):
    schedule = cosine_schedule()
    net = jax.eval_shape(lambda: cast(UNet.init(KEY, TEXT), dtype))

    def draw(key, net):
        guided = ClassifierFree(FromV(net, schedule), condition(2), condition(2), 3.0)
        denoiser = ClipX0(guided, schedule)
        return SAMPLERS[name](key, denoiser, schedule, (2, 8, 8, 3), steps=4)

    lower(draw, KEY, net)


@pytest.mark.parametrize("through", [True, False])
def test_clip_guidance(through):
    schedule = cosine_schedule()
    towers = CLIPConfig(image=ViTConfig(image_size=8, patch=4, width=16, heads=2, layers=1))
    net = jax.eval_shape(lambda: UNet.init(KEY, CONFIG))
    clip = jax.eval_shape(lambda: CLIP.init(KEY, towers))

    def draw(key, net, clip):
        score = ClipScore(clip, jnp.ones((2, towers.embedding)))
        denoiser = ClipGuided(net, schedule, score, 100.0, through=through)
        return SAMPLERS["ddim"](key, denoiser, schedule, (2, 8, 8, 3), steps=4)

    lower(draw, KEY, net, clip)
