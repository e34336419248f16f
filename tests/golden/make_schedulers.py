"""Write schedulers/: what diffusers' schedulers do with one small "network" and given noise.

    python tests/golden/make_schedulers.py        # after pip install -e ".[bench]"

``runs.json`` has each run's settings, as diffusers saves them, with the indices visited; in
``golden.safetensors`` lie its x at every call of the network and at the end (in diffusers' own units:
those of Euler, Heun and ancestral grow with sigma) and its sigmas. ``facts.json`` has the defaults of
each class and the indices of short runs. Noise is computed, not stored; x is float64 on the way,
coefficients are float32, as diffusers makes them.
"""

import inspect
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.make_clip import noise

HERE = Path(__file__).parent / "schedulers"
SHAPE = (2, 8)
STEPS = 10
CLASSES = ("DDPM", "DDIM", "DPMSolverMultistep", "EulerDiscrete", "HeunDiscrete")
CLASSES += ("EulerAncestralDiscrete", "PNDM")

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
V = {"prediction_type": "v_prediction"}
LEADING, TRAILING, LINSPACE = (
    {"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")
)
FREE, CLIPPED = {"clip_sample": False}, {"clip_sample": True, "clip_sample_range": 0.6}
LARGE = {"variance_type": "fixed_large"}
ZERO_SNR = {"rescale_betas_zero_snr": True}
OFFSET = {"steps_offset": 1}
NEAR = {"final_sigmas_type": "sigma_min"}
PLMS = {"skip_prk_steps": True}

# name: (class, settings, arguments of ``step``)
RUNS = {
    "ddpm_leading": ("DDPM", FREE | LARGE, {}),
    "ddpm_offset": ("DDPM", FREE | LATENT | V | OFFSET, {}),
    "ddpm_linspace": ("DDPM", CLIPPED | LARGE | COSINE | LINSPACE, {}),
    "ddpm_trailing": ("DDPM", CLIPPED | V | TRAILING, {}),
    "ddpm_whole": ("DDPM", FREE | {"num_train_timesteps": STEPS, "beta_end": 0.5}, {}),
    "ddpm_noisy_end": ("DDPM", FREE | LARGE | TRAILING, {}),
    "ddpm_zero_snr": ("DDPM", FREE | V | TRAILING | ZERO_SNR, {}),
    "ddim_leading": ("DDIM", FREE, {"eta": 0.0}),
    "ddim_offset": ("DDIM", FREE | LATENT | V | OFFSET | {"set_alpha_to_one": False}, {"eta": 1.0}),
    "ddim_trailing": ("DDIM", FREE | COSINE | TRAILING, {"eta": 1.0}),
    "ddim_linspace": ("DDIM", FREE | LINSPACE, {"eta": 0.0}),
    "ddim_x0": ("DDIM", FREE | TRAILING | {"prediction_type": "sample"}, {"eta": 0.5}),
    "ddim_clipped": ("DDIM", CLIPPED | TRAILING, {"use_clipped_model_output": True}),
    "ddim_clipped_half": ("DDIM", CLIPPED | TRAILING, {}),
    "ddim_zero_snr": ("DDIM", FREE | LATENT | V | TRAILING | ZERO_SNR, {"eta": 0.0}),
    "dpm_linspace": ("DPMSolverMultistep", {}, {}),
    "dpm_leading": ("DPMSolverMultistep", LATENT | V | LEADING | OFFSET, {}),
    "dpm_near": ("DPMSolverMultistep", LATENT | LEADING | OFFSET | NEAR, {}),
    "dpm_trailing": ("DPMSolverMultistep", LATENT | TRAILING, {}),
    "euler_linspace": ("EulerDiscrete", {}, {}),
    "euler_leading": ("EulerDiscrete", LATENT | LEADING | OFFSET, {}),
    "euler_near": ("EulerDiscrete", LATENT | LEADING | OFFSET | NEAR, {}),
    "euler_trailing": ("EulerDiscrete", LATENT | V | TRAILING, {}),
    "heun_linspace": ("HeunDiscrete", LATENT, {}),
    "heun_clipped": ("HeunDiscrete", CLIPPED | V | TRAILING, {}),
    "heun_leading": ("HeunDiscrete", LATENT | LEADING | OFFSET, {}),
    "ancestral_linspace": ("EulerAncestralDiscrete", {}, {}),
    "ancestral_leading": ("EulerAncestralDiscrete", LATENT | V | LEADING | OFFSET, {}),
    "plms_offset": ("PNDM", PLMS | LATENT | OFFSET, {}),  # as Stable Diffusion 1
    "plms_trailing": ("PNDM", PLMS | TRAILING | {"set_alpha_to_one": True}, {}),
    "plms_v": ("PNDM", PLMS | LATENT | OFFSET | V, {}),
}

