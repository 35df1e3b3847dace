"""Components that a user registered: their files travel with the checkpoints that use them."""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from .models.base.registries import DEPTH_RULES
from .models.base.registry import ComponentSpec, Registry
from .models.spec.components import COMPONENTS


PACKAGE = __name__.partition(".")[0]

# what follows the code of a configuration file in a checkpoint with components of a user's own
IMPORTS_OWN = "\n\n# components of the user's own, registered by being imported\n"


@dataclass(frozen=True)
class OwnComponent:
    """A component from outside this package that a config uses.

    Args:
        what (`str`): "norm", "residual", ...
        name (`str`): the registered name.
        factory: the class or function.
        travels (`bool`): whether its file is saved.
    """

    what: str
    name: str
    factory: Callable[..., object]
    travels: bool

    @property
    def module(self) -> str:
        """The module that defines it."""
        return str(self.factory.__module__)

    def source(self) -> Path:
        """Its file.

        Raises:
            ValueError: if it may not travel, or has no file of its own.
        """
        where = f"the {self.what} {self.name!r} is not part of {PACKAGE}, and the model would load nowhere without it"
        file = getattr(sys.modules.get(self.module), "__file__", None)
        if self.module == "__main__" or file is None:
            raise ValueError(
                f"{where}: it is defined in a script or a notebook. Move it to a file of its own, import that, and "
                f"register it there with register({self.name!r}, travels=True)."
            )
        if not self.travels:
            raise ValueError(
                f"{where}: register it with register({self.name!r}, travels=True), and its file {file} is saved with "
                "every checkpoint that uses it."
            )
        return Path(file)


def own_components(config: PreTrainedConfig) -> list[OwnComponent]:
    """The components of a config that come from outside this package."""
    used = set(_kinds(config))
    registries: list[Registry[Callable[..., object]]] = [
        DEPTH_RULES,
        *(registry for registry, _ in COMPONENTS.values()),
    ]
    return [
        OwnComponent(registry.what, name, factory, name in registry.travelling)
        for registry in registries
        for name, factory in registry.items()
        if name in used and factory.__module__.partition(".")[0] != PACKAGE
    ]


def own_files(config: PreTrainedConfig, taken: Iterable[str]) -> tuple[dict[str, str], str]:
    """The files of a config's own components, and the lines by which its configuration file imports them.

    Args:
        config (`PreTrainedConfig`): that of a family or a composite.
        taken (`list[str]`): the file names of the checkpoint's other code.
    Raises:
        ValueError: if one cannot travel; the sentence says what to do.
    """
    files: dict[str, str] = {}
    lines: list[str] = []
    for component in own_components(config):
        path = component.source()
        if path.name in taken:
            raise ValueError(f"{path}: a checkpoint has a file {path.name} of {PACKAGE}'s; give yours another name.")
        text = _flat(path)
        if files.setdefault(path.name, text) != text:
            raise ValueError(f"{path}: another file of yours that the model needs has this name; rename one.")
        lines.append(f"from .{path.stem} import {component.factory.__name__}\n")
    return files, IMPORTS_OWN + "".join(sorted(set(lines))) if lines else ""


def without_own_imports(text: str) -> str:
    """The text of a configuration file as a release has it, without the imports of a user's own components."""
    head, found, tail = text.partition(IMPORTS_OWN)
    return head if found and re.fullmatch(r"(from \.\w+ import \w+\n)+", tail) else text


def _kinds(value: object) -> Iterator[str]:
    """The names of all components in a config or a spec, also in the options of others."""
    if isinstance(value, ComponentSpec):
        yield value.kind
    if isinstance(value, PreTrainedConfig):
        yield from _kinds(list(vars(value).values()))
    elif isinstance(value, dict):
        yield from _kinds(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _kinds(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _kinds(getattr(value, field.name))


def _flat(path: Path) -> str:
    """A user's file as it stands in the flat folder of a checkpoint.

    Raises:
        ValueError: if it imports something of its own folder, or of this package but its components.
    """
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    rooms = _rooms_of_components()
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in sorted(imports, key=lambda node: node.lineno, reverse=True):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        ours = module.partition(".")[0] == PACKAGE
        if isinstance(node, ast.ImportFrom) and node.level == 0 and module == f"{PACKAGE}.components":
            new = _import_from_rooms(node, rooms)
            lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + line for line in new]
        elif ours or (isinstance(node, ast.ImportFrom) and node.level > 0):
            raise ValueError(
                f"{path}, line {node.lineno}: a file that travels with a checkpoint may import packages, and from "
                f"{PACKAGE}.components by `from {PACKAGE}.components import ...`, nothing else of {PACKAGE} or of its "
                "own folder."
            )
    return "".join(lines)


def _rooms_of_components() -> dict[str, str]:
    """The room of each name in components.py."""
    tree = ast.parse(Path(__file__).with_name("components.py").read_text())
    return {
        alias.name: str(node.module).split(".")[1]
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _import_from_rooms(node: ast.ImportFrom, rooms: dict[str, str]) -> list[str]:
    by_room: dict[str, list[str]] = {}
    for alias in node.names:
        name = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
        by_room.setdefault(rooms[alias.name], []).append(name)
    return [f"from .{room} import {', '.join(names)}\n" for room, names in sorted(by_room.items())]
