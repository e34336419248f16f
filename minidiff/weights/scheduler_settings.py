"""What the schedulers of diffusers may be told, beside what ours follow: see ``weights.scheduler``."""

from minidiff.settings import LIBRARY_NOTES, Table, names

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
    "PNDMScheduler": {"set_alpha_to_one": False},
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
