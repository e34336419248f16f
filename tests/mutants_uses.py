"""Planted mistakes in samplers of few steps, solvers, editing and likelihood: for test_mutants.py."""

import test_editing
import test_likelihood
import test_sampling
import test_schedules
import test_solvers

from minidiff import editing, likelihood, sampling, schedules, solvers

MUTANTS = {
    "respace: one index late": (
        schedules,
        "np.searchsorted(ts, np.arange(ts[-1] + 1))",
        'np.searchsorted(ts[:-1], np.arange(ts[-1] + 1), side="right")',
        test_schedules.check_respace,
    ),
    "respace: betas added up": (
        schedules,
        "kept = jnp.log1p(-schedule.beta[: ts[-1] + 1])",
        "kept = -schedule.beta[: ts[-1] + 1]",
        test_schedules.check_respace,
    ),
    "few steps: alpha_bar of the whole schedule": (
        sampling,
        "visited = respace(schedule, ts := timesteps",
        "visited, _ = schedule, (ts := timesteps",
        test_sampling.check_few_steps_with_small_variance_are_ddim,
    ),
    "few steps: place not counted from the image": (
        sampling,
        "len(ts) - 1 - here.i",
        "here.i",
        test_sampling.check_few_steps_with_small_variance_are_ddim,
    ),
    "few steps: denoiser told the place": (
        sampling,
        "xt, eps = look(x, now, t)",
        "xt, eps = look(x, now, jnp.full(shape[0], len(ts) - 1 - i))",
        test_sampling.check_few_steps_with_large_variance,
    ),
    "few steps: large variance of single steps": (
        sampling,
        '    if variance == "large":\n        return beta\n',
        '    if variance == "large":\n        return beta / 2\n',
        test_sampling.check_few_steps_with_large_variance,
    ),
    "start is forgotten": (
        sampling,
        "draw(0) if start is None else start",
        "draw(0)",
        test_sampling.check_start,
    ),
    "ode: start is forgotten": (
        solvers,
        "shape, ts, start, every",
        "shape, ts, None, every",
        test_solvers.check_start,
    ),
    "ode: start not grown by sigma": (
        sampling,
        "x * jnp.sqrt(1 + sigma[0] ** 2)",
        "x * sigma[0]",
        test_sampling.check_a_method_with_a_memory,
    ),
    "plms: a sign of the third coefficient": (
        solvers,
        "37 / 24, -9 / 24",
        "37 / 24, 9 / 24",
        test_solvers.check_plms_by_hand,
    ),
    "plms: the first step is not taken again": (
        solvers,
        "jnp.where(again, begun, y), jnp.where(again, sigma_begun, here.sigma)",
        "y, here.sigma",
        test_solvers.check_plms_by_hand,
    ),
    "plms: the slope within the first step is remembered": (
        solvers,
        "jnp.where(again, a, b) for a",
        "jnp.where(again, b, b) for a",
        test_solvers.check_plms_by_hand,
    ),
    "plms: the second index is not visited again": (
        solvers,
        "np.insert(ts, 1, ts[1:2])",
        "ts",
        test_solvers.check_plms_by_hand,
    ),
    "ode: ends at the image whatever is asked for": (
        solvers,
        "start, every, first, last)",
        "start, every, first)",
        test_solvers.check_plms_by_hand,
    ),
    "ancestral: no step beyond": (
        solvers,
        "euler_step(y, sigma, down, eps) + up",
        "euler_step(y, sigma, sigma_next, eps) + up",
        test_solvers.check_ancestral_is_ddim_with_eta_1,
    ),
    "ancestral: noise of the step before": (
        solvers,
        "here.eps, here.noise)",
        "here.eps, here.noise[::-1])",
        test_solvers.check_ancestral_is_ddim_with_eta_1,
    ),
    "truncate: one step short": (
        schedules,
        "values[: t + 1]",
        "values[:t]",
        test_schedules.check_truncate,
    ),
    "sigmas: its square": (
        schedules,
        "jnp.sqrt((1 - alpha_bar) / alpha_bar)",
        "(1 - alpha_bar) / alpha_bar",
        test_schedules.check_sigmas,
    ),
    "a method asks at t, not at t_next": (
        sampling,
        "t=jnp.maximum(t_next, 0)",
        "t=t",
        test_sampling.check_a_method_with_a_memory,
    ),
    "a method asks at sigma, not at sigma_next": (
        sampling,
        "partial(look, sigma=after",
        "partial(look, sigma=now",
        test_sampling.check_a_method_with_a_memory,
    ),
    "memory is forgotten": (
        sampling,
        "return (*method.step(x, memory, here), frames), None",
        "return (method.step(x, memory, here)[0], memory, frames), None",
        test_sampling.check_a_method_with_a_memory,
    ),
    "slerp: straight": (
        editing,
        "of_a * a + of_b * b",
        "(1 - part) * a + part * b",
        test_editing.check_noise_stays_noise,
    ),
    "slerp: from b to a": (
        editing,
        "of_a * a + of_b * b",
        "of_b * a + of_a * b",
        test_editing.check_slerp,
    ),
    "slerp: angle over the whole batch": (
        editing,
        "axes = tuple(range(1, a.ndim))",
        "axes = tuple(range(a.ndim))",
        test_editing.check_slerp,
    ),
    "image to image: one step short": (
        editing,
        "short = truncate(schedule, t)",
        "short = truncate(schedule, t - 1)",
        test_editing.check_image_to_image,
    ),
    "image to image: noise of other samples": (
        editing,
        'settings.get("first", 0)',
        "0",
        test_editing.check_image_to_image,
    ),
    "image to image: image not shrunk": (
        editing,
        "add_noise(schedule, images, jnp.full(len(images), t), noise)",
        "images + noise * jnp.sqrt(1 - schedule.alpha_bar[t])",
        test_editing.check_little_noise_keeps_the_image,
    ),
    "inpaint: mask the wrong way round": (
        editing,
        "images, jnp.float32(mask))",
        "images, 1 - jnp.float32(mask))",
        test_editing.check_inpaint,
    ),
    "likelihood: sign of the divergence": (
        likelihood,
        "lost + 0.5",
        "lost - 0.5",
        test_likelihood.check_gaussian,
    ),
    "likelihood: divergence not times sigma": (
        likelihood,
        "ends = now * divergence + then * divergence_then",
        "ends = divergence + divergence_then",
        test_likelihood.check_gaussian,
    ),
    "likelihood: x_t taken for y": (
        likelihood,
        "denoiser(y / jnp.sqrt(1 + sigma[t] ** 2), ",
        "denoiser(y, ",
        test_likelihood.check_gaussian,
    ),
    "likelihood: density at the image, without its noise": (
        likelihood,
        "x0 + sigma[0] * sample_noise(key, x0.shape, first, 0)",
        "x0",
        test_likelihood.check_gaussian,
    ),
    "likelihood: end without its spread": (
        likelihood,
        "variance = 1 + sigma[-1] ** 2",
        "variance = jnp.ones(())",
        test_likelihood.check_gaussian,
    ),
    "likelihood: levels of [0, 1]": (
        likelihood,
        "math.log2(127.5)",
        "math.log2(255)",
        test_likelihood.check_gaussian,
    ),
    "likelihood: sum over the probes": (
        likelihood,
        "jnp.arange(probes)).mean(0)",
        "jnp.arange(probes)).sum(0)",
        test_likelihood.check_probes,
    ),
    "likelihood: one probe for all": (
        likelihood,
        "i * probes + probe + 1",
        "i * probes + 1",
        test_likelihood.check_probes,
    ),
    "likelihood: probes not squared": (
        likelihood,
        "mean(sign * pull(sign)[0])",
        "mean(pull(sign)[0])",
        test_likelihood.check_probes,
    ),
    "mean: 1 - beta without its digits": (
        sampling,
        "* jnp.sqrt(before) / signal",
        "/ jnp.sqrt(1 - beta)",
        test_sampling.check_a_step_so_long_that_beta_is_1,
    ),
    "likelihood: prior": (likelihood, "y**2 / variance", "y**2", test_likelihood.check_gaussian),
}

CHECKS = {
    solvers: test_solvers.CHECKS,
    editing: test_editing.CHECKS,
    likelihood: test_likelihood.CHECKS,
}
