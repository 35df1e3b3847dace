"""Conversions that calibrate: they come nearer than a load does, in every family; bad input gets a sentence."""

import json
import logging

import pytest
import torch
import transformers
from families import FAMILIES, slow_unless
from test_cli import run, run_json
from trained_like import outputs, tiny

from hf_addnorm import add_norm_sites, convert
from hf_addnorm.conversion.batches import read_calibration
from hf_addnorm.conversion.fitting import Ridge
from hf_addnorm.conversion.importance import Importance
from hf_addnorm.conversion.linears import LinearEdit
from hf_addnorm.conversion.stepping import States
from hf_addnorm.models.core.recasting import get_part


TEXT, BASE = "AutoModelForSequenceClassification", "AutoModel"
# GPT-NeoX's branches in parallel are refused
EVERY = [(family, "dyt_in_place") for family in FAMILIES if family not in ("albert", "albert_groups", "gpt_neox")]
TARGETS = {
    "dyt_in_place": {"norm": "dyt"},
    "affine": {"norm": "affine"},
    "batch_norm": {"norm": "batch_norm"},
    "rms_norm": {"norm": "rms_norm"},
    "scale_norm": {"norm": "scale_norm"},
    "derf": {"norm": "derf"},
    "pre_ln": "pre_ln",
    "pre_rms_norm": "pre_rms_norm",
    "sandwich_ln": "sandwich_ln",
    "post_ln": "post_ln",
}
CASES = [("bert", target) for target in TARGETS if target != "post_ln"]
CASES += [("vit", "affine"), ("gpt2", "rms_norm"), ("vit", "sandwich_ln"), ("wav2vec2", "pre_ln"), *EVERY]
# one of each kind of input and layout, and of each kind of target; the rest are slow
QUICK = {(family, "dyt_in_place") for family in ("bert", "modernbert", "vit", "wav2vec2", "gpt2", "distilbert")}
QUICK |= {("bert", "batch_norm"), ("bert", "rms_norm"), ("bert", "pre_ln"), ("bert", "sandwich_ln")}
# where drawn weights, which no training has made work together, leave more of an error
FAR = ("sandwich_ln", "scale_norm")


def _batches(inputs, count=4):
    """More rows than the few of a test: the same with other numbers."""
    draw, made = torch.Generator().manual_seed(2), []
    for _ in range(count):
        batch = {}
        for key, value in inputs.items():
            if value.is_floating_point():
                batch[key] = torch.randn(value.shape, generator=draw, dtype=value.dtype)
            elif key == "input_ids":
                batch[key] = torch.randint(5, 90, value.shape, generator=draw)
            else:
                batch[key] = value
        made.append(batch)
    return made


@pytest.mark.parametrize(("family", "target"), [slow_unless(case in QUICK, *case) for case in dict.fromkeys(CASES)])
def test_it_comes_nearer_than_a_load(family, target):
    source, batches = tiny(family, BASE)
    if getattr(source.config, "adapter_attn_dim", None) is not None:
        source, batches = tiny(family, BASE, adapter_attn_dim=None)
    if source.layout_of(source.config).other_norms and family == "deberta_v2_conv":
        pytest.skip("a convolution between the layers is refused")
    before = {key: value.clone() for key, value in source.state_dict().items()}
    model, report = convert(source, add_norm=TARGETS[target], calibration=_batches(batches[0], 6), method="calibrated")
    bound = 1.0 if target in FAR else 0.7
    assert report.held_out.relative_error < bound * report.as_loaded.relative_error, str(report)
    assert all(site.after <= 1.0001 * site.before + 1e-9 for site in report.sites), str(report)
    assert outputs(model, batches[0]).isfinite().all()
    for key, value in source.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_sites_are_fitted_on_the_converted_stream():
    source, batches = tiny("bert", TEXT)
    steps = []
    _, report = convert(
        source,
        add_norm={"norm": "dyt"},
        calibration=_batches(batches[0]),
        progress=lambda title, done, total: steps.append((title, done, total)),
        threshold=1.01,
    )
    assert [site.title for site in report.sites] == [
        "embed",
        "layer 0 attention post",
        "layer 0 feed_forward post",
        "layer 1 attention post",
        "layer 1 feed_forward post",
    ]
    assert [step[1:] for step in steps] == [(index, 5) for index in range(5)]
    _, norms_alone = convert(source, add_norm={"norm": "dyt"}, calibration=_batches(batches[0]), method="norms")
    assert report.sites[-1].after < norms_alone.sites[-1].after


