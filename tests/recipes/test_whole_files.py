"""A file that is written is never half there: a write that breaks off leaves the old one, and nothing beside it."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import sweep_report
from common.files import whole_folder, write_json, write_table
from families import FAMILIES
from safetensors import SafetensorError

from hf_addnorm import AddNormBertConfig, AddNormBertModel
from hf_addnorm.hub import write_card
from hf_addnorm.models.base.whole_file import PARTIAL, whole_file, write_whole


OLD = b"old"
ROWS = {"text": ["a film"] * 999, "label": list(range(999))}
SWEEP = {"config": {"recipe": "finetune_text", "add_norms": {"pre_ln": {}}}, "runs": [], "missing": []}


def _model(vocab_size=50_000):
    return AddNormBertModel(AddNormBertConfig(**FAMILIES["bert"].tiny | {"vocab_size": vocab_size}))


# what writes into a folder, and how many bytes of a file the disk takes before it is full
WRITES = {
    "config.json": (lambda folder: AddNormBertConfig().to_json_file(folder / "config.json"), 100),
    "code": (lambda folder: AddNormBertConfig().save_code(folder), 100),
    "weights": (lambda folder: _model().save_pretrained(folder), 1_000_000),
    "text": (lambda folder: write_whole(folder / "page.md", "new" * 100), 100),
    "result": (lambda folder: write_json(folder / "result.json", {"metrics": [1.0] * 100}), 100),
    "csv": (lambda folder: write_table(folder / "rows.csv", ROWS), 100),
    "parquet": (lambda folder: write_table(folder / "rows.parquet", ROWS), 100),
    "jsonl": (lambda folder: write_table(folder / "rows.jsonl", ROWS), 100),
    "figure": (lambda folder: sweep_report.draw(SWEEP, folder / "losses.png"), 100),
}


@pytest.fixture
def full_disk():
    """Sets how many bytes a file may have; more is an error of the system in the middle of a write."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# the writer of parquet closes a second time when it is collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_leaves_the_old_file(name, full_disk, tmp_path):
    write, size = WRITES[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder)
    names = _contents(folder).keys()
    large = [file for file in names if (folder / file).stat().st_size > size]
    assert large and not any(file.endswith(PARTIAL) for file in names)
    for file in large:
        (folder / file).write_bytes(OLD)
    full_disk(size)
    with pytest.raises((OSError, SafetensorError)):
        write(folder)
    full_disk(resource.RLIM_INFINITY)
    assert _contents(folder).keys() == names
    assert {file: (folder / file).read_bytes() for file in large} == dict.fromkeys(large, OLD)


def test_a_card_that_cannot_be_written(full_disk, tmp_path):
    _model(50).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes(OLD)
    names = _contents(tmp_path).keys()
    full_disk(100)
    with pytest.raises(OSError, match=r"File too large: '.*/README\.md'") as failed:
        write_card(tmp_path)
    full_disk(resource.RLIM_INFINITY)
    assert failed.value.errno == errno.EFBIG
    assert _contents(tmp_path).keys() == names and (tmp_path / "README.md").read_bytes() == OLD


def test_no_space_is_said_of_the_file_that_was_meant(tmp_path):
    file = tmp_path / "result.json"
    file.write_bytes(OLD)

    def write():
        with whole_file(file) as partial:
            partial.write_text("half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '.*/result\.json'"):
        write()
    assert _contents(tmp_path) == {"result.json": OLD}


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path):
    file = tmp_path / "page.md"
    file.write_bytes(OLD)
    # the file alone: the package takes seconds to import
    source = sys.modules[whole_file.__wrapped__.__module__].__file__
    script = (
        f"import runpy, time\nwhole_file = runpy.run_path({source!r})['whole_file']\n"
        "with whole_file('page.md') as partial:\n    partial.write_text('half')\n    print('now', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"now\n"
        process.kill()
    assert file.read_bytes() == OLD
    (left,) = _contents(tmp_path).keys() - {"page.md"}
    # which a push leaves out
    assert left.endswith(PARTIAL)


def test_a_link_and_the_permissions_stay(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(OLD)
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, "new")
    assert link.is_symlink() and file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_folder_is_whole(tmp_path):
    folder = tmp_path / "model"

    def write(text, fails=False):
        with whole_folder(folder) as partial:
            partial.mkdir()
            (partial / "file").write_text(text)
            if fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write("old")
    with pytest.raises(OSError, match="No space left"):
        write("new", fails=True)
    assert (folder / "file").read_text() == "old"
    write("new")
    assert (folder / "file").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["model"]
