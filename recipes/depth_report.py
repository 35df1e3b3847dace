"""The README's part on depth, and its figure, from the JSON that `depth.py` wrote.

python recipes/depth_report.py          # writes both anew
python recipes/depth_report.py --check  # says whether the README's part is that of the file
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib


matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.ticker import NullFormatter
from results_table import README, ROOT, spread


RESULT = ROOT / "recipes" / "results" / "depth.json"
FIGURE = RESULT.with_suffix(".png")
BLOCK = re.compile(r"(<!-- depth:.*?-->\n).*?(<!-- end depth -->)", re.DOTALL)
# Okabe and Ito's colours, which the colour-blind tell apart, with brown for their yellow: that is too pale for a line.
STYLES = {
    "post_ln": ("#000000", "-"),
    "post_ln_no_warmup": ("#000000", ":"),
    "pre_ln": ("#0072B2", "-"),
    "deepnorm": ("#D55E00", "-"),
    "sub_ln": ("#56B4E9", "--"),
    "rezero": ("#CC79A7", "-"),
    "layer_scale": ("#CC79A7", "--"),
    "residual": ("#8C6D31", "-"),
    "hyper_connections": ("#009E73", "--"),
}


class Study:
    """The runs of a result, found by scheme and depth."""

    def __init__(self, result: dict):
        self.config, self.data, self.missing = result["config"], result["data"], result["missing"]
        self.depths, self.schemes = [int(depth) for depth in self.config["depths"]], list(self.config["schemes"])
        self.runs = defaultdict(list)
        for row in result["runs"]:
            self.runs[row["settings"]["scheme"], row["settings"]["depth"]].append(row)
