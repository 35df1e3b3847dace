"""The spec that a conversion makes of what a caller asks for: options that are left out are chosen to change least."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..models.base.protocols import JsonValue
from ..models.base.registries import NORMS
from ..models.core.pretrained import AddNormPreTrainedModel
from ..models.core.recasting import get_part
from ..models.spec.presets import PRESETS
from ..models.spec.spec import AddNormSpec
from ..sites import add_norm_sites, norm_parts


# a mean subtraction on the embeddings; the same where they have a norm
_NO_MEAN: list[JsonValue] = [{"kind": "fixed_sigma", "gain": False, "bias": False}, "zero_mean_layer_norm"]


@dataclass(frozen=True)
class Candidate:
    """A spec that may be reached, and what of it was chosen.

    Args:
        given (`dict`): the axes as a config says them.
        chosen (`dict`): what was left out, and its value here.
    """

    given: dict[str, JsonValue]
    chosen: dict[str, JsonValue] = field(default_factory=dict)

    @property
    def spec(self) -> AddNormSpec:
        """The spec."""
        return AddNormSpec.parse(self.given)


class Asked:
    """What a caller asks for, and which of its options are open.

    Args:
        value: a preset's name, a dict of axes, or a spec, in which nothing is open.
        source: the model.
    Raises:
        ValueError: as `AddNormSpec.parse`.
    """

    def __init__(self, value: str | Mapping[str, JsonValue] | AddNormSpec, source: AddNormPreTrainedModel):
        stock = source.config.stock_add_norm()
        AddNormSpec.parse(value, stock)
        self.source, self.closed = source, isinstance(value, AddNormSpec)
        given: dict[str, JsonValue] = {"preset": value} if isinstance(value, str) else {}
        if isinstance(value, AddNormSpec):
            given = value.to_dict()
        elif isinstance(value, Mapping):
            given = dict(value) if "preset" in value else {**stock, **value}
        self.given = given
        norm = given.get("norm", PRESETS[given["preset"]].spec.get("norm", "layer_norm"))
        self.norm: dict[str, JsonValue] = dict(norm) if isinstance(norm, Mapping) else {"kind": norm}
        self.options = NORMS.options(self.norm["kind"]) if "kind" in self.norm else {}
        self.eps_is_open = not self.closed and "eps" in self.options and "eps" not in self.norm
        self.embed_is_open = not self.closed and "embed" not in given

    def candidates(self) -> Iterator[Candidate]:
        """Specs to try, the plainest first."""
        plain = self._with_bias(Candidate(self.given))
        yield plain
        if self.embed_is_open:
            for embed in [*_NO_MEAN, self._old_embed()]:
                if embed is not None:
                    yield Candidate({**plain.given, "embed": embed}, {**plain.chosen, "embed": embed})

    def _with_bias(self, candidate: Candidate) -> Candidate:
        """As many biases as the source has, if the norm's kind may have some and the caller does not say."""
        option = self.options.get("bias")
        if self.closed or option is None or "bias" in self.norm or option.default is not False:
            return candidate
        parts = [norm_parts(get_part(self.source, site.norm)) for site in add_norm_sites(self.source)]
        if not any(part.bias is not None for part in parts):
            return candidate
        return Candidate(
            {**candidate.given, "norm": {**self.norm, "bias": True}}, {**candidate.chosen, "norm.bias": True}
        )

    def _old_embed(self) -> JsonValue:
        norm = self.source.config.add_norm.place_norm(self.source.config.add_norm.embed)
        return None if norm is None else norm.to_dict()

    def with_eps(self, candidate: Candidate, wanted: Mapping[str, float]) -> Candidate | None:
        """The same with the eps at which the norms would be the same, if the caller does not say one.

        Args:
            wanted (`dict`): by place, as `Rewriting.eps`; the places that it leaves out are right as they are.
        """
        in_layers = {value for place, value in wanted.items() if place.startswith("layer ")}
        if not self.eps_is_open or len(in_layers) > 1 or not wanted:
            return None
        given, chosen = dict(candidate.given), dict(candidate.chosen)
        norm = dict(given["norm"]) if isinstance(given.get("norm"), Mapping) else dict(self.norm)
        if in_layers:
            norm["eps"] = in_layers.pop()
            given["norm"] = norm
            chosen["norm.eps"] = norm["eps"]
            return Candidate(given, chosen)
        for place in ("embed", "final"):
            if place in wanted:
                given[place] = {**norm, "eps": wanted[place]}
                chosen[place] = given[place]
        return Candidate(given, chosen)
