"""Packed tokens: the real ones alone run through a model, and what comes out is what came with padding."""

import itertools
import re
from pathlib import Path

import pytest
import torch
import transformers
from families import BASE_MODELS, FAMILIES, MODELS, SPECS, checkpoint_activations, covering, slow_unless, specs_of
from token_specs import counted
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_addnorm import AddNormSpec, AddNormStackConfig, AddNormStackModel
from hf_addnorm.models.base.packed_tokens import PackedTokens
from hf_addnorm.models.core import packed_attention
from hf_addnorm.models.core.packed_attention import _Call


def _cannot_pack(family):
    row, model = FAMILIES[family], BASE_MODELS[family]
    stack = next(iter(row.config(model).add_norm_stacks().values()))
    return row.model_class(model).layout_of(stack).cannot_pack


CANNOT = {family: reason for family in FAMILIES if (reason := _cannot_pack(family))}
PACKABLE = [family for family in FAMILIES if family not in CANNOT]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _built(family, model, spec=None, **kwargs):
    """A float64 model without dropout whose weights are far from 0, twice: with padding, and packed."""
    row, nets = FAMILIES[family], []
    for _ in range(2):
        config = row.config(model, spec, **kwargs)
        for key, value in vars(config).items():
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)
        torch.manual_seed(0)
        net = row.model_class(model)(config).double()
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        nets.append(net)
    nets[1].set_packed()
    return nets


def _inputs(family, model):
    """Rows padded at the left, at the right and in the middle, two of them of one length; labels of real tokens."""
    inputs = FAMILIES[family].inputs(model)
    mask = inputs["attention_mask"]
    mask[0, ..., :3] = 0
    mask[2, ..., 4:6] = 0
    if FAMILIES[family].causal:
        # which finds the last token of a row by what it is
        inputs["input_ids"] = (inputs["input_ids"] % 98 + 1) * mask
    for name, value in inputs.items():
        if "label" in name and value.shape == mask.shape and value.dim() == 2:
            # what follows padding is not foretold from it
            inputs[name] = torch.where((mask * mask.roll(1, -1)).bool(), value, -100)
    return inputs


def _is_token_wise(spec):
    """Whether no norm counts padding in training, as the authors' code of some does."""
    return all(norm.options.get("variant") != "official" or norm.kind == "dynamic_token_norm"
               for _, norm in AddNormSpec.parse(SPECS[spec]).token_norms(4))  # fmt: skip


def _compare(one, two, names):
    for name in names:
        torch.testing.assert_close(one[name], two[name], msg=lambda text, name=name: f"{name}: {text}", **EXACT)


PAIRS = [
    (family, spec) for family in PACKABLE for spec in specs_of(family, BASE_MODELS[family]) if _is_token_wise(spec)
]


@pytest.mark.parametrize(("family", "spec"), covering(PAIRS))
def test_hidden_states_and_gradients_are_those_with_padding(family, spec):
    model = BASE_MODELS[family]
    nets, inputs, results = _built(family, model, SPECS[spec]), _inputs(family, model), []
    real = inputs["attention_mask"].bool()
    for net in nets:
        net.train()
        for module in net.modules():
            if hasattr(module, "drop_path"):
                module.drop_path = 0.0
        output = net(**inputs, output_hidden_states=True)
        states = [state[real] for state in output.hidden_states]
        weights = torch.linspace(-1, 1, states[-1].numel(), dtype=torch.float64).view_as(states[-1])
        # row 0 begins with padding, which a pooler reads as it is
        pooled = output.pooler_output[1:].sum() if output.get("pooler_output") is not None else 0.0
        ((states[-1] * weights).sum() + pooled).backward()
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        results.append((dict(enumerate(states)), gradients, counted(net)))
        assert output.hidden_states[-1] is output.last_hidden_state
        if net is nets[1]:
            assert all(state.shape[:2] == real.shape and not state[~real].any() for state in output.hidden_states)
    for one, two in zip(*results, strict=True):
        assert one.keys() == two.keys()
        scale = max(1.0, *(value.abs().max().item() for value in one.values()), 0.0) if one else 1.0
        _compare({k: v / scale for k, v in one.items()}, {k: v / scale for k, v in two.items()}, one)
    for net in nets:
        net.eval()
    with torch.no_grad():
        states = [net(**inputs).last_hidden_state[real] for net in nets]
    torch.testing.assert_close(*states, **EXACT)


