"""`hf-addnorm card`, `push` and `check`: a saved folder, described, uploaded and looked at."""

import json
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import CardData, ModelCard
from rich.text import Text

from .. import hub
from ..hub.card import CARD, CardOptions, create_card, is_placeholder, write_card
from ..models.base.protocols import JsonValue
from .naming import Folder, refuse_no_model
from .report import Line, Report, table


def card(
    folder: Folder,
    result: Annotated[Path | None, typer.Option(help="The result JSON of the run that trained it.")] = None,
    stock_result: Annotated[Path | None, typer.Option(help="That of the stock model on the same rows.")] = None,
    name: Annotated[str | None, typer.Option(help="The heading; by default the folder's name.")] = None,
    repo: Annotated[str | None, typer.Option(help="Where it will be loaded from.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The checkpoint that it was made of.")] = None,
    license: Annotated[str | None, typer.Option(help="As the Hub spells it: apache-2.0, mit, ...")] = None,
    show_only: Annotated[bool, typer.Option("--print", help="Print it, and write nothing.")] = False,
    force: Annotated[bool, typer.Option(help="Write over a card that is there.")] = False,
) -> Report:
    """Write the model card of a folder to its README.md."""
    refuse_no_model(folder)
    path = folder / CARD
    options: CardOptions = {"name": name, "repo": repo, "base_model": base_model, "license": license}
    if show_only:
        made = create_card(folder, result, stock_result, **options)
        return Report({"path": None, "data": _plain(made.data), "text": made.content}, [made.content])
    if path.exists() and not force and not is_placeholder(ModelCard.load(path)):
        raise ValueError(f"{path} is there already: --force writes over it, --print shows what it would be.")
    write_card(folder, result, stock_result, **options)
    return Report({"path": str(path), "data": _plain(ModelCard.load(path).data)}, [f"wrote {path}"])


def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME, or NAME for your own.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, nothing is sent.")] = False,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made: a private one.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload model",
) -> Report:
    """Upload a folder to the Hub in one commit; without --yes, only list the files that would be sent."""
    plan = hub.plan_push(folder, repo)
    made = {CARD: "made now"} if plan.card is not None else {}
    rows = [(name, f"{size:,}", made.get(name, "")) for name, size in plan.files.items()]
    rows += [(name, "left out", f"it {reason}") for name, reason in plan.left_out.items()]
    lines: list[Line] = [table("file", "bytes", "", rows=rows, title=f"{folder} to {repo}", numbers=(1,))]
    lines.append(f"{len(plan.files)} files, {plan.size:,} bytes")
    data = plan.to_dict() | {"pushed": None}
    if plan.obstacles:
        lines += [Text(f"in the way: {obstacle}", style="red") for obstacle in plan.obstacles]
        return Report(data, lines, ok=False)
    if not yes:
        return Report(data, [*lines, "nothing was sent; --yes sends it"])
    address = plan.send(
        private=private or None, revision=revision, create_pr=create_pr or None, commit_message=message
    )
    return Report(data | {"pushed": address}, [*lines, f"pushed: {address}"])


def check(
    folder: Folder,
    run_unknown_code: Annotated[
        bool, typer.Option("--run-unknown-code", help="Run code that is not of a known release: only if you trust it.")
    ] = False,
) -> Report:
    """Check a saved folder: look at every file, then load it in a process where hf_addnorm is not installed."""
    found = hub.check_folder(folder, run_unknown_code=run_unknown_code)
    lines: list[Line] = [table("loaded by a stranger", "as", rows=list(found.loaded.items()))] if found.loaded else []
    if found.code:
        releases = sorted({release for known in found.code.values() for release in known})
        unknown_files = sum(not known for known in found.code.values())
        known = f", {len(found.code) - unknown_files} of hf_addnorm {', '.join(releases)}" if releases else ""
        lines.append(f"code: {len(found.code)} files{known}" + (f", {unknown_files} unknown" if unknown_files else ""))
    styles = {"error": "red", "warning": "yellow"}
    for finding in found.findings:
        lines.append(Text(f"{finding.level}: {finding.where}: {finding.what}", style=styles[finding.level]))
    count = len(found.errors)
    lines.append(f"{count} problem{'s' * (count != 1)}, {len(found.findings) - count} to improve")
    return Report(found.to_dict(), lines, ok=not found.errors)


def _plain(data: CardData) -> JsonValue:
    return json.loads(json.dumps(data.to_dict()))
