"""Transformers' own test mixins on a family's models, stock or ours. Run by `test_conformance.py`, as a script.

The source distribution holds the mixins, but not the tests of single models: what those add is in `ROWS` below. The
configs are those of our own tests, with two layers, as in Transformers' tests.
"""

import argparse
import importlib
import json
import os
import sys
import types
import unittest
import unittest.mock
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from families import FAMILIES
from transformers import set_seed


# What the source distribution imports but does not contain. A later one that does is used as it is.
STUBS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "output_hidden_states": True,
            "output_attentions": True,
            "return_dict": False,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["BertModel"],
            "id2label": {0: "no", 1: "yes"},
            "label2id": {"no": 0, "yes": 1},
            "problem_type": "regression",
            "is_encoder_decoder": True,
        }
    },
}

for path, content in STUBS.items():
    try:
        importlib.import_module(f"stock_tests.{path}")
    except ModuleNotFoundError:
        parent, _, _ = path.partition(".")
        sys.modules.setdefault(f"stock_tests.{parent}", types.ModuleType(f"stock_tests.{parent}")).__path__ = []
        stub = sys.modules[f"stock_tests.{path}"] = types.ModuleType(f"stock_tests.{path}")
        vars(stub).update(content)

common = importlib.import_module("stock_tests.test_modeling_common")
configuration_common = importlib.import_module("stock_tests.test_configuration_common")
generation = importlib.import_module("stock_tests.generation.test_utils")
training = importlib.import_module("stock_tests.test_training_mixin")


def text_inputs(tester: "ModelTester") -> dict[str, torch.Tensor]:
    shape = [tester.batch_size, tester.seq_length]
    return {
        "input_ids": common.ids_tensor(shape, tester.vocab_size),
        "attention_mask": common.random_attention_mask(shape),
    }


def two_segment_inputs(tester: "ModelTester") -> dict[str, torch.Tensor]:
    shape = [tester.batch_size, tester.seq_length]
    return text_inputs(tester) | {"token_type_ids": common.ids_tensor(shape, tester.type_vocab_size)}


def image_inputs(tester: "ModelTester") -> dict[str, torch.Tensor]:
    height, width = 2 * [tester.image_size] if isinstance(tester.image_size, int) else tester.image_size
    return {"pixel_values": common.floats_tensor([tester.batch_size, 3, height, width])}


def sound_inputs(tester: "ModelTester") -> dict[str, torch.Tensor]:
    """Every other sound is padded."""
    mask = torch.ones(tester.batch_size, 800, dtype=torch.long)
    mask[1::2, 600:] = 0
    return {"input_values": common.floats_tensor(list(mask.shape)) * mask, "attention_mask": mask}


def pair_inputs(tester: "ModelTester") -> dict[str, torch.Tensor]:
    """A source, and as many tokens of a target."""
    shape = [tester.batch_size, tester.seq_length]
    source = {"input_ids": common.ids_tensor(shape, tester.vocab_size - 5) + 5}
    # what a classifier reads is the end, which a row has once
    source["input_ids"][:, -1] = 2
    return {
        **source,
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "decoder_input_ids": common.ids_tensor(shape, tester.vocab_size - 5) + 5,
        "decoder_attention_mask": torch.ones(shape, dtype=torch.long),
    }


def spectrogram_inputs(tester: "ModelTester") -> dict[str, torch.Tensor]:
    """A spectrogram, and tokens of a target."""
    pair = pair_inputs(tester)
    sound = {"input_features": common.floats_tensor([tester.batch_size, 8, 30])}
    return sound | {name: pair[name] for name in pair if name.startswith("decoder")}


@dataclass(frozen=True)
class Row:
    """What the tests of one family add to the mixins.

    Args:
        inputs: the inputs of every model of the family.
        tiny: config entries over those of `tests/families.py`.
        tester: attributes of the model tester, such as the length of the hidden states.
        test: attributes of the test classes, such as what a model does not have.
        unused_in_loss: models with weights that no loss reaches.
        lm: the head that learns a sequence by heart, where there is one.
        decoder: what the config of that head needs to be a causal decoder; None if it cannot be one.
        without: models that the suite of Transformers leaves out for the stock family: decoders or encoders alone.
        not_applicable: tests of the mixins that Transformers skips or replaces for the stock model, and why.
    """

    inputs: Callable[["ModelTester"], dict[str, torch.Tensor]]
    tiny: dict[str, Any] = field(default_factory=dict)
    tester: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    unused_in_loss: tuple[str, ...] = ()
    lm: str | None = None
    decoder: dict[str, Any] | None = None
    without: tuple[str, ...] = ()
    not_applicable: dict[str, str] = field(default_factory=dict)


