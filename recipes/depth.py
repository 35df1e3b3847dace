"""Train small masked-LM encoders of several depths and schemes, and measure what papers say about depth.

    python recipes/depth.py --config recipes/configs/depth.yaml --text_file FILE [--key value ...]

A study is many short runs in one process. Each writes its JSON into `output_dir` as soon as it ends; `--resume` goes
on with those that are missing. `depth_report.py` makes the figure and the tables of docs/depth.md from the result.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from common import masked_bytes
from common.batches import BatchOrder
from common.config import parse
from common.curves import binned, picked, rounded
from common.errors import UserError, one_line, run_script
from common.layers import probe
from common.machine import machine
from common.model import UNLOADABLE, decay_groups
from common.report import versions
from common.study import PLACES, Runs, Scheme, StudyFolder, plan
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM


# Points of a curve in the result, and blocks of text for the evaluation.
POINTS, EVALUATED = 48, 1024


@dataclass(kw_only=True)
class DepthConfig:
    """Keys of the study.

    Args:
        text_file: local parquet, csv, tsv, json, jsonl or txt file; its last twentieth is for the evaluation.
        text_column: column of the text.
        output_dir: folder of the study; holds one JSON per run, and all of them as `result.json`.
        result_file: where the result goes as well.
        schemes: by name, `add_norm` (a preset, or a dict of axes) and, where it is not the study's, `warmup`.
        depths: by number of layers, `seeds`, `steps` and `batch_size` of the runs of every scheme.
        learning_rate: peak of the schedule.
        warmup: share of the steps in which the rate rises; after that it falls linearly to 0.
        weight_decay: for weight matrices; biases, norms and residual scales are spared.
        hidden_size: width of the stream.
        num_attention_heads: heads of a layer.
        intermediate_size: width inside the feed-forward.
        initializer_range: standard deviation of the start weights, where the scheme has no init of its own.
        length: bytes in a block of text.
        masked: share of the bytes that is to be predicted.
    """

    text_file: str
    output_dir: str
    schemes: dict[str, Scheme]
    depths: dict[int, Runs]
    result_file: str | None = None
    text_column: str = "text"
    learning_rate: PositiveFloat = 1e-3
    warmup: ClosedUnitInterval = 0.2
    weight_decay: NonNegativeFloat = 0.01
    hidden_size: PositiveInt = 64
    num_attention_heads: PositiveInt = 2
    intermediate_size: PositiveInt = 128
    initializer_range: PositiveFloat = 0.125
    length: PositiveInt = 4
    masked: ClosedUnitInterval = 0.25


def model_config(settings: dict[str, Any]) -> AddNormBertConfig:
    """The encoder of a run, without dropout: what is measured is the scheme."""
    same = ("hidden_size", "num_attention_heads", "intermediate_size", "initializer_range", "add_norm")
    try:
        return AddNormBertConfig(
            vocab_size=masked_bytes.VOCABULARY,
            num_hidden_layers=settings["depth"],
            max_position_embeddings=settings["length"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **{key: settings[key] for key in same},
        )
    except UNLOADABLE as error:
        raise UserError(f"scheme {settings['scheme']!r} at depth {settings['depth']}: {one_line(error)}") from error


def losses_of(
    model: AddNormBertForMaskedLM, settings: dict[str, Any], batch_of: Callable[[int], dict[str, torch.Tensor]]
) -> list[float]:
    """Train on the batch of each step; the loss of every step, as far as it is a number."""
    steps, losses = settings["steps"], []
    groups = decay_groups(model, settings["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings["warmup"] * steps), steps)
    for step in range(steps):
        loss = model(**batch_of(step)).loss
        loss.backward()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses


def train(settings: dict[str, Any], text: masked_bytes.ByteBlocks, device: torch.device) -> dict[str, Any]:
    """One run: what the layers do before and after the training, and the loss over its steps."""
    began, size = time.perf_counter(), settings["batch_size"]

    def batch(blocks: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
        return {name: part.to(device) for name, part in masked_bytes.mask(blocks, settings["masked"], seed).items()}

    set_seed(settings["seed"])
    model = AddNormBertForMaskedLM(model_config(settings)).to(device)
    order = BatchOrder([settings["length"]] * len(text.train), size, settings["seed"], group_by_length=False)

    def layers() -> dict[str, list[float]]:
        found = probe(model, model.bert.encoder.layer, batch(text.validation[:size], 0))
        return {
            name: [rounded(values[layer]) for layer in picked(len(values), POINTS)] for name, values in found.items()
        }

    start = layers()
    losses = losses_of(model, settings, lambda step: batch(text.train[order.rows(step)], step))
    end = layers()
    labelled = batch(text.validation[:EVALUATED], 0)
    ends, means = binned(losses, POINTS)
    return {
        "loss": rounded(masked_bytes.evaluate(model, labelled)),
        "unigram_loss": rounded(masked_bytes.unigram_loss(text.train, labelled["labels"].cpu())),
        "steps_done": len(losses),
        "loss_steps": ends,
        "loss_history": means,
        "layers": [layer + 1 for layer in picked(settings["depth"], POINTS)],
        "start": start,
        "end": end,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(args=None):
    """The study, from the config to the result JSON."""
    config, resume = parse(DepthConfig, args)
    text = masked_bytes.load(config.text_file, config.text_column, config.length)
    keys = {key: value for key, value in asdict(config).items() if key not in PLACES}
    runs = plan({**keys, "sha256": text.source["sha256"]})
    for settings in runs.values():
        model_config(settings)
    folder = StudyFolder(config.output_dir, config.result_file, runs, resume)

    # One thread: matrices as small as these gain nothing from more.
    torch.set_num_threads(1)
    accelerator = Accelerator()
    about = {
        "recipe": "depth",
        "config": keys,
        "data": text.source,
        "versions": versions(),
        "machine": machine(accelerator),
    }
    folder.finish(about)
    for name in tqdm(folder.missing(), unit="run"):
        try:
            found = train(runs[name], text, accelerator.device)
        # A scheme that cannot be trained is a row of the result like any other.
        except (RuntimeError, MemoryError) as error:
            found = {"error": one_line(error)}
        folder.add(name, found)
        folder.finish(about)


if __name__ == "__main__":
    run_script(main)
