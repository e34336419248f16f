"""The oracles catch what they are for: planted mistakes, each caught by a named check.

A mutant is the module's own source with one exact text replaced. That every check passes on the
module as it is, is tested in the test file of that module.
"""

import inspect
import sys
import types

import mutants_uses
import oracles
import pytest
import test_clip
import test_guidance
import test_metrics
import test_objectives
import test_retrieval
import test_schedules
import test_text
import test_transformer
import test_vit
from test_noising import CHECKS as NOISING_CHECKS
from test_sampling import CHECKS as SAMPLING_CHECKS

from minidiff import (
    clip,
    guidance,
    noising,
    objectives,
    retrieval,
    sampling,
    schedules,
    text,
    transformer,
    vit,
)
from minidiff.measure import metrics

ROOT_NOISE = "return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)"
ROOT_STD = "jnp.where(t > 0, jnp.sqrt(reverse_variance(schedule, t, variance)), 0.0)"
MEAN = "(xt - beta / noise * eps) * jnp.sqrt(before) / signal"
JUMP = "    signal, noise = signal_and_noise(schedule, t, x0)\n    return signal * x0 + noise * eps"

MUTANTS = {
    # name: (module, what stands there, the mistake, the check that catches it)
    "alpha_bar by a sum of beta": (
        schedules,
        "np.cumprod(1 - beta)",
        "1 - np.cumsum(beta)",
        oracles.check_schedules,
    ),
    "alpha_bar by a product of beta": (
        schedules,
        "np.cumprod(1 - beta)",
        "np.cumprod(beta)",
        oracles.check_schedules,
    ),
    "alpha_bar one step late": (
        schedules,
        "np.cumprod(1 - beta)",
        "np.append(1.0, np.cumprod(1 - beta)[:-1])",
        oracles.check_schedules,
    ),
    "scaled linear: the variances rise linearly": (
        schedules,
        "np.linspace(first**0.5, last**0.5, steps) ** 2",
        "np.linspace(first, last, steps)",
        oracles.check_schedules,
    ),
    "sigmoid: falling": (
        schedules,
        "np.exp(-np.linspace",
        "np.exp(np.linspace",
        oracles.check_schedules,
    ),
    "beta capped elsewhere": (schedules, "0.999))", "0.9999))", oracles.check_schedules),
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
        "draw_steps(t_key, x0.shape[0], schedule.steps)",
        "draw_steps(t_key, x0.shape[0], schedule.steps // 2)",
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
    "flow schedule: one step behind": (
        schedules,
        "np.arange(1, steps + 1) / steps",
        "np.arange(steps) / steps + 0.5 / steps",
        oracles.check_flow_schedule,
    ),
    "flow schedule: s for alpha_bar": (
        schedules,
        "np.sqrt((1 - s) ** 2 + s**2)",
        "np.sqrt((1 - s) + s)",
        oracles.check_flow_schedule,
    ),
    "zero SNR: shifted, not scaled back": (
        schedules,
        "(signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])",
        "signal - signal[-1]",
        oracles.check_zero_terminal_snr,
    ),
    "zero SNR: alpha_bar for its root": (
        schedules,
        "signal = np.sqrt(np.asarray(schedule.alpha_bar, np.float64))",
        "signal = np.asarray(schedule.alpha_bar, np.float64)",
        oracles.check_zero_terminal_snr,
    ),
    "zero SNR: the end left where it was": (
        schedules,
        "signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])",
        "signal = signal * 1",
        oracles.check_zero_terminal_snr,
    ),
    "flow: s without its sum": (
        objectives,
        "return noise / (signal + noise)",
        "return noise",
        test_objectives.check_flow,
    ),
    "flow: s is the signal's share": (
        objectives,
        "s, xs = noise / (signal + noise)",
        "s, xs = signal / (signal + noise)",
        test_objectives.check_flow,
    ),
    "flow: velocity from noise to image": (
        objectives,
        "return eps - x0",
        "return x0 - eps",
        test_objectives.check_flow,
    ),
    "flow: x_t for x_s": (
        objectives,
        ", xt / (signal + noise)",
        ", xt",
        test_objectives.check_flow,
    ),
    "weight of x0: the other way round": (
        objectives,
        "return 1 / snr",
        "return snr",
        test_objectives.check_weights,
    ),
    "weight of v: 1 / snr": (
        objectives,
        "return 1 / schedule.alpha_bar",
        "return 1 / snr",
        test_objectives.check_weights,
    ),
    "weight of the velocity: not squared": (
        objectives,
        "return jnp.square(1 + 1 / jnp.sqrt(snr))",
        "return 1 + 1 / jnp.sqrt(snr)",
        test_objectives.check_weights,
    ),
    "weight of the velocity: snr for its root": (
        objectives,
        "return jnp.square(1 + 1 / jnp.sqrt(snr))",
        "return jnp.square(1 + 1 / snr)",
        test_objectives.check_weights,
    ),
    "weight of eps: that of x0": (
        objectives,
        "return jnp.ones_like(snr)",
        "return 1 / snr",
        test_objectives.check_weights,
    ),
    "min-SNR: upside down": (
        objectives,
        "return jnp.minimum(snr, gamma) / snr",
        "return snr / jnp.minimum(snr, gamma)",
        test_objectives.check_min_snr,
    ),
    "min-SNR: for a network that predicts x0": (
        objectives,
        "return jnp.minimum(snr, gamma) / snr",
        "return jnp.minimum(snr, gamma)",
        test_objectives.check_min_snr,
    ),
    "min-SNR: max": (
        objectives,
        "jnp.minimum(snr, gamma)",
        "jnp.maximum(snr, gamma)",
        test_objectives.check_min_snr,
    ),
    "CLIP score: texts in another order": (
        clip,
        "* normalize(self.texts), axis=1)",
        "* normalize(self.texts[::-1]), axis=1)",
        test_clip.check_score,
    ),
    "CLIP score: length counts": (
        clip,
        "jnp.sum(normalize(self.clip.encode_images(images))",
        "jnp.sum(self.clip.encode_images(images)",
        test_clip.check_score,
    ),
    "FromVelocity: sign": (
        objectives,
        "return from_velocity(self.schedule, xt, t, u)[1]",
        "return from_velocity(self.schedule, xt, t, -u)[1]",
        test_objectives.check_other_targets,
    ),
    "FromVelocity: the image for the noise": (
        objectives,
        "return from_velocity(self.schedule, xt, t, u)[1]",
        "return from_velocity(self.schedule, xt, t, u)[0]",
        test_objectives.check_other_targets,
    ),
    "FromVelocity: network told x_t": (
        objectives,
        "self.network(xt / (signal + noise), t, *condition)",
        "self.network(xt, t, *condition)",
        test_objectives.check_other_targets,
    ),
    "objective by name: x0 for v": (
        objectives,
        '"x0": FromX0,\n    "v": FromV,',
        '"x0": FromV,\n    "v": FromX0,',
        test_objectives.check_by_name,
    ),
    "FromX0: x0 for eps": (
        objectives,
        "return predict_eps(self.schedule, xt, t, x0)",
        "return x0",
        test_objectives.check_other_targets,
    ),
    "ClassifierFree: interval ignored": (
        guidance,
        "jnp.where(guided, self.scale, 1.0)",
        "jnp.where(guided | True, self.scale, 1.0)",
        test_guidance.check_interval,
    ),
    "ClassifierFree: nothing outside of the interval": (
        guidance,
        "jnp.where(guided, self.scale, 1.0)",
        "jnp.where(guided, self.scale, 0.0)",
        test_guidance.check_interval,
    ),
    "ClassifierFree: last step left out": (
        guidance,
        "(t <= self.last)",
        "(t < self.last)",
        test_guidance.check_interval,
    ),
    "Inpaint: mask the other way round": (
        guidance,
        "mask * known + (1 - mask) * x0",
        "(1 - mask) * known + mask * x0",
        test_guidance.check_inpaint,
    ),
    "Inpaint: eps not corrected": (
        guidance,
        "return predict_eps(guided.schedule, xt, t, change(x0))",
        "return eps",
        test_guidance.check_inpaint,
    ),
    "DynamicThreshold: one threshold for the batch": (
        guidance,
        "self.percentile, axis=1)",
        "self.percentile) * jnp.ones(len(x0))",
        test_guidance.check_dynamic_threshold,
    ),
    "DynamicThreshold: small images blown up": (
        guidance,
        "jnp.maximum(size, 1.0)",
        "size",
        test_guidance.check_dynamic_threshold,
    ),
    "DynamicThreshold: not divided": (
        guidance,
        "return jnp.clip(x0, -most, most) / most",
        "return jnp.clip(x0, -most, most)",
        test_guidance.check_dynamic_threshold,
    ),
    "ClipGuided: sign": (
        guidance,
        "return eps - change",
        "return eps + change",
        test_guidance.check_clip_guided,
    ),
    "ClipGuided: noise forgotten": (
        guidance,
        "change = self.scale * noise * gradient",
        "change = self.scale * gradient",
        test_guidance.check_clip_guided,
    ),
    "ClipGuided: through and around exchanged": (
        guidance,
        "if self.through else around",
        "if not self.through else self.denoiser(jax.lax.stop_gradient(xt), t)",
        test_guidance.check_clip_guided,
    ),
    "ClipGuided: limit on eps alone": (
        guidance,
        "most = self.limit * signal",
        "most = self.limit",
        test_guidance.check_limit,
    ),
    "ClipGuided: limit for the whole batch": (
        guidance,
        "tuple(range(1, xt.ndim))",
        "tuple(range(xt.ndim))",
        test_guidance.check_limit,
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
        "denoiser(xt, t).astype",
        "denoiser(xt, jnp.minimum(t + 1, schedule.steps - 1)).astype",
        oracles.check_contraction,
    ),
    "injected noise left in": (
        sampling,
        "jnp.where(inject_noise, here.noise, 0.0)",
        "here.noise",
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
        "jnp.maximum(1 - after - sigma**2, 0.0)",
        "jnp.maximum(1 - after, 0.0)",
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
        "first + jnp.arange(shape[0])",
        "first + jnp.zeros(shape[0], int)",
        oracles.check_keys,
    ),
    "keys that depend on the batch": (
        sampling,
        "first + jnp.arange(shape[0])",
        "shape[0] + first + jnp.arange(shape[0])",
        oracles.check_keys,
    ),
    "first is forgotten": (
        sampling,
        "first + jnp.arange(shape[0])",
        "jnp.arange(shape[0])",
        oracles.check_keys,
    ),
    "same noise at every step": (sampling, "draw(i + 1)", "draw(1)", oracles.check_noise_is_fresh),
    "first noise drawn twice": (sampling, "draw(i + 1)", "draw(i)", oracles.check_noise_is_fresh),
    "frames taken after the step": (
        sampling,
        "jnp.stack([xt, x0])",
        "jnp.stack([look(x, after, t)[0] + 0.1 * eps, x0])",
        oracles.check_trajectory,
    ),
    "attention: scores not divided by the root of the width": (
        transformer,
        " / math.sqrt(q.shape[-1])",
        "",
        test_transformer.check_maps,
    ),
    "attention: softmax over the queries": (
        transformer,
        "jax.nn.softmax(scores, axis=-1)",
        "jax.nn.softmax(scores, axis=-2)",
        test_transformer.check_maps,
    ),
    "attention: mask not used": (
        transformer,
        "jnp.where(mask, scores, -jnp.inf)",
        "scores",
        test_transformer.check_maps,
    ),
    "block: norm after the sum": (
        transformer,
        "return x + self.mlp(self.norm2(x))",
        "return self.norm2(x + self.mlp(x))",
        test_transformer.check_stack,
    ),
    "block: nothing added to what came in": (
        transformer,
        "x = x + self.attention(self.norm1(x), mask)",
        "x = self.attention(self.norm1(x), mask)",
        test_transformer.check_stack,
    ),
    "gelu by its approximation": (
        transformer,
        "(0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5)))",
        "jax.nn.sigmoid(1.702 * x)",
        test_transformer.check_stack,
    ),
    "stack: branches not shrunk with the depth": (
        transformer,
        "out_scale=(2 * layers) ** -0.5",
        "out_scale=1.0",
        test_transformer.check_depth_keeps_the_spread,
    ),
    "vit: positions missing": (
        vit,
        " + self.positions[None])",
        " + 0 * self.positions[None])",
        test_vit.check_places,
    ),
    "vit: no class token": (
        vit,
        "jnp.concatenate([first, x], axis=1)",
        "jnp.concatenate([0 * first, x], axis=1)",
        test_vit.check_class_token,
    ),
    "vit: class token last": (
        vit,
        "jnp.concatenate([first, x], axis=1)",
        "jnp.concatenate([x, first], axis=1)",
        test_vit.check_class_token,
    ),
    "vit: read off at the last patch": (
        vit,
        "self.transformer(self.embed(images))[:, 0]",
        "self.transformer(self.embed(images))[:, -1]",
        test_vit.check_class_token,
    ),
    "vit: pixels in [-1, 1] taken for [0, 1]": (
        vit,
        "(images + 1) / 2 -",
        "images -",
        test_vit.check_loop,
    ),
    "vit: no norm before the first block": (
        vit,
        "return self.norm_in(jnp.concatenate([first, x], axis=1) + self.positions[None])",
        "return jnp.concatenate([first, x], axis=1) + self.positions[None]",
        test_vit.check_loop,
    ),
    "text: no causal mask": (
        text,
        "self.transformer(self.embed(ids), self.mask(ids))",
        "self.transformer(self.embed(ids))",
        test_text.check_the_future,
    ),
    "text: mask the wrong way round": (text, "jnp.tril(", "jnp.triu(", test_text.check_the_future),
    "text: pooled at the last token": (
        text,
        "jnp.argmax(ids if end is None else ids == end, axis=1)",
        "jnp.full(len(ids), ids.shape[1] - 1)",
        test_text.check_padding,
    ),
    "text: pooled at the first token": (
        text,
        "jnp.argmax(ids if end is None else ids == end, axis=1)",
        "jnp.zeros(len(ids), int)",
        test_text.check_padding,
    ),
    "text: pooled at the last of several ends": (
        text,
        "jnp.argmax(ids if end is None else ids == end, axis=1)",
        "ids.shape[1] - 1 - jnp.argmax((ids == 11)[:, ::-1], axis=1)",
        test_text.check_padding,
    ),
    "text: no norm at the end": (
        text,
        "return self.norm_out(self.transformer(self.embed(ids), self.mask(ids)))",
        "return self.transformer(self.embed(ids), self.mask(ids))",
        test_text.check_loop,
    ),
    "clip: temperature not exponentiated": (
        clip,
        "jnp.exp(self.log_scale.astype(jnp.float32))",
        "self.log_scale.astype(jnp.float32)",
        test_clip.check_logits,
    ),
    "clip: texts in rows": (
        clip,
        "cosine_similarity(self.encode_images(images), self.encode_texts(ids))",
        "cosine_similarity(self.encode_texts(ids), self.encode_images(images))",
        test_clip.check_logits,
    ),
    "clip: inner product for cosine": (
        clip,
        "cosine_similarity(self.encode_images(images), self.encode_texts(ids))",
        "self.encode_images(images) @ self.encode_texts(ids).T",
        test_clip.check_logits,
    ),
    "clip: bias forgotten": (
        clip,
        "scaled + self.bias.astype(jnp.float32)",
        "scaled",
        test_clip.check_logits,
    ),
    "zero-shot: softmax over the images": (
        retrieval,
        "cosine_similarity(image_embeddings, labels), axis=1)",
        "cosine_similarity(image_embeddings, labels), axis=0)",
        test_retrieval.check_zero_shot,
    ),
    "zero-shot: temperature not exponentiated": (
        retrieval,
        "jax.nn.softmax(jnp.exp(log_scale) *",
        "jax.nn.softmax(log_scale *",
        test_retrieval.check_zero_shot,
    ),
    "search: by the inner product": (
        retrieval,
        "similarity = cosine_similarity(queries, items)",
        "similarity = queries @ items.T",
        test_retrieval.check_search,
    ),
    "labels: templates and labels exchanged": (
        retrieval,
        "for label in labels for template in templates]",
        "for template in templates for label in labels]",
        test_retrieval.check_labels,
    ),
    "labels: long embeddings outweigh short ones": (
        retrieval,
        "normalize(encode(texts)).reshape",
        "encode(texts).reshape",
        test_retrieval.check_labels,
    ),
    "arithmetic: before minus after": (
        retrieval,
        "normalize(after).mean(axis=0) - normalize(before).mean(axis=0)",
        "normalize(before).mean(axis=0) - normalize(after).mean(axis=0)",
        test_retrieval.check_arithmetic,
    ),
    "arithmetic: words never centred": (
        retrieval,
        "words - words.mean(axis=0, keepdims=True)",
        "words",
        test_retrieval.check_arithmetic,
    ),
    "recall: optimistic about ties": (
        metrics,
        "~(similarity < best)",
        "(similarity > best)",
        test_metrics.check_recall,
    ),
    "recall: one place too many": (metrics, "before < k", "before <= k", test_metrics.check_recall),
}


CHECKS = {
    schedules: test_schedules.CHECKS,
    noising: NOISING_CHECKS,
    objectives: test_objectives.CHECKS,
    guidance: test_guidance.CHECKS,
    sampling: SAMPLING_CHECKS,
    transformer: test_transformer.CHECKS,
    vit: test_vit.CHECKS,
    text: test_text.CHECKS,
    clip: test_clip.CHECKS,
    retrieval: test_retrieval.CHECKS,
    metrics: [test_metrics.check_recall],
    **mutants_uses.CHECKS,
}
MUTANTS |= mutants_uses.MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, monkeypatch):
    module, right, wrong, check = MUTANTS[name]
    assert check in CHECKS[module]
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} must stand exactly once in {module.__name__}"
    mutant = types.ModuleType("mutant")
    monkeypatch.setitem(sys.modules, "mutant", mutant)  # where dataclasses look themselves up
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    with pytest.raises(AssertionError):
        check(mutant)
