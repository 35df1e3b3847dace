"""The models inside the tools that people use: compile, export, checkpointing, Trainer, PEFT, pipelines."""

import re

import pytest
import torch
import transformers
from families import FAMILIES, SPECS, fill_with_pattern, text_inputs
from transformers import BertTokenizer, Trainer, TrainingArguments

from hf_addnorm import (
    AddNormBertConfig,
    AddNormBertForMaskedLM,
    AddNormBertForSequenceClassification,
    AddNormBertModel,
)


BERT = FAMILIES["bert"]


def _classifier(spec, **kwargs):
    return AddNormBertForSequenceClassification(BERT.config("", SPECS[spec], **kwargs))


def _gradients(net, inputs):
    net.zero_grad()
    torch.manual_seed(11)
    net(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("spec", SPECS)
def test_every_parameter_has_a_gradient(spec):
    net = _classifier(spec).train()
    fill_with_pattern(net)
    gradients = _gradients(net, text_inputs("ForSequenceClassification"))
    # the softmax does not see a shift of all keys
    silent = [name for name, grad in gradients.items() if not name.endswith("key.bias") and not grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_gradient_checkpointing_gives_equal_gradients(spec, reentrant):
    net = _classifier(spec).train()
    fill_with_pattern(net)
    inputs = text_inputs("ForSequenceClassification")
    plain = _gradients(net, inputs)
    net.activation_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed = _gradients(net, inputs)
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


@pytest.mark.parametrize("spec", SPECS)
def test_attention_implementations_agree(spec):
    inputs = text_inputs("AddNormBertModel")
    net = AddNormBertModel(BERT.config("", SPECS[spec])).eval()
    fill_with_pattern(net)
    real = inputs["attention_mask"].bool()
    outputs = {}
    for attention in ("eager", "sdpa", "flex_attention"):
        net.set_attn_implementation(attention)
        with torch.no_grad():  # flex attention has no backward on CPU
            outputs[attention] = net(**inputs)[0][real]
    for attention in ("sdpa", "flex_attention"):
        torch.testing.assert_close(outputs[attention], outputs["eager"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_padding_changes_no_real_token(spec):
    inputs = text_inputs("AddNormBertModel")
    net = AddNormBertModel(BERT.config("", SPECS[spec])).eval()
    fill_with_pattern(net)
    other = dict(inputs)
    other["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 98 - inputs["input_ids"])
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(net(**inputs)[0][real], net(**other)[0][real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["post_ln", "all_slots", "rezero", "by_layer"])
def test_compiles_as_one_graph(spec):
    inputs = text_inputs("AddNormBertModel")
    net = AddNormBertModel(BERT.config("", SPECS[spec])).eval()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs)[0], net(**inputs)[0])


@pytest.mark.parametrize("spec", ["post_ln", "all_slots", "rezero"])
def test_exports(spec, tmp_path):
    inputs = {key: value for key, value in text_inputs("").items() if key in ("input_ids", "attention_mask")}
    net = _classifier(spec).eval()
    fill_with_pattern(net)
    program = torch.export.export(net, (), kwargs=inputs)
    torch.testing.assert_close(program.module()(**inputs).logits, net(**inputs).logits)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
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


def test_weight_decay_spares_norms_and_residual_scales():
    for spec in ("all_slots", "rezero", "layer_scale", "normformer", "zero_centered", "post_dyt_everywhere"):
        net = AddNormBertForMaskedLM(BERT.config("", SPECS[spec]))
        decayed = Trainer.get_decay_parameter_names(None, net)
        assert decayed
        for name in decayed:
            assert re.search(r"(query|key|value|dense|embeddings|decoder)\.weight$", name), name
        matrices = {name for name, value in net.state_dict().items() if value.dim() == 2}
        assert matrices == set(decayed)


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


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("spec", ["post_ln", "sub_ln", "all_slots"])
def test_lora_merged_equals_unmerged(spec):
    peft = pytest.importorskip("peft")
    net = _classifier(spec).eval()
    fill_with_pattern(net)
    adapted = peft.get_peft_model(
        net, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
    ).eval()
    inputs = text_inputs("")
    before = adapted(**inputs).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, before, rtol=1e-4, atol=1e-4)
    assert type(merged.bert.encoder.layer[0]).__name__ == "AddNormBertLayer"


@pytest.mark.parametrize("spec", ["post_ln", "pre_ln", "all_slots"])
def test_encoder_decoder_generates_with_cache(spec, tmp_path):
    encoder = AddNormBertModel(BERT.config("", SPECS[spec]))
    decoder = hf_decoder = transformers.AutoModelForCausalLM.from_config(
        BERT.config("LMHead", SPECS[spec], add_cross_attention=True)
    )
    fill_with_pattern(encoder), fill_with_pattern(hf_decoder)
    pair = transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    pair.config.decoder_start_token_id = pair.generation_config.decoder_start_token_id = 2
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = {key: value for key, value in text_inputs("").items() if key in ("input_ids", "attention_mask")}
    cached = pair.generate(**inputs, **options, use_cache=True)
    assert torch.equal(cached, pair.generate(**inputs, **options, use_cache=False))
    pair.save_pretrained(tmp_path)
    back = transformers.EncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(cached, back.generate(**inputs, **options))


def test_deepcopy_and_resized_embeddings():
    import copy

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
