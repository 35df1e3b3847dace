"""The shared parts on their own: order of rows, builtin data, metrics, decay groups, configs, documentation."""

import math
import re
import sys
from pathlib import Path

import keys_table
import numpy as np
import pytest
import torch
from common import answers, batches, config, data, docstring_match, metrics, model, words
from common.training import Task
from datasets import ClassLabel, Dataset, Features, Value
from depth import DepthConfig
from families import FAMILIES, MODELS
from finetune_text import TextConfig
from sweep import SweepConfig
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import hf_addnorm


RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_every_yaml_parses():
    paths = sorted(RECIPES.rglob("*.yaml"))
    classes = {**keys_table.scripts(), "depth": DepthConfig, "sweep": SweepConfig}
    assert len(paths) > len(classes)
    # keys that a YAML leaves to the command line
    more = {"depth": ["--text_file", "words.txt"]}
    for path in paths:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        script = re.search(rf"recipes/(\w+)\.py --config recipes/configs/{path.name}", "".join(header))[1]
        parsed, resume = config.parse(classes[script], ["--config", str(path), *more.get(path.stem, [])])
        assert parsed.output_dir == f"runs/{path.stem}"
        assert not resume


def test_command_line_overrides_the_file():
    path = str(RECIPES / "configs" / "sst2.yaml")
    spec = '{"preset": "post_ln", "norm": "rms_norm"}'
    args = ["--config", path, "--add_norm", spec, "--learning_rate", "3e-5", "--epochs", "2", "--resume"]
    parsed, resume = config.parse(TextConfig, args)
    assert parsed.add_norm == {"preset": "post_ln", "norm": "rms_norm"}
    assert (parsed.learning_rate, parsed.epochs, parsed.dataset, resume) == (3e-5, 2, "stanfordnlp/sst2", True)
    # Restricted numbers of the parser would not be loadable from a checkpoint.
    assert type(parsed.learning_rate) is float
    assert type(parsed.epochs) is int
    assert config.parse(TextConfig, ["--config", path, "--add_norm", "dyt"])[0].add_norm == "dyt"


def test_readme_names_files_that_exist():
    text = (RECIPES / "README.md").read_text()
    named = set(re.findall(r"recipes/[\w./]+\.(?:py|yaml)", text)) | {
        f"recipes/{p}" for p in re.findall(r"`(common/\w+\.py)`", text)
    }
    assert len(named) > 10
    assert not [name for name in named if not (RECIPES.parent / name).is_file()]


def test_order_is_a_function_of_the_seed():
    lengths = [3 + (7 * row) % 11 for row in range(27)]
    order = batches.BatchOrder(lengths, 8, seed=1)
    assert order.steps_per_epoch == 4
    epochs = [[order.rows(4 * epoch + step) for step in range(4)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(row for rows in epoch for row in rows) == list(range(27))
        assert sorted(len(rows) for rows in epoch) == [3, 8, 8, 8]
    assert epochs[0] != epochs[1]
    # Asked for in another sequence, as after a resume, and from a new object.
    assert batches.BatchOrder(lengths, 8, seed=1).rows(6) == epochs[1][2]
    assert order.rows(0) == epochs[0][0]
    assert batches.BatchOrder(lengths, 8, seed=2).rows(0) != epochs[0][0]


def test_length_grouping_saves_padding():
    lengths = np.random.default_rng(0).integers(4, 64, 1000).tolist()

    def slots(group: bool) -> int:
        order = batches.BatchOrder(lengths, 10, seed=0, group_by_length=group)
        return sum(10 * max(lengths[row] for row in order.rows(step)) for step in range(100))

    assert sum(lengths) <= slots(True) < 1.1 * sum(lengths) < slots(False)


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)])
def test_shares_are_the_whole_step(processes, accumulation):
    order = batches.BatchOrder(list(range(27)), 8, seed=0)
    for step in range(4):
        shares = [order.share(step, accumulation, process, processes) for process in range(processes)]
        assert {len(share) for share in shares} == {accumulation}
        assert all(len(rows) <= 8 // accumulation // processes for share in shares for rows in share)
        assert sorted(row for share in shares for rows in share for row in rows) == sorted(order.rows(step))


@pytest.mark.parametrize("label", [1, 0.5])
def test_an_empty_share_has_no_label(label):
    def collate(rows):
        return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}

    task = Task(
        rows=[{"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": label}],
        collate=collate,
        loss=None,
        evaluation=None,
        auto_class=None,
    )
    full, empty = task.batch([0], "0/0"), task.batch([], "0/0")
    assert empty["input_ids"].tolist() == full["input_ids"].tolist()
    assert task.count([full, full]).tolist() == [2, 6, 6]
    assert task.count([empty]).tolist() == [0, 3, 3]


