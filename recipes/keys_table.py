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


FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
BLOCK = re.compile(r"(<!-- keys:.*?-->\n).*?(<!-- end keys -->)", re.DOTALL)


def scripts() -> dict[str, type[RunConfig]]:
    """The training scripts by name, with the class of their keys."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(path.stem)
        own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == path.stem]
        if configs := [kind for kind in own if issubclass(kind, RunConfig)]:
            found[path.stem] = configs[0]
    return found


def table(config_class: type, known: set[str]) -> str:
    """A row per key, as markdown, without the ``known`` ones."""
    described = {row.arg_name: " ".join(row.description.split()) for row in parse(config_class.__doc__).params}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key in dataclasses.fields(config_class):
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
    for name, config_class in scripts().items():
        same = {
            key.name
            for key in dataclasses.fields(config_class)
            if key.name in shared and key.default == RunConfig.__dataclass_fields__[key.name].default
        }
        parts.append(f"Of `{name}.py`:\n\n" + table(config_class, same))
    return "\n".join(parts)


def main() -> None:
    text = README.read_text()
    new = BLOCK.sub(lambda block: block[1] + tables() + block[2], text)
    if "--check" not in sys.argv:
        README.write_text(new)
    elif new != text:
        sys.exit("the tables of keys are not those of the scripts: run python recipes/keys_table.py")


if __name__ == "__main__":
    main()
