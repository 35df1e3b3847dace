"""Fine-tune two copies of a stock or AddNorm encoder as encoder and decoder: translation, summarisation.

    accelerate launch recipes/finetune_seq2seq.py --config recipes/configs/translate.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

import time
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig, parse
from common.ending import PADDING, predict, save_and_load_again
from common.errors import UserError, run
from common.metrics import TEXT, leading_figure, load_metrics
from common.model import choose_trained, load_pair, load_tokenizer
from common.own_tokenizer import train_tokenizer
from common.pairs import changing, summed_loss, tokenizing
from common.report import summary
from common.run import RunFolder, main_process_first, start
from common.training import Task, by_mask, train
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch.utils.data import DataLoader
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq


@dataclass(kw_only=True)
class Seq2SeqConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        checkpoint: a model of which encoder and decoder are copies, or an encoder-decoder.
        decoder_add_norm: that of the decoder; ``add_norm`` is that of the encoder.
        new_tokenizer: take a tokenizer with so many pieces that is trained on the training texts (byte-level BPE), in
            the place of the checkpoint's; for new weights.
        share_embeddings: encoder and decoder have one table of words, as they start with the same.
        source_column: column of the text that is read.
        target_column: column of the text that is written.
        max_length: longer sources are cut to this many tokens.
        max_target_length: longer targets are cut to this many tokens, and generation ends there.
        copied_targets: share of the training rows that are read as they are to be written, drawn anew in each epoch;
            against forgetting how to copy names.
        swapped_names: share of the names and numbers in both texts of a training row that others take the place of.
        bpe_dropout: probability with which a merge of the tokenizer is left out in training, so that words are seen in
            other pieces.
        label_smoothing: share of each token's weight in the loss that all tokens have alike.
        num_beams: beams of the search in evaluation; 1 takes the likeliest next token.
        metrics: names of the metrics, of the text as it is and (``tokenized_...``) as the tokenizer writes it: an
            uncased one has neither capitals nor accents, and no model that writes with it can have them.
    """

    decoder_add_norm: dict[str, Any] | str | None = None
    new_tokenizer: PositiveInt | None = None
    share_embeddings: bool = False
    source_column: str = "source"
    target_column: str = "target"
    max_length: PositiveInt = 128
    max_target_length: PositiveInt = 128
    copied_targets: ClosedUnitInterval = 0.0
    swapped_names: ClosedUnitInterval = 0.0
    bpe_dropout: ClosedUnitInterval = 0.0
    label_smoothing: ClosedUnitInterval = 0.0
    num_beams: PositiveInt = 1
    metrics: list[str] = field(default_factory=lambda: ["chrf", "bleu"])

    def __post_init__(self):
        super().__post_init__()
        if self.new_tokenizer and self.checkpoint and not self.new_weights:
            raise UserError("new_tokenizer has other tokens than the checkpoint's weights are for: set new_weights")


def sizes(batch):
    """Tokens of sources and targets, without and with padding."""
    labels = batch["labels"]
    tokens, slots = by_mask(batch)
    return tokens + (labels != PADDING).sum(), slots + labels.numel()


def main(args=None):
    """One run, from the config to the result JSON."""
    began = time.perf_counter()
    config, resume = parse(Seq2SeqConfig, args)
    metric = load_metrics(config.metrics, TEXT)
    accelerator = start(config)
    folder = RunFolder(config, resume, accelerator.num_processes)

    # Data: read, check every row, draw the subset, tokenize.
    source, target = config.source_column, config.target_column
    with main_process_first(accelerator):
        splits = data.load_splits(config, [source, target], target)
    splits = {split: rows.select_columns([source, target]) for split, rows in splits.items()}
    splits["train"] = data.subset(splits["train"], config.max_train_rows, config.seed)
    longest = max(config.max_length, config.max_target_length)
    if config.new_tokenizer:
        texts = chain(splits["train"][source], splits["train"][target])
        tokenizer = train_tokenizer(accelerator, texts, config.new_tokenizer, longest)
    else:
        tokenizer = load_tokenizer(config.checkpoint, longest)

    tokenize = tokenizing(tokenizer, config)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        sources[split] = data.source(rows)
        accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
        with main_process_first(accelerator):
            encoded[split] = rows.map(tokenize, batched=True, desc=f"tokenize {split}")
    pad = DataCollatorForSeq2Seq(tokenizer)
    inputs = ("input_ids", "attention_mask", "labels")

    def collate(rows):
        return pad([{key: row[key] for key in inputs} for row in rows])

    held_out = batches.longest_first(encoded["validation"])
    validation = accelerator.prepare(DataLoader(held_out, config.eval_batch_size, collate_fn=collate))

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_pair(config, accelerator.device, tokenizer)

    def outputs(model, batch):
        source = {key: batch[key] for key in ("input_ids", "attention_mask")}
        return (accelerator.unwrap_model(model).generate(**source),)

    def as_tokenized(texts):
        return tokenizer.batch_decode(tokenizer(list(texts)).input_ids, skip_special_tokens=True)

    def compare(texts):
        references = list(held_out[target])
        tokenized = metric.compute(predictions=as_tokenized(texts), references=as_tokenized(references))
        return {
            **metric.compute(predictions=list(texts), references=references),
            **{f"tokenized_{name}": score for name, score in tokenized.items()},
        }

    def write(model):
        rows = predict(accelerator, model, validation, outputs)[0]
        rows = [torch.where(row == PADDING, tokenizer.pad_token_id, row) for row in rows]
        return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]

    task = Task(
        rows=encoded["train"],
        lengths=batches.lengths(encoded["train"]),
        collate=collate,
        loss=summed_loss(config.label_smoothing),
        evaluate=lambda model: compare(write(model)),
        best=leading_figure(config.metrics, TEXT),
        sizes=sizes,
        augment=changing(config, encoded["train"], tokenizer),
    )
    model, progress = train(accelerator, config, folder, choose_trained(model, config), task, sources)

    # Save, load as a user would, and compare.
    trained, checked = save_and_load_again(
        accelerator, folder, model, tokenizer, AutoModelForSeq2SeqLM, validation, outputs
    )
    parts = {"encoder": trained.encoder, "decoder": trained.decoder}
    shown = list(zip(held_out[source], held_out[target], write(trained), strict=True))[:: len(held_out) // 4 or 1]
    more = {
        "add_norm": {name: part.config.add_norm.to_dict() for name, part in parts.items()},
        "copied_source": compare(held_out[source]),
        "examples": [dict(zip(("source", "target", "written"), texts, strict=True)) for texts in shown],
    }
    result = summary(accelerator, config, trained, progress, began, data=sources, reload=checked, **more)
    folder.finish(accelerator, {"recipe": "finetune_seq2seq", **result})


if __name__ == "__main__":
    run(main)
