"""Independent formulas of whole sublayers and layers, on one stream or several (see norm_references.py).

Weights of a whole encoder have neutral names: `layers.{i}.{q,k,v,o,w1,w2}.{weight,bias}`,
`layers.{i}.{attn,cross,ffn}.{pre,mid,out,post}.*`, `layers.{i}.{attn,cross}.{q,k,v}_norm.*`,
`layers.{i}.{attn,cross,ffn}.{alpha,beta,lambda,gate,gate.*}`, `stream.*` (a stream's own norm after the last layer),
`final.*`.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from norm_references import HEADS, input_scaled_rms_norm, layer_norm, rms_norm
from residual_references import (
    deep_delta,
    gpas,
    gru_gate,
    highway,
    laurel_gemma3n,
    muse_gate,
    normalized_lerp,
    sigmoid,
)


# --- whole encoders ---


def linear(w: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
}


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def attention(w, prefix, u, memory, heads, allowed, mid=same, whole=lambda role, y: y, per_head=lambda role, y: y):
    """`whole` and `per_head` act on q, k and v, before and after they are cut into heads."""
    head = u.shape[-1] // heads
    q, k, v = (whole(role, linear(w, f"{prefix}{role}", u if role == "q" else memory)) for role in "qkv")
    outputs = []
    # one head at a time: slow and plain
    for h in range(heads):
        part = slice(h * head, (h + 1) * head)
        q_h, k_h, v_h = (per_head(role, y[..., part]) for role, y in zip("qkv", (q, k, v), strict=True))
        scores = q_h @ k_h.transpose(-1, -2) / math.sqrt(head)
        weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)
        outputs.append(weights @ v_h)
    return linear(w, f"{prefix}o", mid(torch.cat(outputs, dim=-1)))


@dataclass(frozen=True)
class SublayerCall:
    """One sublayer of one layer, as the formulas below see it."""

    name: str
    layer: int
    layers: int
    sublayers: int
    heads: int
    branch: Callable[..., torch.Tensor]
    drop: Callable[[torch.Tensor], torch.Tensor]
    params: Callable[[str], dict[str, torch.Tensor]]
    norm_of: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]

    def norm(self, slot: str, x: torch.Tensor) -> torch.Tensor:
        return self.norm_of(x, self.params(slot))

    def scale(self, name: str) -> torch.Tensor:
        return self.params(name)[""]

    @property
    def number(self) -> int:
        """Which sublayer of the whole stack this is, from 1."""
        per_layer = self.sublayers // self.layers
        return (self.layer - 1) * per_layer + {"attn": 1, "cross": 2, "ffn": per_layer}[self.name]


def post_ln(x, s):
    return s.norm("post", x + s.drop(s.branch(x)))


def pre_ln(x, s):
    return x + s.drop(s.branch(s.norm("pre", x)))


def sandwich_ln(x, s):
    return x + s.norm("out", s.drop(s.branch(s.norm("pre", x))))


def res_post_norm(x, s):
    return x + s.norm("out", s.drop(s.branch(x)))


def sub_ln(x, s):
    return x + s.drop(s.branch(s.norm("pre", x), mid=lambda y: s.norm("mid", y)))


def normformer(x, s):
    if s.name == "ffn":
        return sub_ln(x, s)

    def head_scale(y):
        gains = s.params("mid")["weight"]
        return torch.cat([part * gain for part, gain in zip(y.chunk(len(gains), -1), gains, strict=True)], -1)

    return x + s.drop(s.norm("out", s.branch(s.norm("pre", x), mid=head_scale)))


def normformer_of_the_code(x, s):
    if s.name == "ffn":
        return normformer_scaled(x, s)
    norm = s.params("out")
    gains = norm.pop("input_weight")
    f = s.branch(s.norm("pre", x))
    scaled = torch.cat([part * gain for part, gain in zip(f.chunk(len(gains), -1), gains, strict=True)], -1)
    return x + s.drop(s.norm_of(scaled, norm))


def mix_ln(x, s):
    return post_ln(x, s) if s.layer <= s.layers // 4 else pre_ln(x, s)


def layer_norm_scaling(x, s):
    return x + s.drop(s.branch(s.norm("pre", x) / math.sqrt(s.layer)))


def deepnorm(x, s):
    # (2L)^(1/4) in an encoder, (3M)^(1/4) in a decoder with cross-attention
    return s.norm("post", s.sublayers**0.25 * x + s.drop(s.branch(x)))


def rezero(x, s):
    return x + s.scale("alpha") * s.drop(s.branch(x))


def layer_scale(x, s):
    return x + s.scale("lambda") * s.drop(s.branch(s.norm("pre", x)))


def admin(x, s):
    return s.norm("post", s.scale("lambda") * x + s.drop(s.branch(x)))


def gtrxl(x, s):
    return gru_gate(x, s.drop(s.branch(s.norm("pre", x))), s.params("gate"))


def beam_sum(x, s):
    k = s.number + 1
    f = s.norm("out", s.drop(s.branch(s.norm("pre", x))))
    return math.sqrt((k - 1) / k) * x + f / math.sqrt(k)


def muse_spark(x, s):
    def rms(y, eps=1e-5):
        return rms_norm(y, {}, eps=eps)

    u = rms_norm(x, s.params("pre"), eps=1e-5)
    if s.name == "ffn":
        f = input_scaled_rms_norm(s.drop(s.branch(u)), s.params("out"), eps=1e-8)
    else:
        heads = lambda y: torch.cat([rms(part) for part in y.chunk(HEADS[y.shape[-1]], -1)], -1)  # noqa: E731
        of_qk = lambda role, y: y if role == "v" else rms(y)  # noqa: E731
        f = rms(s.drop(s.branch(u, mid=heads, per_head=of_qk)), 1e-8)
    return muse_gate(x, f, {"gate": s.scale("gate")}, temperature=0.3, eps=1e-3)


def normformer_scaled(x, s):
    """NormFormer with the gain on the feed-forward's skip."""
    if s.name != "ffn":
        return normformer(x, s)
    return s.scale("lambda") * x + (sub_ln(x, s) - x)


