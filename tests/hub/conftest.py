"""Clients of the Hub of the tests."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import forked_python
import pytest


HERE = Path(__file__).parent
Do = Callable[..., Any]


class Client:
    """A user: a token, and a home of its own. Each `process` is a fresh one, see `client.py`."""

    def __init__(self, hub: Any, records: Path, home: Path, token: str | None):
        self.hub, self.records, self.home, self.token = hub, records, home, token
        self.home.mkdir(parents=True, exist_ok=True)

    def env(self, **more: str) -> dict[str, str]:
        env = self.hub.client_env(self.home, self.token, **more)
        return env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{HERE.parent}"}

    @contextmanager
    def process(self, **env: str) -> Iterator[Do]:
        """Gives a function that does a step in the process: `do("load", repo="ann/net", ...)`."""
        log = self.home / "stderr"
        command = [HERE / "client.py", self.records]
        streams = {"stdin": PIPE, "stdout": PIPE}
        with (
            log.open("w") as errors,
            forked_python.start(command, env=self.env(**env), cwd=self.home, stderr=errors, **streams) as run,
        ):

            def do(verb: str, **arguments: Any) -> Any:
                run.stdin.write(json.dumps([verb, arguments]) + "\n")
                run.stdin.flush()
                answer = run.stdout.readline()
                assert answer, log.read_text()[-3000:]
                return json.loads(answer)

            yield do

    def hidden(self, **env: str) -> Any:
        """The same where hf_addnorm cannot be imported."""
        return self.process(ADDNORM_HIDDEN="1", **env)


@pytest.fixture
def new_client(hub, tmp_path):
    """Makes clients: of a user by name (the same token each time), or of nobody."""
    tokens: dict[str, str] = {}
    number = itertools.count()

    def make(user: str | None) -> Client:
        if user is not None and user not in tokens:
            tokens[user] = hub.store.add_user(user)
        (tmp_path / "records").mkdir(exist_ok=True)
        return Client(hub, tmp_path / "records", tmp_path / f"home{next(number)}", tokens.get(user or ""))

    return make
