"""Dropout, sum and norm of a sublayer as one Triton kernel forward and one backward, for GPUs.

    x -> * skip_scale ------------------+-> s -> normalize -> * gain -> + bias -> y
    f -> dropout -> * branch_scale -----^

A kernel is made of a row of `_KERNEL_ROWS`: how a token's features are normalised, and the gradient of that. Kept for
the backward are s and the seed of dropout's random numbers, neither x, f nor a mask; statistics are computed again,
which costs nothing beside reading s. The output would not do in the place of s: with a gain of 0, at which some norms
begin, it says nothing of its input, and the gain would never get a gradient.

Triton is optional. Without it, and for norms and tensors that it has no kernel for, `triton_add_norm` gives None.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..base.protocols import AutogradContext, StockValue
from ..norms.fused import FusedNorms, is_plain
from ..norms.pointwise_norms import Affine, DynamicErf, DynamicTanh
from ..norms.rms_norms import RMSNorm
from ..streams.streams import Function
from .untouched import is_untouched


try:
    import triton  # type: ignore[import-not-found]
    import triton.language as tl  # type: ignore[import-not-found]
except ImportError:
    triton = tl = None

# in the signature of a kernel, what it is compiled for; by this name the interpreter knows it
constexpr = None if tl is None else tl.constexpr


# the features of a token are in the registers of one program
_WIDEST = 16384
# programs of the backward; each sums the gradients of gain and bias over its tokens
_PROGRAMS = 256
_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# what a kernel's function is to Python: made of Triton's own language
Kernel = StockValue


def _jit(function: Callable[..., StockValue]) -> Kernel:
    return function if triton is None else triton.jit(function)


# how the features of a token are normalised: z in float32, 0 where `real` is false


@_jit
def _by_nothing(z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    return z


@_jit
def _by_deviation(z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    centred = tl.where(real, z - tl.sum(z) / n, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred) / n + eps)


@_jit
def _by_length(z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    return z * tl.rsqrt(tl.sum(z * z) / n + eps)


@_jit
def _by_tanh(z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    z = alpha * z
    square = z * z
    e = tl.exp(-2.0 * tl.abs(z))
    far = (1.0 - e) / (1.0 + e)
    near = z * (1.0 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315 - square * 62 / 2835))))
    return tl.where(square < 0.04, near, tl.where(z < 0, -far, far))


@_jit
def _by_erf(z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    return tl.erf(alpha * z + shift)


# the gradient of z, and those of alpha and shift, from the gradient h of what is normalised, t; h is 0 as z is


@_jit
def _of_nothing(h, t, z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    return h, 0.0, 0.0


@_jit
def _of_deviation(h, t, z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    centred = tl.where(real, z - tl.sum(z) / n, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred) / n + eps)
    return (h - tl.sum(h) / n - t * (tl.sum(h * t) / n)) * scale, 0.0, 0.0


@_jit
def _of_length(h, t, z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    return (h - t * (tl.sum(h * t) / n)) * tl.rsqrt(tl.sum(z * z) / n + eps), 0.0, 0.0


@_jit
def _of_tanh(h, t, z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    inner = h * (1.0 - t * t)
    return inner * alpha, tl.sum(inner * z), tl.sum(inner)


@_jit
def _of_erf(h, t, z, real, n, eps, alpha, shift):  # type: ignore[no-untyped-def]
    inside = alpha * z + shift
    # 2 / sqrt(pi)
    inner = h * 1.1283791670955126 * tl.exp(-inside * inside)
    return inner * alpha, tl.sum(inner * z), tl.sum(inner)


@_jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, f, s, y, gain, bias, alpha, shift, seed, n, skip_scale, branch_scale, rate, eps,
    normalize: constexpr, drops: constexpr, keeps: constexpr, has_gain: constexpr,  # type: ignore[valid-type]
    has_bias: constexpr, is_squashed: constexpr, block: constexpr,  # type: ignore[valid-type]
):  # fmt: skip
    features = tl.arange(0, block)
    real = features < n
    at = tl.program_id(0).to(tl.int64) * n + features
    z = tl.load(f + at, mask=real, other=0.0).to(tl.float32) * branch_scale
    if drops:
        z = tl.where(tl.rand(tl.load(seed), at.to(tl.int32)) >= rate, z, 0.0)
    z += tl.load(x + at, mask=real, other=0.0).to(tl.float32) * skip_scale
    if keeps:
        # as the backward will read it
        z = z.to(s.dtype.element_ty)
        tl.store(s + at, z, mask=real)
        z = z.to(tl.float32)
    a = tl.load(alpha).to(tl.float32) if is_squashed else 1.0
    b = tl.load(shift).to(tl.float32) if is_squashed else 0.0
    z = normalize(z, real, n, eps, a, b)  # type: ignore[misc]
    if has_gain:
        z = z * tl.load(gain + features, mask=real, other=0.0).to(tl.float32)
    if has_bias:
        z = z + tl.load(bias + features, mask=real, other=0.0).to(tl.float32)
    tl.store(y + at, z.to(y.dtype.element_ty), mask=real)


@_jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    g, s, of_x, of_f, of_gain, of_bias, of_squash, gain, alpha, shift, seed, tokens, n, skip_scale, branch_scale, rate,
    eps, normalize: constexpr, gradient: constexpr, drops: constexpr, keeps: constexpr,  # type: ignore[valid-type]
    has_gain: constexpr, is_squashed: constexpr, block: constexpr,  # type: ignore[valid-type]
):  # fmt: skip
    program = tl.program_id(0)
    features = tl.arange(0, block)
    real = features < n
    a = tl.load(alpha).to(tl.float32) if is_squashed else 1.0
    b = tl.load(shift).to(tl.float32) if is_squashed else 0.0
    w = tl.load(gain + features, mask=real, other=0.0).to(tl.float32) if has_gain else 1.0
    gains = tl.zeros([block], tl.float32)
    biases = tl.zeros([block], tl.float32)
    of_a, of_b = 0.0, 0.0
    at = program.to(tl.int64) * n + features
    for _ in range(program, tokens, tl.num_programs(0)):
        h = tl.load(g + at, mask=real, other=0.0).to(tl.float32)
        if keeps:
            z = tl.load(s + at, mask=real, other=0.0).to(tl.float32)
            t = normalize(z, real, n, eps, a, b)  # type: ignore[misc]
            gains += h * t
            biases += h
            h, of_alpha, of_shift = gradient(h * w, t, z, real, n, eps, a, b)  # type: ignore[misc]
            of_a += of_alpha
            of_b += of_shift
        tl.store(of_x + at, (h * skip_scale).to(of_x.dtype.element_ty), mask=real)
        h *= branch_scale
        if drops:
            h = tl.where(tl.rand(tl.load(seed), at.to(tl.int32)) >= rate, h, 0.0)
        tl.store(of_f + at, h.to(of_f.dtype.element_ty), mask=real)
        at += tl.num_programs(0) * n
    if keeps:
        tl.store(of_gain + program * n + features, gains, mask=real)
        tl.store(of_bias + program * n + features, biases, mask=real)
        tl.store(of_squash + 2 * program, of_a)
        tl.store(of_squash + 2 * program + 1, of_b)


@dataclass(frozen=True)
class _KernelRow:
    """What a kernel takes of a norm.

    Args:
        normalize, gradient: the functions that it is made of.
        gain, bias (`torch.Tensor`, *optional*): [hidden].
        alpha, shift (`torch.Tensor`, *optional*): [1], of a norm that squashes `alpha * z + shift`.
        eps (`float`): of its statistics.
        in_float32 (`bool`): whether autocast on a GPU runs this norm in float32.
    """

    normalize: Kernel
    gradient: Kernel
    gain: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    alpha: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    eps: float = 0.0
    in_float32: bool = False


def _of_layer_norm(norm: nn.LayerNorm) -> _KernelRow:
    return _KernelRow(_by_deviation, _of_deviation, norm.weight, norm.bias, eps=norm.eps, in_float32=True)


def _of_rms_norm(norm: RMSNorm) -> _KernelRow | None:
    # as in float32, in which a zero-centred gain is summed
    gain = norm.gain_as(torch.empty(0))
    return _KernelRow(_by_length, _of_length, gain, norm.bias, eps=norm.eps) if norm.is_plain else None


def _of_dyt(norm: DynamicTanh) -> _KernelRow:
    return _KernelRow(_by_tanh, _of_tanh, norm.weight, norm.bias, norm.alpha, torch.zeros_like(norm.alpha))


def _of_derf(norm: DynamicErf) -> _KernelRow:
    return _KernelRow(_by_erf, _of_erf, norm.weight, norm.bias, norm.alpha, norm.shift)


def _of_affine(norm: Affine) -> _KernelRow | None:
    return _KernelRow(_by_nothing, _of_nothing, norm.weight, norm.bias) if norm.groups == norm.hidden_size else None


# by the class of a norm, which must be no class derived from it: what a kernel takes of it, or None
_KERNEL_ROWS: dict[type[nn.Module], Callable[..., _KernelRow | None]] = {
    nn.LayerNorm: _of_layer_norm,
    RMSNorm: _of_rms_norm,
    DynamicTanh: _of_dyt,
    DynamicErf: _of_derf,
    Affine: _of_affine,
}


def has_kernel(x: torch.Tensor) -> bool:
    """Whether kernels run on the device of `x`: a GPU, or a CPU in Triton's interpreter (TRITON_INTERPRET=1)."""
    on_device = x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return triton is not None and on_device and FusedNorms.enabled and not torch.compiler.is_compiling()


