"""The catalogue's rows of everything but norms: placements, residuals, streams, wirings, init rules, growth."""

from .scheme import Rows


_placement = Rows("placement")
_attention = Rows("attention")
_residual = Rows("residual")
_stream = Rows("stream")
_wiring = Rows("wiring")
_init = Rows("init")
_growth = Rows("growth")
_position = Rows("position")
_other = Rows("other")

LAYER_SCHEMES = (
    _placement.built(
        "post_ln",
        "Vaswani et al., 2017, arXiv 1706.03762; BERT, Devlin et al., 2018, arXiv 1810.04805",
        "post_ln",
        {"stream": "single", "wiring": "sequential", "init": "stock"},
    ),
    _placement.built(
        "pre_ln", "Wang et al., ACL 2019, arXiv 1906.01787; Xiong et al., ICML 2020, arXiv 2002.04745", "pre_ln"
    ),
    _placement.built(
        "pre_rms_norm",
        "Zhang & Sennrich, NeurIPS 2019, arXiv 1910.07467; Jiang et al., NeurIPS 2023, arXiv 2305.14858",
        "pre_rms_norm",
    ),
    _placement.expressible(
        "modernbert",
        "ModernBERT's code",
        {
            "preset": "pre_ln",
            "norm": {"kind": "layer_norm", "bias": False},
            "init": ["scaled_output"],
            "layers": [{"index": 0, "attention": []}],
        },
        reason="In AddNormModernBertConfig it is the default, with the stock start.",
    ),
    _placement.expressible("roberta_pre_ln", "Transformers' models/roberta_prelayernorm", {"preset": "pre_ln"}),
    _placement.expressible(
        "megatron_bert", "Transformers' models/megatron_bert", {"preset": "pre_ln", "embed": False}
    ),
    _placement.built("sandwich_ln", "CogView, Ding et al., NeurIPS 2021, arXiv 2105.13290", "sandwich_ln"),
    _placement.built("peri_ln", "Kim et al., ICML 2025, arXiv 2502.02732", "peri_ln"),
    _placement.expressible(
        "gemma2",
        "Gemma 2, as in Transformers' models/gemma2",
        {"preset": "peri_ln", "norm": {"kind": "rms_norm", "zero_centered": True}},
    ),
    _placement.built("res_post_norm", "Swin V2, Liu et al., CVPR 2022, arXiv 2111.09883", "res_post_norm"),
    _placement.left_out(
        "swin_v2_extra_norm",
        "Swin V2, Liu et al., CVPR 2022, arXiv 2111.09883",
        "One more norm on the stream after every sixth layer of the largest model: it was not checked.",
    ),
    _placement.built("olmo2", "OLMo 2, 2025, arXiv 2501.00656", "olmo2"),
    _placement.built("normformer", "Shleifer, Weston & Ott, 2021, arXiv 2110.09456", "normformer"),
    _placement.built("sub_ln", "Magneto, Wang et al., ICML 2023, arXiv 2210.06423", "sub_ln"),
    _placement.built("hybrid_norm", "Zhuo et al., NeurIPS 2025, arXiv 2503.04598", "hybrid_norm"),
    _placement.expressible(
        "hybrid_norm_star",
        "Zhuo et al., NeurIPS 2025, arXiv 2503.04598",
        {
            "preset": "hybrid_norm",
            "layers": [{"index": 0, "attention": ["pre", "q", "k", "v"], "feed_forward": ["pre"]}],
        },
    ),
    _placement.built("mix_ln", "Li, Yin & Liu, ICLR 2025, arXiv 2412.13795", "mix_ln"),
    _placement.built("layer_norm_scaling", "Sun et al., NeurIPS 2025, arXiv 2502.05795", "layer_norm_scaling"),
    _placement.left_out(
        "layer_norm_scaling_as_gain",
        "GPAS's code, Chen et al., 2025, arXiv 2506.22049",
        "The gain starts at 1/sqrt(l) and is learned from there: another scheme under the paper's name.",
    ),
    _placement.built("deepnorm", "Wang et al., 2022, arXiv 2203.00555", "deepnorm"),
    _placement.expressible(
        "deepnorm_encoder_decoder",
        "Wang et al., 2022, arXiv 2203.00555",
        {
            "preset": "deepnorm",
            "residual": {"skip_scale": {"kind": "deepnorm", "decoder_layers": 6}},
            "init": [{"kind": "deepnorm", "decoder_layers": 6}],
        },
    ),
    _placement.built("t_fixup", "Huang, Perez, Ba & Volkovs, ICML 2020", "t_fixup"),
    _placement.left_out(
        "fixup",
        "Zhang, Dauphin & Ma, ICLR 2019, arXiv 1901.09321",
        "It changes the branches' inside: Linear layers without biases, and a scalar shift before each.",
    ),
    _placement.expressible(
        "lipsformer",
        "Qi et al., ICLR 2023, arXiv 2304.09856",
        {
            "norm": "center_norm",
            "residual": {"kind": "vector", "start": {"kind": "power", "of": "layers", "exponent": -1}},
        },
        reason="Its add & norm; not its spectral start of the weights, nor its attention by scaled cosines.",
    ),
    _placement.expressible(
        "norm_every_third_layer",
        "no paper; of this package",
        {"attention": [], "feed_forward": [], "layers": [{"every": 3, "feed_forward": ["post"]}]},
    ),
    _placement.left_out(
        "keel",
        "Chen & Wei, 2026, arXiv 2601.19895",
        "The exception in its first layer and the default of its factor are not confirmed; the parts are there: slots "
        "pre and post, residual constant.",
    ),
    _placement.left_out("span_norm", "Li et al., 2026, arXiv 2601.22580", "Its formula is not confirmed."),
    _placement.left_out("fog", "Hernandez-Cano et al., 2025, arXiv 2505.20524", "Its constants are not confirmed."),
    _placement.left_out(
        "normed_skip",
        "BLOOM and Megatron-LM",
        "The skip starts after the norm; the code was not checked.",
    ),
    _placement.left_out(
        "macaron",
        "Conformer's layer, as in x-transformers",
        "It adds a sublayer to every layer, a feed-forward before attention, while an add & norm scheme is about the "
        "sublayers that a model has. Its half step is the residual constant with branch_scale 0.5.",
    ),
    _placement.left_out(
        "deep_scale_lm",
        "Kedia et al., ICML 2024, arXiv 2403.09635",
        "Its constants are not confirmed: the released code is an analysis, without the model.",
    ),
    _attention.expressible(
        "qk_norm",
        "Henry et al., EMNLP 2020, arXiv 2010.04245; ViT-22B, Dehghani et al., 2023, arXiv 2302.05442",
        {"preset": "pre_ln", "attention": ["pre", "q", "k"]},
        {"preset": "pre_rms_norm", "attention": ["pre", "q", "k"], "qkv_width": "hidden"},
        reason="The norms alone; not a learned scale of the scores.",
    ),
    _attention.expressible(
        "v_norm",
        "HybridNorm, Zhuo et al., NeurIPS 2025, arXiv 2503.04598",
        {"preset": "pre_rms_norm", "attention": ["pre", "v"]},
    ),
    _attention.left_out(
        "qk_norm_after_rotation",
        "nanochat's code",
        "It stands between the rotary embedding and the scores, inside attention.",
    ),
    _attention.left_out(
        "cosine_attention",
        "Swin V2, Liu et al., CVPR 2022, arXiv 2111.09883",
        "Its scale of the scores is inside attention.",
    ),
    _attention.expressible(
        "norm_of_each_head_in_mid",
        "RetNet, Sun et al., 2023, arXiv 2307.08621; Diff Transformer, Ye et al., 2024, arXiv 2410.05258, as in "
        "torchscale and unilm",
        {
            "preset": "pre_rms_norm",
            "attention": {"pre": True, "mid": {"kind": "grouped_rms_norm", "gain": False}},
        },
        {
            "preset": "pre_rms_norm",
            "attention": {"pre": True, "mid": {"kind": "grouped_rms_norm", "shared": True, "eps": 1e-5}},
        },
        reason="The norm alone; not what else these models have inside attention: retention, a gate, a difference of "
        "two score matrices and its constant.",
    ),
    _attention.left_out(
        "pb_relax",
        "CogView, Ding et al., NeurIPS 2021, arXiv 2105.13290",
        "The same scores by other arithmetic, inside attention.",
    ),
    _attention.left_out(
        "value_residual",
        "ResFormer, Zhou et al., ACL 2025, arXiv 2410.17897",
        "It changes attention's inside: the values are mixed with those of the first layer.",
    ),
    _attention.left_out(
        "neutreno",
        "NeuTRENO, as in ResFormer's code",
        "It changes attention's inside: the first layer's values are added after the scores.",
    ),
    _attention.left_out(
        "realformer",
        "He et al., ACL Findings 2021, arXiv 2012.11747",
        "It changes attention's inside: the scores of the layer before are added.",
    ),
    _attention.left_out(
        "lime",
        "Gerasimov et al., 2025, arXiv 2502.09245",
        "It changes attention's inside: keys and values are mixed over all layers so far.",
    ),
    _attention.left_out(
        "mudd",
        "Xiao et al., ICML 2025, arXiv 2502.12170",
        "It changes attention's inside: queries, keys and values are read from three different streams.",
    ),
    _attention.left_out(
        "deep_cross_attention",
        "Heddes et al., 2025, arXiv 2502.06785",
        "It changes attention's inside, as mudd does, and its details are not confirmed.",
    ),
    _attention.left_out(
        "simplified_transformer",
        "He & Hofmann, 2023, arXiv 2311.01906",
        "It changes attention's inside: shaped scores, values and output started as the identity.",
    ),
    _residual.built("add", "He et al., 2015, arXiv 1512.03385", {"residual": "add"}),
    _residual.built("admin", "Liu et al., EMNLP 2020, arXiv 2004.08249", "admin"),
    _residual.expressible(
        "admin_without_data",
        "admin-torch, Liu et al., EMNLP 2020, arXiv 2004.08249",
        {"residual": {"kind": "admin", "start": "admin"}},
    ),
    _residual.built("rezero", "Bachlechner et al., 2020, arXiv 2003.04887", "rezero", {"residual": "scalar"}),
    _residual.expressible(
        "skip_init",
        "De & Smith, 2020, arXiv 2002.10444",
        {"attention": [], "feed_forward": [], "residual": {"kind": "scalar", "start": 0.0}},
    ),
    _residual.built("layer_scale", "CaiT, Touvron et al., 2021, arXiv 2103.17239", "layer_scale"),
    _residual.built("resmlp", "Touvron et al., 2021, arXiv 2105.03404", "resmlp"),
    _residual.expressible(
        "minicpm",
        "MiniCPM, Hu et al., 2024, arXiv 2404.06395, as in Transformers' models/minicpm3",
        {
            "preset": "pre_rms_norm",
            "residual": {
                "kind": "constant",
                "branch_scale": {"kind": "power", "of": "layers", "exponent": -0.5, "factor": 1.4},
            },
        },
    ),
    _residual.expressible(
        "branch_multiplier",
        "Granite and HyperCLOVA X, as in Transformers' models/granite and models/hyperclovax; OLMo-core",
        {"preset": "pre_rms_norm", "residual": {"kind": "constant", "branch_scale": 0.5}},
        reason="The number is that of a checkpoint's config.",
    ),
    _residual.built("beam", "Beam, as in Transformers' models/beam", "beam"),
    _residual.built("muse_gate", "MuseSpark, as in Transformers' models/muse_spark", {"residual": "muse_gate"}),
    _residual.built("muse_spark", "MuseSpark, as in Transformers' models/muse_spark", "muse_spark"),
    _residual.built("zaya", "ZAYA, as in Transformers' models/zaya", {"residual": "affine"}),
    _residual.expressible(
        "doge",
        "Doge, as in Transformers' models/doge",
        {"preset": "pre_rms_norm", "residual": {"kind": "vector", "side": "skip", "start": 1.0}},
    ),
    _residual.expressible(
        "normformer_with_scaled_skip",
        "Shleifer, Weston & Ott, 2021, arXiv 2110.09456",
        {"preset": "normformer", "residual": {"feed_forward": {"kind": "vector", "side": "skip", "start": 1}}},
    ),
    _residual.built("gpas", "Chen et al., 2025, arXiv 2506.22049", {"preset": "pre_ln", "residual": "gpas"}),
    _residual.built("highway", "Srivastava et al., 2015, arXiv 1505.00387", {"residual": "highway"}),
    _residual.built(
        "gtrxl",
        "Parisotto et al., 2019, arXiv 1910.06764",
        "gtrxl",
        {"residual": "gru_gate"},
        {"preset": "gtrxl", "residual": {"kind": "gru_gate", "biases": "all"}},
    ),
    _residual.left_out(
        "other_gtrxl_gates",
        "Parisotto et al., 2019, arXiv 1910.06764",
        "Input, output and sigmoid-tanh gates: their formulas were not checked.",
    ),
    _residual.built(
        "gru_cell_residual",
        "x-transformers' code (gate_residual)",
        {"preset": "pre_ln", "residual": "gru_cell"},
    ),
    _residual.built("laurel_lr", "LAuReL, Menghani et al., 2024, arXiv 2411.07501", {"residual": "laurel_lr"}),
    _residual.left_out(
        "laurel_rw",
        "LAuReL, Menghani et al., 2024, arXiv 2411.07501",
        "The paper fixes neither softmax nor sigmoid for its two weights.",
    ),
    _residual.left_out(
        "laurel_pa",
        "LAuReL, Menghani et al., 2024, arXiv 2411.07501",
        "It needs a history of the sublayers' outputs, and its formula was not checked.",
    ),
    _residual.built(
        "laurel_gemma3n",
        "Gemma 3n, as in Transformers' models/gemma3n",
        {"preset": "peri_ln", "residual": {"attention": {"kind": "laurel_gemma3n", "rank": 16}}},
    ),
    _residual.built(
        "stochastic_depth",
        "Huang et al., 2016, arXiv 1603.09382",
        {"drop_path": {"kind": "linear", "last": 0.1}},
        {"drop_path": 0.1},
    ),
    _residual.left_out(
        "layer_drop",
        "Fan et al., 2020",
        "Its rules for training and evaluation were not checked; families that have it, as Wav2Vec2, keep theirs.",
    ),
    _residual.built("orthogonal", "Oh et al., 2025, arXiv 2505.11881", {"preset": "pre_ln", "residual": "orthogonal"}),
    _residual.left_out("mv_split", "2026, arXiv 2605.06169", "The sources disagree about its formula."),
    _residual.built(
        "deep_delta_learning", "the authors' code, 2026", {"preset": "pre_rms_norm", "residual": "deep_delta"}
    ),
    _residual.left_out(
        "branch_norm",
        "Liu et al., 2023, arXiv 2305.02790",
        "Its weight depends on the training step, which a residual does not know; its schedule was not checked.",
    ),
    _residual.built("ngpt", "Loshchilov et al., 2024, arXiv 2410.01131", "ngpt", {"residual": "normalized_lerp"}),
    _stream.built("residual", "ResiDual, Xie et al., 2023, arXiv 2304.14802", "residual"),
    _stream.built("siamese_norm", "Li et al., ICML 2026, arXiv 2602.08064", "siamese_norm"),
    _stream.expressible(
        "hybrid_siamese_norm",
        "SiameseNorm, Li et al., ICML 2026, arXiv 2602.08064, their OLMo code",
        {
            "preset": "siamese_norm",
            "norm": "rms_norm",
            "stream": {"kind": "siamese", "hybrid": True},
            "attention": ["q", "k", "v"],
        },
    ),
    _stream.built("hyper_connections", "Zhu et al., ICLR 2025, arXiv 2409.19606", "hyper_connections"),
    _stream.built(
        "dynamic_hyper_connections",
        "Zhu et al., ICLR 2025, arXiv 2409.19606",
        "dynamic_hyper_connections",
        {
            "preset": "dynamic_hyper_connections",
            "stream": {"kind": "hyper_connections", "dynamic": True, "norm": "rms_norm", "scales": "three"},
        },
    ),
    _stream.built("frac_connections", "Zhu et al., 2025, arXiv 2503.14125", "frac_connections"),
    _stream.built("mhc", "Xie et al., 2025, arXiv 2512.24880", "mhc"),
    _stream.expressible(
        "mhc_with_learned_head",
        "mHC, Xie et al., 2025, arXiv 2512.24880, as in Transformers' models/deepseek_v4",
        {"preset": "mhc", "stream": {"kind": "manifold_hyper_connections", "reduce": "learned"}},
    ),
    _stream.built(
        "mhc_lite",
        "the authors' code, 2026, arXiv 2601.05732",
        {"preset": "mhc", "stream": "permutation_hyper_connections"},
    ),
    _stream.built(
        "ihc",
        "HunYuan V4, as in Transformers' models/hy_v4",
        {"preset": "mhc", "stream": "independent_hyper_connections", "norm": "rms_norm"},
    ),
    _stream.expressible(
        "glm5_hyper_connections",
        "GLM-5-next, as in Transformers' models/glm5_next",
        {"preset": "mhc", "variant": "official", "norm": "rms_norm"},
        reason="With other start values: there the biases start at 0 and the scales at 1, where a sublayer reads "
        "twice the mean of the streams and mixes them evenly.",
    ),
    _stream.built(
        "qwen4_gated_residual",
        "Qwen4-Exp, as in Transformers' models/qwen4_exp",
        {"attention": [], "feed_forward": [], "stream": "gated_streams"},
    ),
    _stream.built(
        "altup",
        "Baykal et al., NeurIPS 2023, as in Transformers' models/gemma3n",
        {"preset": "pre_rms_norm", "stream": "altup"},
    ),
    _stream.expressible(
        "gemma3n",
        "Gemma 3n, as in Transformers' models/gemma3n",
        {
            "preset": "peri_ln",
            "residual": {"attention": {"kind": "laurel_gemma3n", "rank": 16}},
            "stream": "altup",
        },
        reason="Without the inputs of each layer, which come from a second table of words.",
    ),
    _stream.built(
        "nanochat",
        "the code of nanochat, Karpathy, 2025-2026, after modded-nanogpt",
        {
            "preset": "pre_rms_norm",
            "norm": {"kind": "rms_norm", "gain": False},
            "stream": "embedding_skip",
        },
    ),
    _stream.built("dense_former", "Pagliardini et al., NeurIPS 2024, arXiv 2402.02622", "dense_former"),
    _stream.built(
        "attention_residuals",
        "Kimi, 2026, arXiv 2603.15031",
        {"preset": "pre_rms_norm", "stream": "attention_residuals"},
    ),
    _stream.left_out(
        "block_attention_residuals",
        "Kimi, 2026, arXiv 2603.15031",
        "The form over sums of blocks: how sublayers are cut into blocks where their number does not fit was not "
        "confirmed.",
    ),
    _stream.left_out(
        "layer_sums",
        "U-Net's skips, ELMo's mix, weighted layers of BERT",
        "Fixed or learned sums over layers, without one agreed formula for an encoder; dense_former is one that has.",
    ),
    _stream.left_out(
        "other_histories",
        "MRLA; Residual Matrix Transformer, arXiv 2506.22696; VWN; arXiv 2601.21582",
        "Known by name alone, from the related work of attention residuals.",
    ),
    _wiring.built(
        "parallel", "GPT-J, Wang & Komatsuzaki, 2021; PaLM, Chowdhery et al., 2022, arXiv 2204.02311", "parallel"
    ),
    _wiring.expressible(
        "parallel_with_two_norms",
        "GPT-NeoX, as in Transformers' models/gpt_neox",
        {"preset": "pre_ln", "wiring": {"kind": "parallel", "shared_norm": False}},
    ),
    _wiring.left_out(
        "parallel_pairs",
        "Touvron et al., 2022, arXiv 2203.09795",
        "Two attentions and two feed-forwards side by side: a stock layer has weights for one of each.",
    ),
    _wiring.built("b2t", "Takase et al., ACL Findings 2023, arXiv 2206.00330", "b2t"),
    _wiring.left_out(
        "b2t_without_norm",
        "Takase et al., ACL Findings 2023, arXiv 2206.00330, their code",
        "Its constants are in the code alone, and were not checked against the paper.",
    ),
    _wiring.built("two_hop", "Megalodon, Ma et al., 2024, arXiv 2404.08801", "two_hop"),
    _init.built("scaled_output", "GPT-2, 2019; Megatron-LM, 2019, arXiv 1909.08053", {"init": ["scaled_output"]}),
    _init.built("mitchell", "OLMo's code, Groeneveld et al., 2024, arXiv 2402.00838", {"init": ["mitchell"]}),
    _init.built("ds_init", "Zhang, Titov & Sennrich, EMNLP 2019, arXiv 1908.11365", "ds_init"),
    _init.built("zero_out_norm", "Swin V2, Liu et al., CVPR 2022, arXiv 2111.09883", "res_post_norm"),
    _init.built("small_embeddings", "Nguyen & Salazar, 2019, arXiv 1910.05895", {"init": ["small_embeddings"]}),
    _growth.built("stacking", "StackingBERT, Gong et al., ICML 2019", "grow"),
    _growth.built("zeroed_branches", "function-preserving growth of a pre-norm model", "grow"),
    _growth.left_out(
        "other_growth",
        "CompoundGrow, MSLT, bert2BERT, LiGO, LEMON",
        "Their rules were not checked.",
    ),
    _other.built("stacks_of_encoders", "no paper; of this package", "AddNormStackConfig"),
    _position.built("sinusoidal_positions", "Vaswani et al., 2017, arXiv 1706.03762", {"positions": "sinusoidal"}),
    _position.built(
        "learned_positions",
        "BERT, Devlin et al., 2018, arXiv 1810.04805",
        {"positions": "stock"},
        {"positions": "learned"},
    ),
    _position.built("no_positions", "no paper; of this package", {"positions": "none"}),
)
