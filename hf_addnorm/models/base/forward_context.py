"""Values that a model sets for the time of one forward, and that any module inside it can read."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, ParamSpec, TypeVar

import torch


T = TypeVar("T")
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class ForwardContext(Generic[T]):
    """A value that is set while a function runs, for its thread only; torch.compile can trace through it.

    Args:
        name (`str`): of the value.
        outside: the value where nobody says one.
    """

    def __init__(self, name: str, outside: T):
        self.outside = outside
        self._current: ContextVar[T] = ContextVar(name, default=outside)
        # A ContextVar cannot be traced. What is traced of a model may be all of it, or some frames within or around
        # others that are not: they see each other's values here, each with whether a traced frame said it.
        self._stack: list[tuple[T, bool]] = [(outside, False)]

    def get(self) -> T:
        """The current value: that of the innermost running function that has one."""
        if torch.compiler.is_compiling():
            return self._stack[-1][0]
        value = self._current.get()
        if value is self.outside:
            return next((said for said, traced in reversed(self._stack) if traced), value)
        return value

    def running_with(
        self, value: T, function: Callable[Arguments, Returned], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Returned:
        """Return `function(*args, **kwargs)`, run with `value` as the current value."""
        if torch.compiler.is_compiling():
            self._stack.append((value, True))
            try:
                return function(*args, **kwargs)
            finally:
                self._stack.pop()
        before, entry = self._current.set(value), (value, False)
        self._stack.append(entry)
        try:
            return function(*args, **kwargs)
        finally:
            # other threads may have put theirs behind it
            del self._stack[next(index for index, other in enumerate(self._stack) if other is entry)]
            self._current.reset(before)


def recomputing() -> bool:
    """Whether this forward is a recomputation of gradient checkpointing, which runs within a backward."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def put_buffer(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    """Set a buffer of a module to another value, in a way that torch.compile can handle."""
    buffer = module.get_buffer(name)
    if torch.compiler.is_compiling():
        # A compiled backward may compute again what came from a buffer: then the buffer must not have changed, so
        # another one takes its place.
        setattr(module, name, value.to(buffer.dtype))
    else:
        buffer.copy_(value)