def test_a_ridge_from_sums_is_the_solution():
    draw = torch.Generator().manual_seed(0)
    c, y = (torch.randn(50, size, generator=draw, dtype=torch.float64) for size in (6, 3))
    weight = torch.rand(50, 1, generator=draw, dtype=torch.float64) + 0.1
    linear = torch.nn.Linear(6, 3).double()
    ridge = Ridge(6, 3)
    with torch.no_grad():
        for part in range(0, 50, 20):
            rows = slice(part, part + 20)
            ridge.add(c[rows], y[rows] - linear(c[rows]), weight[rows])
        LinearEdit("", linear).add(*ridge.solve(0.0))
        root, ones = weight.sqrt(), torch.ones(50, 1, dtype=torch.float64)
        expected = torch.linalg.lstsq(root * torch.cat([c, ones], 1), root * y).solution
        torch.testing.assert_close(linear.weight, expected[:-1].T, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(linear.bias, expected[-1], rtol=1e-6, atol=1e-6)


def test_a_ridge_keeps_what_it_knows_of_the_inputs():
    draw = torch.Generator().manual_seed(0)
    c, first, second = (torch.randn(40, size, generator=draw, dtype=torch.float64) for size in (5, 3, 3))
    weight = torch.rand(40, 1, generator=draw, dtype=torch.float64) + 0.1
    kept, fresh = Ridge(5, 3), Ridge(5, 3)
    kept.add(c, first, weight)
    kept.forget_rest()
    kept.add(c, second, weight)
    fresh.add(c, second, weight)
    for one, other in zip(kept.solve(0.1), fresh.solve(0.1), strict=True):
        assert torch.equal(one, other)


def test_tokens_count_by_what_the_outputs_make_of_them(tmp_path):
    """A head that reads the first token: behind the last attention no other one counts beyond the common half."""
    source, batches = tiny("bert", TEXT)
    batch = _batches(batches[0], 1)[0] | {"attention_mask": torch.ones_like(batches[0]["input_ids"])}
    norms = [get_part(source, site.norm) for site in add_norm_sites(source)]
    importance = Importance(States(tmp_path, "weights"), norms)
    importance.add(0, source, batch, None)
    rows, length = batch["input_ids"].shape
    for site in range(len(norms)):
        weights = importance.of(site, 0).view(rows, length)
        assert weights.mean().item() == pytest.approx(1.0)
        others_count = bool((weights[:, 1:] > Importance.ALIKE).any())
        assert others_count == (site < len(norms) - 2), site
    assert all(parameter.grad is None for parameter in source.parameters())


def test_norms_are_carried_to_where_they_see_the_same():
    """From post-norm to pre-norm: the norm behind one sum is that in front of the next sublayer."""
    source, batches = tiny("bert", TEXT)
    model, report = convert(source, add_norm="pre_ln", calibration=_batches(batches[0]), method="mapped", threshold=0)
    assert (report.method, report.sites) == ("mapped", [])
    old, new = (
        [get_part(one, site.norm).weight for site in add_norm_sites(one) if site.place != "embed"]
        for one in (source, model)
    )
    # the first norm of the target sees the embeddings, which have a norm of their own
    for was, now in zip(old, new[1:], strict=True):
        assert torch.equal(was, now)


def test_the_report_says_what_was_done(tmp_path, caplog):
    source, batches = tiny("bert", TEXT)
    caplog.set_level(logging.WARNING)
    transformers.utils.logging.enable_propagation()
    _, report = convert(source, add_norm="pre_ln", calibration=_batches(batches[0]), threshold=1.01)
    transformers.utils.logging.disable_propagation()
    (said,) = [record.getMessage() for record in caplog.records if "agrees with its source" in record.getMessage()]
    assert "below 101.0%; the worst site is " in said and report.worst_site.title in said
    assert all(len(line) <= 80 for line in str(report).splitlines())
    assert {"reused", "changed", "new"} == report.parameters.keys()
    total = sum(report.parameters.values())
    model, _ = convert(source, add_norm="pre_ln", calibration=_batches(batches[0]))
    assert total == sum(parameter.numel() for parameter in model.parameters())
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["target"] == "pre_ln"
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert "| method | calibrated |" in report.card_section()


# --- what is refused ---


def _texts(count=16):
    return ["some words of text"] * count


class Tokenizer:
    """As much of one as a calibration needs."""

    pad_token = None

    def __call__(self, text, truncation, max_length):
        return {"input_ids": [7, *range(8, 8 + len(text.split()))][:max_length]}


@pytest.mark.parametrize(
    ("data", "tokenizer", "said"),
    [
        ([], None, "calibration is empty; allowed are at least 8 rows"),
        (_texts(3), Tokenizer(), "calibration has 3 rows; allowed are at least 8, of which some are held out"),
        ([*_texts(9), " "], Tokenizer(), "text 10 of calibration is empty; allowed are texts with words"),
        (_texts(), None, "calibration holds texts, and there is no tokenizer to read them: pass tokenizer="),
        ("texts.txt", None, "calibration is str; allowed are texts, a datasets.Dataset or batches, which are dicts"),
        (None, None, "calibration is NoneType; allowed are texts"),
        ([3, 4], None, "calibration holds int; allowed are texts, or batches"),
        ([{"labels": torch.ones(9)}], None, "a batch of calibration holds no tensor; allowed are the inputs"),
    ],
)
def test_calibration_that_cannot_be_used_is_refused(data, tokenizer, said):
    source, _ = tiny("bert", TEXT)
    with pytest.raises(ValueError, match=said):
        convert(source, add_norm="pre_ln", calibration=data, tokenizer=tokenizer)


def test_a_part_of_the_rows_is_held_out():
    data = read_calibration([f"{'word ' * (1 + index % 5)}" for index in range(64)], Tokenizer(), batch_size=4)
    fitted, held_out = data.rows
    assert fitted + held_out == 64 and 12 <= held_out <= 20
    lengths = {batch["input_ids"].shape[1] for batch in data.held_out}
    assert len(lengths) > 2
    with pytest.raises(ValueError, match="holdout is 1; allowed is a number above 0 and below 1"):
        read_calibration(_texts(), Tokenizer(), holdout=1)


@pytest.mark.parametrize(
    ("family", "head", "after", "said"),
    [
        (
            "bert",
            TEXT,
            "hyper_connections",
            "the target's add_norm.stream is 'hyper_connections'; allowed is 'single'",
        ),
        ("bert", TEXT, "parallel", "the target's add_norm.wiring is 'parallel'; allowed is 'sequential'"),
        ("bert", TEXT, "sub_ln", "add_norm.attention.mid would change from 'nothing' to 'layer_norm': a norm inside"),
        (
            "bert",
            TEXT,
            {"weights": "weight_standardization"},
            "add_norm.weights would change from 'none' to 'weight_st",
        ),
        ("bert", TEXT, {"head": "dyt"}, "add_norm.head would change from 'stock' to 'dyt'"),
        ("bert", TEXT, "nonsense", "unknown preset 'nonsense'"),
        ("bert", TEXT, "gtrxl", "GRUGate is no sum with factors, and nothing is fitted for it; allowed are add"),
        ("bert", TEXT, {"attention": ["pre", "post"]}, "a norm after the sum is followed by one before the next"),
        (
            "gpt2",
            "AutoModelForCausalLM",
            {"preset": "pre_ln", "norm": "batch_norm"},
            "would let a token see the later",
        ),
        ("bart", "AutoModelForSequenceClassification", "pre_ln", "is of a family with an encoder and a decoder"),
        ("albert", TEXT, "pre_ln", "the layers are shared by several depths, so that no weight can be fitted to one"),
    ],
)
def test_a_scheme_that_is_not_reached_is_refused(family, head, after, said):
    source, batches = tiny(family, head, layers=3)
    with pytest.raises(ValueError, match=said):
        convert(source, add_norm=after, calibration=_batches(batches[0]))


def test_too_few_tokens_are_refused():
    source, batches = tiny("bert", TEXT)
    few = [{"input_ids": batches[0]["input_ids"][:1, :2]}] * 8
    with pytest.raises(ValueError, match="calibration has 12 tokens to fit on, fewer than the 32 features"):
        convert(source, add_norm="pre_ln", calibration=few)


@pytest.mark.parametrize("place", ["embeddings.LayerNorm.weight", "encoder.layer.1.output.dense.bias"])
def test_numbers_that_are_not_finite_are_refused_with_their_place(place):
    source, batches = tiny("bert", BASE)
    source.get_parameter(place).data[0] = float("nan")
    said = "embed" if "embed" in place else "layer 1 feed_forward"
    with pytest.raises(ValueError, match=f"^{said}: the source gives numbers that are not finite on the calibration"):
        convert(source, add_norm="pre_ln", calibration=_batches(batches[0]))


def test_models_that_cannot_be_rewritten_are_refused():
    source, batches = tiny("bert", TEXT)
    data = _batches(batches[0])

    def refused(model, said):
        with pytest.raises(ValueError, match=said):
            convert(model, add_norm="pre_ln", calibration=data)

    refused(3, "model_or_folder is a int; allowed is a model, a folder or a name on the Hub")
    refused(torch.nn.Linear(2, 2), "Linear has no AddNorm model; allowed are the models of the families in")
    refused(FAMILIES["bert"].model_class("AddNormBertModel")(
        FAMILIES["bert"].config("AddNormBertModel", "mhc")), "the source's add_norm.stream is 'manifold")  # fmt: skip
    adapted, _ = tiny("bert", TEXT)
    adapted.bert.pooler.dense.base_layer = torch.nn.Linear(2, 2)
    refused(adapted, "the model has an adapter of PEFT beside its weights; allowed is one without: merge_and_unload")
    other, _ = tiny("bert", TEXT)
    other.is_quantized = True
    refused(other, "the model is quantised, and such weights cannot be rewritten; allowed is floating point")
    with pytest.raises(
        ValueError, match="method is 'fast'; allowed is 'auto', 'exact', 'calibrated', 'norms' or 'mapped'"
    ):
        convert(source, add_norm="pre_ln", calibration=data, method="fast")


# --- the command ---


def test_the_command_writes_a_model_a_report_and_a_card(tmp_path):
    source, _ = tiny("bert", TEXT)
    folder, out, texts = tmp_path / "source", tmp_path / "out", tmp_path / "texts.txt"
    source.float().save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    texts.write_text("\n".join(" ".join("abcdefghij"[index % 7 : 3 + index % 7]) for index in range(40)) + "\n")
    given = ("convert", folder, "--add-norm", '{"norm": "dyt"}', "--calibration", texts, "--threshold", "0")
    said = run(*given, "--out", out)
    assert "method" in said and f"wrote {out}" in said and "recipes/convert.py takes it further" in said
    assert json.loads((out / "conversion.json").read_text())["method"] == "calibrated"
    assert "## Conversion" in (out / "README.md").read_text()
    model = type(source).from_pretrained(out)
    assert model.config.add_norm.norm.kind == "dyt"
    assert run_json(*given, "--out", out, code=2)["error"] == f"{out} is not empty: --out is to be a new folder."
    data = run_json(*given[:-2], "--out", tmp_path / "more", "--threshold", "1.01", code=1)
    assert data["held_out"]["agreement"] <= 1
