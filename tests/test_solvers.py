"""The probability-flow solvers against the exact solution, DDIM, and one another."""

import ast
import inspect
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from oracles import KEY, Ideal

from minidiff import solvers
from minidiff.sampling import Method, ddim_sample, sample_noise
from minidiff.schedules import cosine_schedule, linear_schedule, sigmas
from minidiff.solvers import ancestral_step, dpm_solver_step, euler_step, heun_step, ode_sample


def partial_of(method):
    return partial(ode_sample, method=method)


MEAN, STD = 0.7, 0.5
METHODS = ("euler", "heun", "dpm++", "plms")  # that solve the equation
ALL = (*METHODS, "ancestral")
SHAPE = (4, 64)


def gaussian(schedule):
    """The ideal denoiser of data N(MEAN, STD^2)."""
    return Ideal(schedule, jnp.array([MEAN, MEAN]), STD)


def solve(method, steps):
    """The steps by themselves, from sigma 10 to 0.1 on a geometric grid; (found, exact)."""
    grid = np.geomspace(10.0, 0.1, steps + 1)

    def slope(y, sigma):
        return sigma * (y - MEAN) / (STD**2 + sigma**2)

    y = start = jnp.linspace(-12.0, 12.0, 7)[None]
    before = None
    for i, (now, after) in enumerate(pairwise(grid.tolist())):
        eps = slope(y, now)
        x0 = y - now * eps
        if method == "dpm++":
            earlier = (grid[i - 1].item(), before) if i else (now, x0)
            y, before = dpm_solver_step(y, earlier[0], now, after, earlier[1], x0), x0
            continue
        moved = euler_step(y, now, after, eps)
        y = moved if method == "euler" else heun_step(y, now, after, eps, slope(moved, after))
    return y, MEAN + (start - MEAN) * np.sqrt((STD**2 + 0.1**2) / (STD**2 + 10.0**2))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("dpm++", 2)])
def test_order_of_convergence(method, order):
    """Twice the steps leave half the error, or a quarter."""
    counts = (20, 40, 80)
    errors = [float(np.abs(np.subtract(*solve(method, n))).max()) for n in counts]
    fitted = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(fitted - order) < 0.25, (errors, fitted)


def error(method, steps, schedule):
    """Of the whole sampler: y - mean must shrink by std / sqrt(std^2 + sigma^2)."""
    sigma = float(sigmas(schedule, np.array([schedule.steps - 1]))[0])
    y = np.asarray(sample_noise(KEY, SHAPE, 0, 0), np.float64) * np.sqrt(1 + sigma**2)
    exact = MEAN + (y - MEAN) * STD / np.sqrt(STD**2 + sigma**2)
    found = ode_sample(KEY, gaussian(schedule), schedule, SHAPE, method=method, steps=steps)
    return float(np.abs(np.asarray(found) - exact).max())


def test_higher_order_is_better_at_few_steps():
    schedule = linear_schedule()
    errors = {method: error(method, 20, schedule) for method in METHODS}
    assert max(errors["heun"], errors["dpm++"], errors["plms"]) < errors["euler"] / 2, errors
    assert errors["euler"] < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_many_steps_come_to_the_exact_solution(method):
    assert error(method, 500, linear_schedule()) < 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_a_leap_from_nothing_but_noise(method, steps):
    """The cosine schedule begins at sigma 20,000; a corrector there would end thousands away."""
    schedule = cosine_schedule()
    denoiser = Ideal(schedule, jnp.array([-1.0, 1.0]), 0.2)
    found = np.asarray(ode_sample(KEY, denoiser, schedule, SHAPE, method=method, steps=steps))
    assert np.abs(found).max() < 2
    assert 0.3 < np.mean(found > 0) < 0.7


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_euler_is_ddim(spacing):
    schedule = linear_schedule()
    settings = {"steps": 17, "spacing": spacing}
    denoiser = Ideal(schedule, jnp.array([-1.0, 1.0]), 0.1)
    ours = ode_sample(KEY, denoiser, schedule, SHAPE, method="euler", **settings)
    ddim = ddim_sample(KEY, denoiser, schedule, SHAPE, **settings)
    np.testing.assert_allclose(ours, ddim, atol=2e-4)


def check_ancestral_is_ddim_with_eta_1(m):
    schedule = linear_schedule()
    denoiser = Ideal(schedule, jnp.array([-1.0, 1.0]), 0.1)
    settings = {"steps": 9, "spacing": "linspace", "first": 3, "every": 4}
    ours, a = m.ode_sample(KEY, denoiser, schedule, SHAPE, method="ancestral", **settings)
    ddim, b = ddim_sample(KEY, denoiser, schedule, SHAPE, eta=1.0, **settings)
    np.testing.assert_array_equal(a.t, b.t)
    np.testing.assert_allclose(a.xt, b.xt, atol=5e-5)
    np.testing.assert_allclose(ours, ddim, atol=5e-5)


