"""How long the console script waits for a Hub that accepts a connection and stays silent."""

from typing import Protocol

from huggingface_hub import constants, get_session, set_client_factory

from ..models.core.single_commit_push import seconds_for_an_answer
from .failures import http


class Request(Protocol):
    """What is sent, of the part of `httpx.Request` that is used here."""

    method: str
    url: object
    extensions: dict[str, dict[str, float | None]]


class LimitedClient(http.Client):  # type: ignore[name-defined, misc]
    """The client of `huggingface_hub`, which ends when the same request is not answered for the second time.

    Without it, what sends something waits without end, and what reads a file waits more than six minutes.
    """

    def __init__(self, **kwargs: object):
        super().__init__(**kwargs)
        self._unanswered: set[tuple[str, str]] = set()

    def send(self, request: Request, **kwargs: object) -> object:
        """As in its base class.

        Raises:
            TimeoutError: at the second time-out of this request, which `huggingface_hub` does not repeat then.
        """
        limits = {"HEAD": constants.HF_HUB_ETAG_TIMEOUT, "GET": constants.HF_HUB_DOWNLOAD_TIMEOUT}
        limit = limits.get(request.method, seconds_for_an_answer())
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: min(given.get(kind) or limit, limit) for kind in ("connect", "read", "write", "pool")
        }
        asked = request.method, str(request.url)
        try:
            response = super().send(request, **kwargs)
        except http.TimeoutException as error:
            if asked in self._unanswered:
                raise TimeoutError(f"no answer within {limit} seconds") from error
            self._unanswered.add(asked)
            raise
        self._unanswered.discard(asked)
        return response


def limit_waiting() -> None:
    """Let every later request of this process wait for a bounded time; meant for the console script.

    `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT` say how many seconds.
    """
    hooks = get_session().event_hooks
    set_client_factory(lambda: LimitedClient(event_hooks=hooks, follow_redirects=True, timeout=None))
