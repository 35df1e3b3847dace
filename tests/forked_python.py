"""Runs a script in a fresh Python that starts fast: it is forked from a process that has imported torch.

The script has its own environment, folder, arguments, `sys.path` and standard streams, as if Python were started anew.
Nothing that reads the environment when it is imported (huggingface_hub, transformers, hf_addnorm) is imported before
it begins. What is saved are the seconds that importing torch, scikit-learn and SymPy takes.

    done = forked_python.run([script, "argument"], env=env)            # as subprocess.run(..., capture_output=True)
    process = forked_python.start([script], env=env, stdin=PIPE)       # as subprocess.Popen
"""

import contextlib
import functools
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any


# imported once: slow, and without a look at the variables that a client of the Hub is given
SHARED = ["torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint", "sklearn.metrics", "PIL.Image"]
SHARED += ["jinja2", "nltk", "pyarrow.parquet"]
# every script imports these for itself
NOT_SHARED = ("huggingface_hub", "transformers", "datasets", "accelerate", "hf_addnorm", "families")


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    # an optional package that is missing is left out
    context.set_forkserver_preload(SHARED)
    return context


@functools.cache
def _plain_path() -> list[str]:
    """`sys.path` of a new interpreter, without PYTHONPATH and without the folder of a script."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def _run_script(command: list[str], env: dict[str, str], cwd: str, path: list[str], streams: list[DupFd]) -> None:
    """In the new process."""
    imported = [name for name in NOT_SHARED if name in sys.modules]
    assert not imported, f"{imported} are imported before the script"
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin = os.fdopen(0)
    # as `python -P` does
    own = [] if command[0] == "-P" else [str(Path(command[0]).parent)]
    command = command[command[0] == "-P" :]
    sys.path[:] = [*own, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.argv[:] = command
    runpy.run_path(command[0], run_name="__main__")


class _Streams:
    """Three file descriptors, which the new process receives as its own."""

    def __init__(self, descriptors: list[int]):
        self.descriptors = descriptors

    def __reduce__(self) -> Any:
        return list, ([DupFd(descriptor) for descriptor in self.descriptors],)


class Process:
    """A running script, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, command: Sequence[Any], env: Mapping[str, str] | None, cwd: Any, streams: Sequence[Any]):
        self.args = [str(part) for part in command]
        self._pipes: list[IO[str] | None] = [None] * 3
        given, opened = [], []
        for number, stream in enumerate(streams):
            if stream is None:
                given.append(os.open(os.devnull, os.O_RDWR))
                opened.append(given[-1])
            elif stream == subprocess.PIPE:
                reading, writing = os.pipe()
                theirs, ours = (reading, writing) if number == 0 else (writing, reading)
                self._pipes[number] = os.fdopen(ours, "w" if number == 0 else "r")
                given.append(theirs)
                opened.append(theirs)
            else:
                given.append(stream.fileno())
        arguments = (self.args, dict(os.environ if env is None else env), str(cwd or Path.cwd()), _plain_path())
        self._process = _context().Process(target=_run_script, args=(*arguments, _Streams(given)))
        self._process.start()
        for descriptor in opened:
            os.close(descriptor)
        self.stdin, self.stdout, self.stderr = self._pipes
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: Any) -> None:
        for pipe in filter(None, self._pipes):
            pipe.close()
        if error[0] is not None:
            self.kill()
        self.wait()


def start(
    command: Sequence[Any],
    env: Mapping[str, str] | None = None,
    cwd: Any = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
) -> Process:
    """A running script; a stream is a file, `subprocess.PIPE` or, where it is None, nowhere."""
    return Process(command, env, cwd, (stdin, stdout, stderr))


def run(
    command: Sequence[Any], env: Mapping[str, str] | None = None, cwd: Any = None, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Run a script to its end; returns its exit code and what it wrote.

    Raises:
        subprocess.TimeoutExpired: if it takes more than `timeout` seconds; it is ended then.
    """
    (done,) = _run([env], command, cwd, timeout)
    return done


def run_distributed(
    command: Sequence[Any], env: Mapping[str, str] | None = None, cwd: Any = None, timeout: float = 300
) -> list[subprocess.CompletedProcess]:
    """Run a script in two processes that find each other by the variables that torchrun sets; as `run` otherwise."""
    return _run(envs_of_two(env), command, cwd, timeout)


def envs_of_two(env: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The environments of two processes that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = dict(os.environ if env is None else env) | both
    return [given | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


def _run(envs: Sequence[Any], command: Sequence[Any], cwd: Any, timeout: float) -> list[subprocess.CompletedProcess]:
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as files:
        started = []
        for env in envs:
            out, errors = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
            started.append((start(command, env, cwd, stdout=out, stderr=errors), out, errors))
        try:
            for process, *_ in started:
                process.wait(max(0.1, deadline - time.monotonic()))
        except BaseException:
            for process, *_ in started:
                process.kill()
            raise
        done = []
        for process, out, errors in started:
            out.seek(0), errors.seek(0)
            done.append(subprocess.CompletedProcess(process.args, process.poll(), out.read(), errors.read()))
        return done
