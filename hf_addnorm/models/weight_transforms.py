"""Weight transforms: what is done to the weights of Linear layers, by their role, in every forward.

The stored weight keeps its stock path and is what is trained, loaded and saved; the layer works with the transformed
one. An adapter adds to the layer's output, so that merging it into the stored weight is not the same.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear, normalize
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D

from .initialization import LINEAR_ROLES
from .norm_base import root
from .per_forward import put_buffer
from .registry import Positive, Registry, one_of, says
from .token_mask import current


WEIGHTS = Registry("weight transform")

_ALLOWED = f"a list of roles, {one_of(LINEAR_ROLES)}, none twice"


def _parse_roles(value: Any, where: str) -> list[str]:
    roles = list(value) if isinstance(value, (list, tuple)) else []
    if not roles or len(set(map(str, roles))) < len(roles) or any(role not in LINEAR_ROLES for role in roles):
        raise ValueError(f"{where} is {value!r}; allowed is {_ALLOWED}.")
    return roles


Roles = Annotated[list, says(_ALLOWED, _parse_roles)]


class WeightTransform(nn.Module):
    """Base: a function of the weight [out, in] of one role, which has that shape too.

    Args:
        out_features, in_features (`int`): of the role.
        roles (`list[str]`, *optional*): those that it is for; all of q, k, v, o, w1, w2 by default.
    """

    # whether a training forward changes it, which a checkpoint's recomputation must know of
    iterates = False

    def __init__(self, out_features: int, in_features: int, roles: Sequence[str] | None):
        super().__init__()

    def start(self, weight: torch.Tensor) -> None:
        """Write the documented start values, which may depend on the start weight."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@WEIGHTS.register("none")
class NoTransform(WeightTransform):
    """The weight as it is."""

    def __init__(self, out_features: int, in_features: int):
        super().__init__(out_features, in_features, ())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


