"""Schedulers under the names of others: every step as in diffusers, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.make_schedulers import ALPHA_BARS, RUNS, SHAPE, STEPS, fresh, network, start
from safetensors.numpy import load_file

from minidiff import sampling, schedules, solvers
from minidiff.errors import InputError
from minidiff.guidance import ClipX0
from minidiff.noising import predict_x0
from minidiff.objectives import FromV, FromX0
from minidiff.weights.scheduler import CLASSES, NAME, Scheduler, read_scheduler, write_scheduler

GOLDEN = Path(__file__).parent / "golden/schedulers"
ARRAYS = load_file(GOLDEN / "golden.safetensors")
CONFIGS = json.loads((GOLDEN / "runs.json").read_text())
FACTS = json.loads((GOLDEN / "facts.json").read_text())

# Steps further than 1e-5 from diffusers', by run and number.
FAR = {
    # The first of few steps through the cosine schedule multiplies by thousands what is left of the
    # image, and so the rounding of eps; in the last, 1 - alpha_bar is 4e-5 and has three digits.
    "ddim_trailing": {0: 5e-4},
    "ddpm_linspace": {0: 2e-3, 9: 2e-4},
    "ddpm_noisy_end": {9: 0.5},  # theirs adds noise in the last step
    "ddpm_zero_snr": {0: 0.005},  # theirs has 0 where our alpha_bar is 1e-9
    "ddim_zero_snr": {0: 5e-4},  # and where it is 5e-8
}


def put(folder, facts, name=NAME):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts))
    return folder


def change(folder, **changes):
    """Change settings in the file; ... removes one."""
    facts = json.loads((folder / NAME).read_text()) | changes
    put(folder, {key: value for key, value in facts.items() if value is not ...})


def complaint(action, *arguments):
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def of_run(tmp_path):
    """The scheduler of a golden run, read from what diffusers saved."""
    return lambda name: read_scheduler(put(tmp_path, CONFIGS[name]["config"]))


# Parity: the schedule and the indices


@pytest.mark.parametrize("name", ALPHA_BARS)
def test_alpha_bar(tmp_path, name):
    """Theirs is a product of float32: measured 1e-6 off, 3e-5 where their rescaling cancels."""
    put(tmp_path, {"_class_name": "DDPMScheduler"} | ALPHA_BARS[name])
    found, wanted = read_scheduler(tmp_path).schedule.alpha_bar, ARRAYS[f"alpha_bar.{name}"]
    assert found.shape == wanted.shape
    if name.endswith("zero_snr"):
        np.testing.assert_allclose(found[:-1], wanted[:-1], rtol=5e-5)
        assert 0 == wanted[-1] < found[-1] <= min(2.0**-24, wanted[-2])
    else:
        # Their last beta, near 0.999, is rounded: of 1 - beta three digits less are left.
        np.testing.assert_allclose(found[:-1], wanted[:-1], rtol=1e-6)
        np.testing.assert_allclose(found[-1], wanted[-1], rtol=3e-5)


@pytest.mark.parametrize(
    "name",
    ["DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "PNDMScheduler"],
)
def test_the_indices_visited(tmp_path, name):
    for case, wanted in FACTS[name]["timesteps"].items():
        spacing, steps = case.split()
        put(tmp_path, {"_class_name": name, "timestep_spacing": spacing, "steps_offset": 1})
        found, wanted = read_scheduler(tmp_path).timesteps(int(steps)), list(dict.fromkeys(wanted))
        assert len(found) == len(wanted)
        # Euler's fractions are rounded; where there are halves, theirs are rounded another way.
        most = {f"linspace {steps}": 0.501, "linspace 27": 1, "linspace 30": 1}.get(case, 0)
        assert np.all(np.abs(found - np.array(wanted)) <= most)


def test_the_indices_visited_are_of_the_schedule():
    for method in ("ddim", "dpm++"):
        for steps in (1, 999, 1000):
            scheduler = Scheduler(method, offset=1, spacing="linspace")
            ts = scheduler.timesteps(steps)
            assert len(ts) == steps == len(np.unique(ts))
            assert 0 <= ts.min() <= ts.max() <= 999
    scheduler = Scheduler("ddim", offset=1)
    assert scheduler.timesteps(10)[0] == 901
    with pytest.raises(ValueError, match="1000 steps with offset 1 begin past 999"):
        scheduler.timesteps(1000)
    with pytest.raises(ValueError, match="between 1 and 1000"):
        scheduler.timesteps(0)


# Parity: the steps


@jax.tree_util.Partial
def untrained(x, t):
    return network(x, t.reshape(-1, 1).astype(jnp.float32), jnp)


def denoiser(scheduler):
    """The "network", as the scheduler says that it is to be heard."""
    schedule = scheduler.schedule
    wrap = {"eps": lambda network, _: network, "x0": FromX0, "v": FromV}[scheduler.prediction]
    heard, clip = wrap(untrained, schedule), scheduler.clip
    return heard if clip is None else ClipX0(heard, schedule, -clip, clip)


def in_their_units(scheduler, x, ts):
    """x at the indices ts, or at the image where ts ends, as diffusers' class has it."""
    if scheduler.method in ("ddpm", "ddim", "dpm++", "plms"):
        return x
    sigma = schedules.sigmas(scheduler.schedule, ts, scheduler.last)[: len(x)]
    return x * jnp.sqrt(1 + sigma**2).reshape(-1, *(1,) * (x.ndim - 1))


