"""What prepares a model's inputs is a class of Transformers: it loads where nobody allows the model's code to run."""

import json
import os
from pathlib import Path

import forked_python
import transformers
from cases import IMAGE, SOUND, TEXT
from families import FAMILIES


CLIENT = Path(__file__).with_name("client_of_processors.py")
TOKENIZERS = {
    "albert": transformers.AlbertTokenizer,
    "deberta-v2": transformers.DebertaV2Tokenizer,
    "gpt2": transformers.GPT2Tokenizer,
}
# by what a family reads: what is saved beside its model, and the Auto classes that find it or a part of it
PREPARES = {
    "text": (TEXT.make, {"AutoTokenizer": None, "AutoProcessor": None}),
    "spectrogram": (transformers.WhisperFeatureExtractor, {"AutoFeatureExtractor": None}),
    "states": (transformers.SpeechT5FeatureExtractor, {"AutoFeatureExtractor": None}),
    "image": (IMAGE.make, {"AutoImageProcessor": None, "AutoProcessor": None}),
    "sound": (
        SOUND.make,
        {
            "AutoProcessor": None,
            "AutoFeatureExtractor": "Wav2Vec2FeatureExtractor",
            "AutoTokenizer": "Wav2Vec2CTCTokenizer",
        },
    ),
}


def test_a_processor_of_every_family_loads_without_its_models_code(tmp_path):
    cases, right = [], []
    for family, row in FAMILIES.items():
        make, autos = PREPARES[row.config_class.facts.inputs]
        made = TOKENIZERS.get(row.config_class.stock_model_type, make)()
        row.config("").save_pretrained(tmp_path / family)
        made.save_pretrained(tmp_path / family)
        for auto, part in autos.items():
            cases.append({"folder": str(tmp_path / family), "auto": auto})
            name = part or type(made).__name__
            right.append({"asked": 0, "refusing": name, "silent": name})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(CLIENT.parents[1])}
    done = forked_python.run([CLIENT, tmp_path / "cases.json"], env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert [(case, each) for case, each in zip(cases, found, strict=True)] == list(zip(cases, right, strict=True))
