"""How files are written so that none is ever half there: beside the old one first."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


# what is left of a file beside which a process was killed ends like this
PARTIAL = ".partial"


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, beside `path`; what is there takes the place of `path` when the block ends.

    Whoever reads `path` finds the old file or the new one. An error in the block, of a full disk for instance, leaves
    the old one as it was, removes what had been written, and names `path`.

    Args:
        path (`str` or `Path`): the file; of a link, what it points to. Its folder must be there.
    """
    target = Path(os.path.realpath(path))
    # several processes may write the same file
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except OSError as error:
        # a full disk names no file
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file by way of `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(text)
