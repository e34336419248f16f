"""Data sets written as array_record by TFDS builders that need no TensorFlow.

``prepare(name)`` writes under the TFDS folder, where `tfds.data_source(name)` of any program finds
the data, and ``tfds:NAME`` here: the scenes, for other frameworks, and the classics.
"""

import contextlib
import dataclasses
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from minidiff.data.classics import Cifar10, FashionMnist, Mnist
from minidiff.data.factors import FACTORS
from minidiff.errors import InputError

SCENE_COUNTS = {"train": 20_000, "test": 2_000, "unseen": 2_000, "pairs": 2_000, "two": 2_000}
RENDER_BATCH = 500


@dataclasses.dataclass
class SceneConfig(tfds.core.BuilderConfig):
    """The pictures' side in pixels."""

    size: int = 16


class MinidiffScenes(tfds.core.GeneratorBasedBuilder):
    """Procedural captioned scenes; example i of a split is i here too, in the same order."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        SceneConfig(name=f"size{size}", description=f"{size}x{size} pixels", size=size)
        for size in (16, 32, 64)
    ]

    def __init__(self, *, counts: dict[str, int] | None = None, **kwargs):
        """``counts``: examples by split, instead of SCENE_COUNTS; splits left out are not made."""
        self.counts = dict(SCENE_COUNTS if counts is None else counts)
        unknown = sorted(set(self.counts) - set(SCENE_COUNTS))
        if unknown or not self.counts:
            raise InputError(
                f"counts must name at least one split of {', '.join(SCENE_COUNTS)}, "
                f"not {', '.join(map(str, unknown)) or 'none'}"
            )
        if min(self.counts.values()) < 1:
            raise InputError(f"counts must be at least 1, not {min(self.counts.values())}")
        super().__init__(**kwargs)

    def _info(self):
        size = self.builder_config.size
        classes = {name: tfds.features.ClassLabel(names=values) for name, values in FACTORS.items()}
        image = tfds.features.Tensor(
            shape=(size, size, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedural scenes with captions and the factors they were drawn from.",
            features=tfds.features.FeaturesDict(
                {"image": image, "caption": tfds.features.Text(), **classes}
            ),
            disable_shuffling=True,  # neighbours in "pairs" belong together
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        import jax

        from minidiff.data.scenes import SceneSource

        source = SceneSource(seed=0, split=split, size=self.builder_config.size)
        draw = jax.jit(source.examples)
        for start in range(0, self.counts[split], RENDER_BATCH):
            batch = jax.device_get(draw(np.arange(start, start + RENDER_BATCH)))
            images = np.round((batch["image"] + 1) * 127.5).astype(np.uint8)
            captions = source.captions(batch)
            for i in range(min(RENDER_BATCH, self.counts[split] - start)):
                values = map(int, batch["factors"][i])
                factors = dict(zip(FACTORS, values, strict=True))
                yield start + i, {"image": images[i], "caption": captions[i], **factors}


BUILDERS = {
    "minidiff_scenes": MinidiffScenes,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
}


def default_data_dir() -> Path:
    """Where TFDS keeps its data: $TFDS_DATA_DIR, or tensorflow_datasets in the home folder."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let TFDS work without its announcements, and give up at once where there is no network.

    Its progress bars stay where somebody watches them on a terminal.
    """
    from tensorflow_datasets.core.download import downloader

    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 1  # ten would take minutes
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        downloader.MAX_RETRIES = retries
        tfds.display_progress_bar(True)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def prepare(name: str, data_dir: str | Path | None = None, **kwargs) -> Path:
    """Write the data set ``name`` as array_record under ``data_dir``, unless it is there already.

    Args:
        name: one of BUILDERS, with the config after a slash where there are several, as in
            "minidiff_scenes/size32".
        data_dir: ``default_data_dir()`` if None.
        **kwargs: for the builder; ``counts={"train": 1000}`` for minidiff_scenes.

    Returns the folder with the files. Raises InputError for an unknown name, without network, or
    where the folder cannot be written.
    """
    from requests import RequestException

    name, _, config = name.partition("/")
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    if name not in BUILDERS:
        raise InputError(f"cannot prepare {name!r}, only {', '.join(BUILDERS)}")
    configs = [one.name for one in BUILDERS[name].BUILDER_CONFIGS]
    if config and config not in configs:
        raise InputError(f"{name} has no {config!r}, only {', '.join(configs) or 'one form'}")
    try:
        with quietly():
            builder = BUILDERS[name](data_dir=data_dir, config=config or None, **kwargs)
            builder.download_and_prepare(file_format="array_record")
        counts = {split: info.num_examples for split, info in builder.info.splits.items()}
        if counts != kwargs.get("counts", counts):
            raise InputError(f"{builder.data_dir} holds other counts already ({counts}): delete it")
    except (RequestException, tfds.download.DownloadError, ConnectionError) as error:
        raise InputError(
            f"{name} is not prepared under {data_dir} and could not be downloaded "
            f"({type(error).__name__}): is there a network? digits and scenes need none"
        ) from None
    except OSError as error:
        raise InputError(f"cannot prepare {name} under {data_dir}: {error}") from None
    return Path(builder.data_dir)
