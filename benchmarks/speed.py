"""How fast the models are beside what else runs them: stock models, compiled ones, packed ones, exported ones.

    python benchmarks/speed.py [--only PART ...] [--full] [--rounds N] [--write] [--note TEXT]

In each round every contestant (`contestants.py`) runs the same texts once, in an order that is drawn anew, in one
process and one thread; the figure is the base's time over the contestant's of the same round, median and quartiles.
Before that, outputs and gradients are compared with the stock model's: one that differs gets no figure, but a reason.

`--write` puts the figures into the results of this folder, from which `performance_page.py` makes the page; without
it, they are compared with those, and what is slower is named. `--full` adds BERT-base and compiled models.
Tokens and weights are drawn: the time does not depend on them.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from batches import VOCABULARY, Batch, full, sst2, with_labelled_tokens
from building import measure_building
from contestants import BASE, CONTESTANTS, ERRORS, SHAPES, Contestant, Program, Source, TorchProgram
from interleaved import RESULTS, arguments, keep_freed_memory, quiet_and_alike, ratios, report, seconds_of

from hf_addnorm import AddNormBertConfig, AddNormBertModel, presets
from hf_addnorm.models.base.registries import STREAMS


@dataclass(frozen=True)
class Case:
    """Texts that contestants are run on.

    Args:
        batches (`Callable`): makes them, by the order of the texts; the base is the stock model in the first order.
        rounds (`int`): by default.
        head (`str`): that of the model.
        only (`Sequence[str]`): the contestants, if not all that there are for this head.
        modes (`Sequence[str]`): inference, training.
        passes (`int`): how often a round goes over the batches: short ones are over too soon to be timed.
    """

    batches: Callable[[], dict[str, list[Batch]]]
    rounds: int
    head: str = "classifier"
    only: Sequence[str] = ()
    modes: Sequence[str] = ("inference", "training")
    passes: int = 1


_PLAIN = (BASE, "ours, padded")
CASES = {
    "texts": {
        "SST-2": Case(partial(sst2, 4), rounds=5),
        "8 x 128": Case(partial(full, 8, 128), rounds=5),
        "2 x 512": Case(partial(full, 2, 512), rounds=5),
    },
    "default": {
        "32 x 128": Case(partial(full, 32, 128), rounds=11, only=_PLAIN),
        "1 x 8": Case(partial(full, 1, 8), rounds=41, only=_PLAIN, passes=20),
    },
    "masked": {
        "SST-2": Case(
            lambda: with_labelled_tokens(sst2(2)), rounds=5, head="masked language model", modes=("training",)
        ),
    },
}


class LeftOut(Exception):
    """Why a contestant has no figure."""


def refuse_other_outputs(contestant: Contestant, found: Sequence[torch.Tensor], stock: Sequence[torch.Tensor]) -> None:
    """Compare with the stock model: logits in inference; in training the loss, and a gradient.

    Raises:
        LeftOut: if it computes something else.
    """
    bounds = ERRORS[contestant.precision][: len(stock)]
    for one, wanted, bound in zip(found, stock, bounds, strict=True):
        error = float((one - wanted).norm() / wanted.norm()) if one.shape == wanted.shape else float("inf")
        if not error <= bound:
            raise LeftOut(f"computes something else: its relative error is {error:.1e}")


def programs_of(case: Case, mode: str, source: Source, extended: bool) -> tuple[dict[str, Program], dict[str, str]]:
    """Those that take part, by name, and why others do not."""
    made: dict[str, Program] = {}
    left_out: dict[str, str] = {}
    for name, contestant in CONTESTANTS.items():
        asked = not case.only or name in case.only
        if not asked or mode not in contestant.modes or case.head not in contestant.heads:
            continue
        try:
            if contestant.extended and not extended:
                raise LeftOut("`make benchmark-full`")
            if reason := contestant.lacks():
                raise LeftOut(reason)
            program = contestant.make(source, mode == "training")
            made[name] = program
        except LeftOut as error:
            left_out[name] = str(error)
    return made, left_out


def measure_case(case: Case, mode: str, source: Source, rounds: int, extended: bool) -> tuple[Any, dict[str, str]]:
    """The ratios of one case, by the order of the texts, and why some have none."""
    batches = case.batches()
    source.calibration = source.calibration or [*batches.values()][-1]
    made, left_out = programs_of(case, mode, source, extended)
    # one batch of each order
    samples = [found[0] for found in batches.values()]
    stock = [made[BASE].found(batch) for batch in samples]
    for name, program in list(made.items()):
        try:
            for batch, expected in zip(samples, stock, strict=True):
                refuse_other_outputs(CONTESTANTS[name], program.found(batch), expected)
        except LeftOut as error:
            left_out[name] = str(error)
            del made[name]

    def over(program: Program, found: Sequence[Batch]) -> None:
        for _ in range(case.passes):
            for batch in found:
                program.run(batch)

    candidates = {
        (name, order): partial(over, program, found)
        for name, program in made.items()
        for order, found in batches.items()
    }
    # the first round warms up
    times = [seconds_of(candidates) for _ in range(1 + rounds)][1:]
    found = ratios(times, next(iter(candidates)))
    return {order: {name: found[name, order] for name in made} for order in batches}, left_out


def measure_cases(part: str, rounds: int | None, extended: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    figures: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    for shape in SHAPES if extended and part == "texts" else list(SHAPES)[:1]:
        with tempfile.TemporaryDirectory() as folder:
            sources: dict[str, Source] = {}
            for title, case in CASES[part].items():
                if case.head not in sources:
                    sources[case.head] = Source(SHAPES[shape], case.head, Path(folder))
                for mode in case.modes:
                    found, reasons = measure_case(case, mode, sources[case.head], rounds or case.rounds, extended)
                    for order, ratios_of in found.items():
                        named = f"{shape}, {mode}, {title} {order}".rstrip()
                        figures[named], left_out[named] = ratios_of, reasons
                    gc.collect()
    return figures, {"left_out": left_out}


def spec_programs(specs: Mapping[str, Any], training: bool, **sizes: Any) -> dict[str, Callable[[], None]]:
    """A step of a model of each spec."""
    batch = full(8, 32)[""][0]
    found = {}
    for name, spec in specs.items():
        source = Source(SHAPES["MiniLM"] | {"vocab_size": VOCABULARY} | sizes, "classifier", Path())
        program = TorchProgram(source.copy(True, add_norm=spec).train(training), training)
        found[name] = partial(program.run, batch)
    return found


def measure_presets(rounds: int | None, extended: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every preset beside post_ln."""
    figures = {}
    for mode in ("inference", "training"):
        # a third of MiniLM's layers: the ratio is that of a layer, and all models are held at once
        candidates = spec_programs({name: name for name in presets()}, mode == "training", num_hidden_layers=2)
        times = [seconds_of(candidates) for _ in range(1 + (rounds or 7))][1:]
        figures[mode] = ratios(times, "post_ln")
    return figures, {}