def steps_of(scheduler, ts, x, noise, arguments):
    """What our step functions make of each x that diffusers saw, all steps at once."""
    schedule, ask = scheduler.schedule, denoiser(scheduler)
    sigma = schedules.sigmas(schedule, ts, scheduler.last)
    if scheduler.method == "heun":
        x, arrived = x[::2], x[1::2]
    else:
        x = x[:-1]

    def hear(x, ts):
        flat, t = x.reshape(-1, SHAPE[1]), jnp.repeat(jnp.asarray(ts), SHAPE[0])
        return flat, t, ask(flat, t)

    def shaped(x):
        return x.reshape(-1, *SHAPE)

    def scaled(y, sigma):
        return y / jnp.sqrt(1 + sigma**2)[:, None, None]

    if scheduler.method in ("ddpm", "ddim"):
        flat, t, eps = hear(x, ts)
        noise = noise.reshape(flat.shape)
        if scheduler.method == "ddpm":
            short = schedules.respace(schedule, ts)
            places = jnp.repeat(jnp.arange(len(ts))[::-1], SHAPE[0])
            return shaped(
                sampling.reverse_step(short, flat, places, eps, noise, scheduler.variance)
            )
        target = ts - schedule.steps // STEPS  # whatever was asked for next
        target = jnp.repeat(jnp.where(target < 0, scheduler.last, target), SHAPE[0])
        eta = arguments.get("eta", 0.0)
        return shaped(sampling.ddim_step(schedule, flat, t, target, eps, noise, eta))
    if scheduler.method == "dpm++":
        flat, t, eps = hear(x, ts)
        x0, y = (
            shaped(predict_x0(schedule, flat, t, eps)),
            x / scaled(jnp.ones(x.shape), sigma[:-1]),
        )
        before, x0_before = (jnp.concatenate([a[:1], a[:-1]]) for a in (sigma[:-1], x0))
        step = jax.vmap(solvers.dpm_solver_step)
        return scaled(step(y, before, sigma[:-1], sigma[1:], x0_before, x0), sigma[1:])
    eps = shaped(hear(scaled(x, sigma[:-1]), ts)[2])
    if scheduler.method == "ancestral":
        return jax.vmap(solvers.ancestral_step)(x, sigma[:-1], sigma[1:], eps, noise)
    moved = jax.vmap(solvers.euler_step)(x, sigma[:-1], sigma[1:], eps)
    if scheduler.method == "euler":
        return moved
    after = shaped(hear(scaled(arrived[:-1], sigma[1:-1]), ts[1:])[2])
    better = jax.vmap(solvers.heun_step)(x[:-1], sigma[:-2], sigma[1:-1], eps[:-1], after)
    both = jnp.stack([moved[:-1], better], 1).reshape(-1, *SHAPE)
    return jnp.concatenate([both, moved[-1:]])


def deviations(scheduler, name, arguments=None):
    """How far each of our steps is from theirs, as a share of the size of x."""
    run, x = CONFIGS[name], jnp.asarray(ARRAYS[f"{name}.x"])
    ts = np.array(list(dict.fromkeys(run["timesteps"])), np.int32)
    noise = jnp.stack([jnp.float32(fresh(step)) for step in range(STEPS)])
    found = steps_of(scheduler, ts, x, noise, run["arguments"] if arguments is None else arguments)
    assert found.shape == x[1:].shape
    size = np.maximum(np.abs(x[1:]).max((1, 2)), 1)
    return np.abs(found - x[1:]).max((1, 2)) / size


