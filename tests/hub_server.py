"""A Hub in memory, for the real `huggingface_hub` client over real HTTP.

In a test, with the fixture `hub` (elsewhere: `with HubServer() as hub`):

    token = hub.store.add_user("ann")
    env = hub.client_env(tmp_path / "ann", token)
    subprocess.run([sys.executable, "client.py"], env=env, check=True)   # which pushes to ann/net
    assert len(hub.repo("ann/net").history) == 2                         # the commits of main, the newest first
    assert "config.json" in hub.repo("ann/net").head.files               # by path: .content, .is_large, .sha256

The client reads its endpoint, home and token when it is imported: each is a process of its own. `hub.requests` has
what was asked for; `hub.inject("lfs_upload", drop_in_body)` makes the next request of a route fail, see `Fault`; the
routes are in `hub_routes.py`, what they work on is in `hub_store.py`.

Not there: Xet (`client_env` turns it off), multipart uploads, gated repositories, discussions, search, pagination.
"""

import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from hub_routes import ROUTES, DroppedError, Reply, Request, Route
from hub_store import HubError, Repo, Store


ROOT = Path(__file__).resolve().parents[1]

# A fault is given the request and the way on, and may do anything before, after or instead of it.
Fault = Callable[[Request, Callable[[], Reply]], Reply]


def drop_in_body(request: Request, proceed: Callable[[], Reply]) -> Reply:
    """The connection ends in the middle of what the client sends."""
    request.handler.rfile.read(request.length // 2)
    raise DroppedError


def drop_reply(request: Request, proceed: Callable[[], Reply]) -> Reply:
    """The request is carried out, but the client does not hear of it."""
    proceed()
    raise DroppedError


def cut_reply(request: Request, proceed: Callable[[], Reply]) -> Reply:
    """The connection ends in the middle of what the client reads."""
    reply = proceed()
    return Reply(reply.json, reply.status, reply.headers, reply.content, cut_at=len(reply.body) // 2)


def answering(status: int) -> Fault:
    """The Hub answers with this status, and nothing happens."""

    def act(request: Request, proceed: Callable[[], Reply]) -> Reply:
        _ = request.body
        raise HubError(status, f"refused with {status}")

    return act


def before(action: Callable[[], Any]) -> Fault:
    """Something happens just before the request is carried out."""

    def act(request: Request, proceed: Callable[[], Reply]) -> Reply:
        action()
        return proceed()

    return act


class _Handler(BaseHTTPRequestHandler):
    """Finds the route of a request, and sends what it answers."""

    protocol_version = "HTTP/1.1"
    hub: "HubServer"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `HubServer.requests` has them."""

    def _serve(self) -> None:
        # what HEAD asks for is what GET would answer
        method = "GET" if self.command == "HEAD" else self.command
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {unquote(path)}")
        try:
            reply = self._reply(method, path)
        except DroppedError:
            return self._drop()
        self._send(reply)
        if reply.cut_at is not None:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, method: str, path: str) -> Reply:
        for entry in ROUTES:
            found = entry.path.fullmatch(path)
            if found is not None and entry.method == method:
                request = Request(self, self.hub.store, self.hub.url, found.groupdict())
                try:
                    return self.hub.answer(entry, request)
                except HubError as error:
                    # the next request begins where this one's body ends
                    _ = request.body
                    named = {"X-Error-Code": error.code} if error.code else {}
                    headers = {**named, "X-Error-Message": error.message}
                    return Reply({"error": error.message, **error.body}, error.status, headers)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return Reply({"error": f"no route for {method} {path}"}, 404)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", **reply.headers, "Content-Length": str(len(reply.body))}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: reply.cut_at])

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve


class HubServer:
    """The server, on a free port of 127.0.0.1; a context manager."""

    def __init__(self) -> None:
        self.store = Store()
        self.requests: list[str] = []
        self._faults: list[tuple[str, Fault]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        """A repository, whoever may see it."""
        return self.store.repos[kind, repo_id]

    def inject(self, route_name: str, fault: Fault, times: int = 1) -> None:
        """Let a fault happen to the next requests of a route, in the order in which faults were injected."""
        names = [entry.answer.__name__ for entry in ROUTES]
        if route_name not in names:
            raise ValueError(f"unknown route {route_name!r}; allowed is one of {names}.")
        self._faults += [(route_name, fault)] * times

    def forgive(self) -> int:
        """Take back the faults that have not happened, and say how many they were."""
        waiting = len(self._faults)
        self._faults.clear()
        return waiting

    def answer(self, entry: Route, request: Request) -> Reply:
        """What the route answers, with the fault that waits for it."""

        def proceed() -> Reply:
            # read before the lock: a slow client holds up nobody
            _ = request.body
            with self.store.lock:
                return entry.answer(request)

        waiting = next((item for item in self._faults if item[0] == entry.answer.__name__), None)
        if waiting is None:
            return proceed()
        self._faults.remove(waiting)
        return waiting[1](request, proceed)

    def client_env(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """The environment of a client: this Hub, a home of its own, a token or none; the package as it is here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        ours = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        return kept | ours | ({} if token is None else {"HF_TOKEN": token}) | more
