"""Tell which of these labels fits an image best (zero-shot)."""

import argparse
from pathlib import Path

from minidiff.commands._arguments import add_model, place, png
from minidiff.errors import InputError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which CLIP, which images, which labels."""
    add_model(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG and others, any size")
    parser.add_argument(
        "--labels", nargs="+", required=True, metavar="LABEL", help='"a house" "a dog"'
    )
    parser.add_argument(
        "--templates", nargs="+", metavar="TEXT",
        help='sentences with {} for the label, averaged; default: "a {}", "a picture of a {}" ...',
    )  # fmt: skip
    parser.add_argument(
        "--out", type=place, default="classify.png", help="picture; default: classify.png"
    )


def run(args: argparse.Namespace) -> None:
    """Draw and print the probability of each label for each image."""
    out = png(args.out)
    if len(set(args.labels)) < 2:
        raise InputError("--labels needs at least two different labels to choose from")
    import numpy as np

    from minidiff import plot, tables
    from minidiff.commands._models import as_they_are, open_encoder, tell_cut
    from minidiff.retrieval import TEMPLATES, fill, label_embeddings, zero_shot

    templates = args.templates or TEMPLATES
    encoder = open_encoder(args.model)
    images = encoder.read(args.images)
    try:
        labels = label_embeddings(encoder.texts, args.labels, templates)
    except ValueError as error:
        raise InputError(str(error)) from None
    tell_cut(encoder, [fill(t, label) for label in args.labels for t in templates])
    chances = np.asarray(zero_shot(encoder.images(images), labels, encoder.clip.log_scale))
    names = [Path(path).name for path in args.images]
    plot.save(plot.probabilities(as_they_are(args.images), args.labels, chances, names), out)
    told = [
        ", ".join(f"{args.labels[i]} {100 * row[i]:.1f}%" for i in np.argsort(-row))
        for row in chances
    ]
    print(tables.plain(zip(names, told, strict=True)))
    print(f"picture: {out}")