def check_start(m):
    """Noise number 0 given as the start changes nothing; from halfway it is the second half."""
    schedule = linear_schedule(20, 1e-3, 0.3)
    denoiser, shape = gaussian(schedule), (3, 5)
    noise = sample_noise(KEY, shape, 0, 0)
    settings = {"method": "heun", "steps": 20, "every": 8}
    plain, frames = m.ode_sample(KEY, denoiser, schedule, shape, **settings)
    given, _ = m.ode_sample(KEY, denoiser, schedule, shape, start=noise, **settings)
    np.testing.assert_allclose(given, plain, atol=1e-6)
    rest = jax.tree.map(lambda values: values[:12], schedule)
    settings = {"method": "heun", "steps": 12, "start": frames.xt[1]}
    half = m.ode_sample(KEY, denoiser, rest, shape, **settings)
    np.testing.assert_allclose(half, plain, atol=1e-5)


class Asked(NamedTuple):
    """A denoiser that says what it was given: eps grows with t."""

    def __call__(self, xt, t):
        return jnp.broadcast_to(t.reshape(-1, 1).astype(jnp.float32) / 100, xt.shape)


def check_plms_by_hand(m):
    """The coefficients of Adams and Bashforth, with slopes that are known beforehand."""
    schedule = linear_schedule()
    ts = (981, 801, 601, 401, 201, 1)
    sigma = np.float64(sigmas(schedule, np.array(ts), last=0))
    e = np.array(ts) / 100
    slopes = [
        (e[0] + e[1]) / 2,
        (3 * e[1] - e[0]) / 2,
        (23 * e[2] - 16 * e[1] + 5 * e[0]) / 12,
        (55 * e[3] - 59 * e[2] + 37 * e[1] - 9 * e[0]) / 24,
        (55 * e[4] - 59 * e[3] + 37 * e[2] - 9 * e[1]) / 24,
        (55 * e[5] - 59 * e[4] + 37 * e[3] - 9 * e[2]) / 24,
    ]
    start = sample_noise(KEY, (1, 2), 0, 0)
    y = np.float64(start) * np.sqrt(1 + sigma[0] ** 2) + np.diff(sigma) @ slopes
    found = m.ode_sample(KEY, Asked(), schedule, (1, 2), method="plms", steps=ts, last=0)
    np.testing.assert_allclose(found, y / np.sqrt(1 + sigma[-1] ** 2), atol=2e-4)


CHECKS = [check_ancestral_is_ddim_with_eta_1, check_start, check_plms_by_hand]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(solvers)


def test_the_ancestral_step_keeps_the_spread():
    """sigma_down and sigma_up are the sides of a right angle; at the end there is no noise."""
    one, none = jnp.ones((1, 1)), jnp.zeros((1, 1))
    for sigma, after in ((150.0, 20.0), (1.0, 0.9), (0.5, 0.01)):
        down = ancestral_step(sigma * one, sigma, after, one, none)
        up = ancestral_step(none, sigma, after, none, one)
        assert float(down[0, 0]) == pytest.approx(after**2 / sigma, rel=1e-4, abs=1e-5)
        assert float(jnp.hypot(down, up)[0, 0]) == pytest.approx(after, rel=1e-5)
    np.testing.assert_allclose(ancestral_step(one, 0.5, 0.0, 3 * one, 9 * one), -0.5)


def test_a_start_of_another_shape_is_refused():
    schedule = cosine_schedule(10)
    with pytest.raises(ValueError, match=r"start must be shaped \(4, 64\); got \(4, 63\)"):
        ode_sample(KEY, gaussian(schedule), schedule, SHAPE, steps=2, start=jnp.zeros((4, 63)))


@pytest.mark.parametrize("method", METHODS)
def test_all_noise_becomes_data(method):
    """Two modes come out at the two modes."""
    schedule = linear_schedule()
    denoiser = Ideal(schedule, jnp.array([-1.0, 1.0]), 0.05)
    found = np.asarray(ode_sample(KEY, denoiser, schedule, SHAPE, method=method, steps=50))
    assert 0.3 < np.mean(found > 0) < 0.7
    assert np.mean(np.abs(np.abs(found) - 1) < 0.2) > 0.97


@pytest.mark.parametrize("method", ALL)
def test_a_sample_does_not_depend_on_its_batch(method):
    schedule = linear_schedule(100, 1e-3, 0.2)
    denoiser = gaussian(schedule)
    settings = {"method": method, "steps": 7}
    together = ode_sample(KEY, denoiser, schedule, (5, 8), **settings)
    alone = ode_sample(KEY, denoiser, schedule, (1, 8), first=3, **settings)
    np.testing.assert_allclose(together[3:4], alone, atol=2e-5)


@pytest.mark.parametrize("method", ALL)
def test_trajectory(method):
    schedule = cosine_schedule(100)
    denoiser = gaussian(schedule)
    settings = {"method": method, "steps": 10}
    x0, seen = ode_sample(KEY, denoiser, schedule, (3, 8), every=4, **settings)
    np.testing.assert_allclose(
        x0, ode_sample(KEY, denoiser, schedule, (3, 8), **settings), atol=1e-6
    )
    np.testing.assert_array_equal(seen.t, [99, 69, 29] if method == "plms" else [99, 59, 19])
    np.testing.assert_allclose(seen.xt[0], sample_noise(KEY, (3, 8), 0, 0), atol=1e-5)
    assert seen.xt.shape == seen.x0.shape == (3, 3, 8)


