"""Uses of a sampler: mixing noises and prompts, from an image, and inpainting."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import struct
from hypothesis import given

from minidiff import editing
from minidiff.editing import image_to_image, inpaint, lerp, slerp
from minidiff.errors import InputError
from minidiff.noising import add_noise
from minidiff.sampling import ddim_sample, ddpm_sample, sample_noise
from minidiff.schedules import Schedule, linear_schedule
from minidiff.solvers import ode_sample

KEY = jax.random.key(0)
SCHEDULE = linear_schedule(30, 1e-3, 0.35)
SHAPE = (3, 2, 4, 1)
SAMPLERS = {
    ddpm_sample: {"steps": 7},
    ddim_sample: {"steps": 7},
    ode_sample: {"steps": 7},
}


@struct.dataclass
class Twins:
    """E[eps | x_t] for data that are one of two whole images: every pixel knows of every other."""

    schedule: Schedule
    images: jax.Array  # (2, height, width, channels)

    def __call__(self, xt, t):
        alpha_bar = self.schedule.alpha_bar[t][:, None, None, None, None]
        noise = jnp.sqrt(1 - alpha_bar)
        offset = xt[:, None] - jnp.sqrt(alpha_bar) * self.images[None]
        distance = jnp.square(offset / noise).sum((2, 3, 4), keepdims=True)
        return (jax.nn.softmax(-distance / 2, axis=1) * offset / noise).sum(1)


def bright_or_dark():
    bright = jnp.linspace(0.4, 1.0, 8).reshape(1, *SHAPE[1:])
    return Twins(SCHEDULE, jnp.concatenate([bright, -bright]))


# slerp and lerp


def check_slerp(m):
    """Shares of a right angle and of a third of a turn; long vectors; several at once."""
    a = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    b = jnp.array([[0.0, 2.0], [-(0.75**0.5), -0.5]])

    def at(*turned):
        return np.stack([np.cos(turned), np.sin(turned)], 1)

    right, third = np.pi / 2, np.pi * 2 / 3
    found = m.slerp(a, b, jnp.array([1 / 3, 0.25]))
    expected = at(right / 3, right + third / 4) * np.array([[2], [1]])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    one = m.slerp(a[:1], b[:1], jnp.array([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(one, 2 * at(0, right / 4, right), atol=1e-6)
    expected = at(right / 2, right + third / 2) * np.array([[2], [1]])
    np.testing.assert_allclose(m.slerp(a, b, 0.5), expected, atol=1e-6)


def check_noise_stays_noise(m):
    """Halfway between two noises slerp keeps the length, which lerp shortens by sqrt(2)."""
    a, b = sample_noise(KEY, (2, 32, 32, 3), 0, 0)[:, None]
    half = m.slerp(a, b, 0.5)
    assert float(jnp.std(half)) == pytest.approx(1, abs=0.05)
    assert float(jnp.std(m.lerp(a, b, 0.5))) == pytest.approx(0.5**0.5, abs=0.05)


@given(st.integers(0, 100), st.floats(0, 1))
def test_slerp_turns_by_a_share_of_the_angle(seed, share):
    a, b = np.random.default_rng(seed).normal(size=(2, 1, 4))
    found = np.asarray(slerp(jnp.float32(a), jnp.float32(b), share), np.float64)

    def angle(a, b):
        return np.arccos(np.clip((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))

    unit = [v / np.linalg.norm(v) for v in (a, b)]
    turned = slerp(jnp.float32(unit[0]), jnp.float32(unit[1]), share)
    assert float(jnp.linalg.norm(turned)) == pytest.approx(1, abs=1e-3)
    assert angle(np.asarray(turned), unit[0]) == pytest.approx(share * angle(a, b), abs=3e-3)
    back = slerp(jnp.float32(b), jnp.float32(a), 1 - share)
    np.testing.assert_allclose(found, back, atol=1e-4)


@pytest.mark.parametrize("b", [1.0, 1 + 1e-5, 0.5, -1.0])
def test_parallel_noises_are_mixed_straight(b):
    """Nothing is divided by the sine of no angle."""
    a = jnp.array([[3.0, 4.0, 0.0]])
    np.testing.assert_allclose(slerp(a, b * a, 0.25), (0.75 + 0.25 * b) * a, rtol=1e-5, atol=1e-6)


def test_lerp_mixes_every_array_of_a_condition():
    a = {"states": jnp.zeros((1, 3, 2)), "pooled": (jnp.ones((1, 4)), None)}
    b = {"states": jnp.ones((1, 3, 2)), "pooled": (jnp.zeros((1, 4)), None)}
    found = lerp(a, b, jnp.array([0.0, 0.25, 1.0]))
    assert found["states"].shape == (3, 3, 2)
    np.testing.assert_allclose(found["states"][:, 0, 0], [0, 0.25, 1])
    np.testing.assert_allclose(found["pooled"][0][:, 3], [1, 0.75, 0])
    assert found["pooled"][1] is None
    np.testing.assert_allclose(lerp(a, b, 0.25)["states"], 0.25)


# image_to_image


def images():
    return jnp.float32(np.random.default_rng(0).uniform(-1, 1, SHAPE))


def check_image_to_image(m):
    """It is the sampler, started from the noised image, with the noise of the sample's own number."""
    denoiser = oracles.ideal(SCHEDULE, -1.0, 1.0, std=0.3)
    t = 20
    start = add_noise(SCHEDULE, images(), jnp.full(3, t), sample_noise(KEY, SHAPE, 4, 0))
    found = m.image_to_image(KEY, denoiser, SCHEDULE, images(), t=t, steps=7, first=4)
    rest = Schedule(SCHEDULE.beta[: t + 1], SCHEDULE.alpha_bar[: t + 1])
    expected = ddim_sample(KEY, denoiser, rest, SHAPE, steps=7, first=4, start=start)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def check_little_noise_keeps_the_image(m):
    """Where all images are as likely (a broad normal), what comes out is what went in, and noise."""
    denoiser = oracles.ideal(SCHEDULE, 0.0, std=1e3)
    for t in (1, 20):
        found = m.image_to_image(KEY, denoiser, SCHEDULE, images(), t=t, steps=1)
        alpha_bar = float(SCHEDULE.alpha_bar[t])
        noise = np.sqrt(1 / alpha_bar - 1) * sample_noise(KEY, SHAPE, 0, 0)
        np.testing.assert_allclose(found, images() + noise, rtol=1e-3, atol=1e-4)


