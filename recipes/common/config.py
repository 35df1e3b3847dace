"""From a YAML file and the command line to one checked config object."""

import argparse
import difflib
import re
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

from jsonargparse import ArgumentParser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .errors import UserError, one_line


@dataclass(kw_only=True)
class RunConfig:
    """The keys that every training recipe has.

    Args:
        checkpoint: name on the Hub, local folder, or ``package:NAME`` for weights that come in a Python package.
        new_weights: take the checkpoint's config and tokenizer alone.
        model_config: entries of the model's config; with ``model_type`` among them a new model needs no checkpoint.
        output_dir: folder of this run; must be new, empty, or hold this run unfinished (``--resume``).
        result_file: where the result JSON goes; default ``<output_dir>/result.json``.
        add_norm: add & norm spec: a preset's name, or a dict such as ``{"preset": "post_ln", "norm": "rms_norm"}``;
            null takes the checkpoint as it is.
        attn_implementation: eager, sdpa, ...; default eager on a CPU, else the model's own.
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
        weight_decay: for weight matrices; biases, norms and residual scales are spared.
        adam_beta2: how much of AdamW's mean of squared gradients is kept at each step.
        max_grad_norm: gradients are clipped to this norm; 0 clips nothing.
        eval_every: steps between evaluations; default once per epoch. The last step is always evaluated.
        checkpoint_every: steps between checkpoints; null writes none.
        keep_checkpoints: how many of the last checkpoints stay, beside that of the best evaluation.
        final_model: which model is saved at the end, that of the last step or that of the best evaluation.
        train_only: ``add_norm`` trains the parameters of norms, residuals and streams, and the head; null all.
        lora: rank of LoRA adapters on all Linear layers, trained with the head; the saved model has them merged.
        track: also log to these: tensorboard, trackio, wandb.
    """

    checkpoint: str | None = None
    new_weights: bool = False
    model_config: dict[str, Any] = field(default_factory=dict)
    output_dir: str
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
    weight_decay: NonNegativeFloat = 0.01
    adam_beta2: ClosedUnitInterval = 0.999
    max_grad_norm: NonNegativeFloat = 1.0
    eval_every: PositiveInt | None = None
    checkpoint_every: PositiveInt | None = None
    keep_checkpoints: PositiveInt = 2
    final_model: Literal["last", "best"] = "last"
    train_only: Literal["add_norm"] | None = None
    lora: PositiveInt | None = None
    track: list[Literal["tensorboard", "trackio", "wandb"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.checkpoint is None and "model_type" not in self.model_config:
            raise UserError("no model: give checkpoint, or model_config with model_type for a new one")
        if self.final_model == "best" and self.checkpoint_every is None:
            raise UserError(
                "final_model is best, and checkpoint_every is not set: without checkpoints only the last is left"
            )
        if self.adam_beta2 == 1:
            raise UserError("adam_beta2 is 1; allowed is a number from 0 to below 1")
        if self.lora and self.train_only:
            raise UserError(f"lora is {self.lora} and train_only is {self.train_only}: choose one of them")
        for name in self.track:
            if find_spec(name) is None:
                raise UserError(f"track names {name!r}, which is not installed: pip install {name}")


Config = TypeVar("Config")


def parse(config_class: type[Config], args: list[str] | None = None) -> tuple[Config, bool]:
    """Read ``--config FILE [--key value ...]``.

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
        values = parser.parse_args(args).as_dict()
    except argparse.ArgumentError as error:
        raise UserError(_sentence(str(error), keys)) from None
    return config_class(**{key: _plain(values[key]) for key in keys}), values["resume"]


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
