"""The two ends of a text model: tables and output layers with transformed weights, a norm of the logits."""

import pytest
import torch
from families import FAMILIES, fill_with_pattern

from hf_addnorm import AddNormBertForMaskedLM, AddNormGPT2LMHeadModel, AddNormStackConfig, AddNormStackForMaskedLM
from hf_addnorm.models.core.embeddings_and_output import OutputLayer


def net_of(model, add_norm, **kwargs):
    row = next(row for row in FAMILIES.values() if model in row.models)
    torch.manual_seed(0)
    return row.model_class(model)(row.config(model, add_norm, **kwargs)).eval(), row.inputs(model)


def stack_of(*schemes, **kwargs):
    row = FAMILIES["bert"]
    encoders = [{"model_type": "addnorm_bert", **row.tiny, "add_norm": scheme} for scheme in schemes]
    torch.manual_seed(0)
    return AddNormStackForMaskedLM(AddNormStackConfig(encoders=encoders, **kwargs)).eval()


@pytest.mark.parametrize("model", ["AddNormBertForMaskedLM", "AddNormGPT2LMHeadModel", "AddNormModernBertForMaskedLM"])
@pytest.mark.parametrize("roles", [["embed"], ["output"], ["embed", "output"]], ids="-".join)
def test_tables_and_output_layer_by_role(model, roles):
    """A plain, untied model with weights that hold the unit vectors is the same model."""
    spec = {"weights": {"kind": "unit_vectors", "roles": roles}}
    net, inputs = net_of(model, spec, tie_word_embeddings=False)
    plain, _ = net_of(model, {}, tie_word_embeddings=False)
    plain.load_state_dict(net.state_dict(), strict=False)
    before = plain(**inputs).logits
    with torch.no_grad():
        tables = plain.base_model._embedding_tables() if "embed" in roles else []
        output = [plain.get_output_embeddings()] if "output" in roles else []
        for module in (*tables, *output):
            module.weight.copy_(torch.nn.functional.normalize(module.weight, dim=-1))
    torch.testing.assert_close(net(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-5)
    # a norm takes the length of a single table's rows away
    seen = roles != ["embed"] or "ModernBert" not in model
    assert torch.allclose(before, net(**inputs).logits, atol=1e-3) != seen


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_class", [AddNormBertForMaskedLM, AddNormGPT2LMHeadModel])
def test_another_number_of_tokens(model_class, tied, tmp_path):
    net, inputs = net_of(model_class.__name__, "ngpt", tie_word_embeddings=tied)
    fill_with_pattern(net)
    before = net(**inputs).logits
    for tokens in (110, 99):
        net.resize_token_embeddings(tokens, mean_resizing=False)
        output = net.get_output_embeddings()
        assert isinstance(output, OutputLayer)
        assert output.logits_norm.weight.shape == (tokens,)
        torch.testing.assert_close(net(**inputs).logits[..., :99], before)
        torch.testing.assert_close(output.logits_norm.weight[99:], torch.full((tokens - 99,), 32**-0.5))
        assert output.logits_norm.weight.requires_grad
        # an untied BERT that was resized loses its bias when it is saved, as in the stock model
        if tied:
            net.save_pretrained(tmp_path / str(tokens))
            back = model_class.from_pretrained(tmp_path / str(tokens))
            torch.testing.assert_close(back(**inputs).logits, net(**inputs).logits)


@pytest.mark.parametrize("arrangement", ["sequence", "parallel"])
@pytest.mark.parametrize("spec", ["ngpt", {"weights": "fix_norm"}, {"logits": "dyt"}], ids=["ngpt", "fix_norm", "dyt"])
def test_a_stack_has_the_output_layer_of_the_encoder_that_it_is_tied_to(spec, arrangement, tmp_path):
    net = stack_of(spec, "pre_ln", arrangement=arrangement)
    ids = torch.arange(6)[None]
    output = net.get_output_embeddings()
    assert isinstance(output, OutputLayer)
    assert output.weight is net.get_input_embeddings().weight
    fill_with_pattern(net)
    hidden = net.head_norm(net.act(net.dense(net.stack(ids).last_hidden_state)))
    weight = output.weight if spec == {"logits": "dyt"} else torch.nn.functional.normalize(output.weight, dim=-1)
    expected = hidden @ weight.T + output.bias
    if spec == "ngpt":
        expected = expected * output.logits_norm.weight * output.weight.shape[1] ** 0.5
    elif spec == {"logits": "dyt"}:
        norm = output.logits_norm
        expected = norm.weight * torch.tanh(norm.alpha * expected) + norm.bias
    torch.testing.assert_close(net(ids).logits, expected)
    net.save_pretrained(tmp_path)
    back, info = AddNormStackForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(back(ids).logits, net(ids).logits)
    net.resize_token_embeddings(110, mean_resizing=False)
    torch.testing.assert_close(net(ids).logits[..., :99], back(ids).logits)


def test_a_stack_of_other_encoders_has_a_plain_one():
    assert type(stack_of("pre_ln", "ngpt").get_output_embeddings()) is torch.nn.Linear


@pytest.mark.parametrize("of_stack", [False, True], ids=["model", "stack"])
def test_an_output_layer_that_was_replaced_is_named(of_stack):
    net = stack_of("ngpt", "pre_ln") if of_stack else net_of("AddNormBertForMaskedLM", "ngpt")[0]
    plain = torch.nn.Linear(32, 99)
    net.set_output_embeddings(plain)
    with pytest.raises(RuntimeError, match="the output layer has been replaced by a Linear, which has neither"):
        net(torch.arange(6)[None])