# Those whose step is a function of what is seen at it, and not of all that was seen before.
ALONE = [x for x in RUNS if x not in ("ddim_clipped_half", "dpm_near") and x[:4] != "plms"]


@pytest.mark.parametrize("name", ALONE)
def test_each_step(of_run, name):
    scheduler = of_run(name)
    assert scheduler.notes == ()
    visited = list(dict.fromkeys(CONFIGS[name]["timesteps"]))
    assert scheduler.timesteps(STEPS).tolist() == visited
    found = deviations(scheduler, name)
    most = np.full(found.shape, 1e-5)
    for step, far in FAR.get(name, {}).items():
        most[step] = far
    assert np.all(found < most), found


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ddpm_leading", {"variance": "small"}),
        ("ddpm_offset", {"prediction": "eps"}),
        ("ddpm_trailing", {"clip": None}),
        ("ddpm_trailing", {"beta_end": 0.019}),
        ("ddim_offset", {"last": -1}),
        ("ddim_offset", {"beta_schedule": "linear"}),
        ("ddim_x0", {"prediction": "v"}),
        ("ddim_zero_snr", {"zero_snr": False}),
        ("dpm_leading", {"method": "euler"}),
        ("euler_linspace", {"beta_start": 0.00085, "beta_end": 0.012}),  # Heun's defaults
        ("heun_clipped", {"clip": 1.0}),
    ],
)
def test_a_wrong_setting_shows(of_run, name, changes):
    scheduler = of_run(name)
    assert max(deviations(replace(scheduler, **changes), name)) > 1e-3


def test_wrong_eta_shows(of_run):
    assert max(deviations(of_run("ddim_trailing"), "ddim_trailing", {"eta": 0.9})) > 1e-3


def sigmas_of(name):
    """diffusers' sigmas of a run, each once."""
    return np.array(list(dict.fromkeys(ARRAYS[f"{name}.sigmas"].tolist())))


@pytest.mark.parametrize("name", [name for name in RUNS if f"{name}.sigmas" in ARRAYS])
def test_sigmas(of_run, name):
    scheduler = of_run(name)
    found = schedules.sigmas(scheduler.schedule, scheduler.timesteps(STEPS), scheduler.last)
    np.testing.assert_allclose(found, sigmas_of(name), rtol=5e-6)


# Where diffusers deviates from us, or from itself: exactly as the module says


def test_their_last_step_of_ddpm_is_noisy(of_run):
    scheduler, x = of_run("ddpm_noisy_end"), jnp.asarray(ARRAYS["ddpm_noisy_end.x"])
    short = schedules.respace(scheduler.schedule, scheduler.timesteps(STEPS))
    t = jnp.zeros(2, jnp.int32)
    eps = untrained(x[-2], jnp.full(2, 99))
    ours = sampling.reverse_step(short, x[-2], t, eps, jnp.float32(fresh(9)), "large")
    noise = np.sqrt(1 - short.alpha_bar[0]) * fresh(9)
    np.testing.assert_allclose(ours + noise, x[-1], atol=1e-5)


def test_their_last_step_of_dpm_is_of_first_order(of_run):
    scheduler, x = of_run("dpm_near"), jnp.asarray(ARRAYS["dpm_near.x"])
    far = deviations(scheduler, "dpm_near")
    assert max(far[:-1]) < 1e-5
    assert far[-1] > 0.1
    ts = scheduler.timesteps(STEPS)
    now, after = schedules.sigmas(scheduler.schedule, ts[-1:], scheduler.last)
    t = jnp.full(SHAPE[0], ts[-1])
    x0 = predict_x0(scheduler.schedule, x[-2], t, denoiser(scheduler)(x[-2], t))
    y = solvers.dpm_solver_step(x[-2] * jnp.sqrt(1 + now**2), now, now, after, x0, x0)
    np.testing.assert_allclose(y / jnp.sqrt(1 + after**2), x[-1], atol=1e-5)


