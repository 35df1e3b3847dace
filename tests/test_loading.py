"""Stock checkpoints into other specs: what has a place is kept, everything else has its documented start value."""

import math
import re

import pytest
import torch
from families import (
    COVERING,
    FAMILIES,
    MODELS,
    OTHER_SPECS,
    SPECS,
    fill_with_pattern,
    product,
    slow_unless,
    stacks_of,
)
from family_inputs import first_output
from reference_checks import Drawn
from residual_references import RESIDUAL_REFERENCES
from transformers import CONFIG_MAPPING, AutoConfig, SwinConfig

from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertModel, load_pretrained, new_model
from hf_addnorm.hub.description import as_ours
from hf_addnorm.models.base.registries import RESIDUALS
from hf_addnorm.without_family import WITHOUT_FAMILY


# the hidden size of every family under test
WIDTH = 32


def _spoil_freed_memory() -> None:
    """Leave garbage where the allocator will take new tensors from."""
    blocks = [
        torch.full((size,), 7.0e7)
        for size in (1, 4, 32, 37, 64, 32 * 32, 32 * 37, 64 * 32, 99 * 32)
        for _ in range(40)
    ]
    del blocks


# by class, where more starts than a gain at 1 and a bias at 0
NORM_STARTS: dict[str, dict[str, float]] = {
    **{kind: {} for kind in ("LayerNorm", "DeviationNorm", "GroupNorm", "CenterNorm", "FixedSigmaNorm")},
    **{kind: {} for kind in ("RMSNorm", "PartialRMSNorm", "SumNorm", "Affine")},
    **{kind: {} for kind in ("GroupedRMSNorm", "InputScaledRMSNorm", "QueryGain")},
    **{kind: {} for kind in ("InstanceNorm", "ContraNorm", "SequenceGroupNorm")},
    "BoundedTanhNorm": {"alpha": 2.0},
    # the root of the width
    "ScaleNorm": {"scalar_weight": 32**0.5},
    "ScaledL2Norm": {"weight": 32**-0.5},
    "InputScaledLayerNorm": {"input_weight": 1.0},
    "SeeDNorm": {"direction": 0.0, "alpha": 1.0},
    "DynamicTanh": {"alpha": 0.5},
    "DynamicErf": {"alpha": 0.5, "shift": 0.0},
    "InverseSquareRootUnit": {"alpha": 0.5, "shift": 0.0},
}


def _residual_start(kind: str, residual: torch.nn.Module) -> dict[str, torch.Tensor | Drawn]:
    """By the name of a residual's parameter: its start value, or what it is drawn from."""
    options = {name: getattr(residual, name) for name in ("start", "std") if hasattr(residual, name)}
    options |= {"rank": residual.down.out_features} if kind.startswith("laurel") else {}
    options |= {"value": residual.constant} if kind == "deep_delta" else {}
    start = RESIDUAL_REFERENCES[kind].start(WIDTH, **options)
    return {
        name: value if isinstance(value, Drawn) else torch.as_tensor(value, dtype=torch.float32).expand(shape)
        for name, (shape, value) in start.items()
    }


def _is_start(value: torch.Tensor, start: torch.Tensor | Drawn) -> bool:
    if isinstance(start, Drawn):
        return bool(0.5 * start.std < value.std() < 1.5 * start.std and value.abs().max() <= start.bound)
    return torch.equal(value, start)


