"""Known answers: the golden vectors of the authors' code, against ours and against the formulas in `*_references.py`.

They lie beside the repository (`../shared/golden`); where they are absent their tests skip.
"""

import json
import types
from pathlib import Path

import pytest
import torch
from encoder_references import (
    ENCODER_REFERENCES,
    encode,
)
from encoder_runs import build_encoder, run_encoder, tiny_config
from norm_references import NORM_REFERENCES
from safetensors import safe_open
from sublayer_references import hyper_connected

from hf_addnorm.models.base.depth import Position
from hf_addnorm.models.base.registries import NORMS, RESIDUALS, STREAMS
from hf_addnorm.models.norms.norm_base import build_norm


GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors are not beside the repository")

# file -> the norm, and how its options follow from the file's params
NORM_FILES = {
    "norm_layer_norm": "layer_norm",
    "norm_rms_norm_inside": "rms_norm",
    "norm_rms_norm_paper": "rms_norm",
    "norm_zero_centered_rms": "rms_norm",
    "norm_dyt": "dyt",
    "norm_affine": "affine",
    "norm_scale_norm": "scale_norm",
    "norm_prms_norm": "prms_norm",
    "norm_derf": "derf",
    "norm_group_norm": "group_norm",
}
ENCODER_FILES = {
    "encoder_post_ln": "post_ln",
    "encoder_pre_ln": "pre_ln",
    "encoder_sub_ln": "sub_ln",
    "encoder_deepnorm": "deepnorm",
    "encoder_rezero": "rezero",
    "encoder_layerscale_pre_ln": "layer_scale",
    "encoder_b2t": "b2t",
}
# file -> the preset, and its init rule in the authors' form
INIT_FILES = {
    "init_deepnorm": ("deepnorm", {"kind": "deepnorm", "base": "stock"}),
    "init_sub_ln": ("sub_ln", {"kind": "sub_ln", "base": "stock"}),
    "init_b2t": ("b2t", "b2t"),
}
RESIDUAL_FILES = {"residual_gpas_after_add": "gpas", "residual_gpas_on_skip": "gpas"}
DENSE_FILES = ("residual_denseformer", "residual_denseformer_dilated")
STREAM_FILES = {"residual_hyper_connections_static": "hyper_connections"}

# the norms over tokens
IN_TEST_TOKEN_NORMS = {
    "norm_masked_batch_norm",
    "norm_instance_norm_masked",
    "norm_instance_norm_unbiased",
    "norm_rep_bn",
}

# file -> what it needs that is not there yet, by registry: once the name exists, the file must be tested above
NOT_YET = {}

PRECISIONS = [(torch.float64, "tolerance"), (torch.float32, "tolerance_fp32")]
both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["float64", "float32"])


def load(file, dtype=torch.float64):
    """Tensors, and metadata with its params read."""
    with safe_open(GOLDEN / f"{file}.safetensors", "pt") as f:
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
        meta = f.metadata()
    tensors = {key: t.to(dtype) if t.is_floating_point() else t for key, t in tensors.items()}
    return tensors, {**meta, "params": json.loads(meta["params"])}


def assert_golden(actual, tensors, name, meta, tolerance):
    """`max|actual - expected| <= tolerance * max|expected|`, over real tokens where the file says so."""
    expected = tensors[name]
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if meta["compare"] == "real" and expected.dim() >= 2 and expected.shape[:2] == tensors["input.token_mask"].shape:
        actual, expected = actual[tensors["input.token_mask"]], expected[tensors["input.token_mask"]]
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= float(meta[tolerance]), f"{name}: off by {error:.3g}"


# --- every file is accounted for ---


@needs_golden
def test_every_golden_file_is_tested_or_named_as_not_yet():
    tested = {*NORM_FILES, *ENCODER_FILES, *INIT_FILES, *RESIDUAL_FILES, *STREAM_FILES, *DENSE_FILES}
    tested |= IN_TEST_TOKEN_NORMS
    assert not tested & set(NOT_YET)
    assert {file.stem for file in GOLDEN.glob("*.safetensors")} == tested | set(NOT_YET)


