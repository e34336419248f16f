"""The image tower against a float64 loop, and what patches, places and the class token must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers

from minidiff import vit
from minidiff.vit import ViT, ViTConfig, attention_rollout, patchify

KEY = jax.random.key(0)
TINY = {"image_size": 8, "patch": 4, "width": 8, "layers": 2, "heads": 2}
run = jax.jit(lambda vit, images: vit(images))


def images(count=2, side=8, channels=3):
    shape = (count, side, side, channels)
    return jnp.float32(np.random.default_rng(0).uniform(-1, 1, shape))


def shuffled(pictures, order, patch=4):
    """The same patches in other places."""
    count, side, _, channels = pictures.shape
    n = side // patch
    squares = np.asarray(pictures).reshape(count, n, patch, n, patch, channels).swapaxes(2, 3)
    squares = squares.reshape(count, n * n, patch, patch, channels)[:, order]
    squares = squares.reshape(count, n, n, patch, patch, channels).swapaxes(2, 3)
    return jnp.asarray(squares.reshape(pictures.shape))


def check_loop(module):
    """A whole tower, with the pixel statistics and the activation of the real one."""
    config = module.ViTConfig(
        **TINY, expand=2, activation="quick_gelu", eps=0.01, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 1)
    )
    tower = towers.shaken(module.ViT.init(KEY, config))
    found = run(tower, images())
    assert found.shape == (2, 8)
    np.testing.assert_allclose(found, towers.image_tower(tower, images()), atol=1e-4)


def check_places(module):
    """Without positions the order of the patches is nothing to it; with them it is."""
    tower = towers.shaken(module.ViT.init(KEY, module.ViTConfig(**TINY)))
    same = tower.replace(positions=jnp.broadcast_to(tower.positions[:1], tower.positions.shape))
    for order in ([2, 0, 3, 1], [1, 0, 2, 3]):
        moved = shuffled(images(), order)
        np.testing.assert_allclose(run(same, moved), run(same, images()), atol=1e-5)
        assert np.abs(np.asarray(run(tower, moved) - run(tower, images()))).max() > 1e-3


def check_class_token(module):
    """It stands first, before the patches row by row, and it alone is read off at the end."""
    tower = module.ViT.init(KEY, module.ViTConfig(**TINY))
    tower = tower.replace(positions=jnp.zeros_like(tower.positions))
    embedded = np.asarray(tower.embed(images()))
    assert embedded.shape == (2, 5, 8)
    for where, vector in enumerate([tower.class_token, *tower.patches(patchify(images(), 4))[0]]):
        np.testing.assert_allclose(embedded[0, where], tower.norm_in(vector[None])[0], atol=1e-5)
    last = tower.transformer(tower.embed(images()))
    np.testing.assert_allclose(run(tower, images()), tower.norm_out(last[:, 0]), atol=1e-5)
    still = tower.replace(class_token=tower.class_token + 1)
    assert (
        np.abs(np.asarray(still.embed(images()) - embedded)[:, 0]).max() < 1e-5
    )  # a shift is normed
    other = tower.replace(class_token=jnp.flip(tower.class_token))
    changed = np.abs(np.asarray(other.embed(images()) - embedded)).max((0, 2))
    assert changed[0] > 1e-2
    assert (changed[1:] == 0).all()


CHECKS = [check_loop, check_places, check_class_token]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(vit)


def test_patches_are_squares_row_by_row():
    pictures = jnp.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
    found = np.asarray(patchify(pictures, 2))
    assert found.shape == (2, 4, 12)
    for i, (r, c) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        square = np.asarray(pictures)[:, r : r + 2, c : c + 2]
        np.testing.assert_array_equal(found[:, i], square.reshape(2, -1))


def test_the_stages_are_those_of_the_call():
    tower = ViT.init(KEY, ViTConfig(**TINY))
    stages = jax.jit(lambda tower, x: tower.stages(x))(tower, images())
    assert set(stages) == {
        "embedded", "blocks.0", "blocks.1", "attention.0", "attention.1", "out",
    }  # fmt: skip
    np.testing.assert_allclose(stages["out"], run(tower, images()), atol=1e-6)
    np.testing.assert_allclose(stages["embedded"], tower.embed(images()), atol=1e-6)
    for i in range(2):
        towers.is_attention_map(stages[f"attention.{i}"], (2, 2, 5, 5))


def test_pixels_are_normalised_by_channel():
    config = ViTConfig(**TINY, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    tower = ViT.init(KEY, config)
    black, white = tower.normalize(jnp.stack([-jnp.ones((8, 8, 3)), jnp.ones((8, 8, 3))]))
    np.testing.assert_allclose(black[3, 4], [-1, -0.25, 0], atol=1e-6)
    np.testing.assert_allclose(white[3, 4], [1, 0.75, 0.5], atol=1e-6)
    plain = ViT.init(KEY, ViTConfig(**TINY))
    np.testing.assert_allclose(plain.normalize(images()), images(), atol=1e-6)


def test_images_do_not_see_each_other():
    tower = ViT.init(KEY, ViTConfig(**TINY))
    np.testing.assert_allclose(run(tower, images())[:1], run(tower, images()[:1]), atol=1e-5)


def test_it_starts_with_the_scales_of_clip():
    tower = jax.jit(lambda: ViT.init(KEY, ViTConfig(width=256, heads=4, layers=1, image_size=64)))()
    assert float(tower.positions.std()) == pytest.approx(1 / 16, rel=0.05)
    assert float(tower.class_token.std()) == pytest.approx(1 / 16, rel=0.3)
    assert tower.patches.bias is None
    assert tower.positions.shape == (257, 256)


def test_grey_images_of_their_own_size():
    tower = ViT.init(KEY, ViTConfig(**TINY, channels=1))
    assert run(tower, images(channels=1)).shape == (2, 8)
    with pytest.raises(ValueError, match=r"images of \(8, 8, 1\), not \(8, 8, 3\)"):
        tower(images())
    with pytest.raises(ValueError, match=r"images of \(8, 8, 1\), not \(12, 12, 1\)"):
        tower(images(side=12, channels=1))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patch 3 does not divide image_size 16"):
        ViTConfig(patch=3)
    with pytest.raises(ValueError, match="heads 3 does not divide width 128"):
        ViTConfig(heads=3)


def test_rollout_of_one_layer_is_its_first_row():
    weights = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 5))  # heads, tokens, tokens
    row = weights.mean(0)[0, 1:]
    found = attention_rollout(jnp.float32(weights[None]))
    np.testing.assert_allclose(found, (row / row.sum()).reshape(2, 2), atol=1e-6)


def test_rollout_follows_two_steps():
    """The class token looks at patch 0 alone, which had looked at patch 3 before."""
    first, second = np.eye(5), np.eye(5)
    first[1] = [0, 0, 0, 0, 1]
    second[0] = [0, 1, 0, 0, 0]
    maps = jnp.float32(np.stack([first, second])[:, None])
    # Half of patch 0 stays itself, the other half is patch 3.
    np.testing.assert_allclose(attention_rollout(maps), [[0.5, 0], [0, 0.5]], atol=1e-6)
    backwards = attention_rollout(maps[::-1])
    np.testing.assert_allclose(backwards, [[1, 0], [0, 0]], atol=1e-6)
