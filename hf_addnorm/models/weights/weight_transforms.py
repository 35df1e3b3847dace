"""Weight transforms: what is done to weights, by their role, in every forward.

Those of the layers' Linear layers; some transforms are for the tables of the embeddings and a language model's output
layer too (`embeddings_and_output.py`). The stored weight keeps its stock path and is what is trained, loaded and
saved; the layer works with the transformed one. An adapter adds to the layer's output, so that merging it into the
stored weight is not the same.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, cast

import torch
from torch import nn
from torch.nn.functional import linear, normalize
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D

from ..base.forward_context import put_buffer
from ..base.fused_roles import join_roles, split_roles
from ..base.registries import WEIGHTS
from ..base.registry import ComponentSpec, OptionType, Positive, one_of
from ..base.token_mask import current
from ..norms.norm_base import root, unit
from .initialization import LINEAR_ROLES


# besides the Linear layers: a table of the embeddings, a language model's output layer
ALL_ROLES = (*LINEAR_ROLES, "embed", "output")


def _roles_among(known: Sequence[str]) -> OptionType[list[str]]:
    allowed = f"a list of roles, {one_of(known)}, none twice"

    def parse(value: object, where: str) -> list[str]:
        roles = list(value) if isinstance(value, (list, tuple)) else []
        if not roles or len(set(map(str, roles))) < len(roles) or any(role not in known for role in roles):
            raise ValueError(f"{where} is {value!r}; allowed is {allowed}.")
        return roles

    return OptionType(allowed, parse)


Roles = Annotated[list[str], _roles_among(LINEAR_ROLES)]
AllRoles = Annotated[list[str], _roles_among(ALL_ROLES)]


class WeightTransform(nn.Module):
    """Base of the weight transforms: a function of the weight [out, in] of a Linear layer, to the same shape.

    Args:
        out_features, in_features (`int`): of the role.
        role (`str`): the role.
        roles (`list[str]`, *optional*): those that it is for; by default all `possible_roles`.
    """

    # whether a training forward changes it, which a checkpoint's recomputation must know of
    iterates = False
    # whether of the embeddings' tables it is for that of the words alone
    words_only = False
    # whether the layer's bias is transformed too
    has_bias_too = False
    possible_roles: ClassVar[tuple[str, ...]] = LINEAR_ROLES

    def __init__(self, out_features: int, in_features: int, role: str, roles: Sequence[str] | None):
        super().__init__()

    def start(self, weight: torch.Tensor) -> None:
        """Write the documented start values, which may depend on the start weight."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def of_bias(self, bias: torch.Tensor) -> torch.Tensor:
        """The bias [out] that the layer uses, from the one that is stored."""
        return bias


@WEIGHTS.register("none")
class NoTransform(WeightTransform):
    """The weight as it is."""

    possible_roles = ()

    def __init__(self, out_features: int, in_features: int, role: str):
        super().__init__(out_features, in_features, role, ())

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
        role (`str`): the role.
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
        role: str,
        *,
        roles: Roles | None = None,
        fan_in: bool = False,
        eps: Positive = 1e-5,
        eps_place: Literal["inside", "outside"] = "inside",
        variance: Literal["biased", "unbiased"] = "biased",
    ):
        super().__init__(out_features, in_features, role, roles)
        self.eps, self.eps_place, self.correction = eps, eps_place, int(variance == "unbiased")
        self.divisor = in_features**0.5 if fan_in else 1.0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.to(torch.promote_types(weight.dtype, torch.float32))
        centred = w - w.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (w.shape[-1] - self.correction)
        return (centred / (root(variance, self.eps, self.eps_place) * self.divisor)).to(weight.dtype)


@WEIGHTS.register("unit_vectors")
class UnitVectors(WeightTransform):
    """Every vector of a weight that lies along the hidden axis as a unit vector, `w / length`.

        w [out, in] -> / length of each row (o, w2: of each column) -> [out, in]

    The vectors of q, k, v, w1, of an embedding table and of the output layer are rows; those of o and w2, which write
    to the stream, are columns. A vector of exactly 0, as that of a padding token, stays 0.

    Source: the weights of nGPT, Loshchilov et al., 2024, arXiv 2410.01131. The authors divide the stored weights
    themselves, after every step of the optimiser. Here the stored ones keep their length, and the gradient goes
    through the division: the same functions, on another path of training. A gradient has no part along its vector
    then, and a stored vector that grows longer turns more slowly.

    Args:
        out_features, in_features (`int`): of the role.
        role (`str`): the role.
        roles (`list[str]`, *optional*): those whose vectors are; by default all: q, k, v, o, w1, w2, embed (every
            table of the embeddings), output (the output layer of a language model).
    Dtype: computed in float32 at least, returned in that of the weight. No parameters.
    """

    possible_roles = ALL_ROLES

    def __init__(self, out_features: int, in_features: int, role: str, *, roles: AllRoles | None = None):
        super().__init__(out_features, in_features, role, roles)
        self.in_columns = role in ("o", "w2")

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return (unit(w.T, 1e-12).T if self.in_columns else unit(w, 1e-12)).to(weight.dtype)


