"""Settings of the whole suite: no network, one thread a worker, the same seed before every test."""

import gc
import json
import os
from pathlib import Path


# read when the libraries are imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_EVALUATE_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import forked_python
import pytest
import torch
import transformers
from families import MEMBERS
from hub_server import HubServer


torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

# what every run has of a family that shares the layers of another one; `families.py` chooses within these files
OF_MEMBERS = {
    "test_exactness.py",
    "test_exporting.py",
    "test_across_families.py",
    "test_family_layout.py",
    "test_hub_ready.py",
    "test_loading.py",
    "test_recipe_parts.py",
    "test_toy_family.py",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark slow what a member of a shape repeats of the family whose layers it has."""
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if given.get("family") in MEMBERS and item.path.name not in OF_MEMBERS:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """What was imported and collected stays; a collector of garbage that skips it makes a run a fifth shorter."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed_and_one_thread():
    torch.manual_seed(0)
    # a recipe that a test runs as a launcher does takes all cores, and leaves the worker so
    torch.set_num_threads(1)


@pytest.fixture
def hub():
    """A Hub in memory; `hub_server.py` says how to use it."""
    with HubServer() as server:
        yield server


@pytest.fixture
def load_with_package_hidden(tmp_path):
    """Load saved cases where hf_addnorm cannot be imported, and save them again: see `package_hidden.py`."""

    def load(cases: list[dict]) -> None:
        file = tmp_path / "cases.json"
        file.write_text(json.dumps(cases))
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
        done = forked_python.run([Path(__file__).with_name("package_hidden.py"), file], env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.split() == ["checked", str(len(cases))]
        assert "computes another function" not in done.stderr

    return load


@pytest.fixture
def padded():
    """[batch, seq, 5] in float64, and which tokens are real."""
    x = torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 2
    real = torch.ones(3, 7, dtype=torch.bool)
    real[0, 4:], real[1, :2] = False, False
    return x, real
