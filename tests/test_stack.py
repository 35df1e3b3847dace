"""Stacks of encoders: against the composition written out, and in everything that a model does."""

import itertools
import re
from typing import get_args

import pytest
import torch
import transformers
from families import FAMILIES, checkpoint_activations, fill_with_pattern, two_segment_inputs
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import get_parameter_names

import hf_addnorm
from hf_addnorm import AddNormStackConfig, AddNormStackForMaskedLM, AddNormStackModel
from hf_addnorm.models.composites import configuration_addnorm_stack as stack_config
from hf_addnorm.models.composites import modeling_addnorm_stack as stack_models


def _entry(family, **kwargs):
    row = FAMILIES[family]
    return {"model_type": row.config_class.model_type, **row.tiny, "num_hidden_layers": 2, **kwargs}


ALL = [
    _entry("bert"),
    _entry("albert", add_norm="rezero"),
    _entry("modernbert"),
    _entry("deberta_v2", hidden_size=24, add_norm="residual"),
]
TWO = [
    _entry("bert", add_norm={"norm": "instance_norm"}),
    _entry("bert", add_norm="pre_ln", hidden_size=24, intermediate_size=20),
]
STACKS = {
    "sequence": {"encoders": ALL},
    "sequence_norms": {"encoders": ALL[::-1], "norm": "rms_norm"},
    "sequence_groups": {"encoders": ALL[:3], "norm": "instance_norm", "groups": [2, 1]},
    "parallel": {"encoders": ALL, "arrangement": "parallel"},
    "parallel_softmax_norms": {"encoders": ALL, "arrangement": "parallel", "mix": "softmax", "norm": "rms_norm"},
    "parallel_free_groups": {
        "encoders": ALL[1:] + TWO[:1],
        "arrangement": "parallel",
        "mix": "free",
        "norm": "batch_norm",
        "groups": [3, 1],
    },
    "sequence_of_members": {"encoders": [_entry("roberta", add_norm="pre_ln"), _entry("electra"), _entry("ernie")]},
    "parallel_one_norm": {"encoders": TWO, "arrangement": "parallel", "norm": "dyt", "groups": [2]},
}
MODELS = sorted(set(AddNormStackConfig.auto_classes.values()))
# what the families' suites spare too: the softmax does not see a shift of all keys
SPARED = ("key.bias", "k_proj.bias", "key_proj.bias")


def _config(stack, **kwargs):
    return AddNormStackConfig(**STACKS[stack], **kwargs)


def _net(stack, model="AddNormStackModel", **kwargs):
    net = getattr(hf_addnorm, model)(_config(stack, **kwargs)).eval()
    fill_with_pattern(net)
    return net


def _inputs(model="AddNormStackModel"):
    return two_segment_inputs(model)


# the composition, written out


def _instance_norm(x, p):
    real = _inputs()["attention_mask"][..., None].to(x.dtype)
    mean = (x * real).sum(1, True) / real.sum(1, True)
    variance = ((x - mean) ** 2 * real).sum(1, True) / real.sum(1, True)
    return p.weight * (x - mean) / (variance + p.eps) ** 0.5 + p.bias


NORMS = {
    "rms_norm": lambda x, p: p.weight * x / (x.pow(2).mean(-1, True) + 1e-6) ** 0.5,
    "dyt": lambda x, p: p.weight * torch.tanh(p.alpha * x) + p.bias,
    # in evaluation, with the statistics at their start: mean 0, variance 1
    "batch_norm": lambda x, p: p.weight * x / (1 + p.eps) ** 0.5 + p.bias,
    "instance_norm": _instance_norm,
}


def _alone(net, index, words):
    """An encoder outside of the stack, with the words of the one inside (a sequence's later ones have none)."""
    inside = net.encoders[index]
    base = type(inside)(inside.config).double().eval()
    base.load_state_dict(inside.state_dict(), strict=False)
    takes_types = getattr(inside.config, "type_vocab_size", 0) > 1 and not isinstance(
        inside, hf_addnorm.AddNormModernBertModel
    )
    types = {"token_type_ids": _inputs()["token_type_ids"]} if takes_types else {}
    return base(**words, attention_mask=_inputs()["attention_mask"], **types).last_hidden_state


