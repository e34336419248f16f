"""A run: resumed anywhere it ends with the same bits, and bad folders are told in one line."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import struct

from minidiff import weights
from minidiff.cli import main
from minidiff.errors import InputError
from minidiff.recipes import ddpm
from minidiff.training import interrupts
from minidiff.training.config import TrainConfig
from minidiff.training.loop import train
from minidiff.training.opening import open_run
from minidiff.training.run import Run

CONFIG = TrainConfig(
    steps=12, log_every=2, checkpoint_every=4, picture_every=2, warmup=2, ema_decay=0.9
)


@struct.dataclass
class Line:
    slope: jax.Array  # (width, 1)
    height: jax.Array  # (1,)

    @classmethod
    def init(cls, key, width=3):
        return cls(slope=jax.random.normal(key, (width, 1)), height=jnp.zeros(1))


@struct.dataclass
class Numbers:
    last_good: int = struct.field(pytree_node=False, default=10**6)
    growth: float = struct.field(pytree_node=False, default=0.0)

    def batch(self, step):
        x = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (16, 3))
        x = x * (1 + self.growth * step) ** 2
        return {"x": jnp.where(step < self.last_good, x, jnp.nan)}


def loss(key, line, batch):
    x = batch["x"]
    noise = 0.1 * jax.random.normal(key, (len(x), 1))
    return jnp.mean(jnp.square(x @ line.slope + line.height[None] - x[:, :1] - noise))


class Stopped(Exception):
    """What the tests stop a run with."""


def go(folder, config=CONFIG, source=None, init=Line.init, stop_at=None, at_pictures=None):
    """Open and train, to the end or to a step at which pictures are made."""

    def stop(state, step):
        if step == stop_at:
            raise Stopped

    run, source = open_run(folder, "test", config), source or Numbers()
    with contextlib.closing(run):
        train(run, config, init, loss, source, on_picture=at_pictures or stop, progress=False)
    return run


def bits(run):
    """Every array of the last checkpoint, as bytes."""
    arrays, _ = weights.load_arrays(run.checkpoint(run.saved_steps()[-1]))
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays.items()}


def numbers(run):
    """metrics.jsonl without the clock."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    return go(tmp_path_factory.mktemp("run") / "whole")


# What a run leaves


def test_a_line_of_metrics_for_each_dispatch(whole):
    lines = whole.metrics()
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(set(line) == {"step", "loss", "gradient_norm", "seconds"} for line in lines)
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_last_two_checkpoints_are_kept(whole):
    assert whole.best_step() == 12
    assert whole.saved_steps() == [8, 12]
    assert sorted(os.listdir(whole.path)) == [
        "checkpoints",
        "config.json",
        "figures",
        "metrics.jsonl",
    ]


def test_the_last_step_is_saved_wherever_checkpoints_fall(tmp_path):
    config = TrainConfig(steps=5, log_every=1, checkpoint_every=3)
    assert go(tmp_path, config).saved_steps() == [3, 5]


def test_config_json_says_what_was_asked(whole):
    there = whole.read_json("config.json")
    assert there["recipe"] == "test"
    assert TrainConfig(**there["config"]) == CONFIG
    assert there["jax"] == jax.__version__


def test_pictures_are_asked_for_on_the_way(tmp_path):
    asked = []
    config = TrainConfig(steps=12, log_every=2, picture_every=5)
    go(tmp_path, config, at_pictures=lambda state, step: asked.append((step, int(state.step))))
    assert asked == [(0, 0), (6, 6), (10, 10)]


def test_the_average_is_loaded_by_its_shape(whole):
    ema = whole.load_ema(jax.eval_shape(Line.init, jax.random.key(0)))
    arrays, _ = weights.load_arrays(whole.checkpoint(12))
    assert np.array_equal(ema.slope, arrays["ema.slope"])
    assert not np.array_equal(arrays["ema.slope"], arrays["model.slope"])


def test_progress_is_shown_unless_it_is_not_wanted(tmp_path, capsys):
    config = TrainConfig(steps=2, log_every=1)
    for progress in (True, False):
        run = open_run(tmp_path / str(progress), "test", config)
        train(run, config, Line.init, loss, Numbers(), progress=progress)
        assert ("2/2" in capsys.readouterr().err) == progress


# Resume


