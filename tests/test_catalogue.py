"""The catalogue is true: what it calls built is there, what is there has a row, its specs are some."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import pytest

import hf_addnorm
from hf_addnorm import AddNormBertConfig, catalogue
from hf_addnorm.models.base.registries import (
    DEPTH_RULES,
    INITS,
    NORMS,
    POSITIONS,
    RESIDUALS,
    STREAMS,
    WEIGHTS,
    WIRINGS,
)
from hf_addnorm.models.base.registry import Registry
from hf_addnorm.models.spec.presets import PRESETS
from hf_addnorm.scheme import Axis, Status


REGISTRIES = (NORMS, RESIDUALS, STREAMS, WIRINGS, INITS, POSITIONS, WEIGHTS, DEPTH_RULES)

# the axes of a spec, by the registry that their names are from; all others hold norms
OF_AXIS = {
    "residual": RESIDUALS,
    "stream": STREAMS,
    "wiring": WIRINGS,
    "init": INITS,
    "positions": POSITIONS,
    "weights": WEIGHTS,
    "pre_scale": DEPTH_RULES,
    "drop_path": DEPTH_RULES,
}
ROWS = {row.id: row for row in catalogue()}
SPECS = {
    f"{row.id}-{index}": spec
    for row in catalogue()
    for index, spec in enumerate(row.where)
    if isinstance(spec, dict) or spec in PRESETS
}


def _named(value: Any, registry: Registry) -> Iterator[tuple[str, str]]:
    """The names in one axis of a spec, each with what it is a name of; a choice's options may hold depth rules."""
    if isinstance(value, str) and value in registry:
        yield registry.what, value
    elif isinstance(value, dict):
        if "kind" in value:
            yield registry.what, value["kind"]
        for key, item in value.items():
            if key != "kind":
                yield from _named(item, DEPTH_RULES if "kind" in value or key.endswith("_scale") else registry)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, registry)


def named(spec: Any) -> Iterator[tuple[str, str]]:
    """Every name in a spec and in the preset that it starts from."""
    axes = {"preset": spec} if isinstance(spec, str) else spec
    for axis, value in axes.items():
        if axis == "preset":
            yield "preset", value
            yield from named(PRESETS[value].spec)
            yield from named(PRESETS[value].official)
        elif axis == "layers":
            for override in value:
                yield from named(override)
        else:
            yield from _named(value, OF_AXIS.get(axis, NORMS))


def arxiv(text: str) -> set[str]:
    return set(re.findall(r"\b\d{4}\.\d{5}\b|\b(?:0[7-9]|1[0-4])\d\d\.\d{4}\b", text))


def test_ids_are_unique_and_like_the_registries_names():
    assert [name for name, count in Counter(row.id for row in catalogue()).items() if count > 1] == []
    assert [name for name in ROWS if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)] == []


def test_rows_are_complete():
    for row in catalogue():
        assert row.axis in get_args(Axis), row
        assert row.status in get_args(Status), row
        assert row.source, row
        assert bool(row.where) == (row.status in ("built", "expressible")), row
        # an expressible one may have one: what the spec does not have of it
        assert bool(row.reason) == (row.status in ("open", "left out")) or row.status == "expressible", row
        assert not row.reason or row.reason.endswith("."), row


def test_every_name_has_a_row():
    there = {(registry.what, name) for registry in REGISTRIES for name in registry}
    there |= {("preset", name) for name in PRESETS}
    assert there - {name for spec in SPECS.values() for name in named(spec)} == set()


def test_a_presets_row_has_its_name():
    assert {name for name in PRESETS if name not in ROWS or ROWS[name].status != "built"} == set()


def test_no_registry_is_forgotten():
    found = {
        id(value): value.what
        for name, module in list(sys.modules.items())
        if name.startswith("hf_addnorm.")
        for value in vars(module).values()
        if isinstance(value, Registry)
    }
    assert sorted(found.values()) == sorted(registry.what for registry in REGISTRIES)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_spec_is_one(spec: Any):
    config = AddNormBertConfig(
        add_norm=spec, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=36, vocab_size=11
    )
    assert config.add_norm.preset == (spec if isinstance(spec, str) else spec.get("preset", "post_ln"))


def test_other_names_are_of_the_package():
    others = {name for row in catalogue() for name in row.where if isinstance(name, str) and name not in PRESETS}
    assert {name for name in others if not hasattr(hf_addnorm, name)} == set()


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_paper_is_its_rows(name: str):
    rows = [row for row in catalogue() if name in row.where]
    assert rows
    assert {paper for row in rows for paper in arxiv(row.source)} == arxiv(PRESETS[name].source)


def test_a_parts_paper_is_in_its_docstring():
    """Of built rows that name a part as it is, without options."""
    checked = 0
    for row in catalogue():
        for spec in row.where:
            kind = spec.get(row.axis) if isinstance(spec, dict) else None
            if row.status == "built" and isinstance(kind, str):
                assert arxiv(row.source) <= arxiv(OF_AXIS.get(row.axis, NORMS)[kind].__doc__ or ""), row.id
                checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    "function, registry",
    [
        ("norms", NORMS),
        ("residuals", RESIDUALS),
        ("streams", STREAMS),
        ("wirings", WIRINGS),
        ("inits", INITS),
        ("positions", POSITIONS),
        ("weights", WEIGHTS),
    ],
)
def test_parts_are_those_of_the_registry(function: str, registry: Registry):
    parts = getattr(hf_addnorm, function)()
    assert list(parts) == list(registry)
    for name, part in parts.items():
        assert part.summary, name
        assert set(part.options) == set(registry.options(name))
        assert registry.parse({"kind": name, **part.options}, "parts") == registry.parse(name, "parts")
        docstring = " ".join((registry[name].__doc__ or "").split())
        assert bool(part.source) == ("Source:" in docstring), name
        assert part.source in docstring
        assert not re.search(r"\b(Args|Dtype|Init):", part.source), name
        assert arxiv(part.source) == arxiv(docstring) or name == "regularized_bn", name


def test_a_part_in_full():
    part = hf_addnorm.norms()["scale_norm"]
    assert part.summary.startswith("ScaleNorm: `g * x / max(length, eps)`")
    assert part.source.startswith('Nguyen & Salazar, "Transformers without Tears", 2019, arXiv 1910.05895.')
    assert part.options == {"start": None, "eps": 1e-5}
