"""Checks of a saved folder: what would not load from the Hub, and what would be dangerous there."""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import ModelCard

from ..models.base.protocols import JsonValue
from ..models.core.addnorm_config import CodeCarryingConfig, family_configs
from .card import CARD
from .input_kinds import INPUT_KINDS
from .known_code import known_code, releases_of
from .redaction import holds_token, redact


FRESH_PROCESS = Path(__file__).with_name("fresh_process.py")

# what Python's pickle, torch.save and their like are called
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}
# what Python runs or loads when it is imported
_CODE = {".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bat", ".exe"}
# files in which a token may have been left
_TEXTS = {".json", ".md", ".txt", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".py", ".jinja", ".log", ""}
_VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json")
# what tools keep beside a model, and never push
_NOT_OF_THE_MODEL = {".git", ".cache", "__pycache__", ".ipynb_checkpoints"}
# what prepares the inputs, and the files that say how
_PROCESSORS = {kind.processor: kind.files for kind in INPUT_KINDS.values()}
_LICENSES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
_TIMEOUT = 900


@dataclass(frozen=True)
class Finding:
    """Something about a folder that is wrong or could be better.

    Args:
        level (`str`): "error" where somebody cannot load the model, or a class that its config names, as it was saved,
            where the Hub would refuse it, or where it is dangerous; "warning" where something is merely advisable.
        where (`str`): a file, or what was tried.
        what (`str`): one sentence.
    """

    level: Literal["error", "warning"]
    where: str
    what: str


@dataclass
class Check:
    """The result of a check of a folder.

    Args:
        folder (`str`): the folder.
        findings (`list[Finding]`): what is wrong or could be better.
        loaded (`dict`): what a stranger could load, and the class that came of it.
        code (`dict`): the code files, and the releases that have exactly these.
    """

    folder: str
    findings: list[Finding] = field(default_factory=list)
    loaded: dict[str, str] = field(default_factory=dict)
    code: dict[str, list[str]] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """What breaks loading or is dangerous."""
        return [finding for finding in self.findings if finding.level == "error"]

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON form."""
        return {"ok": not self.errors, **asdict(self)}


def files_of(folder: Path) -> list[Path]:
    """Every file of a model's folder, without what tools keep there."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not _NOT_OF_THE_MODEL & set(path.relative_to(folder).parts)]


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or of a kind that may hold one: by its name, and by what it begins with."""
    if path.suffix.lower() in _PICKLES:
        return True
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if head == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return False


def check_folder(folder: str | os.PathLike[str], run_unknown_code: bool = False, load: bool = True) -> Check:
    """Check whether a saved model is safe, and loads for somebody who has only Transformers.

    Nothing in it is unpickled. Its code is run only if it is, to the last byte, that of a known release of this
    package; then a fresh process, in which the package cannot be imported, loads every class of its `auto_map`.

    Args:
        folder: where the model was saved.
        run_unknown_code (`bool`): run code that is not of a known release.
        load (`bool`): whether to load it; without, only the files are looked at.
    Raises:
        FileNotFoundError: if there is no such folder, or no config.json in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json.")
    check = Check(str(folder))
    for look in (_pickles, _code, _auto_map, _weights, _tokens, _card):
        check.findings += look(path, check)
    if not load:
        return check
    if not run_unknown_code and any(not releases for releases in check.code.values()):
        check.findings.append(
            Finding("error", "loading", "not tried, because it would run code of no known release of hf_addnorm.")
        )
    else:
        _visit(path, check)
    return check


def _pickles(folder: Path, check: Check) -> Iterator[Finding]:
    for path in files_of(folder):
        if is_pickle(path):
            name = str(path.relative_to(folder))
            yield Finding(
                "error", name, "can hold a pickle, which runs code where it is read; only safetensors are safe."
            )


def _code(folder: Path, check: Check) -> Iterator[Finding]:
    releases = known_code()
    for path in files_of(folder):
        if path.suffix.lower() not in _CODE:
            continue
        name = str(path.relative_to(folder))
        # a known file in another folder is not what the auto_map names
        found = releases_of(path, releases) if path.parent == folder else set()
        check.code[name] = sorted(found)
        if not found:
            known = ", ".join(releases)
            yield Finding("error", name, f"is not the code of a known release of hf_addnorm ({known}).")
    common = set.intersection(*(set(found) for found in check.code.values())) if check.code else {""}
    if not common and all(check.code.values()):
        yield Finding("warning", "*.py", "the code files are of different releases of hf_addnorm.")