@pytest.mark.parametrize("stop_at", [0, 2, 4, 6, 8, 10])
def test_a_stopped_run_ends_with_the_same_bits(whole, tmp_path, stop_at):
    with pytest.raises(Stopped):
        go(tmp_path, stop_at=stop_at)
    saved = Run(tmp_path).saved_steps()
    assert saved == [step for step in (4, 8) if step <= stop_at]
    run = go(tmp_path)
    assert bits(run) == bits(whole)
    assert numbers(run) == numbers(whole)
    assert run.saved_steps() == [8, 12]


def test_a_run_stopped_again_and_again_ends_with_the_same_bits(whole, tmp_path):
    for stop_at in (2, 4, 6, 6, 8, 10):
        with pytest.raises(Stopped):
            go(tmp_path, stop_at=stop_at)
    run = go(tmp_path)
    assert bits(run) == bits(whole)
    assert numbers(run) == numbers(whole)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    run = go(tmp_path)
    before = bits(run), run.metrics()
    run = go(tmp_path)
    assert (bits(run), run.metrics()) == before


def test_a_line_of_metrics_that_was_cut_short_is_dropped(whole, tmp_path):
    with pytest.raises(Stopped):
        go(tmp_path, stop_at=6)
    with open(tmp_path / "metrics.jsonl", "a") as log:
        log.write('{"step": 8, "lo')
    assert [line["step"] for line in Run(tmp_path).metrics()] == [2, 4, 6]
    assert numbers(go(tmp_path)) == numbers(whole)


def test_seconds_go_on_counting(tmp_path):
    with pytest.raises(Stopped):
        go(tmp_path, stop_at=8)
    lines = Run(tmp_path).metrics()
    lines[-1]["seconds"] = 1000.0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert go(tmp_path).metrics()[-1]["seconds"] > 1000


def test_leftovers_of_a_killed_run_are_no_obstacle(whole, tmp_path):
    (tmp_path / f"{weights.TEMPORARY}1-config.json").write_text("{")  # killed in its first moment
    with pytest.raises(Stopped):
        go(tmp_path, stop_at=6)
    (tmp_path / "checkpoints" / f"{weights.TEMPORARY}1-step_00000008.safetensors").touch()
    (tmp_path / "checkpoints" / "step_00000004.safetensors.bak").touch()
    run = go(tmp_path)
    assert bits(run) == bits(whole)
    assert not list(tmp_path.rglob(f"{weights.TEMPORARY}*"))


def test_the_seed_decides(whole, tmp_path):
    other = go(tmp_path, TrainConfig(**{**vars(CONFIG), "seed": 1}))
    assert bits(other).keys() == bits(whole).keys()
    assert bits(other) != bits(whole)


# Bad folders


