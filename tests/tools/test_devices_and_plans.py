"""`device_map`, dtypes, tensor-parallel plans, `evaluate`."""

import pytest
import torch
from families import FAMILIES, SPECS, slow_unless
from small_models import THREE_SPECS, batch, classifier, labelled, saved, tokenizer
from transformers import AutoModelForSequenceClassification


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_are_those_of_the_stock_family(family):
    row = FAMILIES[family]
    for plan in ("base_model_tp_plan", "base_model_pp_plan", "base_model_fsdp_plan"):
        assert getattr(row.config_class, plan, None) == getattr(row.stock_config_class, plan, None)
    # of our families, Transformers splits this one alone
    assert bool(getattr(row.config_class, "base_model_tp_plan", None)) == family.startswith("gpt_neox")


@pytest.mark.parametrize("spec", [slow_unless(spec in THREE_SPECS, spec) for spec in SPECS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(spec, dtype, tmp_path):
    net, inputs = classifier(spec), batch()
    net.save_pretrained(tmp_path)
    half = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype, device_map="cpu").eval()
    assert half.bert.encoder.layer[0].attention.self.query.weight.dtype == dtype
    with torch.no_grad():
        found, expected = half(**inputs).logits, net(**inputs).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_evaluate_has_its_metrics_of_a_saved_model(spec, tmp_path, monkeypatch):
    """A metric of one's own, as evaluate's own scripts are on the Hub; its evaluator takes a model and a tokenizer."""
    evaluate = pytest.importorskip("evaluate")
    import datasets

    class Agreement(evaluate.Metric):
        def _info(self):
            integer = datasets.Value("int32")
            return evaluate.MetricInfo(
                description="",
                citation="",
                features=datasets.Features({"predictions": integer, "references": integer}),
            )

        def _compute(self, predictions, references):
            return {"agreement": sum(map(int.__eq__, map(int, predictions), map(int, references))) / len(references)}

    folder = saved(classifier(spec), tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    rows = labelled(8)
    texts = tokenizer().batch_decode([row["input_ids"] for row in rows], skip_special_tokens=True)
    data = datasets.Dataset.from_dict({"text": texts, "label": [row["labels"] for row in rows]})
    evaluator = evaluate.evaluator("text-classification")
    metric = Agreement(cache_dir=str(tmp_path), experiment_id=spec)
    said = evaluator.compute(
        model, data, metric=metric, tokenizer=tokenizer(), label_mapping={"LABEL_0": 0, "LABEL_1": 1}
    )
    inputs = tokenizer()(texts, padding=True, return_tensors="pt")
    found = model(**inputs).logits.argmax(-1).tolist()
    assert said["agreement"] == sum(map(int.__eq__, found, data["label"])) / 8