def _start_values(model: torch.nn.Module) -> dict[str, torch.Tensor | Drawn]:
    """The documented start of every add & norm parameter, by name, from the classes' own statements."""
    expected, sublayer = {}, 0
    zeroed = "zero_out_norm" in [rule.kind for rule in model.config.add_norm.init]
    for path, module in model.named_modules():
        kind = type(module).__name__
        for registered in (name for name, factory in RESIDUALS.items() if factory is type(module)):
            expected |= {f"{path}.{name}": value for name, value in _residual_start(registered, module).items()}
        for name, parameter in module.named_parameters(recurse=False):
            key = f"{path}.{name}"
            if kind == "LearnedScale":
                expected[key] = torch.full_like(parameter, 32**-0.5 if path.endswith("logits_norm") else 1.0)
            elif kind in NORM_STARTS:
                value = ({"weight": 1.0, "bias": 0.0, "zero_centered_weight": 0.0} | NORM_STARTS[kind])[name]
                expected[key] = torch.full_like(parameter, 0.0 if zeroed and ".out_norm." in key else value)
            elif kind == "DynamicTokenNorm":
                # four heads at the corners of 2 x 2 tokens, halfway between them and the token
                corners = torch.tensor([[-1.0, y, x] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
                starts = {"position_weights": corners, "weight": torch.ones(32)}
                expected[key] = starts.get(name, torch.zeros_like(parameter))
            elif kind in ("HyperConnection", "StaticWeights") and name == "beta":
                expected[key] = torch.ones(len(parameter))
            elif kind in ("HyperConnection", "StaticWeights"):
                # reads the fractions of one stream, in turn, and leaves all as they are
                pieces, fractions = torch.eye(len(parameter)), parameter.shape[1] - parameter.shape[0]
                first = sublayer * fractions % len(pieces)
                expected[key] = torch.cat([pieces[:, first : first + fractions], pieces], dim=1)
                sublayer += 1
            elif kind == "AttentionResidual":
                expected[key] = torch.zeros_like(parameter)
            elif kind == "Linear" and "_gate" in path and key not in expected:
                expected[key] = Drawn(0.02)
            elif kind == "HybridSiameseConnection":
                expected[key] = torch.ones_like(parameter)
            elif kind == "EmbeddingMix":
                # nanochat's, by layer
                first, last = {"scale": (1.15, 1.05), "embedding_scale": (0.2, 0.05)}[name]
                depth = int(re.search(r"(\d+)(?=\.connections|\.begin_norm)", path)[1])
                stack = next(config for home, config in stacks_of(model) if path.startswith(home))
                depth /= stack.add_norm_depth() - 1
                expected[key] = torch.tensor([first + (last - first) * depth])
            elif kind == "Backout":
                expected[key] = torch.tensor([0.2])
            elif kind == "DepthWeightedAverage":
                expected[key] = torch.eye(len(parameter))[-1]
            elif kind == "DynamicHyperConnection":
                expected[key] = torch.zeros_like(parameter)
            elif kind == "ManifoldHyperConnection":
                # four streams: read their mean, write to each once, mix little
                starts = [-math.log(3)] * 4 + [0.0] * 4 + (5.0 * torch.eye(4)).flatten().tolist()
                expected[key] = Drawn(0.02) if name == "weight" else torch.tensor(starts)
            elif kind == "StreamHead":
                expected[key] = Drawn(0.02) if name == "weight" else torch.full((4,), -math.log(3))
            elif kind == "IndependentHyperConnection":
                expected[key] = Drawn(0.02) if name == "weight" else torch.tensor([-math.log(3)] * 4 + [0.0] * 4)
            elif kind == "PermutationHyperConnection":
                starts = [-math.log(2)] * 3 + [0.0] * 3 + [8.0] + [0.0] * 5
                expected[key] = Drawn(0.02) if name == "weight" else torch.tensor(starts)
            elif path.endswith(".scale_norm"):
                expected[key] = torch.tensor([0.01])
    return expected


class _StockFolders(dict):
    """A patterned stock checkpoint for every model, and what it holds; made when it is asked for."""

    def __init__(self, make_folder):
        super().__init__()
        self.make_folder = make_folder
        self.states = {}

    def __missing__(self, key):
        family, model = key
        row = FAMILIES[family]
        net = row.stock_class(model)(row.stock_config(model))
        fill_with_pattern(net)
        self[key] = self.make_folder(model)
        net.save_pretrained(self[key])
        self.states[key] = net.state_dict()
        return self[key]


@pytest.fixture(scope="module")
def stock_folders(tmp_path_factory):
    return _StockFolders(tmp_path_factory.mktemp)


@pytest.mark.parametrize(("family", "model", "spec"), product(MODELS))
def test_stock_weights_into_another_spec(family, model, spec, stock_folders):
    row = FAMILIES[family]
    folder = stock_folders[family, model]
    stock_state = stock_folders.states[family, model]
    _spoil_freed_memory()
    torch.manual_seed(0)
    net, info = row.model_class(model).from_pretrained(folder, add_norm=SPECS[spec], output_loading_info=True)
    state = net.state_dict()
    assert info["missing_keys"] == set(state) - set(stock_state)
    assert info["unexpected_keys"] == set(stock_state) - set(state)
    assert not info["mismatched_keys"]
    start = _start_values(net)
    for key, value in state.items():
        if key in stock_state:
            assert torch.equal(value, stock_state[key]), key
        else:
            assert _is_start(value, start[key]), key
    _spoil_freed_memory()
    torch.manual_seed(0)
    again = row.model_class(model).from_pretrained(folder, add_norm=SPECS[spec])
    for key, value in again.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert first_output(net(**row.inputs(model))).isfinite().all()


@pytest.mark.parametrize("spec", COVERING)
def test_a_new_head_on_stock_weights_is_drawn_not_garbage(spec, stock_folders):
    _spoil_freed_memory()
    folder = stock_folders["bert", "AddNormBertModel"]
    row = FAMILIES["bert"]
    net = row.model_class("AddNormBertForTokenClassification").from_pretrained(folder, add_norm=SPECS[spec])
    assert net.classifier.weight.std() < 0.05
    assert torch.equal(net.classifier.bias, torch.zeros(2))


ROUND_TRIPS = [
    slow_unless(model == "AddNormBertForMaskedLM" and spec in COVERING, "bert", model, spec)
    for model in ("AddNormBertForMaskedLM", "AddNormBertModel")
    for spec in SPECS
]


@pytest.mark.parametrize(("family", "model", "spec"), ROUND_TRIPS)
def test_round_trip(family, model, spec, tmp_path):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, SPECS[spec]))
    fill_with_pattern(net)
    net.save_pretrained(tmp_path)
    back, info = row.model_class(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert back.config.add_norm == net.config.add_norm
    for key, value in net.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key
    inputs = row.inputs(model)
    torch.testing.assert_close(net.eval()(**inputs)[0], back(**inputs)[0], rtol=1e-5, atol=1e-5)


def test_the_gates_of_a_norm_are_drawn_where_they_are_missing_and_kept_where_they_are_not(stock_folders, tmp_path):
    spec = {"preset": "sandwich_ln", "norm": "gated_rms_norm"}
    _spoil_freed_memory()
    net = AddNormBertModel.from_pretrained(stock_folders["bert", "AddNormBertModel"], add_norm=spec)
    gates = {name: gate for name, gate in net.named_parameters() if "gate_" in name}
    # two for each norm: of the embeddings, four of each layer, the final one
    assert len(gates) == 2 * (1 + 4 * 4 + 1)
    assert all(0.015 < gate.std() < 0.025 and gate.abs().max() < 0.1 for gate in gates.values())
    assert len({gate.sum().item() for gate in gates.values()}) == len(gates)
    net.save_pretrained(tmp_path)
    _spoil_freed_memory()
    back, info = AddNormBertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(gate, back.get_parameter(name)) for name, gate in gates.items())
    half = AddNormBertModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {half.get_parameter(name).dtype for name in gates} == {torch.float32}
    assert half.get_parameter("encoder.final_norm.weight").dtype == torch.bfloat16
    inputs = FAMILIES["bert"].inputs("AddNormBertModel")
    output = half(**inputs).last_hidden_state
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), net.eval()(**inputs).last_hidden_state, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("spec", SPECS)
def test_start_from_scratch_and_bfloat16(spec, tmp_path):
    row = FAMILIES["bert"]
    net = AddNormBertForMaskedLM(row.config("AddNormBertForMaskedLM", SPECS[spec]))
    start = _start_values(net)
    for key, parameter in net.named_parameters():
        if key in start:
            assert _is_start(parameter.detach(), start[key]), key
    net.save_pretrained(tmp_path)
    half = AddNormBertForMaskedLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    # all but what a class says of itself
    wide = {pattern for module in half.modules() for pattern in getattr(module, "keep_in_float32", ())}
    for key, parameter in half.named_parameters():
        kept = any(re.search(pattern, key) for pattern in wide)
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), key
    inputs = row.inputs("AddNormBertForMaskedLM")
    output = half(**inputs)
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()
    torch.testing.assert_close(output.logits.float(), net.eval()(**inputs).logits, atol=0.05, rtol=0.05)


