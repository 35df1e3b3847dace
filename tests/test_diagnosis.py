"""A diagnosis: its figures are those of a plain forward, its sentences follow from them, bad input is refused."""

import json
import math
import pickle

import pytest
import torch
from families import BASE_MODELS, FAMILIES, FEW_SPECS, SPECS, fill_with_pattern, slow_unless, specs_of
from transformers import BertConfig, BertForMaskedLM, BertModel, ViTConfig, ViTModel

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormBertForMaskedLM, AddNormBertModel, diagnose
from hf_addnorm.diagnosis.findings import Row, find, in_words
from hf_addnorm.diagnosis.looking import Look
from hf_addnorm.diagnosis.measures import MEASURES, OUTLIER, kurtosis, largest_share, outliers
from hf_addnorm.diagnosis.sums import Place, Sums, attention_entropy, sum_weights


TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 16,
    "attn_implementation": "eager",
}
_ALL = [(family, spec) for family, model in BASE_MODELS.items() for spec in specs_of(family, model)]
# that every scheme is watched is in test_diagnosis_watching.py
CASES = [slow_unless(family == "bert" and spec in FEW_SPECS, family, spec) for family, spec in _ALL]
CASES += [(family, "stock") for family in FAMILIES]


def _bert(add_norm=None, model_class=AddNormBertModel, **kwargs):
    torch.manual_seed(0)
    return model_class(AddNormBertConfig(**{**TINY, **kwargs}, add_norm=add_norm)).eval()


