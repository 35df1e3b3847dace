"""Whatever stock BERT passes in Transformers' own test suite, our models pass, too.

    pytest tests/conformance -m conformance

Fetches the source distribution of the installed Transformers with pip, once. Settings, from the environment:

    CONFORMANCE_PRESETS   names, separated by commas; by default those of SCHEMES
    CONFORMANCE_TESTS     a pytest -k expression over the suite's tests; by default all
    CONFORMANCE_REPORT    a markdown file to write the table to
    CONFORMANCE_CACHE     where the sources are kept; by default in the user's cache folder
    CONFORMANCE_JOBS      processes at the same time, 2 by default
"""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import transformers

import hf_addnorm
from hf_addnorm import presets


pytestmark = pytest.mark.conformance

SUITE = Path(__file__).with_name("stock_suite.py")

SCHEMES = {name: {"preset": name} for name in presets()}
# A quarter of the suite's two layers is none: half of them, so that both kinds of layer are there.
SCHEMES["mix_ln"]["layers"] = [{"first_fraction": 0.5, "attention": ["post"], "feed_forward": ["post"]}]

# Tests that cannot hold: {test: (presets, reason)}. One that passes after all fails the run.
EXCEPTIONS: dict[str, tuple[set[str], str]] = {}


def fetch_sources(cache: Path) -> list[Path]:
    """The folders to import the suite from: the package `stock_tests`, and what it needs beyond our own tests."""
    package = cache / f"transformers-{transformers.__version__}" / "stock_tests"
    if not package.exists():
        with tempfile.TemporaryDirectory() as folder:
            download = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
            pip(*download, f"transformers=={transformers.__version__}")
            unpacked = package.with_name(f"unpacking-{os.getpid()}")
            unpacked.mkdir(parents=True)
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                for member in archive:
                    path = Path(*Path(member.name).parts[1:])
                    if member.isfile() and path.parts[0] == "tests" and path.suffix in (".py", ".json"):
                        target = unpacked / path.relative_to("tests")
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(archive.extractfile(member).read())
        (unpacked / "__init__.py").touch()
        # in one step, so that a run that was cut off leaves nothing that looks complete
        unpacked.rename(package)
    if importlib.util.find_spec("parameterized"):
        return [package.parent]
    extra = cache / "extra"
    if not (extra / "parameterized").exists():
        pip("install", "--quiet", "--no-deps", "--target", str(extra), "parameterized")
    return [package.parent, extra]


def pip(*args: str) -> None:
    result = subprocess.run([sys.executable, "-m", "pip", *args], capture_output=True, text=True)
    if result.returncode:
        pytest.fail(f"pip {args[0]} failed (a package index is needed):\n{result.stderr}", pytrace=False)


def run_suite(scheme: dict | None, sources: list[Path], folder: Path) -> dict[str, dict]:
    """What became of every test of the suite with `scheme`; None is stock BERT."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    paths = [*sources, Path(hf_addnorm.__file__).parents[1]]
    environment = os.environ | {
        "CONFORMANCE_SCHEME": json.dumps(scheme),
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        # the same for both: nothing from the Hub, no options of the project's own test run
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RUN_TRAINING_TESTS": "1",
        "PYTEST_ADDOPTS": f"-c {folder}/pytest.ini --rootdir {folder} --noconftest -p no:cacheprovider",
        "PYTEST_PLUGINS": "",
    }
    results, tests = folder / "results.json", os.environ.get("CONFORMANCE_TESTS", "")
    run = subprocess.run(
        [sys.executable, str(SUITE), "--results", str(results), "-k", tests],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    (folder / "log.txt").write_text(run.stdout + run.stderr)
    if run.returncode:
        pytest.fail(f"the suite did not run with {scheme}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}", pytrace=False)
    return json.loads(results.read_text())


def differences(stock: dict[str, dict], ours: dict[str, dict]) -> dict[str, str]:
    """The tests that stock passes and ours does not, each with the first line of what happened."""
    found = {}
    for test, expected in stock.items():
        if expected["outcome"] != "passed":
            continue
        result = ours.get(test, {"outcome": "missing", "reason": "", "subtests_skipped": 0})
        if result["outcome"] != "passed":
            found[test] = f"{result['outcome']}: {result['reason'].partition(chr(10))[0]}"
        elif result["subtests_skipped"] > expected["subtests_skipped"]:
            found[test] = f"{result['subtests_skipped']} subtests skipped, with stock {expected['subtests_skipped']}"
    return found


def summary(stock: dict[str, dict], results: dict[str, dict[str, dict]]) -> str:
    """One row per preset, as a markdown table."""

    def count(result: dict[str, dict], outcome: str) -> int:
        return sum(test["outcome"] == outcome for test in result.values())

    rows = [
        f"transformers {transformers.__version__}; stock BERT: {count(stock, 'passed')} passed, "
        f"{count(stock, 'failed')} failed, {count(stock, 'skipped')} skipped.",
        "",
        "| preset | passed | failed | skipped | passed by stock BERT only |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        counts = " | ".join(str(count(result, outcome)) for outcome in ("passed", "failed", "skipped"))
        rows.append(f"| `{name}` | {counts} | {len(differences(stock, result))} |")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    cache = os.environ.get("CONFORMANCE_CACHE")
    user_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    sources = fetch_sources(Path(cache).absolute() if cache else user_cache / "hf_addnorm" / "conformance")
    folder = tmp_path_factory.mktemp("conformance")
    schemes = {"stock": None} | {name: SCHEMES[name] for name in CHOSEN}
    with ThreadPoolExecutor(int(os.environ.get("CONFORMANCE_JOBS", "2"))) as pool:
        runs = {name: pool.submit(run_suite, scheme, sources, folder / name) for name, scheme in schemes.items()}
        results = {name: run.result() for name, run in runs.items()}
    stock = results.pop("stock")
    table = summary(stock, results)
    plugins = request.config.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        plugins.getplugin("terminalreporter").write(f"\n\n{table}\nlogs: {folder}\n")
    if report := os.environ.get("CONFORMANCE_REPORT"):
        Path(report).write_text(table)
    return stock, results


CHOSEN = os.environ.get("CONFORMANCE_PRESETS", ",".join(SCHEMES)).split(",")


@pytest.mark.parametrize("preset", CHOSEN)
def test_passes_what_stock_bert_passes(outcomes, preset):
    stock, results = outcomes
    found = differences(stock, results[preset])
    expected = {test for test, (where, _) in EXCEPTIONS.items() if preset in where and test in stock}
    lines = [f"{test}: {what}" for test, what in found.items() if test not in expected]
    lines += [f"{test}: passes, so it is no exception any more" for test in expected - found.keys()]
    assert not lines, f"{preset} differs from stock BERT in\n" + "\n".join(lines)


def test_suite_ran(outcomes):
    stock, _ = outcomes
    passed = [test for test, result in stock.items() if result["outcome"] == "passed"]
    failed = {test: result["reason"] for test, result in stock.items() if result["outcome"] == "failed"}
    # 108 on 5.23; far fewer would mean that the suite was not found, and every comparison would hold
    assert os.environ.get("CONFORMANCE_TESTS") or len(passed) > 90
    assert not failed, failed
