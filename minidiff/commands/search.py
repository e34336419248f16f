"""Find images of a folder by text, or by another image."""

import argparse
from pathlib import Path

from minidiff.commands._arguments import add_model, number, place, png
from minidiff.errors import InputError
from minidiff.files import check_output


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which CLIP, where to search, for what."""
    add_model(parser)
    parser.add_argument("folder", type=place, help="images, at any depth")
    parser.add_argument("queries", nargs="*", default=[], metavar="TEXT")
    parser.add_argument(
        "--image", type=place, nargs="+", default=[], metavar="FILE", help="images to look for"
    )
    parser.add_argument(
        "--count", type=number(int, 1, 100), default=6, help="images per query; default: 6"
    )
    parser.add_argument(
        "--index", type=place, metavar="FILE", help="where the folder's embeddings are kept"
    )
    parser.add_argument(
        "--out", type=place, default="search.png", help="picture; default: search.png"
    )


def run(args: argparse.Namespace) -> None:
    """Draw and print the nearest images of each query."""
    out, folder = png(args.out), Path(args.folder)
    if not args.queries and not args.image:
        raise InputError("give a text to search for, or --image FILE")
    path = Path(args.index or f"{folder.name or 'images'}.index.safetensors")
    check_output("--index", path)
    import numpy as np

    from minidiff import plot
    from minidiff.commands._models import as_they_are, open_encoder, tell_cut
    from minidiff.retrieval import search
    from minidiff.trained.encoder import index_folder

    encoder = open_encoder(args.model)
    asked = [encoder.texts(args.queries)] if args.queries else []
    asked += [encoder.images(encoder.read(args.image))] if args.image else []
    index, known = index_folder(encoder, folder, path)
    print(f"{'read' if known else 'wrote'} the index of {len(index.names)} images: {path}")
    tell_cut(encoder, args.queries)
    found, cosines = search(np.concatenate(asked), index.embeddings, args.count)
    rows = []
    queries = [*args.queries, *(f"like {Path(image).name}" for image in args.image)]
    for query, places, values in zip(queries, np.asarray(found), np.asarray(cosines), strict=True):
        files = [folder / index.names[i] for i in places]
        notes = [f"{index.names[i]} {v:.2f}" for i, v in zip(places, values, strict=True)]
        rows.append((query, as_they_are(files), notes))
        print(f"{query}: {', '.join(notes)}")
    plot.save(plot.galleries(rows, f"search in {folder.name}"), out)
    print(f"picture: {out}")
