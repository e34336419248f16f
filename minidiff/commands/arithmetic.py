"""Find the words that name the difference of two images."""

import argparse

from minidiff.commands._arguments import add_model, place, png, seed
from minidiff.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which CLIP, which images to add and take away, which words."""
    add_model(parser)
    parser.add_argument(
        "--plus", nargs="+", default=[], metavar="IMAGE", help="default: men with hats"
    )
    parser.add_argument("--minus", nargs="+", default=[], metavar="IMAGE", help="default: without")
    parser.add_argument(
        "--words", nargs="+", metavar="WORD", help="default: all words of the scenes"
    )
    parser.add_argument(
        "--not-centred", action="store_true", help="do not take the words' mean away"
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--out", type=place, default="arithmetic.png", help="picture; default: arithmetic.png"
    )


def run(args: argparse.Namespace) -> None:
    """Draw the images, and print the words with their cosines."""
    out = png(args.out)
    if bool(args.plus) != bool(args.minus):
        raise InputError("--plus and --minus go together: images to add and images to take away")
    from minidiff import plot
    from minidiff.commands._models import open_encoder
    from minidiff.measure import exam

    encoder = open_encoder(args.model)
    if args.plus:
        plus, minus = encoder.read(args.plus), encoder.read(args.minus)
    else:
        minus, plus = exam.draw_dressed(encoder, args.seed, 4)
    words = list(dict.fromkeys(args.words or exam.VOCABULARY))
    told, cosines = exam.name_difference(encoder, minus, plus, words, centre=not args.not_centred)
    plot.save(plot.arithmetic(minus, plus, told, cosines), out)
    print(", ".join(f"{word} {cosine:.2f}" for word, cosine in zip(told, cosines, strict=True)))
    print(f"picture: {out}")
