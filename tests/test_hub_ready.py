"""Saved folders carry their code: loaded where hf_addnorm cannot be imported, and without remote code where it is."""

import itertools
import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from families import (
    BASE_MODELS,
    FAMILIES,
    MEMBERS,
    MODELS,
    SPECS,
    covering_models,
    fill_with_pattern,
    specs_of,
)
from family_inputs import first_output
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

import hf_addnorm
from hf_addnorm import AddNormBertModel
from hf_addnorm.checkpoint_code import MACHINERY, all_flat_files


# every model once, with the next of the specs that it can have
_NEXT = itertools.cycle(SPECS)
CASES = [(family, model, next(spec for spec in _NEXT if spec in specs_of(family, model))) for family, model in MODELS]


def _of_folders(row, model):
    """The Auto classes that load the model from a folder: Transformers' AutoBackbone asks the Hub for any name."""
    return [auto for auto, name in row.config_class.auto_classes.items() if name == model and auto != "AutoBackbone"]


def _save_case(folder, family, model, spec):
    """A model with its inputs and what it makes of them, for `package_hidden.py`."""
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, SPECS.get(spec)))
    fill_with_pattern(net)
    net.save_pretrained(folder)
    # as loaded: weights that are mapped from a file are aligned differently, which BLAS shows in the last bit
    net = row.model_class(model).from_pretrained(folder)
    inputs = {key: value for key, value in row.inputs(model).items() if not re.search("label|positions", key)}
    torch.save(inputs, folder / "inputs")
    torch.save(first_output(net(**inputs)).detach(), folder / "expected")
    autos = _of_folders(row, model)
    module = type(net).__module__.split(".")[-1]
    base = f"{module}.{row.config_class.auto_classes['AutoModel']}"
    return {"folder": str(folder), "autos": autos, "reference": f"{module}.{model}", "base": base}


def _save_stock_case(folder, family):
    """The base model as a stock model, with a checkpoint of the stock class."""
    row, model = FAMILIES[family], BASE_MODELS[family]
    case = _save_case(folder / "stock", family, model, None)
    stock = row.stock_class(model)(row.stock_config(model))
    fill_with_pattern(stock)
    stock.save_pretrained(folder / "of-stock")
    return case | {"stock": str(folder / "of-stock"), "stock_class": type(stock).__name__}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_loads_as_a_stranger_and_saves_again(family, tmp_path, load_with_package_hidden):
    cases = [_save_case(tmp_path / "-".join(case), *case) for case in CASES if case[0] == family]
    load_with_package_hidden([*cases, _save_stock_case(tmp_path, family)])


# those with layers of their own, and of each shape the first member
_STRANGERS = [family for family in FAMILIES if family not in MEMBERS]
_STRANGERS += {FAMILIES[member].shape: member for member in reversed(MEMBERS)}.values()


@pytest.mark.parametrize("third", [0, 1, 2])
def test_a_model_of_every_shape_loads_as_a_stranger_and_saves_again(third, tmp_path, load_with_package_hidden):
    """One with a head, of another task in every family; and BERT's, once more as a stock model."""
    cases = [] if third else [_save_stock_case(tmp_path, "bert")]
    for index, family in list(enumerate(_STRANGERS))[2 - third :: 3]:
        heads = [case for case in CASES if case[0] == family and case[1] != BASE_MODELS[family]]
        case = heads[index % len(heads)]
        cases.append(_save_case(tmp_path / "-".join(case), *case))
    load_with_package_hidden(cases)


@pytest.mark.parametrize(("family", "model"), covering_models())
def test_with_the_package_no_remote_code_is_needed(family, model, tmp_path):
    row = FAMILIES[family]
    net = row.model_class(model)(row.config(model, "pre_ln"))
    net.save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is row.config_class
    for auto in _of_folders(row, model):
        assert type(getattr(transformers, auto).from_pretrained(tmp_path)) is row.model_class(model)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert set(saved["auto_map"]) == {"AutoConfig", *row.config_class.auto_classes}
    for reference in saved["auto_map"].values():
        module, name = reference.split(".")
        assert f"class {name}" in (tmp_path / f"{module}.py").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_auto_class_that_knows_the_stock_family_knows_ours(family):
    row = FAMILIES[family]
    expected = {}
    for name in dir(transformers):
        is_auto = name.startswith("AutoModel") or name == "AutoBackbone"
        mapping = getattr(getattr(transformers, name), "_model_mapping", None) if is_auto else None
        if mapping is not None and row.config_class.stock_model_type in mapping._model_mapping:
            stock = mapping._model_mapping[row.config_class.stock_model_type]
            expected[name] = f"AddNorm{stock if isinstance(stock, str) else stock[0]}"
    # deprecated Auto classes share the mapping of a class that is listed
    assert row.config_class.auto_classes.items() <= expected.items()
    assert set(expected) - set(row.config_class.auto_classes) <= {"AutoModelWithLMHead"}


