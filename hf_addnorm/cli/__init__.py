"""The console script `hf-addnorm`."""

import importlib
import sys


# what a user who only loads models does not need
_NEEDED = ("typer", "rich", "jinja2")


def main() -> None:
    """Run the console script; if one of its packages is missing, say what to install."""
    try:
        importlib.import_module(".app", __name__).app()
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write(f"hf-addnorm needs {error.name}, which is not installed: pip install 'hf_addnorm[cli]'\n")
        sys.exit(2)
