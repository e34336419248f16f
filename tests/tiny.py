"""The smallest run of the ddpm recipe, the same in every test so that it is compiled once."""

SETTINGS = [
    "size=8", "channels=8", "patch=2", "timesteps=8", "sample_steps=2", "report_count=16",
    "steps=200", "log_every=2", "checkpoint_every=2", "batch_size=4",
]  # fmt: skip


def command(out, data="digits", *more):
    """Arguments of ``minidiff`` that train it in the folder ``out``."""
    place = ["--preset", "smoke", "--data", data, "--out", str(out), "--quiet"]
    return ["train", "ddpm", *place, *SETTINGS, *more]


CLIP_SETTINGS = [
    "size=8", "width=16", "heads=2", "layers=1", "text_layers=1", "embedding=8", "batch_size=16",
    "steps=4", "log_every=2", "checkpoint_every=2", "picture_every=2", "report_count=50",
]  # fmt: skip


def clip_command(out, *more):
    """Arguments of ``minidiff`` that train the smallest CLIP in the folder ``out``."""
    return [
        "train",
        "clip",
        "--preset",
        "smoke",
        "--out",
        str(out),
        "--quiet",
        *CLIP_SETTINGS,
        *more,
    ]


TEXT_SETTINGS = [
    "size=16", "channels=8", "patch=2", "attention=0", "heads=2", "timesteps=8", "sample_steps=2",
    "report_count=16", "scales=0,3", "scales_count=16", "compare_steps=2", "showcase=false",
    "steps=4", "log_every=2", "checkpoint_every=2", "picture_every=2", "batch_size=8",
]  # fmt: skip


def text_command(out, *more):
    """Arguments of ``minidiff`` that train the smallest text-to-image model in the folder ``out``."""
    place = ["--preset", "smoke", "--out", str(out), "--quiet"]
    return ["train", "text_to_image", *place, *TEXT_SETTINGS, *more]


VAE_SETTINGS = [
    "size=16", "channels=8", "decoder_channels=8", "patch=2", "latent=2", "batch_size=4", "steps=4",
    "log_every=2", "checkpoint_every=2", "picture_every=2", "scale_count=16", "report_count=16",
]  # fmt: skip


def vae_command(out, *more):
    """Arguments of ``minidiff`` that train the smallest VAE in the folder ``out``."""
    place = ["--preset", "smoke", "--out", str(out), "--quiet"]
    return ["train", "vae", *place, *VAE_SETTINGS, *more]