HEADS = [(family, model) for family, model in MODELS if family in PACKABLE and model != BASE_MODELS[family]]
ROW_LOSS = re.compile("Next|Sequence|Choice|PreTraining$|Double")
# one head of each other family
FIRST = dict(reversed(HEADS))


@pytest.mark.parametrize(("family", "model"), [slow_unless(f == "bert" or FIRST[f] == m, f, m) for f, m in HEADS])
def test_heads_give_the_same(family, model):
    nets, inputs = _built(family, model), _inputs(family, model)
    # answers are sought among padding too, which holds something else here
    inputs = {key: value for key, value in inputs.items() if "position" not in key}
    outputs = [net(**inputs) for net in nets]
    real = inputs["attention_mask"].bool()
    for name, value in outputs[0].items():
        if not isinstance(value, torch.Tensor):
            continue
        other, tokens = outputs[1][name], value.shape[: real.dim()] == real.shape
        pair = (value[real], other[real]) if tokens else (value[1:], other[1:]) if value.dim() else (value, other)
        # a loss of rows counts the first one too, which begins with padding
        if value.dim() or not ROW_LOSS.search(model):
            torch.testing.assert_close(*pair, **EXACT)


# of each kind of position: numbered from 0, from behind padding, by rotation; and with what is causal
KINDS = ["bert", "albert", "roberta", "modernbert", "gpt2", "gpt_neox", "distilbert"]


def _joined(family, model):
    """Three sequences of 4, 3 and 3 tokens in one row, and each of them alone."""
    inputs = {
        key: value[:1]
        for key, value in FAMILIES[family].inputs(model).items()
        if value.shape[:2] == (3, 10) and key != "attention_mask"
    }
    bounds = [0, 4, 7, 10]
    alone = [
        {key: value[:, first:last] for key, value in inputs.items()} for first, last in itertools.pairwise(bounds)
    ]
    return inputs, torch.tensor(bounds, dtype=torch.int32), alone


@pytest.mark.parametrize("told", ["position_ids", "cu_seq_lens"])
@pytest.mark.parametrize("spec", ["post_ln", "norm_over_tokens_of_each_kind"])
@pytest.mark.parametrize("family", KINDS)
def test_sequences_that_come_in_one_row_do_not_see_each_other(family, spec, told):
    if FAMILIES[family].causal and spec != "post_ln":
        pytest.skip("causal: no norm over tokens")
    model = BASE_MODELS[family]
    padded, packed = (net.eval() for net in _built(family, model, SPECS[spec]))
    row, bounds, alone = _joined(family, model)
    expected = torch.cat([padded(**sequence).last_hidden_state for sequence in alone], 1)
    first = 2 if family == "roberta" and told == "position_ids" else 0
    positions = torch.cat([torch.arange(first, first + n) for n in (4, 3, 3)]).unsqueeze(0)
    if told == "position_ids":
        given = {"position_ids": positions}
    else:
        given = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 4, "max_length_k": 4}
    output = packed(**row, **given).last_hidden_state
    torch.testing.assert_close(output, expected, **EXACT)
    if not FAMILIES[family].causal and told == "position_ids":
        # the same input without packing is read as one sequence
        assert not torch.allclose(padded(**row, **given).last_hidden_state, expected, atol=1e-3)


