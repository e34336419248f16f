"""matplotlib, whatever window ``MPLBACKEND`` asks for: a figure that is saved needs none.

matplotlib reads that variable when it is imported and fails on a name that it does not know, such as one
that an earlier version knew. So it is imported here first; ``minidiff.plot`` sees to that.
"""

import contextlib
import os
import sys
from types import ModuleType


def _imported() -> ModuleType:
    window = None
    if "matplotlib" not in sys.modules:
        window = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure
    finally:
        if window is not None:
            os.environ["MPLBACKEND"] = window
    if window:
        with contextlib.suppress(
            ValueError
        ):  # then pyplot, if anybody wants it, chooses for itself
            matplotlib.rcParams["backend"] = window
    return matplotlib


matplotlib = _imported()
Figure = matplotlib.figure.Figure
