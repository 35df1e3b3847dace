"""Every pipeline that Transformers has, with every family that can be in it: an object, a folder, remote code."""

import json
import os
from pathlib import Path

import forked_python
import pipeline_tasks
import pytest
import torch
import transformers
from families import FAMILIES, FEW_SPECS, MEMBERS, SPECS, fill_with_pattern, specs_of
from transformers.pipelines import SUPPORTED_TASKS


pytest.importorskip("PIL")

# what the Auto class of a pipeline does not say: an `AutoModel` of these inputs
KINDS = {
    "feature-extraction": "text",
    "image-feature-extraction": "image",
    "zero-shot-audio-classification": None,  # CLAP's, with text and sound
}


# whose stock base model asks for the decoder's input too, which this pipeline does not give
NEED_DECODER_INPUT = ("t5", "mt5", "umt5", "marian")


def _model(task, family):
    """The family's model that the pipeline takes, or None."""
    row = FAMILIES[family]
    if task == "feature-extraction" and row.config_class.stock_model_type in NEED_DECODER_INPUT:
        return None
    if task in KINDS and row.config_class.facts.inputs != KINDS[task]:
        return None
    names = (row.config_class.auto_classes.get(auto.__name__) for auto in SUPPORTED_TASKS[task]["pt"])
    return next(filter(None, names), None)


def _spec(family, model):
    """Each family another one, of those that reach most of its code."""
    specs = [spec for spec in FEW_SPECS if spec in specs_of(family, model)] or specs_of(family, model)
    return specs[list(FAMILIES).index(family) % len(specs)]


# decides by the labels' next-token logits, with a chat template and a configuration of its own
WITHOUT = ("decision",)
CASES = [
    (task, family, model)
    for task in SUPPORTED_TASKS
    for family in FAMILIES
    if task not in WITHOUT and (model := _model(task, family))
]
FIRST = {task: case for task, *case in reversed([case for case in CASES if case[1] not in MEMBERS])}
FIRST |= {task: case for task, *case in CASES if task not in FIRST}


def _extractor(family):
    config = FAMILIES[family].config("")
    if config.facts.inputs != "spectrogram":
        return transformers.Wav2Vec2FeatureExtractor()
    # a clip of a second has as many frames as the encoder takes
    frames, hop = 2 * config.max_source_positions, 160
    return transformers.WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, sampling_rate=frames * hop, hop_length=hop, chunk_length=1, n_fft=2 * hop
    )


def _prepared(task, family, folder):
    """Save what prepares the inputs."""
    if task in pipeline_tasks.IMAGE_TASKS:
        # those that know what to make of boxes and masks need no torchvision in this form
        of_task = {
            "object-detection": transformers.YolosImageProcessorPil,
            "image-segmentation": transformers.BeitImageProcessorPil,
        }
        make = of_task.get(task, transformers.ViTImageProcessor)
        make(size={"height": 16, "width": 16}, do_center_crop=False).save_pretrained(folder)
    elif task == "automatic-speech-recognition":
        vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4} | {
            letter: 5 + index for index, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        }
        (folder / "letters.json").write_text(json.dumps(vocabulary))
        letters = transformers.Wav2Vec2CTCTokenizer(str(folder / "letters.json"))
        letters.save_pretrained(folder)
        _extractor(family).save_pretrained(folder)
    elif task in pipeline_tasks.SOUND_TASKS:
        _extractor(family).save_pretrained(folder)
    else:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(94))]
        tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.model_max_length = 64
        tokenizer.save_pretrained(folder)


def _save(task, family, model, folder):
    row = FAMILIES[family]
    more = (
        {"id2label": {0: "entailment", 1: "contradiction"}, "label2id": {"entailment": 0, "contradiction": 1}}
        if task == "zero-shot-classification"
        else {}
    )
    more |= {"vocab_size": 32} if task in pipeline_tasks.SOUND_TASKS else {}
    # boxes are from 0 to 1000
    more |= {"max_2d_position_embeddings": 1024} if family == "layoutlm" else {}
    net = row.model_class(model)(row.config(model, SPECS[_spec(family, model)], **more)).eval()
    fill_with_pattern(net)
    if task in pipeline_tasks.SOUND_TASKS and net.can_generate():
        net.generation_config.max_new_tokens = 3
    net.save_pretrained(folder)
    _prepared(task, family, folder)
    return net


def _parts(task, folder):
    """What a pipeline of an object needs beside it."""
    text, image, sound = (
        (transformers.AutoTokenizer, "tokenizer"),
        (transformers.AutoImageProcessor, "image_processor"),
        (transformers.AutoFeatureExtractor, "feature_extractor"),
    )
    needed = (
        [image] if task in pipeline_tasks.IMAGE_TASKS else [sound] if task in pipeline_tasks.SOUND_TASKS else [text]
    )
    needed += [text] if task == "automatic-speech-recognition" else []
    return {name: auto.from_pretrained(folder) for auto, name in needed}


def _close(found, expected):
    """Whether two answers are the same, but for rounding."""
    if isinstance(expected, float):
        return abs(found - expected) < 1e-5
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_close(found[key], expected[key]) for key in expected)
    return found == expected


def _as_stranger(cases, folder):
    (folder / "cases.json").write_text(json.dumps(cases))
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules")}
    script = Path(pipeline_tasks.__file__)
    done = forked_python.run([script, folder / "cases.json", folder / "said.json"], env=env, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "said.json").read_text())


def test_every_task_is_tried_or_has_a_reason():
    """A task without one of our families: it reads video, tables or text with images, or finds boxes and depths."""
    none = {task for task in SUPPORTED_TASKS if task not in WITHOUT and not any(_model(task, f) for f in FAMILIES)}
    assert {task for task, *_ in CASES} | none | set(WITHOUT) == set(SUPPORTED_TASKS)
    assert len(FIRST) >= 11


def _of_object_and_folder(task, family, model, tmp_path):
    """The case for a stranger, and what the pipeline said."""
    folder = tmp_path / f"{task}-{family}"
    net = _save(task, family, model, folder)
    with torch.no_grad():
        of_object = pipeline_tasks.run(task, net, **_parts(task, folder))
        of_folder = pipeline_tasks.run(task, str(folder))
    assert of_object and _close(of_folder, of_object), (task, of_folder, of_object)
    return {"task": task, "folder": str(folder)}, of_object


@pytest.mark.parametrize("task", FIRST)
def test_a_pipeline_of_an_object_and_of_a_folder(task, tmp_path):
    _of_object_and_folder(task, *FIRST[task], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_pipeline_of_a_family_as_object_folder_and_remote_code(family, tmp_path):
    done = [_of_object_and_folder(*case, tmp_path) for case in CASES if case[1] == family]
    cases = [case for case, _ in done]
    for (case, expected), found in zip(done, _as_stranger(cases, tmp_path), strict=True):
        assert _close(found, expected), (case, found, expected)