def test_embeddings_and_rows_without_tokens():
    padded, packed = (net.eval() for net in _built("roberta", "AddNormRobertaModel"))
    inputs = _inputs("roberta", "AddNormRobertaModel")
    inputs["inputs_embeds"] = torch.randn(3, 10, 32, dtype=torch.float64)
    del inputs["input_ids"]
    real = inputs["attention_mask"].bool()
    states = [net(**inputs).last_hidden_state[real] for net in (padded, packed)]
    torch.testing.assert_close(*states, **EXACT)
    inputs["attention_mask"][1] = 0
    output = packed(**inputs).last_hidden_state
    assert not output[1].any() and output.isfinite().all()
    torch.testing.assert_close(output[0][real[0]], states[1][: int(real[0].sum())], **EXACT)
    inputs["attention_mask"][:] = 0
    assert packed(**inputs).last_hidden_state.shape == output.shape


def test_a_batch_without_padding_runs_as_with_sdpa():
    nets = [net.eval() for net in _built("modernbert", "AddNormModernBertModel")]
    inputs = FAMILIES["modernbert"].inputs("AddNormModernBertModel")
    for mask in (torch.ones(3, 10, dtype=torch.long), None):
        inputs["attention_mask"] = mask
        assert torch.equal(*[net(**inputs).last_hidden_state for net in nets])


def test_outputs_as_a_tuple():
    nets, inputs = _built("bert", "AddNormBertModel"), _inputs("bert", "AddNormBertModel")
    tuples = [net.eval()(**inputs, return_dict=False, output_hidden_states=[0, -1]) for net in nets]
    assert [type(part) for part in tuples[0]] == [type(part) for part in tuples[1]]
    states = [part[-1] for part in tuples]
    assert [state is None for state in states[0]] == [state is None for state in states[1]]
    torch.testing.assert_close(tuples[0][1][1:], tuples[1][1][1:], **EXACT)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", ["post_ln", "hyper_connections", "norm_over_tokens_of_each_kind", "batch"])
def test_checkpointing_gives_equal_gradients(spec, reentrant):
    spec = SPECS.get(spec, {"preset": "post_ln", "norm": "batch_norm", "drop_path": 0.3})
    if reentrant and spec == "hyper_connections":
        pytest.skip("refused: the state is several tensors")
    inputs, results = _inputs("bert", "AddNormBertModel"), []
    for checkpointing in (False, True):
        _, net = _built("bert", "AddNormBertModel", spec)
        net.train()
        if checkpointing:
            checkpoint_activations(net, {"use_reentrant": reentrant})
            net.enable_input_require_grads()
        torch.manual_seed(3)
        net(**inputs).last_hidden_state.square().sum().backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None} | counted(net))
    assert results[0].keys() == results[1].keys()
    _compare(*results, results[0])


def test_stochastic_depth_leaves_out_whole_sequences():
    _, net = _built(
        "bert", "AddNormBertModel", {"preset": "pre_ln", "drop_path": 0.5, "final": False}, num_hidden_layers=1
    )
    net.train()
    inputs = _inputs("bert", "AddNormBertModel")
    real, changed = inputs["attention_mask"].bool(), set()
    for seed in range(12):
        torch.manual_seed(seed)
        before, after = net(**inputs, output_hidden_states=True).hidden_states
        moved = ((after - before) != 0).any(-1)
        for row in range(3):
            assert len(set(moved[row][real[row]].tolist())) == 1
        changed.add(tuple(moved.any(1).tolist()))
    assert len(changed) > 2


@pytest.mark.parametrize("training", [False, True])
def test_under_autocast(training):
    nets = [net.float().train(training) for net in _built("bert", "AddNormBertModel", "pre_rms_norm")]
    inputs, results = _inputs("bert", "AddNormBertModel"), []
    real = inputs["attention_mask"].bool()
    for net in nets:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            state = net(**inputs).last_hidden_state[real]
        state.float().square().mean().backward()
        results.append((state, net.embeddings.word_embeddings.weight.grad))
    assert results[0][0].dtype == results[1][0].dtype
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)


def _sequences(lengths, window=None):
    """Queries, keys and values [total, heads, features] of sequences of these lengths, and where they are."""
    real = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    packed = PackedTokens(real)
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(packed.total, 2, 4, dtype=torch.float64, generator=generator) for _ in range(3)], packed