def _batch(seed=0, padded=True):
    ids = torch.randint(3, 99, (2, 7), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _value(diagnosis, measure, layer, part="", model="model"):
    (row,) = [
        row for row in diagnosis.rows if (row.model, row.measure, row.layer, row.part) == (model, measure, layer, part)
    ]
    return row.value


def test_figures_are_those_of_a_plain_forward():
    """By hand, from hidden states and a branch, for the real tokens alone."""
    net, batch = _bert("pre_ln"), _batch()
    found, branch = diagnose(net, [batch]), []
    net.encoder.layer[1].attention.output.dense.register_forward_hook(lambda _, __, out: branch.append(out))
    with torch.no_grad():
        states = net(**batch, output_hidden_states=True, output_attentions=True)
    real = batch["attention_mask"].bool()
    x, f, y = states.hidden_states[1][real], branch[0][real], states.hidden_states[2][real]

    def size(tensor):
        return tensor.pow(2).mean(-1).sqrt()

    def same(measure, expected, part=""):
        assert _value(found, measure, 1, part) == pytest.approx(float(expected), rel=1e-4), measure

    same("stream_rms", size(x).mean(), "attention")
    same("branch_rms", size(f).mean(), "attention")
    same("branch_ratio", (size(f) / size(x)).mean(), "attention")
    same("branch_angle", torch.rad2deg(torch.cosine_similarity(x, f, dim=-1).acos()).mean(), "attention")
    same("sum_rms", size(x + f).mean(), "attention")
    channels = x.pow(2).mean(0)
    same("stream_kurtosis", channels.pow(2).mean() / channels.mean() ** 2, "attention")
    same("relative_change", (size(y - x) / size(x)).mean())
    same("layer_cosine", torch.cosine_similarity(x, y, dim=-1).mean())
    same("skip_weight", 1.0, "attention")
    weights = states.attentions[1]
    keys = real.sum(-1, keepdim=True).expand_as(real)[real]
    same("attention_entropy", (torch.special.entr(weights).sum(-1).mean(1)[real] / keys.log()).mean())
    assert found.models[0].tokens == int(real.sum())


def test_padding_counts_for_nothing():
    net, batch = _bert(), _batch()
    other = batch | {"input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 5)}
    assert not torch.equal(batch["input_ids"], other["input_ids"])
    first, second = (diagnose(net, [each]).rows for each in (batch, other))
    for a, b in zip(first, second, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-7), a


def test_what_is_kept_does_not_grow_with_the_batches():
    look = Look(_bert())
    sizes = []
    for seed in range(4):
        look.run(_batch(seed))
        look.observation.begin()
        sizes.append(len(pickle.dumps(dict(look.observation.places))))
    assert max(sizes) - min(sizes) < 0.01 * sizes[0]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_every_family_and_scheme_has_its_figures(family, spec):
    row, model = FAMILIES[family], BASE_MODELS[family]
    torch.manual_seed(0)
    net = row.model_class(model)(row.config(model, SPECS.get(spec), layerdrop=0.0, apply_spec_augment=False))
    # some start with branches of exactly 0, which have no direction
    fill_with_pattern(net)
    net.train()
    found = diagnose(net, [row.inputs(model)])
    assert net.training and not any(parameter.grad is not None for parameter in net.parameters())
    stacks = {
        name: (config.add_norm_depth(), config.add_norm_sublayers()) for name, config in net.stack_configs.items()
    }
    for key in ("stream_rms", "branch_ratio", "branch_angle", "stream_kurtosis"):
        places = {(row.layer, row.part) for row in found.of(key)}
        expected = {
            (layer, f"{stack} {name}".lstrip())
            for stack, (depth, names) in stacks.items()
            for layer in range(depth)
            for name in names
        }
        assert places == expected, key
    changes = {(row.layer, row.part) for row in found.of("relative_change")}
    assert changes == {(layer, stack) for stack, (depth, _) in stacks.items() for layer in range(depth)}
    assert all(math.isfinite(row.value) for row in found.rows)
    read = json.loads(found.to_json())
    assert len(read["rows"]) == len(found.rows) and read["models"][0]["layers"] == sum(
        depth for depth, _ in stacks.values()
    )


def test_a_stock_model_is_its_family_with_the_stock_scheme():
    torch.manual_seed(0)
    config = BertConfig(**TINY)
    config._attn_implementation = "eager"
    stock = BertModel(config).eval()
    ours = AddNormBertModel(AddNormBertConfig(**TINY))
    ours.load_state_dict(stock.state_dict())
    before = {name: value.clone() for name, value in stock.state_dict().items()}
    assert diagnose(stock, [_batch()]).rows == diagnose(ours, [_batch()]).rows
    assert type(stock) is BertModel
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())


def test_gradients_are_those_of_the_loss():
    net = _bert("pre_ln", AddNormBertForMaskedLM)
    batch = _batch() | {"labels": _batch(1)["input_ids"]}
    found, kept = diagnose(net, [batch]), []
    assert all(parameter.grad is None for parameter in net.parameters())

    def keep(_, __, output):
        output.retain_grad()
        kept.append(output)

    hook = net.bert.encoder.layer[2].output.dense.register_forward_hook(keep)
    net(**batch).loss.backward()
    hook.remove()
    assert _value(found, "gradient_norm", 2, "feed_forward") == pytest.approx(float(kept[0].grad.norm()), rel=1e-4)
    assert not any("gradient" in note for note in found.notes)
    assert any("gradient" in note for note in diagnose(net, [_batch()]).notes)


def test_gates_show_as_weights_of_the_sum():
    net = _bert("rezero")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("residual_norm.alpha"):
                parameter.fill_(0.25)
    found = diagnose(net, [_batch()])
    values = [row.value for row in found.of("branch_weight")]
    assert values == pytest.approx(6 * [0.25], rel=1e-3)
    assert "branch_weight" in found.drawn and "skip_weight" not in found.drawn
    # a plain sum says nothing
    assert "branch_weight" not in diagnose(_bert(), [_batch()]).drawn


@pytest.mark.parametrize(("norm", "parameter"), [("dyt", "alpha"), ("derf", "alpha")])
def test_a_saturated_norm_is_found(norm, parameter):
    net = _bert({"norm": norm})
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith(f"output.LayerNorm.{parameter}") and ".1." in name:
                value.fill_(1e4)
    found = diagnose(net, [_batch()])
    assert _value(found, "saturation", 1, "attention post") > 0.95
    assert _value(found, "saturation", 0, "attention post") < 0.05
    said = [str(finding) for finding in found.findings() if finding.measure == "saturation"]
    assert len(said) == 1 and "layer 1" in said[0] and "saturated" in said[0]


def test_gains_and_biases_are_those_of_the_weights():
    net = _bert({"norm": {"kind": "rms_norm", "zero_centered": True}})
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name == "encoder.layer.0.output.LayerNorm.zero_centered_weight":
                value.fill_(1.0)
                value[0] = -1.0
    found = diagnose(net, [_batch()])
    assert _value(found, "gain_median", 0, "feed_forward post") == 2.0
    assert _value(found, "gain_small", 0, "feed_forward post") == pytest.approx(1 / 32)
    assert _value(found, "gain_median", 0, "attention post") == 1.0


def test_two_models_are_compared_on_the_same_tokens():
    first, second = _bert(), _bert()
    same = diagnose(first, [_batch()], second, names=("a", "b"))
    assert [row.value for row in same.of("stream_similarity")] == pytest.approx(4 * [1.0])
    assert not any(finding.is_change for finding in same.findings())
    with torch.no_grad():
        second.encoder.layer[1].output.dense.weight.mul_(300)
    changed = diagnose(first, [_batch()], second, names=("a", "b"))
    assert _value(changed, "stream_similarity", 1, model="a and b") == pytest.approx(1.0)
    assert _value(changed, "stream_similarity", 2, model="a and b") < 0.9
    said = {finding.measure: str(finding) for finding in changed.findings() if finding.is_change}
    assert "from a to b it changes the most at feed-forward of layer 1" in said["branch_rms"]
    deeper = diagnose(first, [_batch()], _bert(num_hidden_layers=2), names=("a", "b"))
    assert not deeper.of("stream_similarity") and any("depths" in note for note in deeper.notes)


def test_what_is_compared_last_is_behind_the_final_norm():
    first, second = _bert("pre_ln"), _bert("pre_ln")
    with torch.no_grad():
        second.encoder.final_norm.weight.copy_(torch.linspace(-2, 2, 32))
    values = [row.value for row in diagnose(first, [_batch()], second).of("stream_similarity")]
    assert values[:-1] == pytest.approx(3 * [1.0])
    ours, other = (model(**_batch())[0].detach() for model in (first, second))
    real = _batch()["attention_mask"].bool()
    assert values[-1] == pytest.approx(torch.cosine_similarity(ours, other, dim=-1)[real].mean().item(), abs=1e-5)


def test_sentences_follow_from_the_numbers():
    rows = [
        Row("net", "branch_ratio", layer, "attention", value) for layer, value in enumerate([0.3, 0.01, 0.02, 9.0])
    ]
    low, high = (str(finding) for finding in find(rows, []))
    assert low.startswith("net, attention of layers 1 to 2: the sublayer adds almost nothing.")
    assert "0.01 to 0.02; unusual is below 0.05" in low
    assert high.startswith("net, attention of layer 3: the sublayer overwrites the stream.") and "9;" in high
    assert find(rows[:1], []) == []
    median = [Row("net", "stream_rms", layer, "attention", value) for layer, value in enumerate([1.0, 1.0, 1.0, 9.0])]
    assert "8 times the median, 8" in str(find(median, [])[0])
    mixed = [Row("net", "x", layer, part, 0.0) for part in ("attention", "feed_forward") for layer in (0, 1, 3)]
    assert in_words(mixed) == "attention and feed-forward of layers 0 to 1, 3"
    assert in_words(mixed, mixed) == "attention and feed-forward of every layer"


def test_kurtosis_and_outliers_of_channels():
    sums = Sums()
    x = torch.ones(5, 64)
    sums.add_squares(x)
    assert kurtosis(sums) == pytest.approx(1.0) and outliers(sums) == {}
    x = torch.ones(5, 64) * 1e-4
    x[:, 3] = 1.0
    sums = Sums()
    sums.add_squares(x)
    assert largest_share(sums) == pytest.approx(1.0)
    assert kurtosis(sums) == pytest.approx(64, rel=1e-3) and list(outliers(sums)) == [3]
    assert outliers(sums)[3] > OUTLIER


def test_weights_of_a_sum_and_what_is_none():
    torch.manual_seed(0)
    x, f = torch.randn(2, 6, 32)
    a, b = sum_weights(x, f, 0.5 * x - 2 * f)
    assert torch.allclose(a, torch.full((6,), 0.5), atol=1e-4) and torch.allclose(b, torch.full((6,), -2.0), atol=1e-4)
    assert sum_weights(x, f, torch.randn(6, 32))[0].isnan().all() and sum_weights(x, 2 * x, 3 * x)[0].isnan().all()


def test_entropy_of_attention():
    even, one = torch.full((1, 2, 3, 4), 0.25), torch.zeros(1, 2, 3, 4)
    one[..., 0] = 1 - 3e-12
    one[..., 1:] = 1e-12
    assert attention_entropy(even, None).tolist() == pytest.approx(3 * [1.0])
    assert attention_entropy(one, None).max() < 1e-6
    real = torch.tensor([[True, False, True]])
    assert attention_entropy(even, real).shape == (2,)


def test_it_is_short_in_a_terminal_and_a_list_in_a_notebook():
    found = diagnose(_bert(), [_batch()])
    assert len(repr(found)) < 120 and "3 layers, 11 tokens" in repr(found)
    assert found._repr_html_().startswith("<p><code>Diagnosis(model: 3 layers")


def test_every_measure_says_what_it_is():
    for key, measure in MEASURES.items():
        assert measure.title and measure.unit and measure.reading.endswith("."), key
    assert Place(None, "embed").title == "embed" and Place(2, "attention").title == "layer 2 attention"


def _stack():
    part = AddNormBertConfig(**TINY)
    return hf_addnorm.AddNormStackModel(hf_addnorm.AddNormStackConfig(encoders=[part, part]))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: diagnose(torch.nn.Linear(2, 2), [_batch()]),
            "a Linear cannot be diagnosed; allowed is",
        ),
        (lambda: diagnose(_stack(), [_batch()]), "a AddNormStackModel cannot be diagnosed; allowed is"),
        (lambda: diagnose(_bert(), []), "there are no batches: a diagnosis needs at least one"),
        (lambda: diagnose(_bert(), ["a text"]), "a AddNormBertModel reads 'input_ids', and a batch has a str"),
        (
            lambda: diagnose(
                ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32)),
                [_batch()],
            ),
            "AddNormViTModel reads 'pixel_values', and a batch has",
        ),
        (lambda: diagnose(_bert(), [_batch()], _bert(), names=("a", "a")), "two models need two names"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_stock_head_too():
    config = BertConfig(**TINY)
    net = BertForMaskedLM(config)
    fill_with_pattern(net)
    assert diagnose(net, [_batch() | {"labels": _batch()["input_ids"]}]).of("gradient_norm")


def test_packed_tokens_have_the_same_figures():
    net, batch = _bert("pre_ln", attn_implementation="sdpa"), _batch()
    plain = diagnose(net, [batch])
    net.set_packed()
    packed = diagnose(net, [batch])
    assert packed.models[0].tokens == plain.models[0].tokens == 11
    for a, b in zip(plain.rows, packed.rows, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4, abs=1e-6), a


def test_encoder_and_decoder_have_lines_of_their_own():
    row, model = FAMILIES["bart"], BASE_MODELS["bart"]
    net = row.model_class(model)(row.config(model))
    found = diagnose(net, [row.inputs(model)])
    parts = {row.part for row in found.of("stream_rms")}
    assert parts == {
        "encoder attention",
        "encoder feed_forward",
        "decoder attention",
        "decoder cross_attention",
        "decoder feed_forward",
    }
    assert {row.part for row in found.of("layer_cosine")} == {"encoder", "decoder"}
    assert set(found.models[0].add_norm) == {"encoder", "decoder"}
    assert {row.part for row in found.of("gain_median") if row.layer is None} >= {"encoder embed", "decoder embed"}
