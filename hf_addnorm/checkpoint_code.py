"""The code of a saved checkpoint: flat files, made of the rooms in `hf_addnorm/models`.

Transformers loads the code of a checkpoint from one flat folder, file by file over the network. So a room of shared
machinery becomes one file there (`norms/` is `norms.py`), and in the files of families and composites only the imports
change: `from ..norms.rms_norms import RMSNorm` is `from .norms import RMSNorm`.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from .models.core.addnorm_config import CodeCarryingConfig, family_class
from .own_components import PACKAGE, own_files


MODELS = Path(__file__).with_name("models")

# the rooms that are one file in a checkpoint
MACHINERY = ("base", "norms", "residuals", "streams", "weights", "spec", "core")
# those whose files stay as they are
SEPARATE = ("families", "composites")
# the file that imports the families of a composite's parts, each in a section of its own
PART_FAMILIES = "part_families"

_IMPORT_FROM_ROOM = re.compile(r"^(\s*from )\.\.(\w+)\.(\w+)( import )", re.MULTILINE)
# the same in a file outside this package
_FROM_PACKAGE = re.compile(rf"^(\s*from ){PACKAGE}\.models\.", re.MULTILINE)
_RELATIVE_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)
# what several files of a room may each have for themselves
_OF_EACH_FILE = {"logger", "__all__"}


def separate_files() -> dict[str, Path]:
    """The files of families and composites by their name in a checkpoint, without `.py`."""
    return {path.stem: path for room in SEPARATE for path in _files_of(room)}


def flat_file(name: str, part_types: Collection[str] | None = None) -> str:
    """The text of one file of a checkpoint, by its name without `.py`.

    Args:
        name: the file.
        part_types: the model types whose sections the table of part families keeps; all of them by default.
    Raises:
        KeyError: if a checkpoint has no such file.
    """
    if name in MACHINERY:
        return _room_as_one_file(name)
    text = _flat_imports(separate_files()[name].read_text())
    return text if name != PART_FAMILIES or part_types is None else _with_part_types(text, part_types)


def flat_files(names: Iterable[str], part_types: Collection[str] | None = None) -> dict[str, str]:
    """The files of a checkpoint, by file name: those of `names`, and whatever they import from each other.

    Args:
        names: of families' or composites' files, without `.py`.
        part_types: as in `flat_file`.
    """
    found: dict[str, str] = {}
    missing = list(names)
    while missing:
        name = missing.pop()
        if f"{name}.py" not in found:
            text = found[f"{name}.py"] = flat_file(name, part_types)
            missing += _RELATIVE_IMPORT.findall(text)
    return dict(sorted(found.items()))


def code_files(config: CodeCarryingConfig) -> dict[str, str]:
    """The files of a config's code and that of its models, by file name.

    Args:
        config: that of a family or a composite; of a class that a user derived from one, the code is that of ours.
    Raises:
        ValueError: if a component of the user's own cannot travel.
    """
    cls = family_class(config)
    configuration = cls.__module__.rpartition(".")[2]
    modeling = configuration.replace("configuration_", "modeling_")
    if cls.__module__.startswith(f"{PACKAGE}."):
        files = flat_files([configuration, modeling], config.part_types())
    else:
        files = _files_of_own_family(cls)
    own, imports = own_files(config, files)
    return {**files, f"{configuration}.py": files[f"{configuration}.py"] + imports, **own}


def _files_of_own_family(cls: type[CodeCarryingConfig]) -> dict[str, str]:
    """The files of a family that a user registered: its two files, and ours that they import."""
    path = Path(str(sys.modules[cls.__module__].__file__))
    paths = [path, path.with_name(path.name.replace("configuration_", "modeling_"))]
    own = {path.name: _flat_imports(_FROM_PACKAGE.sub(r"\1..", path.read_text())) for path in paths}
    imported = {name for text in own.values() for name in _RELATIVE_IMPORT.findall(text)}
    return flat_files(name for name in imported if f"{name}.py" not in own) | own


def all_flat_files() -> dict[str, str]:
    """Every file that a checkpoint may have, by file name."""
    return {f"{name}.py": flat_file(name) for name in sorted([*MACHINERY, *separate_files()])}


def _files_of(room: str) -> list[Path]:
    return [path for path in sorted((MODELS / room).glob("*.py")) if path.name != "__init__.py"]


def _flat_imports(text: str) -> str:
    """`text` with imports from other rooms as a flat folder has them."""
    return _IMPORT_FROM_ROOM.sub(lambda match: f"{match[1]}.{_flat_name(match[2], match[3])}{match[4]}", text)


def sections(text: str) -> list[str]:
    """The parts of a file between two blank lines."""
    return text.strip("\n").split("\n\n\n")


def _with_part_types(text: str, part_types: Collection[str]) -> str:
    """The file of part families without the sections of families that a model is not made of."""
    head = re.compile(r'@part_family\("(\w+)"\)')
    found = [(section, head.match(section)) for section in sections(text)]
    return "\n\n\n".join(section for section, match in found if match is None or match[1] in part_types) + "\n"


def _flat_name(room: str, module: str) -> str:
    return room if room in MACHINERY else module


@cache
def _room_as_one_file(room: str) -> str:
    sources = {path.stem: _Source(path) for path in _files_of(room)}
    _refuse_clashes(room, sources)
    # sorted: the order of a set differs from process to process, and the file must not
    order = TopologicalSorter({name: sorted(source.neighbours) for name, source in sources.items()}).static_order()
    body = "\n\n\n".join(sources[name].as_section() for name in order)
    docstring = _docstring(MODELS / room / "__init__.py")
    head = f'"""{docstring.rstrip()}\n"""' if "\n" in docstring else f'"""{docstring}"""'
    imports = _merged_imports(line for source in sources.values() for line in source.outer_imports)
    return f"{head}\n\n{imports}\n\n\n{body}\n"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""


class _Source:
    """One file of a room, taken apart: its imports, and the rest.

    Args:
        path (`Path`): the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines = path.read_text().splitlines()
        self.tree = ast.parse("\n".join(self.lines))
        self.imports = [node for node in self.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]

    @property
    def neighbours(self) -> set[str]:
        """The files of the same room that it imports."""
        return {str(node.module) for node in self.imports if isinstance(node, ast.ImportFrom) and node.level == 1}

    @property
    def outer_imports(self) -> list[str]:
        """Its other imports, each as one line for the flat folder."""
        return [
            _flat_imports(ast.unparse(node))
            for node in self.imports
            if not (isinstance(node, ast.ImportFrom) and node.level == 1)
        ]

    def names(self) -> Iterator[str]:
        """What it binds at its top level."""
        for node in self.tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                yield node.name
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))

    def as_section(self) -> str:
        """The file without docstring, imports and `__all__`, under its name."""
        dropped = set()
        for node in self.tree.body:
            is_docstring = node is self.tree.body[0] and isinstance(node, ast.Expr)
            is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            if is_docstring or is_all or node in self.imports:
                dropped |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
        kept = "\n".join(line for index, line in enumerate(self.lines) if index not in dropped)
        about = (ast.get_docstring(self.tree) or "").split("\n", 1)[0]
        return f"# From {self.path.name}. {about}\n\n\n{kept.strip()}"


def _refuse_clashes(room: str, sources: dict[str, _Source]) -> None:
    """Refuse a name that two files of a room give to different things."""
    owners: dict[str, str] = {}
    for file, source in sources.items():
        for name in set(source.names()) - _OF_EACH_FILE:
            if name in owners:
                raise ValueError(
                    f"models/{room}: {owners[name]}.py and {file}.py both define {name!r}, and they are one file in a "
                    "checkpoint; rename one."
                )
            owners[name] = file


def _merged_imports(lines: Iterable[str]) -> str:
    """Import statements with those from one module joined: packages first, then the checkpoint's own files."""
    whole: set[str] = set()
    names: dict[str, set[str]] = {}
    for line in lines:
        if match := re.fullmatch(r"from (\S+) import (.+)", line):
            names.setdefault(match[1], set()).update(match[2].split(", "))
        else:
            whole.add(line)
    own = [_import_line(module, names[module]) for module in sorted(names) if module.startswith(".")]
    packages = [_import_line(module, names[module]) for module in sorted(names) if not module.startswith(".")]
    return "\n\n".join("\n".join(block) for block in ([*sorted(whole), *packages], own) if block)


def _import_line(module: str, names: set[str]) -> str:
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= 119:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in sorted(names)) + ")"