# for what the usual rate leaves half-learned
FASTER = {"training_overfit_learning_rate": 5e-3}
# tests of Transformers that hold for none of its models of a kind
INPUT_EMBEDDINGS = {"test_model_get_set_embeddings": "the input embeddings are no torch.nn.Embedding"}
POSITIONS = {"test_inputs_embeds_matches_input_ids": "positions are counted over the tokens that are no padding"}
# by what the names of their models begin with
SOUND = ("Wav2Vec2", "Hubert", "WavLM")
RESIZED_HEAD = "the newer head cannot be resized"

BASE = Row(two_segment_inputs, tiny={"type_vocab_size": 16})
BERT = replace(BASE, lm="BertLMHeadModel", decoder={"is_decoder": True})
ALBERT = replace(BASE, lm="AlbertForMaskedLM", test=FASTER)
DEBERTA = replace(BASE, lm="DebertaV2ForMaskedLM")
WAV2VEC2 = Row(
    sound_inputs,
    tiny={"layerdrop": 0.0},
    tester={"seq_length": 11},
    test={"test_resize_embeddings": False},
    not_applicable={
        **INPUT_EMBEDDINGS,
        "test_keep_in_fp32_modules": "the stock model's codevectors are in float32 always",
    },
)
# both stacks alike, as in Transformers' tests
PAIR = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 37}
GENERATES = {
    "test_generation_tester_mixin_inheritance": "that suite is not in the source distribution: see test_several_stacks"
}
NO_EMBEDDINGS = {"test_inputs_embeds": "the stock classifier takes none"}
LENGTHS = {"encoder_seq_length": 7, "decoder_seq_length": 7, "key_length": 7}
BART = Row(
    pair_inputs,
    tiny=PAIR,
    tester=LENGTHS,
    test={"is_encoder_decoder": True, "test_missing_keys": False},
    without=("BartForCausalLM",),
    not_applicable=GENERATES | NO_EMBEDDINGS,
)
T5 = replace(
    BART,
    tiny={"num_decoder_layers": 2, "d_kv": 8},
    without=("T5EncoderModel", "T5ForTokenClassification"),
    not_applicable=BART.not_applicable
    | {"test_model_base_model_prefix": "the stock heads hold an encoder and a decoder, and no base model"},
)
VIT = Row(
    image_inputs,
    tester={"seq_length": 17, "mask_length": 16, "num_masks": 8},
    test={"test_resize_embeddings": False},
    not_applicable=INPUT_EMBEDDINGS,
)
# a backbone has no loss
DINOV2 = replace(
    VIT,
    tiny={"drop_path_rate": 0.0},
    unused_in_loss=("Dinov2ForImageClassification",),
    without=("Dinov2Backbone",),
    not_applicable=INPUT_EMBEDDINGS
    | {"test_reverse_loading_mapping": "it expects the keys of a gated feed-forward, which this model has not"},
)
ROWS = {
    "bert": BERT,
    "bart": BART,
    "mbart": replace(BART, without=("MBartForCausalLM",)),
    "marian": replace(BART, without=("MarianForCausalLM",), not_applicable=GENERATES),
    "t5": T5,
    "t5_gated": T5,
    "mt5": replace(T5, without=("MT5EncoderModel", "MT5ForTokenClassification")),
    "umt5": replace(T5, without=("UMT5EncoderModel", "UMT5ForTokenClassification")),
    "whisper": replace(
        BART,
        inputs=spectrogram_inputs,
        tester={"encoder_seq_length": 15, "decoder_seq_length": 7, "key_length": 15, "seq_length": 7},
        without=("WhisperForCausalLM", "WhisperForAudioClassification"),
        not_applicable=INPUT_EMBEDDINGS
        | GENERATES
        | dict.fromkeys(
            ("test_resize_tokens_embeddings", "test_resize_embeddings_untied"), "no input is called input_ids"
        ),
    ),
    "vit": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": replace(
        DINOV2,
        tester={**VIT.tester, "seq_length": 21},
        unused_in_loss=("Dinov2WithRegistersForImageClassification",),
        without=("Dinov2WithRegistersBackbone",),
    ),
    "beit": replace(
        VIT,
        tiny={"drop_path_rate": 0.0, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
        tester={**VIT.tester, "num_hidden_layers": 4},
        unused_in_loss=("BeitForImageClassification", "BeitForSemanticSegmentation"),
        without=("BeitBackbone",),
        not_applicable=INPUT_EMBEDDINGS
        | {
            "test_num_layers_is_small": "the head for segmentation reads the states behind four layers",
            "test_reverse_loading_mapping": "it expects the keys of a bias that all layers share",
        },
    ),
    "yolos": replace(
        VIT,
        tester={**VIT.tester, "seq_length": 30},
        not_applicable=INPUT_EMBEDDINGS
        | {"test_can_init_all_missing_weights": "the stock model gives its tokens and positions no start values"},
    ),
    "albert": ALBERT,
    "albert_groups": replace(
        ALBERT,
        tester={"num_hidden_layers": 4},
        not_applicable={
            "test_num_layers_is_small": "two groups of two layers are the smallest",
            "test_can_capture_specific_layers_hidden_states": "negative indices leave out the groups' inner layers",
        },
    ),
    "modernbert": Row(text_inputs, lm="ModernBertForMaskedLM"),
    "deberta_v2": replace(
        DEBERTA,
        not_applicable={"test_resize_tokens_embeddings": RESIZED_HEAD, "test_resize_embeddings_untied": RESIZED_HEAD},
    ),
    "deberta_v2_conv": replace(
        DEBERTA,
        test=FASTER,
        not_applicable={
            "test_training_gradient_checkpointing_use_reentrant_true": "the layers share the norm of the positions"
        },
    ),
    "wav2vec2": WAV2VEC2,
    "wav2vec2_stable": WAV2VEC2,
    "roberta": replace(
        BASE,
        lm="RobertaForMaskedLM",
        not_applicable={
            **POSITIONS,
            "test_generation_tester_mixin_inheritance": "the suite of decoders runs with BERT",
        },
    ),
    "mpnet": Row(text_inputs, lm="MPNetForMaskedLM", not_applicable=POSITIONS),
    "hubert": replace(WAV2VEC2, not_applicable=INPUT_EMBEDDINGS),
    "wavlm": replace(
        WAV2VEC2,
        not_applicable={
            **INPUT_EMBEDDINGS,
            "test_training_gradient_checkpointing_use_reentrant_true": "the stock model's backward never ends",
            "test_retain_grad_hidden_states_attentions": "the weights that it returns are means, not used",
        },
    ),
    "gpt2": Row(text_inputs, test=FASTER, unused_in_loss=("GPT2DoubleHeadsModel",), lm="GPT2LMHeadModel", decoder={}),
    "gpt_neox": Row(text_inputs, test=FASTER, lm="GPTNeoXForCausalLM", decoder={}),
    "opt": Row(text_inputs, test=FASTER, lm="OPTForCausalLM", decoder={}, not_applicable=POSITIONS),
}