@pytest.mark.parametrize("file", NOT_YET)
def test_what_exists_now_has_its_golden_file_tested(file):
    registry, name = NOT_YET[file]
    assert name not in registry, f"{name} exists: test {file}.safetensors"


# --- norms ---

# a file's params -> our options
PARAMS = {
    "eps": "eps",
    "bias": "bias",
    "groups": "groups",
    "p": "fraction",
    "init_alpha": "alpha_init",
    "init_shift": "shift_init",
    "init_scale": "start",
}


def norm_options(params):
    """Our options of a norm file's params, without those that say what its parameters are."""
    options = {PARAMS[key]: value for key, value in params.items() if key in PARAMS}
    # where eps is the least length, there is no other place
    if params.get("eps_place", "clamp").endswith("_sqrt"):
        options["eps_place"] = params["eps_place"].removesuffix("_sqrt")
    return options


def renamed_parameters(params):
    """The file's names of parameters that have another one here."""
    if params.get("gain") == "1+weight":
        return {"weight": "zero_centered_weight"}
    return {"scale": "scalar_weight"} if "init_scale" in params else {}


@needs_golden
@both_precisions
@pytest.mark.parametrize("file", NORM_FILES)
def test_norm(file, dtype, tolerance):
    tensors, meta = load(file, dtype)
    kind, params = NORM_FILES[file], meta["params"]
    assert set(params) <= {*PARAMS, "eps_place", "gain", "init_weight"}
    options, renamed = norm_options(params), renamed_parameters(params)
    if "bias" in NORMS.options(kind):
        options["bias"] = "param.bias" in tensors
    if params.get("gain") == "1+weight":
        options["zero_centered"] = True
    x = tensors["input.x"].requires_grad_()
    # an eps that no file uses, and no bias: nothing may be left to the model
    norm = build_norm(NORMS.parse({"kind": kind, **options}, "norm"), x.shape[-1], eps=0.123, bias=False, groups=1)
    if hasattr(norm, "reset_parameters"):
        norm.reset_parameters()
    starts = {
        "init_alpha": "alpha",
        "init_shift": "shift",
        "init_scale": "scalar_weight",
        "init_weight": "zero_centered_weight",
    }
    for param in starts.keys() & params.keys():
        assert (getattr(norm, starts[param]) == params[param]).all()
    norm = norm.to(dtype)
    parameters = {
        renamed.get(key.removeprefix("param."), key.removeprefix("param.")): value
        for key, value in tensors.items()
        if key.startswith("param.")
    }
    norm.load_state_dict(parameters, strict=True)
    y = norm(x)
    assert_golden(y, tensors, "output.y", meta, tolerance)
    (y * tensors["cotangent"]).sum().backward()
    grads = {"x": x.grad} | {name: p.grad for name, p in norm.named_parameters()}
    stored = {key for key in tensors if key.startswith("grad.")}
    for name, grad in grads.items():
        name = next((old for old, new in renamed.items() if new == name), name)
        assert_golden(grad, tensors, f"grad.{name}", meta, tolerance)
        stored.remove(f"grad.{name}")
    assert not stored


@needs_golden
def test_the_references_are_the_golden_norms():
    for file, kind in NORM_FILES.items():
        tensors, meta = load(file)
        parameters = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
        for theirs, ours in renamed_parameters(meta["params"]).items():
            parameters[ours] = parameters.pop(theirs)
        options = norm_options(meta["params"])
        options.pop("bias", None)
        y = NORM_REFERENCES[kind].formula(tensors["input.x"], parameters, **options)
        assert_golden(y, tensors, "output.y", meta, "tolerance")


# --- encoders ---


