"""What a result JSON says about the software and the machine, and how it is written."""

import json
import math
import os
import platform
import resource
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedModel

import hf_addnorm

from .config import RunConfig
from .progress import Progress


def summary(
    accelerator: Accelerator, config: RunConfig, model: PreTrainedModel, progress: Progress, began: float, **more: Any
) -> dict[str, Any]:
    """Everything that the result JSON of any recipe holds; called by all processes together.

    Args:
        accelerator: the run's accelerator.
        config: the run's config.
        model: the trained model, unwrapped.
        progress: the whole run's progress.
        began: ``time.perf_counter()`` at the start of this process.
        more: entries of the recipe's own.
    """
    return {
        "config": asdict(config),
        "add_norm": model.config.to_dict().get("add_norm"),
        "model": type(model).__name__,
        "model_config": model_config(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "processes": accelerator.num_processes,
        "steps": progress.step,
        "metrics": progress.metrics[-1],
        "metrics_over_time": progress.metrics,
        "loss_history": progress.losses,
        "grad_norm_history": progress.grad_norms,
        "tokens": progress.tokens,
        "tokens_per_second": round(progress.tokens_per_second, 1),
        "padding_share": round(1 - progress.tokens / progress.slots, 4),
        "peak_memory_mb": peak_memory_mb(accelerator),
        "train_seconds": round(progress.seconds, 2),
        "wall_seconds": round(time.perf_counter() - began, 2),
        "resumed_at": progress.resumed_at,
        **more,
        "versions": versions(),
        "machine": machine(accelerator),
    }


def model_config(model: PreTrainedModel) -> dict[str, Any]:
    """The model's config, without what it says of files."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(entry) for key, entry in value.items() if key not in ("_name_or_path", "auto_map")}
        return [kept(entry) for entry in value] if isinstance(value, list | tuple) else value

    return json.loads(json.dumps(kept(model.config.to_dict())))


def versions() -> dict[str, str]:
    """Python and the packages that decide a run's numbers."""
    packages = ("torch", "transformers", "accelerate", "datasets", "evaluate")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "hf_addnorm": hf_addnorm.__version__,
    }


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """CPU with its instructions for bf16, threads of one process, and the device that was trained on."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    # "flags" on x86, "Features" on ARM
    on_gpu = accelerator.device.type == "cuda"
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cpu_bf16": cpu_bf16(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(accelerator.device) if on_gpu else accelerator.device.type,
    }


def cpu_bf16() -> list[str]:
    """The instructions for bf16 that this CPU has."""
    can = {word for line in _cpuinfo() if line.startswith(("flags", "Features")) for word in line.split()}
    return sorted(can & {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"})


def bf16_is_fast() -> bool:
    """Whether the device that will be trained on multiplies in bf16 by itself."""
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # avx_ne_convert converts only
    return bool(set(cpu_bf16()) - {"avx_ne_convert"})


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def peak_memory_mb(accelerator: Accelerator) -> float:
    """Peak of the process that took most: memory allocated on the GPU, on a CPU the resident set since its start."""
    if accelerator.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(accelerator.device)
    else:
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(accelerator.gather(torch.tensor([peak / 2**20], device=accelerator.device)).max().item(), 1)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write under another name, then rename: a reader never meets half a file. One line per key; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    lines = [f"{json.dumps(key)}: {json.dumps(_finite(value), allow_nan=False)}" for key, value in content.items()]
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    partial.replace(path)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
