"""What conversions of a trained model keep: agreement with the source, KL and accuracy, after each step.

    python benchmarks/conversions.py --task sst2 --model FOLDER --data FOLDER --json FILE [--targets NAME ...]

The model is a fine-tuned one, such as that of `recipes/configs/sst2.yaml` or `ud_ewt_pos.yaml`; the data are a folder
with train.parquet and validation.parquet. Rows of the train split that are drawn with a seed are what is calibrated
and distilled on, without labels; others of them, and the validation split, are what is measured on.

    loaded      the checkpoint as it loads into the scheme without a conversion
    mapped      the norms carried over, nothing fitted
    calibrated  what `convert` gives by default: exact where algebra allows it, else fitted
    distilled   then trained by `recipes/convert.py`

Every step is written as soon as it is measured, and steps that the file has are not done again: a run can be stopped.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import datasets
import torch
from transformers import AutoTokenizer


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes"))

from common.machine import cpu_bf16, cpu_name
from common.words import first_tokens

from hf_addnorm import convert, load_pretrained
from hf_addnorm.conversion.source import load_source


SKIP = {"kind": "vector", "side": "skip", "start": 1.0}
TARGETS = {
    "rms_norm, with a rank-1 residual": {"norm": "rms_norm", "residual": {"kind": "laurel_lr", "rank": 1}},
    "deepnorm": "deepnorm",
    "residual": "residual",
    "rms_norm": {"norm": "rms_norm"},
    "scale_norm": {"norm": "scale_norm"},
    "scale_norm, with a vector on the skip": {"norm": "scale_norm", "residual": SKIP},
    "dyt": {"norm": "dyt"},
    "pre_ln": "pre_ln",
    "affine": {"norm": "affine"},
    "batch_norm": {"norm": "batch_norm"},
    "derf": {"norm": "derf"},
    "fixed_sigma": {"norm": "fixed_sigma"},
    "pre_rms_norm": "pre_rms_norm",
    "sandwich_ln": "sandwich_ln",
}
STEPS = ("loaded", "mapped", "calibrated", "distilled")
# the head; the column of texts, or of words; that of labels
TASKS = {
    "sst2": ("AutoModelForSequenceClassification", "sentence", "label"),
    "banking77": ("AutoModelForSequenceClassification", "text", "label"),
    "ud_ewt_pos": ("AutoModelForTokenClassification", "tokens", "upos"),
}
MAX_LENGTH = 64
# rows to convert with have so many at least: those of SST-2 are parts of sentences, most of them shorter than those of
# the validation split
WORDS = 10


class Rows:
    """Rows as batches of similar length, with labels of rows, or of words at their first tokens."""

    def __init__(self, tokenizer, texts, labels):
        joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
        encoded = tokenizer(joined, truncation=True, max_length=MAX_LENGTH, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        order = sorted(range(len(joined)), key=lambda row: len(encoded["input_ids"][row]))
        self.batches, self.places, found = [], [], []
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            part = [{name: values[row] for name, values in encoded.items()} for row in chosen]
            self.batches.append(tokenizer.pad(part, return_tensors="pt"))
            if isinstance(labels[0], int):
                self.places.append(None)
                found += [labels[row] for row in chosen]
                continue
            firsts = [first_tokens(texts[row], offsets[row]) for row in chosen]
            seen = [(at, place) for at, places in enumerate(firsts) for place in places if place >= 0]
            self.places.append(tuple(torch.tensor(part) for part in zip(*seen, strict=True)))
            pairs = chain.from_iterable(
                zip(places, labels[row], strict=True) for row, places in zip(chosen, firsts, strict=True)
            )
            found += [label for place, label in pairs if place >= 0]
        self.labels = torch.tensor(found)

    @torch.no_grad()
    def logits(self, model):
        """[predictions, classes]"""
        found = []
        for batch, places in zip(self.batches, self.places, strict=True):
            logits = model.eval()(**batch).logits.float()
            found.append(logits if places is None else logits[places])
        return torch.cat(found)

    def compare(self, expected, model):
        """Agreement, divergence and accuracy."""
        found = self.logits(model)
        p, q = expected.log_softmax(-1), found.log_softmax(-1)
        return {
            "agreement": (expected.argmax(-1) == found.argmax(-1)).double().mean().item(),
            "kl": (p.exp() * (p - q)).sum(-1).double().mean().item(),
            "accuracy": (found.argmax(-1) == self.labels).double().mean().item(),
        }


def read(args):
    """Rows to convert with, and rows to measure on."""
    _, column, label = TASKS[args.task]
    files = {name: str(args.data / f"{name}.parquet") for name in ("train", "validation")}
    if not Path(files["validation"]).exists():
        files["validation"] = str(args.data / "test.parquet")
    splits = datasets.load_dataset("parquet", data_files=files)
    train, validation = splits["train"].shuffle(seed=0), splits["validation"]

    def size(row):
        return len(row[column].split()) if isinstance(row[column], str) else len(row[column])

    known = set(map(str, train[: len(train) - args.unseen][column]))
    unseen = train.select(range(len(train) - args.unseen, len(train))).filter(
        lambda row: str(row[column]) not in known
    )
    texts = train.select(range(len(train) - args.unseen)).filter(lambda row: size(row) >= WORDS)
    texts = texts.select(range(min(len(texts), args.texts))).select_columns([column])
    return texts, {"validation": validation, "unseen": unseen}, column, label


class Measurement:
    """The steps of every target, in a JSON that grows."""

    def __init__(self, args):
        self.args, self.head = args, TASKS[args.task][0]
        self.folder = args.models or Path(tempfile.mkdtemp())
        self.texts, splits, self.column, label = read(args)
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        self.splits = {name: Rows(self.tokenizer, rows[self.column], rows[label]) for name, rows in splits.items()}
        source = load_source(args.model).float()
        self.expected = {name: rows.logits(source) for name, rows in self.splits.items()}
        self.result = self.about(source) | self.written()

    def about(self, source):
        """What the file says beside the targets."""
        return {
            "task": self.args.task,
            "machine": {"cpu": cpu_name(), "cpu_bf16": cpu_bf16(), "cpu_count": os.cpu_count()},
            "threads": torch.get_num_threads(),
            "note": self.args.note,
            "rows": {"calibration": self.args.rows, "texts": len(self.texts)},
            "source": {name: rows.compare(self.expected[name], source) for name, rows in self.splits.items()},
        }

    def written(self):
        """The rows that the file has."""
        return {"targets": json.loads(self.args.json.read_text())["targets"] if self.args.json.exists() else {}}

    def write(self, rows):
        """Add rows to those of the file."""
        self.result |= self.written()
        for title, steps in rows.items():
            self.result["targets"].setdefault(title, {}).update(steps)
        self.args.json.write_text(json.dumps(self.result, indent=1) + "\n")

    def measure(self, model, **more):
        """A model on both splits."""
        return {name: rows.compare(self.expected[name], model) for name, rows in self.splits.items()} | more

    def keep(self, title, step, row):
        """Write a step's row, and print it; another process may have written others."""
        self.write({title: {step: row}})
        validation, unseen = row["validation"], row["unseen"]
        sys.stdout.write(
            f"{title:38s} {step:10s} agreement {validation['agreement']:.4f} {unseen['agreement']:.4f}  KL "
            f"{unseen['kl']:.2g}  accuracy {validation['accuracy']:.4f}  {row.get('cpu_seconds', 0):.0f} s CPU\n"
        )
        sys.stdout.flush()

    def run(self, title, steps):
        """All steps of a target that the file does not have."""
        done = self.result["targets"].get(title, {})
        steps = [step for step in steps if step not in done]
        if "mapped" in steps or "loaded" in steps:
            model, row = self.convert(title, "mapped")
            if "loaded" in steps:
                loaded = load_pretrained(self.head, self.args.model, add_norm=model.config.add_norm).float()
                self.keep(title, "loaded", self.measure(loaded))
            if "mapped" in steps:
                self.keep(title, "mapped", self.measure(model, **row))
        begin = self.folder / re.sub(r"\W+", "_", title)
        fits = "calibrated" in steps or ("distilled" in steps and not begin.exists())
        if fits:
            model, row = self.convert(title, "auto")
            model.save_pretrained(begin)
            self.tokenizer.save_pretrained(begin)
            if "calibrated" in steps:
                self.keep(title, "calibrated", self.measure(model, **row))
        is_exact = fits and row["method"] != "calibrated"
        if "distilled" in steps and not is_exact and done.get("calibrated", {}).get("method") != "exact":
            self.distil(title, begin)

    def convert(self, title, method):
        """A converted model, and what its row says beside the comparison."""
        texts = self.texts[: self.args.rows][self.column]
        texts = [text if isinstance(text, str) else " ".join(text) for text in texts]
        began = time.process_time()
        model, report = convert(
            self.args.model, add_norm=TARGETS[title], calibration=texts, method=method, max_length=MAX_LENGTH
        )
        seconds = time.process_time() - began
        kept = ("method", "target", "largest_difference", "sites", "as_loaded", "held_out")
        about = {key: report.to_dict()[key] for key in kept}
        return model, about | {"cpu_seconds": seconds, "peak_memory_mb": report.peak_memory_mb}

    def distil(self, title, begin):
        """Train the calibrated model of a folder by the recipe, in a process of its own."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.texts.to_parquet(folder / "train.parquet")
            self.texts.select(range(100)).to_parquet(folder / "validation.parquet")
            keys = {
                "checkpoint": self.args.model,
                "begin": begin,
                "train_file": folder / "train.parquet",
                "validation_file": folder / "validation.parquet",
                "text_column": self.column,
                "output_dir": folder / "run",
                "add_norm": "null",
                "final_model": "last",
                "checkpoint_every": "null",
                "calibration_rows": 256,
                "epochs": 100,
                "max_length": MAX_LENGTH,
                "max_steps": self.args.distil_steps,
                "eval_every": self.args.distil_steps,
            }
            command = [
                sys.executable,
                str(ROOT / "recipes/convert.py"),
                "--config",
                str(ROOT / "recipes/configs/convert.yaml"),
            ]
            subprocess.run([*command, *(f"--{key}={value}" for key, value in keys.items())], check=True)
            result = json.loads((folder / "run" / "result.json").read_text())
            trained = load_source(str(folder / "run" / "model")).float()
        learnt = ("learning_rate", "batch_size", "hidden_weight", "logits_weight")
        more = {key: result[key] for key in ("steps", "train_seconds", "used")}
        more |= {key: result["config"][key] for key in learnt}
        self.keep(title, "distilled", self.measure(trained, **more))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--models", type=Path, help="folder that keeps the calibrated models for a later call")
    parser.add_argument("--rows", type=int, default=768, help="to calibrate on, of which a quarter is held out")
    parser.add_argument("--texts", type=int, default=16000, help="to distil on")
    parser.add_argument("--unseen", type=int, default=800)
    parser.add_argument("--distil_steps", type=int, default=1000)
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--note", default="", help="about the machine: what else it did")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measurement = Measurement(args)
    measurement.write({})
    for title in args.targets:
        measurement.run(title, args.steps)


if __name__ == "__main__":
    main()
