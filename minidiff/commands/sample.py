"""Draw images with a trained model.

Draw images: of nothing in particular, of prompts, between two prompts or two noises, from a picture,
or in a part of one.
"""

import argparse

from minidiff.commands import _found
from minidiff.commands._arguments import NOISY, count, number, place, png, scale, seed
from minidiff.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, what to show, how to draw it."""
    parser.add_argument(
        "run", type=place,
        help="a run of train ddpm or text_to_image, RUN@best or RUN@STEP for one of its "
        "checkpoints, or a diffusers folder",
    )  # fmt: skip
    parser.add_argument(
        "prompts", nargs="*", default=[], metavar="PROMPT", help='"a blue cat wearing a hat"'
    )
    parser.add_argument("--count", type=count, help="default: 16, or 4 for each prompt")
    parser.add_argument(
        "--out", type=place, default="samples.png", help="a PNG file; default: %(default)s"
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--sampler", choices=_found.samplers(), help="default: as the run was told")
    parser.add_argument("--steps", type=count, help="default: as the run was told; ddpm: all")
    parser.add_argument("--scale", type=scale, help="of guidance; default: as the run was told")
    parser.add_argument(
        "--negative", default="", metavar="TEXT", help="what guidance leads away from"
    )
    parser.add_argument(
        "--between", type=number(int, 2, 64), metavar="N", help="N images on the way"
    )
    parser.add_argument("--image", type=place, metavar="FILE", help="a picture to begin with")
    parser.add_argument(
        "--strength",
        type=number(float, 0.001, 1),
        help="how far it is noised, 0 to 1; default: 0.6",
    )
    parser.add_argument(
        "--mask", type=place, metavar="FILE", help="keep FILE of --image but where this is white"
    )


def run(args: argparse.Namespace) -> None:
    """Draw into a file. InputError, before anything is drawn, for what will not do."""
    out = png(args.out)
    check(args)
    from minidiff.commands import _sample

    _sample.run(args, out)


def check(args: argparse.Namespace) -> None:
    """InputError for arguments that do not go together, before anything is read."""
    if args.mask and not args.image:
        raise InputError("--mask belongs to --image FILE, of which it says what to paint anew")
    if args.image and args.between:
        raise InputError("--between and --image do not go together")
    if args.between and args.sampler in NOISY:
        raise InputError(f"--between wants a sampler without fresh noise, not {args.sampler}")
    if args.between and len(args.prompts) > 2:
        raise InputError(f"--between goes from one prompt to another, not over {len(args.prompts)}")
    if args.strength is not None and (args.mask or not args.image):
        raise InputError("--strength belongs to --image FILE, without --mask")
    if not args.prompts and (args.scale is not None or args.negative):
        raise InputError("--scale and --negative belong to a prompt")
    if any(not prompt.strip() for prompt in args.prompts):
        raise InputError("an empty prompt says nothing: give at least one word, or no prompt")
