"""Whether every test of an earlier revision is still there, in every run or under `slow`.

python tests/kept_tests.py REVISION says which are missing, and exits with 1 if any is. That of a renamed test is among
RENAMED.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]

# what an earlier test is called, and how one that now proves the same begins
RENAMED = [
    # one test for each family, and one for each scheme
    (
        r"(tests/test_hub_ready\.py::test_every_model_loads_as_a_stranger_and_saves_again)$",
        r"\1[bert]",
    ),
    (r"(tests/test_cost\.py::test_every_scheme_is_counted)\[(\w+)\]$", r"\1[\2-post_ln]"),
    # the README's parts are pages
    (
        r"tests/test_cli\.py::test_the_docs_name_commands_that",
        r"tests/test_cli.py::test_the_docs_name_the_commands_that",
    ),
    (r"(tests/test_docs\.py::test_a_table_is_the_codes\[\w+)\]", r"\1.md]"),
    (
        r"tests/test_docs\.py::test_commands_and_links_name_what_exists",
        "tests/test_docs.py::test_links_lead_somewhere",
    ),
    (r"tests/test_docs\.py::test_the_axes_table_names", "tests/test_docs.py::test_every_axis_has_a_heading"),
    (r"tests/test_docs\.py::test_python_blocks_run", "tests/test_docs_python.py::test_python_blocks_run"),
    (r"(tests/recipes/test_results\.py::)test_the_readmes_part_on_depth", r"\1test_the_page_on_depth"),
    (r"(tests/recipes/test_results\.py::test_the_tables_of_results_are_those_of_the_files\[)", r"\1"),
    # the names of the norms are in another order
    (r"(tests/test_spec_refusals\.py::test_is_refused_in_words\[.*?-\[).*", r"\1"),
]


def collected(folder: Path) -> set[str]:
    """The ids of the tests in a checkout, the slow ones too."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not conformance"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})
    if found.returncode:
        sys.exit(found.stdout[-3000:] + found.stderr)
    return {line for line in found.stdout.splitlines() if "::" in line}


def missing(before: set[str], after: set[str]) -> list[str]:
    """The tests that are gone, by their ids."""
    gone = []
    for name in sorted(before - after):
        new = [re.sub(f"{pattern}.*", start, name) for pattern, start in RENAMED if re.match(pattern, name)]
        if not any(other.startswith(start) for start in new for other in after):
            gone.append(name)
    return gone


def main(revision: str) -> int:
    """The exit code."""
    with tempfile.TemporaryDirectory() as folder:
        # some tests are called by the folder's name
        earlier = Path(folder, ROOT.name)
        earlier.mkdir()
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x"], cwd=earlier, input=archive, check=True)
        before, after = collected(earlier), collected(ROOT)
    gone = missing(before, after)
    sys.stdout.writelines(f"{name}\n" for name in gone)
    sys.stdout.write(f"{len(before)} tests in {revision}, {len(after)} now; {len(gone)} are missing\n")
    return bool(gone)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