def read_encoder(file, dtype):
    tensors, meta = load(file, dtype)
    keep = ("input.", "output.", "grad.", "cotangent")
    weights = {key: value for key, value in tensors.items() if not key.startswith(keep)}
    mask = tensors["input.token_mask"]
    allowed = mask[:, None, :].expand(-1, mask.shape[1], -1)
    return tensors, meta, weights, allowed


def check_encoder(streams, result, hidden, tensors, meta, tolerance):
    for i, stream in enumerate(streams):
        assert_golden(stream, tensors, f"output.layer.{i}", meta, tolerance)
    assert f"output.layer.{len(streams)}" not in tensors
    assert_golden(result, tensors, "output.hidden", meta, tolerance)
    (grad,) = torch.autograd.grad((result * tensors["cotangent"]).sum(), hidden)
    assert_golden(grad, tensors, "grad.hidden", meta, tolerance)


def golden_model(file, dtype):
    """An AddNormBertModel of the file's shape, with the file's weights."""
    tensors, meta, weights, allowed = read_encoder(file, dtype)
    params = meta["params"]
    config = tiny_config(
        {"preset": ENCODER_FILES[file], "embed": False},
        params["layers"],
        hidden_size=tensors["input.hidden"].shape[-1],
        intermediate_size=weights["layers.0.w1.bias"].shape[0],
        num_attention_heads=params["heads"],
        hidden_act=params["act"],
        # the schemes without norms have no eps
        layer_norm_eps=params.get("eps", 0.123),
    )
    model, parameters = build_encoder(config, dtype)
    # every parameter has its golden value, and no golden value is left over
    assert set(parameters) == set(weights)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    assert params["final_norm"] == any(name.startswith("final.") for name in parameters)
    if params.get("share") == "layer":
        for i in range(params["layers"]):
            assert parameters[f"layers.{i}.attn.alpha"] is parameters[f"layers.{i}.ffn.alpha"]
    return model, tensors, meta, allowed


@needs_golden
@both_precisions
@pytest.mark.parametrize("file", ENCODER_FILES)
def test_encoder(file, dtype, tolerance):
    model, tensors, meta, allowed = golden_model(file, dtype)
    hidden = tensors["input.hidden"].requires_grad_()
    streams, result = run_encoder(model, hidden, allowed)
    check_encoder(streams, result, hidden, tensors, meta, tolerance)
    if "alpha" in meta["params"]:
        block = model.encoder.layer[0].connections.attention
        assert block.residual_norm.skip_scale == pytest.approx(meta["params"]["alpha"], rel=1e-12)


@needs_golden
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("file", ENCODER_FILES)
def test_encoder_inside_the_whole_model(file, attention):
    """Through the model's own embeddings, mask and hidden states: the last of these is the normed one."""
    model, tensors, meta, _ = golden_model(file, torch.float64)
    model.set_attn_implementation(attention)
    for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
        torch.nn.init.zeros_(table.weight)
    hidden = tensors["input.hidden"].requires_grad_()
    out = model(inputs_embeds=hidden, attention_mask=tensors["input.token_mask"].long(), output_hidden_states=True)
    states = out.hidden_states
    assert len(states) == meta["params"]["layers"] + 1
    assert torch.equal(states[0], hidden)
    assert torch.equal(states[-1], out.last_hidden_state)
    # the last layer's own output is not among them
    check_encoder(states[1:-1], out.last_hidden_state, hidden, without_last_layer(tensors, meta), meta, "tolerance")


def without_last_layer(tensors, meta):
    return {key: value for key, value in tensors.items() if key != f"output.layer.{meta['params']['layers'] - 1}"}


@needs_golden
@pytest.mark.parametrize("file", ENCODER_FILES)
def test_the_references_are_the_golden_encoders(file):
    tensors, meta, weights, allowed = read_encoder(file, torch.float64)
    params, hidden = meta["params"], tensors["input.hidden"].requires_grad_()
    options = {key: params[key] for key in ("layers", "heads", "act", "eps") if key in params}
    streams, result = encode(ENCODER_REFERENCES[ENCODER_FILES[file]], weights, hidden, allowed=allowed, **options)
    check_encoder(streams, result, hidden, tensors, meta, "tolerance")


