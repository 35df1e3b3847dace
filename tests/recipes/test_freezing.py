"""Frozen parameters and learning rates by layer, in every family: how high a parameter stands, and what is trained."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from common.errors import UserError
from common.freezing import Height, heights
from families import FAMILIES
from safetensors.torch import load_file
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

import hf_addnorm


HEAD = {
    # one without an output layer over the vocabulary, if there is any
    family: min(row.models, key=lambda name: ("LM" in name, "For" not in name, name))
    for family, row in FAMILIES.items()
}
# those with an encoder and a decoder
SEVERAL = [family for family, row in FAMILIES.items() if row.config_class.facts.stacks]
# what is used inside of layers or between them, and belongs to what is below
BELOW = (
    "rel_embeddings",
    "relative_attention_bias",
    "encoder.LayerNorm",
    "encoder.conv.",
    "embedding_hidden_mapping_in",
    "mid_position_embeddings",
)


def model_of(family: str, add_norm: str | None) -> nn.Module:
    row, name = FAMILIES[family], HEAD[family]
    torch.manual_seed(0)
    if add_norm is None:
        return row.stock_class(name)(row.stock_config(name)).eval()
    return row.model_class(name)(row.config(name, add_norm=add_norm)).eval()


@torch.no_grad()
def what_changes(
    model: nn.Module, inputs: dict, layers: list[nn.Module]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The stream before every layer and after it, at every depth."""
    before, after = [], []
    hooks = [
        hook
        for layer in {id(layer): layer for layer in layers}.values()
        for hook in (
            layer.register_forward_pre_hook(
                lambda _, args, kwargs: before.append((args[0] if args else kwargs["hidden_states"]).clone()),
                with_kwargs=True,
            ),
            layer.register_forward_hook(
                lambda _, __, out: after.append((out[0] if isinstance(out, tuple) else out).clone())
            ),
        )
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return before, after


@pytest.mark.parametrize("add_norm", [None, "sandwich_ln"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in SEVERAL])
def test_a_parameter_changes_the_layers_from_its_height_on(family, add_norm):
    """Each parameter is changed in turn: the first layer whose input or output is another one says how high it is."""
    model = model_of(family, add_norm)
    inputs = FAMILIES[family].inputs(HEAD[family])
    found = heights(model)
    tops = {height.top for height in found.values()}
    assert len(tops) == 1
    family_model = getattr(hf_addnorm, FAMILIES[family].config_class.auto_classes["AutoModel"])
    layers = [
        model.base_model.get_submodule(path) for path in family_model.layout_of(model.config).layers(model.config)
    ]
    assert tops == {len(layers) + 1}
    before, after = what_changes(model, inputs, layers)
    assert len(before) == len(after) == len(layers)
    levels = Counter()
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
            new_before, new_after = what_changes(model, inputs, layers)
            parameter.copy_(kept)
        changed = [
            level
            for level, (old, new) in enumerate(zip([before[0], *after], [new_before[0], *new_after], strict=True))
            if not torch.equal(old, new)
        ]
        height = found[name]
        levels[height.level] += 1
        if any(part in name for part in BELOW):
            assert height.level == 0, name
        elif "albert_layers" in name:
            # one layer for several depths has the height of the last of them
            assert height.level in changed
        elif changed:
            assert height.level == changed[0], name
        else:
            # nothing above the last layer, or nothing at all: the biases of keys, an embedding that is not used
            assert height.level == len(layers) + 1 or parameter.numel() == 0 or _is_idle(name), name
    assert levels[0] and levels[len(layers) + 1]


@pytest.mark.parametrize("add_norm", [None, "sandwich_ln"])
@pytest.mark.parametrize("family", SEVERAL)
def test_encoder_and_decoder_have_heights_of_their_own(family, add_norm):
    model = model_of(family, add_norm)
    found = heights(model)
    levels: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for name, height in found.items():
        stack, depth = re.search(r"(encoder|decoder)|$", name)[0], re.search(r"\.(?:layers|block)\.(\d+)\.", name)
        if stack and depth:
            assert height.level == int(depth[1]) + 1
            levels[stack].add(height.level)
        elif any(part in name for part in ("shared", "embed", "encoder.conv")):
            assert height.level == 0
        else:
            # what is above the layers, of a stack or of the whole
            assert height.level == height.top, name
    # a head may hold one of the two
    held = [stack for stack in levels if any(f"{stack}." in name for name in found)]
    stacks = FAMILIES[family].config("").add_norm_stacks()
    assert held and {stack: max(of) for stack, of in levels.items() if of} == {
        name: stacks[name].add_norm_depth() for name in held
    }


def _is_idle(name: str) -> bool:
    return any(
        part in name
        for part in ("key.bias", "k_proj.bias", "k_lin.bias", "masked_spec_embed", "mask_token", "position", "pos_")
    )


def test_a_stock_family_that_is_none_of_ours():
    config = RobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12
    )
    found = heights(RobertaForSequenceClassification(config))
    assert {name.split(".layer.")[1][0]: height.level for name, height in found.items() if ".layer." in name} == {
        "0": 1,
        "1": 2,
        "2": 3,
    }
    assert {height.level for name, height in found.items() if "embeddings" in name} == {0}
    assert {height for name, height in found.items() if "classifier" in name} == {Height(4, 4)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("add_norm", [None, "hyper_connections", "deepnorm"])
def test_layers_learn_at_their_own_rates(config, recipe, tiny, tmp_path, add_norm):
    """Adam's first step is as long as the rate, whatever the gradient."""
    keys = {"max_steps": 1, "warmup": 0.0, "weight_decay": 0.0, "dropout": 0.0, "layer_decay": 0.5}
    spec = {} if add_norm is None else {"add_norm": add_norm}
    result = recipe(config | keys | spec)
    rates = {"above the layers": 1e-3, "layer 2": 5e-4, "layer 1": 2.5e-4, "embeddings": 1.25e-4}
    assert result["learning_rates"] == pytest.approx(rates)
    old = load_file(Path(tiny) / "model.safetensors")
    new = weights(tmp_path / "run")
    seen = set()
    for name, value in new.items():
        before = old.get(name.removeprefix("bert."))
        if before is None:
            continue
        change = (value - before).abs().max().item()
        place = "layer 1" if ".layer.0." in name else "layer 2" if ".layer.1." in name else "embeddings"
        place = "above the layers" if "pooler" in name else place
        if change and "key.bias" not in name:
            seen.add(place)
            assert change == pytest.approx(rates[place], rel=0.05), name
    assert seen >= {"layer 1", "layer 2", "embeddings"}


def test_a_resumed_run_keeps_its_rates(config, recipe, tmp_path):
    config |= {"layer_decay": 0.8, "max_steps": 6, "checkpoint_every": 3, "keep_checkpoints": 5}
    whole = recipe(config)
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("step_*"):
        if checkpoint.name != "step_00000003":
            shutil.rmtree(checkpoint)
    resumed = recipe(config, "--resume")
    assert resumed["resumed_at"] == [3]
    assert resumed["loss_history"] == whole["loss_history"]
    after = weights(tmp_path / "run")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("keys", "frozen"),
    [
        ({"freeze_embeddings": True}, ["bert.embeddings."]),
        ({"freeze_layers": 1}, ["bert.encoder.layer.0."]),
        ({"freeze_embeddings": True, "freeze_layers": 2}, ["bert.embeddings.", "bert.encoder.layer."]),
        ({"freeze": ["*.attention.self.*", "bert.pooler.*"]}, [".attention.self.", "bert.pooler."]),
        ({"freeze_embeddings": True, "add_norm": "rezero"}, ["bert.embeddings."]),
    ],
)
def test_what_is_frozen_stays(config, recipe, tmp_path, capfd, keys, frozen):
    def starts(config):
        recipe(config | {"max_steps": 1, "learning_rate": 1e-30, "output_dir": str(tmp_path / "start")})
        return weights(tmp_path / "start")

    before = starts(config | keys)
    capfd.readouterr()
    result = recipe(config | keys)
    new = weights(tmp_path / "run")
    still = {name for name, value in new.items() if torch.equal(value, before[name])}
    named = {name for name in new if any(part in name for part in frozen)}
    assert named <= still
    # what gets no gradient: key biases; positions and types that no row has are parts of tables that change
    assert not {name for name in still - named if "key.bias" not in name and "residual" not in name}
    count = sum(new[name].numel() for name in named)
    assert f": {count:,} of {result['parameters']:,} parameters" in result["frozen"]
    assert f"frozen: {result['frozen']}\n" in capfd.readouterr().out


