"""`calibrate`: Admin's profiling pass, on every family, against its recurrence."""

import pytest
import torch
from families import FAMILIES, text_inputs

from hf_addnorm import AddNormBertForSequenceClassification, AddNormBertLMHeadModel, AddNormBertModel
from hf_addnorm.models.residuals.residuals import AdminResidual


BERT = FAMILIES["bert"]


def build(family, **kwargs):
    """A base model with Admin's residuals and weights that matter, and its inputs."""
    row = FAMILIES[family]
    name = row.config_class.auto_classes["AutoModel"]
    model = row.model_class(name)(row.config(name, "admin", apply_spec_augment=False, **kwargs))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model, row.inputs(name)


def real_tokens(model, inputs):
    """[batch, seq] of the tokens that the layers see, or None."""
    mask = inputs.get("attention_mask")
    if mask is not None and "input_values" in inputs and inputs["input_values"].dim() == 2:
        frames = model(**inputs).last_hidden_state.shape[1]
        mask = model._get_feature_vector_attention_mask(frames, mask)
    return None if mask is None else mask.bool()


def residuals(model):
    return [module for module in model.modules() if isinstance(module, AdminResidual)]


def stacks(model):
    """What is calibrated by itself: the model, or each of its stacks of layers."""
    found = {part.stack_name: part for part in model.modules() if getattr(part, "stack_name", "")}
    return found or {"": model}


def seen_by(model, inputs):
    """For each residual, in the order in which they run, its weight and what it combined."""
    seen = []
    hooks = [
        residual.register_forward_hook(lambda module, args, _: seen.append((module.weight, *args)))
        for residual in residuals(model)
    ]
    with torch.no_grad():
        model.eval()(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


def assert_calibrated(model, inputs, real):
    seen = seen_by(model, inputs)
    assert len({id(weight) for weight, *_ in seen}) == len(seen) == len(residuals(model)) > 1
    for name, stack in stacks(model).items():
        omega, own = 1.0, {id(residual.weight) for residual in residuals(stack)}
        for weight, x, f in (one for one in seen if id(one[0]) in own):
            torch.testing.assert_close(weight, torch.full_like(weight, omega), rtol=1e-5, atol=0)
            tokens = inputs.get("decoder_attention_mask").bool() if name == "decoder" else real
            values = [(t if tokens is None else t[tokens]).double().flatten() for t in (weight * x, f)]
            omega = sum(((v - v.mean()) ** 2).mean() for v in values).sqrt().item()
        # the stream has grown: the test could not tell a start of ones apart otherwise
        assert omega > 1.1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_calibrated_on_its_real_tokens(family):
    model, inputs = build(family)
    real = real_tokens(model.eval(), inputs)
    if "attention_mask" in inputs:
        assert real is not None
        assert not real.all()
    model.calibrate(inputs)
    assert_calibrated(model, inputs, real)


def test_padding_would_change_it():
    model, inputs = build("bert")
    model.calibrate(inputs)
    with pytest.raises(AssertionError):
        assert_calibrated(model, inputs, None)


def test_nothing_else_changes():
    model, inputs = build("bert")
    model.train().encoder.layer[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    reads = {name: module.mixes_tokens for name, module in model.named_modules() if hasattr(module, "mixes_tokens")}
    model.calibrate(inputs)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    assert {name for name in before if not torch.equal(first[name], before[name])} == {
        f"encoder.layer.{i}.connections.{name}.residual_norm.weight"
        for i in range(4)
        for name in ("attention", "feed_forward")
        if (i, name) != (0, "attention")
    }
    assert {name: module.training for name, module in model.named_modules()} == modes
    again = {name: module.mixes_tokens for name, module in model.named_modules() if hasattr(module, "mixes_tokens")}
    assert again == reads
    # hooks are gone, and where it starts from does not matter
    model(**inputs)
    model.calibrate(inputs)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_chunks_are_calibrated_as_a_whole():
    whole, inputs = build("bert")
    chunked, _ = build("bert", chunk_size_feed_forward=1)
    for model in (whole, chunked):
        model.calibrate(inputs)
    for a, b in zip(residuals(whole), residuals(chunked), strict=True):
        torch.testing.assert_close(a.weight, b.weight)


def test_a_model_with_a_head_is_calibrated_with_its_labels_and_keeps_what_it_was_given(tmp_path):
    name = "AddNormBertForSequenceClassification"
    model, inputs = AddNormBertForSequenceClassification(BERT.config(name, "admin")), BERT.inputs(name)
    assert "labels" in inputs
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.calibrate(inputs)
    assert_calibrated(model, inputs, inputs["attention_mask"].bool())
    model.save_pretrained(tmp_path)
    loaded = AddNormBertForSequenceClassification.from_pretrained(tmp_path)
    for a, b in zip(residuals(model), residuals(loaded), strict=True):
        assert torch.equal(a.weight, b.weight)


def test_a_decoder_is_calibrated_sublayer_by_sublayer():
    name = "AddNormBertLMHeadModel"
    model = AddNormBertLMHeadModel(BERT.config(name, "admin", add_cross_attention=True))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    inputs = text_inputs(name) | {"encoder_hidden_states": torch.randn(3, 6, 32)}
    model.calibrate(inputs)
    assert len(residuals(model)) == 12
    assert_calibrated(model, inputs, inputs["attention_mask"].bool())


def test_what_cannot_be_calibrated_is_refused():
    inputs = text_inputs("")
    with pytest.raises(ValueError, match=r"add_norm.residual is \{'kind': 'add'\}.*nothing to calibrate.*admin"):
        AddNormBertModel(BERT.config("", "pre_ln")).calibrate(inputs)
    model, _ = build("bert")
    with pytest.raises(ValueError, match="real tokens cannot be read"):
        model.calibrate(inputs | {"attention_mask": torch.ones(3, 1, 10, 10)})
    # and the model is as it was
    assert model.training
    assert not model.mixes_tokens
