"""Builders of files that nobody should trust, and of small runs to hide them in."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import tiny
from PIL import Image

from minidiff import weights
from minidiff.measure.compare import captions
from minidiff.recipes import clip, text_to_image
from minidiff.text import Tokenizer
from minidiff.training.config import override
from minidiff.training.diffusion import Config as DiffusionConfig
from minidiff.training.opening import open_run
from minidiff.unet import UNet

# Runs


def ddpm_run(folder):
    """A run of the smallest diffusion model whose weights were drawn and never trained."""
    config = DiffusionConfig(
        data="digits", size=8, channels=(8,), attention=(), timesteps=8, sample_steps=2, steps=4
    )
    run = open_run(folder, "ddpm", config, image_shape=[8, 8, 1])
    unet = UNet.init(jax.random.key(0), config.unet((8, 8, 1)))
    weights.save(run.checkpoint(4), {"ema": unet})
    run.close()
    return run


def clip_run(folder):
    """A run of the smallest CLIP, never trained either."""
    config = clip.Config(size=8, width=16, heads=2, layers=1, text_layers=1, embedding=8)
    tokenizer = Tokenizer.learn(["a red cat", "a blue cat", "a red house"], 520)
    run = open_run(folder, "clip", config, image_shape=[8, 8, 3], context=8)
    tokenizer.save(run.path / "tokenizer")
    towers = config.towers((8, 8, 3), tokenizer, 8)
    weights.save(run.checkpoint(4), {"ema": clip.init(jax.random.key(0), towers, "clip")})
    run.close()
    return run


def text_run(folder):
    """A run of the smallest text-to-image model and its CLIP: weights out of dice, never trained."""
    config = override(text_to_image.PRESETS["smoke"], tiny.TEXT_SETTINGS)
    run = open_run(folder, "text_to_image", config, image_shape=[16, 16, 3])
    texts = captions(config.data, config.seed, "test", 16, 256)
    tokenizer, size = (
        Tokenizer.learn(texts, 768),
        clip.Config(size=16, width=16, heads=2, layers=1, text_layers=1, embedding=8),
    )
    context = max(map(len, map(tokenizer.encode, texts)))
    encoder = open_run(folder / "clip", "clip", size, image_shape=[16, 16, 3], context=context)
    tokenizer.save(encoder.path / "tokenizer")
    towers = size.towers((16, 16, 3), tokenizer, context)
    weights.save(encoder.checkpoint(4), {"ema": diced(clip.init, towers, "clip")})
    reads = clip.load(encoder.path)
    unet = text_to_image.unet_config(config, (16, 16, 3), reads)
    weights.save(run.checkpoint(4), {"ema": diced(UNet.init, unet)})
    return run


def diced(init, *arguments):
    """Arrays of the shapes that ``init`` would draw, by NumPy, which compiles nothing."""
    shapes = jax.eval_shape(lambda key: init(key, *arguments), jax.random.key(0))
    dice = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.float32(0.2 * dice.normal(size=x.shape)), shapes)


def change_config(folder, **changes):
    """Change what config.json says, its settings if they are of that name; ... removes one."""
    path = Path(folder) / "config.json"
    facts = json.loads(path.read_text())
    for name, value in changes.items():
        of = facts["config"] if name in facts["config"] else facts
        of[name] = value
        if value is ...:
            del of[name]
    path.write_text(json.dumps(facts))


# safetensors, byte by byte


def header_of(tensors, **more):
    """A header: {name: (kind, shape, offsets)}."""
    described = {
        name: {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}
        for name, (kind, shape, offsets) in tensors.items()
    }
    return json.dumps(described | more).encode()


def safetensors_bytes(header, data=b"", length=None):
    """A file with this header; ``length`` is what it claims the header's to be."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


# What runs when it is read by the wrong reader


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def pickled(marker):
    return pickle.dumps(Payload(marker))


def zipped(name, member):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, member)
    return content.getvalue()


def torch_zip(marker):
    """As torch.save writes: a zip that holds a pickle."""
    return zipped("archive/data.pkl", pickled(marker))


def numpy_objects(marker):
    """An array of objects: .npy holds them pickled."""
    content = io.BytesIO()
    np.save(content, np.array([Payload(marker)], object), allow_pickle=True)
    return content.getvalue()


def numpy_archive(marker):
    return zipped("weight.npy", numpy_objects(marker))


def zip_slip(marker):
    """A zip whose member would be extracted elsewhere."""
    return zipped(os.path.relpath(marker), "extracted")


def tar_slip(marker):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        member = tarfile.TarInfo(os.path.relpath(marker))
        member.size = 9
        archive.addfile(member, io.BytesIO(b"extracted"))
    return content.getvalue()


ARCHIVES = {
    "weights.pkl": pickled,
    "weights.pt": torch_zip,
    "weights.npy": numpy_objects,
    "weights.npz": numpy_archive,
    "weights.zip": zip_slip,
    "weights.tar.gz": tar_slip,
}


# Images


def picture(path, mode="RGB", size=(12, 9), colour=None, **options):
    """A plain image of a mode; the suffix says of which kind."""
    Image.new(mode, size, colour or 0).save(path, **options)
    return path


def chunk(kind, data):
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width, height, data=None, *, depth=8, colour=2, before=b"", end=True):
    """A PNG made by hand: what it says and what it holds need not agree."""
    if data is None:
        data = zlib.compress(b"\0" * 200)
    shape = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    tail = chunk(b"IEND", b"") if end else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + before + chunk(b"IDAT", data) + tail


def bmp(width, height):
    """A BMP whose header claims a size."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(head), 0, 0, 54) + head + b"\0" * 30


def gif(width, height):
    """A GIF whose header claims a size."""
    screen = struct.pack("<HHBBB", width, height, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0;"
    return b"GIF89a" + screen + frame


def jpeg(**options):
    content = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 30, 40)).save(content, "JPEG", **options)
    return content.getvalue()


def good_images(folder, count=3):
    """A folder of images that nothing is wrong with."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(Path(folder) / f"{i}.png", size=(9 + i, 12), colour=(80 * i, 30, 60))
    return Path(folder)