@pytest.fixture(scope="module")
def builtin():
    return docstring_match.load()


def test_docstring_match_is_split_by_module_and_balanced(builtin):
    modules = {split: set(rows["module"]) for split, rows in builtin.items()}
    assert modules["train"] <= set(docstring_match.TRAIN_MODULES)
    assert modules["validation"] <= set(docstring_match.VALIDATION_MODULES)
    assert not set(docstring_match.TRAIN_MODULES) & set(docstring_match.VALIDATION_MODULES)
    seen: dict[str, set] = {"sentence": set(), "signature": set()}
    for rows in builtin.values():
        for column in ("sentence", "signature"):
            matching, foreign = (sorted(row[column] for row in rows if row["label"] == label) for label in (1, 0))
            # Each stands once in a matching and once in a foreign pair, and in one split only.
            assert matching == foreign
            assert len(set(matching)) == len(matching)
            assert not seen[column] & set(matching)
            seen[column] |= set(matching)
    pairs = {(row["sentence"], row["signature"]) for row in builtin["train"]}
    assert len(pairs) == len(builtin["train"])


def test_docstring_match_is_deterministic(builtin):
    again = docstring_match.load()
    found = {split: data.fingerprint(rows) for split, rows in builtin.items()}
    assert found == {split: data.fingerprint(rows) for split, rows in again.items()}
    if sys.version_info[:3] == (3, 11, 7):
        assert builtin.num_rows == {"train": 5002, "validation": 1750}
        assert {split: digest[:12] for split, digest in found.items()} == {
            "train": "cfafc202eb08",
            "validation": "a48126bcf7cf",
        }


@pytest.mark.parametrize(
    ("name", "docstring", "sentence"),
    [
        ("dumps", "Turn e.g. this into text. Or not.", "Turn e.g. this into text."),
        ("dumps", "dumps(obj) -> str\n\nTurn obj into\ntext.", "Turn obj into text."),
        ("dumps", "dumps(a, b=(1, 2)) -> list[str]: Turn it into text", "Turn it into text"),
        ("dumps", "json.dumps(obj)\njson.dumps(obj, indent)\nTurn it into text", "Turn it into text"),
        ("dumps", "dumps(obj) -> str", None),
        ("dumps", "Calls dumps(obj) with care.", None),
        ("get_name", "Like get_name but faster.", None),
        ("getName", "Like getName but faster.", None),
        ("__eq__", "Implement __eq__ for it.", None),
        ("read", "Read and read again.", "Read and read again."),
        ("dumps", "Too short.", None),
        ("dumps", ">>> 1 + 1 is two", None),
    ],
)
def test_first_sentence(name, docstring, sentence):
    node = docstring_match.ast.parse(f"def {name}(obj):\n    {docstring!r}").body[0]
    assert docstring_match.first_sentence(node) == sentence