def gpas_pre_ln(x, s):
    return gpas(x, s.drop(s.branch(s.norm("pre", x))), {"gate": s.scale("gate")}, place="after_add", skip_scale=1.0)


def gpas_deepnorm(x, s):
    gate, alpha = {"gate": s.scale("gate")}, s.sublayers**0.25
    return s.norm("post", gpas(x, s.drop(s.branch(x)), gate, place="on_skip", skip_scale=alpha))


def gemma3n(x, s):
    u = s.norm("pre", x)
    f = s.norm("out", s.drop(s.branch(u)))
    return laurel_gemma3n(x, f, s.params("gate"), u=u, eps=1e-6) if s.name == "attn" else x + f


def deep_delta_pre_ln(x, s):
    u = s.norm("pre", x)
    return deep_delta(x, s.drop(s.branch(u)), s.params("gate"), u=u, value=None, eps=1e-6)


def by_sublayer(x, s):
    f = s.drop(s.branch(s.norm("pre", x)))
    if s.name == "attn":
        return highway(x, f, s.params("gate"))
    return x + 0.5 * f if s.name == "ffn" else x + f


def hybrid_norm(x, s):
    if s.name == "ffn":
        return x + s.drop(s.branch(x))
    return s.norm("post", x + s.drop(s.branch(x, per_head=lambda role, y: s.norm(f"{role}_norm", y))))


def olmo2(x, s):
    normed = lambda role, y: y if role == "v" else s.norm(f"{role}_norm", y)  # noqa: E731
    return x + s.norm("out", s.drop(s.branch(x) if s.name == "ffn" else s.branch(x, whole=normed)))


def ngpt(x, s):
    if s.name == "ffn":
        width = x.shape[-1]
        f = s.branch(x, up=lambda y: s.params("up")["weight"] * math.sqrt(width) * y)
    else:
        gain = s.params("qk")["weight"] * math.sqrt(x.shape[-1])

        def on_sphere(role, y):
            if role == "v":
                return y
            # the cosine is to be multiplied by the root of the head's size, and is divided by it
            heads = y.unflatten(-1, (s.heads, -1))
            units = (heads / torch.linalg.vector_norm(heads, dim=-1, keepdim=True)).flatten(-2)
            return units * gain * (heads.shape[-1] if role == "q" else 1)

        f = s.branch(x, whole=on_sphere)
    return normalized_lerp(x, s.drop(f), {"weight": s.scale("lambda")})


