"""The models inside the tools that people use: checkpointing, Trainer, pipelines, ONNX, generation."""

import copy

import pytest
import torch
import transformers
from families import (
    BASE_MODELS,
    COVERING,
    FAMILIES,
    FEW_SPECS,
    SPECS,
    checkpoint_activations,
    fill_with_pattern,
    product,
    real_tokens,
    slow_beyond_covering,
    slow_unless,
    text_inputs,
)
from transformers import BertTokenizer, Trainer, TrainingArguments

from hf_addnorm import (
    AddNormBertConfig,
    AddNormBertForMaskedLM,
    AddNormBertForSequenceClassification,
    AddNormBertModel,
    AddNormGPT2LMHeadModel,
    AddNormSpec,
    AddNormViTForImageClassification,
    AddNormWav2Vec2ForSequenceClassification,
)
from hf_addnorm.models.base.registries import STREAMS
from hf_addnorm.models.core.layer_add_norm import SublayerAddNorm


BERT = FAMILIES["bert"]


# BERT with every spec, every other row with those that reach all of a family's own code
_PAIRS = [(family, spec) for family in FAMILIES for spec in (SPECS if family == "bert" else FEW_SPECS)]
CASES = slow_beyond_covering(_PAIRS)
READERS = [family for family in FAMILIES if "input_ids" in FAMILIES[family].inputs("")]
TEXT_CASES = slow_beyond_covering(pair for pair in _PAIRS if pair[0] in READERS)
SDPA_CASES = slow_beyond_covering(pair for pair in _PAIRS if "sdpa" in FAMILIES[pair[0]].attentions)
BERT_SPECS = [slow_unless(spec in COVERING, spec) for spec in SPECS]
ONE_STREAM = [spec for spec in SPECS if not STREAMS.build(AddNormSpec.parse(SPECS[spec]).stream).is_tuple]


def _base(family, spec, **kwargs):
    """The base model with patterned weights, and its inputs."""
    row = FAMILIES[family]
    model = row.config_class.auto_classes["AutoModel"]
    net = row.model_class(model)(row.config(model, SPECS[spec], **kwargs)).eval()
    fill_with_pattern(net)
    return net, row.inputs(model)


def _classifier(spec, **kwargs):
    return AddNormBertForSequenceClassification(BERT.config("", SPECS[spec], **kwargs))


