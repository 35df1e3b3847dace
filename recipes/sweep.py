"""Run one training script over a list of add & norm specs and seeds: a table, and a figure of the losses.

    python recipes/sweep.py --config recipes/configs/sweep.yaml [--key value ...]

Each run is a process of its own, and adds a row to the result, also if it fails; `--resume` runs what is missing.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sweep_report
from common.config import parse
from common.errors import Stopped, UserError, one_line, run_script
from common.files import write_json, write_whole
from common.interrupt import Interrupt
from common.study import PLACES, StudyFolder
from jsonargparse.typing import NonNegativeInt
from keys_table import FOLDER, config_class, scripts
from tqdm import tqdm


# Keys of the runs that are the sweep's to give.
GIVEN = ("add_norm", "seed", "output_dir", "result_file")
# What a run's settings have beside the keys of its script.
ABOUT = ("recipe", "scheme", "launch")
# The sentence in which a script says what was wrong.
SENTENCE = re.compile(r"error(?: in process \d+)?: (.+)")


@dataclass(kw_only=True)
class SweepConfig:
    """Keys of a sweep.

    Args:
        recipe: name of the training script, such as `finetune_text`.
        recipe_config: YAML of that script, for all runs.
        overrides: keys of that script, in place of those in its YAML.
        add_norms: by name, the add & norm specs (a preset, or a dict of axes); null takes the checkpoint as it is.
        seeds: of the runs of every spec.
        keep_going: a run that fails becomes a row, and the next one begins; false stops there, and `--resume` tries
            it again.
        launch: arguments of `accelerate launch`, such as `--multi_gpu --num_processes 2`; null starts the script as
            one process, without the launcher.
        output_dir: folder of the sweep; holds a JSON per run, all of them as `result.json`, the table, the figure.
        result_file: where the result goes as well, with the figure beside it.
    """

    recipe: str
    recipe_config: str
    add_norms: dict[str, dict[str, Any] | str | None]
    output_dir: str
    overrides: dict[str, Any] = field(default_factory=dict)
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0])
    keep_going: bool = True
    launch: str | None = None
    result_file: str | None = None

    def __post_init__(self) -> None:
        if not self.add_norms or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"add_norms and seeds need entries, no two seeds alike: {self.add_norms}, {self.seeds}")
        for name in self.add_norms:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise UserError(f"add_norms: {name!r} becomes a file's name; letters, digits, _, . and - are allowed")
        if given := [key for key in GIVEN if key in self.overrides]:
            raise UserError(f"overrides has {given[0]}, which the sweep gives to each run itself")


def plan(config: SweepConfig) -> dict[str, dict[str, Any]]:
    """By name, the settings of every run, with all keys of its script; the first seed of all specs, then the next.

    Raises:
        UserError: no such training script; keys that it refuses.
    """
    kind = config_class(config.recipe) if FOLDER / f"{config.recipe}.py" in FOLDER.glob("*.py") else None
    if kind is None:
        raise UserError(f"recipe is {config.recipe!r}; the training scripts are {', '.join(scripts())}")
    runs = {}
    for seed in config.seeds:
        for name, add_norm in config.add_norms.items():
            given = {"add_norm": add_norm, "seed": int(seed), "output_dir": "", "result_file": None}
            own = json.dumps({**config.overrides, **given})
            keys, _ = parse(kind, ["--config", config.recipe_config, "--config", own])
            about = {"recipe": config.recipe, "scheme": name, "launch": config.launch}
            runs[f"{name}_{seed}"] = about | {key: value for key, value in asdict(keys).items() if key not in PLACES}
    return runs


def train(folder: StudyFolder, name: str, interrupt: Interrupt) -> dict[str, Any]:
    """One run, from where it was left; its row, or its ``error``.

    Raises:
        Stopped: by a signal, of which the run was told; it is no row, and goes on with ``--resume``.
    """
    settings, path = folder.runs[name], folder.path / "runs" / name
    keys, log = folder.path / "configs" / f"{name}.json", folder.path / "logs" / f"{name}.txt"
    if not (path / "result.json").is_file():
        write_json(keys, {key: settings[key] for key in settings if key not in ABOUT} | {"output_dir": str(path)})
        launcher = ["-m", "accelerate.commands.launch", *settings["launch"].split()] if settings["launch"] else []
        command = [sys.executable, *launcher, str(FOLDER / f"{settings['recipe']}.py"), "--config", str(keys)]
        if (path / "run.json").is_file():
            command.append("--resume")
        log.parent.mkdir(parents=True, exist_ok=True)
        code = ended(command, log, interrupt)
        if code and (number := interrupt.signal or code - 128) in Interrupt.SIGNALS:
            raise Stopped(number, f"stopped in run {name}; --resume goes on; its log is {log}")
        if code:
            return {"error": what_went_wrong(log, code)}
    return sweep_report.row(json.loads((path / "result.json").read_text()))


def ended(command: list[str], log: Path, interrupt: Interrupt) -> int:
    """Run the command to its end and return its exit code; a signal is passed on to it, a second one kills it."""
    with log.open("w") as output:
        # a session of its own: what the terminal sends would reach it twice
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        told = False
        try:
            while process.poll() is None:
                if interrupt.signal and not told:
                    os.killpg(process.pid, interrupt.signal)
                    told = True
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def what_went_wrong(log: Path, code: int) -> str:
    """The sentence of a run that failed; the last line of its log where it said none."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [found[1] for line in lines if (found := SENTENCE.match(line))]
    return one_line((said or lines[-1:] or [f"exit code {code}"])[0])


def main(args=None):
    """The sweep, from the config to the result JSON, the table and the figure."""
    config, resume = parse(SweepConfig, args)
    folder = StudyFolder(config.output_dir, config.result_file, plan(config), resume)
    about = {"recipe": "sweep", "config": {key: value for key, value in asdict(config).items() if key not in PLACES}}

    def report() -> str:
        folder.finish(about)
        result = json.loads(folder.results[0].read_text())
        write_whole(folder.path / "table.md", table := sweep_report.table(result))
        for path in (folder.path / "losses.png", *(place.with_suffix(".png") for place in folder.results[1:])):
            sweep_report.draw(result, path)
        return table

    try:
        report()
    except OSError as error:
        raise UserError(f"cannot write to {error.filename}: {error.strerror}") from error
    with Interrupt() as interrupt, tqdm(folder.missing(), unit="run") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            found = train(folder, name, interrupt)
            if "error" in found and not config.keep_going:
                raise UserError(f"run {name} failed, and --resume tries it again: {found['error']}")
            folder.add(name, found)
            report()
            if interrupt.signal and folder.missing():
                raise Stopped(interrupt.signal, f"stopped after run {name}; --resume goes on")
    sys.stdout.write(report())


if __name__ == "__main__":
    run_script(main)
