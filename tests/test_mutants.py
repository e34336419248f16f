"""The oracles catch what they are for: planted mistakes, each caught by a named check.

A mutant is the module's own source with one exact text replaced. That every check passes on the
module as it is, is tested in test_noising.py and test_sampling.py.
"""

import inspect
import sys
import types

import oracles
import pytest
from test_noising import CHECKS as NOISING_CHECKS
from test_sampling import CHECKS as SAMPLING_CHECKS

from minidiff import noising, sampling

ROOT_NOISE = "return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)"
ROOT_STD = "jnp.where(t > 0, jnp.sqrt(reverse_variance(schedule, t, variance)), 0.0)"
MEAN = "(xt - beta / noise * eps) / jnp.sqrt(1 - beta)"
JUMP = "    signal, noise = signal_and_noise(schedule, t, x0)\n    return signal * x0 + noise * eps"

MUTANTS = {
    # name: (module, what stands there, the mistake, the check that catches it)
    "alpha_bar by a sum of beta": (
        noising,
        "np.cumprod(1 - beta)",
        "1 - np.cumsum(beta)",
        oracles.check_schedules,
    ),
    "alpha_bar by a product of beta": (
        noising,
        "np.cumprod(1 - beta)",
        "np.cumprod(beta)",
        oracles.check_schedules,
    ),
    "alpha_bar one step late": (
        noising,
        "np.cumprod(1 - beta)",
        "np.append(1.0, np.cumprod(1 - beta)[:-1])",
        oracles.check_schedules,
    ),
    "beta capped elsewhere": (noising, "0.999))", "0.9999))", oracles.check_schedules),
    "no root of 1 - alpha_bar": (
        noising,
        ROOT_NOISE,
        "return jnp.sqrt(alpha_bar), 1 - alpha_bar",
        oracles.check_add_noise,
    ),
    "no root of alpha_bar": (
        noising,
        ROOT_NOISE,
        "return alpha_bar, jnp.sqrt(1 - alpha_bar)",
        oracles.check_jump_is_many_steps,
    ),
    "signal not shrunk": (
        noising,
        JUMP,
        JUMP.replace("signal * x0", "x0"),
        oracles.check_jump_in_distribution,
    ),
    "add_noise at t + 1": (
        noising,
        JUMP,
        JUMP.replace(" t,", " t + 1,"),
        oracles.check_jump_is_many_steps,
    ),
    "add_noise at t - 1": (
        noising,
        JUMP,
        JUMP.replace(" t,", " jnp.maximum(t - 1, 0),"),
        oracles.check_add_noise,
    ),
    "noise_step: variance for standard deviation": (
        noising,
        "jnp.sqrt(beta) * eps",
        "beta * eps",
        oracles.check_jump_is_many_steps,
    ),
    "noise_step: signal by 1 - beta": (
        noising,
        "jnp.sqrt(1 - beta) * x ",
        "(1 - beta) * x ",
        oracles.check_jump_in_distribution,
    ),
    "v: sign of the image": (
        noising,
        "return signal * eps - noise * x0",
        "return signal * eps + noise * x0",
        oracles.check_v_of_the_paper,
    ),
    "loss: denoiser told t + 1": (
        noising,
        "denoiser(add_noise(schedule, x0, t, eps), t)",
        "denoiser(add_noise(schedule, x0, t, eps), jnp.minimum(t + 1, schedule.steps - 1))",
        oracles.check_noise_loss,
    ),
    "loss: t from half of the schedule": (
        noising,
        "uniform_steps(t_key, x0.shape[0], schedule.steps)",
        "uniform_steps(t_key, x0.shape[0], schedule.steps // 2)",
        oracles.check_noise_loss,
    ),
    "single step: one step too late": (
        noising,
        "jnp.maximum(t - 1, 0)",
        "t",
        oracles.check_single_step_loss,
    ),
    "single step: noise before the first": (
        noising,
        "jnp.where(is_first, x0, noised)",
        "noised",
        oracles.check_single_step_loss,
    ),
    "noise on the last step": (
        sampling,
        ROOT_STD,
        "jnp.sqrt(reverse_variance(schedule, t, variance))",
        oracles.check_point_mass,
    ),
    "variance for standard deviation": (
        sampling,
        ROOT_STD,
        ROOT_STD.replace("jnp.sqrt(", "("),
        oracles.check_gaussian,
    ),
    "sign of eps": (sampling, MEAN, MEAN.replace("xt -", "xt +"), oracles.check_posterior),
    "mean: beta by the variance": (
        sampling,
        MEAN,
        MEAN.replace("/ noise", "/ noise**2"),
        oracles.check_contraction,
    ),
    "mean: no root of 1 - beta": (
        sampling,
        MEAN,
        "(xt - beta / noise * eps) / (1 - beta)",
        oracles.check_contraction,
    ),
    "small variance: alpha_bar of t": (
        sampling,
        "schedule.alpha_bar[jnp.maximum(t - 1, 0)]",
        "schedule.alpha_bar[t]",
        oracles.check_posterior,
    ),
    "sampler stops a step early": (
        sampling,
        "np.arange(schedule.steps, dtype=np.int32)[::-1]",
        "np.arange(1, schedule.steps, dtype=np.int32)[::-1]",
        oracles.check_point_mass,
    ),
    "sampler starts a step late": (
        sampling,
        "np.arange(schedule.steps, dtype=np.int32)[::-1]",
        "np.arange(schedule.steps - 1, dtype=np.int32)[::-1]",
        oracles.check_contraction,
    ),
    "denoiser told t + 1": (
        sampling,
        "eps = denoiser(xt, ts)",
        "eps = denoiser(xt, jnp.minimum(ts + 1, schedule.steps - 1))",
        oracles.check_contraction,
    ),
    "injected noise left in": (
        sampling,
        "jnp.where(inject_noise, noise, 0.0)",
        "noise",
        oracles.check_contraction,
    ),
    "ddim: alpha_bar of t, not of t_next": (
        sampling,
        "jnp.append(schedule.alpha_bar, 1.0), t_next",
        "jnp.append(schedule.alpha_bar, 1.0), t",
        oracles.check_ddim_lands_on_the_jump,
    ),
    "ddim: the image is alpha_bar_0": (
        sampling,
        "jnp.append(schedule.alpha_bar, 1.0), t_next",
        "schedule.alpha_bar, jnp.maximum(t_next, 0)",
        oracles.check_ddim_lands_on_the_jump,
    ),
    "ddim: eps not reduced by the fresh noise": (
        sampling,
        "jnp.sqrt(1 - after - sigma**2)",
        "jnp.sqrt(1 - after)",
        oracles.check_ddim_keeps_the_marginal,
    ),
    "ddim: sigma one root short": (
        sampling,
        "eta * jnp.sqrt((1 - after) / (1 - now))",
        "eta * (1 - after) / (1 - now)",
        oracles.check_ddim_with_eta_1_is_ddpm,
    ),
    "same key for every sample": (
        sampling,
        "first + jnp.arange(batch)",
        "first + jnp.zeros(batch, int)",
        oracles.check_keys,
    ),
    "keys that depend on the batch": (
        sampling,
        "first + jnp.arange(batch)",
        "batch + first + jnp.arange(batch)",
        oracles.check_keys,
    ),
    "first is forgotten": (
        sampling,
        "first + jnp.arange(batch)",
        "jnp.arange(batch)",
        oracles.check_keys,
    ),
    "same noise at every step": (sampling, "draw(i + 1)", "draw(1)", oracles.check_noise_is_fresh),
    "first noise drawn twice": (sampling, "draw(i + 1)", "draw(i)", oracles.check_noise_is_fresh),
    "frames taken after the step": (
        sampling,
        "jnp.stack([xt, predict_x0(schedule, xt, ts, eps)])",
        "jnp.stack([step(xt, ts, ts_next, eps, draw(i + 1)), predict_x0(schedule, xt, ts, eps)])",
        oracles.check_trajectory,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, monkeypatch):
    module, right, wrong, check = MUTANTS[name]
    assert check in {noising: NOISING_CHECKS, sampling: SAMPLING_CHECKS}[module]
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} must stand exactly once in {module.__name__}"
    mutant = types.ModuleType("mutant")
    monkeypatch.setitem(sys.modules, "mutant", mutant)  # where dataclasses look themselves up
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        check(mutant)
