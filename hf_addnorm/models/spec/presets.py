"""Presets: one declarative row per published scheme, in the paper's form.

`spec` names only the axes in which the scheme differs from `post_ln`, the add & norm of BERT.
"""

from dataclasses import dataclass, field

from ..base.protocols import JsonValue


@dataclass(frozen=True)
class Preset:
    """A published add & norm scheme.

    Args:
        formula (`str`): one sublayer; F is attention or feed-forward, N the norm, l the layer from 1, L the depth.
        flow (`str`): the same as a drawing, from the stream to the stream.
        source (`str`): paper, year, arXiv id.
        spec (`dict`): the axes, over those of `post_ln`.
        official (`dict`): the axes of the authors' code, over `spec`, where it differs from the paper.
        note (`str`): what a user must know beyond the formula.
        whole (`bool`): whether its axes hold only together: a spec may not change one.
    """

    formula: str
    flow: str
    source: str
    spec: dict[str, JsonValue] = field(default_factory=dict)
    official: dict[str, JsonValue] = field(default_factory=dict)
    note: str = ""
    whole: bool = False


_PRE = {"attention": ["pre"], "feed_forward": ["pre"], "final": True}

PRESETS: dict[str, Preset] = {
    "post_ln": Preset(
        formula="x <- N(x + F(x))",
        flow="x -+-> F -> drop -> + -> N -> x\n   +-----------------^",
        source="Vaswani et al., 2017, arXiv 1706.03762; BERT, Devlin et al., 2018, arXiv 1810.04805",
        note="The stock model, bit for bit. Deep stacks need learning-rate warm-up.",
    ),
    "pre_ln": Preset(
        formula="x <- x + F(N(x)); N after the last layer",
        flow="x -+-> N -> F -> drop -> + -> x   (final: N)\n   +----------------------^",
        source="Wang et al., 2019, arXiv 1906.01787; Xiong et al., 2020, arXiv 2002.04745",
        spec=_PRE,
        note="The embedding norm stays where the stock model has one.",
    ),
    "pre_rms_norm": Preset(
        formula="x <- x + F(RMS(x)); RMS after the last layer",
        flow="x -+-> RMS -> F -> drop -> + -> x   (final: RMS)\n   +------------------------^",
        source="Zhang & Sennrich, 2019, arXiv 1910.07467; Jiang et al., 2023, arXiv 2305.14858",
        spec={**_PRE, "norm": "rms_norm"},
    ),
    "sandwich_ln": Preset(
        formula="x <- x + N'(F(N(x))); N after the last layer",
        flow="x -+-> N -> F -> drop -> N' -> + -> x   (final: N)\n   +----------------------------^",
        source="CogView, Ding et al., 2021, arXiv 2105.13290",
        spec={"attention": ["pre", "out"], "feed_forward": ["pre", "out"], "final": True},
    ),
    "res_post_norm": Preset(
        formula="x <- x + N(F(x)), N starting at 0; N after the last layer",
        flow="x -+-> F -> drop -> N -> + -> x   (final: N)\n   +----------------------^",
        source="Swin Transformer V2, Liu et al., 2021, arXiv 2111.09883",
        spec={"attention": ["out"], "feed_forward": ["out"], "final": True, "init": ["zero_out_norm"]},
    ),
    "sub_ln": Preset(
        formula="x <- x + W_o N'(core(W_in N(x))); N after the last layer",
        flow="x -+-> N -> W_in -> core -> N' -> W_o -> drop -> + -> x   (final: N)\n"
        "   +----------------------------------------------^",
        source="Magneto, Wang et al., 2022, arXiv 2210.06423",
        spec={
            "attention": ["pre", "mid"],
            "feed_forward": ["pre", "mid"],
            "final": True,
            "init": ["sub_ln"],
        },
        official={"init": [{"kind": "sub_ln", "base": "stock"}]},
        note="v, o, w1, w2 start sqrt(ln 2L) times as large as a Xavier normal draw; official: as the model's own. An "
        "encoder-decoder has another factor, of both depths.",
    ),
    "normformer": Preset(
        formula="x <- x + N'(W_o (g_h * head_h(N(x)))); x <- x + W_2 N'(act(W_1 N(x))); N after the last layer",
        flow="x -+-> N -> heads * g -> W_o -> N' -> drop -> + -> x   (attention)\n"
        "   +-------------------------------------------^\n"
        "x -+-> N -> W_1 -> act -> N' -> W_2 -> drop -> + -> x\n"
        "   +-------------------------------------------^   (feed-forward; final: N)",
        source="NormFormer, Shleifer, Weston & Ott, 2021, arXiv 2110.09456",
        spec={
            "attention": {"pre": True, "mid": {"kind": "affine", "bias": False, "groups": "heads"}, "out": True},
            "feed_forward": ["pre", "mid"],
            "final": True,
            "dropout": "after_out",
        },
        official={
            "attention": {"pre": True, "out": {"kind": "input_scaled_layer_norm", "groups": "heads"}},
            "residual": {"feed_forward": {"kind": "vector", "side": "skip", "start": 1.0}},
        },
        note="One gain per head before W_o; official: behind it, the output cut into as many parts. The optional "
        "gain on the feed-forward's skip, a vector, is left out, as for the paper's larger models; official: with it.",
    ),
    "mix_ln": Preset(
        formula="post_ln in the first L/4 layers (rounded down), pre_ln in the rest; N after the last layer",
        flow="x -+-> F -> drop -> + -> N -> x   (layers 1 to L/4)\n"
        "   +-----------------^\n"
        "x -+-> N -> F -> drop -> + -> x   (layers above; final: N)\n"
        "   +----------------------^",
        source="Li, Yin & Liu, 2024, arXiv 2412.13795",
        spec={**_PRE, "layers": [{"first_fraction": 0.25, "attention": ["post"], "feed_forward": ["post"]}]},
    ),
    "layer_norm_scaling": Preset(
        formula="x <- x + F(N(x) / sqrt(l)); N after the last layer",
        flow="x -+-> N -> / sqrt(l) -> F -> drop -> + -> x   (final: N)\n   +-----------------------------------^",
        source="The Curse of Depth, Sun et al., 2025, arXiv 2502.05795",
        spec={**_PRE, "pre_scale": {"kind": "power", "of": "layer", "exponent": -0.5}},
        note="Not to be combined with scaled output weights at the start.",
    ),
    "deepnorm": Preset(
        formula="x <- N((2L)^(1/4) x + F(x))",
        flow="x -+-> F -> drop --------> + -> N -> x\n   +-> * (2L)^(1/4) -------^",
        source="DeepNet, Wang et al., 2022, arXiv 2203.00555",
        spec={"residual": {"kind": "constant", "skip_scale": "deepnorm"}, "init": ["deepnorm"]},
        official={"init": [{"kind": "deepnorm", "base": "stock"}]},
        note="v, o, w1, w2 start (8L)^(-1/4) times as large as a Xavier normal draw; official: as the model's own. An "
        "encoder-decoder has other constants, of both depths.",
    ),
    "admin": Preset(
        formula="x <- N(omega * x + F(x)), omega a vector that starts as large as the stream has grown",
        flow="x -+-> F -> drop -> + -> N -> x\n   +-> * omega -----^",
        source="Admin, Liu et al., 2020, arXiv 2004.08249",
        spec={"residual": "admin"},
        note="model.calibrate(batch) before training sets omega; until then it is 1, and the scheme is post_ln.",
    ),
    "rezero": Preset(
        formula="x <- x + alpha F(x), alpha starting at 0, one for both sublayers of a layer; no norm in the layers",
        flow="x -+-> F -> drop -> * alpha -> + -> x\n   +----------------------------^",
        source="ReZero is All You Need, Bachlechner et al., 2020, arXiv 2003.04887",
        spec={"attention": [], "feed_forward": [], "residual": {"kind": "scalar", "start": 0.0, "share": "layer"}},
        note="The embedding norm stays where the stock model has one. At the first step only alpha has a gradient.",
    ),
    "ds_init": Preset(
        formula="x <- N(x + F(x)), the weights of layer l starting 1/sqrt(l) times as large",
        flow="x -+-> F -> drop -> + -> N -> x\n   +-----------------^",
        source="DS-Init, Zhang, Titov & Sennrich, 2019, arXiv 1908.11365",
        spec={"init": ["ds_init"]},
        official={"init": [{"kind": "ds_init", "exponent": -0.25}]},
        note="Xavier uniform draws. The official code's 1/sqrt(l) is read as a variance: l^(-1/4).",
    ),
    "t_fixup": Preset(
        formula="x <- x + F(x), no norm, v, o, w1, w2 starting 0.67 L^(-1/4) times as large",
        flow="x -+-> F -> drop -> + -> x\n   +-----------------^",
        source="T-Fixup, Huang, Perez, Ba & Volkovs, ICML 2020",
        spec={"attention": [], "feed_forward": [], "embed": False, "init": ["t_fixup"]},
        note="Xavier normal draws; the tables of the embeddings start N(0, 1/d) times (9L)^(-1/4). For text only.",
    ),
    "layer_scale": Preset(
        formula="x <- x + lambda * F(N(x)), lambda a vector starting small; N after the last layer",
        flow="x -+-> N -> F -> drop -> * lambda -> + -> x   (final: N)\n   +----------------------------------^",
        source="CaiT, Touvron et al., 2021, arXiv 2103.17239",
        spec={**_PRE, "residual": {"kind": "vector", "start": "cait"}},
    ),
    "gtrxl": Preset(
        formula="x <- G(x, relu(F(N(x)))), G a recurrent unit: (1 - z) x + z h; N after the last layer",
        flow="x -+-> N -> F -> drop -> relu -> G -> x   (final: N)\n   +----------------------------^",
        source="GTrXL, Parisotto et al., 2019, arXiv 1910.06764",
        spec={**_PRE, "residual": "gru_gate"},
        note="Six more hidden x hidden matrices per sublayer. The paper's memory is not part of it.",
    ),
    "beam": Preset(
        formula="x <- sqrt((k-1)/k) x + RMS'(F(RMS(x))) / sqrt(k), k the sublayer from 2; RMS after the last layer",
        flow="x -+-> RMS -> F -> drop -> RMS' -> * 1/sqrt(k) -> + -> x   (final: RMS)\n"
        "   +-> * sqrt((k-1)/k) ---------------------------^",
        source="the depth-scaled residual of Beam, as in Transformers' models/beam",
        spec={
            "norm": "rms_norm",
            "attention": ["pre", "out"],
            "feed_forward": ["pre", "out"],
            "final": True,
            "residual": {
                "kind": "constant",
                "skip_scale": {"kind": "beam", "side": "skip"},
                "branch_scale": {"kind": "beam", "side": "branch"},
            },
        },
    ),
    "ngpt": Preset(
        formula="x <- J(J(x) + |a| * (J(F(x)) - J(x))), J(z) = z / length; unit vectors in all weights; "
        "scores sqrt(d_h) (s J(q)) (s J(k))^T; W_2 act(s_u sqrt(d) W_1 x); logits times s_z",
        flow="x -+-> F -> drop -> J -> * |a| ---+-> J -> x\n   +-> J -> * (1 - |a|) -----------^",
        source="nGPT, Loshchilov et al., 2024, arXiv 2410.01131",
        spec={
            "norm": "l2_norm",
            "embed": True,
            "attention": {"qk": {"kind": "scaled_l2_norm", "groups": "heads"}},
            "feed_forward": {"up": {"kind": "learned_scale", "factor": "sqrt_width"}},
            "head": True,
            "logits": {"kind": "learned_scale", "stored": "rsqrt_width"},
            "qkv_width": "hidden",
            "residual": "normalized_lerp",
            "weights": "unit_vectors",
            "init": ["unit_vectors"],
        },
        note="A whole: no axis of it may be changed. Without a gate, a feed-forward is the path of the paper's gate. "
        "The sum of several tables of embeddings is put on the sphere, where one table's rows are; so is what an "
        "MLM head's own layer gives. Biases, which the paper has none of, stay as the family has them, starting at 0. "
        "The weights are normalised in every forward, not after every step: see the transform unit_vectors. "
        "To be trained without warm-up and without weight decay; dropout is off in the paper.",
        whole=True,
    ),
    "muse_spark": Preset(
        formula="x <- sqrt(1 - b^2) x + b N'(F(RMS(x))), b = sigmoid(gate / 0.3); N' is RMS behind attention, RMS of "
        "a scaled input behind feed-forward; RMS after the last layer",
        flow="x -+-> RMS -> F -> drop -> N' -> * b -> + -> x   (final: RMS)\n"
        "   +-> * sqrt(1 - b^2) ------------------^",
        source="MuseSpark, as in Transformers' models/muse_spark",
        spec={
            "norm": {"kind": "rms_norm", "eps": 1e-5},
            "embed": {"kind": "rms_norm", "gain": False, "eps": 1e-5},
            "attention": {
                "pre": {"kind": "rms_norm", "zero_centered": True, "eps": 1e-5},
                "q": {"kind": "rms_norm", "gain": False, "eps": 1e-5},
                "k": {"kind": "rms_norm", "gain": False, "eps": 1e-5},
                "mid": {"kind": "grouped_rms_norm", "gain": False, "eps": 1e-5},
                "out": {"kind": "rms_norm", "gain": False, "eps": 1e-8},
            },
            "feed_forward": {
                "pre": {"kind": "rms_norm", "zero_centered": True, "eps": 1e-5},
                "out": {"kind": "input_scaled_rms_norm", "eps": 1e-8},
            },
            "final": True,
            "residual": "muse_gate",
        },
        note="Norms of q, k and each head's output, without gains, are part of it; the scale of the scores and the "
        "gate on the heads' outputs, which are inside attention, are not. Norms of pre have a gain 1 + w.",
    ),
    "hybrid_norm": Preset(
        formula="y <- RMS(x + W_o attn(RMS(q), RMS(k), RMS(v))); x <- y + M(y); RMS after the last layer",
        flow="x -+-> q, k, v -> RMS of each head -> core -> W_o -> drop -> + -> RMS -> y\n"
        "   +------------------------------------------------------^   (attention)\n"
        "y -+-> M -> drop -> + -> x   (feed-forward; final: RMS)\n"
        "   +----------------^",
        source="HybridNorm, Zhuo et al., 2025, arXiv 2503.04598",
        spec={
            "norm": "rms_norm",
            "attention": ["q", "k", "v", "post"],
            "feed_forward": [],
            "final": True,
            "init": ["scaled_output"],
        },
        note="The norms of q, k, v are one per role, shared by the heads, before a rotary embedding.",
    ),
    "parallel": Preset(
        formula="x <- x + A(N(x)) + M(N(x)), one N for both; N after the last layer",
        flow="x -+-> N -+-> A -> drop -> + -> + -> x   (final: N)\n"
        "   |      +-> M -> drop -^    |\n"
        "   +--------------------------^",
        source="GPT-J, Wang & Komatsuzaki, 2021; PaLM, Chowdhery et al., 2022, arXiv 2204.02311",
        spec={**_PRE, "wiring": "parallel"},
        note="A layer adds to the stream once; depth rules count it as one sublayer.",
    ),
    "b2t": Preset(
        formula="h <- N(x + A(x)); x <- N'(x + h + M(h))",
        flow="x -+-> A -> drop -> + -> N -> h -+-> M -> drop -> + -> N' -> x\n"
        "   +----------------^            +----------------^\n"
        "   +----------------------------------------------^",
        source="B2T connection, Takase et al., 2022, arXiv 2206.00330",
        spec={"wiring": "b2t", "init": ["b2t"]},
        note="All weights of the layers start 1/sqrt(L) times as large.",
    ),
    "two_hop": Preset(
        formula="y <- x + A(N(x)); x <- x + M(N(y)); N after the last layer",
        flow="x -+-> N -> A -> drop -> + -> y -> N -> M -> drop -> + -> x   (final: N)\n"
        "   +---------------------^                            |\n"
        "   +--------------------------------------------------^",
        source="Megalodon, Ma et al., 2024, arXiv 2404.08801",
        spec={**_PRE, "wiring": "two_hop"},
        note="Only the placement of the paper's architecture.",
    ),
    "residual": Preset(
        formula="x <- N(x + F(x)), y <- y + F(x); x + N'(y) after the last layer",
        flow="x -+-> F -> drop -+-> + -> N -> x\n"
        "   +--------------------^\n"
        "y ----------------> + --> y   (at the end: x + N'(y))\n"
        "        F -> drop --^",
        source="ResiDual, Xie et al., 2023, arXiv 2304.14802",
        spec={"stream": "dual"},
        official={"stream": {"kind": "dual", "eps": 1e-7}},
        note="Hidden states between the layers are those of x. Official: N' has an eps of its own, 1e-7. The code's "
        "factors, 1 by default as here, are the stream's scale (on all that goes into y) and post_scale (on x).",
    ),
    "hyper_connections": Preset(
        formula="u = a_0^T H; H <- A^T H + b F(N(u))^T, H n copies of the stream; N after the sum of the copies",
        flow="H -+-> a_0 -> N -> F -> drop -> b -> + -> H   (n streams; at the end: sum, N)\n"
        "   +-> A ------------------------------^",
        source="Hyper-Connections, static, Zhu et al., 2024, arXiv 2409.19606",
        spec={**_PRE, "stream": {"kind": "hyper_connections", "reduce": "sum"}},
        note="At its start every copy is the plain pre-norm stream. Hidden states between the layers are the sums.",
    ),
    "dynamic_hyper_connections": Preset(
        formula="as hyper_connections, with a_0, A and b plus s tanh(LN(H) W), W starting at 0; N after the sum",
        flow="H -+-> a_0(H) -> N -> F -> drop -> b(H) -> + -> H\n"
        "   +-> A(H) ------------------------------^   (n streams; at the end: sum, N)",
        source="Hyper-Connections, dynamic, Zhu et al., 2024, arXiv 2409.19606",
        spec={**_PRE, "stream": {"kind": "hyper_connections", "reduce": "sum", "dynamic": True}},
        note="It begins as hyper_connections does.",
    ),
    "frac_connections": Preset(
        formula="as dynamic_hyper_connections, over 4 fractions of one stream instead of copies of it",
        flow="H -+-> Y(H) -> N -> F -> drop -> b(H) -> + -> H\n"
        "   +-> A(H) ------------------------------^   (4 fractions; final: N)",
        source="Frac-Connections, Zhu et al., 2025, arXiv 2503.14125",
        spec={**_PRE, "stream": {"kind": "hyper_connections", "streams": 1, "fractions": 4, "dynamic": True}},
        note="It begins as pre_ln.",
    ),
    "mhc": Preset(
        formula="u = p(H)^T H; H <- C(H) H + w(H) F(N(u))^T, C doubly stochastic; N after the mean of the streams",
        flow="H -+-> p(H) -> N -> F -> drop -> w(H) -> + -> H\n"
        "   +-> C(H) ------------------------------^   (n streams; at the end: mean, N)",
        source="mHC, Xie et al., 2025, arXiv 2512.24880",
        spec={**_PRE, "stream": "manifold_hyper_connections"},
        official={"stream": {"kind": "manifold_hyper_connections", "official": True}},
        note="The official code mixes by the transposed matrix, normalises rows first, and adds 1e-6 in some places.",
    ),
    "siamese_norm": Preset(
        formula="x <- N_1(x); f = F(N(x + N_2(y))); x <- x + f / sqrt(2l), y <- y + f; N(N_3(x) + N_4(y)) at the end",
        flow="x -> N_1 -+-------> + -> N -> F -> drop -+-> / sqrt(2l) -> + -> x\n"
        "          |         |                      |               ^- x\n"
        "y -------------> N_2                       +-------------> + -> y\n"
        "(final: N of N_3(x) + N_4(y))",
        source="SiameseNorm, Li et al., 2026, arXiv 2602.08064",
        spec={**_PRE, "stream": "siamese"},
        note="Hidden states between the layers are those of x.",
    ),
    "dense_former": Preset(
        formula="X_l = the pre_ln layer of x; x <- sum_j a_lj X_j over all layers so far; N after the last layer",
        flow="x -> pre_ln layer -> X_l -> average with X_0 .. X_(l-1) -> x   (final: N)",
        source="DenseFormer, Pagliardini et al., 2024, arXiv 2402.02622",
        spec={**_PRE, "stream": "dense"},
        note="It begins as pre_ln: the average is the newest output. It keeps the outputs of all layers in memory.",
    ),
    "peri_ln": Preset(
        formula="x <- x + RMS'(F(RMS(x))); RMS after the last layer",
        flow="x -+-> RMS -> F -> drop -> RMS' -> + -> x   (final: RMS)\n   +--------------------------------^",
        source="Peri-LN, Kim et al., 2025, arXiv 2502.02732",
        spec={"norm": "rms_norm", "attention": ["pre", "out"], "feed_forward": ["pre", "out"], "final": True},
        note='The paper\'s norm after the embeddings is optional: `"embed": true` where the stock model has none.',
    ),
    "olmo2": Preset(
        formula="x <- x + RMS(W_o attn(RMS_q(q), RMS_k(k), v)); x <- x + RMS(M(x)); RMS after the last layer",
        flow="x -+-> q, k -> RMS, v -> core -> W_o -> drop -> RMS -> + -> x   (attention)\n"
        "   +---------------------------------------------------^\n"
        "x -+-> M -> drop -> RMS -> + -> x   (feed-forward; final: RMS)\n"
        "   +-----------------------^",
        source="2 OLMo 2 Furious, OLMo team, 2025, arXiv 2501.00656",
        spec={
            "norm": "rms_norm",
            "attention": ["q", "k", "out"],
            "feed_forward": ["out"],
            "final": True,
            "qkv_width": "hidden",
        },
        note="The norms of q and k take all heads at once, before a rotary embedding. The embedding norm, which the "
        "paper has not, stays where the stock model has one.",
    ),
    "resmlp": Preset(
        formula="x <- x + lambda * F(Aff(x)), lambda a vector starting at 1e-4; Aff after the last layer",
        flow="x -+-> Aff -> F -> drop -> * lambda -> + -> x   (final: Aff)\n   +------------------------------------^",
        source="ResMLP, Touvron et al., 2021, arXiv 2105.03404",
        spec={**_PRE, "norm": "affine", "residual": {"kind": "vector", "start": 1e-4}},
        note="No statistics in the layers: Aff is a gain and a bias. The embedding norm, where the stock model has "
        "one, becomes Aff too. Lambda starts as in the authors' code.",
    ),
    "dyt": Preset(
        formula="x <- x + F(DyT(x)); DyT after the last layer",
        flow="x -+-> DyT -> F -> drop -> + -> x   (final: DyT)\n   +------------------------^",
        source="Transformers without Normalization, Zhu et al., 2025, arXiv 2503.10622",
        spec={**_PRE, "norm": "dyt"},
        note="The embedding norm, where the stock model has one, becomes DyT too.",
    ),
    "derf": Preset(
        formula="x <- x + F(Derf(x)); Derf after the last layer",
        flow="x -+-> Derf -> F -> drop -> + -> x   (final: Derf)\n   +-------------------------^",
        source="Derf, Chen et al., 2025, arXiv 2512.10938",
        spec={**_PRE, "norm": "derf"},
        note="The embedding norm, where the stock model has one, becomes Derf too.",
    ),
}