def test_their_ddim_clips_by_halves(of_run):
    """The image is clipped and the noise stays: the step is no longer from x to anything."""
    scheduler, x = of_run("ddim_clipped_half"), ARRAYS["ddim_clipped_half.x"]
    assert max(deviations(scheduler, "ddim_clipped_half")) > 0.1
    alpha_bar = np.append(np.float64(scheduler.schedule.alpha_bar), 1.0)
    for i, t in enumerate(scheduler.timesteps(STEPS)):
        now, after = alpha_bar[t], alpha_bar[t - 100 if t >= 100 else -1]
        eps = network(np.float64(x[i]), t)
        x0 = np.clip((x[i] - np.sqrt(1 - now) * eps) / np.sqrt(now), -0.6, 0.6)
        theirs = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
        np.testing.assert_allclose(x[i + 1], theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["euler_linspace", "euler_leading", "heun_clipped"])
def test_where_they_start(of_run, name):
    scheduler = of_run(name)
    ts = scheduler.timesteps(STEPS)
    alpha_bar = np.float64(scheduler.schedule.alpha_bar[ts[0]])
    expected = start() * (1 if scheduler.spacing == "leading" else np.sqrt(1 - alpha_bar))
    found = ARRAYS[f"{name}.x"][0] * np.sqrt(alpha_bar)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Parity: whole samplers, where ours visit the same indices

WHOLE = [
    "ddpm_leading",
    "ddpm_trailing",
    "ddpm_whole",
    "ddim_leading",
    "ddim_trailing",
    "ddim_offset",
    "ddim_x0",
    "ddim_clipped",
    "dpm_leading",
    "dpm_trailing",
    "euler_near",
    "euler_linspace",
    "euler_trailing",
    "heun_linspace",
    "heun_clipped",
    "ancestral_linspace",
    "plms_offset",
    "plms_trailing",
]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_runs(of_run, monkeypatch, name):
    given = jnp.stack([jnp.zeros(SHAPE), *(jnp.float32(fresh(step)) for step in range(STEPS))])
    monkeypatch.setattr(sampling, "sample_noise", lambda key, shape, first, k: given[k])
    scheduler, x = of_run(name), jnp.asarray(ARRAYS[f"{name}.x"])
    x = jnp.concatenate([x[::2], x[-1:]]) if scheduler.method == "heun" else x
    ts = scheduler.timesteps(STEPS)
    size = in_their_units(scheduler, jnp.ones(len(x)), ts)[:, None, None]
    wanted = x / size
    settings = scheduler.settings(scheduler.method, STEPS) | {"start": wanted[0], "every": 1}
    if scheduler.method == "ddim":
        settings["eta"] = CONFIGS[name]["arguments"].get("eta", 0.0)
    sample = solvers.SAMPLERS[scheduler.method]
    end, seen = sample(
        jax.random.key(0), denoiser(scheduler), scheduler.schedule, SHAPE, **settings
    )
    found = np.concatenate([seen.xt, end[None]])
    assert list(dict.fromkeys(seen.t.tolist())) == ts.tolist()
    far = np.abs(found - wanted).max((1, 2)) / np.maximum(np.abs(wanted).max((1, 2)), 1)
    assert max(far) < max([1e-5, *FAR.get(name, {}).values()]), far


def test_their_plms_mixes_what_the_network_says(of_run):
    """Ours mixes the eps that it means: the same but where it says v."""
    scheduler, x = of_run("plms_v"), np.float64(ARRAYS["plms_v.x"])
    alpha_bar = np.float64(scheduler.schedule.alpha_bar)
    ts = np.array(CONFIGS["plms_v"]["timesteps"])
    said = [network(x[i], t) for i, t in enumerate(ts)]

    def moved(x, t, after, v):
        now, after = alpha_bar[t], alpha_bar[max(after, 0)]
        x0, eps = np.sqrt(now) * x - np.sqrt(1 - now) * v, np.sqrt(now) * v + np.sqrt(1 - now) * x
        return np.sqrt(after) * x0 + np.sqrt(1 - after) * eps

    np.testing.assert_allclose(moved(x[0], ts[0], ts[1], said[0]), x[1], atol=1e-5)
    mean = (said[0] + said[1]) / 2
    np.testing.assert_allclose(moved(x[0], ts[0], ts[1], mean), x[2], atol=1e-5)
    mixed = (3 * said[2] - said[0]) / 2
    np.testing.assert_allclose(moved(x[2], ts[2], ts[3], mixed), x[3], atol=1e-5)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("ddim", {"last": 0}),
        ("plms", {"last": 0}),
        ("euler", {}),
        ("dpm++", {}),
        ("ddpm", {"variance": "small"}),
    ],
)
def test_another_sampler_in_the_folder_of_one(sampler, expected):
    """As diffusers' class is told by the settings of another: where it ends is its own default."""
    scheduler = Scheduler("plms", offset=1, last=0, **LATENT)
    found = scheduler.settings(sampler, 4)
    ends = (801, 601, 401, 201) if sampler == "dpm++" else (751, 501, 251, 1)
    assert found == {"steps": ends} | expected
    assert replace(scheduler, method="euler").settings("euler", 4)["last"] == 0
    assert "last" not in replace(scheduler, method="euler").settings("ddim", 4)