def test_declared_classes_and_subset():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes", "unused"])})
    rows = Dataset.from_dict({"text": list("abcd"), "label": [0, 1, 1, 0]}, features=features)
    numbers, head = data.class_labels({"train": rows}, "label", None)
    assert numbers == {"train": [0, 1, 1, 0]}
    assert head["id2label"] == {0: "no", 1: "yes", 2: "unused"}
    assert data.subset(rows, 9, seed=0) is rows
    drawn = [data.subset(rows, 2, seed)["text"][:] for seed in range(8)]
    assert drawn[0] == data.subset(rows, 2, seed=0)["text"][:]
    assert len({tuple(texts) for texts in drawn}) > 1
    assert data.fingerprint(rows) != data.fingerprint(rows.select([1, 0, 2, 3]))


def test_classification_metrics_against_formulas():
    true, found = [0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 0, 2, 2, 1]
    values = metrics.load_metrics(None, metrics.CLASSIFICATION).compute(predictions=found, references=true)
    table = np.zeros((3, 3))
    np.add.at(table, (true, found), 1)
    right, rows, columns = np.diag(table), table.sum(1), table.sum(0)
    total = table.sum()
    assert values["accuracy"] == pytest.approx(right.sum() / total)
    assert values["f1"] == pytest.approx(np.mean(2 * right / (rows + columns)))
    over = right.sum() * total - rows @ columns
    under = math.sqrt((total**2 - columns @ columns) * (total**2 - rows @ rows))
    assert values["matthews_correlation"] == pytest.approx(over / under)


_CLASSES, _NUMBERS, _TEXTS = [0, 1, 1], [0.0, 1.0, 2.5], ["a cat", "a dog", "the cat sat"]
FIGURES = {
    "classification": (metrics.CLASSIFICATION, _CLASSES, _CLASSES),
    "regression": (metrics.REGRESSION, _NUMBERS, _NUMBERS),
    "texts": (metrics.TEXT, _TEXTS, _TEXTS),
    "transcription": (metrics.TRANSCRIPTION, _TEXTS, _TEXTS),
    "answers": (answers.ANSWERS, _TEXTS, [[text] for text in _TEXTS]),
    "entities": (words.ENTITIES, [["B-a", "O"]], [["B-a", "O"]]),
    "words": (words.LABELS, [["DET", "NOUN"]], [["DET", "NOUN"]]),
}


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, (known, _, _) in FIGURES.items() for name in known])
def test_evaluations_can_be_compared_by_any_metric(task, name):
    known, predictions, references = FIGURES[task]
    figure = metrics.leading_figure([name], known)
    figures = metrics.load_metrics([name], known).compute(predictions=predictions, references=references)
    assert figures[figure.lstrip("-")] == pytest.approx(0 if figure.startswith("-") else max(figures.values()))
    assert metrics.leading_figure(None, known) == metrics.leading_figure([next(iter(known))], known)


def test_regression_metrics_against_formulas():
    true, found = [0.0, 1.0, 2.0, 3.0, 5.0], [0.1, 0.9, 3.5, 2.5, 2.6]

    def correlation(x, y):
        x, y = np.subtract(x, np.mean(x)), np.subtract(y, np.mean(y))
        return x @ y / math.sqrt((x @ x) * (y @ y))

    metric = metrics.load_metrics(["spearman", "pearson"], metrics.REGRESSION)
    values = metric.compute(predictions=found, references=true)
    assert list(values) == ["spearman", "pearson"]
    assert values["pearson"] == pytest.approx(correlation(true, found), rel=1e-5)
    assert values["spearman"] == pytest.approx(correlation([0, 1, 2, 3, 4], [0, 1, 4, 2, 3]), rel=1e-5)
    constant = metric.compute(predictions=[1.0] * 5, references=true)
    assert all(math.isnan(value) for value in constant.values())


