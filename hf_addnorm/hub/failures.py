"""What went wrong between this machine and the Hub, or on its disk, as one sentence."""

import errno
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled


# the package of the client's connections, which is another one from release to release
http = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_WAIT = "set HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
# by the status of an answer
_ANSWERS = {
    400: "the Hub refused what it was sent",
    401: f"the Hub does not know who asks, or there is no such repository: {_LOG_IN}",
    403: f"this login has no right to do that: {_LOG_IN} with a token that may write there",
    404: f"there is no such repository, revision or file, or this login may not see it: see the name, or {_LOG_IN}",
    412: "somebody else has pushed in between: push again",
    413: "the Hub refused a file because of its size",
    429: "the Hub was asked too often: wait, and try again",
}
# those of the disk
_NO_SPACE = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "this user's share of the disk is used up",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "this user may not write there",
}


class HubError(OSError):
    """Something that the Hub, the way there or the disk did not do; its text says what was done."""


@contextmanager
def failing_as(what: str, then: Callable[[], str] = str) -> Iterator[None]:
    """A failure of the Hub, the way there or the disk becomes a `HubError`: `what: reason. then().`

    Args:
        what (`str`): what did not succeed.
        then (`Callable`): what was done until then, asked when it fails; nothing by default.
    """
    try:
        yield
    except Exception as error:
        reason = failure(error)
        if reason is None:
            raise
        done = then()
        raise HubError(f"{what}: {reason}." + (f" {done[:1].upper()}{done[1:]}." if done else "")) from error


def failure(error: BaseException) -> str | None:
    """What failed at the Hub, on the way there or on the disk; None where it was neither."""
    found: list[BaseException] = list(_causes(error))
    for cause in found:
        if isinstance(cause, HfHubHTTPError):
            return _of_answer(cause)
    for cause in found:
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            place = f": {cause.filename}" if cause.filename else ""
            return _NO_SPACE[cause.errno] + place
        if isinstance(cause, OfflineModeIsEnabled):
            return "the Hub was not asked, because HF_HUB_OFFLINE is set"
        if isinstance(cause, http.TimeoutException | TimeoutError):
            return f"{constants.ENDPOINT} did not answer in time: try again later, or {_WAIT}"
        if isinstance(cause, http.ConnectError):
            return f"{constants.ENDPOINT} cannot be reached: look at the network, the proxy and HF_ENDPOINT"
        if isinstance(cause, http.HTTPError | ConnectionError):
            return f"the connection to {constants.ENDPOINT} broke off: try again"
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in found):
        return f"{constants.ENDPOINT} cannot be reached, and the file is not in the cache"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_answer(error: HfHubHTTPError) -> str:
    status, said = error.response.status_code, " ".join((error.server_message or "").split())
    if status >= 500:
        words = "the Hub has a fault of its own: try again later"
    else:
        words = _ANSWERS.get(status, "the Hub refused it")
    return f"{words} (answer {status}{f', {said}' if said else ''})"
