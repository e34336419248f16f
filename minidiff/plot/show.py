"""A figure as a small PNG, and in a notebook's output."""

import io
import json
import os
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

MOST_BYTES = 60_000  # of a figure in a committed notebook
FOLDER = "MINIDIFF_FIGURES"  # a folder that figures are put in as well
LOG = "MINIDIFF_LESSON_LOG"  # a file that is told what a lesson shows and claims, a JSON line each


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as PNG with a palette, fewer colours and dots until it fits into 60 KB.

    ValueError if it does not even then: draw less.
    """
    for dots, colours in ((dpi, 256), (dpi, 64), (dpi * 3 // 4, 64), (dpi // 2, 32)):
        whole = io.BytesIO()
        figure.savefig(whole, format="png", dpi=dots)
        image = Image.open(whole).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        small = io.BytesIO()
        image.save(small, "png", optimize=True)
        if small.tell() <= MOST_BYTES:
            return small.getvalue()
    raise ValueError(f"the figure takes {small.tell()} bytes, more than {MOST_BYTES}")


def show(figure: Figure) -> None:
    """Show a figure below the cell that calls this. In a script, where nobody looks, nothing."""
    content = png(figure)
    log(event="figure", bytes=len(content))
    if os.environ.get(FOLDER):
        folder = Path(os.environ[FOLDER])
        (folder / f"figure_{len(list(folder.glob('figure_*'))):02d}.png").write_bytes(content)
    # A script has no IPython loaded, and needs none.
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        from IPython import display

        display.display(display.Image(data=content, format="png"))


def log(**entry) -> None:
    """Tell whoever runs a lesson unattended what happened, and when."""
    if os.environ.get(LOG):
        with open(os.environ[LOG], "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **entry}) + "\n")
