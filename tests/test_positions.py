"""What is added to the embeddings for a token's position."""

import math

import pytest
import torch
from families import BASE_MODELS, FAMILIES, fill_with_pattern, stacks_of

from hf_addnorm.models.base.registries import POSITIONS


WITH_TABLE = [
    family
    for family, row in FAMILIES.items()
    if row.position_table and family not in ("albert_groups", "deberta_v2_conv")
]
WITHOUT = [family for family, row in FAMILIES.items() if not row.position_table]


def build(family, positions, **kwargs):
    row = FAMILIES[family]
    # relative attention would tell where a token is
    kwargs |= {"relative_attention": False, "pos_att_type": []} if family == "deberta_v2" else {}
    net = row.model_class(BASE_MODELS[family])(row.config(BASE_MODELS[family], {"positions": positions}, **kwargs))
    fill_with_pattern(net)
    return net.eval()


@pytest.mark.parametrize("width", [7, 8])
def test_sinusoids_are_the_formula(width):
    positions = torch.tensor([[0, 1, 5, 4999, 123456]])
    added = POSITIONS.build(POSITIONS.parse("sinusoidal", "x"), width).double()(positions)
    for place, position in enumerate(positions[0].tolist()):
        for feature in range(width):
            angle = position / 10000 ** ((feature - feature % 2) / width)
            expected = math.cos(angle) if feature % 2 else math.sin(angle)
            assert added[0, place, feature].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("family", WITH_TABLE)
def test_stock_and_learned_are_the_table(family):
    states = [build(family, positions).state_dict() for positions in ("stock", "learned")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("family", WITH_TABLE)
def test_what_is_added_is_all_that_differs(family):
    """A table that holds the sinusoids, or nothing, is the same model."""
    for positions in ("sinusoidal", "none"):
        net, table = build(family, positions), build(family, "learned")
        for home, config in stacks_of(table):
            path = home + table.layout_of(config).position_table
            assert not [name for name, _ in net.named_parameters() if name.startswith(path)]
            module = net.get_submodule(path)
            with torch.no_grad():
                # some are asked by a module around them
                rows = getattr(module, "positions", module)(torch.arange(64))
                # the last ones: some tables begin with rows that are no positions
                table.get_submodule(path).weight[-64:] = rows.expand(64, -1)
        net.load_state_dict(table.state_dict(), strict=False)
        inputs = FAMILIES[family].inputs(BASE_MODELS[family])
        torch.testing.assert_close(net(**inputs)[0], table(**inputs)[0], rtol=1e-5, atol=1e-5)
        if len(stacks_of(table)) > 1:
            # an encoder-decoder takes no numbers of positions
            continue
        given = torch.arange(10).flip(0).expand(3, 10)
        inputs = inputs | {"position_ids": given}
        torch.testing.assert_close(net(**inputs)[0], table(**inputs)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_without_positions_the_order_of_the_tokens_is_not_seen(family):
    ids = torch.arange(5, 15).expand(1, 10)
    order = torch.randperm(10)
    for positions, same in (("none", True), ("sinusoidal", False)):
        net = build(family, positions)
        assert torch.allclose(net(ids)[0][:, order], net(ids[:, order])[0], atol=1e-4) == same


@pytest.mark.parametrize("family", WITH_TABLE)
def test_longer_than_the_table_would_be(family, tmp_path):
    """64 rows in the tiny models, 5,000 positions by default; a model saved and loaded takes as many."""
    net = build(family, {"kind": "sinusoidal", "length": 300})
    ids = torch.randint(5, 99, (1, 200))
    expected = net(ids)[0]
    assert expected.isfinite().all()
    net.save_pretrained(tmp_path)
    back, info = type(net).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(back(ids)[0], expected)
    half = type(net).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(ids)[0].dtype == torch.bfloat16


def test_a_stock_checkpoint_says_that_its_table_is_not_used(tmp_path):
    row = FAMILIES["bert"]
    row.stock_class("AddNormBertModel")(row.stock_config("AddNormBertModel")).save_pretrained(tmp_path)
    model_class = row.model_class("AddNormBertModel")
    net, info = model_class.from_pretrained(tmp_path, add_norm={"positions": "none"}, output_loading_info=True)
    assert info["unexpected_keys"] == {"embeddings.position_embeddings.weight"}
    assert not info["missing_keys"]
    assert net(torch.arange(90)[None])[0].isfinite().all()


# where something is added that cannot be replaced
REASONS = {
    "marian": "the table of sines and cosines",
    "speecht5": "sines and cosines are added where text or sound is embedded",
    "whisper": "the encoder adds a fixed table of sines and cosines",
}


@pytest.mark.parametrize("family", WITHOUT)
def test_a_model_whose_positions_are_elsewhere_refuses_them(family):
    reason = REASONS.get(family, "nothing is added")
    with pytest.raises(ValueError, match=rf"add_norm.positions is 'sinusoidal': {reason}"):
        FAMILIES[family].config(BASE_MODELS[family], {"positions": "sinusoidal"})


def test_a_decoder_with_a_table_may_have_others_than_its_encoder():
    row, name = FAMILIES["whisper"], "AddNormWhisperForConditionalGeneration"
    for kind in ("none", "sinusoidal"):
        config = row.config(name, "pre_ln", add_norm_decoder={"preset": "pre_ln", "positions": kind})
        net, inputs = row.model_class(name)(config).eval(), row.inputs(name)
        assert not any("decoder.embed_positions" in path for path in net.state_dict())
        whole = net(**inputs).logits
        decoded = net.generate(inputs["input_features"], max_new_tokens=4, do_sample=False, eos_token_id=None)
        again = net.generate(
            inputs["input_features"], max_new_tokens=4, do_sample=False, eos_token_id=None, use_cache=False
        )
        assert torch.equal(decoded, again) and whole.isfinite().all()


def test_deberta_without_its_table_refuses_them():
    with pytest.raises(ValueError, match=r"add_norm.positions is 'none'"):
        FAMILIES["deberta_v2"].config("", {"positions": "none"}, position_biased_input=False)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ("sinusoid", "Did you mean sinusoidal"),
        ({"kind": "sinusoidal", "length": 0}, "length is 0; allowed is a whole number, at least 1"),
        ({"kind": "learned", "length": 9}, "unknown option 'length'"),
    ],
)
def test_bad_positions_are_refused_in_words(positions, words):
    with pytest.raises(ValueError, match=words):
        FAMILIES["bert"].config("", {"positions": positions})