def _attention(query, key, value, bounds, scale, causal, window):
    """The formula, sequence by sequence: what flash-attn and torch's kernel for such batches compute."""
    outputs = []
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        q, k, v = (x[first:last].transpose(0, 1) for x in (query, key, value))
        behind = torch.arange(last - first).unsqueeze(1) - torch.arange(last - first)
        seen = torch.ones_like(behind, dtype=torch.bool)
        before, after = window
        seen &= (behind <= before) if before >= 0 else True
        seen &= (behind >= -after) if after >= 0 else True
        seen &= (behind >= 0) if causal else True
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


def _flash(q, k, v, cu_q, cu_k, max_q, max_k, dropout_p, softmax_scale, causal, window_size):
    assert cu_q.dtype == torch.int32 and max_q == max_k == int(cu_q.diff().max())
    return _attention(q, k, v, cu_q, softmax_scale, causal, window_size)


def _varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    assert cu_seq_q.dtype == torch.int32 and max_q == max_k == int(cu_seq_q.diff().max())
    return _attention(query, key, value, cu_seq_q, scale, False, window_size)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_every_way_to_attend_is_the_formula(causal, window, monkeypatch):
    """The kernels of GPUs stand in as their formula: this tests what they are told, not them."""
    monkeypatch.setattr(packed_attention, "flash_attn_varlen_func", _flash)
    monkeypatch.setattr(packed_attention, "varlen_attn", _varlen)
    tokens, packed = _sequences([5, 2, 5, 7, 1, 2, 2])
    assert packed.groups == [(1, 1), (2, 3), (5, 2), (7, 1)]
    size = (-1, -1) if window is None else (window - 1, window - 1)
    expected = _attention(*tokens, packed.bounds, 0.7, causal, size)
    # with a dropout of next to nothing it is the other formula
    for dropout in (0.0, 1e-15):
        call = _Call(causal, dropout, 0.7, window)
        torch.testing.assert_close(call.by_groups(*tokens, packed), expected, **EXACT)
    torch.testing.assert_close(call.by_flash_attention(*tokens, packed), expected, **EXACT)
    torch.testing.assert_close(call.by_varlen_attention(*tokens, packed), expected, **EXACT)


def test_dropout_of_the_weights_is_that_of_the_rate():
    tokens, packed = _sequences([40, 40, 30])
    tokens[2] = torch.ones_like(tokens[2])
    output = _Call(False, 0.25, 0.1, None).by_groups(*tokens, packed)
    assert abs(output.mean() - 1) < 0.02 and output.std() > 0.05


@pytest.mark.parametrize("family", sorted(CANNOT))
def test_what_cannot_be_packed_is_refused_with_the_reason(family):
    row, model = FAMILIES[family], BASE_MODELS[family]
    net = row.model_class(model)(row.config(model))
    assert CANNOT[family] in (Path(__file__).parents[1] / "docs/packed.md").read_text()
    with pytest.raises(ValueError, match=f"tokens of {model} cannot be packed: {CANNOT[family]}"):
        net.set_packed()
    with pytest.raises(ValueError, match="cannot be packed"):
        row.model_class(model)._from_config(row.config(model), attn_implementation="packed")


def test_weights_of_attention_and_chunks_are_refused():
    _, net = _built("bert", "AddNormBertModel")
    with pytest.raises(ValueError, match="packed tokens have no weights of attention"):
        net(**_inputs("bert", ""), output_attentions=True)
    with pytest.raises(ValueError, match="chunk_size_feed_forward must be 0"):
        _built("bert", "AddNormBertModel", chunk_size_feed_forward=2)
    official = {"norm": {"kind": "power_norm", "variant": "official"}}
    _, net = _built("bert", "AddNormBertModel", official)
    with pytest.raises(ValueError, match="counts padded places in training"):
        net.train()(**_inputs("bert", ""))


