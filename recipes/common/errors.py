"""Errors that a user can mend: one sentence on stderr, an exit code, no traceback."""

import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator


# What gloo, NCCL and torch's store say when the other end of a connection is gone.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|peer|socket|remote process|heartbeat|timed out",
    re.IGNORECASE,
)


class UserError(Exception):
    """Something that the user can put right; the message says what is wrong and what is allowed."""

    exit_code = 1


class LostProcess(UserError):
    """Another process of the run has ended; each of those that are left says so."""


class Stopped(UserError):
    """A signal has ended the run in good order; the exit code is that of the signal, as a shell has it.

    Args:
        number: of the signal; 0 where another process received it.
        message: what is left.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + (number or signal.SIGTERM)


def one_line(text: object, limit: int = 400) -> str:
    """The text of another library's error on one line, cut where it gets long."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]} ..."


@contextmanager
def lost_process(accelerator: Accelerator, kept: Callable[[], str]) -> Iterator[None]:
    """Turn what a collective says when another process is gone into a sentence; ``kept`` tells what is left."""
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _LOST.search(str(error)):
            raise
        raise LostProcess(f"another process of this run has ended; {kept()}") from error


def run_script(main: Callable[[], None]) -> None:
    """Call a recipe's ``main``; a ``UserError`` becomes one sentence, said by one process."""
    try:
        main()
        if torch.distributed.is_initialized():
            # Left to the interpreter's end, gloo's threads sometimes abort it; taken from under a model, they hang.
            gc.collect()
            torch.distributed.destroy_process_group()
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        if isinstance(error, LostProcess):
            sys.stderr.write(f"error in process {rank}: {error}\n")
        elif rank == "0":
            sys.stderr.write(f"error: {error}\n")
        else:
            # The launcher ends all processes as soon as one exits: let the first one speak.
            time.sleep(2)
        if torch.distributed.is_initialized():
            # the others may be gone, and nothing here waits for them
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
