"""The card of an exported model: what it is, what it takes and gives, how it was tried."""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard

from ..hub.card import CARD
from ..models.base.whole_file import write_whole
from .runtimes import Runtime


if TYPE_CHECKING:
    from .exporting import ExportReport

_CARD = """# {model}, exported to {title}

{what}

| input | axes |
|---|---|
{inputs}

Outputs, in order: {outputs}. An axis with a name may have any size.

```python
import {package}

{example}
```

`inputs` are the arrays that the tokenizer or processor in this folder makes (`return_tensors="np"`).

## How it was tried

Its outputs beside those of the model in PyTorch, in float32 on a CPU: the length of the difference, divided by the
length of the output, over what is no padding. The largest that would have been kept is {tolerance:g}.

| input | {heads} |
|---|{rules}
{rows}

A norm runs {norms} times in a forward. In {title} on this CPU {fused} operations are a whole norm.
"""


def write_export_card(folder: Path, report: "ExportReport", runtime: Runtime, source: str | None) -> None:
    """Write the card into the folder; it keeps the licence of the card beside the model, if there is one."""
    outputs = report.outputs
    precision = f"Its Linear layers are quantised: {runtime.how_int8}." if report.int8 else "Its weights are float32."
    scheme = report.add_norm.get("preset") if isinstance(report.add_norm, dict) else None
    of = f" with the add & norm `{scheme}`" if scheme else ""
    text = _CARD.format(
        model=report.model,
        title=runtime.title,
        what=f"A {report.model}{of}, exported by hf_addnorm: `{report.file}`. {precision}",
        inputs="\n".join(f"| `{name}` | {', '.join(axes)} |" for name, axes in report.inputs.items()),
        outputs=", ".join(f"`{name}`" for name in outputs),
        package=runtime.packages[-1],
        example=runtime.example.format(file=report.file),
        tolerance=report.tolerance,
        heads=" | ".join(f"`{name}`" for name in outputs),
        rules="---|" * len(outputs),
        rows="\n".join(
            f"| {' x '.join(map(str, tried.shape))} | {' | '.join(f'{tried.errors[name]:.1e}' for name in outputs)} |"
            for tried in report.parity
        ),
        norms=report.norms,
        fused=report.fused_norms,
    )
    licence = _licence(source)
    lines = [f"library_name: {runtime.packages[-1]}", "tags:", "- hf_addnorm", f"- {runtime.name}"]
    lines += [f"license: {licence}"] if licence else []
    write_whole(folder / CARD, "---\n" + "\n".join(lines) + "\n---\n\n" + text)


def _licence(source: str | None) -> str | None:
    """The licence that the card of the model names."""
    if source is None or not (Path(source) / CARD).is_file():
        return None
    try:
        found: str | None = ModelCard.load(Path(source) / CARD).data.get("license")
    except ValueError:
        return None
    return found