def _composed(net):
    config, state = net.config, dict(net.named_modules())
    words = {"input_ids": _inputs()["input_ids"]}
    sizes = config.groups or ([1] * len(config.encoders) if config.norm else [len(config.encoders)])
    norm = NORMS[config.norm.kind] if config.norm else lambda x, _: x
    ends = [sum(sizes[: group + 1]) - 1 for group in range(len(sizes))]
    project = lambda index, h: state[f"projections.{index}"](h) if f"projections.{index}" in state else h  # noqa: E731
    if config.arrangement == "sequence":
        for index in range(len(config.encoders)):
            h = _alone(net, index, words)
            if index in ends:
                h = norm(h, net.after_norm[ends.index(index)])
            words = {"inputs_embeds": project(index + 1, h)}
        return h

    def total(terms, weights):
        if config.mix == "sum" or len(terms) == 1:
            return sum(terms)
        weights = {"softmax": weights.exp() / weights.exp().sum(), "free": weights}[config.mix]
        return sum(weight * term for weight, term in zip(weights, terms, strict=True))

    outs = [project(index, _alone(net, index, words)) for index in range(len(config.encoders))]
    mixes = [mix.weight for mix in net.mix_norm]
    groups = [
        norm(total(outs[end + 1 - size : end + 1], mixes[group]), net.after_norm[group])
        for group, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    return total(groups, mixes[-1])


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_is_the_composition_of_its_encoders(stack):
    net = _net(stack).double()
    with torch.no_grad():
        for module in net.mix_norm:
            if module.weight is not None:
                module.weight.copy_(torch.linspace(0.3, -0.8, len(module.weight)))
        actual, expected = net(**_inputs()).last_hidden_state, _composed(net)
    real = _inputs()["attention_mask"].bool()
    torch.testing.assert_close(actual[real], expected[real], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_has_a_gradient(stack, model):
    net = getattr(hf_addnorm, model)(_config(stack)).train()
    # beyond the start, at which rezero lets nothing through
    fill_with_pattern(net)
    output = net(**_inputs(model))
    target = output[0] if "labels" in _inputs(model) else (output[0] * torch.randn_like(output[0])).sum()
    target.backward()
    silent = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert [name for name in silent if not name.endswith(SPARED)] == []


@pytest.mark.parametrize("stack", STACKS)
def test_what_padding_contains_changes_no_real_token(stack):
    net, inputs = _net(stack).train(), _inputs()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    real = inputs["attention_mask"].bool()
    changed = inputs | {"input_ids": torch.where(real, inputs["input_ids"], 98 - inputs["input_ids"])}
    torch.manual_seed(1)
    expected = net(**inputs)[0][real]
    torch.manual_seed(1)
    torch.testing.assert_close(net(**changed)[0][real], expected)


def test_token_types_reach_those_that_take_them():
    inputs = _inputs()
    other = inputs | {"token_type_ids": 1 - inputs["token_type_ids"]}
    with_types = _net("sequence")
    assert [("token_type_ids" in taken) for taken in with_types.taken] == [True, True, False, False]
    assert not torch.equal(with_types(**inputs)[0], with_types(**other)[0])
    net = AddNormStackModel(AddNormStackConfig(encoders=[ALL[2], _entry("bert", type_vocab_size=1)])).eval()
    assert torch.equal(net(**inputs)[0], net(**other)[0])


@pytest.mark.parametrize("stack", ["sequence", "parallel_softmax_norms"])
def test_hidden_states_and_attentions_of_all(stack):
    net = _net(stack)
    net.set_attn_implementation("eager")
    inputs = _inputs()
    output = net(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 4 * (2 + 1) + 1 and len(output.attentions) == 4 * 2
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    index = 0 if stack == "sequence" else 2
    taken = inputs if index == 0 else {key: inputs[key] for key in ("input_ids", "attention_mask")}
    first = net.encoders[index](**taken, output_hidden_states=True)
    for ours, alone in zip(output.hidden_states[3 * index :], first.hidden_states, strict=False):
        assert torch.equal(ours, alone)
    assert all(weights.shape == (3, 4, 10, 10) for weights in output.attentions)
    plain = net(**inputs)
    assert plain.hidden_states is None and plain.attentions is None
    as_tuple = net(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], plain[0])
    net.config.return_dict = False
    assert isinstance(net(**inputs), tuple)


# every stack with one of the models, in turn
TURNS = list(zip(STACKS, itertools.cycle(MODELS), strict=False))


@pytest.mark.parametrize(("stack", "model"), TURNS)
def test_round_trip_sharded_and_found_without_remote_code(stack, model, tmp_path):
    net = _net(stack, model)
    net.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is AddNormStackConfig
    for auto in (auto for auto, name in AddNormStackConfig.auto_classes.items() if name == model):
        back, info = getattr(transformers, auto).from_pretrained(tmp_path, output_loading_info=True)
        assert type(back) is type(net) and not any(info.values()), info
    for key, value in net.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key
    torch.testing.assert_close(back(**_inputs())[0], net(**_inputs())[0])


def test_the_tokenizer_beside_it_is_found(tmp_path):
    _net("parallel_one_norm").save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]
    transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("hello").input_ids == [2, 5, 3]
    pipe = transformers.pipeline("feature-extraction", model=str(tmp_path), tokenizer=tokenizer)
    assert torch.tensor(pipe("hello")).shape == (1, 3, 32)


def test_loads_as_a_stranger_and_saves_again(tmp_path, load_with_package_hidden):
    cases = []
    for stack, model in TURNS[2 : 2 + len(MODELS)]:
        folder = tmp_path / stack
        _net(stack, model).save_pretrained(folder)
        net = getattr(hf_addnorm, model).from_pretrained(folder)
        inputs = {key: value for key, value in _inputs(model).items() if key != "labels"}
        torch.save(inputs, folder / "inputs")
        torch.save(net(**inputs)[0].detach(), folder / "expected")
        autos = [auto for auto, name in AddNormStackConfig.auto_classes.items() if name == model]
        names = {"reference": f"modeling_addnorm_stack.{model}", "base": "modeling_addnorm_stack.AddNormStackModel"}
        cases.append({"folder": str(folder), "autos": autos, **names})
    load_with_package_hidden(cases)


@pytest.mark.parametrize("stack", STACKS)
def test_what_a_checkpoint_lacks_starts_as_documented(stack, tmp_path):
    _net(stack, "AddNormStackForMaskedLM").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {key: value for key, value in load_file(file).items() if ".encoder_" in key}
    save_file(state, file, metadata={"format": "pt"})
    # leave garbage where the allocator will take new tensors from
    blocks = [torch.full((size,), 7.0e7) for size in (1, 2, 3, 4, 24, 32, 99, 512, 768, 1024) for _ in range(40)]
    del blocks
    net, info = AddNormStackForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] and not any(".encoder_" in key for key in info["missing_keys"])
    start = {"sum": None, "softmax": 0.0, "free": 1.0}[net.config.mix]
    for key, value in net.state_dict().items():
        if key in state or key == "decoder.weight":
            continue
        if "mix_norm" in key:
            expected = start
        elif "running_var" in key or re.search(r"norm\S*\.weight$", key):
            expected = 1.0
        elif key.endswith("alpha"):
            expected = 0.5
        elif key.endswith("weight"):
            assert 0.01 < value.std() < 0.03 and value.abs().max() < 0.12, key
            continue
        else:
            expected = 0.0
        assert torch.equal(value, torch.full_like(value, expected)), key


