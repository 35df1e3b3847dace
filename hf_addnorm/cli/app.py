"""The console script: `COMMANDS` says what there is, and a command's file is imported when it runs.

So `hf-addnorm --help`, and what needs no model, come without torch and Transformers, whose import takes seconds.
"""

import importlib
from dataclasses import dataclass

import typer
from typer.core import TyperCommand, TyperGroup

from ..models.base.protocols import StockValue
from .report import command


@dataclass(frozen=True)
class Entry:
    """A command: a function of its name in a file of this package, which returns a `Report`.

    Args:
        file (`str`): the file's name.
        help (`str`): the first line of the function's docstring.
        needs_model (`bool`): whether its file imports torch or Transformers.
    """

    file: str
    help: str
    needs_model: bool = True


COMMANDS = {
    "presets": Entry("light", "List every preset with its formula and its source.", needs_model=False),
    "show": Entry(
        "showing",
        "Describe an add & norm: drawing, formula, source, where its norms sit, and its cost compared with stock.",
    ),
    "card": Entry("publishing", "Write the model card of a folder to its README.md."),
    "push": Entry(
        "publishing",
        "Upload a folder to the Hub in one commit; without --yes, only list the files that would be sent.",
    ),
    "check": Entry(
        "publishing",
        "Check a saved folder: look at every file, then load it in a process where hf_addnorm is not installed.",
    ),
    "launch": Entry(
        "light", "Print the path of a launch file, for `accelerate launch --config_file`.", needs_model=False
    ),
    "convert": Entry(
        "conversion",
        "Give a trained model another add & norm without labels, and write it with a report into a new folder.",
    ),
    "export": Entry(
        "exporting", "Export a model to ONNX Runtime or OpenVINO into a new folder, if it computes the same there."
    ),
    "diagnose": Entry(
        "diagnosis",
        "Look at what add & norm does in a model that reads text: figures by layer, and what is unusual.",
    ),
    "explore": Entry(
        "light",
        "Try schemes on a page: drawing, cost, warnings, a training of a minute. It runs until it is interrupted.",
        needs_model=False,
    ),
}


class _Later(TyperCommand):
    """A command whose file is imported when it is called, or asked for its own help."""

    def __init__(self, name: str):
        super().__init__(name, help=COMMANDS[name].help)

    def make_context(
        self, info_name: str | None, args: list[str], parent: StockValue = None, **extra: StockValue
    ) -> StockValue:
        return _loaded(str(self.name)).make_context(info_name, args, parent, **extra)


def _loaded(name: str) -> TyperCommand:
    """The command itself."""
    entry = COMMANDS[name]
    if entry.needs_model:
        _prepare()
    function = getattr(importlib.import_module(f".{entry.file}", __package__), name)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(command(function))
    made = typer.main.get_command(alone)
    assert isinstance(made, TyperCommand)
    return made


def _prepare() -> None:
    """Set what holds for all that loads a model."""
    logging = importlib.import_module("transformers.utils.logging")
    limits = importlib.import_module("..hub.time_limits", __package__)
    limits.limit_waiting()
    logging.set_verbosity_error()


class _Commands(TyperGroup):
    """All commands, by name, in the order of the table."""

    def __init__(self, *args: StockValue, **kwargs: StockValue):
        super().__init__(*args, **kwargs)
        self.commands = {name: _Later(name) for name in COMMANDS}


app = typer.Typer(
    cls=_Commands,
    help="Add & norm of transformer encoders: look at it, describe it, check it, push it.",
    no_args_is_help=True,
    add_completion=False,
    # a traceback with local variables could show a token
    pretty_exceptions_enable=False,
)


@app.callback()
def _all() -> None:
    """Typer makes a group of an app that has this."""