# one object of the first class in the middle of an image
OBJECT = {"class_labels": torch.zeros(1, dtype=torch.long), "boxes": torch.full((1, 4), 0.5)}

# the family and its scheme; without one it is the stock family
RUN = json.loads(os.environ["CONFORMANCE_RUN"])
FAMILY, ROW, OURS = FAMILIES[RUN["family"]], ROWS[RUN["family"]], "add_norm" in RUN
CONFIG_CLASS = FAMILY.config_class if OURS else FAMILY.stock_config_class
# the stock model's name for a config entry
NAMES = CONFIG_CLASS.attribute_map
# by the name of the stock class, the base model first
BASE_MODEL = FAMILY.config_class.auto_classes["AutoModel"]
OUR_NAMES = sorted(
    (name for name in FAMILY.models if name.removeprefix("AddNorm") not in ROW.without),
    key=lambda name: name != BASE_MODEL,
)
OUR_CLASSES = {name.removeprefix("AddNorm"): name for name in OUR_NAMES}
MODELS = {stock: FAMILY.model_class(ours) if OURS else FAMILY.stock_class(ours) for stock, ours in OUR_CLASSES.items()}

if OURS:
    # The mixins look up by class name which inputs and labels a head takes: ours take those of the stock head.
    for name, mapping in list(vars(common).items()):
        stock = mapping.get(FAMILY.config_class.stock_model_type) if name.endswith("_MAPPING_NAMES") else None
        if isinstance(stock, str) and stock in OUR_CLASSES:
            setattr(common, name, {**mapping, CONFIG_CLASS.model_type: OUR_CLASSES[stock]})


