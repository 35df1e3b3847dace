"""How far counting shared words gets on `builtin:docstring_match`, the data of the README's first command.

    python benchmarks/docstring_match_baseline.py

A logistic regression on two counts: the words that sentence and signature share, and those of them in the function's
own name. It is fitted on the train split; its accuracy on the validation split is what a model has to beat.
"""

import json
import re
import sys
from pathlib import Path

from sklearn.linear_model import LogisticRegression


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common import docstring_match


def words(text: str) -> set[str]:
    """Lower-case words, identifiers taken apart, plural and verb endings cut."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)
    return {re.sub(r"(ing|ed|es|s)$", "", part.lower()) for part in parts if len(part) > 2}


def counts(row: dict) -> list[int]:
    name = row["signature"].partition("(")[0].rpartition(".")[2]
    sentence = words(row["sentence"])
    return [len(sentence & words(row["signature"])), len(sentence & words(name))]


def main() -> None:
    splits = docstring_match.load()
    (train, train_labels), (validation, labels) = (
        ([counts(row) for row in splits[name]], splits[name]["label"]) for name in ("train", "validation")
    )
    model = LogisticRegression().fit(train, train_labels)
    figures = {
        "train_rows": len(train_labels),
        "validation_rows": len(labels),
        "accuracy": round(model.score(validation, labels), 4),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
