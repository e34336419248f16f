"""What sample does: pictures from a trained model, told what to show or what to begin with."""

import argparse
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import memory, plot
from minidiff.commands._arguments import NOISY
from minidiff.commands._models import open_diffusion, tell_cut
from minidiff.data.arrays import to_float
from minidiff.data.images import image_size, read_images
from minidiff.editing import image_to_image, inpaint, lerp, slerp
from minidiff.errors import InputError
from minidiff.keys import key_of_seed
from minidiff.pipeline import known_latents, part_of
from minidiff.sampling import sample_noise
from minidiff.trained.diffusion import AT_ONCE, Diffusion, draw

STRENGTH = 0.6
MOST_CAPTIONED = 256  # images on a sheet with their prompts


def run(args: argparse.Namespace, out: Path) -> None:
    """Draw what the command line asks for into the picture ``out``."""
    if args.image and (args.count or 0) > AT_ONCE:
        raise InputError(f"--count {args.count} is too many with --image: at most {AT_ONCE}")
    model = open_diffusion(args.run)
    settings = _settings(args, model)
    for note in model.scheduler.notes if model.scheduler else ():
        print(f"minidiff: {args.run}: {note}", file=sys.stderr)
    args.count = args.count or (4 * len(args.prompts) or 16)
    if args.prompts:
        if model.encoder is None:
            raise InputError(f"{args.run} was trained without text: it takes no prompt")
        _tell(model, args.prompts, args.negative)
    elif model.takes_text and model.encoder is None:
        raise InputError(f"{args.run} wants a text, and there is no CLIP with it that reads one")
    _check_memory(args, model)
    key = key_of_seed(args.seed)
    if args.between:
        images = _between(key, model, args, settings)
        plot.enlarge(plot.tile(images, len(images))).save(out)
    else:
        if args.image:
            images = _from_image(key, model, args, settings)
        else:
            told = {"prompts": args.prompts, "scale": args.scale, "negative": args.negative}
            sampler = settings["sampler"]
            images = draw(key, model, args.count, **told, sampler=sampler, **settings["settings"])
        if args.prompts:
            captions = [args.prompts[i % len(args.prompts)] for i in range(args.count)]
            plot.save(plot.contact_sheet(images, captions), out)
        else:
            plot.enlarge(plot.tile(images)).save(out)
    print(f"{len(images)} samples of {args.run} are in {out}")


def _settings(args: argparse.Namespace, model: Diffusion) -> dict:
    """Of ``Diffusion.sampling``: the sampler's name and its steps. InputError for too many."""
    sampler, total = args.sampler or model.sampler, model.schedule.steps
    if args.between and sampler in NOISY:  # the model's own, for ``check`` saw what was asked for
        sampler = "ddim"
    if args.steps and args.steps > total:
        raise InputError(f"--steps {args.steps} is more than the model's {total}")
    steps = args.steps or (None if sampler == "ddpm" else min(model.steps, total))
    return {"sampler": sampler, "settings": {"steps": steps}}


def _check_memory(args: argparse.Namespace, model: Diffusion) -> None:
    """InputError for images so large or so many that they would not fit, by their shapes alone."""
    if model.image_shape[2] not in (1, 3):
        channels = model.image_shape[2]
        raise InputError(
            f"{args.run} draws images of {channels} channels: only 1 or 3 can be shown"
        )
    count = args.between or args.count
    if args.prompts and count > MOST_CAPTIONED:
        raise InputError(f"--count {count} is too many with prompts: at most {MOST_CAPTIONED}")
    side, config = model.image_shape[0], model.network.config
    together = min(count, AT_ONCE if args.image or args.between else model.at_once)
    needed = 4 * math.prod(model.image_shape) * count + 4 * together * model.scores
    needed += 4 * together * (model.shape[0] // config.patch) ** 2 * config.channels[0]
    remedy = "draw fewer" if side <= 512 else "this model is too large for this machine"
    memory.require(needed, f"drawing {count} images of {side} pixels", remedy)


def _tell(model: Diffusion, prompts: list[str], negative: str) -> None:
    """On stderr: what of the prompts the model cannot know."""
    tell_cut(model.encoder, [*prompts, negative])
    strange = model.encoder.unfamiliar(prompts)
    if strange:
        print(f"minidiff: never seen in training: {', '.join(strange)}", file=sys.stderr)


def _between(
    key: jax.Array, model: Diffusion, args: argparse.Namespace, settings: dict
) -> np.ndarray:
    """From one prompt to the other from the same noise; else from one noise to another."""
    shares = jnp.linspace(0.0, 1.0, args.between)
    one, other = (sample_noise(key, (1, *model.shape), i, 0) for i in range(2))
    start = slerp(one, one if len(args.prompts) == 2 else other, shares)
    if args.prompts:
        ends = (model.condition(args.prompts[i:][:1]) for i in (0, -1))
        denoiser = model.guided(lerp(*ends, shares), args.scale, args.negative)
    else:
        denoiser = model.denoiser([""] * args.between)
    sampler, settings = model.sampling(**settings)
    made = sampler(key, denoiser, model.schedule, start.shape, start=start, **settings)
    return model.pictures(made)


def _from_image(
    key: jax.Array, model: Diffusion, args: argparse.Namespace, settings: dict
) -> np.ndarray:
    """New versions of a picture, or of a part of it."""
    total, count = model.schedule.steps, args.count
    image = _read(args.image, model)
    known = _read_mask(args.mask, args.image, model) if args.mask else None
    images = model.latents(np.broadcast_to(image, (count, *image.shape)))
    prompts = [args.prompts[i % len(args.prompts)] for i in range(count) if args.prompts]
    denoiser = model.denoiser(prompts or [""] * count, args.scale, args.negative)
    sampler, told = model.sampling(**settings)
    if known is not None:
        mask = jnp.asarray(known_latents(known, image.shape[0] // images.shape[1]))
        made = inpaint(key, denoiser, model.schedule, images, mask, sampler=sampler, **told)
        return np.where(known, image, model.pictures(made))
    # As many steps as this part of the way has of the whole.
    strength, steps = args.strength or STRENGTH, told["steps"]
    if isinstance(steps, tuple):  # a folder says which
        steps = part_of(steps, strength)
        t = steps[0]
    else:
        t = max(round(strength * total) - 1, 0)
        steps = steps and max(1, round(steps * (t + 1) / total))
    told |= {"t": t, "steps": steps}
    return model.pictures(
        image_to_image(key, denoiser, model.schedule, images, sampler=sampler, **told)
    )


def _read_mask(path: str, image: str, model: Diffusion) -> np.ndarray:
    """(1, side, side, 1): True where the image is kept, which is where the mask is black."""
    size, other = image_size(path), image_size(image)
    if size != other:
        raise InputError(
            f"--mask {path} is {size[0]} x {size[1]}, "
            f"but {image} is {other[0]} x {other[1]}: they must agree"
        )
    grey = read_images([Path(path)], model.image_shape[0], Path()).mean(axis=3, keepdims=True)
    if not (grey >= 128).any():
        raise InputError(f"--mask {path} has no white: nothing would be painted anew")
    return grey < 128


def _read(path: str, model: Diffusion) -> np.ndarray:
    """An image file as the model draws."""
    image = to_float(read_images([Path(path)], model.image_shape[0], Path()))[0]
    return image.mean(axis=2, keepdims=True) if model.image_shape[2] == 1 else image
