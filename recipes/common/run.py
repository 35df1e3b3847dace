"""A run's processes and its folder: what it is, its checkpoints, its end."""

import inspect
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import transformers
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

from hf_addnorm.hub import write_card
from hf_addnorm.hub.card import read_config
from hf_addnorm.hub.description import has_family

from .config import RECORD, RunConfig, difference, parse
from .errors import UserError, one_line
from .files import WRITERS, whole_folder, write_json
from .machine import choose_precision, report, use_all_cores
from .progress import Progress


@dataclass(frozen=True)
class Run:
    """One run of a training script.

    Args:
        recipe: the script's name.
        config: its keys.
        accelerator: the processes and the device.
        folder: where the run writes.
        began: ``time.perf_counter()`` at the start of this process.
    """

    recipe: str
    config: Any
    accelerator: Accelerator
    folder: "RunFolder | OutputFiles"
    began: float


def start(config_class: type[RunConfig], args: list[str] | None = None) -> Run:
    """Read the config and make the accelerator; says in one line what the machine decides.

    Args:
        config_class: the script's keys.
        args: the command line, if not that of the process.
    Raises:
        UserError: a config, an output folder or a launcher that does not fit; the sentence says what is allowed.
    """
    began = time.perf_counter()
    config, resume = parse(config_class, args)
    asked, config.mixed_precision = config.mixed_precision, choose_precision(config.mixed_precision)
    accelerator = _accelerator(config)
    if config.do == "train":
        folder = RunFolder(config, resume, accelerator.num_processes)
    else:
        folder = OutputFiles(config, resume)
    accelerator.gradient_accumulation_steps = _accumulation(config, accelerator.num_processes)
    if accelerator.device.type == "cpu":
        use_all_cores()
    report(accelerator, config, asked)
    if not accelerator.is_main_process:
        transformers.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
    return Run(Path(inspect.getfile(config_class)).stem, config, accelerator, folder, began)


def _accelerator(config: RunConfig) -> Accelerator:
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            step_scheduler_with_optimizer=False,
            log_with=config.track or None,
            project_dir=config.output_dir,
        )
    except ValueError as error:
        raise UserError(f"mixed_precision {config.mixed_precision!r} does not work here: {one_line(error)}") from error
    processes, launched = accelerator.num_processes, int(os.environ.get("WORLD_SIZE", 1))
    if launched != processes:
        raise UserError(
            f"the launcher started {launched} processes that do not see each other; "
            "on CPUs set ACCELERATE_USE_CPU=true in the environment"
        )
    if config.num_processes not in (None, processes):
        raise UserError(f"num_processes is {config.num_processes}, and the launcher started {processes}")
    return accelerator


def _accumulation(config: RunConfig, processes: int) -> int:
    per_pass = (config.micro_batch_size or math.ceil(config.batch_size / processes)) * processes
    if config.batch_size % per_pass:
        raise UserError(
            f"batch_size {config.batch_size} is not a multiple of micro_batch_size x processes = "
            f"{per_pass // processes} x {processes} = {per_pass}"
        )
    return config.batch_size // per_pass


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Let the main process fill the caches; unlike with Accelerate's own, an error there leaves nobody waiting."""
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
    try:
        yield
    finally:
        if accelerator.is_main_process:
            accelerator.wait_for_everyone()


