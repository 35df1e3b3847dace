"""The code that released versions put beside a checkpoint, by hash.

known_code.json has it, an entry for each version; `python tests/test_known_code.py` writes that of this version anew.
"""

import hashlib
import json
from pathlib import Path

from ..checkpoint_code import all_flat_files


FILE = Path(__file__).with_name("known_code.json")

# {version: {file name: sha256}}
Releases = dict[str, dict[str, str]]


def this_version() -> str:
    """The installed version."""
    from .. import __version__

    return __version__


def hash_of(text: str) -> str:
    """The hash of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def known_code() -> Releases:
    """The files of every known release."""
    return json.loads(FILE.read_text())


def with_this_version(releases: Releases) -> Releases:
    """`releases` with the entry of the code that is here."""
    files = {name: hash_of(text) for name, text in all_flat_files().items()}
    return releases | {this_version(): files}


def releases_of(path: Path, releases: Releases) -> set[str]:
    """The versions that have exactly this file."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return {version for version, files in releases.items() if files.get(path.name) == found}


def to_text(releases: Releases) -> str:
    """What is in known_code.json."""
    return json.dumps(releases, indent=1) + "\n"
