"""The tables of keys in recipes/README.md, from the scripts' config classes.

python recipes/keys_table.py          # writes the tables anew
python recipes/keys_table.py --check  # says whether they are those of the scripts
"""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path

from common.config import RunConfig
from docstring_parser import parse

from hf_addnorm.models.base.whole_file import write_whole


FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
BLOCK = re.compile(r"(<!-- keys:.*?-->\n).*?(<!-- end keys -->)", re.DOTALL)


def config_class(script: str) -> type[RunConfig] | None:
    """The class of a training script's keys; None where the script is none."""
    module = importlib.import_module(script)
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == script]
    return next((kind for kind in own if issubclass(kind, RunConfig)), None)


def scripts() -> dict[str, type[RunConfig]]:
    """The training scripts by name, with the class of their keys."""
    found = {path.stem: config_class(path.stem) for path in sorted(FOLDER.glob("*.py"))}
    return {name: kind for name, kind in found.items() if kind is not None}


def table(keys: type, known: set[str]) -> str:
    """A row per key, as markdown, without the ``known`` ones."""
    described = {row.arg_name: " ".join(row.description.split()) for row in parse(keys.__doc__).params}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key in dataclasses.fields(keys):
        if key.name in known:
            continue
        if key.default_factory is not dataclasses.MISSING:
            default = f"`{json.dumps(key.default_factory())}`"
        elif key.default is dataclasses.MISSING:
            default = "required"
        else:
            default = (
                ""
                if key.default is None
                else f"`{str(key.default).lower() if key.default is True or key.default is False else key.default}`"
            )
        lines.append(f"| `{key.name}` | {default} | {described[key.name].replace('``', '`')} |")
    return "\n".join(lines) + "\n"


def tables() -> str:
    """All tables: first what all scripts have."""
    shared = {key.name for key in dataclasses.fields(RunConfig)}
    parts = ["Of all training scripts:\n\n" + table(RunConfig, set())]
    # a script that sets another default of a shared key shows it among its own
    for name, keys in scripts().items():
        same = {
            key.name
            for key in dataclasses.fields(keys)
            if key.name in shared and key.default == RunConfig.__dataclass_fields__[key.name].default
        }
        parts.append(f"Of `{name}.py`:\n\n" + table(keys, same))
    return "\n".join(parts)


def main() -> None:
    text = README.read_text()
    new = BLOCK.sub(lambda block: block[1] + tables() + block[2], text)
    if "--check" not in sys.argv:
        write_whole(README, new)
    elif new != text:
        sys.exit("the tables of keys are not those of the scripts: run python recipes/keys_table.py")


if __name__ == "__main__":
    main()