def unit_weights(w):
    """Every vector along the hidden axis divided by its length: rows, but columns of what writes to the stream."""

    def one(name, weight):
        if not re.fullmatch(r".*\.(q|k|v|o|w1|w2)\.weight", name):
            return weight
        dim = 0 if re.search(r"\.(o|w2)\.weight", name) else 1
        return weight / torch.linalg.vector_norm(weight, dim=dim, keepdim=True)

    return {name: one(name, weight) for name, weight in w.items()}


def in_turn(sublayer: Callable[[Any, SublayerCall], Any]) -> Callable[[Any, list[SublayerCall]], Any]:
    """A layer whose sublayers run one after the other."""

    def layer(state, sites):
        for site in sites:
            state = sublayer(state, site)
        return state

    return layer


def parallel(x, sites):
    """GPT-J, PaLM: all branches from one norm."""
    u = sites[0].norm("pre", x)
    return x + sum(s.drop(s.branch(u)) for s in sites)


def parallel_of_their_own(x, sites):
    """GPT-NeoX: each branch from a norm of its own."""
    return x + sum(s.drop(s.branch(s.norm("pre", x))) for s in sites)


def parallel_post(x, sites):
    """The post-norm form, `N(x + A(x) + M(x))`."""
    return sites[-1].norm("post", x + sum(s.drop(s.branch(x)) for s in sites))


def b2t(x, sites):
    h = x
    for s in sites[:-1]:
        h = s.norm("post", h + s.drop(s.branch(h)))
    last = sites[-1]
    return last.norm("post", x + h + last.drop(last.branch(h)))


def two_hop(x, sites):
    y = x
    for s in sites[:-1]:
        y = pre_ln(y, s)
    last = sites[-1]
    return x + last.drop(last.branch(last.norm("pre", y)))


def residual_dual(scale: float = 1.0) -> Callable:
    """ResiDual: the post-norm stream x, and the sum y of all outputs times `scale`."""

    def sublayer(state, s):
        x, y = state
        f = s.drop(s.branch(x))
        return s.norm("post", x + f), y + scale * f

    return sublayer


def hyper_connected(norm_slot: str) -> Callable:
    """Static hyper-connections over a list of streams, with the norm in "pre", or in "post" of every stream."""

    def sublayer(streams, s):
        alpha, beta, n = s.scale("alpha"), s.scale("beta"), len(streams)
        u = sum(alpha[source, 0] * streams[source] for source in range(n))
        f = s.drop(s.branch(s.norm("pre", u) if norm_slot == "pre" else u))
        # column 1 + t says what goes into stream t
        mixed = [sum(alpha[source, 1 + t] * streams[source] for source in range(n)) + beta[t] * f for t in range(n)]
        return [s.norm("post", h) for h in mixed] if norm_slot == "post" else mixed

    return sublayer


def _put_back(pieces: list[torch.Tensor], fractions: int) -> list[torch.Tensor]:
    return [torch.cat(pieces[at : at + fractions], -1) for at in range(0, len(pieces), fractions)]


def dynamic_hyper_connected(
    fractions: int = 1, act: Callable = torch.tanh, norm: Callable = layer_norm, eps: float = 1e-5
) -> Callable:
    """Dynamic hyper-connections over a list of streams, each in so many fractions; pre-norm."""

    def sublayer(streams, s):
        p, m = s.params("gate"), fractions
        pieces = [piece for stream in streams for piece in stream.chunk(m, -1)]
        of_norm = {key.removeprefix("input_norm."): value for key, value in p.items() if key.startswith("input_norm.")}
        normed = [norm(h, of_norm, eps=eps) for h in pieces]
        # one scale for each column of alpha: the first are what is read
        of_read = p["scale_norm.read" if "scale_norm.read" in p else "scale_norm.alpha"]
        of_mix = p["scale_norm.mix" if "scale_norm.mix" in p else "scale_norm.alpha"]
        of_write = p["scale_norm.write" if "scale_norm.write" in p else "scale_norm.beta"]
        by_column = torch.cat([of_read] * m + [of_mix] * len(pieces))
        alpha = [
            p["static_norm.alpha"][i] + by_column * act(normed[i] @ p["weight_alpha"]) for i in range(len(pieces))
        ]
        beta = [p["static_norm.beta"][i] + of_write * act(normed[i] @ p["weight_beta"]) for i in range(len(pieces))]

        def mix(column):
            return sum(alpha[i][..., column : column + 1] * pieces[i] for i in range(len(pieces)))

        u = torch.cat([mix(j) for j in range(m)], -1)
        f = s.drop(s.branch(s.norm("pre", u))).chunk(m, -1)
        return _put_back([mix(m + i) + beta[i][..., None] * f[i % m] for i in range(len(pieces))], m)

    return sublayer


