"""Convert a trained text model to another add & norm: calibrate it, then distil it from its source, without labels.

    accelerate launch recipes/convert.py --config recipes/configs/convert.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass
from typing import Literal

import transformers
from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig
from common.distilling import Distillation, converted
from common.ending import finish
from common.errors import UserError, one_line, run_script
from common.evaluation import Evaluation
from common.model import find_checkpoint, in_own_memory, load_tokenizer
from common.run import main_process_first, start
from common.switching import Switching
from common.tokenizer_check import check_tokenizer
from common.training import Task
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from transformers import DataCollatorWithPadding

from hf_addnorm.conversion.source import load_source


# Of a conversion before the distillation.
METHODS = ("auto", "calibrated", "norms", "mapped")
# of them, those that leave the Linear layers as the source's norms need them
UNFITTED = ("norms", "mapped")


@dataclass(kw_only=True)
class ConvertConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        text_column: column of the text, or of its words.
        max_length: longer inputs are cut to this many tokens.
        calibration_rows: training rows that the conversion before the distillation looks at; a quarter of them is
            held out there.
        begin: how the model begins: ``auto``, exact where algebra allows it, else calibrated; ``calibrated``;
            ``norms``, with the norms alone fitted; ``mapped``, with nothing fitted; or the folder of a model that
            ``hf-addnorm convert`` wrote, which says the add & norm itself.
        switch: when a norm is the target's: ``at_once``, from the first step on; ``in_order``, one norm after another;
            ``interpolate``, all together, by a mixture with the source's norm. The latter two end after 60 % of the
            steps, begin with ``norms`` or ``mapped``, and are for norms that stay where they stand.
        hidden_weight: of what the layers give, in the loss.
        logits_weight: of the divergence of the predictions from the source's, in the loss.
    """

    text_column: str = "text"
    max_length: PositiveInt = 128
    calibration_rows: PositiveInt = 1024
    begin: str = "auto"
    switch: Literal["at_once", "in_order", "interpolate"] = "at_once"
    hidden_weight: NonNegativeFloat = 1.0
    logits_weight: NonNegativeFloat = 1.0

    def __post_init__(self):
        if self.do != "train":
            raise UserError(f"do is {self.do}: the recipe of the model's task does it, with --model; allowed is train")
        super().__post_init__()
        for key, reason in (
            ("lora", "all weights are converted"),
            ("new_weights", "a model that knows nothing has nothing to keep"),
            ("model_config", "the converted model has the source's config"),
        ):
            if getattr(self, key):
                raise UserError(f"{key} is given: {reason}")
        if self.checkpoint is None or (self.add_norm is None) == (self.begin in METHODS):
            raise UserError(
                "checkpoint, the trained model, is needed, and one of add_norm, what it is converted to, and begin, "
                "the folder of a converted model"
            )
        if self.switch != "at_once" and self.begin not in UNFITTED:
            raise UserError(
                f"switch is {self.switch} and begin is {self.begin}: Linear layers fitted to the new norms do "
                f"not fit the source's; allowed is begin {' or '.join(UNFITTED)}"
            )
        if not self.hidden_weight + self.logits_weight:
            raise UserError("hidden_weight and logits_weight are both 0: nothing is left to learn from")


def read(run):
    """Tokens of both splits, what they are made of, and the tokenizer; a row's one label says that it counts."""
    config, accelerator = run.config, run.accelerator
    with main_process_first(accelerator):
        splits = data.load_splits(config, [], config.text_column)
    tokenizer = load_tokenizer(config.checkpoint, config.max_length)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        rows = rows.select_columns([config.text_column])
        rows = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        sources[split] = data.source(rows)
        accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
        with main_process_first(accelerator):
            encoded[split] = rows.map(
                encode,
                batched=True,
                remove_columns=[config.text_column],
                fn_kwargs={"tokenizer": tokenizer, "column": config.text_column, "max_length": config.max_length},
                desc=f"tokenize {split}",
            )
    return encoded, sources, tokenizer


def encode(rows, tokenizer, column, max_length):
    """Tokens of some rows."""
    texts = [text if isinstance(text, str) else " ".join(text) for text in rows[column]]
    return tokenizer(texts, truncation=True, max_length=max_length) | {"labels": [0] * len(texts)}


def calibration(config, rows, tokenizer):
    """Some training rows as batches of similar length."""
    chosen = data.subset(rows, config.calibration_rows, config.seed).remove_columns("labels")
    order = batches.longest_first(batches.lengths(chosen))
    parts = [order[at : at + config.batch_size] for at in range(0, len(order), config.batch_size)]
    return [dict(tokenizer.pad([chosen[row] for row in part], return_tensors="pt")) for part in parts]


def load(folder):
    """A trained model as one of ours, in float32."""
    try:
        return in_own_memory(load_source(find_checkpoint(folder)).float())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load {folder}: {one_line(error)}") from error


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(ConvertConfig, args)
    config = run.config

    # Data: read, check, tokenize.
    encoded, sources, tokenizer = read(run)

    # Models: the source, and what it is converted to. A run that goes on takes the weights of its checkpoint.
    set_seed(config.seed)
    source = load(config.checkpoint)
    check_tokenizer(tokenizer, source, encoded, config.max_length)
    seen = calibration(config, encoded["train"], tokenizer)
    if config.begin in METHODS:
        method = "mapped" if run.folder.last_checkpoint() else config.begin
        model = converted(source, run.accelerator, seen, method, config.add_norm)
    else:
        model = load(config.begin)

    # Train, save, load as a user would, compare, report.
    switching = None if config.switch == "at_once" else Switching(source, model, config.switch)
    distillation = Distillation(source, run.accelerator, seen, config.hidden_weight, config.logits_weight, switching)
    heads = {name: auto for auto, name in type(source.config).auto_classes.items()}
    order = batches.longest_first(batches.lengths(encoded["validation"]))
    task = Task(
        rows=encoded["train"],
        collate=DataCollatorWithPadding(tokenizer),
        loss=distillation.loss,
        evaluation=Evaluation(
            rows=encoded["validation"].select(order),
            outputs=distillation.compare,
            score=distillation.score,
            best="-kl",
            order=order,
        ),
        evaluates_start=True,
        at_step=None if switching is None else switching.at_step,
        auto_class=getattr(transformers, heads[type(source).__name__]),
    )
    finish(run, task, model, tokenizer, sources)


if __name__ == "__main__":
    run_script(main)
