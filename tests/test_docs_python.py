"""Every Python block of the documentation runs, and prints what the page says that it prints.

The blocks of a page share one namespace. They run without a network: the checkpoints and the data that they name are
small local folders, and the Hub is that of the tests.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hub_server import HubServer
from pages import PAGES, ROOT, blocks, is_run, named
from transformers import BertConfig, BertModel, BertTokenizer


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "story"]


def serve(folder: Path) -> None:
    """Small folders under the names of the checkpoints and the data that the pages load."""
    torch.manual_seed(0)
    for name in ("google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"):
        checkpoint = folder / name
        checkpoint.mkdir(parents=True)
        (checkpoint / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
        BertModel(BertConfig(vocab_size=99, **size)).save_pretrained(checkpoint)
        BertTokenizer(vocab=str(checkpoint / "vocab.txt"), model_max_length=64).save_pretrained(checkpoint)
    rows = [{"sentence": f"a {word} film", "label": int(word == "good")} for word in ("good", "bad") * 100]
    (folder / "stanfordnlp" / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_parquet(folder / "stanfordnlp" / "sst2" / f"{split}.parquet")


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """Runs a page's Python blocks, in a folder of their own and with the Hub of the tests; see `docs_runner.py`."""
    home = tmp_path_factory.mktemp("home")
    with HubServer() as hub:
        more = {"TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
        env = hub.client_env(home, hub.store.add_user("ann"), **more)
        env["PYTHONPATH"] += f":{ROOT / 'tests'}"
        command = [sys.executable, str(ROOT / "tests" / "docs_runner.py")]
        log = home / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):

            def run(page: Path, folder: Path) -> dict:
                serve(folder)
                process.stdin.write(json.dumps([str(page), str(folder)]) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                assert answer.strip(), log.read_text()[-3000:]
                return json.loads(answer)

            yield run


WITH_PYTHON = [page for page in PAGES if blocks(page.read_text(), "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_python_blocks_run(page, run_page, tmp_path):
    found = [block for block in blocks(page.read_text(), "python") if is_run(block)]
    answer = run_page(page, tmp_path)
    assert answer["error"] is None, answer["error"]
    assert len(answer["outputs"]) == len(found)
    for block, output in zip(found, answer["outputs"], strict=True):
        if block.output is not None:
            assert output == block.output, f"{named(page)}, line {block.line}"


def test_every_block_that_is_not_run_is_counted():
    """An entry here is a block that cannot run; the comment above it says why."""
    counts = {named(page): sum(not is_run(block) for block in blocks(page.read_text(), "python")) for page in PAGES}
    assert {page: count for page, count in counts.items() if count} == {}