# Arguments of DDPMScheduler, the only one that knows every schedule, whose alpha_bar is kept.
ALPHA_BARS = {
    "linear": {},
    "short": {"num_train_timesteps": 50, "beta_start": 0.001, "beta_end": 0.3},
    "scaled_linear": LATENT,
    "squaredcos_cap_v2": COSINE,
    "sigmoid": {"beta_schedule": "sigmoid"},
    "trained": {"num_train_timesteps": 4, "trained_betas": [0.1, 0.25, 0.2, 0.5]},
    "linear_zero_snr": ZERO_SNR,
    "scaled_linear_zero_snr": LATENT | ZERO_SNR,
    "squaredcos_cap_v2_zero_snr": COSINE | ZERO_SNR,
}


def network(x, t, xp=np):
    """What stands for a network, in ``xp``'s numbers: bends x, and near pure noise is x itself.

    So a guess of eps leads to an image of sensible size, though not to a sensible image.
    """
    noisy = xp.sin(t * (np.pi / 2000))
    return noisy * x + (1 - noisy) * xp.tanh((0.4 + 0.0005 * t) * x + 0.5 * xp.cos(0.007 * t))


def start():
    """Where every run starts, in units of variance 1."""
    return noise("start", SHAPE)


def fresh(step):
    """The noise that step number ``step`` is given."""
    return noise(f"fresh {step}", SHAPE)


def make(kind, **settings):
    import diffusers

    return getattr(diffusers, f"{kind}Scheduler")(**settings)


def run(kind, settings, arguments):
    """(facts, arrays) of one run."""
    import torch

    scheduler = make(kind, **settings)
    facts = {"arguments": arguments, "config": json.loads(scheduler.to_json_string())}
    scheduler.set_timesteps(STEPS)
    module, step = sys.modules[type(scheduler).__module__], 0
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = lambda shape, **others: torch.from_numpy(fresh(step))
    x = torch.from_numpy(start()) * float(scheduler.init_noise_sigma)
    seen = []
    for t in scheduler.timesteps:
        seen.append(x)
        scaled = scheduler.scale_model_input(x, t)
        said = torch.from_numpy(network(scaled.double().numpy(), float(t)))
        x = scheduler.step(said, t, x, **arguments).prev_sample.double()
        step += 1
    facts["timesteps"] = scheduler.timesteps.tolist()
    arrays = {"x": torch.stack([*seen, x]).numpy()}
    if hasattr(scheduler, "sigmas"):
        arrays["sigmas"] = scheduler.sigmas.numpy()
    return facts, {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def defaults(kind):
    """What a class takes a setting for that is not in the file."""
    parameters = inspect.signature(type(make(kind)).__init__).parameters
    found = {name: p.default for name, p in parameters.items() if name not in ("self", "kwargs")}
    return {name: str(x) if x == -float("inf") else x for name, x in found.items()}


def visited(kind):
    """The indices of short runs, by spacing and number."""
    found = {}
    for spacing in ("leading", "trailing", "linspace"):
        for steps in (2, 7, 10, 27, 30):
            told = PLMS if kind == "PNDM" else {}
            scheduler = make(kind, timestep_spacing=spacing, steps_offset=1, **told)
            scheduler.set_timesteps(steps)
            found[f"{spacing} {steps}"] = scheduler.timesteps.tolist()
    return found


def write(name, facts):
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    from safetensors.numpy import save_file

    HERE.mkdir(exist_ok=True)
    runs, arrays = {}, {}
    for name, (kind, settings, arguments) in RUNS.items():
        runs[name], found = run(kind, settings, arguments)
        arrays |= {f"{name}.{key}": array for key, array in found.items()}
    for name, settings in ALPHA_BARS.items():
        arrays[f"alpha_bar.{name}"] = make("DDPM", **settings).alphas_cumprod.numpy()
    save_file(arrays, HERE / "golden.safetensors")
    write("runs.json", runs)
    facts = {f"{kind}Scheduler": {"defaults": defaults(kind)} for kind in CLASSES}
    for kind in ("DDPM", "DPMSolverMultistep", "EulerDiscrete", "PNDM"):
        facts[f"{kind}Scheduler"]["timesteps"] = visited(kind)
    write("facts.json", facts)
