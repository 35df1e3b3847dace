"""Model cards: they are valid, say what is so, and leave no token behind."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from families import BASE_MODELS, FAMILIES, PRESET_NAMES, SPECS
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormBertForSequenceClassification, AddNormStackConfig, AddNormStackModel
from hf_addnorm.hub import create_card, replace_placeholder, write_card
from hf_addnorm.hub.card import is_placeholder
from hf_addnorm.hub.citation import citations
from hf_addnorm.hub.description import described
from hf_addnorm.hub.redaction import redact
from hf_addnorm.models.spec.spec import AddNormSpec


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "model_cards"))
import generate  # noqa: E402 - beside the cards, not installed


FAKE = "hf_" + "Fa1seT0ken" * 3
RESULT = ROOT / "recipes" / "results" / "sst2_10k_rms_norm_seed0.json"
STOCK = ROOT / "recipes" / "results" / "sst2_10k_post_ln_seed0.json"


def _saved(folder, add_norm="pre_rms_norm"):
    config = FAMILIES["bert"].config("AddNormBertForSequenceClassification", add_norm)
    AddNormBertForSequenceClassification(config).save_pretrained(folder)
    return folder


def _section(card, heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", card.text, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULT.read_text()), json.loads(STOCK.read_text())


def test_the_cards_are_those_of_the_results():
    assert generate.stale() == [], "run: python model_cards/generate.py"


@pytest.mark.parametrize("name", sorted(generate.runs()))
def test_a_committed_card_is_valid(name):
    card, result = ModelCard.load(generate.CARDS / f"{name}.md"), generate.runs()[name]
    data = card.data.to_dict()
    assert data["library_name"] == "transformers"
    # a model from scratch has neither a base nor, so, a license to hand on
    from_scratch = result["config"]["checkpoint"] is None
    assert from_scratch or (data["license"] and data["base_model"])
    index_name, found = model_index_to_eval_results(data["model-index"])
    assert eval_results_to_model_index(index_name, found) == data["model-index"]
    assert {each.metric_type: each.metric_value for each in found} == {
        key: round(value, 6) for key, value in result["metrics"].items() if key not in ("step", "epoch")
    }
    for heading in ("The add & norm", "How to load it", "How it was trained", "Results", "Limits", "Citation"):
        assert _section(card, heading).strip(), heading
    assert ModelCard(card.content).content == card.content
    # no template left, no place on the machine that made it
    assert not re.search(r"\{\{ |\{%|\bNone\b|[ `]/(?:home|work|tmp|root)/", card.text)


def test_a_card_has_the_stock_row_beside_it_and_the_cost(results):
    run, stock = results
    card = create_card(results=run, stock_results=stock, name="net")
    rows = [line for line in _section(card, "Results").splitlines() if line.startswith(("| this", "| stock"))]
    assert [f"{run['metrics']['accuracy']:.4f}" in rows[0], f"{stock['metrics']['accuracy']:.4f}" in rows[1]] == [
        True
    ] * 2
    limits = _section(card, "Limits")
    assert f"accuracy {run['metrics']['accuracy'] - stock['metrics']['accuracy']:+.4f}" in limits
    assert f"{run['parameters'] - stock['parameters']:+,} parameters" in limits
    trained = _section(card, "How it was trained")
    for said in ("`learning_rate` | 0.0001", "10,000", run["machine"]["cpu"], run["versions"]["torch"], "134 s"):
        assert said in trained, said


def test_a_stock_row_of_other_data_or_scheme_is_refused(results):
    run, stock = results
    for change, sentence in (
        ({"data": {"train": {"rows": 5}}}, "the stock result is of other rows"),
        ({"model": "BertForTokenClassification"}, "the stock result is of other task"),
        ({"add_norm": run["add_norm"]}, "and not of the stock scheme"),
        ({"config": stock["config"] | {"dataset": "other/data"}}, "the stock result is of other data"),
    ):
        with pytest.raises(ValueError, match=sentence):
            create_card(results=run, stock_results=stock | change)


def test_bad_results_are_refused_in_a_sentence(tmp_path, results):
    (tmp_path / "cut.json").write_text('{"config": ')
    for given, sentence in (
        ({"config": {}}, "the result is not the result of a recipe that trains a model: it has no 'metrics'."),
        (tmp_path / "cut.json", f"{tmp_path}/cut.json is not a result: it is no JSON"),
        (results[0] | {"model": "OtherModel"}, "the result is of a OtherModel, which is of no AddNorm family"),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            create_card(results=given)
    with pytest.raises(ValueError, match="a card needs a model or the results of a run"):
        create_card()
    with pytest.raises(ValueError, match="there is nothing to set them beside"):
        create_card(AddNormBertConfig(), stock_results=results[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_card_whose_python_runs(family, tmp_path):
    row = FAMILIES[family]
    folder = tmp_path / "net"
    row.model_class(BASE_MODELS[family])(row.config("", "pre_ln")).save_pretrained(folder)
    card = create_card(folder)
    weights = sum(
        parameter.numel() for parameter in row.model_class(BASE_MODELS[family])(row.config("", "pre_ln")).parameters()
    )
    assert f"{BASE_MODELS[family]}` with {weights:,} parameters" in card.text
    blocks = re.findall(r"^```python\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    # there is nothing that prepares inputs in this folder
    lines = [
        line
        for line in blocks[0].splitlines()
        if not line.startswith(("tokenizer", "image_pro", "feature_ex", "processor"))
    ]
    names = {}
    exec(compile("\n".join(lines).replace('"net"', repr(str(folder))), "card", "exec"), names)
    assert type(names["model"]).__name__ == BASE_MODELS[family]


@pytest.mark.parametrize("spec", SPECS)
def test_every_scheme_is_described_as_it_is(spec):
    config = FAMILIES["bert"].config("", SPECS[spec])
    (part,) = described(config)
    # what the card says to write is this scheme
    again = AddNormSpec.parse(ast.literal_eval(part.add_norm), config.stock_add_norm())
    assert again == part.spec
    assert (part.flow and part.formula and part.bibtex) or spec == "beam"
    card = create_card(config)
    said = _section(card, "The add & norm")
    assert f"- `{config.add_norm.weights.kind}`: " in said or config.add_norm.weights.kind == "none"
    # every filled slot of every layer is in the table
    for index in range(config.num_hidden_layers):
        for name in config.add_norm_sublayers():
            for slot, norm in config.add_norm.layer(index, config.num_hidden_layers).slot_norms(name).items():
                assert f"({slot})" in said and norm.kind in said


def test_a_drawing_is_that_of_the_spec_where_it_is_not_the_presets():
    config = AddNormBertConfig(add_norm={"preset": "pre_ln", "feed_forward": ["post"], "final": False})
    (part,) = described(config)
    assert part.formula.splitlines() == [
        "every layer, attention: x <- x + F(layer_norm(x))",
        "every layer, feed-forward: x <- layer_norm(x + F(x))",
    ]
    lines = part.flow.splitlines()
    assert lines[0].startswith("x -+-> layer_norm -> F -> drop -> + -> x ")
    assert lines[2].startswith("x -+-> F -> drop -> + -> layer_norm -> x ")
    # the skip meets the sum
    assert lines[0].index("+ ->") == lines[1].index("^") and lines[2].index("+ ->") == lines[3].index("^")
    assert part.places() == [
        ("after the embeddings", "layer_norm"),
        ("every layer, attention", "layer_norm before the sublayer (pre)"),
        ("every layer, feed-forward", "layer_norm after the sum (post)"),
        ("after the last layer", "none"),
    ]


def test_a_stack_has_a_part_for_every_encoder():
    tiny = {"model_type": "bert", **FAMILIES["bert"].tiny}
    model = AddNormStackModel(AddNormStackConfig(encoders=[tiny, {**tiny, "add_norm": "deepnorm"}]))
    text = create_card(model, name="two").text
    assert text.index("### Encoder 1") < text.index("### Encoder 2") < text.index("(2L)^(1/4)")
    assert "2203.00555" in text


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_every_preset_is_cited(preset):
    source = hf_addnorm.presets()[preset].source
    found = citations(source)
    assert len(found) == (0 if preset in ("beam", "muse_spark") else source.count(";") + 1)
    assert {paper.arxiv for paper in found} - {""} == set(re.findall(r"arXiv (\S+?)(?:;|$)", source))
    for paper in found:
        entry = paper.bibtex()
        assert re.match(r"@misc\{[a-z]+(19|20)\d\d[-.\w]*,\n  author = \{\S.*\},\n", entry), entry
        assert entry.count("{") == entry.count("}")
        assert not re.search(r"\d|et al", paper.authors.removesuffix(" et al.")), paper.authors


def test_the_parts_of_a_source_are_told_apart():
    (paper,) = citations("NormFormer, Shleifer, Weston & Ott, 2021, arXiv 2110.09456")
    assert (paper.name, paper.authors, paper.year) == ("NormFormer", "Shleifer, Weston & Ott", "2021")
    assert "author = {Shleifer and Weston and Ott}" in paper.bibtex()
    (paper,) = citations("Li, Yin & Liu, 2024, arXiv 2412.13795")
    assert (paper.name, paper.authors, paper.key) == ("", "Li, Yin & Liu", "li2024-2412.13795")
    (paper,) = citations("T-Fixup, Huang, Perez, Ba & Volkovs, ICML 2020")
    assert (paper.name, paper.venue, paper.arxiv) == ("T-Fixup", "ICML", "")


@pytest.mark.parametrize(
    "text",
    [
        f"a {FAKE} b",
        f"https://ann:{FAKE}@hub.example/ann/net.git",
        "https://ann:not-like-one@hub.example/ann/net.git",
        "the-users-own-secret",
    ],
)
def test_tokens_and_logins_are_taken_out(text, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "the-users-own-secret")
    assert not re.search("Fa1se|not-like-one|secret", redact(text))
    assert redact("hf_addnorm at https://hub.example/a/b, arXiv 2110.09456") == (
        "hf_addnorm at https://hub.example/a/b, arXiv 2110.09456"
    )


def test_no_token_gets_into_a_card(tmp_path, monkeypatch, results):
    monkeypatch.setenv("HF_TOKEN", FAKE)
    run = json.loads(json.dumps(results[0]))
    run["config"] |= {
        "hub_token": FAKE,
        "dataset": f"https://ann:{FAKE}@hub.example/data",
        "note": f"made with {FAKE}",
        "cache": "/home/ann/secret-place/cache",
    }
    path = write_card(_saved(tmp_path / "net"), run, name=f"net {FAKE}")
    text = path.read_text()
    assert "Fa1se" not in text and "hub_token" not in text and "secret-place" not in text
    assert "made with [removed]" in text
    ModelCard.load(path)


def test_only_a_card_that_nobody_wrote_is_replaced(tmp_path):
    folder = _saved(tmp_path / "net", "deepnorm")
    description = (
        "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
        "automatically generated."
    )
    placeholder = ModelCard.from_template(
        transformers.utils.hub.ModelCardData(tags=["mine"], library_name="transformers"), model_description=description
    )
    assert is_placeholder(placeholder)
    placeholder.save(folder / "README.md")
    replace_placeholder(folder, "ann/net")
    card = ModelCard.load(folder / "README.md")
    assert "deepnorm" in card.text and 'from_pretrained("ann/net", trust_remote_code=True)' in card.text
    assert set(card.data.tags) == {"hf_addnorm", "deepnorm", "layer_norm", "mine"}
    assert not is_placeholder(card)
    # one line that somebody wrote
    own = ModelCard(placeholder.content.replace("### Direct Use", "### Direct Use\n\nFor cats."))
    own.save(folder / "README.md")
    replace_placeholder(folder, "ann/net")
    assert (folder / "README.md").read_text() == own.content


def test_pickled_weights_are_read_only_if_asked_for(tmp_path):
    stock = transformers.BertModel(FAMILIES["bert"].stock_config("BertModel"))
    stock.config.save_pretrained(tmp_path)
    torch.save(stock.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"has no weights in safetensors .* ask for it: use_safetensors=False\.$"):
        hf_addnorm.AddNormBertModel.from_pretrained(tmp_path)
    net = hf_addnorm.AddNormBertModel.from_pretrained(tmp_path, use_safetensors=False)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in stock.state_dict().items())
    # what is missing for another reason keeps its own sentence
    with pytest.raises(OSError, match=r"not a valid model identifier|couldn't"):
        hf_addnorm.AddNormBertModel.from_pretrained("nobody/no-such-model")
