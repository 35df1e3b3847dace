"""The catalogue's rows of norms, and of what acts on the weights instead."""

from .scheme import Rows


_norm = Rows("norm")
_weight_transform = Rows("weight transform")

NORM_SCHEMES = (
    _norm.built("layer_norm", "Ba, Kiros & Hinton, 2016, arXiv 1607.06450", {"norm": "layer_norm"}),
    _norm.expressible("layer_norm_without_bias", "ModernBERT's code", {"norm": {"kind": "layer_norm", "bias": False}}),
    _norm.expressible(
        "layer_norm_without_gain",
        "Xu et al., NeurIPS 2019, arXiv 1911.07013",
        {"norm": {"kind": "layer_norm", "gain": False, "bias": False}},
    ),
    _norm.expressible(
        "layer_norm_1p",
        "Nemotron and Megatron-LM, as in Transformers' models/nemotron",
        {"norm": {"kind": "layer_norm", "zero_centered": True}},
    ),
    _norm.built(
        "rms_norm",
        "Zhang & Sennrich, NeurIPS 2019, arXiv 1910.07467",
        {"norm": "rms_norm"},
        {"norm": {"kind": "rms_norm", "eps": 1e-8, "eps_place": "outside"}},
    ),
    _norm.expressible(
        "zero_centered_rms_norm",
        "Gemma 2, as in Transformers' models/gemma2",
        {"norm": {"kind": "rms_norm", "zero_centered": True}},
    ),
    _norm.built("prms_norm", "Zhang & Sennrich, NeurIPS 2019, arXiv 1910.07467", {"norm": "prms_norm"}),
    _norm.built(
        "crms_norm",
        "Jiang, Gu, Zhu & Pan, NeurIPS 2023, arXiv 2305.14858",
        {"norm": "crms_norm"},
        {"preset": "pre_ln", "norm": "crms_norm"},
    ),
    _norm.built("scale_norm", "Nguyen & Salazar, 2019, arXiv 1910.05895", {"norm": "scale_norm"}),
    _norm.built("l2_norm", "nGPT, Loshchilov et al., 2024, arXiv 2410.01131", {"norm": "l2_norm"}),
    _norm.built("sum_norm", "no paper; of this package", {"norm": "sum_norm"}),
    _norm.built("group_norm", "Wu & He, 2018, arXiv 1803.08494", {"norm": "group_norm"}),
    _norm.built("grouped_rms_norm", "Qwen4-Exp, as in Transformers' models/qwen4_exp", {"norm": "grouped_rms_norm"}),
    _norm.built("sequence_group_norm", "Wu & He, 2018, arXiv 1803.08494", {"norm": "sequence_group_norm"}),
    _norm.left_out(
        "timestep_norm",
        "Megalodon, Ma et al., 2024, arXiv 2404.08801",
        "Its statistics run causally over time; no form for an encoder, which sees both sides, is published.",
    ),
    _norm.built("instance_norm", "Ulyanov et al., 2016, arXiv 1607.08022", {"norm": "instance_norm"}),
    _norm.built("batch_norm", "Ioffe & Szegedy, 2015, arXiv 1502.03167", {"norm": "batch_norm"}),
    _norm.left_out(
        "batch_norm_over_scaled_tokens",
        "PowerNorm's code, Shen et al., ICML 2020, arXiv 2003.07845",
        "Its mask fills padded places with the mean, so that the variance depends on how much padding there is.",
    ),
    _norm.built("rep_bn", "SLAB, Guo et al., ICML 2024, arXiv 2405.11582", {"norm": "rep_bn"}),
    _norm.built("progressive_rep_bn", "SLAB, Guo et al., ICML 2024, arXiv 2405.11582", {"norm": "progressive_rep_bn"}),
    _norm.built(
        "power_norm",
        "Shen et al., ICML 2020, arXiv 2003.07845",
        {"norm": "power_norm"},
        {"norm": {"kind": "power_norm", "variant": "official", "groups": "heads"}},
    ),
    _norm.built(
        "unified_norm",
        "Yang et al., ACM MM 2022, arXiv 2208.01313",
        {"norm": "unified_norm"},
        {"norm": {"kind": "unified_norm", "variant": "official"}},
    ),
    _norm.built("regularized_bn", "Wang et al., NeurIPS 2022, arXiv 2210.05153", {"norm": "regularized_bn"}),
    _norm.built(
        "dynamic_token_norm",
        "Shao et al., ICLR 2022, arXiv 2112.02624",
        {"norm": "dynamic_token_norm"},
        {"norm": {"kind": "dynamic_token_norm", "variant": "official"}},
    ),
    _norm.built("dyt", "Zhu, Chen, He, LeCun & Liu, CVPR 2025, arXiv 2503.10622", "dyt", {"norm": "dyt"}),
    _norm.expressible(
        "dyt_llama",
        "Zhu et al., CVPR 2025, arXiv 2503.10622, their LLaMA code",
        {
            "preset": "dyt",
            "embed": {"kind": "affine", "bias": False, "groups": 1, "start": "root_of_width"},
            "attention": {"pre": {"kind": "dyt", "alpha_init": 0.8}},
            "feed_forward": {"pre": {"kind": "dyt", "alpha_init": 0.2}},
            "final": {"kind": "dyt", "alpha_init": 0.2},
        },
        reason="The start values of alpha go by the width, and those here are an example: the paper's table was not "
        "checked.",
    ),
    _norm.built("derf", "Chen, Lu, Zhu, Sun & Liu, 2025, arXiv 2512.10938", "derf", {"norm": "derf"}),
    _norm.built("isru", "Derf's code, Chen et al., 2025, arXiv 2512.10938", {"norm": "isru"}),
    _norm.left_out(
        "dy_isru",
        "Stollenwerk, 2025, arXiv 2503.21708",
        "Its constants are not confirmed; isru is the function of Derf's code, which has others.",
    ),
    _norm.left_out(
        "other_point_functions",
        "Derf's code, Chen et al., 2025, arXiv 2512.10938",
        "Arctan, satursin and other functions that the authors tried besides; isru stands for them.",
    ),
    _norm.built("bhyt_star", "Byun et al., 2026, arXiv 2601.09719", {"norm": "bhyt_star"}),
    _norm.left_out(
        "bhyt",
        "Byun et al., 2026, arXiv 2601.09719",
        "One statistic serves several places of a layer, while a norm here is a function of its own input.",
    ),
    _norm.built("affine", "ResMLP, Touvron et al., 2021, arXiv 2105.03404", {"norm": "affine"}),
    _norm.expressible("no_norm", "MobileBERT, Sun et al., ACL 2020", {"preset": "post_ln", "norm": "affine"}),
    _norm.built("none", "no paper; the identity", {"norm": "none"}),
    _norm.built(
        "zero_mean_layer_norm",
        "Jiang, Gu, Zhu & Pan, NeurIPS 2023, arXiv 2305.14858",
        {"preset": "pre_rms_norm", "embed": "zero_mean_layer_norm", "weights": "zero_mean_output"},
    ),
    _norm.built("center_norm", "LipsFormer, Qi et al., ICLR 2023, arXiv 2304.09856", {"norm": "center_norm"}),
    _norm.built("fixed_sigma", "Heimersheim, 2024, arXiv 2409.13710", {"norm": "fixed_sigma"}),
    _norm.built("ada_norm", "Xu et al., NeurIPS 2019, arXiv 1911.07013", {"norm": "ada_norm"}),
    _norm.expressible(
        "layer_norm_simple", "Xu et al., NeurIPS 2019, arXiv 1911.07013", {"norm": {"kind": "ada_norm", "k": 0}}
    ),
    _norm.expressible(
        "detach_norm",
        "Xu et al., NeurIPS 2019, arXiv 1911.07013",
        {"norm": {"kind": "ada_norm", "k": 0, "detach": True}},
    ),
    _norm.built("see_dnorm", "Cai, Zhu, Liu & Min, ICLR 2026, arXiv 2510.22777", {"norm": "see_dnorm"}),
    _norm.left_out(
        "multi_head_see_dnorm",
        "Cai, Zhu, Liu & Min, ICLR 2026, arXiv 2510.22777",
        "The form with one number for each head: known by its description alone, no code of the authors was found.",
    ),
    _norm.built("gated_rms_norm", "A.X-K2, as in Transformers' models/axk2", {"norm": "gated_rms_norm"}),
    _norm.built(
        "input_scaled_rms_norm",
        "MuseSpark, as in Transformers' models/muse_spark",
        {"norm": "input_scaled_rms_norm"},
    ),
    _norm.built("contra_norm", "Guo et al., ICLR 2023, arXiv 2303.06562", {"norm": "contra_norm"}),
    _norm.expressible(
        "contra_norm_of_features",
        "Guo et al., ICLR 2023, arXiv 2303.06562, their BERT code",
        {"norm": {"kind": "contra_norm", "over": "features", "identity": True}},
    ),
    _norm.left_out(
        "manifold_norm",
        "Chakraborty, 2020, arXiv 2003.13869",
        "A name without one meaning: the paper is about matrix manifolds, other uses of it have no paper.",
    ),
    _norm.left_out("rms_power", "no paper", "Division by a power of the RMS: known from one person's code alone."),
    _weight_transform.built("plain_weights", "Vaswani et al., 2017, arXiv 1706.03762", {"weights": "none"}),
    _weight_transform.built(
        "weight_standardization", "Qiao et al., 2019, arXiv 1903.10520", {"weights": "weight_standardization"}
    ),
    _weight_transform.expressible(
        "scaled_weight_standardization",
        "NFNets, Brock et al., 2021, arXiv 2102.06171",
        {"weights": {"kind": "weight_standardization", "fan_in": True}},
        reason="Without the learned gain of each output and the constant of the activation.",
    ),
    _weight_transform.built("sigma_reparam", "Zhai et al., ICML 2023, arXiv 2303.06296", {"weights": "sigma_reparam"}),
    _weight_transform.built(
        "fix_norm",
        "Nguyen & Salazar, 2019, arXiv 1910.05895",
        {"weights": "fix_norm"},
        {"preset": "pre_ln", "norm": "scale_norm", "weights": "fix_norm"},
    ),
    _weight_transform.built(
        "zero_mean_output",
        "Jiang, Gu, Zhu & Pan, NeurIPS 2023, arXiv 2305.14858",
        {"weights": "zero_mean_output"},
        {
            "preset": "pre_rms_norm",
            "norm": {"kind": "rms_norm", "bias": True},
            "embed": {"kind": "fixed_sigma", "gain": False, "bias": False},
            "weights": "zero_mean_output",
        },
    ),
    _weight_transform.left_out(
        "bit_net",
        "BitNet",
        "Every Linear layer is quantised and has a norm of its own inside; the formula was not checked.",
    ),
)
