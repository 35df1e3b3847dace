"""What packed tokens give beside the stock model, which runs with padding and sdpa.

    python benchmarks/packed.py [--rounds 12] [--json FILE] [--note TEXT]

MiniLM's shape (6 layers, 384 wide), random weights, float32, batches of 32 texts whose lengths are those of SST-2. The
figure is how many times as fast as stock a candidate is on the same batch: a classifier in inference and in a training
step without its optimiser, a masked language model in a training step, 15 % of the tokens labelled. Batches: in random
order, of like lengths ("grouped"), and 8 texts of 128 tokens each, nothing padded ("full").

A case whose logits (or loss) are not stock's stops the run.
"""

import random
from functools import partial
from typing import Any

import torch
from interleaved import ratios, run, seconds_of
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertForSequenceClassification


SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BATCH, FULL = 32, (8, 128)
# how many of the first 20,000 texts of SST-2's training data have 3, 4, 5, ... word pieces
LENGTH_COUNTS = [
    545, 1555, 1768, 1636, 1381, 1238, 1102, 993, 868, 798, 735, 613, 620, 551, 485, 451, 409, 382, 320, 322, 287, 264,
    255, 234, 232, 201, 192, 151, 161, 134, 138, 115, 88, 87, 93, 71, 58, 64, 50, 51, 46, 47, 27, 28, 21, 28, 20, 13,
    11, 12, 12, 9, 6, 6, 6, 3, 0, 2, 0, 3, 2,
]  # fmt: skip

Batch = dict[str, torch.Tensor]


def batch_of(lengths: list[int]) -> Batch:
    """Texts of these lengths, padded to the longest."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": torch.randint(1000, 30000, mask.shape) * mask, "attention_mask": mask}


def batches(kind: str, number: int) -> list[Batch]:
    """So many batches, in random order or of like lengths or of full ones."""
    if kind == "full":
        return [batch_of(FULL[0] * [FULL[1]]) for _ in range(number)]
    values = random.choices(range(3, 3 + len(LENGTH_COUNTS)), LENGTH_COUNTS, k=BATCH * 40)
    lengths = sorted(values) if kind == "grouped" else values
    parts = [lengths[start : start + BATCH] for start in range(0, len(lengths), BATCH)]
    return [batch_of(part) for part in random.sample(parts, number)]


def classifiers() -> dict[str, torch.nn.Module]:
    stock = BertForSequenceClassification(BertConfig(**SHAPE))
    return _with_ours(stock, AddNormBertForSequenceClassification)


def language_models() -> dict[str, torch.nn.Module]:
    models = _with_ours(BertForMaskedLM(BertConfig(**SHAPE)), AddNormBertForMaskedLM)
    models["packed, labelled only"] = AddNormBertForMaskedLM(AddNormBertConfig(**SHAPE))
    models["packed, labelled only"].load_state_dict(models["stock"].state_dict())
    models["packed, labelled only"].set_packed(labelled_only=True)
    return models


def _with_ours(stock: torch.nn.Module, cls: Any) -> dict[str, torch.nn.Module]:
    models = {"stock": stock} | {name: cls(AddNormBertConfig(**SHAPE)) for name in ("padded", "packed")}
    for model in models.values():
        model.load_state_dict(stock.state_dict())
    models["packed"].set_packed()
    return models


def step(model: torch.nn.Module, batch: Batch, training: bool) -> None:
    with torch.set_grad_enabled(training):
        output = model(**batch)
        if training:
            output.loss.backward()
            model.zero_grad()


def check(models: dict[str, torch.nn.Module], batch: Batch) -> None:
    """Stop where a model computes something else than stock."""
    with torch.no_grad():
        outputs = {name: model.eval()(**batch) for name, model in models.items()}
    what = "loss" if "labels" in batch and batch["labels"].dim() == 2 else "logits"
    for name, output in outputs.items():
        torch.testing.assert_close(output[what], outputs["stock"][what], rtol=1e-4, atol=1e-5, msg=f"{name}: {what}")


def measured(models: dict[str, torch.nn.Module], given: list[Batch], training: bool) -> dict[str, Any]:
    """Ratios over the batches, the first of which only warms up."""
    check(models, given[0])
    rounds = []
    for batch in given:
        for model in models.values():
            model.train(training)
        rounds.append(seconds_of({name: partial(step, model, batch, training) for name, model in models.items()}))
    return ratios(rounds[1:], "stock")


def measure(rounds: int) -> dict[str, Any]:
    figures, models = {}, classifiers()
    for kind in ("random", "grouped", "full"):
        # full batches take longest, and vary least
        given = batches(kind, 1 + (max(3, rounds // 2) if kind == "full" else rounds))
        for batch in given:
            batch["labels"] = torch.arange(len(batch["input_ids"])) % 2
        for training in (False, True):
            figures[f"{'training' if training else 'inference'}, {kind}"] = measured(models, given, training)
    given = batches("random", 1 + max(3, rounds // 2))
    for batch in given:
        chosen = (torch.rand(batch["input_ids"].shape) < 0.15) & batch["attention_mask"].bool()
        batch["labels"] = torch.where(chosen, batch["input_ids"], -100)
    figures["training a masked language model, random"] = measured(language_models(), given, True)
    return figures


if __name__ == "__main__":
    run("packed", measure, __doc__ or "", rounds=12)