def test_bfloat16_keeps_the_weights_of_sums_in_float32(tmp_path):
    net = _net("parallel_free_groups", "AddNormStackForSequenceClassification")
    net.save_pretrained(tmp_path)
    half = type(net).from_pretrained(tmp_path, dtype=torch.bfloat16)
    wide = {name for name, value in half.named_parameters() if value.dtype == torch.float32}
    assert wide == {"stack.mix_norm.0.weight", "stack.mix_norm.2.weight"}
    output = half(**_inputs("ForSequenceClassification"))
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()
    torch.testing.assert_close(output.logits.float(), net(**_inputs())[0], atol=0.1, rtol=0.1)


def test_gradient_checkpointing():
    def gradients(net):
        net.zero_grad()
        torch.manual_seed(11)
        net(**_inputs("ForMaskedLM")).loss.backward()
        return {name: value.grad.clone() for name, value in net.named_parameters()}

    net = _net("sequence", "AddNormStackForMaskedLM").train()
    plain = gradients(net)
    checkpoint_activations(net)
    assert all(layer.gradient_checkpointing for layer in net.stack.encoder_0.encoder.layer)
    for name, grad in gradients(net).items():
        torch.testing.assert_close(grad, plain[name], msg=name)
    # the DeBERTa has two streams
    with pytest.raises(ValueError, match="use_reentrant"):
        checkpoint_activations(net, {"use_reentrant": True})


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "deberta_v2", "deberta_v2_conv"])
def test_the_head_is_tied_to_the_first_words(family, tmp_path):
    config = AddNormStackConfig(encoders=[_entry(family), _entry("bert", hidden_size=24, intermediate_size=20)])
    net = AddNormStackForMaskedLM(config)
    assert net.decoder.weight is net.stack.encoder_0.get_input_embeddings().weight
    net.save_pretrained(tmp_path)
    back, info = AddNormStackForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert back.decoder.weight is back.stack.encoder_0.get_input_embeddings().weight
    config.tie_word_embeddings = False
    untied = AddNormStackForMaskedLM(config)
    assert untied.decoder.weight is not untied.stack.encoder_0.get_input_embeddings().weight
    untied.save_pretrained(tmp_path)
    back = AddNormStackForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(back.decoder.weight, untied.decoder.weight)