def test_caches_run_with_padding():
    nets = [net.eval() for net in _built("gpt2", "AddNormGPT2LMHeadModel")]
    inputs = {key: value for key, value in _inputs("gpt2", "").items() if key in ("input_ids", "attention_mask")}
    inputs["attention_mask"][1:] = 1
    texts = [net.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0) for net in nets]
    assert torch.equal(*texts)
    # nothing asks for a cache: without one, its tokens are packed
    assert nets[1](**inputs).past_key_values is None


def test_it_is_switched_off_again_and_not_saved(tmp_path):
    padded, packed = _built("bert", "AddNormBertForMaskedLM")
    padded.save_pretrained(tmp_path / "padded")
    packed.save_pretrained(tmp_path / "packed")
    assert (tmp_path / "padded/config.json").read_text() == (tmp_path / "packed/config.json").read_text()
    packed.set_packed(False)
    inputs = _inputs("bert", "AddNormBertForMaskedLM")
    assert torch.equal(padded.eval()(**inputs).logits, packed.eval()(**inputs).logits)


def test_code_of_a_checkpoint_packs_by_itself(tmp_path):
    """Beside the package's own classes in one process: each copy of the code knows its own tokens."""
    _, ours = _built("bert", "AddNormBertModel", {"norm": "instance_norm"})
    ours.save_pretrained(tmp_path)
    cls = get_class_from_dynamic_module("modeling_addnorm_bert.AddNormBertModel", str(tmp_path))
    assert cls.__module__.startswith("transformers_modules")
    theirs = cls.from_pretrained(tmp_path, attn_implementation="packed", dtype=torch.float64)
    inputs = _inputs("bert", "AddNormBertModel")
    real = inputs["attention_mask"].bool()
    states = [net.eval()(**inputs).last_hidden_state for net in (ours, theirs)]
    torch.testing.assert_close(*states, **EXACT)
    assert not states[1][~real].any()


def test_pipelines_batch_as_before():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(94))]
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    texts = ["w1 w2 w3 w4 w5", "w6 w11", "w7 w8 w9"]
    answers = [
        transformers.pipeline("token-classification", net.eval(), tokenizer=tokenizer, batch_size=3)(texts)
        for net in _built("bert", "AddNormBertForTokenClassification")
    ]
    for one, two in zip(*answers, strict=True):
        assert [part["word"] for part in one] == [part["word"] for part in two]
        assert [float(part["score"]) for part in one] == pytest.approx([float(part["score"]) for part in two], 1e-9)


def test_a_compiled_model_runs_with_padding():
    padded, packed = (net.eval() for net in _built("bert", "AddNormBertModel", num_hidden_layers=1))
    inputs = _inputs("bert", "AddNormBertModel")
    real = inputs["attention_mask"].bool()
    compiled = torch.compile(packed, backend="eager", fullgraph=True)
    states = [net(**inputs).last_hidden_state[real] for net in (padded, compiled)]
    torch.testing.assert_close(*states, **EXACT)


def test_a_stack_packs_in_each_of_its_parts():
    row = FAMILIES["bert"]
    config = AddNormStackConfig(
        encoders=[row.config("", spec, hidden_dropout_prob=0.0) for spec in ("post_ln", "pre_ln")]
    )
    net = AddNormStackModel(config).double().eval()
    inputs = {key: value for key, value in _inputs("bert", "").items() if key != "token_type_ids"}
    real = inputs["attention_mask"].bool()
    before = net(**inputs).last_hidden_state[real]
    net.set_attn_implementation("packed")
    after = net(**inputs).last_hidden_state
    torch.testing.assert_close(before, after[real], **EXACT)
    assert not after[~real].any()


MASKED = [family for family in PACKABLE if "AutoModelForMaskedLM" in FAMILIES[family].config_class.auto_classes]


