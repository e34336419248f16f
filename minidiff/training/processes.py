"""Several processes as one run: they find each other, and none goes on when one has ended.

JAX joins the processes (``jax.distributed``). A process that waits for another in the middle of a step
may wait for ever when that other was killed; so each also keeps a connection to the first, which the
operating system closes when a process ends, however it ends.
"""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from minidiff.errors import InputError, complain, tell

START_SECONDS = 300  # in which all processes must have come
GRACE_SECONDS = 3.0  # for a process to tell its own trouble before another's ends it
DAYS = 86_400 * 30  # that the others wait while one draws and measures at the end
GOODBYE = b"."


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    cluster: bool = False,
) -> Iterator[None]:
    """While the block lasts this process is one of a run's, if any of the arguments says so.

    Args:
        coordinator: "host:port" of process 0, with ``processes``, their number, and ``process``, the
            number of this one, from 0.
        cluster: let JAX find all three: SLURM, Open MPI, Kubernetes, a TPU slice.

    An exception in the block ends the process, after one line, without waiting for the others. InputError
    if the arguments do not go together or the others do not come.
    """
    by_hand = (coordinator, processes, process)
    if by_hand == (None, None, None) and not cluster:
        yield
        return
    _check(*by_hand, cluster)
    try:
        jax.distributed.initialize(
            *by_hand,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=DAYS,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes did not find each other: {error}") from None
    watch = Watch()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, (InputError, KeyboardInterrupt)):
            time.sleep(2 * GRACE_SECONDS)  # if it failed because another has ended, that is told
        # Not the usual way out: it would wait for processes that wait for this one.
        os._exit(tell(error))
    watch.leave()


def _check(coordinator, processes, process, cluster) -> None:
    by_hand = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in by_hand.items() if value is None]
    if cluster and len(missing) < 3:
        raise InputError("--cluster finds the processes itself: leave --coordinator and others out")
    if not cluster and missing:
        raise InputError(f"{', '.join(missing)}: give --coordinator, --processes and --process all")
    if not cluster and not 0 <= process < processes:
        raise InputError(
            f"--process {process} is out of range: it must be from 0 to {processes - 1}"
        )
    host, _, port = (coordinator or "").rpartition(":")
    if not cluster and not (host and port.isdigit() and 0 < int(port) < 65_536):
        raise InputError(f"--coordinator {coordinator}: want HOST:PORT, such as 10.0.0.1:1234")


class Watch:
    """A connection between process 0 and every other; where one breaks, this process ends too."""

    def __init__(self):
        address = _coordinator_host()
        first = jax.process_index() == 0
        server = socket.create_server(("", 0), backlog=jax.process_count()) if first else None
        ours = [server.getsockname()[1], int.from_bytes(os.urandom(3))] if server else [0, 0]
        # Whoever else finds the port does not know the number.
        port, number = map(int, multihost_utils.broadcast_one_to_all(np.array(ours, np.int32)))
        self.leaving = False
        self.connections: dict[int, socket.socket] = {}
        if server:
            self._admit(server, number)
        else:
            self.connections[0] = socket.create_connection((address, port), START_SECONDS)
            self.connections[0].sendall(struct.pack("!II", number, jax.process_index()))
        for process, connection in self.connections.items():
            connection.settimeout(None)
            threading.Thread(target=self._listen, args=(process, connection), daemon=True).start()

    def _admit(self, server: socket.socket, number: int) -> None:
        with server:
            server.settimeout(START_SECONDS)
            while len(self.connections) < jax.process_count() - 1:
                connection, _ = server.accept()
                connection.settimeout(START_SECONDS)
                said = connection.recv(8, socket.MSG_WAITALL)
                if len(said) == 8 and said[:4] == struct.pack("!I", number):
                    self.connections[struct.unpack("!I", said[4:])[0]] = connection
                else:
                    connection.close()

    def _listen(self, process: int, connection: socket.socket) -> None:
        try:
            said = connection.recv(1)
        except OSError:
            said = b""
        if said != GOODBYE and not self.leaving:
            time.sleep(GRACE_SECONDS)
            complain(
                f"process {process} of {jax.process_count()} has ended, so process "
                f"{jax.process_index()} ends too; the same command in all of them goes on from the "
                "last checkpoint"
            )
            os._exit(1)

    def leave(self) -> None:
        """What happens to the others is no longer of interest, nor of this one to them."""
        self.leaving = True
        for connection in self.connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(GOODBYE)


def _coordinator_host() -> str:
    """Where process 0 is: JAX found it out, by ``--coordinator`` or from the cluster."""
    from jax._src import distributed  # it tells nowhere else

    return distributed.global_state.coordinator_address.rpartition(":")[0].strip("[]")