def test_an_image_goes_to_the_nearest_of_the_two():
    """What noise leaves of the image decides; from pure noise the image decides nothing."""
    near = bright_or_dark().images[jnp.array([0, 1, 0])]
    rough = near + 0.3 * images()
    for sampler, settings in SAMPLERS.items():
        found = image_to_image(
            KEY, bright_or_dark(), SCHEDULE, rough, t=8, sampler=sampler, **settings
        )
        np.testing.assert_allclose(found, near, atol=1e-3)


@pytest.mark.parametrize("edit", ["image_to_image", "inpaint"])
def test_a_sample_does_not_depend_on_its_batch(edit):
    denoiser = oracles.ideal(SCHEDULE, -1.0, 1.0, std=0.3)

    def run(i, **settings):
        settings = {"sampler": ddpm_sample, "steps": 5, **settings}
        if edit == "inpaint":
            return inpaint(KEY, denoiser, SCHEDULE, images()[i], left()[:1], **settings)
        return image_to_image(KEY, denoiser, SCHEDULE, images()[i], t=25, **settings)

    together, alone = run(slice(None)), run(slice(2, 3), first=2)
    np.testing.assert_allclose(together[2:], alone, atol=1e-5)
    assert np.abs(run(np.array([2, 2, 2])) - together).max() > 1e-4


@pytest.mark.parametrize("t", [-1, 30, 1000])
def test_an_index_out_of_the_schedule_is_refused(t):
    with pytest.raises(InputError, match=f"t must be between 0 and 29; got {t}"):
        image_to_image(KEY, oracles.zero, SCHEDULE, images(), t=t)


def test_more_steps_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"steps must be between 1 and 11.*got 12"):
        image_to_image(KEY, oracles.zero, SCHEDULE, images(), t=10, steps=12)
    with pytest.raises(InputError, match="leading"):
        image_to_image(KEY, oracles.zero, SCHEDULE, images(), t=10, steps=5, spacing="leading")


# inpaint


def left():
    """1 on the left three of the four columns of every image."""
    return jnp.zeros((3, 2, 4, 1)).at[:, :, :3].set(1.0)


def check_inpaint(m):
    """What is known comes back, and the rest is painted to match."""
    twins = bright_or_dark()
    wanted = twins.images[jnp.array([0, 1, 1])]
    known = jnp.where(left() == 1, wanted, 123.0)  # what is not known is not looked at
    for mask in (left(), left()[:1] == 1):
        found = m.inpaint(KEY, twins, SCHEDULE, known, mask, steps=30)
        np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_on_what_is_known(sampler):
    settings = {"sampler": sampler, **SAMPLERS[sampler]}
    found = inpaint(KEY, bright_or_dark(), SCHEDULE, images(), left(), **settings)
    np.testing.assert_allclose(found[:, :, :3], images()[:, :, :3], atol=1e-4)
    assert jnp.abs(found - images())[:, :, 3:].min() > 1e-3


def test_a_mask_of_zeros_is_the_plain_sampler():
    found = inpaint(KEY, bright_or_dark(), SCHEDULE, images(), 0 * left(), steps=7)
    plain = ddim_sample(KEY, bright_or_dark(), SCHEDULE, SHAPE, steps=7)
    np.testing.assert_allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 1), (2, 2, 4, 1), (3, 4, 2, 1), (3, 2, 4, 3), (1, 2, 4)])
def test_a_mask_of_another_size_is_refused(shape):
    message = r"images \(3, 2, 4, 1\) the mask must be \(3 or 1, 2, 4, 1\); got "
    with pytest.raises(InputError, match=message + f"\\({str(shape)[1:-1]}\\)"):
        inpaint(KEY, oracles.zero, SCHEDULE, images(), jnp.ones(shape), steps=2)


@pytest.mark.parametrize("value", [0.5, 255.0, -1.0, float("nan")])
def test_a_mask_that_is_not_zeros_and_ones_is_refused(value):
    with pytest.raises(InputError, match="mask must be 1 where"):
        inpaint(KEY, oracles.zero, SCHEDULE, images(), left().at[0, 0, 0].set(value), steps=2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_lowers_for_accelerators(sampler):
    """And under jit, where a mask cannot be looked at."""
    settings = {"sampler": sampler, "steps": 2}

    def edit(key, schedule, images, mask):
        a = image_to_image(key, oracles.zero, schedule, images, t=10, **settings)
        b = inpaint(key, oracles.zero, schedule, images, mask, **settings)
        return slerp(a, b, 0.5)

    exported = jax.export.export(jax.jit(edit), platforms=["cuda", "tpu"])
    exported(KEY, SCHEDULE, images(), left())


CHECKS = [
    check_slerp,
    check_noise_stays_noise,
    check_image_to_image,
    check_little_noise_keeps_the_image,
    check_inpaint,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(editing)
