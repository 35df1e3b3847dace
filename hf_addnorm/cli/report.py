"""The output of every command: text or JSON, an exit code, and no secrets."""

import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..hub.redaction import redact
from ..models.base.protocols import JsonValue


OK, PROBLEM, USAGE = 0, 1, 2

# of a table that goes into a file or a pipe
_WIDTH = 160


@dataclass(frozen=True)
class Prose:
    """A sentence that is broken between words at the width of the terminal, 80 columns where there is none.

    Args:
        text (`str`): the sentence; further lines are indented as its first one, and by two more.
        style (`str`): of rich.
    """

    text: str
    style: str = ""

    def wrapped(self, width: int) -> Text:
        """The sentence in lines of at most `width` columns; a longer word stays whole."""
        indent = " " * (len(self.text) - len(self.text.lstrip()) + 2)
        lines = textwrap.wrap(
            self.text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        return Text("\n".join(lines), style=self.style)


# what a command prints: text as it is, text with a style, a sentence, a table
Line = str | Text | Prose | Table


@dataclass
class Report:
    """The answer of a command, as data for `--json` and as lines of text.

    Args:
        data: the same as JSON.
        lines (`list`): text and tables, in order.
        ok (`bool`): whether no problem was found.
    """

    data: JsonValue
    lines: list[Line] = field(default_factory=list)
    ok: bool = True


class _Redacted:
    """A text stream from which tokens and logins are removed."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(redact(text))

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def console(stream: TextIO) -> Console:
    """A rich console for one stream; brackets in text are not read as markup."""
    width = None if stream.isatty() else _WIDTH
    return Console(file=_Redacted(stream), width=width, markup=False, highlight=False, soft_wrap=False)  # type: ignore[arg-type]


def table(
    *columns: str, rows: Sequence[tuple[object, ...]], title: str | None = None, numbers: tuple[int, ...] = ()
) -> Table:
    """A table of text; the columns with these `numbers` are set to the right."""
    made = Table(*columns, title=title, title_justify="left", header_style="bold")
    for index in numbers:
        made.columns[index].justify = "right"
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def command(function: Callable[..., Report]) -> Callable[..., None]:
    """Make a command of the console script: it takes `--json`, prints its report and sets the exit code.

    0: done, nothing is wrong. 1: a problem was found. 2: the command was not understood (an unknown name, no folder).
    """

    @wraps(function)
    def run(*, json_: bool, **kwargs: object) -> None:
        try:
            report = function(**kwargs)
        except Exception as error:
            _fail(error, json_)
        if json_:
            sys.stdout.write(redact(json.dumps(report.data, indent=2)) + "\n")
        else:
            out = console(sys.stdout)
            width = shutil.get_terminal_size().columns
            for line in report.lines:
                line = line.wrapped(width) if isinstance(line, Prose) else line
                # a drawing is not to be broken into lines
                out.print(line, soft_wrap=not isinstance(line, Table))
        raise typer.Exit(OK if report.ok else PROBLEM)

    signature = inspect.signature(function)
    option = inspect.Parameter(
        "json_",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--json", help="Answer in JSON.")],
    )
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option], return_annotation=None
    )
    run.__annotations__ = {**function.__annotations__, "json_": option.annotation, "return": None}
    return run


def _fail(error: Exception, as_json: bool) -> None:
    """Say what went wrong in a sentence, and end with the exit code; an error that nobody foresaw goes on."""
    from ..hub.failures import HubError, failure

    reason = None if isinstance(error, HubError) else failure(error)
    if reason is None and not isinstance(error, (ValueError, OSError, ImportError)):
        raise error
    is_usage = reason is None and isinstance(error, (ValueError, FileNotFoundError, NotADirectoryError))
    code = USAGE if is_usage else PROBLEM
    sentence = redact(" ".join((reason or str(error)).split()))
    if as_json:
        sys.stdout.write(json.dumps({"error": sentence}, indent=2) + "\n")
    else:
        console(sys.stderr).print(Text(f"error: {sentence}", style="red"), soft_wrap=True)
    raise typer.Exit(code)
