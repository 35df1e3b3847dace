"""What the machine is, and what it decides where a config leaves it open: precision, attention, threads."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import joblib
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env

from .config import RunConfig


# What emulated bf16 costs: measured on CPUs without the instructions; no figure for GPUs.
EMULATION_COSTS = {"CPU": "a training step takes 10 to 60 times as long as in float32", "GPU": "float32 is faster"}


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """CPU with its instructions for bf16, threads of one process, and the device that was trained on."""
    on_gpu = accelerator.device.type == "cuda"
    return {
        "cpu": cpu_name(),
        "cpu_bf16": cpu_bf16(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(accelerator.device) if on_gpu else accelerator.device.type,
    }


def cpu_name() -> str:
    """The CPU's own name, where the system tells it."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_bf16() -> list[str]:
    """The instructions for bf16 that this CPU has."""
    # "flags" on x86, "Features" on ARM
    can = {word for line in _cpuinfo() if line.startswith(("flags", "Features")) for word in line.split()}
    return sorted(can & {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"})


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def trains_on_gpu() -> bool:
    """Whether Accelerate will take a GPU; asked before there is an accelerator."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def bf16_is_fast() -> bool:
    """Whether the device that will be trained on multiplies in bf16 by itself."""
    if trains_on_gpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # avx_ne_convert converts only
    return bool(set(cpu_bf16()) - {"avx_ne_convert"})


def choose_precision(asked: str | None) -> str:
    """The config's precision; else bf16 where the launcher asks for it, or the device has it; else float32 (``no``).

    A launcher that asks for nothing says ``no``, so that its ``no`` decides nothing.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
    return asked or ("bf16" if launched == "bf16" or bf16_is_fast() else "no")


def choose_attention(config: RunConfig, device: torch.device) -> str | None:
    """The config's attention; else what trains fastest on a CPU; None means the model's own, sdpa where it has it.

    On a CPU these are matrix products one by one, but not in float32 without dropout: there torch's one operation
    and its backward take 0.6 to 0.8 of their time; with dropout 1.2 at 16 to 64 tokens and 0.95 beyond, in bf16 1.3
    to 10 (one thread of an AMD EPYC with avx512_bf16, torch 2.13).
    """
    if config.attn_implementation or device.type != "cpu":
        return config.attn_implementation
    return None if config.mixed_precision == "no" and config.dropout == 0 else "eager"


def share_of_cores() -> int:
    """Physical cores that each process of a run on this machine may have; knows affinity and container limits."""
    return max(1, joblib.cpu_count(only_physical_cores=True) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def use_all_cores() -> None:
    """Take this process's share of the cores where one thread is the launcher's default and not the user's wish.

    ``accelerate launch`` and ``torchrun`` set OMP_NUM_THREADS to 1 where the user sets nothing; only the launcher's
    own environment tells the two apart.
    """
    launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    if not launched or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    try:
        launcher = psutil.Process(os.getppid())
        wished = "OMP_NUM_THREADS" in launcher.environ() or any("cpu_threads" in word for word in launcher.cmdline())
    except psutil.Error:
        return
    if not wished:
        torch.set_num_threads(share_of_cores())


def report(accelerator: Accelerator, config: RunConfig, asked: str | None = None) -> None:
    """Say in one line what the machine has decided; in one more if bf16 was asked for and is emulated here, or if the
    launcher asks for a precision that the recipes do not have, and the config had ``asked`` for none.
    """
    name = machine(accelerator)["device"]
    on_cpu = name == "cpu"
    threads = f", {torch.get_num_threads()} threads" if on_cpu else ""
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "float32"
    attention = choose_attention(config, accelerator.device) or "the model's own"
    device = cpu_name() if on_cpu else name
    accelerator.print(f"{config.do}s on {device}{threads}, in {precision}, with {attention} attention")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked is None and launched not in ("no", "bf16") and accelerator.is_main_process:
        sys.stderr.write(
            f"warning: the launcher asks for {launched}, and these recipes have bf16 and float32 alone: this run is "
            f"in {precision}; write --mixed_precision bf16 or no after the script's name to choose\n"
        )
    if accelerator.mixed_precision == "bf16" and not bf16_is_fast() and accelerator.is_main_process:
        kind = "GPU" if trains_on_gpu() else "CPU"
        sys.stderr.write(
            f"warning: bf16 was asked for, and this {kind} has no instructions for it, so that "
            f"{EMULATION_COSTS[kind]}: write --mixed_precision no after the script's name\n"
        )
