"""Dynamic token normalisation on the grid of an image's patches; sequences are among test_tokens_of_families'."""

import pytest
import torch
from families import FAMILIES, checkpoint_activations, fill_with_pattern
from reference_checks import compare
from sequence_references import around
from token_specs import build

from hf_addnorm.models.base.token_mask import TokenMask, running_with
from hf_addnorm.models.norms import dynamic_token_norm
from hf_addnorm.models.norms.dynamic_token_norm import DynamicTokenNorm


VARIANTS = ["paper", "official"]


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5


def vit(name, **kwargs):
    row = FAMILIES["vit"]
    return row.model_class(name)(row.config(name, {"preset": "pre_ln", "norm": "dynamic_token_norm"}, **kwargs))


def on_grid(norm, x, grid):
    return running_with(TokenMask(None, grid=grid), norm, x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("grid", "before"), [((3, 4), 0), ((3, 4), 1), ((2, 2), 2), ((1, 5), 0)])
def test_on_a_grid_is_the_formula(grid, before, variant):
    """Rows and columns are not the same; tokens before the patches have their own statistics alone."""
    options = {"groups": 4, "variant": variant, "eps": 1e-3}
    norm, x = build("dynamic_token_norm", 12, **options), drawn(2, before + grid[0] * grid[1], 12)
    with torch.no_grad():
        norm.position_weights.copy_(0.4 * drawn(4, 3))
        norm.own_share.copy_(drawn(*norm.own_share.shape))
    compare(
        lambda z: on_grid(norm, z, grid),
        lambda z: torch.stack([around(one, norm, grid=grid, **options) for one in z]),
        x,
        parameters=norm.parameters(),
        tolerance=1e-11,
    )


def test_it_is_layer_norm_or_instance_norm_at_its_ends():
    norm, x = build("dynamic_token_norm", 12, groups=3), drawn(2, 7, 12)
    with torch.no_grad():
        norm.own_share.fill_(60.0)
    layer = torch.nn.functional.layer_norm(x, (12,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(x), layer, rtol=1e-12, atol=1e-12)
    instance = build("instance_norm", 12)
    with torch.no_grad():
        norm.own_share.fill_(-60.0)
        norm.position_weights.zero_()
    for grid in (None, (7, 1)):
        torch.testing.assert_close(on_grid(norm, x, grid), instance(x), rtol=1e-9, atol=1e-9)


def test_the_heads_start_at_the_tokens_of_a_neighbourhood():
    torch.manual_seed(0)
    norm = DynamicTokenNorm(14, groups=7).double()
    norm.reset_parameters()
    assert (norm.own_share == 0).all()
    assert norm.position_weights[:4].tolist() == [[-1, -1, -1], [-1, 1, -1], [-1, -1, 1], [-1, 1, 1]]
    assert 0 < norm.position_weights[4:].abs().max() < 0.1
    # of 9 heads, each looks at one of the 3 x 3 tokens around
    norm = DynamicTokenNorm(9, groups=9).double()
    norm.reset_parameters()
    with torch.no_grad():
        norm.own_share.fill_(-60.0)
        norm.position_weights.mul_(30)
    x = drawn(1, 25, 9)
    mean, _ = running_with(
        TokenMask(None, grid=(5, 5)), norm._around, x.unflatten(-1, (9, 1)).movedim(1, -2), real=None
    )
    seen = [(mean[0, head, 12] - x[0, :, head]).abs().argmin().item() for head in range(9)]
    assert sorted(seen) == [6, 7, 8, 11, 12, 13, 16, 17, 18]


def test_a_large_mean_leaves_the_variance_exact():
    norm = build("dynamic_token_norm", 12, groups=3).float()
    x = drawn(2, 7, 12)
    near, far = norm(x.float()), norm((x + 3000).float())
    assert far.isfinite().all()
    # what is left is the input's own rounding
    assert (near - far).abs().max() < 0.02


def test_tokens_that_are_no_image_are_named():
    norm = build("dynamic_token_norm", 12, groups=3)
    with pytest.raises(ValueError, match="was given 7, and the image has 3 x 4 patches"):
        on_grid(norm, drawn(1, 7, 12), (3, 4))


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (12, 24)])
def test_a_vision_model_knows_its_grid(size, by_place, monkeypatch):
    """Also that of an image of another size than it was made for."""
    grids, stock = [], dynamic_token_norm.offsets
    monkeypatch.setattr(dynamic_token_norm, "offsets", lambda *args: grids.append(args[:2]) or stock(*args))
    model = vit("AddNormViTForImageClassification").eval()
    image = torch.randn(2, 3, *size)
    args, kwargs = ((image,), {}) if by_place else ((), {"pixel_values": image})
    model(*args, **kwargs, interpolate_pos_encoding=size != (16, 16))
    assert set(grids) == {(size[0] // 4, size[1] // 4)}


def test_a_transposed_image_has_transposed_outputs():
    """Where the weights of rows and columns are swapped too: neighbours are those of the grid."""
    norm, x = build("dynamic_token_norm", 12, groups=3), drawn(1, 12, 12)
    with torch.no_grad():
        norm.position_weights.copy_(0.4 * drawn(3, 3))
    y = on_grid(norm, x, (3, 4)).view(1, 3, 4, 12)
    with torch.no_grad():
        norm.position_weights.copy_(norm.position_weights[:, [0, 2, 1]])
    turned = on_grid(norm, x.view(1, 3, 4, 12).transpose(1, 2).reshape(1, 12, 12), (4, 3)).view(1, 4, 3, 12)
    torch.testing.assert_close(turned.transpose(1, 2), y)


def test_a_checkpoints_recomputation_knows_the_grid():
    results = []
    image = torch.randn(2, 3, 12, 24, generator=torch.Generator().manual_seed(2))
    for checkpointing in (False, True):
        model = vit("AddNormViTModel", hidden_dropout_prob=0.0).train()
        fill_with_pattern(model)
        if checkpointing:
            checkpoint_activations(model, {"use_reentrant": False})
        model(image, interpolate_pos_encoding=True)[0].square().mean().backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, grad in results[0].items():
        torch.testing.assert_close(grad, results[1][name])


def test_tokens_behind_the_patches_have_their_own_statistics():
    """As a token before them has; the patches are normalised as without them."""
    norm, x = build("dynamic_token_norm", 12, groups=4), drawn(2, 1 + 12 + 3, 12)
    y = running_with(TokenMask(None, grid=(3, 4), behind=3), norm, x)
    torch.testing.assert_close(y[:, :13], on_grid(norm, x[:, :13], (3, 4)))
    for place in range(13, 16):
        alone = torch.cat([x[:, place : place + 1], x[:, 1:13]], 1)
        torch.testing.assert_close(y[:, place], on_grid(norm, alone, (3, 4))[:, 0])
    with pytest.raises(ValueError, match="4 x 4 patches and 3 tokens behind them"):
        running_with(TokenMask(None, grid=(4, 4), behind=3), norm, x)


def test_a_finder_of_objects_says_how_many_tokens_are_behind(monkeypatch):
    row, seen = FAMILIES["yolos"], []
    stock = TokenMask.grid_of
    monkeypatch.setattr(TokenMask, "grid_of", lambda self, tokens: seen.append(self.behind) or stock(self, tokens))
    spec = {"preset": "pre_ln", "norm": "dynamic_token_norm"}
    row.model_class("AddNormYolosModel")(row.config("AddNormYolosModel", spec))(**row.inputs("AddNormYolosModel"))
    assert set(seen) == {5}
