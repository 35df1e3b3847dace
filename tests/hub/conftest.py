"""Clients of the Hub of the tests."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


HERE = Path(__file__).parent


class Client:
    """A user: a token, and a home of its own. Each `run` is a fresh process, see `client.py`."""

    def __init__(self, hub: Any, records: Path, home: Path, token: str | None):
        self.hub, self.records, self.home, self.token = hub, records, home, token
        self.home.mkdir(parents=True, exist_ok=True)

    def env(self, **more: str) -> dict[str, str]:
        env = self.hub.client_env(self.home, self.token, **more)
        return env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{HERE.parent}"}

    def run(self, *steps: tuple[str, dict[str, Any]], **env: str) -> list[Any]:
        """What came of the steps, in order."""
        given, results = self.home / "steps.json", self.home / "results.json"
        given.write_text(json.dumps(steps))
        results.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / "client.py"), str(given), str(results), str(self.records)]
        done = subprocess.run(
            command, env=self.env(**env), cwd=self.home, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(results.read_text())

    def run_hidden(self, *steps: tuple[str, dict[str, Any]], **env: str) -> list[Any]:
        """The same where hf_addnorm cannot be imported."""
        return self.run(*steps, ADDNORM_HIDDEN="1", **env)


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
