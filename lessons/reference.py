"""Make the reference weights that the lessons load, from a run of our own recipe:

    minidiff train text_to_image --preset cpu --out runs/reference
    python lessons/reference.py runs/reference

Averaged weights only, as 16-bit floats, 7 MB: the diffusion model and the CLIP that it reads.
"""

import sys
from pathlib import Path

from minidiff.lesson import PLACES
from minidiff.recipes import clip
from minidiff.training.run import Run

if __name__ == "__main__":
    path = Path(sys.argv[1])
    Run(path).copy_ema(Run(PLACES["text_to_image"]), "float16")
    clip.copy(path / "clip", PLACES["clip"], "float16")
