"""Conversions by algebra are the same function in float64, on weights as training leaves them; the source stays."""

import pytest
import torch
from families import FAMILIES
from torch import nn
from trained_like import outputs, tiny

from hf_addnorm import AddNormSpec, convert
from hf_addnorm.conversion import ALL_RULES


TEXT, WORDS, BASE = "AutoModelForSequenceClassification", "AutoModelForMaskedLM", "AutoModel"
EPS = {"layer_norm_eps": 1e-5}
NO_MEAN = {"kind": "fixed_sigma", "gain": False, "bias": False}
LAUREL = {"kind": "laurel_lr", "rank": 2}
PLAIN_RMS = {"kind": "rms_norm", "gain": False}
# LayerNorm as published checkpoints without it have it
REMOVED = {"preset": "pre_ln", "norm": {"kind": "layer_norm", "eps": 1e12}}

# family, head, source, target, a rule that must be used, more of the config
CASES = [
    # post-norm
    ("bert", TEXT, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", EPS),
    ("bert", WORDS, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", EPS),
    ("bert", TEXT, None, "deepnorm", "multiple_of_sum", EPS),
    ("bert", TEXT, "deepnorm", "post_ln", "multiple_of_sum", EPS),
    ("bert", TEXT, None, "residual", "second_stream_at_zero", EPS),
    ("bert", TEXT, None, {"residual": {"kind": "vector", "start": 0.1}}, None, EPS),
    ("bert", TEXT, None, {"residual": {"kind": "constant", "branch_scale": 0.3}}, "branch_into_writer", EPS),
    ("bert", TEXT, None, "admin", None, EPS),
    ("bert", TEXT, None, {"norm": {"kind": "layer_norm", "zero_centered": True}}, "own_parameters", EPS),
    ("bert", TEXT, None, {"norm": {"kind": "group_norm", "groups": 1}}, "own_parameters", EPS),
    ("bert", TEXT, None, {"norm": {"kind": "layer_norm", "variance": "unbiased"}}, "own_parameters", EPS),
    ("bert", TEXT, None, {"norm": {"kind": "layer_norm", "bias": False}}, "parameters_into_readers", EPS),
    (
        "bert",
        TEXT,
        None,
        {
            "norm": {"kind": "layer_norm", "gain": False, "bias": False},
            "residual": {"kind": "vector", "side": "skip", "start": 1.0},
        },
        "skip_into_factor",
        EPS,
    ),
    ("distilbert", TEXT, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", {}),
    ("albert", TEXT, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", {}),
    ("electra", TEXT, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", {}),
    # whose embeddings are no sum of tables
    ("roc_bert", BASE, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", {}),
    ("wav2vec2", BASE, None, {"norm": "rms_norm", "residual": LAUREL}, "mean_off_skip", {}),
    # pre-norm
    ("vit", "AutoModelForImageClassification", None, {"preset": "pre_ln", "norm": "rms_norm"}, None, EPS),
    ("vit", "AutoModelForImageClassification", None, "pre_rms_norm", None, EPS),
    (
        "vit",
        "AutoModelForImageClassification",
        None,
        {"preset": "pre_ln", "norm": {**PLAIN_RMS, "bias": False}, "embed": NO_MEAN},
        "parameters_into_readers",
        EPS,
    ),
    ("gpt2", "AutoModelForCausalLM", None, {"preset": "pre_ln", "norm": "rms_norm"}, None, {}),
    ("gpt2", TEXT, None, {"preset": "pre_ln", "norm": "rms_norm"}, "mean_off_embeddings", {}),
    ("roberta_prelayernorm", TEXT, None, {"preset": "pre_ln", "norm": "rms_norm"}, "mean_off_embedding_norm", EPS),
    ("megatron_bert", TEXT, None, {"preset": "pre_ln", "norm": "rms_norm"}, "mean_off_embeddings", EPS),
    ("modernbert", TEXT, None, {"norm": "rms_norm"}, "mean_off_embedding_norm", {}),
    ("modernbert", WORDS, None, {"norm": "rms_norm"}, "mean_off_embedding_norm", {}),
    ("modernbert", TEXT, None, {"norm": "rms_norm", "embed": False}, "embedding_norm_into_table", {}),
    (
        "modernbert",
        TEXT,
        None,
        {"norm": "rms_norm"},
        "mean_off_embedding_norm",
        {"norm_bias": True, "attention_bias": True},
    ),
    ("bert", TEXT, "layer_scale", "pre_ln", "branch_into_writer", EPS),
    ("bert", TEXT, "rezero", {"attention": [], "feed_forward": []}, "branch_into_writer", EPS),
    (
        "bert",
        TEXT,
        {"preset": "pre_ln", "norm": "rep_bn"},
        {"preset": "pre_ln", "norm": "affine"},
        "own_parameters",
        EPS,
    ),
    (
        "bert",
        TEXT,
        {"preset": "pre_ln", "norm": "batch_norm"},
        {"preset": "pre_ln", "norm": "affine", "attention": [], "feed_forward": []},
        "parameters_into_readers",
        EPS,
    ),
    ("bert", TEXT, {"preset": "pre_ln", "norm": "affine"}, {"preset": "pre_ln", "norm": "batch_norm"}, None, EPS),
    # LayerNorm that was removed, and back
    ("gpt2", "AutoModelForCausalLM", REMOVED, {"preset": "pre_ln", "norm": "fixed_sigma"}, "own_parameters", {}),
    ("gpt2", "AutoModelForCausalLM", REMOVED, {"preset": "pre_ln", "norm": "affine"}, "mean_into_readers", {}),
    (
        "gpt2",
        "AutoModelForCausalLM",
        REMOVED,
        {"preset": "pre_ln", "attention": [], "feed_forward": [], "final": "fixed_sigma"},
        "mean_into_readers",
        {},
    ),
    ("gpt2", TEXT, {"preset": "pre_ln", "norm": "fixed_sigma"}, REMOVED, "own_parameters", {}),
]


@pytest.mark.parametrize(("family", "head", "before", "after", "rule", "config"), CASES)
def test_it_is_the_same_function(family, head, before, after, rule, config):
    source, batches = tiny(family, head, before, **config)
    if before is REMOVED:
        # as published: a gain of a million
        with torch.no_grad():
            for module in source.modules():
                if isinstance(module, nn.LayerNorm):
                    module.weight.mul_(1e6)
    kept = {key: value.clone() for key, value in source.state_dict().items()}
    expected = outputs(source, batches[0])
    # in float64 a published eps of 1e12 is no constant to the last digit
    removed = REMOVED in (before, after)
    method = "auto" if removed else "exact"
    model, report = convert(source, add_norm=after, calibration=batches, method=method)
    largest = expected.abs().max().item()
    bound = 1e-6 if removed else 1e-10
    assert (outputs(model, batches[0]) - expected).abs().max().item() <= bound * max(1.0, largest)
    assert report.method in ("exact", "algebra") and not report.obstacles
    assert rule is None or rule in {use.rule for use in report.rules}
    assert type(model) is type(source)
    for key, value in source.state_dict().items():
        assert torch.equal(value, kept[key]), key
    # what was asked for is there, whatever else was chosen
    asked = AddNormSpec.parse(after, source.config.stock_add_norm())
    assert model.config.add_norm.norm.kind == asked.norm.kind
    assert model.config.add_norm.residual.kind == asked.residual.kind


def test_every_rule_is_used_by_a_case():
    """With `second_stream_at_zero`, which has no object to work on."""
    used = {case[4] for case in CASES}
    chosen_by_vit = {"mean_off_embeddings_by_a_norm"}
    assert {rule.name for rule in ALL_RULES} - used == chosen_by_vit
    source, batches = tiny("gpt2", "AutoModelForCausalLM")
    _, report = convert(source, add_norm="pre_rms_norm", calibration=batches, method="exact")
    # the table is tied to the head: the mean goes off on the main path
    assert chosen_by_vit <= {use.rule for use in report.rules}
    assert report.chosen["embed"] == NO_MEAN
    assert all(rule.serves and rule.why for rule in ALL_RULES)


def test_the_recipe_that_loses_the_mean_is_refused():
    """ModernBERT's embedding norm would be replaced by the mean subtraction: another function for any weights."""
    source, batches = tiny("modernbert", TEXT)
    spec = {"norm": "rms_norm", "embed": NO_MEAN, "weights": "zero_mean_output"}
    with pytest.raises(ValueError, match=r"add_norm.weights would change from 'none' to 'zero_mean_output'"):
        convert(source, add_norm=spec, calibration=batches, method="exact")
    with pytest.raises(ValueError, match=r"is not reached exactly: embed: "):
        convert(source, add_norm={"norm": "rms_norm", "embed": NO_MEAN}, calibration=batches, method="exact")


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("dyt", "are different functions"),
        ("pre_ln", "are different functions"),
        ({"norm": {"kind": "rms_norm", "bias": True}}, "there is nothing that takes the mean out"),
        ({"norm": "scale_norm"}, "has no place for the factor on the stream"),
    ],
)
def test_what_is_not_exact_is_refused_as_such(after, reason):
    source, batches = tiny("bert", TEXT, **EPS)
    with pytest.raises(ValueError, match=f"is not reached exactly: .*{reason}.*; allowed is method 'auto'"):
        convert(source, add_norm=after, calibration=batches, method="exact")


def test_a_tied_table_is_not_folded():
    source, batches = tiny("gpt2", "AutoModelForCausalLM")
    spec = {"preset": "pre_ln", "norm": "rms_norm", "embed": False}
    with pytest.raises(
        ValueError, match=r"is not reached exactly: .*takes the mean out of what the stream begins with"
    ):
        convert(source, add_norm=spec, calibration=batches, method="exact")


def test_a_stock_model_becomes_one_of_ours(tmp_path):
    row = FAMILIES["bert"]
    name = row.config_class.auto_classes[TEXT]
    stock = row.stock_class(name)(row.stock_config(name, num_hidden_layers=2)).eval()
    ours, batches = tiny("bert", TEXT)
    inputs = [dict(batch) for batch in batches]
    model, report = convert(stock, add_norm={"norm": "rms_norm", "residual": LAUREL}, calibration=inputs)
    assert report.is_exact and type(model).__name__ == name
    torch.testing.assert_close(outputs(model, inputs[0]), outputs(stock, inputs[0]), rtol=1e-4, atol=1e-5)
    # an ordinary model
    model.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path)
    assert torch.equal(outputs(again, inputs[0]), outputs(model, inputs[0]))
    from_folder, _ = convert(str(tmp_path), add_norm="post_ln", calibration=inputs * 2)
    assert from_folder.config.add_norm.preset == "post_ln"
