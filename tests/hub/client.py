"""One client of the Hub, a process of its own: does steps, and says what came of each.

Usage: python client.py RECORDS; reads a line for each step, [verb, {argument: value}], and answers it with a line:
what the verb returned, or {"error": class, "message": text}. A pushed model's inputs and outputs go to a file in the
folder RECORDS; who loads the model compares. With ADDNORM_HIDDEN=1 the package cannot be imported; otherwise it is
imported, unless ADDNORM_HIDDEN=0.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hidden import hide


HIDDEN = os.environ.get("ADDNORM_HIDDEN")
if HIDDEN == "1":
    hide()

import huggingface_hub
import numpy as np
import torch
import transformers
from huggingface_hub.utils import _http
from transformers import dynamic_module_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module


if HIDDEN is None:
    import hf_addnorm

# a client that tries again and again does so at once
_http.time.sleep = lambda seconds: None
# how long one is asked whether the code of a checkpoint may run; nobody answers
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 1

RECORDS = Path(sys.argv[1])
VERBS: dict[str, Callable[..., Any]] = {}


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Enter a function into the table."""
    VERBS[function.__name__] = function
    return function


def prepared_by(made: Any, sample: Any) -> dict[str, torch.Tensor]:
    """What a tokenizer or a processor makes of the sample."""
    given = sample.numpy() if isinstance(sample, torch.Tensor) else sample
    return {name: torch.tensor(np.asarray(value)) for name, value in made(given).items()}