def complaint(action, *arguments, **settings):
    with pytest.raises(InputError) as caught:
        action(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_settings_are_named(whole):
    before = contents(whole.path)
    other = TrainConfig(**{**vars(CONFIG), "seed": 1, "batch_size": 32})
    said = complaint(open_run, whole.path, "test", other)
    assert "batch_size is 64 there, 32 here; seed is 0 there, 1 here" in said
    assert str(whole.path) in said
    assert "is a run of test, not of other" in complaint(open_run, whole.path, "other", CONFIG)
    assert contents(whole.path) == before


def test_other_facts_are_named(tmp_path):
    open_run(tmp_path, "test", CONFIG, image_shape=[8, 8, 1])
    open_run(tmp_path, "test", CONFIG, image_shape=[8, 8, 1])
    said = complaint(open_run, tmp_path, "test", CONFIG, image_shape=[8, 8, 3])
    assert "image_shape is [8, 8, 1] there, [8, 8, 3] here" in said


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds something else" in complaint(open_run, tmp_path, "test", CONFIG)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    said = complaint(open_run, tmp_path / "thesis.tex", "test", CONFIG)
    assert "thesis.tex holds something else" in said


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run"
    assert f"cannot write to {path}" in complaint(open_run, path, "test", CONFIG)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert f"cannot write to {tmp_path}" in complaint(open_run, tmp_path / "run", "test", CONFIG)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": "test", "config": null}'])
def test_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert str(tmp_path) in complaint(open_run, tmp_path, "test", CONFIG)


def test_no_run_and_no_checkpoint(tmp_path):
    said = complaint(Run(tmp_path).read_json, "config.json")
    assert said == f"{tmp_path} is not a run folder: it has no config.json"
    run = open_run(tmp_path / "run", "test", CONFIG)
    assert "has no checkpoint yet" in complaint(run.load_ema, Line.init(jax.random.key(0)))


def test_a_checkpoint_of_another_model(whole, tmp_path):
    run = open_run(tmp_path, "test", CONFIG)
    shutil.copy(whole.checkpoint(8), run.checkpoint(8))
    wider = functools.partial(Line.init, width=4)
    before = run.checkpoint(8).read_bytes()
    said = complaint(go, tmp_path, init=wider)
    assert "step_00000008.safetensors is of another model" in said
    assert "model.slope has shape (3, 1), not (4, 1)" in said
    assert run.checkpoint(8).read_bytes() == before


def test_a_damaged_checkpoint(tmp_path):
    with pytest.raises(Stopped):
        go(tmp_path, stop_at=6)
    checkpoint = Run(tmp_path).checkpoint(4)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    before = contents(tmp_path)
    assert f"{checkpoint} cannot be read" in complaint(go, tmp_path)
    assert contents(tmp_path) == before


# Failures on the way


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path, stride):
    """The message names the step that met the bad batch, however many steps a call takes."""
    config = TrainConfig(
        steps=12, log_every=stride, checkpoint_every=3, warmup=2, learning_rate=0.5
    )
    said = complaint(go, tmp_path, config, source=Numbers(last_good=9))
    assert "the loss is nan and the gradient's norm nan at step 10" in said
    assert "source.batch(9)" in said
    assert "learning rate 0.1 in float32: try a lower learning_rate than 0.5" in said
    run = Run(tmp_path)
    assert run.saved_steps()[-1] == (6 if stride == 2 else 9)
    model = run.load_ema(Line.init(jax.random.key(0)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(model))


def test_a_loss_that_explodes_stops_the_run(tmp_path):
    config = TrainConfig(steps=60, log_every=2, checkpoint_every=2, warmup=0, learning_rate=1.0)
    said = complaint(go, tmp_path, config, source=Numbers(growth=2.0))
    assert "the loss has grown from" in said
    assert "learning rate" in said
    assert Run(tmp_path).saved_steps()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """Loss and gradient of the last step may be fine, and what it made of the weights not."""

    def overflow(line):
        return line.replace(height=line.height + jnp.inf)

    config = TrainConfig(steps=1, log_every=1)
    run, settings = open_run(tmp_path, "test", config), {"constrain": overflow, "progress": False}
    with pytest.raises(InputError, match="after step 1 are not finite: they were not saved"):
        train(run, config, Line.init, loss, Numbers(), **settings)
    assert not run.saved_steps()
    assert np.isfinite(run.metrics()[-1]["loss"])


@pytest.mark.parametrize(("keep", "kept"), [(1, [2, 12]), (3, [2, 8, 10, 12])])
def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path, keep, kept):
    """A source that gets worse: the first checkpoint stays the best."""
    config = TrainConfig(steps=12, log_every=2, checkpoint_every=2, keep=keep, learning_rate=1e-6)
    run = go(tmp_path, config, source=Numbers(growth=0.1))
    assert run.best_step() == 2
    assert run.saved_steps() == kept


def test_a_damaged_checkpoint_is_not_the_best(tmp_path):
    config = TrainConfig(steps=8, log_every=2, checkpoint_every=2, keep=9, learning_rate=1e-6)
    run = go(tmp_path, config, source=Numbers(growth=0.1))
    run.checkpoint(2).write_bytes(b"nothing")
    assert run.best_step() == 4


def weights_of(run):
    return run.load_ema(jax.eval_shape(Line.init, jax.random.key(0))).slope.tolist()


def test_a_run_is_named_with_one_of_its_checkpoints(tmp_path):
    config = TrainConfig(steps=8, log_every=2, checkpoint_every=2, keep=9, learning_rate=1e-3)
    run = go(tmp_path, config, source=Numbers(growth=0.1))
    best, last, fourth = (Run.named(f"{tmp_path}{which}") for which in ("@best", "", "@4"))
    assert best.path == last.path == fourth.path == tmp_path
    assert [r.chosen_step() for r in (best, last, fourth)] == [2, 8, 4]
    assert weights_of(best) != weights_of(fourth) != weights_of(last) == weights_of(run)
    copied = Run(tmp_path / "copied")
    fourth.copy_ema(copied)
    assert weights_of(copied) == weights_of(fourth)
    missing = complaint(Run.named(f"{tmp_path}@3").chosen_step)
    assert missing.endswith("has no checkpoint of step 3: there are 2, 4, 6, 8")


def test_a_folder_may_have_such_a_name_itself(tmp_path):
    folder = tmp_path / "run@best"
    folder.mkdir()
    assert Run.named(folder) == Run(folder)
    assert Run.named(tmp_path / "run@first") == Run(tmp_path / "run@first")