def test_a_base_model_adopted_by_a_head_has_the_specs_init():
    """A head builds the stock base first: its weights must still be started by the spec's rules."""
    row = FAMILIES["bert"]
    net = AddNormBertForMaskedLM(
        row.config("AddNormBertForMaskedLM", "deepnorm", hidden_size=256, intermediate_size=512)
    )
    layer = net.bert.encoder.layer[1]
    xavier = math.sqrt(2 / (256 + 256))
    assert math.isclose(layer.attention.self.query.weight.std().item(), xavier, rel_tol=0.03)
    assert math.isclose(layer.attention.self.value.weight.std().item(), xavier * (8 * 4) ** -0.25, rel_tol=0.03)


def test_real_checkpoints_with_keys_that_bert_config_does_not_declare(stock_folders, tmp_path):
    import json
    import shutil

    folder = tmp_path / "real"
    shutil.copytree(stock_folders["bert", "AddNormBertModel"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"gradient_checkpointing": False, "position_embedding_type": "absolute"})
    )
    net = AddNormBertModel.from_pretrained(folder, add_norm="pre_ln")
    assert net.config.position_embedding_type == "absolute"


def test_load_pretrained(stock_folders, tmp_path):
    folder = stock_folders["bert", "AddNormBertForMaskedLM"]
    stock = load_pretrained("AutoModelForMaskedLM", folder)
    assert type(stock).__name__ == "BertForMaskedLM"
    ours = load_pretrained("AutoModelForMaskedLM", folder, add_norm="pre_ln", hidden_dropout_prob=0.0)
    assert type(ours) is AddNormBertForMaskedLM
    assert ours.config.hidden_dropout_prob == 0.0
    ours.save_pretrained(tmp_path)
    assert load_pretrained("AutoModelForMaskedLM", tmp_path).config.add_norm.preset == "pre_ln"
    other = load_pretrained("AutoModelForMaskedLM", tmp_path, add_norm=OTHER_SPECS["post_rms"])
    assert other.config.add_norm.norm.kind == "rms_norm"
    with pytest.raises(ValueError, match="allowed is the name of one of Transformers' Auto classes"):
        load_pretrained("AutoModelForMaskedLN", folder)
    with pytest.raises(ValueError, match="Did you mean pre_ln"):
        load_pretrained("AutoModelForMaskedLM", folder, add_norm="pre_lnn")


