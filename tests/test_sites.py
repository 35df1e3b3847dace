"""The walk over a model's add & norm: what it calls a reader reads, what it calls a writer is what is added."""

import pytest
import torch
from families import COVERING, FAMILIES, FEW_SPECS, SPECS, fill_with_pattern
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_addnorm import AddNormBertModel, add_norm_sites
from hf_addnorm.models.core.layer import AddNormLayer
from hf_addnorm.sites import norm_parts, sublayers


PLACES_OF_SUMS = ("pre", "post", "final")
BEFORE_CONVOLUTION = "layer 0 feed_forward post"
# whose branches are added as they are
PLAIN_SUMS = ("stock", "post_ln", "pre_ln")
CASES = [(family, "stock") for family in FAMILIES]
CASES += [("bert", spec) for spec in dict.fromkeys([*FEW_SPECS, "pre_ln", "parallel", "sandwich_ln", "by_layer"])]
CASES += [(family, "pre_ln") for family in ("albert_groups", "modernbert", "distilbert")]


def _model(family, spec, name="AutoModel"):
    row = FAMILIES[family]
    model = row.config_class.auto_classes[name]
    # so few that none is shared
    layers = 1 if family == "albert" else 2
    net = row.model_class(model)(row.config(model, SPECS.get(spec), num_hidden_layers=layers)).double().eval()
    fill_with_pattern(net)
    # without padding, which some models set to 0
    inputs = {key: x for key, x in row.inputs(model).items() if key not in ("attention_mask", "labels")}
    return net, {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}


class Seen:
    """What modules are given and give, in one forward: by path, in order."""

    def __init__(self, net, paths):
        self.net, self.paths, self.given, self.order = net, paths, {}, []

    def __call__(self, inputs, changed=None, delta=None):
        self.given, self.order = {}, []
        handles = [self.net.get_submodule(path).register_forward_pre_hook(self._see(path)) for path in self.paths]
        if changed is not None:
            change = self.net.get_submodule(changed)
            handles.append(change.register_forward_hook(lambda module, args, output: output + delta))
        with torch.no_grad():
            self.net(**inputs)
        for handle in handles:
            handle.remove()
        return self.given

    def _see(self, path):
        def see(module, args):
            self.order.append(path)
            self.given.setdefault(path, args[0])

        return see


def _shift(x):
    """Something to add to every token, which no later norm makes of another change."""
    return torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_readers_read_and_writers_are_added(family, spec):
    net, inputs = _model(family, spec)
    sites = add_norm_sites(net, inputs)
    assert len({site.norm for site in sites}) == len(sites)
    assert _has_a_side_each(net)
    linears = sorted({path for sub in sublayers(net) for path in (*sub.readers, sub.writer)})
    seen = Seen(net, [*linears, *(site.norm for site in sites)])
    plain = dict(seen(inputs))
    # a convolution behind the first layer has a norm that the layout gives no place in the order
    between = family == "deberta_v2_conv"
    if not between:
        assert [site.norm for site in sites] == [path for path in seen.order if path not in linears]

    def moved_by(delta):
        """What is given exactly this much more than before."""
        same = [path for path, x in plain.items() if x.shape[-1] == len(delta)]
        return {p for p in same if torch.allclose(seen.given[p] - plain[p], delta.expand_as(plain[p]), atol=1e-12)}

    for site in sites:
        delta = _shift(plain[site.norm])
        if any(path in linears for path in site.readers) and not (between and site.title == BEFORE_CONVOLUTION):
            seen(inputs, site.norm, delta)
            readers = set(site.readers) & set(linears)
            assert readers <= moved_by(delta), site.title
            # the stream hands it on to what reads it without a norm
            assert site.skip_reads or readers == moved_by(delta) & set(linears), site.title
        is_sum = site.place in PLACES_OF_SUMS and spec in PLAIN_SUMS and net.config.add_norm.residual.kind == "add"
        # with something of a language in between, it is no sum alone
        if site.writer is not None and is_sum and family != "wav2vec2_stable":
            seen(inputs, site.writer, delta)
            assert site.norm in moved_by(delta), site.title


def _has_a_side_each(net):
    """Every Linear layer of a layer is on one side of a sublayer, but for those of an adapter or of positions."""
    subs = sublayers(net)
    inside = {
        f"{name}.{part}"
        for name, layer in net.named_modules()
        if isinstance(layer, AddNormLayer)
        for part, module in layer.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and not part.startswith(("adapter_layer", "connections"))
    }
    sides = {path for sub in subs for path in (*sub.readers, *sub.across, sub.writer)}
    return {path for path in inside - sides if "pos_" not in path} == set()


@pytest.mark.parametrize("spec", COVERING)
def test_every_norm_is_a_site(spec):
    net, inputs = _model("bert", spec)
    sites = add_norm_sites(net)
    ran = []
    kinds = {type(net.get_submodule(site.norm)) for site in sites}
    for name, module in net.named_modules():
        # those of a stream or a residual are no sites
        if type(module) in kinds and not any(part in name for part in ("residual_", "stream_", "layer_")):
            module.register_forward_pre_hook(lambda module, args, name=name: ran.append(name))
    with torch.no_grad():
        net(**inputs)
    of_streams = {name for name in ran if name.endswith(("begin_norm", "average_norm", "head_norm", "backout_norm"))}
    assert (
        list(dict.fromkeys(ran)) == list(dict.fromkeys(site.norm for site in sites))
        or of_streams
        or (set(ran) <= {site.norm for site in sites})
    )


def test_a_head_reads_the_last_norm():
    net, inputs = _model("bert", "pre_ln", "AutoModelForSequenceClassification")
    *_, last = add_norm_sites(net, inputs)
    assert (last.place, last.readers) == ("final", ("bert.pooler.dense",))
    net, inputs = _model("electra", "stock")
    assert add_norm_sites(net, inputs)[0].readers == ("embeddings_project",)
    assert add_norm_sites(net)[0].readers == ()


def test_a_norm_says_its_parts():
    net, _ = _model("bert", "zero_centered")
    parts = [norm_parts(net.get_submodule(site.norm)) for site in add_norm_sites(net)]
    assert {part.eps for part in parts} == {1e-6}
    assert all(part.gain is not None and part.bias is None for part in parts)


def test_a_stock_model_is_refused():
    with pytest.raises(ValueError, match="a BertModel has no add & norm spec; allowed is an AddNorm model"):
        add_norm_sites(FAMILIES["bert"].stock_class("AddNormBertModel")(FAMILIES["bert"].stock_config("")))
    assert issubclass(AddNormBertModel, nn.Module)