@pytest.mark.parametrize("stack", ["sequence_norms", "parallel"])
def test_more_words(stack, tmp_path):
    net = _net(stack, "AddNormStackForMaskedLM")
    net.resize_token_embeddings(120)
    assert net.config.vocab_size == 120
    readers = net.stack.encoders if stack == "parallel" else net.stack.encoders[:1]
    assert [encoder.get_input_embeddings().weight.shape[0] for encoder in readers] == [120] * len(readers)
    inputs = _inputs("ForMaskedLM")
    output = net(**inputs | {"input_ids": inputs["input_ids"] + 20})
    assert output.logits.shape == (3, 10, 120)
    net.save_pretrained(tmp_path)
    assert not any(AddNormStackForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)[1].values())


def _stock(family, model, **kwargs):
    row = FAMILIES[family]
    net = row.stock_class(model)(row.stock_config(model, num_hidden_layers=2, **kwargs)).eval()
    fill_with_pattern(net)
    return net


def test_from_encoders_keeps_their_weights():
    given = [
        _stock("bert", "AddNormBertForSequenceClassification"),
        _stock("albert", "AddNormAlbertModel"),
        _stock("bert", "AddNormBertModel"),
    ]
    net = AddNormStackForMaskedLM.from_encoders(given, norm="layer_norm", groups=[1, 2])
    assert not net.training
    for index, source in enumerate(given):
        state = source.base_model.state_dict()
        own = net.stack.encoders[index].state_dict()
        words = {key for key in state if "word_embeddings" in key} if index else set()
        assert set(state) - set(own) == {key for key in state if "pooler" in key} | words
        for key, value in own.items():
            assert torch.equal(value, state[key]), key
            assert value.data_ptr() != state[key].data_ptr()
    alone = given[0].bert(**_inputs()).last_hidden_state
    assert torch.equal(net(**_inputs(), output_hidden_states=True).hidden_states[2], alone)
    half = AddNormStackModel.from_encoders([source.bfloat16() for source in given])
    assert half.dtype == torch.bfloat16


def test_from_encoders_keeps_their_attention():
    encoders = [_stock("bert", "AddNormBertModel") for _ in range(2)]
    for implementation in ("eager", "sdpa"):
        for encoder in encoders:
            encoder.set_attn_implementation(implementation)
        net = AddNormStackModel.from_encoders(encoders)
        assert {encoder.config._attn_implementation for encoder in net.encoders} == {implementation}


