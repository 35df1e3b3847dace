"""A model that computes another function than its checkpoint's says so when it is loaded, and no other model does."""

import logging

import pytest
import torch
import transformers
from families import BASE_MODELS, FAMILIES, SPECS, fill_with_pattern, specs_of

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormSpec, load_pretrained
from hf_addnorm.models.core.scheme_function import is_another_function


# of the docs: a pre-norm model goes on with RMSNorm
NO_MEAN = {"kind": "fixed_sigma", "gain": False, "bias": False}
SAME_BY_RMS_NORM = {"preset": "pre_ln", "embed": NO_MEAN, "weights": "zero_mean_output"}
# differences, in parts of the largest output, that are certainly none, and certainly some
NONE, SOME = 5e-4, 3e-2


def _stock(family, folder):
    row, model = FAMILIES[family], BASE_MODELS[family]
    net = row.stock_class(model)(row.stock_config(model))
    fill_with_pattern(net)
    net.save_pretrained(folder)
    return row.stock_class(model).from_pretrained(folder)


def _said(caplog):
    found = [record.getMessage() for record in caplog.records if "computes another function" in record.getMessage()]
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def _listen(caplog):
    caplog.set_level(logging.WARNING)


@pytest.mark.parametrize(
    "family",
    ["bert", "vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("modernbert", "albert", "wav2vec2"))],
)
def test_another_function_is_said_once_and_no_other_is(family, tmp_path, caplog):
    row, model = FAMILIES[family], BASE_MODELS[family]
    stock = _stock(family, tmp_path)
    inputs = {name: value for name, value in row.inputs(model).items() if "label" not in name}
    expected = stock(**inputs)[0]
    silent = []
    for name in specs_of(family, model):
        net = row.model_class(model).from_pretrained(tmp_path, add_norm=SPECS[name])
        said = _said(caplog)
        difference = ((net(**inputs)[0] - expected).abs().max() / expected.abs().max()).item()
        assert len(said) <= 1
        assert said or not difference > SOME, (name, difference)
        assert not said or not difference < NONE, (name, difference, said)
        silent += [] if said else [name]
    # the same function in another form is among them
    assert {"bert": {"post_ln", "learned_skip"}, "vit": {"pre_ln", "hyper_connections", "learned_skip"}}.get(
        family, set()
    ) <= set(silent)


@pytest.mark.parametrize("norm", ["affine", "rms_norm", "dyt"])
def test_the_sentence_names_both_norms_and_the_checkpoint(norm, tmp_path, caplog):
    _stock("bert", tmp_path)
    hf_addnorm.AddNormBertModel.from_pretrained(tmp_path, add_norm={"preset": "post_ln", "norm": norm})
    (said,) = _said(caplog)
    assert str(tmp_path) in said and "'post_ln' (layer_norm)" in said and f"'norm': '{norm}'}} ({norm})" in said


def test_every_way_to_load_says_it(tmp_path, caplog):
    _stock("bert", tmp_path / "stock")
    config = FAMILIES["bert"].config("", "deepnorm")
    # a config of one's own, a head, the loading info, `load_pretrained`
    hf_addnorm.AddNormBertModel.from_pretrained(tmp_path / "stock", config=config)
    assert len(_said(caplog)) == 1
    net, _ = hf_addnorm.AddNormBertForSequenceClassification.from_pretrained(
        tmp_path / "stock", add_norm="deepnorm", output_loading_info=True
    )
    assert len(_said(caplog)) == 1
    load_pretrained("AutoModel", tmp_path / "stock", add_norm="deepnorm")
    assert len(_said(caplog)) == 1
    # what is trained with it is loaded as it is
    net.save_pretrained(tmp_path / "ours")
    hf_addnorm.AddNormBertModel.from_pretrained(tmp_path / "ours")
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    hf_addnorm.AddNormBertModel.from_pretrained(tmp_path / "ours", add_norm="deepnorm")
    hf_addnorm.AddNormBertModel.from_pretrained(tmp_path / "stock")
    hf_addnorm.AddNormBertModel.from_pretrained(None, config=config, state_dict=net.bert.state_dict())
    assert not _said(caplog)
    hf_addnorm.AddNormBertModel.from_pretrained(tmp_path / "ours", add_norm="post_ln")
    (said,) = _said(caplog)
    assert said.index("'deepnorm'") < said.index("'post_ln'")


@pytest.mark.parametrize(("family", "same"), [("vit", True), ("gpt2", True), ("modernbert", False)])
def test_rms_norm_is_the_same_function_where_the_docs_say_so(family, same):
    row, model = FAMILIES[family], BASE_MODELS[family]
    stock = row.config(model)
    rms_norm = {"kind": "rms_norm", "bias": True, "eps": stock.add_norm_eps()}
    config = row.config(model, SAME_BY_RMS_NORM | {"norm": rms_norm})
    layout = row.model_class(model).layout_of(config)
    assert is_another_function(config, layout, stock.add_norm, config.add_norm) != same


def test_a_norm_that_is_another_in_name_only_is_no_other_function():
    config = AddNormBertConfig(num_hidden_layers=2)
    layout, before = hf_addnorm.AddNormBertModel.layout, config.add_norm
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for norm, another in (({"kind": "group_norm", "groups": 1}, False), ({"kind": "group_norm", "groups": 2}, True)):
        after = AddNormSpec.parse({"preset": "post_ln", "norm": norm})
        assert is_another_function(config, layout, before, after) == another
    assert torch.equal(torch.get_rng_state(), state)


def test_a_head_that_the_family_lacks_is_refused_in_a_sentence(tmp_path):
    stock = _stock("bert", tmp_path / "stock")
    hf_addnorm.AddNormBertModel(FAMILIES["bert"].config("")).save_pretrained(tmp_path / "ours")
    for folder in ("stock", "ours"):
        with pytest.raises(ValueError, match=r"^AutoModelForCTC finds no model of the family 'bert'; allowed are"):
            load_pretrained("AutoModelForCTC", tmp_path / folder, add_norm="dyt")
    assert type(load_pretrained("AutoModel", tmp_path / "ours", add_norm="dyt")) is hf_addnorm.AddNormBertModel
    assert type(stock) is transformers.BertModel
