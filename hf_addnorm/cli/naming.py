"""What a user may call a model, and the sentences that refuse what is none."""

import difflib
from pathlib import Path
from typing import Annotated

import typer

from ..models.base.registry import one_of
from ..models.spec.presets import PRESETS


Folder = Annotated[Path, typer.Argument(help="Where the model was saved.", show_default=False)]


def refuse_no_model(folder: Path) -> None:
    """Refuse a folder in which no model was saved."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json.")


def refuse_no_name(what: str) -> None:
    """Refuse what can be neither a preset nor the name of a repository, and is no folder."""
    is_path = Path(what).is_absolute() or what.startswith((".", "~")) or what.count("/") > 1
    if is_path and not Path(what).exists():
        raise FileNotFoundError(f"{what} does not exist.")
    # a name without an owner is more likely a misspelt preset than one of the few such repositories
    if "/" not in what or Path(what).exists():
        near = difflib.get_close_matches(what, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {one_of(near)}?" if near else "hf-addnorm presets lists the presets."
        raise ValueError(f"{what!r} is no preset, no folder and no repository (OWNER/NAME): {hint}")