@pytest.mark.parametrize(
    ("family", "training"),
    [slow_unless(f == "bert" or (t and f in KINDS), f, t) for f in MASKED for t in (False, True)],
)
def test_a_head_that_reads_labelled_tokens_alone_has_the_same_loss(family, training):
    model = FAMILIES[family].config_class.auto_classes["AutoModelForMaskedLM"]
    nets, inputs, results = _built(family, model, "pre_ln"), _inputs(family, model), []
    nets[1].set_packed(labelled_only=True)
    inputs["labels"][:, ::3] = -100
    labelled = inputs["labels"] != -100
    for net in nets:
        output = net.train(training)(**inputs, output_hidden_states=True)
        output.loss.backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
        results[-1] |= {"loss": output.loss, "logits": output.logits[labelled] if net is nets[0] else output.logits[0]}
        assert output.hidden_states[-1].shape[:2] == labelled.shape
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        # ModernBERT's loss is computed in float32
        tolerance = EXACT if output.loss.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(results[1][name], value, **tolerance)
    # without labels, all tokens
    del inputs["labels"]
    assert nets[1](**inputs).logits.shape[:2] == labelled.shape


def test_labelled_tokens_alone_are_refused_where_the_head_needs_all():
    _, net = _built("bert", "AddNormBertForMaskedLM", {"head": "batch_norm"})
    with pytest.raises(ValueError, match="a norm of the head takes statistics over all tokens"):
        net.set_packed(labelled_only=True)
    _, net = _built("bert", "AddNormBertForTokenClassification")
    with pytest.raises(ValueError, match="AddNormBertForTokenClassification is no masked language model"):
        net.set_packed(labelled_only=True)


FIRST_HEADS = [
    (family, model, spec)
    for family, model in HEADS
    for spec in ("post_ln", "all_slots", "every_residual", "by_layer", "parallel", "hyper_connections")
    if re.search("ForSequenceClassification|ForMultipleChoice|ForNextSentence", model) and not FAMILIES[family].causal
]


@pytest.mark.parametrize(
    ("family", "model", "spec"),
    [
        slow_unless(m == "AddNormBertForSequenceClassification" or (s == "post_ln" and FIRST[f] == m), f, m, s)
        for f, m, s in FIRST_HEADS
    ],
)
def test_a_head_that_reads_first_tokens_alone_has_the_same_logits(family, model, spec):
    if spec not in specs_of("bert", "AddNormBertModel"):
        pytest.skip("no such spec")
    nets, inputs, results = _built(family, model, SPECS[spec]), _inputs(family, model), []
    inputs["attention_mask"][0] = 1
    feed_forwards, counts = [], []
    for net in nets:
        last = [
            module
            for module in net.modules()
            if isinstance(module, torch.nn.Linear) and module.out_features in (37, 74)
        ]
        hook = last[-1].register_forward_hook(lambda _, args, __, kept=feed_forwards: kept.append(args[0].shape[:2]))
        output = net.train()(**inputs)
        hook.remove()
        counts.append(feed_forwards[-1].numel())
        output.loss.backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
        results[-1] |= {"logits": output.logits}
    assert results[0].keys() == results[1].keys()
    _compare(*results, results[0])
    rows = inputs["attention_mask"].shape[:-1].numel()
    reads_first = nets[1].last_layer_can_be_cut and getattr(nets[1].config, "classifier_pooling", "cls") == "cls"
    expected = rows if reads_first else int(inputs["attention_mask"].sum())
    assert counts[1] == expected
    with_states = nets[1](**inputs, output_hidden_states=True)
    torch.testing.assert_close(with_states.logits, results[0]["logits"], **EXACT)
    assert with_states.hidden_states[-1].count_nonzero() > rows * 32


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", ["post_ln", {"preset": "pre_ln", "drop_path": 0.3}])
def test_first_tokens_under_checkpointing(spec, reentrant):
    inputs, results = _inputs("bert", "AddNormBertForSequenceClassification"), []
    for checkpointing in (False, True):
        _, net = _built("bert", "AddNormBertForSequenceClassification", spec)
        net.train()
        if checkpointing:
            checkpoint_activations(net, {"use_reentrant": reentrant})
            net.enable_input_require_grads()
        torch.manual_seed(3)
        net(**inputs).loss.backward()
        results.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    _compare(*results, results[0])
