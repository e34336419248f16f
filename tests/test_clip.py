"""Two towers in one: sizes of the real models, gradients, and that it learns."""

import dataclasses
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import towers

from minidiff import clip as module
from minidiff.clip import CLIP, SIZES, CLIPConfig
from minidiff.contrastive import LOG_SCALE_INIT, clamp_log_scale, contrastive_loss
from minidiff.data.captions import VOCABULARY
from minidiff.data.scenes import SceneSource
from minidiff.layers import count_parameters
from minidiff.recipes.clip import init, pair_loss
from minidiff.text import TextConfig, Tokenizer
from minidiff.training.state import TrainState, make_optimizer, make_train_step
from minidiff.vit import ViTConfig

KEY = jax.random.key(0)
# One token a word, so that rows are short.
TOKENIZER = Tokenizer.learn(2 * [" ".join(VOCABULARY)], 1024)
# It runs once: not worth the compiler's best.
QUICK = {"xla_backend_optimization_level": 0}


def tiny_config(module=module):
    return module.CLIPConfig(
        embedding=6,
        image=ViTConfig(image_size=8, patch=4, width=8, layers=2, heads=2),
        text=TextConfig(vocabulary=12, context=7, width=4, layers=1, heads=2, end=11),
    )


IMAGES = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)))
IDS = jnp.array([[10, 3, 4, 11, 0], [10, 5, 11, 0, 0]])


def check_logits(module):
    """Cosines of what the float64 towers give, times exp(log_scale), images in rows."""
    clip = towers.shaken(module.CLIP.init(KEY, tiny_config(module))).replace(
        log_scale=jnp.float32(1.5)
    )
    a = towers.image_tower(clip.image, IMAGES) @ np.float64(clip.image_projection.weight)
    b = towers.text_tower(clip.text, IDS, [3, 2]) @ np.float64(clip.text_projection.weight)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    expected = math.exp(1.5) * a @ b.T
    found = jax.jit(lambda clip: clip.logits(IMAGES, IDS))(clip)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    biased = clip.replace(bias=jnp.float32(-3.0))
    np.testing.assert_allclose(
        jax.jit(lambda clip: clip.logits(IMAGES, IDS))(biased), expected - 3, atol=2e-4
    )


def check_score(module):
    """Each image with its own text: what it has of the logits, but for the temperature."""
    clip = towers.shaken(module.CLIP.init(KEY, tiny_config(module)))
    clip = clip.replace(log_scale=jnp.float32(0.0))

    @jax.jit
    def both(clip):
        texts = clip.encode_texts(IDS)
        return clip.logits(IMAGES[:2], IDS), module.ClipScore(clip, texts)(IMAGES[:2])

    logits, found = both(clip)
    np.testing.assert_allclose(found, jnp.diagonal(logits), atol=1e-6)


CHECKS = [check_logits, check_score]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(module)


def test_it_is_read_off_its_parts():
    clip = CLIP.init(KEY, tiny_config())
    assert clip.config == tiny_config()
    assert float(clip.log_scale) == pytest.approx(LOG_SCALE_INIT)
    assert clip.bias is None
    assert clip.image_projection.bias is clip.text_projection.bias is None


# The real sizes


@cache
def shapes(name):
    return jax.eval_shape(lambda: CLIP.init(KEY, SIZES[name]))


@pytest.mark.parametrize(
    ("name", "total", "visual"),
    [("ViT-B/32", 151_277_313, 87_849_216), ("ViT-L/14", 427_616_513, 303_966_208)],
)
def test_parameters_of_the_real_models(name, total, visual):
    clip = shapes(name)
    assert count_parameters(clip) == total
    assert count_parameters((clip.image, clip.image_projection)) == visual
    rest = count_parameters((clip.text, clip.text_projection)) + 1
    assert rest == total - visual


def test_the_other_sizes():
    base, fine = shapes("ViT-B/32"), shapes("ViT-B/16")
    assert fine.image.positions.shape == (197, 768)
    assert fine.image.patches.weight.shape == (16 * 16 * 3, 768)
    assert count_parameters(fine.text) == count_parameters(base.text)
    assert shapes("ViT-L/14@336px").image.positions.shape == (577, 1024)


def full_size(name):
    """The logits of two texts for one image, by weights that are quick to make."""
    dice = np.random.default_rng(0).normal(size=9973).astype(np.float32)

    def fill(leaf):
        return jnp.asarray(np.resize(0.02 * dice, leaf.shape))

    clip = jax.tree.map(fill, shapes(name)).replace(log_scale=jnp.float32(LOG_SCALE_INIT))
    ids = np.zeros((2, 77), np.int32)
    ids[0, :4], ids[1, :6] = [49406, 320, 2368, 49407], [49406, 320, 1929, 530, 320, 49407]
    images = np.random.default_rng(1).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    return np.asarray(jax.jit(CLIP.logits, compiler_options=QUICK)(clip, images, ids))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ViT-B/32", marks=pytest.mark.long),
        pytest.param("ViT-L/14", marks=pytest.mark.slow),
    ],
)
def test_a_full_size_forward_pass(name):
    found = full_size(name)
    assert found.shape == (1, 2)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= math.exp(LOG_SCALE_INIT) + 1e-4).all()
    assert found[0, 0] != found[0, 1]


