"""Training from the last checkpoint to the end, on one device or many, until something stops it."""

import contextlib
import json
import signal
import time
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

from minidiff.data.sources import Source, known_problems
from minidiff.data.stream import feed
from minidiff.errors import InputError, complain
from minidiff.keys import key_of_seed
from minidiff.runtime import FEW_RUNS
from minidiff.training.config import TrainConfig
from minidiff.training.interrupts import Interrupts, Stopped
from minidiff.training.run import Run
from minidiff.training.saver import Saver
from minidiff.training.state import (
    TrainState,
    fit,
    learning_rate_schedule,
    make_optimizer,
    make_train_step,
)

DIVERGED = 10.0  # times the loss at the start


def train(
    run: Run,
    config: TrainConfig,
    init: Callable,
    loss: Callable,
    source: object,
    *,
    on_picture: Callable[[TrainState, int], None] = lambda state, step: None,
    constrain: Callable[[object], object] = lambda model: model,
    progress: bool = True,
) -> TrainState:
    """Train to ``config.steps``, from the last checkpoint if there is one.

    Args:
        run: from ``open_run``; its devices share the work.
        init: ``init(key)`` draws the model.
        loss: ``loss(key, model, batch)``; what it logs goes to metrics.jsonl.
        source: answers ``batch(step)``. What a ``Source`` knows to be wrong with it is told on
            standard error.
        on_picture: called at step 0 and every ``config.picture_every`` steps, not at the end, by the
            process that writes.
        constrain: brings a model that a step has moved back to where it may be.
        progress: show a bar with rate and time left.

    Returns the last state, whole, in the memory of every process. Raises Stopped after SIGTERM or
    SIGINT, when the state is saved; InputError where the loss is no longer a number or ten times
    what it was at first, when the last good checkpoint is kept.
    """
    devices = run.devices
    devices.check_batch(config.batch_size)
    # Unlike streams for weights and noise: a key never serves two purposes.
    init_key, step_key = jax.random.split(key_of_seed(config.seed))
    optimizer = make_optimizer(
        config.steps,
        config.learning_rate,
        kind=config.optimizer,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )

    def begin(key):
        return TrainState.init(init(key), optimizer)

    state = devices.make(begin, init_key, compiler_options=FEW_RUNS)
    state = run.restore(state)
    begun = saved = int(state.step)
    train_step = make_train_step(
        loss,
        optimizer,
        ema_decay=config.ema_decay,
        dtype=config.dtype,
        steps=config.steps_per_call,
        constrain=constrain,
        devices=devices,
    )
    lines = [line for line in run.metrics() if line["step"] <= begun]
    run.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    elapsed = lines[-1]["seconds"] if lines else 0.0

    def whole(state: TrainState) -> TrainState:
        return devices.gather(state) if devices.mesh else state

    def picture(state: TrainState, step: int) -> None:
        gathered = whole(state)  # all processes must ask
        if run.writes:
            on_picture(gathered, step)

    if begun == 0 and config.picture_every:
        picture(state, 0)
    if run.writes and isinstance(source, Source):
        for problem in known_problems(source):
            complain(f"problem of {source.name}: {problem}")
    began, stride = time.monotonic(), config.steps_per_call
    process, processes = devices.part
    fed = feed(
        source,
        begun,
        stride,
        config.steps,
        process=process,
        processes=processes,
        place=devices.place_rows,
    )
    with (
        contextlib.closing(fed),
        tqdm(
            total=config.steps,
            initial=begun,
            unit="step",
            disable=not (progress and run.writes),
        ) as bar,
        Saver(run, config.keep) as saver,
        Interrupts() as interrupts,
    ):
        calls = fit(step_key, state, fed, train_step, config.steps)
        for state, metrics in calls:
            step = int(state.step)
            means = {name: float(np.mean(values)) for name, values in metrics.items()}
            seconds = round(elapsed + time.monotonic() - began, 3)
            lines.append({"step": step, **means, "seconds": seconds})
            run.append_line("metrics.jsonl", lines[-1])
            bar.update(stride)
            bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
            _check(run, config, step, metrics, lines[0]["loss"])
            stop = devices.agree(interrupts.caught is not None)
            if stop or step == config.steps or _crossed(step, config.checkpoint_every, stride):
                since = [line["loss"] for line in lines if line["step"] > saved]
                saver.save(state, float(np.mean(since)))
                saved = step
            if stop and step < config.steps:
                saver.wait()
                raise _stopped(run, step, interrupts.caught)
            if step < config.steps and _crossed(step, config.picture_every, stride):
                picture(state, step)
    devices.wait("trained")
    return whole(state)


def _check(run: Run, config: TrainConfig, step: int, metrics: dict, first: float) -> None:
    """InputError where one of the steps just taken has no finite loss and gradient, or a huge loss."""
    losses, norms = np.asarray(metrics["loss"]), np.asarray(metrics["gradient_norm"])
    bad = np.flatnonzero(~np.isfinite(losses) | ~np.isfinite(norms))
    if len(bad):
        taken = step - len(losses) + bad[0]
        found = f"the loss is {losses[bad[0]]} and the gradient's norm {norms[bad[0]]}"
    elif losses.mean() > DIVERGED * first:
        taken = step - len(losses) + losses.argmax()
        found = f"the loss has grown from {first:.3g} to {losses.mean():.3g}"
    else:
        return
    rate = float(learning_rate_schedule(config.steps, config.learning_rate, config.warmup)(taken))
    raise InputError(
        f"{found} at step {taken + 1}, whose batch is source.batch({taken}), with learning rate "
        f"{rate:.2g} in {config.dtype}: try a lower learning_rate than {config.learning_rate}; "
        f"the last good checkpoint is kept in {run.checkpoints}"
    )


def _stopped(run: Run, step: int, number: int | None) -> Stopped:
    number = number or signal.SIGTERM  # another process of the run was told
    name = signal.Signals(number).name
    return Stopped(
        f"stopped by {name}; step {step} is saved in {run.checkpoints}, and the same command goes on "
        "from there",
        number,
    )


def _crossed(step: int, every: int, stride: int) -> bool:
    """Whether a multiple of ``every`` lies in the last ``stride`` steps."""
    return every > 0 and step // every > (step - stride) // every