def _equal(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def _file_of(record: str) -> Path:
    return RECORDS / f"{record.replace('/', '--')}.pt"


@verb
def push(case: str, spec: str, repo: str, record: str | None = None, prepares: bool = False, **more: Any) -> Any:
    """Push a model and, if asked, what prepares its inputs; record what it gives."""
    from cases import CASES, SPECS

    row = CASES[case]
    local = RECORDS / "local" / (record or repo)
    row.build(SPECS[spec]).save_pretrained(local)
    # as loaded: weights that are mapped from a file are aligned differently, which BLAS shows in the last bit
    net = getattr(hf_addnorm, row.model).from_pretrained(local)
    made = row.prepares.make()
    known = {"inputs": row.inputs(), "outputs": net(**row.inputs())[0].detach(), "base": net.base_model.state_dict()}
    known |= {"sample": row.prepares.sample, "prepared": prepared_by(made, row.prepares.sample)}
    torch.save(known, _file_of(record or repo))
    commit = net.push_to_hub(repo, **more)
    if prepares:
        made.push_to_hub(repo, **more)
    return {"commit": commit.oid, "pull": commit.pr_url}


def _load(repo: str, auto: str, record: str | None, **more: Any) -> tuple[Any, dict[str, Any]]:
    known = torch.load(_file_of(record or repo), weights_only=True)
    net = getattr(transformers, auto).from_pretrained(repo, **more)
    found = {"model": type(net).__module__, "config": type(net.config).__module__, "class": type(net).__name__}
    return net, found | {"equal": torch.equal(net(**known["inputs"])[0], known["outputs"])}


@verb
def load(repo: str, auto: str, record: str | None = None, **more: Any) -> Any:
    """Load a model through its Auto class, and compare with the record."""
    return _load(repo, auto, record, **more)[1]


@verb
def load_all(repo: str, auto: str, prepares: str, record: str | None = None, **more: Any) -> Any:
    """The same, with the config alone, the bare model, and what prepares the inputs."""
    known = torch.load(_file_of(record or repo), weights_only=True)
    config = transformers.AutoConfig.from_pretrained(repo, **more)
    found = _load(repo, auto, record, **more)[1]
    base = transformers.AutoModel.from_pretrained(repo, **more).state_dict()
    made = getattr(transformers, prepares).from_pretrained(repo, **more)
    return found | {
        "same_config": type(config).__module__ == found["config"],
        # the model with a head may have no pooler
        "base": _equal({key: base[key] for key in known["base"]}, known["base"]),
        "prepared": _equal(prepared_by(made, known["sample"]), known["prepared"]),
    }


@verb
def prepare(repo: str, auto: str, record: str | None = None) -> Any:
    """Load what prepares the inputs, without the model and where its code may not run, and compare with the record."""
    known = torch.load(_file_of(record or repo), weights_only=True)
    made = getattr(transformers, auto).from_pretrained(repo, trust_remote_code=False)
    return {
        "prepared": _equal(prepared_by(made, known["sample"]), known["prepared"]),
        "package": type(made).__module__.split(".")[0],
    }


@verb
def push_again(repo: str, auto: str, to: str, record: str | None = None, **more: Any) -> Any:
    """Load a model, and push it as it is, to the same or to another repository."""
    net, found = _load(repo, auto, record, **more)
    return found | {"commit": net.push_to_hub(to).oid}


@verb
def load_by_reference(repo: str, reference: str, record: str | None = None) -> Any:
    """Load the code of a checkpoint whatever is imported: by module and class."""
    known = torch.load(_file_of(record or repo), weights_only=True)
    net = get_class_from_dynamic_module(reference, repo).from_pretrained(repo)
    return {
        "model": type(net).__module__,
        "config": type(net.config).__module__,
        "equal": torch.equal(net(**known["inputs"])[0], known["outputs"]),
    }


@verb
def package(load: bool = False) -> Any:
    """Whether hf_addnorm is imported by now, and from where; with `load`, after importing it."""
    if load:
        importlib.import_module("hf_addnorm")
    found = sys.modules.get("hf_addnorm")
    return None if found is None else found.__file__


@verb
def cli(*, args: list[str]) -> Any:
    """The console script: its exit code, and what it says."""
    from typer.testing import CliRunner

    from hf_addnorm.cli.app import app

    result = CliRunner().invoke(app, args)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return {"code": result.exit_code, "said": result.output}


@verb
def api(method: str, **arguments: Any) -> Any:
    """A method of `HfApi`."""
    return str(getattr(huggingface_hub.HfApi(), method)(**arguments))


@verb
def upload(record: str, repo: str, **more: Any) -> Any:
    """Upload the folder where `push` saved its model."""
    return huggingface_hub.HfApi().upload_folder(repo_id=repo, folder_path=RECORDS / "local" / record, **more).oid


@verb
def train(case: str, spec: str, repo: str, **more: Any) -> Any:
    """Two steps by Trainer, which pushes after each; record what the trained model gives."""
    from cases import CASES, SPECS

    from hf_addnorm.trainer import CarryCode

    row = CASES[case]
    net = row.build(SPECS[spec])
    items = [{name: value[index] for name, value in row.batch().items()} for index in range(2)]
    arguments = transformers.TrainingArguments(
        output_dir="trained",
        push_to_hub=True,
        hub_model_id=repo,
        max_steps=2,
        per_device_train_batch_size=1,
        use_cpu=True,
        report_to="none",
        save_strategy="steps",
        save_steps=1,
        **more,
    )
    extras = {"processing_class": row.prepares.make(), "callbacks": [CarryCode()]}
    trainer = transformers.Trainer(net, arguments, train_dataset=items, **extras)
    trainer.train()
    trainer.push_to_hub()
    back = type(net).from_pretrained("trained")
    torch.save({"inputs": row.inputs(), "outputs": back(**row.inputs())[0].detach()}, _file_of(repo))
    return trainer.args.world_size


def main() -> None:
    torch.set_num_threads(1)
    # whatever is printed on the way goes to stderr
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            result = VERBS[name](**arguments)
        except Exception as error:
            traceback.print_exc()
            message = "\n".join([str(error), *getattr(error, "__notes__", ())])
            result = {"error": type(error).__name__, "message": message}
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
