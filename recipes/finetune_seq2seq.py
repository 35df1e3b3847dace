"""Fine-tune an encoder-decoder (T5, BART, Marian), or two copies of an encoder as one: translation, summarisation.

    accelerate launch recipes/finetune_seq2seq.py --config recipes/configs/translate.yaml [--key value ...]

One YAML is one run, and every key can be given on the command line too; README.md beside this file lists them.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from accelerate.utils import set_seed
from common import batches, data
from common.config import RunConfig
from common.ending import finish
from common.errors import UserError, run_script
from common.evaluation import PADDING, Evaluation
from common.metrics import TEXT, leading_figure, load_metrics
from common.model import first_token, load_pair, load_tokenizer
from common.own_tokenizer import train_tokenizer
from common.pairs import Comparison, changing, summed_loss, tokenizing
from common.run import main_process_first, start
from common.tokenizer_check import check_tokenizer
from common.training import Task, by_mask
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq


@dataclass(kw_only=True)
class Seq2SeqConfig(RunConfig):
    """Keys of this recipe, beside those that all recipes have.

    Args:
        checkpoint: an encoder-decoder, of a family (T5, BART, Marian) or saved by this recipe, or a model of which
            encoder and decoder are copies.
        decoder_add_norm: that of the decoder; ``add_norm`` is that of the encoder.
        new_tokenizer: take a tokenizer with so many pieces that is trained on the training texts (byte-level BPE), in
            the place of the checkpoint's; for new weights.
        share_embeddings: encoder and decoder have one table of words, as they start with the same. In the families
            with an encoder and a decoder of their own they always do.
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


def read(run):
    """Tokens of both splits, what they are made of, the tokenizer, and what the decoder begins with."""
    config, accelerator = run.config, run.accelerator
    source, target = config.source_column, config.target_column
    with main_process_first(accelerator):
        splits = data.load_splits(config, [source] if config.do == "predict" else [source, target])
    if config.do == "predict":
        rows = splits["validation"].select_columns([source])
        splits["validation"] = rows.add_column(target, [""] * len(rows))
    splits = {split: rows.select_columns([source, target]) for split, rows in splits.items()}
    if "train" in splits:
        splits["train"] = data.subset(splits["train"], config.max_train_rows, config.seed)
    longest = max(config.max_length, config.max_target_length)
    if config.new_tokenizer:
        texts = chain(splits["train"][source], splits["train"][target])
        tokenizer = train_tokenizer(accelerator, texts, config.new_tokenizer, longest)
    else:
        tokenizer = load_tokenizer(config.checkpoint, longest)
    first = first_token(config, tokenizer)
    tokenize = tokenizing(tokenizer, config, first)
    encoded, sources = {}, {}
    for split, rows in splits.items():
        sources[split] = data.source(rows)
        accelerator.print(f"{split}: {sources[split]['rows']} rows, sha256 {sources[split]['sha256']}")
        with main_process_first(accelerator):
            encoded[split] = rows.map(tokenize, batched=True, desc=f"tokenize {split}")
    return encoded, sources, tokenizer, first


def collating(tokenizer):
    """Makes a batch of rows, without their texts."""
    pad = DataCollatorForSeq2Seq(tokenizer)
    return lambda rows: pad([{key: row[key] for key in ("input_ids", "attention_mask", "labels")} for row in rows])


def generating(accelerator):
    """The tokens that a model writes for a batch."""

    def outputs(model, batch):
        source = {key: batch[key] for key in ("input_ids", "attention_mask")}
        return (accelerator.unwrap_model(model).generate(**source),)

    return outputs


def main(args=None):
    """One run, from the config to the result JSON."""
    run = start(Seq2SeqConfig, args)
    config = run.config
    metric = load_metrics(config.metrics, TEXT)

    # Data: read, check every row, draw the subset, tokenize.
    encoded, sources, tokenizer, first = read(run)
    order = batches.longest_first(batches.lengths(encoded["validation"]))
    held_out = encoded["validation"].select(order)
    comparison = Comparison(metric, held_out[config.source_column][:], held_out[config.target_column][:], tokenizer)

    # Model: the same new weights on every process.
    set_seed(config.seed)
    model = load_pair(config, run.accelerator.device, tokenizer)
    changed = changing(config, encoded.get("train"), tokenizer, first)
    for part, *more in (
        (model.get_encoder(), config.max_length, changed is not None),
        (model.get_decoder(), config.max_target_length, changed is not None, "labels", "max_target_length"),
    ):
        check_tokenizer(tokenizer, part, encoded, *more)

    # Train, save, load as a user would, compare, report.
    task = Task(
        rows=encoded.get("train"),
        collate=collating(tokenizer),
        loss=summed_loss(config.label_smoothing),
        evaluation=Evaluation(
            rows=held_out,
            outputs=generating(run.accelerator),
            score=comparison.score,
            best=leading_figure(config.metrics, TEXT),
            describe=comparison.describe,
            order=order,
        ),
        auto_class=AutoModelForSeq2SeqLM,
        sizes=sizes,
        augment=changed,
    )
    finish(run, task, model, tokenizer, sources, comparison.more)


if __name__ == "__main__":
    run_script(main)
