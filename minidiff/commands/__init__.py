"""What each command does; ``minidiff.cli`` reads the command line and tells what went wrong."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from minidiff.errors import InputError
from minidiff.files import check_output, check_output_folder

SHOWN_SIDE = 128  # pixels of an image in a picture


def _train(args: argparse.Namespace) -> None:
    recipe = importlib.import_module(f"minidiff.recipes.{args.recipe}")
    config_module = importlib.import_module("minidiff.training.config")
    if args.fields:
        print(config_module.presets_table(recipe.PRESETS))
        return
    settings = [*([] if args.data is None else [f"data={args.data}"]), *args.settings]
    config = config_module.override(recipe.PRESETS[args.preset], settings)
    processes = importlib.import_module("minidiff.training.processes")
    out, quiet = args.out or f"runs/{args.recipe}", args.quiet
    with processes.joined(args.coordinator, args.processes, args.process, args.cluster):
        devices = importlib.import_module("minidiff.training.devices").Devices.parse(args.mesh)
        folder = recipe.run(out, config, devices=devices, progress=not quiet)
        if not folder.writes:
            return
    print((folder.path / "report.md").read_text(encoding="utf-8"))
    print(f"The run is in {folder.path}, its report in {folder.path / 'report.md'}")


def _png(text: str) -> Path:
    """A path to write a picture to, checked before any work is done."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise InputError(f"--out {text} must end in .png")
    check_output("--out", path)
    return path


def _sample(args: argparse.Namespace) -> None:
    importlib.import_module("minidiff.commands.sample").run(args, _png(args.out))


def _compare(args: argparse.Namespace) -> None:
    out = Path(args.out)
    check_output_folder("--out", out)
    from minidiff import plot
    from minidiff.commands import sample
    from minidiff.measure import compare

    model = sample.load(args.run)
    most = model.schedule.steps
    if max(args.steps) > most:
        raise InputError(f"--steps {max(args.steps)} is more than the model's {most}")
    prompts = compare.captions("scenes", args.seed, "test", model.image_shape[0], args.count)
    measure = compare.Measure(model, prompts, args.seed)
    figures, tables = {}, []
    if model.takes_text:
        figures["scales"], rows = compare.by_scale(measure, args.scales)
        figures["guidance"] = compare.curve(rows)
        tables.append(compare.table(rows))
    figures["samplers"], rows = compare.by_sampler(measure, args.steps, args.spacing, args.scale)
    tables.append(compare.table(rows))
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        plot.save(figure, out / f"{name}.png")
    floor, bits = measure.floor, compare.bits(model, args.seed)
    told = ", ".join(f"{name} {value:.2f}" for name, value in bits.items())
    text = "\n\n".join(
        [
            *tables,
            f"Other real scenes: Frechet {floor['frechet']:.0f}, coverage "
            f"{100 * floor['coverage']:.1f}%.",
            f"Bits per dimension of real test scenes: {told}.",
        ]
    )
    (out / "compare.md").write_text(f"# {args.run}\n\n{text}\n", encoding="utf-8")
    print(f"{text}\n\nIn {out}: {', '.join(f'{name}.png' for name in figures)}, compare.md")


def _describe(args: argparse.Namespace) -> None:
    from minidiff import layouts

    print(layouts.table(layouts.LAYOUTS[args.layout], layouts.SIDES[args.layout]))


def _data(args: argparse.Namespace) -> None:
    if args.write:
        from minidiff.data.builders import prepare

        print(f"prepared in {prepare(_tfds_name(args.source), args.write)}")
        return
    out = _png(args.out)
    import numpy as np

    from minidiff import plot
    from minidiff.data.describe import describe
    from minidiff.data.sources import captions_of, open_source

    source = open_source(args.source, split=args.split, size=args.size, batch_size=args.count)
    report = describe(source)
    batch = source.batch(0)
    captions = captions_of(source, batch)
    title = f"{args.source}, {args.split}"
    plot.save(plot.contact_sheet(np.asarray(batch["image"]), captions, title), out)
    for name, value in report.items():
        if name != "problems":
            print(f"{name}: {value if value is not None else 'endless'}")
    for problem in report["problems"] or ["none found"]:
        print(f"problem: {problem}")
    print(f"contact sheet: {out}")


def _tfds_name(source: str) -> str:
    if source == "scenes":
        return "minidiff_scenes"
    if source.startswith("tfds:"):
        return source.removeprefix("tfds:")
    raise InputError(f"--write prepares scenes or tfds:NAME, not {source!r}")


def _encoder(path: str):
    """The CLIP that a path names, with its tokenizer."""
    from minidiff import weights
    from minidiff.recipes import clip
    from minidiff.tokenizer import real_clip_tokenizer
    from minidiff.trained.encoder import Encoder
    from minidiff.training.run import Run

    if Path(path).suffix == ".safetensors":
        return Encoder(weights.load_clip(path), real_clip_tokenizer()).checked(path)
    if "recipe" in Run.named(path).read_json("config.json"):
        return clip.load(path)
    return Encoder(weights.load_clip(path), weights.load_tokenizer(path)).checked(path)


def _tell_cut(encoder, texts: list[str]) -> None:
    for text in encoder.cut(texts):
        print(f"minidiff: cut to {encoder.context} tokens: {text}", file=sys.stderr)


def _as_they_are(paths: list) -> object:
    """Image files for a person to look at, finer than a small encoder sees them."""
    from minidiff.data.arrays import to_float
    from minidiff.data.images import read_images

    return to_float(read_images([Path(path) for path in paths], SHOWN_SIDE, Path()))


