"""Many devices and processes give what one gives; and none waits for one that has ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from minidiff import memory, weights
from minidiff.cli import main
from minidiff.data.builders import prepare
from minidiff.errors import InputError
from minidiff.training.config import TrainConfig
from minidiff.training.devices import ONE, Devices
from minidiff.training.needs import check_training
from minidiff.training.processes import joined
from minidiff.training.run import Run

HELPER = Path(__file__).with_name("devices_run.py")
MESHES = ("-", "data=8", "data=2,model=4")
SETTINGS = ["batch_size=16", "steps=20", "log_every=1", "checkpoint_every=10"]
PATIENCE = 300  # seconds


def environment(devices):
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of runs, share of the state on one device by mesh) of one process with 8 devices."""
    folder = tmp_path_factory.mktemp("meshes")
    command = [sys.executable, str(HELPER), str(folder), *MESHES]
    done = subprocess.run(
        command, env=environment(8), capture_output=True, text=True, timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def losses(folder):
    return [line["loss"] for line in Run(folder).metrics()]


def weights_of(folder):
    run = Run(folder)
    arrays, _ = weights.load_arrays(run.checkpoint(run.saved_steps()[-1]))
    return {name: array for name, array in arrays.items() if name.startswith("model.")}


# Devices


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["ddpm", "clip", "vae"])
@pytest.mark.parametrize("mesh", MESHES[1:])
def test_twenty_steps_on_many_devices_are_those_of_one(trained, recipe, mesh):
    folder, _ = trained
    one, many = (losses(folder / f"{recipe}-{name}") for name in ("-", mesh))
    assert len(one) == 20
    assert one[-1] < one[0]
    np.testing.assert_allclose(many, one, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(("first", "then"), [("-", MESHES[-1]), (MESHES[-1], "-")])
def test_a_run_goes_on_with_another_number_of_devices(trained, first, then):
    folder, _ = trained
    resumed = folder / f"ddpm-{first}-then-{then}"
    np.testing.assert_allclose(losses(resumed), losses(folder / "ddpm--"), rtol=1e-5)
    expected = weights_of(folder / "ddpm--")
    for name, array in weights_of(resumed).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4)


@pytest.mark.long
def test_the_state_is_divided_along_model(trained):
    _, shares = trained
    assert shares["-"] == pytest.approx(1, rel=0.01)
    assert shares["data=8"] == pytest.approx(1, rel=0.01)
    assert shares["data=2,model=4"] < 0.3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data=3", "wants 3 devices and there are 1"),
        ("data=0", "want data=N"),
        ("model=", "want data=N"),
        ("rows=2", "want data=N"),
        ("data=2,data=2", "want data=N"),
        ("data=1,model=99999999999", "want data=N"),
    ],
)
def test_a_mesh_that_does_not_fit(text, says, tmp_path, capsys):
    with pytest.raises(InputError, match=says):
        Devices.parse(text)
    command = tiny.command(tmp_path / "run")
    assert main([*command[:-1], "--mesh", text]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_that_only_fit_divided_may_be_trained(monkeypatch):
    class Eight(Devices):
        parts = count = 8

    def init(key):
        return jnp.zeros(2**20)  # 4 MiB, kept four times

    config = TrainConfig(batch_size=8)
    monkeypatch.setattr(memory, "available", lambda: 2**21)
    with pytest.raises(InputError, match="training so many weights"):
        check_training(init, config, (8, 8, 1))
    check_training(init, config, (8, 8, 1), Eight())
    with pytest.raises(InputError, match="batch_size=8 with images of 512"):
        check_training(init, config, (512, 512, 3), Eight())


def test_without_a_mesh_there_is_one_device():
    assert Devices.parse(None) == ONE
    assert Devices.parse("data=1").count == ONE.count == 1


# Processes


def start(process, port, arguments):
    """One of two processes with a device each."""
    command = [sys.executable, "-m", "minidiff", *arguments]
    command += ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(process)]
    return subprocess.Popen(
        command, env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_both(arguments):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [start(process, port, arguments) for process in range(2)]


def finish(processes):
    """(exit statuses, outputs) of processes that end in bounded time."""
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "mesh"),
    [
        ("ddpm", "data=2"),
        ("ddpm", "model=2"),
        ("clip", "data=2"),
    ],
)
def test_two_processes_train_what_one_does(trained, tmp_path, recipe, mesh):
    folder, _ = trained
    command = {"ddpm": tiny.command, "clip": tiny.clip_command}[recipe](tmp_path / "run")
    statuses, outputs = finish(start_both([*command, *SETTINGS, "--mesh", mesh]))
    assert statuses == [0, 0], outputs
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(folder / f"{recipe}--"), rtol=1e-5)
    assert "The run is in" in outputs[0]
    assert "The run is in" not in outputs[1]
    assert (tmp_path / "run" / "report.md").exists()


@pytest.mark.slow
def test_two_processes_read_their_parts_of_a_stream(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare("minidiff_scenes", tmp_path, counts={"train": 100})
    runs = [tmp_path / name for name in ("one", "two")]
    commands = [[*tiny.command(run, "stream:tfds:minidiff_scenes"), *SETTINGS] for run in runs]
    assert main(commands[0]) == 0
    statuses, outputs = finish(start_both(commands[1]))
    assert statuses == [0, 0], outputs
    one, two = map(losses, runs)
    np.testing.assert_allclose(two, one, rtol=1e-5)


def wait_for_checkpoint(folder, processes):
    until = time.monotonic() + PATIENCE
    while not Run(folder).saved_steps():
        assert time.monotonic() < until
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


@pytest.mark.parametrize(
    "victim", [pytest.param(1, marks=pytest.mark.long), pytest.param(0, marks=pytest.mark.slow)]
)
def test_one_killed_process_ends_the_other_and_both_resume(tmp_path, victim):
    folder = tmp_path / "run"
    command = [*tiny.command(folder), *SETTINGS, "steps=2000", "checkpoint_every=5"]
    processes = start_both(command)
    wait_for_checkpoint(folder, processes)
    processes[victim].kill()
    began = time.monotonic()
    statuses, outputs = finish(processes)
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] == 1
    assert f"process {victim} of 2 has ended" in outputs[1 - victim]
    assert "goes on from the last checkpoint" in outputs[1 - victim]
    assert time.monotonic() - began < 60
    saved = Run(folder).saved_steps()[-1]
    processes = start_both(command)
    until = time.monotonic() + PATIENCE
    while Run(folder).saved_steps()[-1] == saved and time.monotonic() < until:
        time.sleep(0.02)
    # And one that is told to stop stops both, at the same step.
    processes[1].send_signal(signal.SIGTERM)
    statuses, outputs = finish(processes)
    assert statuses == [128 + signal.SIGTERM] * 2, outputs
    assert Run(folder).saved_steps()[-1] > saved
    assert f"step {Run(folder).saved_steps()[-1]} is saved" in outputs[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"coordinator": "127.0.0.1:1"}, "--processes, --process: give"),
        ({"coordinator": "127.0.0.1:1", "processes": 2, "process": 2}, "must be from 0 to 1"),
        ({"coordinator": "nowhere", "processes": 2, "process": 0}, "want HOST:PORT"),
        ({"coordinator": "h:99999", "processes": 2, "process": 0}, "want HOST:PORT"),
        ({"process": 1, "cluster": True}, "--cluster finds"),
    ],
)
def test_processes_that_cannot_join(arguments, says):
    with pytest.raises(InputError, match=says), joined(**arguments):
        pass