class ModelTester:
    """Tiny config and random inputs."""

    batch_size, seq_length, is_training, num_choices = 13, 7, True, 4

    def __init__(self, **extra):
        self.extra = extra
        config = self.get_config()
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "type_vocab_size")
        for key in (*sizes, "image_size", "patch_size"):
            setattr(self, key, getattr(config, key, None))
        vars(self).update(ROW.tester)

    def get_config(self, stock=not OURS, **kwargs):
        kwargs = {NAMES.get("num_hidden_layers", "num_hidden_layers"): 2, **ROW.tiny, **self.extra, **kwargs}
        if stock:
            return FAMILY.stock_config("", **kwargs)
        return FAMILY.config("", RUN["add_norm"], **kwargs)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), ROW.inputs(self)

    def more_inputs(self, name: str) -> dict[str, torch.Tensor]:
        """What the head needs for a loss and the mixins do not know of."""

        def zeros(*shape):
            return torch.zeros(self.batch_size, *shape, dtype=torch.long)

        tokens, choices = zeros(self.seq_length), zeros(self.num_choices, self.seq_length)
        sound_labels = {
            "ForCTC": {"labels": zeros(3) + 1},
            "ForXVector": {"labels": zeros()},
            "ForAudioFrameClassification": {"labels": torch.nn.functional.one_hot(tokens, 2)},
        }
        return {
            "BertForPreTraining": {"labels": tokens, "next_sentence_label": zeros()},
            "AlbertForPreTraining": {"labels": tokens, "sentence_order_label": zeros()},
            "GPT2DoubleHeadsModel": {
                **dict.fromkeys(("input_ids", "token_type_ids", "labels"), choices),
                "attention_mask": choices + 1,
                "mc_token_ids": zeros(self.num_choices),
                "mc_labels": zeros(),
            },
            # the mixins know no labels of what writes about sound
            "WhisperForConditionalGeneration": {"labels": tokens},
            # nor of what says the visual words of masked patches, or finds objects
            "BeitForMaskedImageModeling": {
                "bool_masked_pos": zeros(getattr(self, "mask_length", 0)) == 0,
                "labels": zeros(getattr(self, "mask_length", 0)).flatten(),
            },
            "YolosForObjectDetection": {"labels": [OBJECT] * self.batch_size},
            **{f"{family}{head}": labels for family in SOUND for head, labels in sound_labels.items()},
            "Wav2Vec2ForPreTraining": {
                "mask_time_indices": tokens + torch.arange(self.seq_length) % 3 == 1,
                "sampled_negative_indices": zeros(self.seq_length, 5) + torch.arange(5),
            },
        }.get(name, {})


class DecoderTests:
    """A causal decoder: masks, cross attention, cache."""

    def decoder(self, **kwargs):
        return MODELS[ROW.lm](self.model_tester.get_config(**ROW.decoder, **kwargs)).eval()

    def decoder_inputs(self, cross_attention):
        tester = self.model_tester
        inputs = ROW.inputs(tester) | {"attention_mask": torch.ones(tester.batch_size, tester.seq_length).long()}
        if cross_attention:
            inputs["encoder_hidden_states"] = common.floats_tensor([tester.batch_size, 5, tester.hidden_size])
            inputs["encoder_attention_mask"] = common.random_attention_mask([tester.batch_size, 5])
        return inputs

    def test_decoder(self):
        for cross_attention in (False, True):
            with self.subTest(cross_attention=cross_attention):
                inputs = self.decoder_inputs(cross_attention)
                model = self.decoder(add_cross_attention=cross_attention)
                whole = model(**inputs).logits
                torch.testing.assert_close(model(**inputs | {"attention_mask": None}).logits, whole)
                # no token sees the later ones
                changed = inputs["input_ids"].clone()
                changed[:, -1] = (changed[:, -1] + 1) % self.model_tester.vocab_size
                logits = model(**inputs | {"input_ids": changed}).logits
                torch.testing.assert_close(logits[:, :-1], whole[:, :-1])

    def test_decoder_cache(self):
        inputs, new = self.decoder_inputs(cross_attention=True), 3
        tokens = {key: inputs.pop(key) for key in ("input_ids", "token_type_ids") if key in inputs}
        mask = inputs.pop("attention_mask")
        model = self.decoder(add_cross_attention=True)
        first = {key: value[:, :-new] for key, value in tokens.items()}
        last = {key: value[:, -new:] for key, value in tokens.items()}
        past = model(**first, **inputs, attention_mask=mask[:, :-new], use_cache=True).past_key_values
        cached = model(**last, **inputs, attention_mask=mask, past_key_values=past).logits
        torch.testing.assert_close(cached, model(**tokens, **inputs, attention_mask=mask).logits[:, -new:])

    def test_generate(self):
        model = self.decoder()
        prompt = common.ids_tensor([2, 4], self.model_tester.vocab_size)
        for options in ({}, {"num_beams": 2}):
            with self.subTest(**options):
                options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **options}
                cached = model.generate(prompt, use_cache=True, **options)
                self.assertEqual(cached.tolist(), model.generate(prompt, use_cache=False, **options).tolist())