@WEIGHTS.register("fix_norm")
class FixNorm(WeightTransform):
    """FixNorm: the vectors of all words have one length, whatever is stored.

        words w [vocabulary, width] -> / length of each row -> * length -> embeddings
        output w [vocabulary, hidden] -> / length of each row -> logits

    For the table of the words, no other table of the embeddings, and the output layer, of which the logits become
    cosines times the length of the last hidden state: the authors have `scale_norm` there, in the place `final`. A
    vector of exactly 0, as that of a padding token, stays 0.

    Source: Nguyen & Salazar, "Transformers without Tears", 2019, arXiv 1910.05895, after Nguyen & Chiang, 2018. Their
    code draws the vectors uniformly from -0.01 to 0.01.

    Args:
        out_features, in_features (`int`): vocabulary and width.
        role (`str`): embed or output.
        length (`float`, *optional*): of a word's embedding, above 0; by default the root of the width.
    Dtype: computed in float32 at least, returned in that of the weight. No parameters.
    """

    possible_roles = ("embed", "output")
    words_only = True

    def __init__(self, out_features: int, in_features: int, role: str, *, length: Positive | None = None):
        super().__init__(out_features, in_features, role, None)
        self.length = (length or in_features**0.5) if role == "embed" else 1.0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return (unit(w, 1e-12) * self.length).to(weight.dtype)


@WEIGHTS.register("zero_mean_output")
class ZeroMeanOutput(WeightTransform):
    """Zero-mean output: the mean over the outputs taken out of weight and bias, `w - mean(w)`, `b - mean(b)`.

        w [out, in] -> - mean over out -> [out, in];  b [out] -> - mean -> [out]

    What such a layer gives has a mean of 0. Where every branch ends in one, and what enters the first layer has a mean
    of 0 too, so has the stream, and RMSNorm of it is LayerNorm: a trained pre-norm model with LayerNorm goes on as the
    same function with `rms_norm` (`bias` as it was, and its eps), this transform, and in the place `embed` a norm that
    takes the mean out, `{"kind": "fixed_sigma", "gain": false, "bias": false}`. A model with a norm there (ModernBERT)
    would lose it: `zero_mean_layer_norm` is both, but a sublayer that reads the stream without a norm then lacks the
    mean; `hf_addnorm.convert` gives it back, and folds all of it into the weights.

    Source: Jiang, Gu, Zhu & Pan, "Pre-RMSNorm and Pre-CRMSNorm Transformers", 2023, arXiv 2305.14858.

    Args:
        out_features, in_features (`int`): of the role.
        role (`str`): o or w2, which write to the stream.
    Dtype: computed in float32 at least, returned in that of the weight. No parameters.
    """

    possible_roles = ("o", "w2")
    has_bias_too = True

    def __init__(self, out_features: int, in_features: int, role: str):
        super().__init__(out_features, in_features, role, None)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return (w - w.mean(0)).to(weight.dtype)

    def of_bias(self, bias: torch.Tensor) -> torch.Tensor:
        centred: torch.Tensor = self(bias)
        return centred


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
        role (`str`): the role.
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
        role: str,
        *,
        roles: Roles | None = None,
        start: Literal["one", "spectral_norm"] = "one",
    ):
        super().__init__(out_features, in_features, role, roles)
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
    """Mixin for a Linear layer that works with transformed weights; its transforms are `weight_norm`, by role."""

    weight_norm: nn.ModuleList
    # how often the roles of a fused layer follow each other
    blocks = 1

    @property
    def transforms(self) -> Sequence[WeightTransform]:
        """The transform of each role of the layer, in the order of the roles."""
        return cast(Sequence[WeightTransform], self.weight_norm)

    def parts(self) -> Sequence[torch.Tensor]:
        """The stored weight of each role, [out, in]."""
        stored = cast(nn.Linear, self).weight
        weight = stored.T if isinstance(self, Conv1D) else stored
        return split_roles(weight, len(self.weight_norm), self.blocks)

    def start_transforms(self) -> None:
        """Write the transforms' start values, from the start weight; a weight on meta has none to start from."""
        if cast(nn.Linear, self).weight.is_meta:
            return
        for transform, part in zip(self.transforms, self.parts(), strict=True):
            transform.start(part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        transforms = self.transforms
        weights = [transform(part) for transform, part in zip(transforms, self.parts(), strict=True)]
        bias: torch.Tensor | None = cast(nn.Linear, self).bias
        if bias is not None and any(transform.has_bias_too for transform in transforms):
            parts = zip(transforms, split_roles(bias, len(weights), self.blocks), strict=True)
            bias = join_roles([transform.of_bias(part) for transform, part in parts], self.blocks)
        return linear(x, join_roles(weights, self.blocks), bias)


class TransformedLinear(Transformed, nn.Linear):
    """`torch.nn.Linear` with a transformed weight."""


class TransformedConv1D(Transformed, Conv1D):
    """GPT-2's `Conv1D` with a transformed weight."""


def transformed_class(module: nn.Module) -> "type[Transformed]":
    """The class in which a Linear layer transforms its weight: one for `torch.nn.Linear`, one for `Conv1D`."""
    return TransformedConv1D if isinstance(module, Conv1D) else TransformedLinear


def transforms(choice: ComponentSpec, roles: Sequence[str], outs: int, ins: int) -> list[WeightTransform] | None:
    """A transform for each of the roles of a weight [outs, ins], or None if none of them has one."""
    wanted = choice.options.get("roles") or WEIGHTS[choice.kind].possible_roles
    if set(roles).isdisjoint(wanted):
        return None
    size = outs // len(roles)
    return [
        WEIGHTS.build(choice, size, ins, role) if role in wanted else NoTransform(size, ins, role) for role in roles
    ]


def linear_size(module: nn.Module) -> tuple[int, int]:
    """Output and input features of a Linear layer."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    linear_layer = cast(nn.Linear, module)
    return linear_layer.out_features, linear_layer.in_features