# Settings


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_are_those_of_the_class(name):
    wanted = FACTS[name]["defaults"] | {"lambda_min_clipped": float("-inf")}
    ours = CLASSES[name][1]
    assert {key: wanted[key] for key in ours} == ours
    # What is left is for other networks, for orders and bounds that we read otherwise, or for flows.
    assert wanted.keys() - ours.keys() <= {
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "flow_shift",
        "lambda_min_clipped",
        "lower_order_final",
        "sample_max_value",
        "sigma_max",
        "sigma_min",
        "time_shift_type",
        "timestep_type",
        "use_dynamic_shifting",
        "use_flow_sigmas",
        "variance_type",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DDPMScheduler", Scheduler("ddpm", clip=1.0)),
        ("DDIMScheduler", Scheduler("ddim", clip=1.0)),
        ("DPMSolverMultistepScheduler", Scheduler("dpm++", spacing="linspace")),
        ("EulerDiscreteScheduler", Scheduler("euler", spacing="linspace")),
        (
            "HeunDiscreteScheduler",
            Scheduler("heun", spacing="linspace", beta_start=0.00085, beta_end=0.012),
        ),
        ("EulerAncestralDiscreteScheduler", Scheduler("ancestral", spacing="linspace")),
        ("PNDMScheduler", Scheduler("plms", last=0)),
    ],
)
def test_silent_settings(tmp_path, name, expected):
    assert read_scheduler(put(tmp_path, {"_class_name": name})) == expected


LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def test_real_folders(tmp_path):
    cifar = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_large",
    }
    put(tmp_path, {"_class_name": "UNet2DModel"}, "config.json")
    scheduler = read_scheduler(put(tmp_path, cifar))
    assert scheduler == Scheduler("ddpm", variance="large", clip=1.0)
    latent = LATENT | {
        "_class_name": "PNDMScheduler",
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    scheduler = read_scheduler(put(tmp_path, latent, f"scheduler/{NAME}"))  # before the flat one
    assert scheduler == Scheduler("plms", offset=1, last=0, **LATENT)
    assert scheduler.notes == ()
    visited = scheduler.timesteps(50)
    assert [visited[0], visited[1], visited[-1], len(visited)] == [981, 961, 1, 50]
    assert scheduler.schedule.alpha_bar[-1] == pytest.approx(0.0046601, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("DDPM", {"variance_type": "fixed_small_log"}, {"clip": 1.0}),
        ("DDPM", {"variance_type": "fixed_large_log"}, {"clip": 1.0, "variance": "large"}),
        ("DDPM", {"thresholding": True, "clip_sample_range": 3}, {"clip": 1.0}),
        ("DDPM", {"clip_sample_range": 3}, {"clip": 3.0}),
        ("DDPM", {"set_alpha_to_one": False, "final_sigmas_type": 1}, {"clip": 1.0}),
        ("EulerDiscrete", {"clip_sample": True, "set_alpha_to_one": False}, {}),
        ("EulerDiscrete", {"final_sigmas_type": "sigma_min"}, {"last": 0}),
        ("EulerDiscrete", {"use_karras_sigmas": None, "sigma_min": None}, {}),
        ("EulerAncestralDiscrete", {"use_karras_sigmas": True, "thresholding": True}, {}),
        (
            "HeunDiscrete",
            {"rescale_betas_zero_snr": True, "beta_start": 1e-4, "beta_end": 0.02},
            {},
        ),
        ("DPMSolverMultistep", {"clip_sample": True, "lambda_min_clipped": float("-inf")}, {}),
        ("DPMSolverMultistep", {"thresholding": True}, {"clip": 1.0}),
        ("LMSDiscrete", {"clip_sample": True, "beta_schedule": "sigmoid"}, {"clip": 1.0}),
    ],
)
def test_what_settings_mean(tmp_path, name, changes, expected):
    """What a class does not know it ignores, as diffusers does."""
    spacing = {"timestep_spacing": "trailing"}
    found = read_scheduler(put(tmp_path, {"_class_name": f"{name}Scheduler"} | spacing | changes))
    method = CLASSES.get(f"{name}Scheduler", ["ddim"])[0]
    given = {key: changes[key] for key in ("beta_schedule", "beta_start") if key in changes}
    assert found == Scheduler(method, spacing="trailing", **given, **expected)
    assert len(found.notes) == (name == "LMSDiscrete")


