"""The commands of `hf-addnorm`, a function each; `COMMANDS` is the list."""

import difflib
import json
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import CardData, ModelCard
from rich.text import Text
from transformers import PreTrainedConfig
from transformers.utils import logging

from .. import hub
from ..hub.card import CARD, CardOptions, count_parameters, create_card, is_placeholder, read_config, write_card
from ..hub.cost import Cost, cost
from ..hub.description import Description, as_ours, described, families
from ..hub.failures import failing_as
from ..hub.time_limits import limit_waiting
from ..models.base.protocols import JsonValue
from ..models.base.registry import one_of, unknown
from ..models.spec.presets import PRESETS
from .conversion import convert
from .light import explore, launch, presets
from .report import Line, Prose, Report, make_app, table


Folder = Annotated[Path, typer.Argument(help="Where the model was saved.", show_default=False)]


def show(
    what: Annotated[str, typer.Argument(metavar="PRESET|FOLDER|REPO", show_default=False)],
    family: Annotated[
        str, typer.Option(help="The family that a preset is counted in, with its default sizes.")
    ] = "bert",
    revision: Annotated[str | None, typer.Option(help="Of a repository.")] = None,
) -> Report:
    """Describe an add & norm: drawing, formula, source, where its norms sit, and its cost compared with stock."""
    config, weights, of = _config(what, family, revision)
    parts = described(config)
    counted = cost(config) if hasattr(config, "auto_classes") else None
    lines: list[Line] = []
    for part in parts:
        lines += _said(part)
    if weights is not None:
        lines.append(f"weights in the folder: {weights:,}")
    if counted is not None:
        sizes = ", ".join(
            f"{key.removeprefix('num_').replace('_', ' ')} {size}" for key, size in counted.sizes.items()
        )
        title = f"{of} ({sizes}), base model"
        lines.append(
            table("counted", "here", "stock", "difference", rows=counted.rows(), title=title, numbers=(1, 2, 3))
        )
    return Report({"what": what, "parts": [_data(part) for part in parts], "cost": _numbers(counted)}, lines)


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
    _refuse_no_model(folder)
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


def diagnose(
    model: Annotated[str, typer.Argument(metavar="FOLDER|REPO", show_default=False)],
    data: Annotated[Path, typer.Option(help="A text file, one text a line.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where the page goes: one HTML file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Where all pictures go as one PNG.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="A second model, or a preset that the first one's weights are loaded into.")
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="How many texts are read.")] = 256,
    max_length: Annotated[int, typer.Option(min=2, help="Longer texts are cut to this many tokens.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in one forward.")] = 16,
) -> Report:
    """Look at what add & norm does in a model that reads text: figures by layer, and what is unusual."""
    from ..diagnosis import diagnose as diagnose_model
    from ..diagnosis import inputs

    for path in (out, png):
        if path is not None:
            inputs.refuse_unwritable(path)
    texts = inputs.read_texts(data, max_texts)
    for what in filter(None, (model, compare)):
        if what not in PRESETS and not Path(what).is_dir():
            _refuse_no_name(what)
    loaded = inputs.load(model, max_length)
    batches = loaded.batches(texts, batch_size)
    if compare is None:
        found = diagnose_model(loaded.model, batches, names=(loaded.name, ""))
    else:
        second = inputs.load_compared(compare, model, loaded)
        found = diagnose_model(loaded.model, batches, second.model, inputs.names(loaded, second))
    said = sorted(found.findings(), key=lambda finding: finding.is_change)
    lines: list[Line] = [Prose(f"{'changed' if finding.is_change else 'unusual'}: {finding}") for finding in said]
    lines += [Prose(note) for note in found.notes]
    for path, save in ((out, found.save_html), (png, found.save_png)):
        if path is not None:
            save(path)
            lines.append(f"wrote {path}")
    return Report(found.to_dict(), lines)


COMMANDS = (presets, show, card, push, check, launch, convert, diagnose, explore)

app = make_app(COMMANDS)


@app.callback()
def _before_any() -> None:
    limit_waiting()
    logging.set_verbosity_error()


def _refuse_no_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json.")


def _config(what: str, family: str, revision: str | None) -> tuple[PreTrainedConfig, int | None, str]:
    """The config of a preset, a folder or a repository; the number of weights in a folder; what it is called."""
    if what in PRESETS:
        if family not in families():
            raise ValueError(unknown("family", family, families()))
        return families()[family](add_norm=what), None, family
    if Path(what).is_dir():
        _refuse_no_model(Path(what))
        config = as_ours(read_config(what))
        return config, count_parameters(Path(what)), config.model_type
    _refuse_no_name(what)
    with failing_as(f"{what} cannot be read"):
        config = as_ours(read_config(what, revision=revision))
    return config, None, config.model_type


def _refuse_no_name(what: str) -> None:
    """Refuse what can be neither a preset nor the name of a repository, and is no folder."""
    is_path = Path(what).is_absolute() or what.startswith((".", "~")) or what.count("/") > 1
    if is_path and not Path(what).exists():
        raise FileNotFoundError(f"{what} does not exist.")
    # a name without an owner is more likely a misspelt preset than one of the few such repositories
    if "/" not in what or Path(what).exists():
        near = difflib.get_close_matches(what, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {one_of(near)}?" if near else "hf-addnorm presets lists the presets."
        raise ValueError(f"{what!r} is no preset, no folder and no repository (OWNER/NAME): {hint}")


def _said(part: Description) -> list[Line]:
    lines: list[Line] = [Text(part.title.upper(), style="bold")] if part.title else []
    formula = [Prose(line) for line in _indented(part.formula)]
    lines += [Prose(f"add_norm = {part.add_norm}"), "", *_indented(part.flow), "", *formula, ""]
    lines.append(
        Prose(f"  x is the stream, F attention or feed-forward, N {part.norm}, l the layer from 1, L the depth")
    )
    lines += [Prose(f"  {kind}: {said.replace('`', '')}") for kind, said in part.explained.items()]
    lines += [Prose(f"  note: {part.note}")] if part.note and not part.changes else []
    lines += [Prose(f"  unusual: {warning.replace('`', '')}", style="yellow") for warning in part.warnings]
    return [
        *lines,
        *(Prose(f"  source: {source}") for source in part.sources),
        table("place", "norm", rows=part.places()),
    ]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _data(part: Description) -> dict[str, JsonValue]:
    keys = ("title", "formula", "flow", "norms", "note", "warnings", "sources", "bibtex")
    said = {key: getattr(part, key) for key in keys}
    return {"add_norm": part.spec.to_dict(), **said, "places": [list(row) for row in part.places()]}


def _numbers(counted: Cost | None) -> dict[str, JsonValue] | None:
    return None if counted is None else dict(vars(counted))


def _plain(data: CardData) -> JsonValue:
    return json.loads(json.dumps(data.to_dict()))
