"""The cards of the runs in recipes/results, made from their JSON.

python model_cards/generate.py          # writes them anew, and removes those whose run is gone
python model_cards/generate.py --check  # says which are not those of the results
"""

import json
import sys
from pathlib import Path
from typing import Any

from hf_addnorm.hub import create_card
from hf_addnorm.hub.description import family_of
from hf_addnorm.hub.results import Run
from hf_addnorm.models.base.whole_file import write_whole


CARDS = Path(__file__).parent
RESULTS = CARDS.parent / "recipes" / "results"
# what is in the folder beside the cards
OTHERS = {"README.md"}


def runs() -> dict[str, dict[str, Any]]:
    """Every result that is of one trained model, by the file's name; studies are not.

    Nor are models of several encoders whose result does not have their config.
    """
    contents = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    runs = {name: content for name, content in contents.items() if "metrics" in content}
    return {name: run for name, run in runs.items() if "model_config" in run or family_of(run["model"]) is not None}


def stock_of(run: dict[str, Any], among: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The run of the stock model with the same settings on the same rows."""
    apart = ("add_norm", "output_dir", "result_file")

    def settings(content: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in content["config"].items() if key not in apart}

    for other in among:
        if other is run or other["data"] != run["data"] or settings(other) != settings(run):
            continue
        try:
            Run.read(other).refuse_as_stock_of(Run.read(run))
        except ValueError:
            continue
        return other
    return None


def cards() -> dict[str, str]:
    """The card of every run, by its file's name."""
    found = runs()
    made = {}
    for name, content in found.items():
        card = create_card(
            results=content, stock_results=stock_of(content, list(found.values())), name=name.replace("_", "-")
        )
        made[f"{name}.md"] = card.content
    return made


def stale() -> list[str]:
    """The files that are not as they would be written."""
    made = cards()
    there = {path.name: path.read_text() for path in CARDS.glob("*.md") if path.name not in OTHERS}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main() -> None:
    """Write the cards, or check them."""
    names = stale()
    if "--check" in sys.argv:
        if names:
            sys.exit(f"not those of recipes/results: {', '.join(names)}; run python model_cards/generate.py")
        return
    made = cards()
    for name in names:
        if name in made:
            write_whole(CARDS / name, made[name])
        else:
            (CARDS / name).unlink()


if __name__ == "__main__":
    main()