def measure_scaling(rounds: int | None, extended: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours beside stock over depth, width and length, and each stream beside the plain one over depth."""
    figures, mini = {}, SHAPES["MiniLM"] | {"vocab_size": VOCABULARY}
    varied = {f"{depth} layers": (mini | {"num_hidden_layers": depth}, (4, 64)) for depth in (3, 12, 24)}
    varied |= {
        f"{width} wide": (mini | {"hidden_size": width, "intermediate_size": 4 * width}, (4, 64))
        for width in (192, 768)
    }
    varied |= {f"{rows} x {length} tokens": (mini, (rows, length)) for rows, length in ((16, 16), (2, 128), (1, 512))}
    for title, (sizes, shape) in varied.items():
        source = Source(sizes, "classifier", Path())
        for mode in ("inference", "training"):
            case = Case(partial(full, *shape), 5, only=(*_PLAIN, "ours, packed"))
            figures[f"{mode}, {title}"] = measure_case(case, mode, source, rounds or 5, False)[0][""]
    specs = {name: {"preset": "pre_ln", "stream": name} for name in STREAMS}
    for depth in (6, 24, 96):
        candidates = {name: _tiny_step(spec, depth) for name, spec in specs.items()}
        times = [seconds_of(candidates) for _ in range(1 + (rounds or 3))][1:]
        figures[f"streams, {depth} layers"] = ratios(times, "single")
    return figures, {}


def _tiny_step(spec: Any, depth: int) -> Callable[[], None]:
    """A training step of a narrow model with this spec."""
    config = AddNormBertConfig(
        hidden_size=64, num_hidden_layers=depth, num_attention_heads=4, intermediate_size=256, vocab_size=100,
        add_norm=spec,
    )  # fmt: skip
    model = AddNormBertModel(config).train()
    ids = torch.arange(4 * 64).view(4, 64) % 100

    def step() -> None:
        model(input_ids=ids).last_hidden_state.sum().backward()
        model.zero_grad()

    return step


def measure_memory(rounds: int | None, extended: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Peak MiB of a process beyond what it has before the first step: how many times as much stock takes."""
    # a fresh process, which forks one for each: what ran here has left its heap behind
    command = [sys.executable, __file__, "--print-memory", "--rounds", str(rounds or 2)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[dict[str, float]]] = json.loads(output.splitlines()[-1])
    return {f"MiniLM, {mode}, SST-2 random": ratios(times, BASE) for mode, times in found.items()}, {"unit": "MiB"}


def print_memory(rounds: int) -> None:
    """What each model in torch takes, as JSON."""
    runs = [
        [name for name, one in CONTESTANTS.items() if runs_in_torch(one, mode)] for mode in ("inference", "training")
    ]
    found = {
        mode: [{name: in_a_fork(partial(memory_of, name, mode)) for name in names} for _ in range(rounds)]
        for mode, names in zip(("inference", "training"), runs, strict=True)
    }
    sys.stdout.write(json.dumps(found) + "\n")


def runs_in_torch(one: Contestant, mode: str) -> bool:
    """Whether a contestant is a classifier in torch that runs here."""
    return mode in one.modes and "classifier" in one.heads and not (one.lacks() or one.packages or one.extended)


def memory_of(name: str, mode: str) -> float:
    """What one contestant takes in this process."""
    batches = sst2(2)["random"]
    source = Source(SHAPES["MiniLM"], "classifier", Path())
    program = CONTESTANTS[name].make(source, mode == "training")
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for batch in batches:
        program.run(batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def in_a_fork(function: Callable[[], float]) -> float:
    """What a function gives in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue: Any = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(function()))
    process.start()
    found: float = queue.get()
    process.join()
    return found


PARTS: dict[str, Callable[[int | None, bool], tuple[dict[str, Any], dict[str, Any]]]] = {
    **{part: partial(measure_cases, part) for part in CASES},
    "presets": measure_presets,
    "scaling": measure_scaling,
    "memory": measure_memory,
    "building": measure_building,
}


def main() -> None:
    parser = arguments(__doc__ or "", None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--write", action="store_true", help="into the results of this folder")
    parser.add_argument("--print-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_and_alike()
    if args.print_memory:
        return print_memory(args.rounds)
    for part in args.only:
        figures, more = PARTS[part](args.rounds, args.full)
        name = f"speed_{part}"
        to = RESULTS / f"{name}.json" if args.write else args.json
        report(name, figures, args.rounds or 0, args.note, to, **more)


if __name__ == "__main__":
    keep_freed_memory()
    main()