# Transformers' own generation tests are not in the source distribution
GENERATION = () if ROW.decoder is None else (DecoderTests, generation.GenerationTesterMixin)


class ModelTest(*GENERATION, common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = tuple(MODELS.values())
    # skipped for models from before 2023 unless asked for: loading a partial checkpoint depends on it
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        # the same weights and inputs in every run, and the same inputs for the stock model as for ours
        set_seed(0)
        common.global_rng.seed(0)
        self.model_tester = ModelTester()
        # a width that every family's default number of heads divides
        kwargs = {NAMES.get("hidden_size", "hidden_size"): 192}
        if OURS:
            add_norm = CONFIG_CLASS(add_norm=RUN["add_norm"]).add_norm
            # a value in the JSON form, which leaves defaults out
            kwargs |= {} if add_norm == CONFIG_CLASS().add_norm else {"add_norm": add_norm.to_dict()}
        self.config_tester = configuration_common.ConfigTester(
            self, config_class=CONFIG_CLASS, has_text_modality=ROW.inputs is not image_inputs, **kwargs
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        more = self.model_tester.more_inputs(model_class.__name__.removeprefix("AddNorm"))
        return inputs | more if return_labels else inputs

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        checked = tuple(model for name, model in MODELS.items() if name not in ROW.unused_in_loss)
        with unittest.mock.patch.object(self, "all_model_classes", checked):
            super().check_training_gradient_checkpointing(*args, **kwargs)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_heads(self):
        """Every head has the outputs of the stock model, and a loss."""
        tester = self.model_tester
        for name, model_class in MODELS.items():
            with self.subTest(name):
                inputs = self._prepare_for_class(ROW.inputs(tester), model_class, return_labels=True)
                outputs = model_class(tester.get_config()).eval()(**inputs)
                expected = FAMILY.stock_class(name)(tester.get_config(stock=True)).eval()(**inputs)
                shapes, stock_shapes = (
                    {key: getattr(value, "shape", type(value)) for key, value in output.items()}
                    for output in (outputs, expected)
                )
                self.assertEqual(shapes, stock_shapes)
                if name != next(iter(MODELS)):
                    self.assertTrue(torch.isfinite(outputs.loss))


for name, reason in ROW.not_applicable.items():
    setattr(ModelTest, name, unittest.skip(reason)(getattr(ModelTest, name)))

TEST_CLASSES = [ModelTest]

if ROW.lm is not None:

    class TrainingTest(training.TrainingTesterMixin, unittest.TestCase):
        # abstract in the mixin
        model_tester = None

        def setUp(self):
            self.model_tester = ModelTester(**(ROW.decoder or {}))
            self.model_tester.causal_lm_class = MODELS[ROW.lm]

    TEST_CLASSES.append(TrainingTest)

for test_class in TEST_CLASSES:
    for name, value in ROW.test.items():
        setattr(test_class, name, value)
# not to be collected twice
del test_class


class Recorder:
    """What became of every test: it fails with any of its subtests, and is skipped where all of them are."""

    def __init__(self):
        self.results = {}

    def pytest_runtest_logreport(self, report):
        result = self.results.setdefault(
            report.nodeid.rpartition("::")[2],
            {"outcome": None, "reason": "", "subtests_passed": 0, "subtests_skipped": 0},
        )
        context = getattr(report, "context", None)
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = (crash.message if crash else str(report.longrepr)).strip()
            label = f"[{context.msg or context.kwargs}] " if context else ""
            # the first failure, not the summary of failed subtests that comes after it
            if result["outcome"] != "failed":
                result.update(outcome="failed", reason=label + message)
        elif context:
            result["subtests_skipped" if report.skipped else "subtests_passed"] += 1
        elif result["outcome"] is None and report.skipped:
            result.update(outcome="skipped", reason=str(report.longrepr[2]))
        elif result["outcome"] is None and report.when == "call":
            all_skipped = result["subtests_skipped"] and not result["subtests_passed"]
            result["outcome"] = "skipped" if all_skipped else "passed"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, help="JSON file to write")
    parser.add_argument("-k", default="", help="as in pytest")
    args = parser.parse_args()
    recorder = Recorder()
    code = pytest.main([__file__, "-q", "--tb=short", "-k", args.k], plugins=[recorder])
    with open(args.results, "w") as file:
        json.dump(recorder.results, file, indent=1)
    # failed tests are a result, too; anything else is none
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(code)


if __name__ == "__main__":
    sys.exit(main())
