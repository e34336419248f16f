"""What diffusers' schedulers may be told, and what each takes for granted: see ``weights.scheduler``."""

from minidiff.settings import LIBRARY_NOTES, Table, names

# Settings of their samplers that ours do not have: what is not the default goes into the notes.
FOREIGN = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "interpolation_type": "linear",
    "use_lu_lambdas": False,
    "lambda_min_clipped": float("-inf"),
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
}

# The settings of each class that matter here, with its defaults, and our sampler that it is.
_ALL = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
_MOST = _ALL | {"rescale_betas_zero_snr": False}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_FIRST = _MOST | _CLIP | {"timestep_spacing": "leading", "thresholding": False}
_SIGMAS = {key: False for key in FOREIGN if key.endswith("_sigmas")}
_SOLVER = {key: FOREIGN[key] for key in FOREIGN if key != "interpolation_type"}
_ZERO = {"final_sigmas_type": "zero"}
_HEUN = {"clip_sample": False, "beta_start": 0.00085, "beta_end": 0.012}
_PNDM = {"set_alpha_to_one": False, "skip_prk_steps": False, "timestep_spacing": "leading"}
CLASSES: dict[str, tuple[str, dict]] = {
    "DDPMScheduler": ("ddpm", _FIRST | {"variance_type": "fixed_small"}),
    "DDIMScheduler": ("ddim", _FIRST | {"set_alpha_to_one": True}),
    "PNDMScheduler": ("plms", _ALL | _PNDM),
    "DPMSolverMultistepScheduler": ("dpm++", _MOST | _SOLVER | _ZERO | {"thresholding": False}),
    "EulerDiscreteScheduler": ("euler", _MOST | _SIGMAS | _ZERO | {"interpolation_type": "linear"}),
    "HeunDiscreteScheduler": ("heun", _ALL | _SIGMAS | _CLIP | _HEUN),
    "EulerAncestralDiscreteScheduler": ("ancestral", _MOST),
}

# What a class does where its settings are silent and DDIM's are not, for those for which our ddim
# stands. None: its schedule is none of ours, whatever it is told.
_SPREAD = {"timestep_spacing": "linspace"}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_FEW = _LATENT | {"beta_schedule": "scaled_linear"}
_CLIPPED = {"clip_sample": True}
STAND_INS: dict[str, dict | None] = {
    "CogVideoXDDIMScheduler": None,
    "CogVideoXDPMScheduler": None,
    "DDIMInverseScheduler": _CLIPPED,
    "DDIMParallelScheduler": _CLIPPED,
    "DDPMParallelScheduler": _CLIPPED,
    "DEISMultistepScheduler": _SPREAD,
    "DPMSolverMultistepInverseScheduler": _SPREAD,
    "DPMSolverSDEScheduler": _SPREAD | _LATENT,
    "KDPM2AncestralDiscreteScheduler": _SPREAD | _LATENT,
    "KDPM2DiscreteScheduler": _SPREAD | _LATENT,
    "LCMScheduler": _FEW,
    "LMSDiscreteScheduler": _SPREAD,
    "RePaintScheduler": _CLIPPED,
    "SASolverScheduler": _SPREAD,
    "TCDScheduler": _FEW,
    "UnCLIPScheduler": _SPREAD | _CLIPPED | {"beta_schedule": "squaredcos_cap_v2"},
    "UniPCMultistepScheduler": _SPREAD,
}

# Settings of any class that steps through betas. What a class knows nothing of, it ignores: folders
# that were converted from one class to another are full of that.
_ANY = names("""algorithm_type beta_end beta_schedule beta_start clip_sample clip_sample_range corrector_order
    disable_corrector dynamic_thresholding_ratio eta euler_at_final final_sigmas_type flow_shift
    interpolation_type lambda_min_clipped lower_order_final noise_sampler_seed num_train_timesteps
    original_inference_steps predict_x0 prediction_type predictor_order rescale_betas_zero_snr
    sample_max_value set_alpha_to_one shift_terminal sigma_max sigma_min skip_prk_steps
    solver_order solver_p solver_type steps_offset tau_func thresholding time_shift_type
    timestep_scaling timestep_spacing timestep_type trained_betas use_beta_sigmas
    use_dynamic_shifting use_exponential_sigmas use_flow_sigmas use_karras_sigmas use_lu_lambdas
    variance_type""")


def table(name: str, defaults: dict, foreign: dict) -> Table:
    """What a class may be told, given its defaults; ``foreign`` settings are noted, not followed."""
    followed = {key: value for key, value in defaults.items() if key not in foreign}
    noted = {key: value for key, value in defaults.items() if key in foreign}
    return Table(name, followed, {}, noted, (_ANY | LIBRARY_NOTES) - defaults.keys())


TABLES = {name: table(name, defaults, FOREIGN) for name, (_, defaults) in CLASSES.items()}
OTHERS = table("another scheduler", CLASSES["DDIMScheduler"][1], FOREIGN)