def test_decay_groups():
    tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    bert = BertForSequenceClassification(tiny)
    decayed, spared = model.decay_groups(bert, 0.1)
    names = {id(parameter): name for name, parameter in bert.named_parameters()}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [names[id(parameter)] for parameter in decayed["params"]] == [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.self.key.weight",
        "bert.encoder.layer.0.attention.self.value.weight",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.layer.0.output.dense.weight",
        "bert.pooler.dense.weight",
        "classifier.weight",
    ]
    assert [names[id(parameter)] for parameter in spared["params"]] == [
        "bert.embeddings.LayerNorm.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.self.query.bias",
        "bert.encoder.layer.0.attention.self.key.bias",
        "bert.encoder.layer.0.attention.self.value.bias",
        "bert.encoder.layer.0.attention.output.dense.bias",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.bias",
        "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.bias",
        "bert.encoder.layer.0.output.LayerNorm.weight",
        "bert.encoder.layer.0.output.LayerNorm.bias",
        "bert.pooler.dense.bias",
        "classifier.bias",
    ]


@pytest.mark.parametrize("preset", hf_addnorm.presets())
def test_what_a_preset_adds_is_spared_but_for_gates(preset, tiny):
    addnorm, stock = (
        hf_addnorm.load_pretrained(AutoModelForSequenceClassification, tiny, add_norm=add_norm)
        for add_norm in (preset, None)
    )
    names = {id(parameter): name for name, parameter in addnorm.named_parameters()}
    decayed, spared = model.decay_groups(addnorm, 0.1)
    # of what the preset adds, the weights of gates alone, which are projections
    kept = [names[id(parameter)] for parameter in decayed["params"]]
    assert [name for name in kept if "_gate." not in name] == [
        name for name, parameter in stock.named_parameters() if parameter.ndim == 2
    ]
    assert all("_norm." not in name and "bias" not in name for name in kept if "_gate." in name)
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


@pytest.mark.parametrize(("kind", "matrix"), [("gated_rms_norm", "gate_"), ("dynamic_token_norm", "position_weights")])
def test_the_matrices_of_a_norm_are_decayed(kind, matrix, tiny):
    addnorm = hf_addnorm.load_pretrained(
        AutoModelForSequenceClassification, tiny, add_norm={"preset": "pre_ln", "norm": kind}
    )
    decayed, spared = ({id(p) for p in group["params"]} for group in model.decay_groups(addnorm, 0.1))
    assert any(matrix in name for name, _ in addnorm.named_parameters())
    for name, parameter in addnorm.named_parameters():
        is_matrix = parameter.ndim == 2
        assert (id(parameter) in decayed, id(parameter) in spared) == (is_matrix, not is_matrix), name


def test_dropout_override(tiny):
    settings = TextConfig(checkpoint=tiny, output_dir="", dropout=0.25, add_norm="pre_ln")
    loaded = model.load_model(AutoModelForSequenceClassification, settings, torch.device("cpu"), num_labels=3)
    rates = {module.p for module in loaded.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}
    assert loaded.config._attn_implementation == "eager"
    assert loaded.num_labels == 3


# GPT-2's config has no entry for this one
RATES = ("dropout", "activation_dropout")
UNDECLARED_DROPOUT = {"AddNormGPT2ForTokenClassification": {"dropout": 0.1}}


@pytest.mark.parametrize(("family", "name"), MODELS)
def test_every_dropout_rate_of_every_model_is_among_the_keys(family, name):
    row = FAMILIES[family]
    with torch.device("meta"):
        rates = dict.fromkeys(model.dropout_keys(row.stock_config(name)), 0.3)
        net = row.stock_class(name)(row.stock_config(name, **rates))
    drops = {path: module.p for path, module in net.named_modules() if isinstance(module, torch.nn.Dropout)}
    # some layers have the rate alone
    named = ((f"{path}.{rate}", getattr(module, rate, None)) for path, module in net.named_modules() for rate in RATES)
    drops |= {path: p for path, p in named if isinstance(p, float)}
    assert {path: p for path, p in drops.items() if p != 0.3} == UNDECLARED_DROPOUT.get(name, {})
    assert 0.3 in drops.values()