def test_settings_that_change_no_weights_may_change(whole, tmp_path):
    with pytest.raises(Stopped):
        go(tmp_path, stop_at=8)
    other = dataclasses.replace(CONFIG, keep=5, checkpoint_every=2)
    run = go(tmp_path, other)
    assert run.saved_steps() == [4, 8, 10, 12]
    assert bits(run) == bits(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(whole, tmp_path, number):
    def send(state, step):
        if step == 6:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(interrupts.Stopped, match=r"step 8 is saved in .* the same command") as told:
        go(tmp_path, at_pictures=send)
    assert told.value.number == number
    assert signal.getsignal(number) is before
    assert Run(tmp_path).saved_steps()[-1] == 8
    assert bits(go(tmp_path)) == bits(whole)


def test_a_second_signal_does_not_wait():
    with interrupts.Interrupts() as noted:
        signal.raise_signal(signal.SIGINT)
        assert noted.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.long
def test_the_command_tells_of_the_signal_by_its_status(tmp_path):
    command = [sys.executable, "-m", "minidiff", *tiny.command(tmp_path / "run"), "steps=100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not Run(tmp_path / "run").saved_steps() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.startswith("minidiff: stopped by SIGTERM; step ")
    assert said.count("\n") == 1
    assert f"step {Run(tmp_path / 'run').saved_steps()[-1]} is saved" in said


def test_a_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_up(state, step):
        if step == 6:
            while Run(tmp_path).saved_steps() != [4]:  # a thread is writing it
                time.sleep(0.01)
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left") as caught:
        go(tmp_path, at_pictures=fill_up)
    monkeypatch.undo()
    assert "step_00000008.safetensors" in caught.value.filename
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000004.safetensors"]
    run = go(tmp_path)
    assert bits(run) == bits(whole)


# Kill -9


@pytest.fixture(scope="module")
def trained(ddpm_run):
    """The tiny ddpm run, uninterrupted."""
    return Run(ddpm_run)


def kill_at_random(folder, kills, steps, seed, patience=300):
    """Start the command again and again, kill it ``kills`` times, then let it finish.

    Returns the last checkpoint at each kill, [] where there was none. Every other kill waits until
    a new checkpoint tells that it trains: most of a tiny run's time goes into starting.
    """
    dice, done = random.Random(seed), []
    while len(done) < kills:
        before = Run(folder).saved_steps()
        command = [
            sys.executable,
            "-m",
            "minidiff",
            *tiny.command(folder, "digits", f"steps={steps}"),
        ]
        with open(folder.with_suffix(".log"), "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + patience
            if len(done) % 2 == 0 and Run(folder).saved_steps()[-1:] != [steps]:
                while process.poll() is None and time.monotonic() < until:
                    if Run(folder).saved_steps() != before:
                        break
                    time.sleep(0.002)
                time.sleep(dice.uniform(0, 0.2))
            else:
                time.sleep(dice.uniform(0, 8))  # starting, compiling, training or drawing
        finally:
            process.kill()
        if process.wait() == -signal.SIGKILL:
            done.append(Run(folder).saved_steps()[-1:])
        else:  # it ended before, which does not count
            assert process.returncode == 0, folder.with_suffix(".log").read_text()
    subprocess.run(command, check=True, capture_output=True, timeout=patience)
    return done


def check_killed(folder, trained):
    run = Run(folder)
    assert bits(run) == bits(trained)
    assert numbers(run) == numbers(trained)
    assert run.saved_steps() == trained.saved_steps()
    assert not list(folder.rglob(f"{weights.TEMPORARY}*"))
    report, expected = run.read_json("report.json"), trained.read_json("report.json")
    assert report | {"training_seconds": 0} == expected | {"training_seconds": 0}


@pytest.mark.long
def test_killed_three_times(trained, tmp_path):
    kill_at_random(tmp_path / "run", kills=3, steps=200, seed=0)
    check_killed(tmp_path / "run", trained)


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path):
    whole = Run(tmp_path / "whole")
    assert main(tiny.command(whole.path, "digits", "steps=3000")) == 0
    print(kill_at_random(tmp_path / "run", kills=100, steps=3000, seed=1))
    check_killed(tmp_path / "run", whole)


def test_the_recipe_loads_what_it_trained(trained):
    model = ddpm.load(trained.path)
    assert model.image_shape == (8, 8, 1)
    assert model.network.config.channels == (8,)
    assert model.schedule.steps == 8