def test_dpm_solver_without_memory_is_euler():
    y, eps = jnp.array([[0.3, -2.0]]), jnp.array([[1.0, 0.5]])
    x0 = y - 0.8 * eps
    found = dpm_solver_step(y, 0.8, 0.8, 0.5, x0, x0)
    np.testing.assert_allclose(found, euler_step(y, 0.8, 0.5, eps), atol=1e-6)
    np.testing.assert_allclose(dpm_solver_step(y, 1.0, 0.8, 0.0, y, x0), x0)


def test_dpm_solver_is_exact_for_images_linear_in_lambda():
    """If x0 were a + b lambda, 2M would make no error but the mean's over the step."""
    a, b = 0.4, 0.3
    before, now, after = 2.0, 1.0, 0.5
    lam = {s: -np.log(s) for s in (before, now, after)}
    step, last = lam[after] - lam[now], lam[now] - lam[before]
    x0 = {s: jnp.array([[a + b * lam[s]]]) for s in (before, now)}
    middle = a + b * (lam[now] + 0.5 * step)
    assert last == pytest.approx(step)
    found = dpm_solver_step(jnp.array([[1.7]]), before, now, after, x0[before], x0[now])
    shrink = after / now
    np.testing.assert_allclose(found, shrink * 1.7 + (1 - shrink) * middle, rtol=1e-6)


def test_plms_looks_once_more_than_it_has_steps():
    """981, 961, 961, 941 ... 1, as published; after one step there is no second look."""
    schedule = linear_schedule()
    steps = tuple(range(981, 0, -20))
    settings = {"method": "plms", "steps": steps, "every": 1, "last": 0}
    _, seen = ode_sample(KEY, Asked(), schedule, (1, 2), **settings)
    assert seen.t.tolist() == [981, 961, *steps[1:]]
    _, seen = ode_sample(KEY, Asked(), schedule, (1, 2), method="plms", steps=(500,), every=1)
    assert seen.t.tolist() == [500]


@pytest.mark.parametrize("sampler", [ddim_sample, *map(partial_of, ("euler", "dpm++", "plms"))])
def test_where_the_last_step_goes(sampler):
    """To the noise of index 0, from which one more step leads to the image."""
    schedule = linear_schedule(50, 1e-2, 0.3)
    denoiser, steps = gaussian(schedule), (49, 30, 10)
    settings = {"steps": steps, "every": 1}
    end, seen = sampler(KEY, denoiser, schedule, (2, 3), last=0, **settings)
    image, before = sampler(KEY, denoiser, schedule, (2, 3), **settings)
    np.testing.assert_array_equal(seen.xt, before.xt)
    assert np.abs(end - image).max() > 1e-3
    if sampler is ddim_sample:  # the others look back further than one step
        more, _ = sampler(KEY, denoiser, schedule, (2, 3), steps=(*steps, 0), every=1)
        one, _ = sampler(KEY, denoiser, schedule, (2, 3), steps=(0,), start=end, every=1)
        np.testing.assert_allclose(more, one, atol=1e-5)


def test_a_method_may_be_given_itself():
    """Which is how a new one is tried: the same images as by its name."""
    schedule = cosine_schedule(20)
    settings = {"steps": 3, "shape": (2, 3)}
    named = ode_sample(KEY, gaussian(schedule), schedule, method="euler", **settings)
    method = Method(solvers.euler, grown=True)
    given = ode_sample(KEY, gaussian(schedule), schedule, method=method, **settings)
    np.testing.assert_array_equal(given, named)


def test_names_of_the_samplers_can_be_read_without_running_the_module():
    """The command line lists them before JAX is there."""
    tree = ast.parse(inspect.getsource(solvers))
    [table] = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SAMPLERS"
    )
    assert [ast.literal_eval(name) for name in table.keys] == list(solvers.SAMPLERS)
    assert set(solvers.METHODS) == set(ALL)


def test_what_it_does_not_know_is_refused():
    schedule = cosine_schedule(10)
    # Without the tests' own checks of annotations a ValueError says the same.
    with pytest.raises((ValueError, TypeCheckError), match="magic"):
        ode_sample(KEY, gaussian(schedule), schedule, SHAPE, method="magic", steps=2)
    with pytest.raises(ValueError, match="steps must be between 1 and 10"):
        ode_sample(KEY, gaussian(schedule), schedule, SHAPE, steps=11)


@pytest.mark.parametrize("method", ALL)
def test_lowers_for_accelerators(method):
    schedule = cosine_schedule(10)

    def sample(key):
        return ode_sample(key, gaussian(schedule), schedule, (2, 8), method=method, steps=3)

    jax.export.export(jax.jit(sample), platforms=["cuda", "tpu"])(KEY)