# Learning


def scenes(batch_size, side=8):
    source = SceneSource(size=side, batch_size=batch_size)
    return source.tokenized(TOKENIZER)


@cache
def learner(width=16, loss="clip"):
    source = scenes(16)
    config = CLIPConfig(
        embedding=width,
        image=ViTConfig(image_size=8, patch=4, width=width, layers=1, heads=2),
        text=TextConfig(
            vocabulary=TOKENIZER.size,
            context=source.tokens.context,
            width=width,
            layers=1,
            heads=2,
            end=TOKENIZER.end,
        ),
    )
    return jax.jit(lambda key: init(key, config, loss), compiler_options=QUICK)(KEY)


@pytest.mark.parametrize("loss", ["clip", pytest.param("siglip", marks=pytest.mark.long)])
def test_every_parameter_gets_a_gradient(loss):
    """Within three steps, element by element: of tokens and places the ones that occur.

    All but the bias of the attention keys, whose gradient is zero but for rounding: it adds the same
    to every score of a query. And no gradient of what does not occur.
    """
    clip, batch = learner(loss=loss), jax.jit(lambda s: s.batch(0))(scenes(16))
    optimizer = optax.adam(1e-2)

    @partial(jax.jit, compiler_options=QUICK)
    def three_steps(clip):
        def body(carry, _):
            clip, state = carry
            slope = jax.grad(pair_loss)(clip, batch["image"], batch["ids"])
            updates, state = optimizer.update(slope, state)
            return (optax.apply_updates(clip, updates), state), jax.tree.map(jnp.abs, slope)

        _, sizes = jax.lax.scan(body, (clip, optimizer.init(clip)), None, length=3)
        return jax.tree.map(lambda size: size.max(0), sizes)

    sizes = three_steps(clip)
    assert (sizes.bias is None) == (loss == "clip")
    ids = np.asarray(batch["ids"])
    before_the_end = np.cumsum(ids == TOKENIZER.end, axis=1) - (ids == TOKENIZER.end) == 0
    occurs = np.isin(np.arange(TOKENIZER.size), ids[before_the_end])
    places = before_the_end.any(0)
    text = sizes.text
    assert not np.asarray(text.tokens)[~occurs].any()
    assert not np.asarray(text.positions)[~places].any()
    text = text.replace(tokens=text.tokens[occurs], positions=text.positions[places])
    dead = []
    for path, size in jax.tree_util.tree_leaves_with_path(sizes.replace(text=text)):
        name, size = jax.tree_util.keystr(path), np.asarray(size)
        if name.endswith(".attention.key.bias"):
            assert size.max() < 1e-5, name
        elif size.min() == 0 or size.max() < 1e-6:
            dead.append((name, size.min(), size.max()))
    assert not dead


@dataclasses.dataclass(frozen=True)
class Always:
    """One batch, again and again."""

    content: dict

    def batch(self, step):
        return self.content


jax.tree_util.register_dataclass(Always, ["content"], [])


@pytest.mark.parametrize("loss", ["clip", pytest.param("siglip", marks=pytest.mark.long)])
def test_one_batch_is_learned_by_heart(loss):
    """16 pairs to a loss below 0.01: their captions all differ."""
    batch = jax.jit(lambda s: s.batch(0))(scenes(16))
    assert len({tuple(row) for row in np.asarray(batch["ids"]).tolist()}) == 16
    optimizer, steps = make_optimizer(300, 1e-2, warmup=30), 300

    def loss_of(key, clip, batch):
        return pair_loss(clip, batch["image"], batch["ids"])

    step = make_train_step(
        loss_of,
        optimizer,
        steps=steps,
        constrain=lambda clip: clip.replace(log_scale=clamp_log_scale(clip.log_scale)),
    )
    clip = jax.tree.map(jnp.copy, learner(loss=loss))
    state, metrics = step(KEY, TrainState.init(clip, optimizer), Always(batch))
    losses = np.asarray(metrics["loss"])
    assert losses[-1] < 0.01 < losses[0]
    assert 0 <= float(state.model.log_scale) <= math.log(100) + 1e-6
    clip = state.model
    logits = np.asarray(clip.logits(batch["image"], batch["ids"]))
    assert logits.argmax(1).tolist() == logits.argmax(0).tolist() == list(range(16))
    if loss == "siglip":
        assert float(clip.bias) != -10
        assert (np.diagonal(logits) > 0).all()
        assert (logits[~np.eye(16, dtype=bool)] < 0).all()
    else:
        embeddings = clip.encode_images(batch["image"]), clip.encode_texts(batch["ids"])
        assert float(contrastive_loss(*embeddings, clip.log_scale)) < 0.02
