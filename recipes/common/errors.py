"""Errors that a user can mend: one sentence on stderr, exit code 1, no traceback."""

import os
import sys
import time
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can put right; the message says what is wrong and what is allowed."""


def one_line(text: object, limit: int = 400) -> str:
    """The text of another library's error on one line, cut where it gets long."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]} ..."


def run(main: Callable[[], None]) -> None:
    """Call a recipe's ``main``; a ``UserError`` becomes one sentence, said by one process."""
    try:
        main()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"error: {error}\n")
        else:
            # The launcher ends all processes as soon as one exits: let the first one speak.
            time.sleep(2)
        sys.exit(1)
