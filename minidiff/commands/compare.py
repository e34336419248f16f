"""Show what guidance and samplers cost and bring, as the judge of scenes sees it.

Draw captions of scenes that training never saw at several guidance scales, and with several samplers
in several steps; measure faithfulness, coverage, Frechet distance.
"""

import argparse
from pathlib import Path

from minidiff.commands._arguments import count, place, scale, seed
from minidiff.errors import InputError
from minidiff.files import check_output_folder


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, how many images, at which scales and steps."""
    parser.add_argument("run", type=place, help="a run of train text_to_image or ddpm on scenes")
    parser.add_argument("--count", type=count, default=128, help="images each; default: 128")
    parser.add_argument("--scales", type=scale, nargs="+", default=[0.0, 1.0, 2.0, 3.0, 5.0, 8.0])
    parser.add_argument("--steps", type=count, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--scale", type=scale, help="of samplers; default: as the run was told")
    parser.add_argument(
        "--spacing", choices=("trailing", "leading", "linspace"), default="trailing",
        help="of the steps; the DDIM paper's is leading; default: trailing",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", type=place, default="compare", help="a folder; default: compare")


def run(args: argparse.Namespace) -> None:
    """Draw, measure, and leave pictures and tables in a folder."""
    out = Path(args.out)
    check_output_folder("--out", out)
    from minidiff import plot
    from minidiff.commands._models import open_diffusion
    from minidiff.measure import compare

    model = open_diffusion(args.run)
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
