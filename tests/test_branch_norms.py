"""Norms inside a sublayer: what a stock forward sees while some of its parts are replaced."""

import pytest
import torch
from torch import nn

from hf_addnorm import AddNormGPTNeoXConfig, AddNormGPTNeoXModel
from hf_addnorm.models.base.fused_roles import join_roles, split_roles
from hf_addnorm.models.core.branch_norms import NO_BRANCH_NORMS, BranchNorms, ModuleView, WithBranchNorms
from hf_addnorm.models.core.loading import refuse_split_features


class Base(nn.Module):
    def enter(self, x):
        return self.up(x)


class Split(Base):
    """A feed-forward as some model might write it: its forward is spread over methods and a property."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    @property
    def last(self):
        return self.dropout

    def leave(self, x):
        return self.last(self.down(x))

    def forward(self, x):
        self.calls += 1
        return self.leave(torch.tanh(self.enter(x)))


class Chunked(Split):
    def forward(self, x):
        return x if len(x) == 0 else torch.cat([self.of_one(row) for row in x.split(1)])

    def of_one(self, row):
        return self.leave(torch.tanh(self.enter(row)))


class Setting(Split):
    def forward(self, x):
        self.dropout = nn.Identity()
        return x


def recast_class(stock):
    return type(
        f"AddNorm{stock.__name__}",
        (WithBranchNorms, stock),
        {"linear_roles": {"up": "w1", "down": "w2"}, "left_to_block": ("dropout",)},
    )


@pytest.mark.parametrize("stock", [Split, Chunked])
def test_parts_are_replaced_in_methods_and_properties_of_a_stock_class(stock):
    torch.manual_seed(0)
    module = recast_class(stock)()
    module.train()
    up, mid = nn.LayerNorm(6), nn.RMSNorm(6)
    x = torch.randn(5, 4)
    expected = module.down(mid(torch.tanh(up(module.up(x)))))
    # with its dropout left to the block nothing is random in it
    torch.testing.assert_close(module(x, branch_norms=BranchNorms({"up": up, "mid": mid})), expected)
    branch = module(x, branch_norms=NO_BRANCH_NORMS)
    torch.testing.assert_close(branch, module.down(torch.tanh(module.up(x))))


def test_a_stock_class_with_methods_compiles_as_one_graph():
    module = recast_class(Chunked)()
    norms = BranchNorms({"up": nn.LayerNorm(6)})
    x = torch.randn(3, 4)
    compiled = torch.compile(lambda x: module(x, branch_norms=norms), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x, branch_norms=norms))


def test_what_a_stock_forward_sets_is_set_on_the_module():
    module = recast_class(Split)()
    for calls in (1, 2):
        module(torch.randn(5, 4), branch_norms=NO_BRANCH_NORMS)
        assert module.calls == calls


def test_a_stock_forward_that_sets_a_replaced_part_is_refused():
    with pytest.raises(AttributeError, match="sets 'dropout', which its add & norm block has replaced"):
        recast_class(Setting)()(torch.randn(5, 4), branch_norms=NO_BRANCH_NORMS)


def test_a_view_shows_what_is_not_replaced_as_it_is():
    module = Split()
    view = ModuleView(module, {"up": nn.Identity()})
    assert view.down is module.down and view.training is module.training
    assert not hasattr(view, "sideways")
    assert dict(view.named_parameters()).keys() == dict(module.named_parameters()).keys()


@pytest.mark.parametrize(("blocks", "first"), [(1, [0, 1, 2, 3]), (2, [0, 1, 6, 7])])
def test_roles_of_a_fused_layer_are_split_and_joined(blocks, first):
    x = torch.arange(12.0).expand(5, 12)
    parts = split_roles(x, 3, blocks, dim=-1)
    assert parts[0][0].tolist() == first
    assert torch.equal(join_roles(parts, blocks, dim=-1), x)
    assert torch.equal(join_roles(split_roles(x.T, 3, blocks), blocks), x.T)


def test_norms_of_roles_that_alternate_by_head_stand_behind_their_roles():
    """GPT-NeoX has q, k, v of one head after the other."""
    slots = {"q": "rms_norm", "k": "layer_norm", "v": "l2_norm", "mid": "layer_norm"}
    config = AddNormGPTNeoXConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        vocab_size=11,
        attn_implementation="eager",
        add_norm={"attention": {"pre": True, **slots}, "qkv_width": "hidden"},
    )
    attention = AddNormGPTNeoXModel(config).eval().layers[0].attention
    norms = {"q": nn.RMSNorm(8), "k": nn.LayerNorm(8), "v": nn.LayerNorm(8), "mid": nn.LayerNorm(8)}
    for index, norm in enumerate(norms.values()):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(index))
    x, cos, sin = torch.randn(2, 5, 8), *torch.randn(2, 1, 5, 2)
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    q, k, v = (
        norms[name](torch.cat([x @ weight[at : at + 4].T + bias[at : at + 4] for at in (start, start + 12)], -1))
        for name, start in (("q", 0), ("k", 4), ("v", 8))
    )
    by_head = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v)]
    turned = [torch.cat([*stock_rotation(part[..., :2], cos, sin), part[..., 2:]], -1) for part in by_head[:2]]
    weights = torch.softmax(turned[0] @ turned[1].transpose(-1, -2) / 2, -1)
    expected = attention.dense(norms["mid"]((weights @ by_head[2]).transpose(1, 2).flatten(-2)))
    output, _ = attention(x, None, position_embeddings=(cos, sin), branch_norms=BranchNorms(norms))
    torch.testing.assert_close(output, expected)


def stock_rotation(x, cos, sin):
    """Two features of a head, turned by an angle."""
    first, second = x.unbind(-1)
    return [torch.stack([first * cos[..., 0] - second * sin[..., 0], second * cos[..., 1] + first * sin[..., 1]], -1)]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"preset": "hybrid_norm"}, "a norm in the slot 'q'"),
        ({"preset": "pre_ln", "weights": "zero_mean_output"}, "a weight transform"),
        ({"preset": "sandwich_ln"}, None),
    ],
)
def test_what_needs_all_features_is_refused_where_they_are_split(spec, what):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    net = AddNormGPTNeoXModel(AddNormGPTNeoXConfig(**sizes, vocab_size=9, add_norm=spec))
    refuse_split_features(net)
    # what Transformers sets where it has split a model
    net._tp_size = 2
    if what is None:
        refuse_split_features(net)
    else:
        with pytest.raises(
            ValueError, match=f"tensor parallelism gives .* this add & norm has {what}, which needs all"
        ):
            refuse_split_features(net)