def doubly_stochastic(logits, official, iterations):
    """Sinkhorn-Knopp's, as in the paper of mHC or as in its code."""
    eps = 1e-6
    if not official:
        c = torch.exp(logits)
        for _ in range(iterations):
            c = c / c.sum(-2, keepdim=True)
            c = c / c.sum(-1, keepdim=True)
        return c
    c = torch.softmax(logits, -1) + eps
    for step in range(iterations):
        if step:
            c = c / (c.sum(-1, keepdim=True) + eps)
        c = c / (c.sum(-2, keepdim=True) + eps)
    return c


def _bounded_weights(p, streams, rows):
    """What each row of the weight says of all streams, after its scale and bias, one number a token."""
    flat = torch.cat(streams, -1)
    r = flat / torch.sqrt((flat**2).mean(-1, keepdim=True) + 1e-6)
    return {
        name: [p[f"scale_norm.{name}"] * (r * p["weight"][row]).sum(-1) + p["bias"][row] for row in at]
        for name, at in rows.items()
    }


def manifold_hyper_connected(official: bool = False, iterations: int = 20, mixing: str = "manifold") -> Callable:
    """mHC over a list of streams, mHC-lite ("permutations") and iHC ("none"); pre-norm."""

    def share(logits, n):
        """By stream q and stream i: how much of i goes into q."""
        if mixing == "none":
            return lambda q, i: torch.tensor(float(q == i), dtype=torch.float64)
        if mixing == "permutations":
            weights = torch.softmax(torch.stack(logits, -1), -1)
            orders = list(itertools.permutations(range(n)))
            return lambda q, i: sum(weights[..., k] for k, order in enumerate(orders) if order[q] == i)
        matrix = torch.stack([torch.stack(logits[i * n : (i + 1) * n], -1) for i in range(n)], -2)
        c = doubly_stochastic(matrix, official, iterations)
        # the paper: row q makes stream q; the code: column q
        return (lambda q, i: c[..., i, q]) if official else (lambda q, i: c[..., q, i])

    def sublayer(streams, s):
        p, n = s.params("gate"), len(streams)
        rows = {"read": range(n), "write": range(n, 2 * n)}
        if mixing != "none":
            rows["mix"] = range(2 * n, len(p["bias"]))
        says = _bounded_weights(p, streams, rows)
        plus = 1e-6 if official or mixing == "none" else 0.0
        u = sum((torch.sigmoid(says["read"][i]) + plus)[..., None] * streams[i] for i in range(n))
        f = s.drop(s.branch(s.norm("pre", u)))
        of = share(says.get("mix"), n)
        written = [2 * torch.sigmoid(says["write"][q]) + (plus if mixing == "none" else 0.0) for q in range(n)]
        return [sum(of(q, i)[..., None] * streams[i] for i in range(n)) + written[q][..., None] * f for q in range(n)]

    return sublayer


def by_learned_head(eps: float = 0.0) -> Callable:
    def finish(streams, params):
        p, n = params("head"), len(streams)
        says = _bounded_weights(p, streams, {"read": range(n)})["read"]
        return sum((torch.sigmoid(says[i]) + eps)[..., None] * streams[i] for i in range(n))

    return finish


def siamese(state, s):
    x, y = s.norm("siamese.post_norm", state[0]), state[1]
    f = s.drop(s.branch(s.norm("pre", x + s.norm("siamese.pre_norm", y))))
    return x + f / math.sqrt(2 * s.layer), y + f


def gates_of_streams(p, streams):
    """What all streams say together, normalised one by one, and the gated mean of them."""
    n, d = len(streams), streams[0].shape[-1]
    gains = 1 + p["input_norm.zero_centered_weight"]
    r = torch.cat([rms_norm(h, {}, eps=1e-6) * gains[i * d : (i + 1) * d] for i, h in enumerate(streams)], -1)
    branch_norms = torch.einsum("...i,ri->...r", r, p["down.weight"]) / n
    g = sigmoid(torch.einsum("...r,ir->...i", branch_norms * sigmoid(branch_norms), p["up.weight"]))
    return r, sum((g * r).chunk(n, -1)) / n


