"""Hides hf_addnorm from a process, as if it were not installed."""

import importlib.abc
import sys
from typing import Any


class _Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "hf_addnorm":
            raise ModuleNotFoundError("hf_addnorm is hidden from this process")


def hide() -> None:
    """From now on, `import hf_addnorm` fails."""
    sys.meta_path.insert(0, _Hide())