def _gradients(net, inputs):
    net.zero_grad()
    torch.manual_seed(11)
    net(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


# the names of these tests have no model
GRADIENT_CASES = [
    pytest.param(family, spec, marks=case.marks)
    for case in product(list(BASE_MODELS.items()))
    for family, _, spec in [case.values]
]


@pytest.mark.parametrize(("family", "spec"), GRADIENT_CASES)
def test_every_parameter_has_a_gradient(family, spec):
    net, inputs = _base(family, spec, layerdrop=0.0)
    blocks = [module for module in net.modules() if isinstance(module, SublayerAddNorm)]
    # a branch that stochastic depth leaves out for every sample has no gradient then
    for _ in range(3 if any(block.drop_path > 0 for block in blocks) else 1):
        output = net.train()(**inputs)
        for value in (output.last_hidden_state, output.get("pooler_output")):
            if value is not None:
                value.backward(torch.randn_like(value), retain_graph=True)
    # the softmax does not see a shift of all keys, what masked frames are replaced with is drawn, no patch is masked
    spared = ("key.bias", "k_proj.bias", "key_proj.bias", "masked_spec_embed", "mask_token")
    learned = [(name, value) for name, value in net.named_parameters() if value.requires_grad]
    silent = [name for name, value in learned if value.grad is None or not value.grad.abs().sum() > 0]
    assert [name for name in silent if not name.endswith(spared)] == []


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", BERT_SPECS)
def test_gradient_checkpointing_gives_equal_gradients(spec, reentrant):
    net = _classifier(spec).train()
    fill_with_pattern(net)
    inputs = text_inputs("ForSequenceClassification")
    plain = _gradients(net, inputs)
    if reentrant and spec not in ONE_STREAM:
        with pytest.raises(ValueError, match="use_reentrant"):
            checkpoint_activations(net, {"use_reentrant": True})
        return
    checkpoint_activations(net, {"use_reentrant": reentrant})
    checkpointed = _gradients(net, inputs)
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def _agree(family, spec, *attentions):
    net, inputs = _base(family, spec)
    outputs = {}
    for attention in ("eager", *attentions):
        net.set_attn_implementation(attention)
        with torch.no_grad():  # flex attention has no backward on CPU
            outputs[attention] = net(**inputs)[0]
    if family in READERS:
        real = real_tokens(inputs)
        outputs = {attention: output[real] for attention, output in outputs.items()}
    eager = outputs.pop("eager")
    for output in outputs.values():
        torch.testing.assert_close(output, eager, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(("family", "spec"), SDPA_CASES)
def test_attention_implementations_agree(family, spec):
    # what flex attention compiles takes its time: here it is computed without
    with torch.compiler.set_stance("force_eager"):
        _agree(family, spec, "sdpa", *(["flex_attention"] if family == "bert" else []))


@pytest.mark.slow
@pytest.mark.parametrize("spec", BERT_SPECS)
def test_compiled_flex_attention_agrees(spec):
    _agree("bert", spec, "flex_attention")


@pytest.mark.parametrize(("family", "spec"), TEXT_CASES)
def test_padding_changes_no_real_token(family, spec):
    net, inputs = _base(family, spec)
    other = dict(inputs)
    other["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 98 - inputs["input_ids"])
    assert not torch.equal(other["input_ids"], inputs["input_ids"])
    real = real_tokens(inputs)
    torch.testing.assert_close(net(**inputs)[0][real], net(**other)[0][real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["post_ln", "all_slots", "rezero"])
def test_exports_to_onnx(spec, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    inputs = {key: value for key, value in text_inputs("").items() if key in ("input_ids", "attention_mask")}
    net = _classifier(spec).eval()
    fill_with_pattern(net)
    torch.onnx.export(net, (), str(tmp_path / "model.onnx"), kwargs=inputs, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits, *_) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(logits), net(**inputs).logits, rtol=1e-3, atol=1e-4)


def test_hidden_states_are_the_stream_and_the_last_one_is_normed():
    net = AddNormBertModel(BERT.config("", "pre_ln")).eval()
    output = net(**text_inputs(""), output_hidden_states=True)
    assert len(output.hidden_states) == 5
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    layers = net.encoder.layer
    torch.testing.assert_close(layers[0](output.hidden_states[0], None), layers[0](output.hidden_states[0]))
    last_stream = []
    layers[3].register_forward_hook(lambda module, args, out: last_stream.append(out))
    output = net(**text_inputs(""))
    torch.testing.assert_close(net.encoder.final_norm(last_stream[0]), output.last_hidden_state)


# CONTRIBUTING names this limit; the recipes' own decay groups know our norms by type
DECAYED = pytest.mark.xfail(strict=True, reason="Trainer knows norms called ln_1 or ln by type, nn.LayerNorm, alone")
NAMELESS_NORMS = ("gpt2", "megatron_bert")
DECAY_CASES = [
    pytest.param(family, spec, marks=DECAYED if spec in ("pre_rms_norm", "all_slots", "hybrid_norm", "dyt") else ())
    for family in NAMELESS_NORMS
    for spec in (*FEW_SPECS, "pre_rms_norm", "dyt")
]


@pytest.mark.parametrize(
    ("family", "spec"),
    [*slow_beyond_covering(pair for pair in _PAIRS if pair[0] not in NAMELESS_NORMS), *DECAY_CASES],
)
def test_weight_decay_takes_what_it_takes_in_the_stock_model(family, spec):
    row = FAMILIES[family]
    net, _ = _base(family, spec)
    stock = row.stock_class(type(net).__name__)(row.stock_config(""))
    expected = Trainer.get_decay_parameter_names(None, stock)
    assert expected
    # and the weights of the gates of residuals and of a stream, not their biases and gains
    homes = ("residual_gate", "start_gate", "layer_gate", "head_gate")
    # a factor of the stock layer that the scheme has taken away is not there to be decayed
    expected = [name for name in expected if "lambda" not in name or name in dict(net.named_parameters())]
    gates = [name for name, _ in net.named_parameters() if any(home in name for home in homes)]
    weights = [name for name in gates if "_norm." not in name and "bias" not in name]
    assert sorted(Trainer.get_decay_parameter_names(None, net)) == sorted([*expected, *weights])


def test_trainer_spares_the_gates_of_a_norm():
    """CONTRIBUTING names this limit; the recipes decay them."""
    net = AddNormBertModel(BERT.config("", {"preset": "sandwich_ln", "norm": "gated_rms_norm"}))
    gates = {name for name, parameter in net.named_parameters() if "gate_" in name}
    assert {net.get_parameter(name).ndim for name in gates} == {2}
    assert not gates & set(Trainer.get_decay_parameter_names(None, net))


@pytest.fixture
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(94))]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def test_trainer_trains_saves_and_reloads(tmp_path, tokenizer):
    net = _classifier("sub_ln")
    rows = [{**tokenizer(f"w{i} w{i + 1}", padding="max_length", max_length=6), "labels": i % 2} for i in range(16)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=8, report_to=[], use_cpu=True, save_steps=2,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(net, arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    for key, value in net.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_pipelines(tmp_path, tokenizer):
    _classifier("pre_rms_norm").save_pretrained(tmp_path / "cls")
    tokenizer.save_pretrained(tmp_path / "cls")
    scores = transformers.pipeline("text-classification", str(tmp_path / "cls"))(["w1 w2", "w3"])
    assert {score["label"] for score in scores} <= {"LABEL_0", "LABEL_1"}
    AddNormBertForMaskedLM(BERT.config("", "pre_rms_norm")).save_pretrained(tmp_path / "mlm")
    tokenizer.save_pretrained(tmp_path / "mlm")
    assert len(transformers.pipeline("fill-mask", str(tmp_path / "mlm"))("w1 [MASK]")) == 5
    AddNormGPT2LMHeadModel(FAMILIES["gpt2"].config("", "residual")).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    assert transformers.pipeline("text-generation", str(tmp_path / "lm"))("w1 w2", max_new_tokens=3)


def test_pipelines_of_images_and_sound(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    AddNormViTForImageClassification(FAMILIES["vit"].config("", "residual")).save_pretrained(tmp_path / "image")
    (tmp_path / "image" / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 16}}')
    scores = transformers.pipeline("image-classification", str(tmp_path / "image"))(pillow.new("RGB", (20, 20)))
    assert {score["label"] for score in scores} == {"LABEL_0", "LABEL_1"}
    config = FAMILIES["wav2vec2"].config("", "residual")
    AddNormWav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path / "sound")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "sound")
    scores = transformers.pipeline("audio-classification", str(tmp_path / "sound"))(torch.randn(800).numpy())
    assert {score["label"] for score in scores} == {"LABEL_0", "LABEL_1"}


@pytest.mark.parametrize("spec", ["post_ln", "pre_ln", "all_slots", "residual", "hyper_connections"])
def test_encoder_decoder_generates_with_cache(spec, tmp_path):
    encoder = AddNormBertModel(BERT.config("", SPECS[spec]))
    decoder = transformers.AutoModelForCausalLM.from_config(
        BERT.config("AddNormBertLMHeadModel", SPECS[spec], add_cross_attention=True)
    )
    fill_with_pattern(encoder), fill_with_pattern(decoder)
    pair = transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    pair.config.decoder_start_token_id = pair.generation_config.decoder_start_token_id = 2
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = {key: value for key, value in text_inputs("").items() if key in ("input_ids", "attention_mask")}
    cached = pair.generate(**inputs, **options, use_cache=True)
    assert torch.equal(cached, pair.generate(**inputs, **options, use_cache=False))
    pair.save_pretrained(tmp_path)
    back = transformers.EncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(cached, back.generate(**inputs, **options))


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_a_deep_copy_is_another_model(family, spec):
    net, inputs = _base(family, spec)
    expected = net(**inputs)[0]
    twin = copy.deepcopy(net)
    assert torch.equal(twin(**inputs)[0], expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(net(**inputs)[0], expected)


def test_resized_embeddings():
    net = AddNormBertForMaskedLM(BERT.config("", "rezero"))
    twin = copy.deepcopy(net)
    twin.resize_token_embeddings(120)
    assert twin.config.vocab_size == 120
    assert twin(input_ids=torch.tensor([[119]])).logits.shape[-1] == 120
    assert net.config.vocab_size == 99
    assert twin.config.add_norm == net.config.add_norm


def test_setting_the_spec_on_a_config_is_parsed_at_once():
    config = AddNormBertConfig()
    config.add_norm = {"preset": "pre_ln", "norm": "rms_norm"}
    assert config.add_norm.norm.kind == "rms_norm"
    with pytest.raises(ValueError, match="unknown norm 'rms'"):
        config.add_norm = {"norm": "rms"}
    assert config.add_norm.norm.kind == "rms_norm"