def triton_add_norm(
    x: torch.Tensor, f: torch.Tensor, rate: float, scales: tuple[float, float], norm: Function | None
) -> torch.Tensor | None:
    """`norm(skip_scale * x + branch_scale * dropout(f))`; None where there is no kernel for it.

    It can be differentiated once. Dropout draws by Philox, from a seed of the device's own generator in torch.

    Args:
        x, f (`torch.Tensor`): [..., hidden] of one shape, in float32, bfloat16 or float16; computed in float32.
        rate (`float`): of the dropout.
        scales (`tuple[float, float]`): skip_scale and branch_scale.
        norm (`Callable`, *optional*): a module, or None for the sum alone.
    """
    if not has_kernel(x) or x.shape != f.shape or x.device != f.device or not x.numel() > 0 or rate >= 1:
        return None
    row = _row_of(norm, x.shape[-1])
    if row is None or x.dtype not in _KERNEL_DTYPES or f.dtype not in _KERNEL_DTYPES or x.shape[-1] > _WIDEST:
        return None
    parameters = (row.gain, row.bias, row.alpha, row.shift)
    if not is_plain(x, f, *parameters):
        return None
    y: torch.Tensor = _AddNorm.apply(x, f, *parameters, row, rate, scales)
    return y


def _row_of(norm: Function | None, width: int) -> _KernelRow | None:
    if norm is None:
        return _KernelRow(_by_nothing, _of_nothing)
    if type(norm) not in _KERNEL_ROWS or not isinstance(norm, nn.Module) or not is_untouched(norm):
        return None
    if isinstance(norm, nn.LayerNorm) and norm.normalized_shape != (width,):
        return None
    return _KERNEL_ROWS[type(norm)](norm)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext,
        x: torch.Tensor,
        f: torch.Tensor,
        gain: torch.Tensor | None,
        bias: torch.Tensor | None,
        alpha: torch.Tensor | None,
        shift: torch.Tensor | None,
        row: _KernelRow,
        rate: float,
        scales: tuple[float, float],
    ) -> torch.Tensor:
        x, f, width = x.contiguous(), f.contiguous(), x.shape[-1]
        dtype = torch.promote_types(x.dtype, f.dtype)
        keeps = row.normalize is not _by_nothing or gain is not None
        s = torch.empty(x.shape if keeps else 1, dtype=dtype, device=x.device)
        raised = row.in_float32 and x.is_cuda and torch.is_autocast_enabled("cuda")
        y = torch.empty_like(x, dtype=torch.float32 if raised else dtype)
        seed = torch.randint(2**62, (1,), device=x.device)
        ctx.numbers = width, scales[0], scales[1] / (1 - rate), rate, row.eps
        ctx.kinds = {"drops": rate > 0, "keeps": keeps, "has_gain": gain is not None, "is_squashed": alpha is not None}
        ctx.kinds["block"] = triton.next_power_of_2(width)
        ctx.row, ctx.dtypes = row, (x.dtype, f.dtype)
        given = _or_dummy(s, gain, bias, alpha, shift)
        _forward_kernel[(x.numel() // width,)](
            x, f, s, y, *given, seed, *ctx.numbers, normalize=row.normalize, has_bias=bias is not None, **ctx.kinds
        )  # fmt: skip
        ctx.save_for_backward(s, gain, bias, alpha, shift, seed)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: AutogradContext, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        s, gain, bias, alpha, shift, seed = ctx.saved_tensors
        gradient, width = gradient.contiguous(), ctx.numbers[0]
        tokens = gradient.numel() // width
        of_x, of_f = (torch.empty_like(gradient, dtype=dtype) for dtype in ctx.dtypes)
        programs = min(tokens, _PROGRAMS)
        sums = [gradient.new_empty((programs, size), dtype=torch.float32) for size in (width, width, 2)]
        used_gain, _, used_alpha, used_shift = _or_dummy(s, gain, bias, alpha, shift)
        _backward_kernel[(programs,)](
            gradient, s, of_x, of_f, *sums, used_gain, used_alpha, used_shift, seed, tokens, *ctx.numbers,
            normalize=ctx.row.normalize, gradient=ctx.row.gradient, **ctx.kinds,
        )  # fmt: skip
        of_gain, of_bias, of_squash = (part.sum(0) for part in sums)
        found = (of_gain, of_bias, of_squash[:1], of_squash[1:])
        parameters = zip(found, (gain, bias, alpha, shift), ctx.needs_input_grad[2:6], strict=True)
        of_parameters = [total.to(given.dtype) if needed else None for total, given, needed in parameters]
        return of_x, of_f, *of_parameters, None, None, None


def _or_dummy(dummy: torch.Tensor, *tensors: torch.Tensor | None) -> list[torch.Tensor]:
    """The tensors, and `dummy` where there is none: a kernel needs an address, which it does not read."""
    return [dummy if tensor is None else tensor.contiguous() for tensor in tensors]