def _read_json(path: Path) -> JsonValue:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def _auto_map(folder: Path, check: Check) -> Iterator[Finding]:
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        yield Finding("error", "config.json", "is not JSON, or cut short.")
        return
    kinds = {config_class.model_type: config_class for config_class in family_configs(CodeCarryingConfig)}
    ours = kinds.get(config.get("model_type", ""))
    auto_map = config.get("auto_map") or {}
    if ours is not None:
        missing = [name for name in ("AutoConfig", *ours.auto_classes) if name not in auto_map]
        if missing:
            yield Finding(
                "error", "config.json", f"its auto_map does not name {', '.join(missing)}: no stranger can load it."
            )
    for path in sorted(folder.glob("*config.json")):
        for auto, reference in ((_read_json(path) or {}).get("auto_map") or {}).items():
            for name in reference if isinstance(reference, list) else [reference]:
                yield from _reference(folder, path.name, auto, name)
    for path in sorted(folder.glob("*.py")):
        for name in re.findall(r"^\s*from\s+\.(\w+)\s+import", path.read_text(errors="replace"), re.MULTILINE):
            if not (folder / f"{name}.py").is_file():
                yield Finding("error", f"{name}.py", f"is not there, and {path.name} imports it.")


def _reference(folder: Path, where: str, auto: str, name: str | None) -> Iterator[Finding]:
    if name is None:
        return
    if "--" in name:
        yield Finding("error", where, f"{auto} takes its code from another repository, {name.split('--')[0]}.")
        return
    module, _, cls = name.rpartition(".")
    file = folder / f"{module}.py"
    if not file.is_file():
        yield Finding("error", f"{module}.py", f"is not there, and {auto} in {where} names it.")
    elif not re.search(rf"^class {re.escape(cls)}\b", file.read_text(errors="replace"), re.MULTILINE):
        yield Finding("error", f"{module}.py", f"has no class {cls}, which {auto} in {where} names.")


def _weights(folder: Path, check: Check) -> Iterator[Finding]:
    index = folder / "model.safetensors.index.json"
    content = _read_json(index) if index.is_file() else None
    if isinstance(content, dict):
        shards = sorted(set(content.get("weight_map", {}).values()))
        for shard in shards:
            if not (folder / shard).is_file():
                yield Finding("error", shard, f"is not there, and {index.name} names it.")
    elif not (folder / "model.safetensors").is_file():
        yield Finding("error", "model.safetensors", "is not there: nothing can be loaded without a pickle.")


def _tokens(folder: Path, check: Check) -> Iterator[Finding]:
    for path in files_of(folder):
        is_text = path.suffix.lower() in _TEXTS and path.stat().st_size < 2**24 and path.name not in _VOCABULARIES
        if is_text and holds_token(path.read_text(errors="replace")):
            name = str(path.relative_to(folder))
            yield Finding("error", name, "holds a token or a login: take it out and revoke it.")


def _card(folder: Path, check: Check) -> Iterator[Finding]:
    has_license = any((folder / name).is_file() for name in _LICENSES)
    path = folder / CARD
    if not path.is_file():
        yield Finding("warning", CARD, "is not there: the model has no card (hf-addnorm card writes one).")
    else:
        try:
            has_license = has_license or bool(ModelCard.load(path).data.license)
        except Exception as error:
            yield Finding("error", CARD, f"its front matter cannot be read: {' '.join(str(error).split())[:200]}")
    if not has_license:
        yield Finding("warning", CARD, "names no license, and there is no LICENSE file: nobody may use the model.")


def _visit(folder: Path, check: Check) -> None:
    """Load the folder in a fresh process that has no package, no network, no cache and no token."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary, "report.json")
        command = [sys.executable, "-P", str(FRESH_PROCESS), str(folder.resolve()), str(report)]
        try:
            result = subprocess.run(
                command,
                env=_environment(temporary),
                cwd=temporary,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            check.findings.append(Finding("error", "loading", f"was not done after {_TIMEOUT} s."))
            return
        if not report.is_file():
            lines = redact(result.stderr).strip().splitlines() or [f"the process ended with {result.returncode}"]
            check.findings.append(
                Finding("error", "loading", f"the process that loads it broke off: {lines[-1][:400]}")
            )
            return
        found = json.loads(report.read_text())
    check.loaded = found["loaded"]
    for name, reason in found["failed"].items():
        files = _PROCESSORS.get(name, ())
        if files and not any((folder / file).is_file() for file in files):
            what = f"finds nothing here ({', '.join(files)}): save what prepares the inputs beside the model."
            check.findings.append(Finding("warning", name, what))
        else:
            check.findings.append(Finding("error", name, redact(reason)))


def _environment(home: str) -> dict[str, str]:
    """What the process is told: nothing that is secret, and nowhere to fetch from."""
    secret = re.compile("TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not secret.search(name)}
    own = {"HF_HOME": home, "HF_MODULES_CACHE": str(Path(home, "modules")), "HF_TOKEN_PATH": str(Path(home, "none"))}
    return kept | own | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
