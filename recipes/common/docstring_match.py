"""A sentence-pair task from the running Python's own standard library: does this sentence describe this signature?

The sentence is the first one of a docstring, the signature is ``def Class.name(arguments)``. It needs no download, and
is the same on every machine with the same Python version.

How a label could be guessed without understanding, and what is done about it:

- every sentence and every signature stands once in a matching and once in a foreign pair, so neither says anything
  about the label on its own, and the labels are balanced exactly;
- a foreign signature comes from the same class where the class has another one, else from the same module, so the
  class name and the subject of the module do not give the answer away;
- a docstring that repeats its signature loses that part, and one that still quotes the function's name as code (as a
  call, or a name made of several words) is left out;
- a sentence or signature that occurs twice is taken once, and no module is in both splits.

What is left on purpose is the function's own name: `read` beside "Read all bytes" is the natural way to match.
Counting shared words is therefore better than chance; README.md gives the figure beside the model's.
"""

import ast
import random
import re
import sysconfig
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .errors import UserError


# fmt: off
TRAIN_MODULES = (
    "_collections_abc", "_pydecimal", "_pyio", "_strptime", "argparse", "ast", "asyncio", "base64", "bdb",
    "bisect", "bz2", "calendar", "cmd", "code", "codecs", "collections", "compileall", "concurrent",
    "configparser", "contextlib", "copy", "csv", "ctypes", "curses", "dataclasses", "datetime", "dbm", "difflib",
    "dis", "doctest", "email", "encodings", "enum", "filecmp", "fileinput", "fnmatch", "fractions", "ftplib",
    "functools", "genericpath", "getpass", "gettext", "glob", "gzip", "heapq", "hmac", "html", "importlib",
    "inspect", "linecache", "locale", "logging", "lzma", "mimetypes", "modulefinder", "multiprocessing", "netrc",
    "numbers", "operator", "optparse", "os", "pathlib", "pickle", "pickletools", "pkgutil", "platform", "plistlib",
    "poplib", "posixpath", "pprint", "pstats", "pyclbr", "pydoc", "queue",
)
VALIDATION_MODULES = (
    "http", "imaplib", "ipaddress", "json", "mailbox", "random", "re", "sched", "secrets", "selectors", "shelve",
    "shlex", "shutil", "site", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "statistics", "subprocess",
    "symtable", "tarfile", "tempfile", "textwrap", "threading", "timeit", "tokenize", "tomllib", "trace",
    "traceback",
)
# fmt: on

FEATURES = Features(
    {
        "sentence": Value("string"),
        "signature": Value("string"),
        "label": ClassLabel(names=["other", "describes"]),
        "module": Value("string"),
    }
)


def load() -> DatasetDict:
    """Build both splits. Columns: ``sentence``, ``signature``, ``label`` (1 = describes), ``module``."""
    seen: set[str] = set()
    return DatasetDict(
        {
            name: Dataset.from_list([row for m in modules for row in _module_pairs(m, seen)], features=FEATURES)
            for name, modules in (("train", TRAIN_MODULES), ("validation", VALIDATION_MODULES))
        }
    )


def _module_pairs(module: str, seen: set[str]) -> list[dict]:
    by_class: dict[str, list[tuple[str, str]]] = {}
    for path in _source_files(module):
        for owner, node in _functions(ast.parse(path.read_bytes())):
            sentence, signature = first_sentence(node), f"def {owner}{node.name}({ast.unparse(node.args)})"
            if sentence is None or {sentence.lower(), signature} & seen:
                continue
            seen |= {sentence.lower(), signature}
            by_class.setdefault(owner, []).append((sentence, signature))
    # Classes stay together and each row takes its neighbour's signature: most foreign pairs come from one class.
    found = []
    for functions in by_class.values():
        random.Random(module).shuffle(functions)
        found += functions
    if len(found) < 2:
        return []
    return [
        {"sentence": sentence, "signature": found[(i + shift) % len(found)][1], "label": label, "module": module}
        for i, (sentence, _) in enumerate(found)
        for shift, label in ((0, 1), (1, 0))
    ]


def _source_files(module: str) -> list[Path]:
    library = Path(sysconfig.get_paths()["stdlib"])
    if not any(library.glob("*.py")):
        raise UserError(f"builtin:docstring_match reads the standard library's sources, and {library} holds none")
    single = library / f"{module}.py"
    files = [single] if single.is_file() else sorted((library / module).rglob("*.py"))
    return [path for path in files if not {"test", "tests"} & set(path.relative_to(library).parts)]


def _functions(node: ast.AST, owner: str = ""):
    """Functions of a module and methods of its classes, public and private, not those inside a function."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{child.name}.")


def first_sentence(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """First sentence of the docstring, without a leading repeat of the signature; None if nothing usable is left."""
    text = ast.get_docstring(node) or ""
    # name(arguments) -> result, then punctuation, a line's end or a new sentence; C-style docstrings begin so.
    arguments, result = r"\((?:[^()]|\([^()]*\))*\)", r"(?:\s*->\s*[\w.\[\], ]+?)?"
    repeated = rf"(?:[\w.]+\.)?{re.escape(node.name)}\s*{arguments}{result}(?:\s*[-:.,]+\s+|\s*\n|\s+(?=[A-Z])|$)"
    text = re.sub(rf"^(?:{repeated}\s*)+", "", text).strip()
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split("\n\n")[0].split()))[0]
    # A plain word as a name may well occur in the sentence; a name of several words would give the pair away.
    compound = "_" in node.name.strip("_") or node.name.startswith("__") or re.search(r"[a-z][A-Z]", node.name)
    quoted = rf"\b{re.escape(node.name)}" + (r"\b" if compound else r"\(")
    if sentence.startswith(">>>") or re.search(quoted, sentence) or not 3 <= len(sentence.split()) <= 40:
        return None
    return sentence
