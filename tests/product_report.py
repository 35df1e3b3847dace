"""The report of the full product, every family with every spec, which CI leaves out.

pytest -m slow tests/test_loading.py -n 2 --junitxml product.xml && python tests/product_report.py product.xml
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

import torch
import transformers


REPORT = Path(__file__).with_name("product.md")


def report(path: str) -> str:
    """As markdown: by test and family how many specs passed, and what did not."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    counts: dict[str, Counter] = defaultdict(Counter)
    bad = []
    for case in suite.iter("testcase"):
        test, family = re.match(r"(\w+)\[(\w+)-", case.attrib["name"]).groups()
        outcomes = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = outcomes.pop() if outcomes else "passed"
        counts[family][outcome] += 1
        if outcome != "passed":
            bad.append(f"- `{test}` {case.attrib['name']}: {outcome}")
    lines = [
        "# The full product",
        "",
        f"`pytest -m slow tests/test_loading.py`, {suite.attrib['timestamp'][:10]}, transformers "
        f"{transformers.__version__}, torch {torch.__version__}: {suite.attrib['tests']} tests in "
        f"{float(suite.attrib['time']):.0f} seconds.",
        "",
        "| family | passed | skipped | failed |",
        "|---|---|---|---|",
    ]
    for family, found in sorted(counts.items()):
        lines.append(f"| {family} | {found['passed']} | {found['skipped']} | {found['failure'] + found['error']} |")
    return "\n".join([*lines, "", *(bad or ["None failed."])]) + "\n"


if __name__ == "__main__":
    REPORT.write_text(report(sys.argv[1]))