def test_from_pretrained_encoders(tmp_path):
    _stock("bert", "AddNormBertForMaskedLM").save_pretrained(tmp_path / "bert")
    _stock("deberta_v2", "AddNormDebertaV2Model").save_pretrained(tmp_path / "deberta")
    folders = [str(tmp_path / "bert"), str(tmp_path / "deberta")]
    kwargs = {"arrangement": "parallel", "mix": "softmax"}
    net = AddNormStackModel.from_pretrained_encoders(folders, add_norm=[None, "pre_rms_norm"], **kwargs)
    assert [config.add_norm.preset for config in net.config.encoders] == ["post_ln", "pre_rms_norm"]
    expected = _stock("bert", "AddNormBertForMaskedLM").bert.state_dict()
    for key, value in net.encoder_0.state_dict().items():
        assert torch.equal(value, expected[key]), key
    norm = net.encoder_1.encoder.layer[0].connections.attention.pre_norm.weight
    assert torch.equal(norm, torch.ones_like(norm))
    assert torch.equal(net.mix_norm[0].weight, torch.zeros(2))
    # one scheme for all, ours as well as stock ones, and the config alone
    net.encoder_0.save_pretrained(tmp_path / "ours")
    both = AddNormStackModel.from_pretrained_encoders([str(tmp_path / "ours"), folders[0]], "pre_ln")
    assert [config.add_norm.preset for config in both.config.encoders] == ["pre_ln"] * 2
    assert AddNormStackConfig(encoders=[folders[0], "bert"]).encoders[0].hidden_size == 32
    half = AddNormStackModel.from_pretrained_encoders(folders, loading={"dtype": torch.bfloat16}, **kwargs)
    assert half.encoder_1.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="add_norm has 1 entries for 2 checkpoints"):
        AddNormStackModel.from_pretrained_encoders(folders, ["pre_ln"])
    row = FAMILIES["gpt2"]
    row.stock_class("AddNormGPT2Model")(row.stock_config("")).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match=r"is a 'gpt2' model; a stack is made of bert, .* or addnorm_xlm_roberta"):
        AddNormStackModel.from_pretrained_encoders([folders[0], str(tmp_path / "gpt2")])


def test_what_transformers_asks_a_model_for():
    net = _net("parallel_free_groups", "AddNormStackForTokenClassification")
    present = {type(module).__name__ for module in net.modules()}
    layers = {"AddNormAlbertLayer", "AddNormModernBertEncoderLayer", "AddNormDebertaV2Layer", "AddNormBertLayer"}
    assert layers <= net._no_split_modules <= present
    # of what is the stack's own, the projections alone are decayed
    own = [name for name, _ in net.stack.named_parameters() if not name.startswith("encoder_")]
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = get_parameter_names(net.stack, [torch.nn.LayerNorm], patterns)
    assert set(own) & set(decayed) == {"projections.2.weight"}
    for attention in ("eager", "sdpa"):
        stack = STACKS["sequence_groups"]
        model = transformers.AutoModel.from_config(AddNormStackConfig(**stack), attn_implementation=attention)
        assert [encoder.config._attn_implementation for encoder in model.encoders] == [attention] * 3


def test_inputs_embeds():
    net, inputs = _net("sequence"), _inputs()
    expected = net(**inputs)[0]
    words = net.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(net(**inputs, inputs_embeds=words)[0], expected)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        net(attention_mask=inputs["attention_mask"])
    with pytest.raises(ValueError, match=r"inputs_embeds is 32 wide, and the encoders that read words take \[32, 16"):
        _net("parallel")(inputs_embeds=words)


def test_compiles():
    one_layer = [entry | {"num_hidden_layers": 1} for entry in TWO]
    net = AddNormStackModel(AddNormStackConfig(encoders=one_layer, arrangement="parallel", norm="dyt")).eval()
    expected = net(**_inputs())[0]
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(**_inputs())[0], expected)


def test_pooling():
    inputs = _inputs()
    for pooling in get_args(stack_config.Pooling):
        net = _net("parallel_one_norm", "AddNormStackForSequenceClassification", classifier_pooling=pooling)
        h = net.stack(**inputs)[0]
        real = inputs["attention_mask"][..., None]
        vector = {"cls": h[:, 0], "mean": (h * real).sum(1) / real.sum(1)}[pooling]
        torch.testing.assert_close(net(**inputs)[0], net.classifier(torch.tanh(net.pooler.dense(vector))))


