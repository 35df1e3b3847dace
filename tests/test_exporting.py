"""`hf_addnorm.export` and `hf-addnorm export`: it runs in the real runtime, and what does not agree is refused.

The exporter takes seconds: most tests share one exported file, which stands in for what it would write.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import transformers
from families import BASE_MODELS, FAMILIES, MODELS, SPECS, fill_with_pattern
from typer.testing import CliRunner

import hf_addnorm
from hf_addnorm import AddNormBertForSequenceClassification
from hf_addnorm.cli.app import app
from hf_addnorm.exporting import runtimes
from hf_addnorm.exporting.inputs import inputs_of
from hf_addnorm.exporting.runtimes import RUNTIMES, OnnxRuntime


BERT = FAMILIES["bert"]
TEXTS = [f"hello world {'hello ' * (index % 5)}" for index in range(16)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]


def needs(runtime):
    """A test's mark: it skips where a package of the runtime is not installed."""
    row = RUNTIMES[runtime]
    missing = [name for name in row.packages + row.int8_packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def classifier(add_norm="sandwich_ln"):
    torch.manual_seed(0)
    config = BERT.config("AddNormBertForSequenceClassification", add_norm, num_hidden_layers=1)
    net = AddNormBertForSequenceClassification(config).eval()
    fill_with_pattern(net)
    return net


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "net"
    classifier().save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# net\n")
    return folder


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory):
    """What the command wrote, and its report."""
    out = tmp_path_factory.mktemp("exported") / "net"
    return out, json.loads(run("export", saved, "--to", "onnx", "--out", out, "--json"))


@pytest.fixture
def written(exported, monkeypatch):
    """The exporter writes the file that is there already."""
    file = exported[0] / "model.onnx"
    monkeypatch.setattr(OnnxRuntime, "write", lambda self, program, path: shutil.copy(file, path))


def test_the_command_exports_what_runs_at_any_shape(exported, saved):
    out, report = exported
    assert sorted(path.name for path in out.iterdir()) == sorted(report["files"])
    shapes = [tried["shape"] for tried in report["parity"]]
    assert report["error"] < 1e-5 and shapes == [[2, 12], [1, 4], [3, 24], [1, 48]]
    assert report["inputs"] == {name: ["batch", "length"] for name in report["inputs"]}
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    given = tokenizer(["hello world", "hello", "world hello world", "a", "hello"], padding=True, return_tensors="np")
    assert set(given) == set(report["inputs"]) and report["outputs"] == ["logits"]
    session = onnxruntime.InferenceSession(str(out / report["file"]))
    (found,) = session.run(None, dict(given))
    net = AddNormBertForSequenceClassification.from_pretrained(saved).eval()
    expected = net(**{name: torch.tensor(value) for name, value in given.items()}).logits
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)


def test_the_file_runs_the_last_feed_forward_for_first_tokens_alone(exported):
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported[0] / "model.onnx")).graph
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.value_info
    ]
    wide = [shape for shape in shapes if len(shape) == 3 and shape[-1] == 37]
    assert wide and all(shape == ["batch", 1, 37] for shape in wide), wide


def test_the_report_counts_the_norms_that_are_one_operation(exported):
    # of the embeddings, four of the layer, the final one: all are LayerNorms
    assert exported[1]["norms"] == 6 and exported[1]["fused_norms"] == 6


def test_the_card_says_what_it_is(exported):
    out, report = exported
    card = (out / "README.md").read_text()
    assert "license: mit" in card and "`sandwich_ln`" in card and "| `input_ids` | batch, length |" in card
    assert json.loads((out / "export.json").read_text()) == report
    # its example runs, beside the file
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    given = {"input_ids": [[5]], "attention_mask": [[1]], "token_type_ids": [[0]]}
    names = {"inputs": {name: torch.tensor(value).numpy() for name, value in given.items()}}
    exec(code.replace('"model.onnx"', repr(str(out / "model.onnx"))), names)
    assert names["outputs"][0].shape == (1, 2)


def test_int8_is_smaller_and_near(written, saved, tmp_path):
    report = hf_addnorm.export(saved, tmp_path / "net", int8=True, calibration=TEXTS)
    assert report.file == "model_int8.onnx" and report.file in report.files and "model.onnx" not in report.files
    assert 1e-6 < report.error < 0.25
    # measured on texts that were held out
    assert sum(tried.shape[0] for tried in report.parity) < len(TEXTS)
    assert "quantised: weights in 7 bits" in (tmp_path / "net" / "README.md").read_text()


