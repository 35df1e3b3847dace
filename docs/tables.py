"""The parts of the pages in this folder that are made from the code.

python docs/tables.py          # writes them anew
python docs/tables.py --check  # says whether they are those of the code

Each part stands between two comments, `<!-- name: ... -->` and `<!-- end name -->`. The tables of measured results are
made by `recipes/results_table.py` and `recipes/depth_report.py`.
"""

import importlib
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers
from transformers import PreTrainedModel

import hf_addnorm
from hf_addnorm import AddNormConfig, AddNormSpec, Part, Preset
from hf_addnorm.catalogue import depth_rules
from hf_addnorm.hub.description import families as family_configs
from hf_addnorm.models.base.registry import to_json
from hf_addnorm.models.base.whole_file import write_whole
from hf_addnorm.without_family import WITHOUT_FAMILY


DOCS = Path(__file__).parent


def rows(*columns: str, cells: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [columns, ("---",) * len(columns), *cells]
    escaped = ([cell if line is lines[1] else cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _option(name: str, default: Any) -> str:
    return f"`{name}` (required)" if default is inspect.Parameter.empty else f"`{name}={json.dumps(to_json(default))}`"


def parts_table(parts: Mapping[str, Part]) -> str:
    """One row for each part of a registry: what it computes, its options with their defaults, its source."""
    cells = (
        (
            f"`{name}`",
            part.summary,
            ", ".join(_option(*item) for item in part.options.items()) or "none",
            part.source or "no paper",
        )
        for name, part in parts.items()
    )
    return rows("name", "what it computes", "options and their defaults", "source", cells=cells)


def norm_tables() -> str:
    """Two tables: norms of a token by itself, and norms whose statistics run over several tokens."""
    norms = hf_addnorm.norms()
    over_tokens = {name for name in norms if AddNormSpec.parse({"norm": name}).token_norms(1)}
    alone = {name: part for name, part in norms.items() if name not in over_tokens}
    together = {name: part for name, part in norms.items() if name in over_tokens}
    return (
        f"Norms of one token by itself:\n\n{parts_table(alone)}\n"
        f"Norms whose statistics run over several tokens:\n\n{parts_table(together)}"
    )


def preset_table() -> str:
    cells = (
        (f"[`{name}`](#{name})", f"`{preset.formula}`", preset.source) for name, preset in hf_addnorm.presets().items()
    )
    return rows("preset", "one sublayer", "source", cells=cells)


def _preset(name: str, preset: Preset) -> str:
    lines = [f"### {name}", "", "```", *preset.flow.splitlines(), "```", "", f"Formula: `{preset.formula}`", ""]
    lines += [f"Source: {preset.source}.", ""]
    lines += [f"Differs from `post_ln` in: `{json.dumps(preset.spec)}`", ""] if preset.spec else []
    official = f'With `"variant": "official"`, the form of the authors\' code: `{json.dumps(preset.official)}`'
    lines += [official, ""] if preset.official else []
    lines += [f"Note: {preset.note}", ""] if preset.note else []
    return "\n".join(lines)


def preset_pages() -> str:
    """Each preset with its drawing, its axes and its note."""
    return "\n" + "\n".join(_preset(name, preset) for name, preset in hf_addnorm.presets().items()) + "\n"


def catalogue_counts() -> str:
    count = Counter(row.status for row in hf_addnorm.catalogue())
    return (
        f"Of {count.total()} schemes {count['built']} are built under a name of their own and {count['expressible']} "
        f"are options of these;\n{count['open']} are open, {count['left out']} are left out.\n"
    )


def _where(where: tuple[Any, ...]) -> str:
    return ", ".join(f"`{item if isinstance(item, str) else json.dumps(item)}`" for item in where)


def built_table() -> str:
    found = [row for row in hf_addnorm.catalogue() if row.status in ("built", "expressible")]
    cells = ((f"`{row.id}`", row.axis, _where(row.where), row.source, row.reason) for row in found)
    return rows("scheme", "axis", "as `add_norm`, or by name", "source", "what it leaves out", cells=cells)


def missing_table() -> str:
    found = [row for row in hf_addnorm.catalogue() if row.status in ("open", "left out")]
    cells = ((f"`{row.id}`", row.axis, row.source, row.status, row.reason) for row in found)
    return rows("scheme", "axis", "source", "status", "reason", cells=cells)


def _stock_scheme(config_class: type[AddNormConfig]) -> str:
    """The stock scheme as `add_norm` says it, with what a config of the default size adds to the preset."""
    scheme = config_class().stock_add_norm()
    others = [key for key in scheme if key != "preset"]
    return f"`{scheme['preset']}`" + (f", with `{others[0]}`" if others else "")


def families_table() -> str:
    cells = []
    for config_class in family_configs().values():
        module = importlib.import_module(config_class.__module__.replace("configuration_", "modeling_"))
        beginning = config_class.__name__.removesuffix("Config")
        models = [name for name, value in vars(module).items() if is_model(value, module)]
        heads = [f"`{name.removeprefix(beginning)}`" for name in models if name != f"{beginning}Model"]
        title = (module.__doc__ or "").partition(" with another")[0]
        cells.append((title, f"`{config_class.__name__}`", ", ".join(heads), _stock_scheme(config_class)))
    return rows("family", "config", "heads, beside `Model`", "stock scheme", cells=cells)


def without_family() -> str:
    """The stock families that have no AddNorm version, by reason."""
    by_reason: dict[str, list[str]] = {}
    for model_type, reason in WITHOUT_FAMILY.items():
        by_reason.setdefault(reason, []).append(f"`{model_type}`")
    return rows("model type", "why", cells=[(", ".join(types), reason) for reason, types in by_reason.items()])


def is_model(value: object, module: ModuleType) -> bool:
    """Whether it is a model that a module defines and that a user would name."""
    defined = isinstance(value, type) and value.__module__ == module.__name__
    if not defined or not issubclass(value, PreTrainedModel) or value.__name__.endswith("PreTrainedModel"):
        return False
    # Transformers exports neither a stack of layers nor what is between that and a head
    return hasattr(transformers, value.__name__.removeprefix("AddNorm"))


# What an addition consists of: the file, and where in it the first and the last line are, or nothing for a whole file.
Added = tuple[str, str, str]

NORM: list[Added] = [
    ("hf_addnorm/models/norms/layer_norms.py", '@NORMS.register("center_norm")', "(self.hidden_size - 1))"),
    ("tests/norm_references.py", "def _center_norm", "return"),
    ("tests/norm_references.py", '"center_norm": Reference', ""),
    ("hf_addnorm/norm_schemes.py", '_norm.built("center_norm"', ""),
]
PRESET: list[Added] = [
    ("hf_addnorm/models/spec/presets.py", '"parallel": Preset(', "\n    ),"),
    ("tests/sublayer_references.py", "def parallel(", "return"),
    ("tests/encoder_references.py", '"parallel": EncoderReference', ""),
    ("hf_addnorm/layer_schemes.py", '_wiring.built(\n        "parallel"', "\n    ),"),
]
FAMILY: list[Added] = [
    ("hf_addnorm/models/families/configuration_addnorm_roberta.py", "", ""),
    ("hf_addnorm/models/families/modeling_addnorm_roberta.py", "", ""),
    ("hf_addnorm/__init__.py", "from .models.families.configuration_addnorm_roberta ", ""),
    ("hf_addnorm/__init__.py", "from .models.families.modeling_addnorm_roberta ", ""),
    ("tests/families.py", '"roberta": bert_shaped(', ""),
]


def _added(path: str, first: str, last: str) -> str:
    """The lines of a file from the one with `first` to the next one with `last`; without them all lines."""
    text = (DOCS.parent / path).read_text()
    if not first:
        return text
    begin, found = text.rindex("\n", 0, text.index(first)) + 1, text.index(first)
    end = text.index("\n", text.index(last, found) + len(last))
    return text[begin:end]


def diff(parts: list[Added]) -> str:
    """An addition as a diff; each file's name stands above what is added to it."""
    lines: list[str] = []
    for path, first, last in parts:
        lines.append(" ..." if f" # {path}" in lines else f" # {path}")
        lines += [f"+{line}".rstrip() for line in _added(path, first, last).splitlines()]
    return "\n".join(["```diff", *lines, "```"]) + "\n"


# by page, the parts that are made, by name
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "presets.md": {"presets": preset_table, "drawings": preset_pages},
    "families.md": {"families": families_table, "without": without_family},
    "catalogue.md": {"counts": catalogue_counts, "built": built_table, "missing": missing_table},
    "adding.md": {"norm": lambda: diff(NORM), "preset": lambda: diff(PRESET), "family": lambda: diff(FAMILY)},
    "spec.md": {
        "norms": norm_tables,
        "positions": lambda: parts_table(hf_addnorm.positions()),
        "residuals": lambda: parts_table(hf_addnorm.residuals()),
        "streams": lambda: parts_table(hf_addnorm.streams()),
        "wirings": lambda: parts_table(hf_addnorm.wirings()),
        "weights": lambda: parts_table(hf_addnorm.weights()),
        "inits": lambda: parts_table(hf_addnorm.inits()),
        "depth rules": lambda: parts_table(depth_rules()),
    },
}


def made(page: str) -> str:
    """The page's text with its parts made anew.

    Raises:
        ValueError: if the comments of a part are not on the page once.
    """
    text = (DOCS / page).read_text()
    for name, make in PARTS[page].items():
        marks = re.compile(rf"(<!-- {name}:.*?-->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = marks.subn(lambda match, make=make: match[1] + make() + match[2], text)
        if count != 1:
            raise ValueError(f"{page} has the comments of {name!r} {count} times; allowed is once.")
    return text


def main() -> None:
    for page in PARTS:
        path, text = DOCS / page, made(page)
        if "--check" not in sys.argv:
            write_whole(path, text)
        elif text != path.read_text():
            sys.exit(f"docs/{page} is not what the code says: run python docs/tables.py")


if __name__ == "__main__":
    main()
