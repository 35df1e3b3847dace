"""What conversions of a classifier keep: agreement with the source, KL and accuracy, and what each takes.

    python benchmarks/convert_sst2.py FOLDER --train train.parquet --validation validation.parquet --json FILE

FOLDER is a fine-tuned model, such as that of `recipes/configs/sst2.yaml`. Sentences of the train split, from number
16,000 of a shuffle, are what is calibrated on, without labels; others of them, and the validation split, are what is
measured on. "loaded" is the checkpoint as it loads into the scheme without a conversion. The result is written after
each target, so that a run can be stopped.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import pandas
import torch
from transformers import AutoTokenizer


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from common.machine import cpu_bf16, cpu_name

from hf_addnorm import convert, load_pretrained


EXACT_RMS = {"norm": "rms_norm", "residual": {"kind": "laurel_lr", "rank": 1}}
TARGETS = {
    "rms_norm, with a rank-1 residual": EXACT_RMS,
    "rms_norm": {"norm": "rms_norm"},
    "scale_norm": {"norm": "scale_norm"},
    "pre_ln": "pre_ln",
    "dyt in place": {"norm": "dyt"},
    "affine": {"norm": "affine"},
    "deepnorm": "deepnorm",
    "residual": "residual",
    "batch_norm in place": {"norm": "batch_norm"},
    "pre_rms_norm": "pre_rms_norm",
    "sandwich_ln": "sandwich_ln",
    "fixed_sigma": {"norm": "fixed_sigma"},
    "derf in place": {"norm": "derf"},
    "dyt": "dyt",
}


class Rows:
    """Sentences as batches of similar length, with their labels."""

    def __init__(self, tokenizer, sentences, labels, max_length=64):
        encoded = [tokenizer(text, truncation=True, max_length=max_length) for text in sentences]
        self.order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]["input_ids"]))
        parts = [self.order[start : start + 64] for start in range(0, len(encoded), 64)]
        self.batches = [tokenizer.pad([encoded[index] for index in part], return_tensors="pt") for part in parts]
        self.labels = torch.tensor([labels[index] for index in self.order])

    @torch.no_grad()
    def logits(self, model):
        return torch.cat([model.eval()(**batch).logits.float() for batch in self.batches])

    def compare(self, expected, found):
        p, q = expected.log_softmax(-1), found.log_softmax(-1)
        return {
            "agreement": (expected.argmax(-1) == found.argmax(-1)).double().mean().item(),
            "kl": (p.exp() * (p - q)).sum(-1).double().mean().item(),
            "accuracy": (found.argmax(-1) == self.labels).double().mean().item(),
        }


def one_target(folder, add_norm, calibration, splits, expected):
    """Convert to one target, and compare what comes out with the source, and with a plain load."""
    began = time.process_time()
    model, report = convert(folder, add_norm=add_norm, calibration=calibration, max_length=32)
    row = {"method": report.method, "cpu_seconds": time.process_time() - began}
    row |= {key: report.to_dict()[key] for key in ("target", "largest_difference", "peak_memory_mb", "sites")}
    loaded = load_pretrained("AutoModelForSequenceClassification", folder, add_norm=model.config.add_norm).float()
    for name, rows in splits.items():
        row[name] = rows.compare(expected[name], rows.logits(model))
    row["loaded"] = splits["validation"].compare(expected["validation"], splits["validation"].logits(loaded))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--train", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1024, help="to calibrate on, of which a quarter is held out")
    parser.add_argument("--unseen", type=int, default=800)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    train = pandas.read_parquet(args.train).sample(frac=1, random_state=0)
    validation = pandas.read_parquet(args.validation)
    calibration = [text for text in train.sentence[16000:20000] if len(text.split()) >= 5][: args.rows]
    seen = set(train.sentence[:60000].str.strip())
    rest = train[60000:]
    unseen = rest[~rest.sentence.str.strip().isin(seen)][: args.unseen]
    splits = {
        "validation": Rows(tokenizer, list(validation.sentence), list(validation.label)),
        "unseen": Rows(tokenizer, list(unseen.sentence), list(unseen.label)),
    }
    source = load_pretrained("AutoModelForSequenceClassification", args.folder, add_norm="post_ln").float()
    expected = {name: rows.logits(source) for name, rows in splits.items()}
    result = {
        "machine": {"cpu": cpu_name(), "cpu_bf16": cpu_bf16(), "cpu_count": os.cpu_count()},
        "threads": torch.get_num_threads(),
        "rows": args.rows,
        "source": {name: rows.compare(expected[name], expected[name]) for name, rows in splits.items()},
        "targets": {},
    }
    for title in args.targets:
        result["targets"][title] = row = one_target(args.folder, TARGETS[title], calibration, splits, expected)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
        found = row["unseen"]
        line = (
            f"{title:36s} {row['method']:10s} loaded {row['loaded']['agreement']:.3f}  validation "
            f"{row['validation']['agreement']:.4f}  unseen {found['agreement']:.4f}  KL {found['kl']:.2g}  accuracy "
            f"{row['validation']['accuracy']:.4f}  {row['cpu_seconds']:.0f} s CPU\n"
        )
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
