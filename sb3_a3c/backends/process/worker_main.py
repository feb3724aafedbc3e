"""The start of a worker's process: what its main function does before the worker is there."""

import gc
import os
import signal
import socket
from collections.abc import Sequence
from multiprocessing import current_process
from multiprocessing.connection import Connection
from typing import Any

import torch as th

from sb3_a3c.backends.process.channel import Channel
from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.installation import Installation
from sb3_a3c.backends.process.messages import decode, encode
from sb3_a3c.backends.process.parent_death import exit_with_parent, open_pidfd
from sb3_a3c.backends.process.runner import FIRST_USE_NOTE, Assignment, Runner
from sb3_a3c.backends.process.separate_worker import unpack_assignment
from sb3_a3c.envs.closing import close_environments
from sb3_a3c.envs.slices import environments_in
from sb3_a3c.system.notes import add_note


def run_worker(
    connection: socket.socket,
    pipe: Connection,
    main_process: int,
    handles: list[Any],
    number: int,
    not_ours: Sequence[Connection | socket.socket],
    installation: Installation,
) -> None:
    """
    The target of the process.

    :param connection: To the main process
    :param pipe: A pipe of which the main process holds the other end
    :param main_process: The main process's id
    :param handles: Those of a parcel with an :class:`Assignment`, which is the first message
    :param number: Which process of its worker this is, from 0
    :param not_ours: Connections that a fork has copied from the main process. If they stayed open, nobody would notice the
        main process's end
    :param installation: The main process's
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    current_process().daemon = False  # else environments could start no processes
    # A collection of all objects would copy the memory that is shared with the process that this one was forked from. That
    # stops eight workers for more than half a second.
    gc.freeze()
    for other in not_ours:
        other.close()
    channel = Channel(connection, open_pidfd(main_process))
    exit_with_parent(pipe)
    os.register_at_fork(after_in_child=connection.close)  # else a process of an environment would seem to be this one
    th.set_num_threads(1)  # several workers leave no cores for more
    try:
        first_message = channel.receive()
    except (EOFError, OSError):
        return  # the main process is gone
    assignment: Assignment | None = None
    try:
        installation.adopt()
        parcel = decode(first_message).adopt(handles)
        del first_message  # it may be large
        assignment = unpack_assignment(parcel.content, parcel.handles, FIRST_USE_NOTE)
        runner = Runner(channel, assignment, parcel.handles, number)
    except BaseException as error:
        add_note(error, f"raised while the process of {current_process().name} was starting")
        channel.send(encode(Failure.of(error)))
        if assignment is not None:
            close_environments(environments_in(assignment.spec.env))
        return
    runner.run()