# by the name of a file that families share: those that import it, with all members of their shape
SHAPES = {
    "bart_shape": ("bart", "speecht5"),
    "bert_shape": ("bert", "deberta_v2", "deberta_v2_conv", "mpnet", "toy", "yolos"),
    "dinov2_config": ("dinov2",),
    "dinov2_shape": ("dinov2",),
    "t5_shape": ("t5",),
    "vit_shape": ("beit", "dinov2", "vit"),
    "wav2vec2_shape": ("wav2vec2", "wav2vec2_stable"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_config_alone_carries_its_code(family, tmp_path):
    row = FAMILIES[family]
    row.config("").save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.glob("*.py")}
    modules = [sys.modules[cls.__module__] for cls in (row.config_class, row.model_class(row.models[0]))]
    own = {Path(module.__file__).name for module in modules}
    own |= {f"{file}.py" for file, users in SHAPES.items() if family in users or row.shape in users}
    assert files == {f"{room}.py" for room in MACHINERY} | own
    # DINOv2's shape has two files, and ViT's
    assert len(files) in ((12,) if "dinov2" in family else (9, 10))


PROCESSORS = {
    "AutoTokenizer": TOKENIZER_MAPPING,
    "AutoFeatureExtractor": FEATURE_EXTRACTOR_MAPPING,
    "AutoImageProcessor": IMAGE_PROCESSOR_MAPPING,
    "AutoProcessor": PROCESSOR_MAPPING,
}
PROCESSOR_CASES = [
    (family, auto)
    for family, row in FAMILIES.items()
    for auto, mapping in PROCESSORS.items()
    if row.stock_config_class in mapping
]


def _bert_tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]
    return transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def _roc_bert_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("vocab.txt", "shape.json", "pronunciation.json")]
        files[0].write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]))
        for file in files[1:]:
            file.write_text(json.dumps({"hello": 1, "[UNK]": 0}))
        return transformers.RoCBertTokenizer(*map(str, files))


# the kinds of file that BERT's is not
TOKENIZER_FILES = {
    "albert": transformers.AlbertTokenizer,
    "camembert": transformers.CamembertTokenizer,
    "roberta": transformers.RobertaTokenizer,
    "data2vec-text": transformers.RobertaTokenizer,
    "roc_bert": _roc_bert_tokenizer,
    "xlm-roberta": transformers.XLMRobertaTokenizer,
    "deberta-v2": transformers.DebertaV2Tokenizer,
    "gpt2": transformers.GPT2Tokenizer,
    "mbart": transformers.MBartTokenizer,
    **dict.fromkeys(("t5", "mt5", "umt5"), transformers.T5Tokenizer),
}


@pytest.mark.parametrize(("family", "auto"), PROCESSOR_CASES)
def test_what_prepares_inputs_is_found_by_the_config_alone(family, auto, tmp_path):
    row = FAMILIES[family]
    if family in ("marian", "speecht5") and auto != "AutoFeatureExtractor":
        pytest.skip("its tokenizer reads files of SentencePiece, which is no package of the tests")
    found = []
    for config in (row.stock_config(""), row.config("")):
        folder = tmp_path / config.model_type
        TOKENIZER_FILES.get(row.config_class.stock_model_type, _bert_tokenizer)().save_pretrained(folder)
        (folder / "tokenizer_config.json").unlink()
        (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}))
        (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8000, "do_resize": False}))
        config.save_pretrained(folder)
        found.append(getattr(transformers, auto).from_pretrained(folder))
    assert type(found[0]) is type(found[1])
    assert PROCESSORS[auto][row.config_class] == PROCESSORS[auto][row.stock_config_class]
    if auto == "AutoTokenizer":
        assert found[0]("hello").input_ids == found[1]("hello").input_ids


def test_every_family_has_something_that_prepares_inputs():
    # Transformers' tables have nothing for this one: the file of its processor names the class
    assert {family for family, _ in PROCESSOR_CASES} == set(FAMILIES) - {"dinov2_with_registers"}


def test_files_that_travel_import_nothing_that_does_not():
    allowed = {"torch", "transformers", "huggingface_hub"} | set(sys.stdlib_module_names)
    files = all_flat_files()
    for file, text in files.items():
        for line in re.findall(r"^(?:from|import) .*$", text, flags=re.MULTILINE):
            module = line.split()[1]
            assert module.startswith(".") or module.split(".")[0] in allowed, f"{file}: {line}"
            assert not line.startswith("from . "), f"{file}: {line}"
        # Transformers finds the files to copy by this expression, in docstrings too
        for name in re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE):
            assert f"{name}.py" in files, f"{file}: {name}"
        assert "from .." not in text, file
    for path in Path(hf_addnorm.__file__).with_name("models").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 600, path


def test_a_newer_format_and_an_unknown_preset_in_a_saved_config_are_named(tmp_path):
    AddNormBertModel(FAMILIES["bert"].config("AddNormBertModel", "pre_ln")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, sentence in (
        ({"format_version": 99}, "format_version is 99, but this version of hf_addnorm reads up to 1"),
        ({"preset": "pre_lnn"}, "unknown preset 'pre_lnn'. Did you mean pre_ln"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | {"add_norm": config["add_norm"] | change}))
        with pytest.raises(ValueError, match=re.escape(sentence)):
            AddNormBertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_into_the_same_folder_twice_and_sharded(family, tmp_path):
    row = FAMILIES[family]
    net = row.model_class(row.config_class.auto_classes["AutoModel"])(row.config("", "sub_ln"))
    net.save_pretrained(tmp_path)
    net.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    back, info = type(net).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for key, value in net.state_dict().items():
        assert torch.equal(value, back.state_dict()[key]), key
