"""Tools that look inside a model: captum, torchinfo, NNsight, TransformerLens, and the points of every sublayer."""

import pytest
import torch
from families import FAMILIES
from small_models import THREE_SPECS, batch, classifier, net


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_captum_attributes_to_tokens(spec):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (extra `tools`)")
    model, inputs = classifier(spec), batch(2)

    def logit(ids, mask):
        return model(input_ids=ids, attention_mask=mask).logits[:, 0]

    baseline = torch.zeros_like(inputs["input_ids"])
    method = attr.LayerIntegratedGradients(logit, model.bert.embeddings.word_embeddings)
    found, error = method.attribute(
        inputs["input_ids"], baseline, additional_forward_args=(inputs["attention_mask"],), n_steps=60,
        return_convergence_delta=True,
    )  # fmt: skip
    mask = inputs["attention_mask"]
    difference = logit(inputs["input_ids"], mask) - logit(baseline, mask)
    # that the attributions sum up to the difference of the outputs is what the method promises
    torch.testing.assert_close(found.sum((1, 2)), difference.double().to(found.dtype), rtol=0.05, atol=5e-3)
    assert error.abs().max() < 5e-3


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_torchinfo_counts_what_the_model_has(spec):
    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is not installed (extra `tools`)")
    model = classifier(spec)
    exact = sum(value.numel() for value in model.parameters())
    assert torchinfo.summary(model, verbose=0).total_params == exact
    # it adds what a module holds and does not run itself to that module, and then to the norm that runs
    run = torchinfo.summary(model, input_data=batch(), verbose=0, depth=6)
    norms = sum(value.numel() for name, value in model.named_parameters() if ".connections." in name)
    assert exact <= run.total_params <= exact + norms
    assert "AddNormBertLayer" in str(run)


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_nnsight_reads_and_changes_a_layer(spec):
    nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed (extra `tools`)")
    model, inputs = net("bert", "AddNormBertModel", spec), batch(2)
    seen = []
    handle = model.encoder.layer[1].attention.self.register_forward_hook(lambda *given: seen.append(given[2][0]))
    with torch.no_grad():
        plain = model(**inputs).last_hidden_state
    handle.remove()
    traced = nnsight.NNsight(model)
    with torch.no_grad():
        with traced.trace(**inputs):
            read = traced.encoder.layer[1].attention.self.output[0].save()
        with traced.trace(**inputs):
            traced.encoder.layer[1].intermediate.dense.output[:] = 0
            changed = traced.output.last_hidden_state.save()
    assert torch.equal(read, seen[0])
    assert not torch.allclose(changed, plain)


def test_transformer_lens_knows_no_family_of_ours():
    """It rewrites a model in code of its own, for a list of architectures."""
    pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (extra `tools`)")
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    ours = {name for row in FAMILIES.values() for name in row.models}
    assert "BertForMaskedLM" in SUPPORTED_ARCHITECTURES
    assert not ours & set(SUPPORTED_ARCHITECTURES)
