"""Launch files for `accelerate launch --config_file`, chosen by name.

    accelerate launch --config_file "$(hf-addnorm launch cpu2)" recipes/finetune_text.py ...

Each file's head says what it is for, what it needs, and on what it was run.
"""

from pathlib import Path


_FOLDER = Path(__file__).parent


def launch_files() -> dict[str, str]:
    """The launch files by name, with the first line of what they are for."""
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in sorted(_FOLDER.glob("*.yaml"))}


def launch_file(name: str) -> Path:
    """The path of a launch file.

    Args:
        name (`str`): `"cpu"`, `"ddp"`, ...
    Raises:
        ValueError: an unknown name.
    """
    if name not in launch_files():
        raise ValueError(f"there is no launch file {name!r}; allowed are {', '.join(launch_files())}.")
    return _FOLDER / f"{name}.yaml"
