"""Studies, which are many short runs: which runs there are, and their folder, with a JSON per run and one of all."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from .config import difference
from .errors import UserError
from .files import write_json


# Keys that say where things are, not what is computed.
PLACES = ("text_file", "output_dir", "result_file")


class Scheme(TypedDict):
    """An add & norm spec, with a warm-up of its own where it has one."""

    add_norm: dict[str, Any] | str
    warmup: NotRequired[ClosedUnitInterval]


class Runs(TypedDict):
    """The runs of every scheme at one depth; the seeds are 0, 1, ..."""

    seeds: PositiveInt
    steps: PositiveInt
    batch_size: PositiveInt


def plan(keys: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, the settings of every run of every scheme; the first seed of all, shallow ones first, then the next.

    Args:
        keys: ``schemes``, ``depths``, and what all runs have in common.
    """
    shared = {key: value for key, value in keys.items() if key not in ("schemes", "depths", "text_column")}
    runs = {}
    for seed in range(max(common["seeds"] for common in keys["depths"].values())):
        for depth, common in keys["depths"].items():
            own = {"depth": depth, "steps": common["steps"], "batch_size": common["batch_size"], "seed": seed}
            for name, scheme in keys["schemes"].items() if seed < common["seeds"] else ():
                runs[f"{name}_{depth}_{seed}"] = {**shared, **scheme, **own, "scheme": name}
    return runs


class StudyFolder:
    """What is there is checked against what is to be there, before anything is computed.

    Args:
        path: the folder.
        extra: another place for the result, or None.
        runs: by name, the settings that a run's numbers depend on.
        resume: whether runs that are there stay; without it the folder must be new or empty.
    Raises:
        UserError: for a folder that is not empty without ``resume``, a run that has other settings (naming them).
    """

    def __init__(self, path: str, extra: str | None, runs: dict[str, dict[str, Any]], resume: bool):
        self.path, self.runs = Path(path), runs
        self.results = [self.path / "result.json", *([Path(extra)] if extra else [])]
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"output_dir {path} is not empty: choose another folder, or go on in it with --resume")
        for name, row in self.rows().items():
            if other := difference(row["settings"], runs[name]):
                raise UserError(f"{self.file(name)} holds another run; it differs in {other}")

    def file(self, name: str) -> Path:
        """Where a run's JSON is."""
        return self.path / f"{name}.json"

    def rows(self) -> dict[str, dict[str, Any]]:
        """What there is of each finished run."""
        return {name: json.loads(self.file(name).read_text()) for name in self.runs if self.file(name).exists()}

    def missing(self) -> list[str]:
        """The runs that are still to be done."""
        return [name for name in self.runs if not self.file(name).exists()]

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Write a run that has ended."""
        write_json(self.file(name), {"settings": self.runs[name], **found})

    def finish(self, about: dict[str, Any]) -> None:
        """Write the result: what is said about the study, the runs that are there, the names of those that are not."""
        runs = [{"name": name, **row} for name, row in self.rows().items()]
        for path in self.results:
            write_json(path, {**about, "missing": self.missing(), "runs": runs})
