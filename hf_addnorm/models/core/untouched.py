"""Whether a module does what its class says: what is made into one function with others must be no more than that."""

from torch import nn


# of a module: what runs beside its forward
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_untouched(module: nn.Module) -> bool:
    """Whether a call of `module` is its class's forward alone: no hooks, and no forward of a tool in its place."""
    return "forward" not in vars(module) and not any(getattr(module, hooks) for hooks in _HOOKS)
