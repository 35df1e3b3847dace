"""Tools that hang on the forward of modules: offloading, hooks, models without memory."""

import contextlib
import itertools

import pytest
import torch
from families import BASE_MODELS, FAMILIES, SPECS, covering, fill_with_pattern, specs_of
from specs import AXES, NEEDED
from torch import nn

from hf_addnorm.models.core.layer import AddNormLayer


accelerate = pytest.importorskip("accelerate")

PAIRS = [(family, spec) for family, model in BASE_MODELS.items() for spec in specs_of(family, model)]
# for so few features
SMALL = {"laurel_gemma3n": {"rank": 4}}
# every kind of every axis, and connections that read in another way than those of the presets
KINDS = {
    f"{axis}-{kind}": spec_around({"kind": kind} | NEEDED.get(kind, {}) | SMALL.get(kind, {}))
    for axis, (registry, spec_around) in AXES.items()
    if axis in ("norm", "residual", "positions", "weights", "init[0]", "stream", "wiring")
    for kind in registry
    if kind != "t_fixup"
} | {"learned_head": {"stream": {"kind": "manifold_hyper_connections", "reduce": "learned"}}}


def _dealt():
    """(family, kind): each kind with the next family that can have it."""
    families, found = itertools.cycle(FAMILIES), []
    for name, spec in KINDS.items():
        for family in itertools.islice(families, len(FAMILIES)):
            with contextlib.suppress(ValueError):
                FAMILIES[family].config(BASE_MODELS[family], spec, num_hidden_layers=2)
                found.append((family, name))
                break
    return found


DEALT = _dealt()
CASES = [*covering(PAIRS), *DEALT]
# without the kinds of norm, which differ in one module each
OFFLOADED = [case for case in CASES if not str(case[1]).startswith("norm-")]


def _base(family, spec):
    row, model = FAMILIES[family], BASE_MODELS[family]
    torch.manual_seed(0)
    net = row.model_class(model)(row.config(model, (SPECS | KINDS)[spec], num_hidden_layers=2)).eval()
    fill_with_pattern(net)
    return net, row.inputs(model)


# the stock encoder of DeBERTa reads this table's weight itself, so that stock cannot be offloaded either
STOCK_READS = ("encoder.rel_embeddings",)


def test_every_kind_is_had():
    assert {kind for _, kind in DEALT} == set(KINDS)


# --- parameters are read in the forward of the module that owns them ---


class _OnMeta:
    """Keeps a module's own parameters on meta but for the time of its forward, as offloading does."""

    def __init__(self, module):
        self.module, self.own = module, dict(module.named_parameters(recurse=False))
        self.away = {name: nn.Parameter(value.to("meta")) for name, value in self.own.items()}
        self.running = 0
        self.put(self.away)

    def put(self, parameters):
        self.module._parameters.update(parameters)

    def __call__(self, forward):
        def with_own(*args, **kwargs):
            self.put(self.own)
            self.running += 1
            try:
                return forward(*args, **kwargs)
            finally:
                self.running -= 1
                if not self.running:
                    self.put(self.away)

        return with_own


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("family", "spec"), CASES)
def test_no_parameter_is_read_outside_of_its_modules_forward(family, spec, mode):
    net, inputs = _base(family, spec)
    getattr(net, mode)()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    options = (
        {"mask_time_indices": torch.zeros(3, 11, dtype=torch.bool)}
        if FAMILIES[family].config_class.facts.inputs == "sound"
        else {}
    )
    with torch.no_grad(), _seeded():
        expected = net(**inputs, **options)[0]
    net, _ = _base(family, spec)
    getattr(net, mode)()
    for name, module in net.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if module._parameters and name not in STOCK_READS:
            module.forward = _OnMeta(module)(module.forward)
    with torch.no_grad(), _seeded():
        assert torch.equal(net(**inputs, **options)[0], expected)


@contextlib.contextmanager
def _seeded():
    torch.manual_seed(3)
    yield


# --- Accelerate ---


@pytest.mark.parametrize(("family", "spec"), OFFLOADED)
def test_offloaded_to_the_cpu(family, spec):
    net, inputs = _base(family, spec)
    with torch.no_grad():
        expected = net(**inputs)[0]
        parts = [net.embeddings, *net.encoder.layer] if "deberta" in family else [net]
        for part in parts:
            accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
            assert {parameter.device.type for parameter in part.parameters()} == {"meta"}
        assert torch.equal(net(**inputs)[0], expected)


@pytest.mark.parametrize(("family", "spec"), OFFLOADED)
def test_dispatched_to_the_disk(family, spec, tmp_path):
    net, inputs = _base(family, spec)
    with torch.no_grad():
        expected = net(**inputs)[0]
        blocks = {name for name, module in net.named_modules() if isinstance(module, AddNormLayer)}
        places = _places(net, blocks)
        places |= dict.fromkeys(STOCK_READS if "deberta" in family else [max(places)], "cpu")
        net = accelerate.dispatch_model(net, places, main_device="cpu", offload_dir=str(tmp_path))
        assert torch.equal(net(**inputs)[0], expected)


def _places(module, blocks, prefix=""):
    """The disk, for every layer and for what is in none."""
    places = dict.fromkeys(_named(module.named_parameters(recurse=False), prefix), "disk")
    places |= dict.fromkeys(_named(module.named_buffers(recurse=False), prefix), "disk")
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if path in blocks or not any(block.startswith(f"{path}.") for block in blocks):
            places[path] = "disk"
        else:
            places |= _places(child, blocks, f"{path}.")
    return places


def _named(pairs, prefix):
    return [f"{prefix}{name}" for name, _ in pairs]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_built_without_memory(family, spec, tmp_path):
    net, inputs = _base(family, spec)
    net.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = net(**inputs)[0]
    with accelerate.init_empty_weights():
        empty = type(net)(net.config)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    empty.load_state_dict(net.state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(empty.eval()(**inputs)[0], expected)
