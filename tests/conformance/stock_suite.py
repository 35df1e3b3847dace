"""Transformers' own test mixins on BERT, stock or with one of our presets. Run by `test_conformance.py`, as a script.

The source distribution holds the mixins, but not the tests of single models: what those add is the model tester
below, whose tiny sizes are the usual ones of Transformers' tests.
"""

import argparse
import importlib
import json
import os
import sys
import types
import unittest

import pytest
import torch
import transformers
from transformers import set_seed

import hf_addnorm
from hf_addnorm import AddNormBertConfig


# None: stock BERT
SCHEME = json.loads(os.environ.get("CONFORMANCE_SCHEME", "null"))

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

OUR_CLASSES = {name.removeprefix("AddNorm"): name for name in AddNormBertConfig.auto_classes.values()}

if SCHEME is None:
    CONFIG_CLASS, CONFIG_KWARGS = transformers.BertConfig, {}
    MODELS = {name: getattr(transformers, name) for name in OUR_CLASSES}
else:
    CONFIG_CLASS, CONFIG_KWARGS = AddNormBertConfig, {"add_norm": SCHEME}
    MODELS = {stock: getattr(hf_addnorm, ours) for stock, ours in OUR_CLASSES.items()}
    # The mixins look up by class name which inputs and labels a head takes: ours take those of the stock head.
    for name, mapping in list(vars(common).items()):
        if name.endswith("_MAPPING_NAMES") and mapping.get("bert") in OUR_CLASSES:
            setattr(common, name, {**mapping, CONFIG_CLASS.model_type: OUR_CLASSES[mapping["bert"]]})


class BertModelTester:
    """Tiny config and random inputs."""

    def __init__(self):
        self.batch_size, self.seq_length, self.is_training, self.num_choices = 13, 7, True, 4
        self.vocab_size, self.hidden_size, self.num_hidden_layers, self.num_attention_heads = 99, 32, 2, 4

    def get_config(self, **kwargs):
        return CONFIG_CLASS(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            type_vocab_size=16,
            **CONFIG_KWARGS,
            **kwargs,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        return self.get_config(), {
            "input_ids": common.ids_tensor(shape, self.vocab_size),
            "token_type_ids": common.ids_tensor(shape, 16),
            "attention_mask": common.random_attention_mask(shape),
        }


class BertModelTest(common.ModelTesterMixin, generation.GenerationTesterMixin, unittest.TestCase):
    all_model_classes = tuple(MODELS.values())
    # skipped for models of BERT's age unless asked for: loading a partial checkpoint depends on it
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        # the same weights and inputs in every run, and the same inputs for stock BERT as for ours
        set_seed(0)
        common.global_rng.seed(0)
        self.model_tester = BertModelTester()
        # a value in the JSON form, which leaves defaults out
        is_default = not CONFIG_KWARGS or CONFIG_CLASS(**CONFIG_KWARGS).add_norm == CONFIG_CLASS().add_norm
        kwargs = {} if is_default else {"add_norm": CONFIG_CLASS(**CONFIG_KWARGS).add_norm.to_dict()}
        self.config_tester = configuration_common.ConfigTester(
            self, config_class=CONFIG_CLASS, hidden_size=36, **kwargs
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is MODELS["BertForPreTraining"]:
            tester = self.model_tester
            inputs["labels"] = torch.zeros(tester.batch_size, tester.seq_length, dtype=torch.long)
            inputs["next_sentence_label"] = torch.zeros(tester.batch_size, dtype=torch.long)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_heads(self):
        tester = self.model_tester
        batch, seq, hidden, labels = tester.batch_size, tester.seq_length, tester.hidden_size, 3
        vocabulary = (batch, seq, tester.vocab_size)
        expected = {
            "BertModel": {"last_hidden_state": (batch, seq, hidden), "pooler_output": (batch, hidden)},
            "BertForPreTraining": {"prediction_logits": vocabulary, "seq_relationship_logits": (batch, 2)},
            "BertLMHeadModel": {"logits": vocabulary},
            "BertForMaskedLM": {"logits": vocabulary},
            "BertForNextSentencePrediction": {"logits": (batch, 2)},
            "BertForSequenceClassification": {"logits": (batch, labels)},
            "BertForMultipleChoice": {"logits": (batch, tester.num_choices)},
            "BertForTokenClassification": {"logits": (batch, seq, labels)},
            "BertForQuestionAnswering": {"start_logits": (batch, seq), "end_logits": (batch, seq)},
        }
        assert expected.keys() == MODELS.keys()
        for name, shapes in expected.items():
            with self.subTest(name):
                _, inputs_dict = tester.prepare_config_and_inputs_for_common()
                # two per token are a span's start and end
                config = tester.get_config(num_labels=2 if name == "BertForQuestionAnswering" else labels)
                model = MODELS[name](config).eval()
                outputs = model(**self._prepare_for_class(inputs_dict, MODELS[name], return_labels=True))
                self.assertEqual({key: tuple(outputs[key].shape) for key in shapes}, shapes)
                if name != "BertModel":
                    self.assertTrue(torch.isfinite(outputs.loss))

    def test_decoder(self):
        tester = self.model_tester
        for cross_attention in (False, True):
            with self.subTest(cross_attention=cross_attention):
                _, inputs = tester.prepare_config_and_inputs_for_common()
                if cross_attention:
                    inputs["encoder_hidden_states"] = common.floats_tensor([tester.batch_size, 5, tester.hidden_size])
                    inputs["encoder_attention_mask"] = common.random_attention_mask([tester.batch_size, 5])
                config = tester.get_config(is_decoder=True, add_cross_attention=cross_attention)
                model = MODELS["BertLMHeadModel"](config).eval()
                inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
                whole = model(**inputs).logits
                inputs["attention_mask"] = None
                torch.testing.assert_close(model(**inputs).logits, whole)

    def test_decoder_cache(self):
        tester = self.model_tester
        _, inputs = tester.prepare_config_and_inputs_for_common()
        encoder = {
            "encoder_hidden_states": common.floats_tensor([tester.batch_size, 5, tester.hidden_size]),
            "encoder_attention_mask": common.random_attention_mask([tester.batch_size, 5]),
        }
        model = MODELS["BertLMHeadModel"](tester.get_config(is_decoder=True, add_cross_attention=True)).eval()
        ids, new = inputs["input_ids"], 3
        mask = torch.ones_like(ids)
        past = model(ids[:, :-new], attention_mask=mask[:, :-new], use_cache=True, **encoder).past_key_values
        cached = model(ids[:, -new:], attention_mask=mask, past_key_values=past, **encoder).logits
        torch.testing.assert_close(cached, model(ids, attention_mask=mask, **encoder).logits[:, -new:])

    def test_generate(self):
        model = MODELS["BertLMHeadModel"](self.model_tester.get_config(is_decoder=True)).eval()
        prompt = common.ids_tensor([2, 4], self.model_tester.vocab_size)
        options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        cached = model.generate(prompt, use_cache=True, **options)
        self.assertEqual(cached.tolist(), model.generate(prompt, use_cache=False, **options).tolist())


class CausalLMTester(BertModelTester):
    """The same with a causal mask."""

    causal_lm_class = MODELS["BertLMHeadModel"]

    def get_config(self, **kwargs):
        return super().get_config(is_decoder=True, **kwargs)


class BertTrainingTest(training.TrainingTesterMixin, unittest.TestCase):
    # abstract in the mixin
    model_tester = None

    def setUp(self):
        self.model_tester = CausalLMTester()


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
