"""Tools for the Hugging Face Hub: model cards, checks of a saved folder, uploading it.

`create_card`, `write_card` and `check_folder` are the functions; `hf-addnorm` is the same from a terminal.
"""

from .card import create_card, replace_placeholder, write_card
from .checks import Check, Finding, check_folder
from .push_folder import Push, plan_push


__all__ = [
    "Check",
    "Finding",
    "Push",
    "check_folder",
    "create_card",
    "plan_push",
    "replace_placeholder",
    "write_card",
]
