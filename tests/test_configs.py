"""`add_norm` in a config: every way into it parses, it is saved whole, a near miss of its name is refused."""

import copy
import json
import pickle

import pytest
from specs import EVERYTHING, SIZES, config, parse
from transformers import AutoConfig, BertConfig

from hf_addnorm import AddNormBertConfig, AddNormBertModel, AddNormSpec
from hf_addnorm.models.spec.presets import PRESETS
from hf_addnorm.models.spec.spec import FORMAT_VERSION


def test_every_door_parses():
    spec = parse({"preset": "pre_ln", "norm": "dyt"})
    value = {"preset": "pre_ln", "norm": "dyt"}
    assigned, updated = config(), config()
    assigned.add_norm = value
    updated.update({"add_norm": value})
    from_dict = AddNormBertConfig.from_dict(config("deepnorm").to_dict(), add_norm=value)
    unused = AddNormBertConfig.from_dict(config().to_dict(), add_norm=value, return_unused_kwargs=True, other=1)
    assert assigned.add_norm == updated.add_norm == from_dict.add_norm == unused[0].add_norm == spec
    assert unused[1] == {"other": 1}


def test_a_refused_assignment_changes_nothing():
    cfg = config("pre_ln")
    with pytest.raises(ValueError, match="unknown preset"):
        cfg.add_norm = "pre_nl"
    assert cfg.add_norm == parse("pre_ln")


@pytest.mark.parametrize("add_norm", [None, "deepnorm", EVERYTHING], ids=["default", "preset", "everything"])
def test_saved_and_loaded(add_norm, tmp_path):
    cfg = config(add_norm)
    cfg.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["add_norm"] == cfg.add_norm.to_dict()
    assert written["model_type"] == "addnorm_bert"
    for loaded in (AddNormBertConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is AddNormBertConfig
        assert loaded.add_norm == cfg.add_norm
        loaded.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text()) == written
    other = AddNormBertConfig.from_pretrained(tmp_path, add_norm="rezero")
    assert other.add_norm == parse("rezero")


@pytest.mark.parametrize("add_norm", [None, "mix_ln", EVERYTHING], ids=["default", "preset", "everything"])
def test_every_json_form_has_the_resolved_spec(add_norm):
    cfg = config(add_norm)
    resolved = json.loads(json.dumps(parse(add_norm).to_dict()))
    assert json.loads(cfg.to_json_string())["add_norm"] == resolved
    assert json.loads(cfg.to_json_string(use_diff=False))["add_norm"] == resolved
    assert cfg.to_diff_dict()["add_norm"] == resolved
    assert cfg.to_dict()["add_norm"] == resolved
    assert resolved["preset"] in repr(cfg)


def test_copies_are_equal_and_others_are_not():
    cfg = config(EVERYTHING)
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), config(EVERYTHING), copy.copy(cfg)):
        assert twin == cfg
        assert twin.add_norm == cfg.add_norm
        assert isinstance(twin.add_norm, AddNormSpec)
    assert config("pre_ln") != config("post_ln")
    assert config({"norm": {"eps": 1e-5}}) != config({"norm": {"eps": 1e-6}})
    twin = copy.deepcopy(cfg)
    twin.add_norm = "pre_ln"
    assert cfg.add_norm == parse(EVERYTHING)


def test_a_stock_config_loads_as_the_stock_scheme(tmp_path):
    # keys that real checkpoints carry and that today's BertConfig does not declare
    BertConfig(**SIZES, gradient_checkpointing=False, position_embedding_type="absolute").save_pretrained(tmp_path)
    cfg = AddNormBertConfig.from_pretrained(tmp_path)
    assert cfg.add_norm == parse("post_ln")
    assert cfg.model_type == "addnorm_bert"
    assert (cfg.gradient_checkpointing, cfg.position_embedding_type) == (False, "absolute")
    assert AddNormBertConfig.from_pretrained(tmp_path, add_norm="pre_ln").add_norm == parse("pre_ln")


@pytest.mark.parametrize(
    "key",
    [
        "gradient_checkpointing",
        "position_embedding_type",
        "add_bias",
        "norm_first",
        "qk_norm",
        "final_norm",
        "norm_eps",
    ],
)
def test_other_unknown_keys_pass(key):
    assert getattr(config(**{key: 1}), key) == 1
    cfg = config()
    setattr(cfg, key, 1)
    assert getattr(AddNormBertConfig.from_dict(cfg.to_dict()), key) == 1


@pytest.mark.parametrize(
    "key", ["add_nrom", "addnorm", "add_norms", "AddNorm", "add-norm", "ad_norm", "add_morn", "addNorm", "add_norm_"]
)
def test_a_near_miss_of_the_key_is_refused_everywhere(key, tmp_path):
    config().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())

    def written():
        (tmp_path / "config.json").write_text(json.dumps(data | {key: "pre_ln"}))
        AddNormBertConfig.from_pretrained(tmp_path)

    for door in (
        lambda: config(**{key: "pre_ln"}),
        lambda: setattr(config(), key, "pre_ln"),
        lambda: config().update({key: "pre_ln"}),
        lambda: AddNormBertConfig.from_dict(config().to_dict(), **{key: "pre_ln"}),
        lambda: AddNormBertConfig.from_dict(config().to_dict() | {key: "pre_ln"}),
        lambda: AddNormBertConfig.from_pretrained(tmp_path, **{key: "pre_ln"}),
        lambda: AutoConfig.from_pretrained(tmp_path, **{key: "pre_ln"}),
        lambda: AddNormBertModel.from_pretrained(tmp_path, **{key: "pre_ln"}),
        written,
    ):
        with pytest.raises(ValueError) as error:
            door()
        assert repr(key) in str(error.value)
        assert "'add_norm'" in str(error.value)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ("pre_lm", ["add_norm.preset", "'pre_lm'", "pre_ln"]),
        ({"preset": "denseformer"}, ["add_norm.preset", "'denseformer'", *PRESETS]),
        ({"preset": "pre_ln", "sparsity": 1}, ["add_norm", "'sparsity'", "residual"]),
        ({"format_version": FORMAT_VERSION + 1}, ["format_version", str(FORMAT_VERSION + 1), "newer hf_addnorm"]),
    ],
    ids=str,
)
def test_a_config_file_is_judged_like_an_argument(stored, words, tmp_path):
    config().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(data | {"add_norm": stored}))
    for load in (AddNormBertConfig.from_pretrained, AutoConfig.from_pretrained, AddNormBertModel.from_pretrained):
        with pytest.raises(ValueError) as error:
            load(tmp_path)
        assert all(word in str(error.value) for word in words), error.value


def test_none_leaves_a_checkpoints_scheme_alone(tmp_path):
    # as for every other override that a script passes on from an unset argument
    config("deepnorm").save_pretrained(tmp_path)
    assert AddNormBertConfig.from_pretrained(tmp_path, add_norm=None).add_norm == parse("deepnorm")