def test_what_computes_something_else_is_not_kept(written, tmp_path):
    net = classifier()
    with torch.no_grad():
        net.classifier.weight.mul_(1.01)
    with pytest.raises(hf_addnorm.ExportError, match=r"something else: at an input of \[2, 12\] the"):
        hf_addnorm.export(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()
    hf_addnorm.export(net, tmp_path / "net", tolerance=0.1)


def test_a_model_that_cannot_be_exported_is_told_in_a_sentence(saved, tmp_path, monkeypatch):
    def fail(self, program, path):
        try:
            raise RuntimeError("Eq(u0, 1) depends on data.\nMany lines of advice.")
        except RuntimeError as error:
            raise ValueError("Failed to export.\nMore.") from error

    monkeypatch.setattr(OnnxRuntime, "write", fail)
    said = run("export", saved, "--out", tmp_path / "net", code=1)
    assert said == (
        "error: AddNormBertForSequenceClassification cannot be exported to onnx: RuntimeError: Eq(u0, 1) depends on "
        "data.\n"
    )
    assert not (tmp_path / "net").exists()


def test_the_model_is_as_it_was(written, tmp_path):
    net = classifier().train().to(torch.bfloat16)
    net.set_packed()
    hf_addnorm.export(net, tmp_path / "net", tolerance=0.1)
    assert net.training and net.dtype == torch.bfloat16 and net.config._attn_implementation == "packed"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("FOLDER", "--to", "tflite"), "to is 'tflite'; allowed is onnx or openvino."),
        (("nowhere",), "nowhere does not exist."),
        (("EMPTY",), "holds no model: there is no config.json."),
        (("FOLDER", "--out", "FOLDER"), "is not empty: out is to be a new folder."),
        (("FOLDER", "--tolerance", "0"), "tolerance is 0.0; allowed is a number above 0."),
        (("FOLDER", "--calibration", "TEXTS"), "calibration is given and int8 is not"),
        (("FOLDER", "--int8", "--calibration", "nowhere.txt"), "nowhere.txt is no file of texts."),
        (("FOLDER", "--to", "openvino", "--int8"), "int8 for openvino is fitted to data"),
    ],
)
def test_bad_input_gives_one_sentence(args, sentence, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    places = {"FOLDER": saved, "EMPTY": tmp_path / "empty", "TEXTS": tmp_path / "texts"}
    given = [places.get(arg, arg) for arg in args]
    out = [] if "--out" in args else ["--out", tmp_path / "net"]
    said = run("export", *given, *out, code=2)
    assert sentence in said and said.startswith("error: ") and len(said.splitlines()) == 1
    assert not (tmp_path / "net").exists()


def test_a_package_that_is_missing_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    said = run("export", saved, "--out", tmp_path / "net", code=1)
    assert said == ("error: an export to onnx needs onnx, which is not installed: pip install 'hf_addnorm[export]'\n")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model_or_folder is a int; allowed is a model, a folder"):
        hf_addnorm.export(3, tmp_path / "net")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_inputs_that_are_drawn_run(family):
    name = BASE_MODELS[family]
    net = FAMILIES[family].model_class(name)(FAMILIES[family].config(name)).eval()
    if family == "speecht5":
        with pytest.raises(ValueError, match="AddNormSpeechT5Model reads decoder_input_values, each of which is comp"):
            inputs_of(net, None)
        return
    inputs = inputs_of(net, None)
    for shape in inputs.shapes():
        given = inputs.draw(*shape)
        assert tuple(given) == inputs.names
        with torch.no_grad():
            assert net(**given)[0].isfinite().all()
        free = inputs.axes[inputs.names[0]]
        assert given[inputs.names[0]].shape[0] == shape[0] and free[0] == "batch"


def _exports(net, to, out, **kwargs):
    fill_with_pattern(net)
    return hf_addnorm.export(net.eval(), out, to=to, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("to", [pytest.param(name, marks=needs(name)) for name in RUNTIMES])
def test_every_spec_exports(to, spec, tmp_path):
    net = BERT.model_class("AddNormBertModel")(BERT.config("", SPECS[spec], num_hidden_layers=1))
    assert _exports(net, to, tmp_path / "net").error < 1e-3


# their forward looks for the ends of texts among the ids, which no exported graph can
LOOKS_AT_NUMBERS = {
    ("bart", "AddNormBartForSequenceClassification"),
    ("mbart", "AddNormMBartForSequenceClassification"),
    ("t5", "AddNormT5ForSequenceClassification"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "model"), MODELS)
def test_every_model_exports(family, model, tmp_path):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model))
    if (family.removesuffix("_gated"), model) in LOOKS_AT_NUMBERS:
        with pytest.raises(hf_addnorm.ExportError, match="cannot be"):
            _exports(net, "onnx", tmp_path / "net")
        return
    assert _exports(net, "onnx", tmp_path / "net").error < 1e-3


@pytest.mark.slow
@needs("openvino")
def test_openvino_in_int8(saved, tmp_path):
    report = hf_addnorm.export(saved, tmp_path / "net", to="openvino", int8=True, calibration=TEXTS)
    assert report.file == "openvino_model_int8.xml" and 1e-6 < report.error < 0.25
    assert Path(tmp_path / "net" / "openvino_model_int8.bin").is_file()
