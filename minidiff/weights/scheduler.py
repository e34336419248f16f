r"""How a diffusers folder was trained and is sampled: scheduler_config.json, read and written.

Names and defaults are those of diffusers' classes, and defaults differ from class to class. What its
classes do otherwise than our samplers, given the same settings:

- **The end.** DDIM and PNDM with ``set_alpha_to_one`` false, and DPM-Solver++ and Euler with
  ``final_sigmas_type`` sigma_min, end at the noise of index 0, not at the image: ``Scheduler.last``.
- **The target of DDIM and PNDM** is always t - T // steps. Where the indices visited lie otherwise
  (linspace, or trailing where steps does not divide T) it leaves x at one noise level and goes on from
  another; ours goes to the next index visited.
- **The last step of DPM-Solver++** with ``final_sigmas_type`` sigma_min is of first order in runs of
  fewer than 15 steps; ours is of second order in all.
- **DDIM's clipping** changes x0 and leaves eps as it was, unless ``step`` is told
  ``use_clipped_model_output``. The other classes change both, as ``guidance.ClipX0`` does.
- **PNDM** with ``skip_prk_steps`` false begins with Runge-Kutta; ours never does, and says so. It mixes
  what the network says, be it v; ours mixes the eps that it means.
- **DDPM** with variance fixed_large adds noise in its last step too, unless that is at t = 0: with
  trailing spacing its samples keep variance 1 - alpha_bar of the last index. Ours ends without noise.
  Its fixed_large_log takes the root of a logarithm (nan); it is read as large.
- **The start** of Euler, Heun and ancestral with linspace or trailing spacing is noise of variance
  1 - alpha_bar in our units; ours has variance 1, as has theirs with leading.
- **Indices**: Euler, Heun and ancestral with linspace visit fractions of an index, with sigma between
  two neighbours'; ours rounds. DPM-Solver++ with linspace or leading makes one index more than it
  needs and drops the last (``Scheduler.timesteps``). Trailing, where T / steps is rounded
  unluckily (61 of 1000), visits an extra index -1; ours never does.
- **Zero terminal SNR**: DDPM and DDIM set the last alpha_bar to 0, the others to 2^-24, which may be
  more than the one before it; ours is 2^-24 or a quarter of the one before. Heun has no such setting.
- **Dynamic thresholding** bounds images by ``sample_max_value``, whose default, 1, makes it clipping
  to 1; so it is read.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from minidiff.errors import InputError
from minidiff.files import read_json
from minidiff.sampling import Variance
from minidiff.schedules import (
    Schedule,
    Spacing,
    cosine_schedule,
    linear_schedule,
    scaled_linear_schedule,
    sigmoid_schedule,
    timesteps,
    zero_terminal_snr,
)
from minidiff.settings import Settings
from minidiff.weights.files import write_atomically
from minidiff.weights.scheduler_settings import CLASSES, OTHERS, STAND_INS, TABLES

Method = Literal["ddpm", "ddim", "plms", "dpm++", "euler", "heun", "ancestral"]
Prediction = Literal["eps", "x0", "v"]

NAME = "scheduler_config.json"
MOST_STEPS = 10_000
LEAST_LEFT = 1e-30  # of alpha_bar at the end: float32 must be able to divide by its root
BETAS = {
    "linear": linear_schedule,
    "scaled_linear": scaled_linear_schedule,
    "squaredcos_cap_v2": lambda steps, first, last: cosine_schedule(steps),
    "sigmoid": sigmoid_schedule,
}


@dataclass(frozen=True)
class Scheduler:
    """What a folder says about noise and sampling, in our words."""

    method: Method = "ddpm"  # our sampler that the folder's class is
    prediction: Prediction = "eps"  # what its network says
    steps: int = 1000  # T
    beta_schedule: str = "linear"  # one of BETAS; squaredcos_cap_v2 is our cosine_schedule
    beta_start: float = 1e-4
    beta_end: float = 0.02
    trained_betas: tuple[float, ...] | None = None  # T values, in place of a beta_schedule
    zero_snr: bool = False  # see schedules.zero_terminal_snr
    spacing: Spacing = "leading"
    offset: int = 0  # added to every index of leading spacing; Stable Diffusion has 1
    last: int = -1  # where the last step goes: -1 the image itself, 0 the noise of index 0
    variance: Variance = "small"  # of DDPM's fresh noise
    clip: float | None = None  # predicted images are kept in [-clip, clip]
    notes: tuple[str, ...] = field(default=(), compare=False)  # what was read but is not followed

    def settings(self, sampler: str, steps: int | None) -> dict:
        """What a sampler is told for a run of so many steps as in this folder; none: all of them.

        Where it ends is a setting of each class, and one of DDIM and PNDM together. ValueError as
        ``timesteps``.
        """
        found = {"steps": steps and tuple(self.timesteps(steps, sampler).tolist())}
        if self.last >= 0 and (
            sampler == self.method or {sampler, self.method} <= {"ddim", "plms"}
        ):
            found["last"] = self.last
        return found | ({"variance": self.variance} if sampler == "ddpm" else {})

    @property
    def schedule(self) -> Schedule:
        """The schedule that the network was trained with. InputError if there cannot be one."""
        try:
            if self.trained_betas is not None:
                schedule = Schedule.from_beta(np.array(self.trained_betas))
            elif self.beta_schedule in BETAS:
                make = BETAS[self.beta_schedule]
                schedule = make(self.steps, self.beta_start, self.beta_end)
            else:
                raise ValueError(f"beta_schedule must be one of {', '.join(BETAS)}")
            schedule = zero_terminal_snr(schedule) if self.zero_snr else schedule
        except ValueError as error:
            raise InputError(str(error)) from None
        left = float(schedule.alpha_bar[-1])
        if left < LEAST_LEFT:
            raise InputError(f"the betas leave {left:.0e} of the image at their end: too little")
        return schedule

    def timesteps(self, steps: int, sampler: str | None = None) -> np.ndarray:
        """The indices, descending, at which the folder's class calls the network in a short run.

        Fractions are rounded. ``sampler``: another class's, told the same. ValueError unless
        1 <= steps <= T, or if ``offset`` leads past T.
        """
        if (
            (sampler or self.method) == "dpm++"
            and self.spacing != "trailing"
            and steps < self.steps
        ):
            ts = timesteps(self.steps, steps + 1, self.spacing)[:-1]
        else:
            ts = timesteps(self.steps, steps, self.spacing)
        ts = ts + (self.offset if self.spacing == "leading" else 0)
        if ts[0] >= self.steps:
            raise ValueError(f"{steps} steps with offset {self.offset} begin past {self.steps - 1}")
        return ts


# Their words for ours, by setting, with the field that it is. Where two are one, we write the first.
WORDS = {
    "prediction_type": ("prediction", {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}),
    "timestep_spacing": ("spacing", {word: word for word in ("leading", "trailing", "linspace")}),
    "variance_type": (
        "variance",
        {f"fixed_{size}{log}": size for log in ("", "_log") for size in ("small", "large")},
    ),
    "final_sigmas_type": ("last", {"zero": -1, "sigma_min": 0}),
    "set_alpha_to_one": ("last", {True: -1, False: 0}),
    "rescale_betas_zero_snr": ("zero_snr", {True: True, False: False}),
}


def read_scheduler(folder: str | Path) -> Scheduler:
    """The scheduler of a pipeline's folder, or of a flat one such as google/ddpm-cifar10-32.

    A class that is not one of ours is read as a DDIMScheduler that does not clip unless told to, if
    its settings name betas: ``notes`` says so, and names every setting that is not followed. What a
    class of diffusers knows nothing of, it ignores, and so do we; what none of them knows is refused.

    InputError if there is no scheduler, if its network cannot be ours (learned variances, flows,
    continuous time), or for a value that is not allowed: with file, name, value and what is.
    """
    path = _find(Path(folder))
    facts = read_json(path)
    settings, name = Settings(facts, str(path)), facts.get("_class_name")
    if not isinstance(name, str) or not name.endswith("Scheduler"):
        raise settings.wrong("_class_name", name, "the name of a scheduler")
    method, defaults = CLASSES.get(name, CLASSES["DDIMScheduler"])
    notes = ()
    if name not in CLASSES:
        own = STAND_INS.get(name, {})
        betas = facts.get("beta_schedule", facts.get("trained_betas"))
        if own is None or (betas is None and "beta_schedule" not in own):
            raise settings.wrong("_class_name", name, f"{' or '.join(CLASSES)}, and names no betas")
        defaults = defaults | {"clip_sample": False} | own
        notes = (f"{name} is not one of ours: ddim stands for it",)
    _refuse_other_networks(settings, name)
    settings = Settings(facts, str(path), TABLES.get(name, OTHERS))

    fields = {"method": method, "steps": settings.whole("num_train_timesteps", 1000, 1, MOST_STEPS)}
    fields["offset"] = settings.whole("steps_offset", 0, 0, fields["steps"] - 1)
    for key in WORDS.keys() & defaults.keys():
        field, words = WORDS[key]
        if isinstance(defaults[key], bool):
            fields[field] = words[settings.flag(key, defaults[key])]
        else:
            fields[field] = words[settings.choice(key, defaults[key], words)]
    if facts.get("trained_betas") is not None:
        fields["trained_betas"] = settings.numbers("trained_betas", (), fields["steps"])
    else:
        known = list(BETAS)
        if name in CLASSES and method != "ddpm":
            known.remove("sigmoid")
        fields["beta_schedule"] = settings.choice("beta_schedule", defaults["beta_schedule"], known)
        for key in ("beta_start", "beta_end"):
            fields[key] = settings.number(key, defaults[key], 0.0, 1.0)
    if method == "plms" and not settings.flag("skip_prk_steps", False):
        notes += ("skip_prk_steps 'False' is not followed: plms begins without Runge-Kutta",)
    if "thresholding" in defaults and settings.flag("thresholding", False):
        fields["clip"] = 1.0
        if facts.get("sample_max_value", 1) != 1:
            notes += ("dynamic thresholding is not followed: images are clipped to 1",)
    elif "clip_sample" in defaults and settings.flag("clip_sample", defaults["clip_sample"]):
        fields["clip"] = settings.number("clip_sample_range", 1.0, 0.0, 1e6)
    try:
        scheduler = Scheduler(**fields, notes=notes + settings.notes)
        _ = scheduler.schedule  # asked for now, so that what is wrong is told with the file
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return scheduler


def _find(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    for path in (folder / "scheduler" / NAME, folder / NAME):
        if path.exists():
            return path
    path = folder / "config.json"  # of a scheduler saved long ago; or of something else
    if path.exists() and str(read_json(path).get("_class_name")).endswith("Scheduler"):
        return path
    raise InputError(f"{folder} holds no {NAME}")


def _refuse_other_networks(settings: Settings, name: str) -> None:
    """Networks that say something else than ours, or are asked at other times than an index."""
    facts = settings.facts
    if str(facts.get("variance_type")).startswith("learned"):
        raise settings.wrong("variance_type", facts["variance_type"], "a fixed one")
    if facts.get("use_flow_sigmas"):
        raise settings.wrong("use_flow_sigmas", facts["use_flow_sigmas"], "false: it is of a flow")
    if name == "EulerDiscreteScheduler":
        settings.choice("timestep_type", "discrete", ("discrete",))


def write_scheduler(folder: str | Path, scheduler: Scheduler) -> None:
    """Write ``scheduler_config.json`` into a folder that is there, as diffusers reads it.

    InputError if the class of diffusers whose method this is has no such setting; OSError where the
    file cannot be written.
    """
    _ = scheduler.schedule  # InputError if there is none
    [name] = (name for name, (method, _) in CLASSES.items() if method == scheduler.method)
    defaults = CLASSES[name][1]
    trained = scheduler.trained_betas
    facts = {
        "_class_name": name,
        "num_train_timesteps": scheduler.steps,
        "beta_schedule": scheduler.beta_schedule,
        "beta_start": scheduler.beta_start,
        "beta_end": scheduler.beta_end,
        "trained_betas": None if trained is None else list(trained),
        "steps_offset": scheduler.offset,
    }
    written = {"clip"} if scheduler.clip is None else set()
    if "clip_sample" in defaults:
        written.add("clip")
        facts["clip_sample"] = scheduler.clip is not None
        facts["clip_sample_range"] = scheduler.clip or 1.0
    elif "thresholding" in defaults and scheduler.clip == 1:
        written.add("clip")
        facts["thresholding"] = True
    if "skip_prk_steps" in defaults:
        facts["skip_prk_steps"] = True
    for key in WORDS.keys() & defaults.keys():
        field, words = WORDS[key]
        written.add(field)
        facts[key] = next(w for w, ours in words.items() if ours == getattr(scheduler, field))
    for field in ("clip", "last", "variance", "zero_snr"):
        if field not in written and getattr(scheduler, field) != getattr(Scheduler(), field):
            raise InputError(f"diffusers' {name} has no setting for {field}: leave it out")
    if scheduler.beta_schedule == "sigmoid" and scheduler.method != "ddpm":
        raise InputError(f"diffusers' {name} has no sigmoid schedule: give its trained_betas")
    content = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    write_atomically(Path(folder) / NAME, content.encode())
