"""What the result JSON of any recipe says."""

import json
import platform
import resource
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

import hf_addnorm

from .machine import machine
from .progress import Progress
from .run import Run


def summary(run: Run, model: PreTrainedModel, progress: Progress, **more: Any) -> dict[str, Any]:
    """Everything that the result JSON of any recipe holds; called by all processes together.

    Args:
        run: the run.
        model: the trained model, unwrapped.
        progress: the whole run's progress.
        more: entries of the recipe's own.
    """
    accelerator = run.accelerator
    return {
        **what_ran(run, model),
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
        "wall_seconds": round(time.perf_counter() - run.began, 2),
        "resumed_at": progress.resumed_at,
        **more,
        **where_it_ran(run, model),
    }


def what_ran(run: Run, model: PreTrainedModel) -> dict[str, Any]:
    """The recipe with its keys, and the model."""
    return {
        "recipe": run.recipe,
        "config": asdict(run.config),
        "add_norm": model.config.to_dict().get("add_norm"),
        "model": type(model).__name__,
        "model_config": model_config(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "processes": run.accelerator.num_processes,
    }


def where_it_ran(run: Run, model: PreTrainedModel) -> dict[str, Any]:
    """What the machine decided, versions, and the machine."""
    return {
        "used": {
            "mixed_precision": run.accelerator.mixed_precision,
            "attn_implementation": model.config._attn_implementation,
        },
        "versions": versions(),
        "machine": machine(run.accelerator),
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


def peak_memory_mb(accelerator: Accelerator) -> float:
    """Peak of the process that took most: memory allocated on the GPU, on a CPU the resident set since its start."""
    if accelerator.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(accelerator.device)
    else:
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(accelerator.gather(torch.tensor([peak / 2**20], device=accelerator.device)).max().item(), 1)