def gated_streams(streams, s):
    p, n = s.params("gate"), len(streams)
    r, u = gates_of_streams(p, streams)
    f = s.drop(s.branch(u))
    return [h + 2 * sigmoid(r @ p["write.weight"][i] / n)[..., None] * f for i, h in enumerate(streams)]


def softmax_of_outputs(p, outputs):
    keys = [rms_norm(v, {"weight": p["key_norm.weight"]}, eps=1e-6) for v in outputs]
    weights = [torch.exp(torch.einsum("...i,i->...", key, p["query"]))[..., None] for key in keys]
    return sum(w * v for w, v in zip(weights, outputs, strict=True)) / sum(weights)


def attention_residuals(outputs, s):
    if len(outputs) == 1:
        return [*outputs, s.drop(s.branch(s.norm("pre", outputs[0])))]
    p = {"query": s.scale("query"), "key_norm.weight": s.params("siamese.key_norm")["weight"]}
    return [*outputs, s.drop(s.branch(s.norm("pre", softmax_of_outputs(p, outputs))))]


def hybrid_siamese(state, s):
    if s.name == "ffn":
        return siamese(state, s)
    x, y = state
    u = s.scale("lambda") * x + s.norm("siamese.pre_norm", y)
    f = s.drop(s.branch(u, per_head=lambda role, z: s.norm(f"{role}_norm", z)))
    return x + f / math.sqrt(2 * s.layer), y + f


def dense_average(dilation: int = 1, period: int = 1) -> Callable:
    """DenseFormer: after every so many layers, an average of the outputs at this distance from the newest."""

    def layer(state, sites):
        x, outputs = state
        x = in_turn(pre_ln)(x, sites)
        outputs, i = [*outputs, x], sites[0].layer
        if i % period == 0:
            weights = iter(sites[-1].scale("average"))
            x = sum(next(weights) * outputs[j] for j in range(i + 1) if (i - j) % dilation == 0)
        return x, outputs

    return layer


def embedding_skip(layer: Callable, middle: bool = True) -> Callable:
    """nanochat's: a mix with the embeddings first; the middle of the depth is kept."""

    def run(state, sites):
        x, embedded, kept = state
        last = sites[-1]
        p = last.params("begin")
        x = layer(p["scale"] * x + p["embedding_scale"] * embedded, sites)
        return x, embedded, x if middle and last.layer - 1 == last.layers // 2 else kept

    return run


def _sized(x, y):
    """`y` as large as `x`, root mean square for root mean square."""
    size = torch.sqrt((y**2).mean(-1, keepdim=True).clamp(min=1e-5))
    return torch.sqrt((x**2).mean(-1, keepdim=True)) * y / size


def altup_start(streams: int, active: int) -> Callable:
    """Gemma 3n's streams: the embeddings, and projections of them."""

    def start(x, params):
        p = params("start")
        made = [_sized(x, x @ p[f"projections.{i}.weight"].T) for i in range(streams - 1)]
        made.insert(active, x)
        return made

    return start


def altup_end(active: int) -> Callable:
    """Gemma 3n's way back: the mean of the stream that ran and of projections of the others."""

    def end(streams, params):
        p, x = params("head"), streams[active]
        others = [stream for i, stream in enumerate(streams) if i != active]
        return (x + sum(_sized(x, y @ p[f"projections.{i}.weight"].T) for i, y in enumerate(others))) / len(streams)

    return end


def altup(layer: Callable, active: int) -> Callable:
    """AltUp around a layer: a prediction of all streams, and their correction by what the layer made of one."""

    def run(streams, sites):
        p, n = sites[-1].params("layer"), len(streams)

        def modalities(x):
            normed = rms_norm(x, {"weight": p["input_norm.weight"]}, eps=1e-6) / x.shape[-1]
            return torch.tanh(normed @ p["router.weight"].T)

        maps = modalities(streams[active]) @ p["predict_weights.weight"].T
        predicted = [streams[j] + sum(maps[..., j * n + i, None] * streams[i] for i in range(n)) for j in range(n)]
        y = layer(predicted[active], sites)
        weights = 1 + modalities(y) @ p["correct_weights.weight"].T
        return [predicted[i] + weights[..., i, None] * (y - predicted[active]) for i in range(n)]

    return run