# --- start weights ---


@needs_golden
@pytest.mark.parametrize("file", INIT_FILES)
def test_init_ratios(file):
    tensors, meta = load(file)
    preset, init = INIT_FILES[file]
    roles = {key.removeprefix("output.ratio."): value for key, value in tensors.items() if ".ratio." in key}
    # what is not a weight is at its start value, a ratio of 1, and for a bias 0 in both: see test_depth_and_init
    assert all((roles.pop(role, torch.ones(1)) == 1).all() for role in ("norm", "w1_bias"))
    assert set(roles) == {"q", "k", "v", "o", "w1", "w2"}
    for column, layers in enumerate(tensors["input.layers"].tolist()):
        by_init = []
        for rules in ([], init):
            torch.manual_seed(0)
            by_init.append(build_encoder(tiny_config({"preset": preset, "init": rules}, layers))[1])
        before, after = by_init
        for role, ratios in roles.items():
            for i in {0, layers // 2, layers - 1}:
                name = f"layers.{i}.{role}.weight"
                ratio = (after[name].norm() / before[name].norm()).item()
                assert ratio == pytest.approx(ratios[column].item(), rel=float(meta["tolerance"])), name


@needs_golden
def test_deepnorm_skip_scale():
    tensors, meta = load("init_deepnorm")
    for layers, alpha in zip(tensors["input.layers"].tolist(), tensors["output.alpha"].tolist(), strict=True):
        model, _ = build_encoder(tiny_config("deepnorm", layers))
        for block in (model.encoder.layer[0].connections.attention, model.encoder.layer[-1].connections.feed_forward):
            assert block.residual_norm.skip_scale == pytest.approx(alpha, rel=float(meta["tolerance"]))


# --- residuals and streams ---


@needs_golden
@both_precisions
@pytest.mark.parametrize("file", RESIDUAL_FILES)
def test_residual(file, dtype, tolerance):
    tensors, meta = load(file, dtype)
    params = meta["params"]
    assert (set(params), params["act"]) == ({"act", "init_gate", "placement"}, "silu")
    x, f = (tensors[f"input.{name}"].requires_grad_() for name in "xf")
    choice = RESIDUALS.parse({"kind": RESIDUAL_FILES[file], "place": params["placement"]}, "residual")
    residual = RESIDUALS.build(choice, x.shape[-1], Position(0, 1, 0, 2))
    residual.reset_parameters()
    assert residual.gate == params["init_gate"]
    torch.nn.init.constant_(residual.to(dtype).gate, tensors["param.gate"].item())
    y = residual(x, f)
    assert_golden(y, tensors, "output.y", meta, tolerance)
    (y * tensors["cotangent"]).sum().backward()
    for name, tensor in {"x": x, "f": f, "gate": residual.gate}.items():
        assert_golden(tensor.grad.view_as(tensors[f"grad.{name}"]), tensors, f"grad.{name}", meta, tolerance)


@needs_golden
@both_precisions
@pytest.mark.parametrize("file", STREAM_FILES)
def test_stream(file, dtype, tolerance):
    tensors, meta = load(file, dtype)
    params = meta["params"]
    assert (params["dynamic"], params["norm"]) == (False, None)
    options = {"streams": params["streams"], "reduce": params["reduce"]}
    stream = STREAMS.build(STREAMS.parse({"kind": STREAM_FILES[file], **options}, "stream"))
    x = tensors["input.x"].requires_grad_()
    given = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    weights = {}
    state, layers = stream.enter(x), params["layers"]
    for i in range(layers):
        position = Position(i, layers, i, layers)
        connection = stream.build_residual(RESIDUALS.parse("add", "x"), x.shape[-1], position, torch.nn.Identity)
        block = torch.nn.Linear(x.shape[-1], x.shape[-1])
        for module, prefix in ((connection, f"layers.{i}.static_"), (block, f"layers.{i}.block.")):
            module.to(dtype).load_state_dict({name: given[prefix + name] for name in module.state_dict()})
            weights |= {prefix + name: parameter for name, parameter in module.named_parameters()}
        u, kept = stream.read(state, connection)
        state = stream.write(kept, block(u), connection, lambda y: y)
        assert_golden(state, tensors, f"output.streams.{i}", meta, tolerance)
    assert set(weights) == set(given)
    y = stream.finish(state)
    assert_golden(y, tensors, "output.y", meta, tolerance)
    (y * tensors["cotangent"]).sum().backward()
    grads = {"x": x.grad} | {name: weight.grad for name, weight in weights.items()}
    assert {f"grad.{name}" for name in grads} == {key for key in tensors if key.startswith("grad.")}
    for name, grad in grads.items():
        assert_golden(grad, tensors, f"grad.{name}", meta, tolerance)


@needs_golden
@both_precisions
@pytest.mark.parametrize("file", DENSE_FILES)
def test_dense_stream(file, dtype, tolerance):
    tensors, meta = load(file, dtype)
    params = meta["params"]
    options = {key: params[key] for key in ("dilation", "period")}
    stream = STREAMS.build(STREAMS.parse({"kind": "dense", **options}, "stream"))
    x = tensors["input.x"].requires_grad_()
    given = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    weights = {}
    state = stream.enter(x)
    for i in range(params["n_blocks"]):
        block = torch.nn.Linear(x.shape[-1], x.shape[-1]).to(dtype)
        block.load_state_dict({name: given[f"layers.{i}.block.{name}"] for name in block.state_dict()})
        weights |= {f"layers.{i}.block.{name}": parameter for name, parameter in block.named_parameters()}
        position = Position(i, params["n_blocks"], i, params["n_blocks"])
        average = stream.build_layer_part(x.shape[-1], position)
        assert (average is not None) == (f"layers.{i}.alpha" in given)
        if average is not None:
            # theirs has an axis for several mixes
            average.to(dtype).load_state_dict({"alpha": given[f"layers.{i}.alpha"][0]})
            weights[f"layers.{i}.alpha"] = average.alpha
        u, kept = stream.read(state)
        # a block of theirs gives the new state, ours adds to it
        state = stream.write(kept, block(u) - u, None, lambda y: y)
        assert_golden(state[0], tensors, f"output.state.{i + 1}", meta, tolerance)
        state = stream.end_layer(state, average, position)
        assert_golden(state[0], tensors, f"output.layer.{i}", meta, tolerance)
    assert set(weights) == set(given)
    y = stream.finish(state)
    (y * tensors["cotangent"]).sum().backward()
    for name, grad in ({"x": x.grad} | {name: weight.grad for name, weight in weights.items()}).items():
        expected = tensors[f"grad.{name}"]
        assert_golden(grad.view_as(expected), tensors, f"grad.{name}", meta, tolerance)


@needs_golden
def test_the_reference_is_the_golden_hyper_connection():
    tensors, meta = load("residual_hyper_connections_static")
    streams = [tensors["input.x"]] * meta["params"]["streams"]
    for i in range(meta["params"]["layers"]):
        layer = {
            key.removeprefix(f"param.layers.{i}."): t for key, t in tensors.items() if f"param.layers.{i}." in key
        }
        site = types.SimpleNamespace(
            scale=lambda name, layer=layer: layer[f"static_{name}"],
            branch=lambda u, layer=layer: u @ layer["block.weight"].T + layer["block.bias"],
            drop=lambda f: f,
            norm=lambda slot, y: y,
        )
        streams = hyper_connected("pre")(streams, site)
        assert_golden(torch.stack(streams, -2), tensors, f"output.streams.{i}", meta, "tolerance")
    assert_golden(sum(streams), tensors, "output.y", meta, "tolerance")