def test_two_processes_with_frozen_layers(config, recipe, two_processes, tmp_path):
    keys = config | {"freeze_embeddings": True, "freeze_layers": 1, "layer_decay": 0.7, "dropout": 0.0, "max_steps": 5}
    one = recipe(keys | {"output_dir": str(tmp_path / "one")})
    two, _ = two_processes(keys)
    assert two["loss_history"] == pytest.approx(one["loss_history"], rel=1e-5)
    assert two["frozen"] == one["frozen"]


def test_two_encoders_in_turn(config, recipe):
    stack = {"encoders": 2, "arrangement": "sequence"}
    result = recipe(config | {"stack": stack, "max_steps": 1, "layer_decay": 0.5})
    assert list(result["learning_rates"]) == [
        "embeddings",
        "layer 1",
        "layer 2",
        "layer 3",
        "layer 4",
        "above the layers",
    ]
    beside = recipe(
        config
        | {"stack": stack | {"arrangement": "parallel"}, "max_steps": 1, "layer_decay": 0.5}
        | {"output_dir": config["output_dir"] + "_2"}
    )
    assert list(beside["learning_rates"]) == ["embeddings", "layer 1", "layer 2", "above the layers"]


def test_both_sides_of_an_encoder_decoder(tiny):
    model = hf_addnorm.AddNormEncoderDecoderModel.from_encoder_decoder_pretrained(
        tiny, tiny, pad_token_id=0, decoder_start_token_id=2, encoder_add_norm="pre_ln", decoder_add_norm="deepnorm"
    )
    found = heights(model)
    for side in ("encoder", "decoder"):
        own = {name: height for name, height in found.items() if name.startswith(f"{side}.")}
        assert {height.level for height in own.values()} == {0, 1, 2, 3}
        for name, height in own.items():
            level = int(name.split(".layer.")[1][0]) + 1 if ".layer." in name else 0 if "embeddings" in name else 3
            assert height == Height(level, 3), name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_have_the_rate_of_their_layer(config, recipe):
    result = recipe(config | {"lora": 2, "layer_decay": 0.5, "max_steps": 2})
    assert list(result["learning_rates"]) == ["embeddings", "layer 1", "layer 2", "above the layers"]
    assert result["frozen"].startswith("all but the adapters and the head: ")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"freeze_layers": 3}, "freeze_layers is 3, and the model has 2"),
        (
            {"freeze": ["*.attentoin.*"]},
            r"freeze has '\*.attentoin.\*', which is no parameter's name; there are bert.embed",
        ),
        ({"freeze": ["*"]}, "freeze leaves nothing to train"),
        ({"layer_decay": 0.0}, "layer_decay is 0, at which no layer learns; allowed is a number above 0, up to 1"),
        ({"layer_decay": 1.5}, 'config key "layer_decay": Not of type ClosedUnitInterval'),
        ({"lora": 2, "freeze_layers": 1}, "lora is 2, which freezes all but adapters and head"),
    ],
)
def test_refused(config, recipe, tmp_path, keys, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        recipe(config | keys)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_whose_layers_are_not_known():
    class Odd(nn.Module):
        pass

    with pytest.raises(UserError, match="where the layers of a Odd are is not known"):
        heights(Odd())
