"""The code that released versions put beside a checkpoint, by hash.

known_code.json has it, an entry for each version; `python tests/test_known_code.py` writes that of this version anew.
"""

import hashlib
import json
from pathlib import Path

from ..checkpoint_code import PART_FAMILIES, all_flat_files, sections
from ..own_components import without_own_imports


FILE = Path(__file__).with_name("known_code.json")

# {version: {file name: sha256 of the file, or of each of its sections, any of which may be left out}}
Releases = dict[str, dict[str, str | list[str]]]


def this_version() -> str:
    """The installed version."""
    from .. import __version__

    return __version__


def hash_of(text: str) -> str:
    """The hash of a file or a section with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def hashes_of(name: str, text: str) -> str | list[str]:
    """What is kept of a file: one hash, or one for each section of the table of part families."""
    return [hash_of(section) for section in sections(text)] if name == f"{PART_FAMILIES}.py" else hash_of(text)


def known_code() -> Releases:
    """The files of every known release."""
    releases: Releases = json.loads(FILE.read_text())
    return releases


def with_this_version(releases: Releases) -> Releases:
    """`releases` with the entry of the code that is here."""
    return releases | {this_version(): {name: hashes_of(name, text) for name, text in all_flat_files().items()}}


def releases_of(path: Path, releases: Releases) -> set[str]:
    """The versions that have exactly this file, but for what differs by model.

    That is: the sections of families of which a model has no part, and the imports of a user's own components.
    """
    text = without_own_imports(path.read_bytes().decode(errors="replace"))
    found = hash_of(text)
    return {version for version, files in releases.items() if _is_of(text, found, files.get(path.name))}


def _is_of(text: str, found: str, known: str | list[str] | None) -> bool:
    if isinstance(known, list):
        return {hash_of(section) for section in sections(text)} <= set(known)
    return found == known


def to_text(releases: Releases) -> str:
    """What is in known_code.json."""
    return json.dumps(releases, indent=1) + "\n"