@pytest.mark.parametrize(
    ("name", "changes", "note"),
    [
        ("DPMSolverMultistep", {"solver_order": 3}, "solver_order '3' is not followed"),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver++"),
        ("DPMSolverMultistep", {"solver_type": "heun"}, "solver_type"),
        ("DPMSolverMultistep", {"lambda_min_clipped": -5.1}, "lambda_min_clipped"),
        ("EulerDiscrete", {"use_karras_sigmas": True}, "use_karras_sigmas 'True' is not followed"),
        ("EulerDiscrete", {"interpolation_type": "log_linear"}, "interpolation_type"),
        ("HeunDiscrete", {"use_beta_sigmas": True}, "use_beta_sigmas"),
        ("DDPM", {"thresholding": True, "sample_max_value": 1.5}, "dynamic thresholding"),
        ("UniPCMultistep", {"beta_schedule": "linear"}, "ddim stands for it"),
        ("PNDM", {"skip_prk_steps": False}, "plms begins without Runge-Kutta"),
        ("PNDM", {}, "skip_prk_steps 'False' is not followed"),
    ],
)
def test_what_is_not_followed_is_noted(tmp_path, name, changes, note):
    put(tmp_path, {"_class_name": f"{name}Scheduler"} | changes)
    [found] = read_scheduler(tmp_path).notes
    assert note in found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel', not the name of a sched"),
        ({"_class_name": ...}, "_class_name is None"),
        ({"_class_name": ["DDIMScheduler"]}, "_class_name is ['DDIMScheduler']"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": ...},
            "'FlowMatchEulerDiscreteScheduler', not DDPMScheduler or",
        ),
        ({"prediction_type": "flow_prediction"}, "not epsilon or sample or v_prediction"),
        ({"prediction_type": None}, "prediction_type is None"),
        ({"timestep_spacing": "even"}, "'even', not leading or trailing or linspace"),
        ({"timestep_spacing": ["leading"]}, "timestep_spacing is ['leading']"),
        ({"beta_schedule": "laplace"}, "'laplace', not linear or scaled_linear or squared"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "'sigmoid', not linear or"),
        ({"beta_start": 0}, "beta_start is 0, not a number above 0.0 and below 1.0"),
        ({"beta_start": "1e-4"}, "beta_start is '1e-4'"),
        ({"beta_end": 1.5}, "beta_end is 1.5"),
        ({"beta_end": float("nan")}, "beta_end is nan"),
        ({"beta_end": None}, "beta_end is None"),
        ({"beta_end": 0.9}, "too little"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0, not a whole number from 1 to"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps is 1000.0"),
        ({"num_train_timesteps": True}, "num_train_timesteps is True"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000"),
        ({"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, "of one step"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"steps_offset": 1000}, "steps_offset is 1000, not a whole number from 0 to 999"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is [0.1, 0.2], not a list of 1000 numbers"),
        ({"trained_betas": 0.1}, "trained_betas is 0.1"),
        ({"trained_betas": [0.1, 1.0], "num_train_timesteps": 2}, "each between 0 and 1"),
        ({"trained_betas": [0.1, "0"], "num_train_timesteps": 2}, "a list of 2 numbers"),
        ({"variance_type": "learned_range"}, "variance_type is 'learned_range', not a fixed one"),
        ({"variance_type": "huge"}, "variance_type is 'huge', not fixed_small or fixed_large or"),
        ({"clip_sample": "yes"}, "clip_sample is 'yes', not true or false"),
        ({"clip_sample": True, "clip_sample_range": 0}, "clip_sample_range is 0"),
        ({"thresholding": 1}, "thresholding is 1"),
        ({"rescale_betas_zero_snr": None}, "rescale_betas_zero_snr is None"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": 1}, "set_alpha_to_one is 1"),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "timestep_type is 'continuous', not discrete",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "one"},
            "final_sigmas_type is 'one', not zero or sigma_min",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas is True",
        ),
    ],
)
def test_impossible_settings(tmp_path, changes, said):
    put(tmp_path, CONFIGS["ddpm_leading"]["config"])
    read_scheduler(tmp_path)
    change(tmp_path, **changes)
    told = complaint(read_scheduler, tmp_path)
    assert told.startswith(f"{tmp_path / NAME}: ")
    assert said in told