def test_a_family_without_addnorm_models_is_named(tmp_path):
    from transformers import SqueezeBertConfig

    SqueezeBertConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"is a 'squeezebert' model, which has no AddNorm family; families are .*bert"
    ):
        load_pretrained("AutoModel", tmp_path, add_norm="pre_ln")


@pytest.mark.parametrize("model_type", WITHOUT_FAMILY)
def test_why_a_family_has_no_addnorm_models_is_said(model_type):
    """To whoever makes one, and to whoever asks what a checkpoint is; the row is of a model type that there is."""
    assert model_type in CONFIG_MAPPING
    reason = re.escape(f"which has no AddNorm family: {WITHOUT_FAMILY[model_type]}; families are")
    with pytest.raises(ValueError, match=reason):
        new_model("AutoModel", model_type, add_norm="pre_ln")
    config = AutoConfig.for_model(model_type)
    with pytest.raises(ValueError, match=reason):
        as_ours(config)


def test_no_family_that_is_there_is_said_to_be_missing():
    assert not set(WITHOUT_FAMILY) & {row.config_class.stock_model_type for row in FAMILIES.values()}


def test_a_checkpoint_without_a_family_is_told_why(tmp_path):
    SwinConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 'swin' model, which has no AddNorm family: from stage to stage"):
        load_pretrained("AutoModel", tmp_path, add_norm="pre_ln")


def test_a_plain_config_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="needs a config with add_norm, got a BertConfig"):
        AddNormBertModel(FAMILIES["bert"].stock_config("AddNormBertModel"))


def test_damaged_checkpoints_end_in_a_sentence(stock_folders, tmp_path):
    import shutil

    source = stock_folders["bert", "AddNormBertForMaskedLM"]
    truncated, empty = tmp_path / "truncated", tmp_path / "empty"
    shutil.copytree(source, truncated), shutil.copytree(source, empty)
    data = (source / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(data[: len(data) // 2])
    (empty / "model.safetensors").unlink()
    for folder, word in ((truncated, "truncated or damaged"), (empty, "model.safetensors")):
        for load in (
            lambda folder=folder: AddNormBertForMaskedLM.from_pretrained(folder, add_norm="pre_ln"),
            lambda folder=folder: load_pretrained("AutoModelForMaskedLM", folder, add_norm="pre_ln"),
            # a stock class
            lambda folder=folder: load_pretrained("AutoModelForMaskedLM", folder),
        ):
            with pytest.raises(OSError, match=word):
                load()


def test_the_order_of_overrides_does_not_matter():
    spec = {"preset": "pre_ln", "layers": [{"index": 7, "attention": []}]}
    for kwargs in ({"num_hidden_layers": 8, "add_norm": spec}, {"add_norm": spec, "num_hidden_layers": 8}):
        assert AddNormBertConfig.from_dict({}, **kwargs).add_norm.layers[0].value == [7]
