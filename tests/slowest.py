"""Writes the list of the slowest tests into CONTRIBUTING.md.

make test ARGS="--junitxml suite.xml" && python tests/slowest.py suite.xml "2 cores of an AMD EPYC"
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


CONTRIBUTING = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
HEADING = "### The slowest tests"
COUNT = 30


def table(path: str, machine: str) -> str:
    """The section, as markdown: the tests that took longest, and how long all of them took."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    cases = sorted(suite.iter("testcase"), key=lambda case: -float(case.attrib["time"]))
    lines = [
        HEADING,
        "",
        f"{suite.attrib['timestamp'][:10]}, {machine}: {suite.attrib['tests']} tests in "
        f"{float(suite.attrib['time']):.0f} seconds. Written by `python tests/slowest.py`.",
        "",
        "| seconds | what is tested | file |",
        "|---|---|---|",
    ]
    for case in cases[:COUNT]:
        name, _, choice = case.attrib["name"].removeprefix("test_").partition("[")
        what = name.replace("_", " ") + (f" (`{choice.removesuffix(']')}`)" if choice else "")
        file = f"{case.attrib['classname'].replace('.', '/')}.py"
        lines.append(f"| {float(case.attrib['time']):.1f} | {what} | `{file}` |")
    return "\n".join(lines) + "\n\n"


def main(path: str, machine: str) -> None:
    text = CONTRIBUTING.read_text()
    section = re.compile(rf"{re.escape(HEADING)}\n.*?(?=^##)", flags=re.DOTALL | re.MULTILINE)
    assert len(section.findall(text)) == 1
    CONTRIBUTING.write_text(section.sub(lambda _: table(path, machine), text))


if __name__ == "__main__":
    main(*sys.argv[1:])