def test_where_a_scheduler_is_found(tmp_path):
    assert complaint(read_scheduler, tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    assert complaint(read_scheduler, tmp_path) == f"{tmp_path} holds no {NAME}"
    put(tmp_path, {"_class_name": "UNet2DModel"}, "config.json")
    assert complaint(read_scheduler, tmp_path) == f"{tmp_path} holds no {NAME}"
    for name, kind in (
        ("config.json", "EulerDiscrete"),
        (NAME, "HeunDiscrete"),
        (f"scheduler/{NAME}", "DDIM"),
    ):
        put(tmp_path, {"_class_name": f"{kind}Scheduler"}, name)
        assert read_scheduler(str(tmp_path)).method == CLASSES[f"{kind}Scheduler"][0]
    (tmp_path / "scheduler" / NAME).write_text("{")
    assert "cannot be read as JSON" in complaint(read_scheduler, tmp_path)


# Out again

OURS = [
    Scheduler(),
    Scheduler("ddpm", "x0", beta_schedule="sigmoid", variance="large", clip=2.5),
    Scheduler("ddim", "v", zero_snr=True, last=0, offset=3, spacing="linspace"),
    Scheduler("ddim", steps=3, trained_betas=(0.1, 0.30000001, 1 / 3)),
    Scheduler("dpm++", beta_schedule="squaredcos_cap_v2", spacing="trailing", clip=1.0),
    Scheduler("euler", last=0, **LATENT),
    Scheduler("heun", steps=50, clip=0.5),
    Scheduler("ancestral", "v", zero_snr=True),
    Scheduler("plms", offset=1, last=0, **LATENT),
]


def test_what_is_written_reads_back(of_run, tmp_path):
    for name in RUNS:
        scheduler = of_run(name)
        write_scheduler(tmp_path, scheduler)
        assert read_scheduler(tmp_path) == scheduler
    for scheduler in OURS:
        write_scheduler(tmp_path, scheduler)
        assert read_scheduler(tmp_path) == scheduler


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        (Scheduler("ddpm", last=0), "diffusers' DDPMScheduler has no setting for last"),
        (Scheduler("ddim", variance="large"), "DDIMScheduler has no setting for variance"),
        (Scheduler("dpm++", clip=2.0), "has no setting for clip"),
        (Scheduler("euler", clip=1.0), "EulerDiscreteScheduler has no setting for clip"),
        (Scheduler("heun", zero_snr=True), "has no setting for zero_snr"),
        (Scheduler("heun", beta_schedule="sigmoid"), "no sigmoid schedule"),
        (Scheduler(beta_schedule="cosine"), "beta_schedule must be one of linear, scaled_linear"),
        (Scheduler(beta_end=2.0), "each between 0 and 1"),
    ],
)
def test_what_cannot_be_written(tmp_path, scheduler, said):
    assert said in complaint(write_scheduler, tmp_path, scheduler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # its own, and PyTorch's
@pytest.mark.parametrize("scheduler", OURS, ids=lambda scheduler: scheduler.method)
def test_diffusers_loads_what_we_write(tmp_path, scheduler):
    diffusers = pytest.importorskip("diffusers")
    write_scheduler(tmp_path, scheduler)
    [name] = [name for name, (method, _) in CLASSES.items() if method == scheduler.method]
    loaded, unused = getattr(diffusers, name).from_pretrained(tmp_path, return_unused_kwargs=True)
    assert unused == {"_class_name": name}
    found = scheduler.schedule.alpha_bar[:-1]
    np.testing.assert_allclose(found, loaded.alphas_cumprod.numpy()[:-1], rtol=5e-5)
    loaded.set_timesteps(3)
    ts = [round(t) for t in dict.fromkeys(loaded.timesteps.tolist())]
    assert np.all(np.abs(scheduler.timesteps(3) - np.array(ts)) <= 1)
    loaded.save_pretrained(tmp_path / "theirs")
    assert read_scheduler(tmp_path / "theirs") == scheduler
