"""A run's folder made, or come back to: whose it is, and whether what it was begun with is the same."""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax

from minidiff import weights
from minidiff.errors import InputError
from minidiff.training import lock
from minidiff.training.config import TrainConfig, free_fields
from minidiff.training.devices import ONE, Devices
from minidiff.training.run import Run


def open_run(
    path: Path | str,
    recipe: str,
    config: TrainConfig,
    devices: Devices = ONE,
    *,
    depends: dict[str, int | str] | None = None,
    kept: Callable[[Run], dict[str, int | str]] = lambda run: {},
    **facts,
) -> Run:
    """Create a run's folder, or come back to one that was made with the same settings and data.

    Until ``close`` it is this process's own.

    Args:
        path: of the folder.
        recipe: the name that config.json gets.
        config: the settings; those that are free may change.
        devices: of the run.
        depends: what the weights depend on besides, as ``training.identity`` tells it; recorded.
        kept: what the files of a folder that is there tell of ``depends``; they outweigh the record,
            which folders of earlier versions have not.
        facts: stand in config.json beside the settings, and must be the same too.

    InputError, before anything is changed, if the folder holds something else, belongs to another
    process, or cannot be written. All processes of a run must ask.
    """
    run, refusal = Run(Path(path), devices), None
    if run.writes:
        try:
            _prepare(run, recipe, config, facts, depends or {}, kept)
        except InputError as error:
            refusal = error
    if devices.agree(refusal is not None):
        raise refusal or InputError(f"{path} cannot be used: the first process says why")
    return run


def _prepare(
    run: Run, recipe: str, config: TrainConfig, facts: dict, depends: dict, kept: Callable
) -> None:
    """Make the folder, or see that it is of these settings, and clean it. InputError if neither."""
    asked = {"recipe": recipe, "config": json.loads(json.dumps(dataclasses.asdict(config)))}
    asked |= facts
    try:
        if not (run.path / "config.json").exists():
            if run.path.exists() and (not run.path.is_dir() or _has_content(run.path)):
                raise InputError(f"{run.path} holds something else: choose a new folder for --out")
            run.path.mkdir(parents=True, exist_ok=True)
        lock.acquire(run.path)
        if (run.path / "config.json").exists():
            _check_same(run, asked, depends, kept, free_fields(config))
        else:
            versions = {"jax": jax.__version__, "backend": jax.default_backend()}
            run.write_json("config.json", {**asked, "depends": depends, **versions})
        for folder in (run.figures, run.checkpoints):
            folder.mkdir(exist_ok=True)
        for folder in (run.path, run.figures, run.checkpoints):
            weights.remove_leftovers(folder)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "not writable")
    except OSError as error:
        run.close()
        raise InputError(f"cannot write to {run.path}: {error.strerror or error}") from None
    except InputError:
        run.close()
        raise


def _has_content(folder: Path) -> bool:
    """Whether it holds more than what a killed writer of config.json may have left there."""
    names = {path.name for path in folder.iterdir()} - {lock.NAME}
    return any(not name.startswith(weights.TEMPORARY) for name in names)


def _check_same(run: Run, asked: dict, depends: dict, kept: Callable, free: set[str]) -> None:
    """InputError where the folder's settings are others, but for those that are ``free``, or its data.

    Of what neither its record nor its files tell, as in a run of an earlier version, nothing is known.
    """
    there = run.read_config(asked["recipe"])
    if not (isinstance(there.get("config"), dict) and isinstance(there.get("depends", {}), dict)):
        raise InputError(f"{run.path / 'config.json'} is damaged: it holds no settings")
    settings = _changed(there["config"], asked["config"], free)
    if settings:
        raise InputError(
            f"{run.path} was begun with other settings ({'; '.join(settings[:3])}): "
            "give the same ones to go on, or another --out"
        )
    recorded = there.get("depends", {}) | kept(run)
    known = {name: value for name, value in depends.items() if name in recorded}
    data = _changed(there, asked, {"config"}) + _changed(recorded, known, set())
    if data:
        raise InputError(
            f"{run.path} was begun with other data ({'; '.join(data)}): bring back what it was begun "
            "with to go on, or choose another --out"
        )


def _changed(old: dict, new: dict, free: set[str]) -> list[str]:
    """What is new, but for what is ``free``, a phrase each; of digests only that they differ."""
    return [
        f"the {name} changed"
        if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value)
        else f"{name} is {old.get(name)} there, {value} here"
        for name, value in new.items()
        if name not in free and old.get(name) != value
    ]
