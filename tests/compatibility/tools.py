"""The table of tools in docs/compatibility.md, made from the rows of `tool_rows.py` and from recorded test results.

Usage: python tests/compatibility/tools.py NAME [PYTEST_ARGUMENTS] runs the tests of the rows and writes what ran to
`tools/NAME.json`; with `--of WORD`, those with the word in their name. Several environments may each run a part: for a
test, the record counts in which the most of its cases passed. `python tests/compatibility/page.py` writes the page.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from tool_rows import ROWS, Row


HERE = Path(__file__).parent
RECORDS = HERE / "tools"
TESTS = HERE.parent
OUTCOMES = ("passed", "failed", "skipped", "xfailed")

HEAD = """
## Tools

What was tried with each tool, by tests that run the real library. A cell says what the recorded tests showed; the last
column names them, with the number of cases that passed. `make tools` runs them where the extras `tools` and `trackers`
are installed, which the other tests do without.

"""


class Results:
    """A pytest plugin: the outcome of every case of every test function, and why one was skipped."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A case counts once: in its call, or where it was skipped or failed before or after it."""
        if report.when != "call" and report.outcome == "passed":
            return
        name, _, case = report.nodeid.removeprefix("tests/").removesuffix("]").partition("[")
        expected = hasattr(report, "wasxfail") and report.outcome == "skipped"
        self._note(name, case, "xfailed" if expected else report.outcome, report)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that is skipped as a whole."""
        if report.outcome == "skipped":
            file = report.nodeid.removeprefix("tests/")
            for name in (name for name in named_tests() if name.startswith(f"{file}::")):
                self._note(name, "", "skipped", report)

    def _note(self, name: str, case: str, outcome: str, report: Any) -> None:
        noted = self.tests.setdefault(name, {"cases": {}})
        noted["cases"][case] = outcome
        if outcome == "skipped":
            noted["reason"] = report.longrepr[2].removeprefix("Skipped: ")


def merged(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Two records of one environment: of a case that ran in both, the later one counts."""
    both = {}
    for test in sorted({*before, *after}):
        old, new = before.get(test, {"cases": {}}), after.get(test, {"cases": {}})
        cases = old["cases"] | new["cases"]
        # where all of a file was skipped, and later was not
        if len(cases) > 1 and cases.get("") == "skipped":
            del cases[""]
        both[test] = old | new | {"cases": dict(sorted(cases.items()))}
    return both


def named_tests() -> list[str]:
    """Every test that a row names, once."""
    return list(dict.fromkeys(test for row in ROWS for test in row.tests))


def records() -> dict[str, dict[str, Any]]:
    """What ran, by the name of the environment."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))}


def counts(noted: dict[str, Any]) -> dict[str, int]:
    """How many cases had each outcome."""
    return {outcome: list(noted["cases"].values()).count(outcome) for outcome in OUTCOMES}


def best(test: str, ran: dict[str, dict[str, Any]]) -> tuple[str, dict[str, int], str] | None:
    """Where the most cases of a test passed, the outcomes there, why any was skipped; None if it never ran.

    A record with a failure comes first, so that no other one hides it.
    """
    found = [
        (name, counts(noted), noted.get("reason", ""))
        for name, record in ran.items()
        if (noted := record["tests"].get(test)) is not None
    ]
    return max(found, key=lambda entry: (entry[1]["failed"], entry[1]["passed"])) if found else None


def result(row: Row, ran: dict[str, dict[str, Any]]) -> str:
    """The cell of a row: what its tests showed, or why there are none."""
    if row.untried:
        return f"not tried: {row.untried}"
    outcomes = [found for test in row.tests if (found := best(test, ran)) is not None]
    if len(outcomes) < len(row.tests) or any(count["failed"] for _, count, _ in outcomes):
        return ""
    if not any(count["passed"] for _, count, _ in outcomes):
        return f"not tried: {outcomes[0][2]}"
    if row.refused:
        return f"does not work: {row.refused}"
    return f"works; {row.note}" if row.note else "works"


def table() -> str:
    """The section of the page."""
    ran = records()
    lines = ["| tool | version | what | result | tests |", "|---|---|---|---|---|"]
    before = ""
    for row in ROWS:
        cells = (row.tool if row.tool != before else "", _version_of(row, ran), row.what, result(row, ran))
        lines.append("| " + " | ".join((*cells, "<br>".join(_shown(row, ran)) or "none")) + " |")
        before = row.tool
    ends = [
        f"- `{name}`: {record['date']}, {record['machine']}, Python {record['python']}" for name, record in ran.items()
    ]
    return (
        HEAD
        + "\n".join(lines)
        + "\n\nRecorded in these environments (`tests/compatibility/tools/`):\n\n"
        + "\n".join(ends)
        + "\n"
    )


def _version_of(row: Row, ran: dict[str, dict[str, Any]]) -> str:
    """That of the environment in which the row's first test did best; of a row without tests, any that there is."""
    found = best(row.tests[0], ran) if row.tests else None
    names = [found[0]] if found is not None else list(ran)
    versions = [ran[name]["versions"].get(row.package) for name in names]
    return next(filter(None, versions), "none")


def _shown(row: Row, ran: dict[str, dict[str, Any]]) -> Iterator[str]:
    for test in row.tests:
        file, _, name = test.partition("::")
        found = best(test, ran)
        yield f"[`{name.removeprefix('test_')}`](../tests/{file}) {found[1]['passed'] if found else 0}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Run the tests, and write or complete the record."""
    # the module of that name in this folder, not this script
    from run import processor

    name, *arguments = sys.argv[1:]
    words = [arguments.pop(arguments.index("--of") + 1)] if "--of" in arguments else [""]
    arguments = [argument for argument in arguments if argument != "--of"]
    chosen = [test for test in named_tests() if any(word in test for word in words)]
    results = Results()
    code = pytest.main(
        [*arguments, "-p", "no:cacheprovider", *(f"tests/{test}" for test in chosen)], plugins=[results]
    )
    file = RECORDS / f"{name}.json"
    before = json.loads(file.read_text())["tests"] if file.exists() else {}
    packages = sorted({row.package for row in ROWS} | {"torch", "transformers"})
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores of {processor()}",
        "python": platform.python_version(),
        "versions": {package: found for package in packages if (found := _version(package))},
    }
    RECORDS.mkdir(exist_ok=True)
    file.write_text(written(content, merged(before, results.tests)))
    return int(code)


def written(content: dict[str, Any], tests: dict[str, dict[str, Any]]) -> str:
    """A record as JSON, with a line for each test."""
    lines = ",\n".join(f"  {json.dumps(test)}: {json.dumps(noted)}" for test, noted in tests.items())
    return json.dumps(content, indent=1).removesuffix("\n}") + f',\n "tests": {{\n{lines}\n }}\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
