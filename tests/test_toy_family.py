"""A family outside the package, in a package of its own: the generated suites run on it as on those of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


TESTS = Path(__file__).parent
TOY = TESTS / "toy_family"
# what a family must pass: the stock model by default, other specs that learn, load and save, alone and as remote code
ESSENTIAL = ["test_exactness.py", "test_hub_ready.py", "test_training.py"]
ALL = [f"test_{name}.py" for name in ("cards", "cost", "depth_and_init", "growth", "integration", "loading")]
ALL += [f"test_{name}.py" for name in ("refusals", "streams")]
ALL += [f"test_{name}.py" for name in ("tokens_of_families", "training", "vocabulary")]


def _run(folder, suites, marks):
    """The generated tests of the toy family, which lies in `folder`, in a process of its own."""
    shutil.copytree(TOY, folder / TOY.name, ignore=shutil.ignore_patterns("__pycache__"))
    files = [str(TESTS / suite) for suite in suites]
    paths = [str(folder), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *files, "-k", "toy", "-m", marks, "-n", "0", "-q", "-p", "no:cacheprovider"],
        env=os.environ | {"MORE_FAMILIES": f"{TOY.name}.rows", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def _passed(result):
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    return int(re.search(r"(\d+) passed", result.stdout)[1])


def test_the_essential_suites_pass(tmp_path):
    assert _passed(_run(tmp_path, ESSENTIAL, "not slow and not conformance")) >= 52


@pytest.mark.slow
def test_all_generated_suites_pass(tmp_path):
    assert _passed(_run(tmp_path, ALL, "not conformance")) >= 300


@pytest.mark.parametrize(
    "family", ["roberta", "xlm_roberta", "camembert", "electra", "ernie", "data2vec_text", "roc_bert", "layoutlm"]
)
def test_a_family_of_berts_shape_is_short(family):
    folder = TESTS.parent / "hf_addnorm/models/families"
    # ELECTRA says how wide its embeddings are
    for kind, lines in (("configuration", 40 if family == "electra" else 35), ("modeling", 60)):
        assert len((folder / f"{kind}_addnorm_{family}.py").read_text().splitlines()) <= lines
