"""The console script `hf-addnorm`."""

import importlib
import sys


# what a user who only loads models does not need
_NEEDED = ("typer", "rich", "jinja2")


def main(commands: str = "app") -> None:
    """Run the console script; if one of its packages is missing, say what to install.

    Args:
        commands (`str`): the file that has the commands: "app" has all, "light" those that need no model.
    """
    try:
        app = importlib.import_module(f".{commands}", __name__).app
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write(f"hf-addnorm needs {error.name}, which is not installed: pip install 'hf_addnorm[cli]'\n")
        sys.exit(2)
    app()
