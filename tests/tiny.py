"""The smallest run of the ddpm recipe, the same in every test so that it is compiled once."""

SETTINGS = [
    "size=8", "channels=8", "patch=2", "timesteps=8", "sample_steps=2", "report_count=16",
    "steps=200", "log_every=2", "checkpoint_every=2", "batch_size=4",
]  # fmt: skip


def command(out, data="digits", *more):
    """Arguments of ``minidiff`` that train it in the folder ``out``."""
    place = ["--preset", "smoke", "--data", data, "--out", str(out), "--quiet"]
    return ["train", "ddpm", *place, *SETTINGS, *more]