class RunFolder:
    """The output folder: ``run.json``, ``checkpoints/step_N``, at the end ``model/`` and ``result.json``.

    Made once per run. Nothing is written before ``begin``, and nothing of another run is ever replaced.

    Args:
        config: the run's config.
        resume: go on with the unfinished run in the folder.
        processes: number of processes; a run is resumed with as many as it began with.
    Raises:
        UserError: the folder holds something else, a finished run, an unfinished run and ``resume`` is not set, or no
            run and it is set; the result file exists.
    """

    def __init__(self, config: RunConfig, resume: bool, processes: int):
        self.path = Path(config.output_dir)
        self.model = self.path / "model"
        self.result = self.path / "result.json"
        self.extra_result = Path(config.result_file) if config.result_file else None
        self.resume = resume
        self.identity = {**asdict(config), "processes": processes}
        self.defaults = {key.name: key.default for key in fields(config) if key.default is not MISSING}
        record = self.path / RECORD
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir {self.path} is a file")
        if not record.is_file():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UserError(f"output_dir {self.path} is not empty and holds no run: choose another folder")
            if resume:
                raise UserError(f"nothing to resume: output_dir {self.path} holds no run")
        else:
            self._refuse_other(self._recorded())
            if self.result.is_file():
                raise UserError(f"output_dir {self.path} holds this run, finished: choose another folder")
            if not resume:
                raise UserError(f"output_dir {self.path} holds this run, unfinished: use --resume, or another folder")
        if self.extra_result is not None and self.extra_result.exists() and not resume:
            raise UserError(f"result_file {self.extra_result} exists: choose another name")

    def _recorded(self) -> dict[str, Any]:
        record = self.path / RECORD
        try:
            return json.loads(record.read_text())
        except ValueError as error:
            raise UserError(f"cannot read {record}: {one_line(error)}; choose another output_dir") from error

    def _refuse_other(self, there: dict[str, Any]) -> None:
        # A key that is newer than the run had its default; a folder that was moved is still the same run.
        known = self.defaults | there | {"output_dir": self.identity["output_dir"]}
        if differs := difference({key: value for key, value in known.items() if key in self.identity}, self.identity):
            raise UserError(f"output_dir {self.path} holds another run; it differs in {differs}")

    def begin(self, accelerator: Accelerator, data: dict[str, Any]) -> None:
        """Write ``run.json``; on resume check that the data are those the run began with."""
        self.identity["data"] = data
        if self.resume:
            self._refuse_other(self._recorded())
        else:
            with written(accelerator):
                if accelerator.is_main_process:
                    if self.extra_result is not None:
                        self.extra_result.parent.mkdir(parents=True, exist_ok=True)
                    write_json(self.path / RECORD, self.identity)
        accelerator.init_trackers("hf_addnorm", config=_flat(self.identity))

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / "checkpoints" / f"step_{step:08d}"

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        return max((self.path / "checkpoints").glob("step_*"), default=None)

    def restore(self, accelerator: Accelerator) -> Progress:
        """Load the newest checkpoint into all that the accelerator prepared; a fresh start where there is none."""
        checkpoint = self.last_checkpoint()
        if checkpoint is None:
            return Progress()
        accelerator.load_state(str(checkpoint))
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text()))
        progress.resumed_at.append(progress.step)
        return progress

    def kept(self) -> str:
        """What is left after a run had to stop."""
        last = self.last_checkpoint()
        return f"the last good checkpoint is {last}" if last else "no checkpoint had been written"

    def save(self, accelerator: Accelerator, progress: Progress, keep: int, best: int | None) -> None:
        """Write a checkpoint under another name, rename it, then remove all but the last ``keep`` and the ``best``.

        Raises:
            UserError: it cannot be written; what had been written of it is removed, older checkpoints stay.
        """
        final = self.checkpoint(progress.step)
        partial = final.with_name(f".{final.name}.partial")
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        try:
            with written(accelerator):
                accelerator.save_state(str(partial))
            with written(accelerator):
                if accelerator.is_main_process:
                    write_json(partial / "progress.json", asdict(progress))
                    # a step that is done again after its evaluation, or after a signal
                    shutil.rmtree(final, ignore_errors=True)
                    partial.rename(final)
                    last = sorted(final.parent.glob("step_*"))
                    for old in last[:-keep]:
                        if best is None or old != self.checkpoint(best):
                            # Renamed first, so that a checkpoint is never seen half removed.
                            shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")))
        except UserError as error:
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"stopped at step {progress.step}: {error}; {self.kept()}") from error

    def save_model(self, accelerator: Accelerator, model: Any, processor: Any) -> None:
        """Write the model, and what prepares its inputs, to ``model/``, under another name first."""
        weights = accelerator.get_state_dict(model)
        bare = accelerator.unwrap_model(model)
        with written(accelerator):
            if accelerator.is_main_process:
                with whole_folder(self.model) as partial:
                    bare.save_pretrained(partial, state_dict=weights)
                    processor.save_pretrained(partial)

    def save_adapter(self, accelerator: Accelerator, model: Any) -> None:
        """Write LoRA adapters, before they are merged, to ``adapter/``, under another name first."""
        with written(accelerator):
            if accelerator.is_main_process:
                with whole_folder(self.path / "adapter") as partial:
                    model.save_pretrained(partial)

    def finish(self, accelerator: Accelerator, result: dict[str, Any]) -> None:
        """Write the model's card and the result JSON; ``result.json`` comes last and marks the run as finished."""
        with written(accelerator):
            if accelerator.is_main_process:
                # a card describes the add & norm; a stock model of another family has none of ours
                if has_family(read_config(self.model)):
                    write_card(self.model, result)
                for path in (self.extra_result, self.result):
                    if path is not None:
                        write_json(path, result)
        # not `end_training`, which takes the process group from under a model that still holds it
        for tracker in accelerator.trackers:
            tracker.finish()


class OutputFiles:
    """Where what a saved model predicts goes, and its figures; nothing that exists is replaced.

    Args:
        config: of an evaluation or prediction alone.
        resume: not possible here.
    Raises:
        UserError: a file that exists, or an ending for which there is no writer.
    """

    def __init__(self, config: RunConfig, resume: bool):
        if resume:
            raise UserError(f"there is nothing to resume: do is {config.do}")
        rows = Path(config.file or config.validation_file or "validation.csv")
        stem = Path(config.output_dir or ".") / rows.stem
        ending = ".parquet" if rows.suffix == ".parquet" else ".csv"
        self.result = self.predictions = None
        if config.do == "evaluate":
            self.result = Path(config.result_file or f"{stem}_evaluation.json")
        if config.do == "predict" or config.predictions:
            self.predictions = Path(config.predictions or f"{stem}_predictions{ending}")
            if self.predictions.suffix not in WRITERS:
                raise UserError(f"cannot write {self.predictions}: its ending must be one of {', '.join(WRITERS)}")
        for key, path in (("result_file", self.result), ("predictions", self.predictions)):
            if path is not None and path.exists():
                raise UserError(f"{key} {path} exists: choose another name with --{key}")


@contextmanager
def written(accelerator: Accelerator) -> Iterator[None]:
    """Every process enters it: what one of them cannot write in it is an error of all.

    Raises:
        UserError: naming the file and the reason.
    """
    problem = None
    try:
        yield
    except OSError as error:
        problem = f"cannot write to {error.filename}: {error.strerror}" if error.filename else f"cannot write: {error}"
    except (RuntimeError, SafetensorError) as error:
        # torch and safetensors say so in errors of their own
        if not re.search(r"PytorchStreamWriter|inline_container|I/O error|os error", str(error)):
            raise
        problem = f"cannot write: {one_line(error)}"
    problems = [found for found in gather_object([problem]) if found]
    if problems:
        raise UserError(problems[0])


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    # trackers take numbers and texts
    return {
        key: value if isinstance(value, int | float | str) else json.dumps(value) for key, value in identity.items()
    }
