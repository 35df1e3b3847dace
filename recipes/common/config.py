"""From a YAML file and the command line to one checked config object."""

import argparse
import difflib
import json
import re
import sys
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from jsonargparse import ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .errors import UserError, one_line


# What a saved folder says itself; a run's record and the keys of its YAML say it of the model that it began with.
ABOUT_A_NEW_MODEL = (
    "new_weights",
    "model_config",
    "add_norm",
    "decoder_add_norm",
    "dropout",
    "stack",
    "new_tokenizer",
    "num_labels",
    "lora",
    "train_only",
)
# A run's own record, in its folder.
RECORD = "run.json"
# What a run's record holds that is no key, and the key that is of that run alone.
OF_A_RECORD = ("processes", "data", "result_file")


@dataclass(kw_only=True)
class RunConfig:
    """The keys that every training recipe has.

    Args:
        do: train a model; or, of a saved one, ``evaluate``: its figures on rows with labels; ``predict``: what it says
            to rows with or without labels.
        model: the saved folder to evaluate or predict with, or that of its run; default ``<output_dir>/model``.
        file: the rows to evaluate or predict, parquet, csv, tsv, json or jsonl; default the validation split.
        predictions: where predictions go: parquet, csv, json or jsonl; default, with ``predict``,
            ``<output_dir>/<name of file>_predictions.csv`` (parquet if the file is one).
        checkpoint: name on the Hub, local folder, or ``package:NAME`` for weights that come in a Python package.
        new_weights: take the checkpoint's config and tokenizer alone.
        model_config: entries of the model's config; with ``model_type`` among them a new model needs no checkpoint.
        output_dir: folder of this run; must be new, empty, or hold this run unfinished (``--resume``). A
            training needs it.
        result_file: where the result JSON goes; default ``<output_dir>/result.json``, with ``evaluate``
            ``<output_dir>/<name of file>_evaluation.json``.
        add_norm: add & norm spec: a preset's name, or a dict such as ``{"preset": "post_ln", "norm": "rms_norm"}``;
            null takes the checkpoint as it is.
        attn_implementation: eager, sdpa, ...; default the fastest: eager on a CPU, but in float32 without dropout, and
            on a GPU, the model's own.
        dropout: replaces every dropout rate of the model.
        dataset: name on the Hub, or ``builtin:docstring_match`` or ``builtin:digits``.
        dataset_config: name of the dataset's configuration.
        train_split: the dataset's split to train on.
        validation_split: the dataset's split to evaluate on.
        train_file: local parquet, csv, tsv, json or jsonl file; takes the place of ``dataset``.
        validation_file: goes with ``train_file``.
        na_values: cells of a csv or tsv file that are read as missing, beside empty ones; default those of pandas (NA,
            null, nan, None and others), ``[]`` for none.
        max_train_rows: train on this many rows, drawn with the seed.
        seed: fixes the data order, the new weights and dropout.
        num_processes: if given, the run stops where the launcher started another number.
        mixed_precision: bf16 trains under autocast, the weights stay in float32; no is float32. Default bf16 where the
            GPU, or the CPU's instructions, have it, else no.
        epochs: passes over the training rows.
        max_steps: stop after this many optimizer steps, however many epochs that is.
        batch_size: rows per optimizer step, over all processes and accumulation steps.
        micro_batch_size: rows per process and forward pass; default batch_size / processes.
        eval_batch_size: rows per process in evaluation.
        group_by_length: batches of rows of similar length, which saves padding.
        learning_rate: peak of the schedule.
        warmup: share of the steps in which the rate rises; after that it falls linearly to 0.
        layer_decay: the last layer's rate is the peak times this, that of the layer below it times this again, and so
            on down to the embeddings; what is above the layers has the full rate.
        weight_decay: for weight matrices; biases, norms and residual scales are spared.
        adam_beta2: how much of AdamW's mean of squared gradients is kept at each step.
        max_grad_norm: gradients are clipped to this norm; 0 clips nothing.
        eval_every: steps between evaluations; default once per epoch. The last step is always evaluated.
        patience: the training ends after so many evaluations in a row whose first metric is not better; default
            never. It says and records when and why; with ``final_model: best`` the best model is saved.
        min_delta: with ``patience``, better means by more than this.
        checkpoint_every: steps between checkpoints; null writes none.
        keep_checkpoints: how many of the last checkpoints stay, beside that of the best evaluation.
        final_model: which model is saved at the end, that of the last step or that of the best evaluation.
        train_only: ``add_norm`` trains the parameters of norms, residuals and streams, and the head; null all.
        freeze_embeddings: do not train the embeddings, and all else that comes before the first layer.
        freeze_layers: do not train the first layers, so many of them.
        freeze: do not train the parameters whose names match one of these patterns, such as ``*.attention.*``.
        lora: rank of LoRA adapters, trained with the head; the saved model has them merged.
        lora_targets: the Linear layers that get adapters: ``all-linear``, ``default`` for those that PEFT names for
            this kind of model, or a list with ends of their names.
        track: also log to these: tensorboard, trackio, wandb.
        watch: with ``track``, steps between two looks at what add & norm does in each layer, on the first 8 training
            rows; the figures are those of ``hf_addnorm.diagnose``. The training is the same with it. Default never.
    """

    do: Literal["train", "evaluate", "predict"] = "train"
    model: str | None = None
    file: str | None = None
    predictions: str | None = None
    checkpoint: str | None = None
    new_weights: bool = False
    model_config: dict[str, Any] = field(default_factory=dict)
    output_dir: str | None = None
    result_file: str | None = None
    add_norm: dict[str, Any] | str | None = None
    attn_implementation: str | None = None
    dropout: ClosedUnitInterval | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    train_file: str | None = None
    validation_file: str | None = None
    na_values: list[str] | None = None
    max_train_rows: PositiveInt | None = None
    seed: NonNegativeInt = 0
    num_processes: PositiveInt | None = None
    mixed_precision: Literal["no", "bf16"] | None = None
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    micro_batch_size: PositiveInt | None = None
    eval_batch_size: PositiveInt = 64
    group_by_length: bool = True
    learning_rate: PositiveFloat = 5e-5
    warmup: ClosedUnitInterval = 0.1
    layer_decay: ClosedUnitInterval = 1.0
    weight_decay: NonNegativeFloat = 0.01
    adam_beta2: ClosedUnitInterval = 0.999
    max_grad_norm: NonNegativeFloat = 1.0
    eval_every: PositiveInt | None = None
    patience: PositiveInt | None = None
    min_delta: NonNegativeFloat = 0.0
    checkpoint_every: PositiveInt | None = None
    keep_checkpoints: PositiveInt = 2
    final_model: Literal["last", "best"] = "last"
    train_only: Literal["add_norm"] | None = None
    freeze_embeddings: bool = False
    freeze_layers: NonNegativeInt = 0
    freeze: list[str] = field(default_factory=list)
    lora: PositiveInt | None = None
    lora_targets: Literal["all-linear", "default"] | list[str] = "all-linear"
    track: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)
    watch: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.do == "train":
            self._check_training()
        else:
            self._take_the_saved_model()

    def _take_the_saved_model(self) -> None:
        if self.model is None and self.output_dir is None:
            raise UserError(f"do is {self.do}, and no model is given: a saved folder, or the output_dir of a run")
        folder = Path(self.model or f"{self.output_dir}/model")
        # the folder of a run has the model's inside
        if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
            folder = folder / "model"
        if not folder.is_dir() and (self.model is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", self.model)):
            raise UserError(f"there is no saved model in {folder}: train one, or name its folder with --model")
        self.model = str(folder)
        # the folder says what the model is, and these keys nothing
        for key in fields(self):
            if key.name in ABOUT_A_NEW_MODEL:
                setattr(self, key.name, key.default_factory() if key.default is MISSING else key.default)
        self.checkpoint = self.model

    def _check_training(self) -> None:
        if self.output_dir is None:
            raise UserError("no output_dir: a training needs a folder of its own")
        if given := [key for key in ("model", "file", "predictions") if getattr(self, key) is not None]:
            raise UserError(f"{given[0]} is for a saved model, with do evaluate or predict; do is train")
        if self.checkpoint is None and "model_type" not in self.model_config:
            raise UserError("no model: give checkpoint, or model_config with model_type for a new one")
        if self.final_model == "best" and self.checkpoint_every is None:
            raise UserError(
                "final_model is best, and checkpoint_every is not set: without checkpoints only the last is left"
            )
        if self.min_delta and self.patience is None:
            raise UserError(f"min_delta is {self.min_delta}, and patience, which it belongs to, is not set")
        if self.adam_beta2 == 1:
            raise UserError("adam_beta2 is 1; allowed is a number from 0 to below 1")
        if self.lora and self.train_only:
            raise UserError(f"lora is {self.lora} and train_only is {self.train_only}: choose one of them")
        if self.lora and (self.freeze_embeddings or self.freeze_layers or self.freeze):
            raise UserError(
                f"lora is {self.lora}, which freezes all but adapters and head: there is nothing else to freeze"
            )
        if not self.lora and self.lora_targets != "all-linear":
            raise UserError("lora_targets are given, and lora, the rank of the adapters, is not")
        if self.layer_decay == 0:
            raise UserError("layer_decay is 0, at which no layer learns; allowed is a number above 0, up to 1")
        if self.watch is not None and not self.track:
            raise UserError(f"watch is {self.watch}, and track, which says where the figures go, is empty")
        for name in self.track:
            if find_spec(name) is None:
                raise UserError(f"track names {name!r}, which is not installed: pip install {name}")


Config = TypeVar("Config")


def parse(config_class: type[Config], args: list[str] | None = None) -> tuple[Config, bool]:
    """Read ``--config FILE [--key value ...]``; the file may be the ``run.json`` of a run.

    Without a config, ``--model FOLDER`` of a run brings the keys of that run along.

    Returns:
        the config, and whether ``--resume`` was given (which is not part of what the run is).
    Raises:
        UserError: for an unknown key (with the nearest known ones), a wrong value, a missing file or key.
    """
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_argument("--resume", action="store_true", help="go on with what output_dir holds")
    parser.add_class_arguments(config_class, None, as_group=False)
    keys = [field.name for field in fields(config_class)]
    try:
        values = parser.parse_args(_with_records(sys.argv[1:] if args is None else args)).as_dict()
    except argparse.ArgumentError as error:
        raise UserError(_sentence(str(error), keys)) from None
    return config_class(**{key: _plain(values[key]) for key in keys}), values["resume"]


def _with_records(args: list[str]) -> list[str]:
    # a run's record becomes the text of a config; without a config, a saved model's keys are those of its run
    named = _value(args, "--model")
    if _value(args, "--config") is None and named is not None:
        records = [folder / RECORD for folder in (Path(named), Path(named).parent)]
        args = [*[f"--config={record}" for record in records if record.is_file()][:1], *args]
    before = ["", *args]
    return [
        _of_record(arg) if name == "--config" or arg.startswith("--config=") else arg
        for name, arg in zip(before, args, strict=False)
    ]


def _value(args: list[str], key: str) -> str | None:
    for number, arg in enumerate(args):
        if arg == key:
            return "".join(args[number + 1 : number + 2])
        if arg.startswith(f"{key}="):
            return arg.removeprefix(f"{key}=")
    return None


def _of_record(arg: str) -> str:
    path = Path(arg.removeprefix("--config="))
    if path.name != RECORD or not path.is_file():
        return arg
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    kept = {key: value for key, value in record.items() if key not in OF_A_RECORD}
    # the folder may have been moved
    text = json.dumps(kept | {"output_dir": str(path.parent)})
    return f"--config={text}" if arg.startswith("--config=") else text


def _plain(value: Any) -> Any:
    # jsonargparse's restricted numbers are classes of their own, which safe unpickling of a checkpoint refuses.
    for kind in (float, int):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _sentence(message: str, keys: list[str]) -> str:
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: -*([\w.]+)", message)
    if unknown is None:
        return one_line(message).replace("Parser key", "config key").replace("a typing.Literal", "one of ")
    name = unknown[1] or unknown[2]
    near = difflib.get_close_matches(name, keys, n=3)
    allowed = f"did you mean {' or '.join(near)}?" if near else f"the keys are {', '.join(keys)}"
    return f"unknown config key {name!r}: {allowed}"


def difference(first: dict, second: dict) -> str:
    """Name the keys in which two configs differ, with both values; empty where they are equal."""
    return ", ".join(
        f"{key} ({first.get(key)!r} there, {second.get(key)!r} now)"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    )