REFUSED = {
    "nothing": ({}, "encoders is None; allowed is a list of at least two configs"),
    "one": ({"encoders": ["bert"]}, r"encoders is ['bert']; allowed is a list of at least two"),
    "no family": (
        {"encoders": ["bert", {"model_type": "brt"}]},
        "encoders[1]: unknown family 'brt'. Did you mean bert",
    ),
    "no checkpoint": ({"encoders": ["bert", "brt"]}, "encoders[1] is 'brt', which is no family (bert, "),
    "no type": ({"encoders": ["bert", {}]}, "encoders[1] is {}; allowed is a config, a dict with 'model_type'"),
    "a decoder": ({"encoders": [_entry("bert", is_decoder=True), "bert"]}, "encoders[0] is a decoder"),
    "a scheme": ({"encoders": ["bert", _entry("bert", add_norm="pre_lm")]}, "encoders[1]: add_norm.preset: unknown"),
    "arrangement": ({"encoders": TWO, "arrangement": "series"}, "arrangement is 'series'; allowed is 'sequence' or"),
    "mix": ({"encoders": TWO, "arrangement": "parallel", "mix": "mean"}, "mix is 'mean'; allowed is 'sum', 'softmax'"),
    "idle mix": ({"encoders": TWO, "mix": "free"}, "mix is 'free', and the encoders of a sequence are not summed"),
    "vocabularies": (
        {"encoders": [TWO[0], _entry("bert", vocab_size=98)], "arrangement": "parallel"},
        "the encoders' vocab_size are [99, 98], and in parallel one tokenizer feeds all",
    ),
    "idle groups": ({"encoders": TWO, "groups": [1, 1]}, "groups is [1, 1]: it says after which encoders the norm"),
    "groups": ({"encoders": TWO, "norm": "dyt", "groups": [1, 2]}, "groups is [1, 2]; allowed is a list of whole"),
    "zero group": ({"encoders": TWO, "norm": "dyt", "groups": [0, 2]}, "groups is [0, 2]; allowed is a list of whole"),
    "norm": ({"encoders": TWO, "norm": "rmsnorm"}, "norm: unknown norm 'rmsnorm'. Did you mean rms_norm"),
    "width": ({"encoders": TWO, "norm": {"kind": "affine", "groups": 5}}, "norm: affine: groups is 5, which does not"),
    "a size": ({"encoders": TWO, "hidden_size": 32}, "hidden_size of a stack is that of its encoders"),
    "near miss": ({"encoders": TWO, "norms": "dyt"}, "unknown config key 'norms'. Did you mean 'norm'?"),
    "pooling": ({"encoders": TWO, "classifier_pooling": "max"}, "classifier_pooling is 'max'; allowed is 'cls' or"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case):
    kwargs, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        AddNormStackConfig(**kwargs)
    assert "\n" not in str(caught.value)


def test_overrides_are_checked_and_mean_what_they_say(tmp_path):
    _net("parallel").save_pretrained(tmp_path)
    net, info = AddNormStackModel.from_pretrained(tmp_path, norm="rms_norm", mix="free", output_loading_info=True)
    assert info["missing_keys"] == {*(f"after_norm.{index}.weight" for index in range(4)), "mix_norm.4.weight"}
    assert torch.equal(net.mix_norm[-1].weight, torch.ones(4))
    with pytest.raises(ValueError, match="are not summed"):
        AddNormStackModel.from_pretrained(tmp_path, arrangement="sequence", mix="free")


def test_the_words_of_the_config_are_the_classes_of_the_model():
    assert set(get_args(stack_config.Arrangement)) == set(stack_models.ARRANGEMENTS)
    assert set(get_args(stack_config.Mix)) == set(stack_models.MIXES)
    assert set(stack_models.ENCODERS) == {config.model_type for config in stack_config.ENCODER_CONFIGS.values()}


def test_sizes_are_the_encoders():
    config = _config("sequence")
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (24, 8, 64)
    assert (config.vocab_size, config.pad_token_id, config.type_vocab_size) == (99, 0, 2)
    assert _config("parallel").hidden_size == 32
    twice = AddNormStackConfig(encoders=[config.encoders[0]] * 2)
    assert twice.encoders[0] is not twice.encoders[1]
