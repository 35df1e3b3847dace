"""What a notebook shows of a spec or of a config: drawing, formula, and the axes that differ from the preset."""

import json
from html import escape

from .hub.description import Description, described
from .models.core.addnorm_config import AddNormConfig
from .models.spec.spec import AddNormSpec


def to_html(value: AddNormSpec | AddNormConfig) -> str:
    """A spec, or a config with the spec of each of its stacks of layers, as HTML of a few lines."""
    if isinstance(value, AddNormSpec):
        return _html("AddNormSpec", Description("", value))
    parts = described(value)
    return "".join(_html(" ".join(filter(None, (type(value).__name__, part.title))), part) for part in parts)


def _html(title: str, part: Description) -> str:
    lines = [f"<b>{escape(title)}</b>: <code>{escape(part.spec.preset)}</code>", _pre(part.flow), _pre(part.formula)]
    lines.append(f"N is {escape(part.norm)}.")
    if part.changes:
        rows = (
            f"<li><code>{escape(axis)} = {escape(json.dumps(said))}</code></li>" for axis, said in part.changes.items()
        )
        lines.append(f"Other than in the preset: <ul>{''.join(rows)}</ul>")
    lines += [f"<p>Unusual: {escape(warning.replace('`', ''))}</p>" for warning in part.warnings]
    return f"<div>{''.join(lines)}</div>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
