"""Masked-language-model training on texts, of a new encoder or a checkpoint, stock or AddNorm.

    accelerate launch recipes/pretrain_mlm.py --config recipes/configs/pretrain_mlm.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass

import torch
from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import PADDING, Evaluation
from common.masked_tokens import Masking, pack
from common.model import load_model, load_tokenizer
from common.run import main_process_first, start
from common.tokenizer_check import check_tokenizer
from common.training import Task
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch.nn import functional
from transformers import AutoModelForMaskedLM, DataCollatorForTokenClassification


@dataclass(kw_only=True)
class MaskedLMConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        text_column: column of the text.
        max_length: the texts, joined by the separator, are cut into rows of this many tokens, and all keys that count
            rows mean these; tokens of a row attend to each other, also where they are of different texts.
        masked: share of the tokens that is to be predicted; 80 % of them are hidden, 10 % replaced, 10 % left.
    """

    text_column: str = "text"
    max_length: PositiveInt = 128
    masked: ClosedUnitInterval = 0.15

    def __post_init__(self):
        if self.do == "predict":
            raise UserError(
                "do is predict, and a masked LM has nothing to say to a file of texts: evaluate gives its loss"
            )
        super().__post_init__()


def targets(model, batch):
    """Logits and labels at the masked tokens, `[tokens, vocabulary]` and `[tokens]`, and which tokens those are."""
    masked = batch["labels"] != -100
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[masked].float(), batch["labels"][masked], masked


def loss(model, batch):
    """Summed over the masked tokens."""
    logits, labels, _ = targets(model, batch)
    return functional.cross_entropy(logits, labels, reduction="sum")


def outputs(model, batch):
    """Summed loss of each row, and of each token what was predicted there; logits of a whole split are too big."""
    logits, labels, masked = targets(model, batch)
    losses = torch.zeros(masked.shape, device=logits.device)
    losses[masked] = functional.cross_entropy(logits, labels, reduction="none")
    predicted = torch.full_like(batch["labels"], PADDING)
    predicted[masked] = logits.argmax(-1)
    return losses.sum(-1), predicted, batch["labels"]


def read(run):
    """Packed rows of both splits, those of the validation masked once, what they are made of, and the masking."""
    config, accelerator = run.config, run.accelerator
    with main_process_first(accelerator):
        splits = data.load_splits(config, [config.text_column], config.text_column)
    tokenizer = load_tokenizer(config.checkpoint, config.max_length)
    masking = Masking(tokenizer, config.masked)
    packed, sources = {}, {}
    for split, texts in splits.items():
        with main_process_first(accelerator):
            rows = pack(split, texts, config.text_column, tokenizer, config.max_length)
        packed[split] = data.subset(rows, config.max_train_rows if split == "train" else None, config.seed)
        sources[split] = data.source(packed[split])
        accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
    packed["validation"] = masking.fixed(packed["validation"], f"{config.seed}/validation")
    return packed, sources, tokenizer, masking


def score(losses, predicted, labels):
    """Loss and perplexity per masked token, and the share of them that was predicted right."""
    predicted, labels = torch.cat(predicted), torch.cat(labels)
    masked = labels != PADDING
    mean = torch.stack(losses).double().sum() / masked.sum()
    right = (predicted == labels)[masked].double().mean()
    return {"loss": mean.item(), "perplexity": mean.exp().item(), "accuracy": right.item()}


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(MaskedLMConfig, args)
    config = run.config

    # Data: read, check every text, tokenize, pack, draw the subset.
    packed, sources, tokenizer, masking = read(run)

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_model(AutoModelForMaskedLM, config, run.accelerator.device)
    check_tokenizer(tokenizer, model, packed, config.max_length, all_tokens=True)

    # Train, save, load as a user would, compare, report.
    order = batches.longest_first(batches.lengths(packed["validation"]))
    validation = packed["validation"].select(order)
    task = Task(
        rows=packed.get("train"),
        collate=DataCollatorForTokenClassification(tokenizer),
        loss=loss,
        evaluation=Evaluation(rows=validation, outputs=outputs, score=score, best="-perplexity"),
        auto_class=AutoModelForMaskedLM,
        augment=masking,
    )
    finish(run, task, model, tokenizer, sources)


if __name__ == "__main__":
    run_script(main)