def _classify(args: argparse.Namespace) -> None:
    out = _png(args.out)
    import numpy as np

    from minidiff import plot
    from minidiff.retrieval import TEMPLATES, fill, label_embeddings, zero_shot

    if len(set(args.labels)) < 2:
        raise InputError("--labels needs at least two different labels to choose from")
    templates = args.templates or TEMPLATES
    encoder = _encoder(args.model)
    images = encoder.read(args.images)
    try:
        labels = label_embeddings(encoder.texts, args.labels, templates)
    except ValueError as error:
        raise InputError(str(error)) from None
    _tell_cut(encoder, [fill(t, label) for label in args.labels for t in templates])
    chances = np.asarray(zero_shot(encoder.images(images), labels, encoder.clip.log_scale))
    names = [Path(path).name for path in args.images]
    shown = _as_they_are(args.images)
    plot.save(plot.probabilities(shown, args.labels, chances, names), out)
    wide = max(map(len, names))
    for name, row in zip(names, chances, strict=True):
        order = np.argsort(-row)
        told = ", ".join(f"{args.labels[i]} {100 * row[i]:.1f}%" for i in order)
        print(f"{name.ljust(wide)}  {told}")
    print(f"picture: {out}")


def _search(args: argparse.Namespace) -> None:
    out = _png(args.out)
    import numpy as np

    from minidiff import plot
    from minidiff.retrieval import search
    from minidiff.trained.encoder import index_folder

    if not args.queries and not args.image:
        raise InputError("give a text to search for, or --image FILE")
    encoder = _encoder(args.model)
    folder = Path(args.folder)
    path = Path(args.index or f"{folder.name or 'images'}.index.safetensors")
    check_output("--index", path)
    asked = [encoder.texts(args.queries)] if args.queries else []
    asked += [encoder.images(encoder.read(args.image))] if args.image else []
    index, known = index_folder(encoder, folder, path)
    print(f"{'read' if known else 'wrote'} the index of {len(index.names)} images: {path}")
    _tell_cut(encoder, args.queries)
    found, cosines = search(np.concatenate(asked), index.embeddings, args.count)
    rows = []
    queries = [*args.queries, *(f"like {Path(image).name}" for image in args.image)]
    for query, places, values in zip(queries, np.asarray(found), np.asarray(cosines), strict=True):
        files = [folder / index.names[i] for i in places]
        notes = [f"{index.names[i]} {v:.2f}" for i, v in zip(places, values, strict=True)]
        rows.append((query, _as_they_are(files), notes))
        print(f"{query}: {', '.join(notes)}")
    plot.save(plot.galleries(rows, f"search in {folder.name}"), out)
    print(f"picture: {out}")


def _arithmetic(args: argparse.Namespace) -> None:
    out = _png(args.out)
    from minidiff import plot
    from minidiff.measure import exam

    if bool(args.plus) != bool(args.minus):
        raise InputError("--plus and --minus go together: images to add and images to take away")
    encoder = _encoder(args.model)
    if args.plus:
        plus, minus = encoder.read(args.plus), encoder.read(args.minus)
    else:
        minus, plus = exam.draw_dressed(encoder, args.seed, 4)
    words = list(dict.fromkeys(args.words or exam.VOCABULARY))
    told, cosines = exam.name_difference(encoder, minus, plus, words, centre=not args.not_centred)
    plot.save(plot.arithmetic(minus, plus, told, cosines), out)
    print(", ".join(f"{word} {cosine:.2f}" for word, cosine in zip(told, cosines, strict=True)))
    print(f"picture: {out}")


def _quickstart(args: argparse.Namespace) -> None:
    importlib.import_module("minidiff.commands.quickstart").run(args.out, args.preset)


def _lessons(args: argparse.Namespace) -> None:
    from minidiff.commands import lessons

    if args.action is None:
        from minidiff.commands.doctor import speed_probe

        lessons.notebooks()  # none here? then no probe either
        print(lessons.listing(speed_probe()))
        print("minidiff lessons open NN makes a copy of one for you to work in")
        return
    if args.lesson is None:
        raise InputError("which lesson? give its number: minidiff lessons open 07")
    mine, is_new = lessons.copy(args.lesson, args.to)
    print(f"{mine}: " + ("a fresh copy" if is_new else "your work, as you left it"))
    if not args.no_start and not lessons.start(mine):
        print('Jupyter is not installed: pip install -e ".[lessons]", or open the file elsewhere')


def _check(args: argparse.Namespace) -> None:
    if "jax" not in sys.modules:  # judge where the student's process runs: on the CPU
        os.environ["JAX_PLATFORMS"] = "cpu"
    from minidiff.commands import lessons
    from minidiff.grading import report

    report.run(args, lessons.find(args.lesson).stem.partition("_")[2] if args.lesson else "")


def _bench(args: argparse.Namespace) -> None:
    importlib.import_module("minidiff.commands.bench").run(args)


def _doctor(args: argparse.Namespace) -> None:
    importlib.import_module("minidiff.commands.doctor").run()


VERBS = {
    "quickstart": _quickstart,
    "train": _train,
    "sample": _sample,
    "compare": _compare,
    "classify": _classify,
    "search": _search,
    "arithmetic": _arithmetic,
    "data": _data,
    "describe": _describe,
    "lessons": _lessons,
    "check": _check,
    "bench": _bench,
    "doctor": _doctor,
}
