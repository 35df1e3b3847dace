"""The entry of the console script `hf-addnorm`, beside the package: importing the package imports torch, which takes
seconds, and some commands need neither.
"""

import importlib.util
import sys


# what needs no model, and the packages whose `__init__` it goes without
_LIGHT = ("explore", "launch", "presets", "--help")
_PACKAGES = ("hf_addnorm", "hf_addnorm.hub", "hf_addnorm.models", "hf_addnorm.models.base", "hf_addnorm.models.spec")


def main() -> None:
    """Run the console script."""
    # without arguments there is help
    is_light = not sys.argv[1:] or sys.argv[1] in _LIGHT
    for name in _PACKAGES if is_light else ():
        spec = importlib.util.find_spec(name)
        assert spec is not None
        # not executed: its files can be imported, and nothing else of it is there
        sys.modules[name] = importlib.util.module_from_spec(spec)
    from hf_addnorm.cli import main as run

    run()