@WEIGHTS.register("weight_standardization")
class WeightStandardization(WeightTransform):
    """Weight standardisation: `(w - mean) / std`, over the inputs of each output.

        w [out, in] -> - mean -> / sqrt(var + eps) (-> / sqrt(in)) -> [out, in]

    A standardised row has a length of sqrt(in): outputs are as much larger than those of weights drawn to keep the
    size. With `fan_in` it has the length 1, as in NFNets (Brock et al., 2021).

    Source: Qiao et al., 2019, arXiv 1903.10520. The authors' code takes the unbiased deviation and adds eps to it:
    `variance="unbiased", eps_place="outside"`.

    Args:
        out_features, in_features (`int`): of the role.
        roles (`list[str]`, *optional*): those whose weights are standardised; all by default.
        fan_in (`bool`, *optional*, defaults to `False`): divide by sqrt(in) too.
        eps (`float`, *optional*, defaults to 1e-5): above 0.
        eps_place (`str`, *optional*, defaults to `"inside"`): add eps inside the root, or "outside" of it.
        variance (`str`, *optional*, defaults to `"biased"`): divide by in, or with "unbiased" by in - 1.
    Dtype: computed in float32 at least, returned in that of the weight. No parameters.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        *,
        roles: Roles | None = None,
        fan_in: bool = False,
        eps: Positive = 1e-5,
        eps_place: Literal["inside", "outside"] = "inside",
        variance: Literal["biased", "unbiased"] = "biased",
    ):
        super().__init__(out_features, in_features, roles)
        self.eps, self.eps_place, self.correction = eps, eps_place, int(variance == "unbiased")
        self.divisor = in_features**0.5 if fan_in else 1.0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.to(torch.promote_types(weight.dtype, torch.float32))
        centred = w - w.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (w.shape[-1] - self.correction)
        return (centred / (root(variance, self.eps, self.eps_place) * self.divisor)).to(weight.dtype)


@WEIGHTS.register("sigma_reparam")
class SigmaReparam(WeightTransform):
    """Sigma-reparam: `sigma * w / norm(w)`, a learned size and the spectral norm, estimated by power iteration.

        w [out, in] -> / (left^T w right) -> * sigma -> [out, in]      left, right: the first singular vectors

    One iteration runs in each training forward, none in a checkpoint's recomputation or in evaluation. The gradient
    goes through the norm, with the vectors as constants.

    Source: Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse", 2023,
    arXiv 2303.06296.

    Args:
        out_features, in_features (`int`): of the role.
        roles (`list[str]`, *optional*): those whose weights are reparametrised; all by default.
        start (`str`, *optional*, defaults to `"one"`): sigma begins at 1, as the paper says, or with "spectral_norm"
            at the norm of the start weight, as in the authors' code, which so begins as the plain model.
    Parameters: sigma [1]; buffers left [out], right [in]. Init: the vectors from 30 iterations on the start weight.
    Dtype: computed in float32 at least, returned in that of the weight; sigma and the vectors stay in float32.
    """

    keep_in_float32 = ("weight_norm",)
    iterates = True

    def __init__(
        self,
        out_features: int,
        in_features: int,
        *,
        roles: Roles | None = None,
        start: Literal["one", "spectral_norm"] = "one",
    ):
        super().__init__(out_features, in_features, roles)
        self.starts_at_norm = start == "spectral_norm"
        self.sigma = nn.Parameter(torch.empty(1))
        self.register_buffer("left", torch.empty(out_features))
        self.register_buffer("right", torch.empty(in_features))

    def start(self, weight: torch.Tensor) -> None:
        left, right, w = torch.randn_like(weight[:, 0]), weight[0], weight
        for _ in range(30):
            right = normalize(w.T @ left, dim=0)
            left = normalize(w @ right, dim=0)
        init.copy_(self.get_buffer("left"), left)
        init.copy_(self.get_buffer("right"), right)
        init.copy_(self.sigma, (left @ w @ right).view(1) if self.starts_at_norm else torch.ones(1))

    def _vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        # clones: the buffers change in the next forward, perhaps before this one's backward
        return self.get_buffer("left").clone(), self.get_buffer("right").clone()

    @torch.no_grad()
    def _iterate(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        right = normalize(w.T @ self.get_buffer("left").to(w.dtype), dim=0)
        put_buffer(self, "right", right)
        put_buffer(self, "left", normalize(w @ right, dim=0))
        return self._vectors()

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.to(torch.promote_types(weight.dtype, torch.float32))
        taken = current().once(self, partial(self._iterate, w)) if self.training else None
        left, right = (vector.to(w.dtype) for vector in taken or self._vectors())
        return (self.sigma / (left @ w @ right) * w).to(weight.dtype)


class Transformed(nn.Module):
    """Mixin for a Linear layer that works with a transformed weight; its transforms are `weight_norm`, by role."""

    weight_norm: nn.ModuleList

    def parts(self) -> tuple[torch.Tensor, ...]:
        """The stored weight of each role, [out, in]."""
        weight: Any = self.weight
        weight = weight.T if isinstance(self, Conv1D) else weight
        return weight.chunk(len(self.weight_norm), dim=0)

    def start_transforms(self) -> None:
        """Write the transforms' start values, from the start weight."""
        for transform, part in zip(self.weight_norm, self.parts(), strict=True):
            transform.start(part)  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = [transform(part) for transform, part in zip(self.weight_norm, self.parts(), strict=True)]
        bias: Any = self.bias
        return linear(x, torch.cat(weights) if len(weights) > 1 else weights[0], bias)


class TransformedLinear(Transformed, nn.Linear):
    """`torch.nn.Linear` with a transformed weight."""


class TransformedConv1D(Transformed, Conv1D):
    """GPT-2's `Conv1D` with a transformed weight."""


def transformed_class(module: Any) -> "type[Transformed]":
    """The class that adopts a Linear layer."""
    return TransformedConv1D if isinstance(module, Conv1D) else TransformedLinear


def transforms(choice: Any, roles: Sequence[str], module: Any) -> list[WeightTransform] | None:
    """A transform for each of the roles of a Linear layer, or None if none of them has one."""
    wanted = choice.options.get("roles") or (LINEAR_ROLES if choice.kind != "none" else ())
    if set(roles).isdisjoint(wanted):
        return None
    ins, outs = (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
    size = outs // len(roles)
    return [WEIGHTS.build(choice, size, ins) if role in wanted else NoTransform(size, ins) for role in roles]
