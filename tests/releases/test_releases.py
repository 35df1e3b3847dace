"""Folders that older releases saved load today, with the same outputs, by the package and by their own code.

An archive is made once for each release (make_release.py) and never changed.
"""

import os
import tarfile
from pathlib import Path

import forked_python
import pytest
import torch
import transformers
from families import slow_unless
from make_release import CASES, COMPOSITES, LATER, pack, save_all
from packaging.version import Version
from replay import REPLAY, Case, cases_in

import hf_addnorm
from hf_addnorm.hub.known_code import known_code, releases_of


HERE = Path(__file__).parent
ARCHIVES = {path.name.removesuffix(".tar.xz"): path for path in sorted(HERE.glob("*.tar.xz"))}
OLDEST = min(ARCHIVES, key=Version)
# (release, case) of every archive; every run has all of the oldest one, and of each later one what came with it
REPLAYED = [
    slow_unless(version == OLDEST or name in LATER.get(version, ()), version, name)
    for version in ARCHIVES
    for name in [*CASES, *COMPOSITES]
    if not any(name in cases and Version(version) < Version(since) for since, cases in LATER.items())
]


def _unpack(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", params=[slow_unless(version == OLDEST, version) for version in ARCHIVES])
def release(request, tmp_path_factory):
    """(version, folder) of an unpacked release."""
    return request.param, _unpack(ARCHIVES[request.param], tmp_path_factory.mktemp("release"))


def _replay(folder, home):
    """What `replay.py` says of a folder, where the package cannot be imported."""
    env = os.environ | {"HF_HOME": str(home / "home"), "HF_MODULES_CACHE": str(home / "modules")}
    env = {key: value for key, value in env.items() if key != "PYTHONPATH"}
    return forked_python.run([HERE / "replay.py", folder], env=env, cwd=home, timeout=600)


def test_every_release_but_this_version_has_its_folders():
    assert set(known_code()) - {hf_addnorm.__version__} <= set(ARCHIVES)
    assert "0.1.0" in ARCHIVES


@pytest.mark.parametrize(("release", "name"), REPLAYED, indirect=["release"])
def test_the_package_gives_the_outputs_of_the_release(release, name, tmp_path):
    version, folder = release
    case = Case.read(folder / name)
    model = case.load()
    assert type(model).__module__.startswith("hf_addnorm."), (version, type(model))
    case.check(model)
    model.save_pretrained(tmp_path)
    again = Case(tmp_path, case.auto, case.inputs, case.expected)
    back = again.load()
    again.check(back)
    assert type(back) is type(model)
    assert back.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in model.state_dict().items())


def test_its_own_code_gives_the_outputs_without_the_package(release, tmp_path):
    _, folder = release
    result = _replay(folder, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["replayed", str(len(list(folder.iterdir())))]


def test_its_code_is_known(release):
    version, folder = release
    if version == hf_addnorm.__version__:
        pytest.skip("the hashes of this version are those of its files today")
    files, releases = list(folder.rglob("*.py")), known_code()
    assert files
    for file in files:
        assert version in releases_of(file, releases), file


def test_a_changed_weight_is_seen(tmp_path):
    """A replay that accepts everything would show nothing."""
    case = Case.read(_unpack(ARCHIVES["0.1.0"], tmp_path) / "bert_altup")
    model = case.load()
    # the softmax does not see a shift of all keys
    values = {key: value for key, value in model.state_dict().items() if not key.endswith("key.bias")}
    for value in values.values():
        kept = value.clone()
        # each number in the place of the one before; one alone a little larger
        value.copy_(kept.flatten().roll(1).view_as(kept) if kept.numel() > 1 else kept + 0.01)
        with pytest.raises(AssertionError, match="bert_altup"):
            case.check(model)
        value.copy_(kept)
    case.check(model)


def test_this_version_can_make_its_folders(tmp_path):
    """The script for the next release, and the archive's format: packed, unpacked, replayed."""
    transformers.utils.logging.set_verbosity_error()
    save_all(tmp_path / "saved", ["bert_running_norms", "stack"])
    pack(tmp_path / "saved", tmp_path / "packed")
    folder = _unpack(tmp_path / "packed", tmp_path / "unpacked")
    assert [case.folder.name for case in cases_in(folder)] == ["bert_running_norms", "stack"]
    for file in (tmp_path / "saved").rglob("*"):
        assert file.is_dir() or (folder / file.relative_to(tmp_path / "saved")).read_bytes() == file.read_bytes()
    result = _replay(folder, tmp_path)
    assert (result.returncode, result.stdout) == (0, "replayed 2\n"), result.stderr[-3000:]
    # a folder without its weights is an error, not one case fewer
    (folder / "stack" / "model.safetensors").unlink()
    assert (folder / "stack" / REPLAY).exists() and _replay(folder, tmp_path).returncode == 1
