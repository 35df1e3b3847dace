"""The code of a checkpoint: rooms as flat files, the families that a model is made of, a user's own components."""

import ast
import importlib
import json
import os
import sys
from pathlib import Path

import forked_python
import pytest
import torch
from families import tiny_config
from hidden import hide

import hf_addnorm
from hf_addnorm import AddNormBertConfig, AddNormBertModel, AddNormStackConfig, checkpoint_code
from hf_addnorm.checkpoint_code import MACHINERY, SEPARATE, all_flat_files, flat_file
from hf_addnorm.hub import check_folder
from hf_addnorm.models.spec.components import COMPONENTS


MODELS = Path(hf_addnorm.__file__).with_name("models")
TINY = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
REGISTRIES = ("NORMS", "RESIDUALS", "STREAMS", "WIRINGS", "POSITIONS", "WEIGHTS", "INITS", "DEPTH_RULES")


def test_flat_names_are_unique():
    names = [path.stem for room in SEPARATE for path in (MODELS / room).glob("[a-z]*.py")]
    assert len(names) == len(set(names)) and not set(names) & set(MACHINERY)
    assert {path.name for path in MODELS.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        *MACHINERY,
        *SEPARATE,
    }


@pytest.mark.parametrize("room", MACHINERY)
def test_a_room_as_one_file_has_all_of_its_code(room):
    """Every class and function, to the letter; only docstrings of files, imports and `__all__` go."""
    flat = {node.name: ast.unparse(node) for node in ast.parse(flat_file(room)).body if hasattr(node, "name")}
    source = {}
    for path in (MODELS / room).glob("[a-z]*.py"):
        source |= {n.name: ast.unparse(n) for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
    assert flat == source


def test_two_files_of_a_room_may_not_share_a_name(tmp_path, monkeypatch):
    (tmp_path / "norms").mkdir()
    (tmp_path / "norms/__init__.py").write_text('"""Norms."""\n')
    for name in ("one", "two"):
        (tmp_path / f"norms/{name}.py").write_text(f'"""{name}."""\n\n\ndef root(x):\n    return x\n')
    monkeypatch.setattr(checkpoint_code, "MODELS", tmp_path)
    checkpoint_code._room_as_one_file.cache_clear()
    with pytest.raises(ValueError, match=r"models/norms: one.py and two.py both define 'root'"):
        flat_file("norms")
    checkpoint_code._room_as_one_file.cache_clear()


def _output(script, *args, **kwargs):
    """What a script prints in a fresh process."""
    done = forked_python.run([script, *args], **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("module", ["base.registries", "norms.rms_norms", "streams.streams", "spec.spec"])
def test_registries_are_full_whatever_is_imported_first(module, tmp_path):
    names = ", ".join(REGISTRIES)
    script = tmp_path / "script.py"
    script.write_text(
        f"import hf_addnorm.models.{module}\nfrom hf_addnorm.models.base.registries import {names}\n"
        f"print(*(len(registry) for registry in ({names})))"
    )
    found = _output(script).split()
    registries = importlib.import_module("hf_addnorm.models.base.registries")
    assert [int(count) for count in found] == [len(getattr(registries, name)) for name in REGISTRIES]


def test_importing_the_package_imports_no_model(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, hf_addnorm\n"
        "print([m for m in sys.modules if 'modeling_addnorm' in m or m.startswith('hf_addnorm.hub')])\n"
        "from transformers import AutoModelForMaskedLM\n"
        "from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING as mapping\n"
        "print(AutoModelForMaskedLM._model_mapping[hf_addnorm.AddNormBertConfig].__name__)\n"
        "print('AddNormAlbertForMaskedLM' in [model.__name__ for model in mapping.values()])\n"
        "print(hf_addnorm.AddNormGPT2DoubleHeadsModel.__name__, hf_addnorm.hub.__name__, hf_addnorm.grow.__name__)\n"
        "assert 'AddNormViTModel' in dir(hf_addnorm)\n"
        "from hf_addnorm import *\n"
        "try:\n    hf_addnorm.AddNormBertForNothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    found = _output(script).splitlines()
    assert found == [
        "[]",
        "AddNormBertForMaskedLM",
        "True",
        "AddNormGPT2DoubleHeadsModel hf_addnorm.hub grow",
        "module 'hf_addnorm' has no attribute 'AddNormBertForNothing'",
    ]


@pytest.mark.parametrize("types", [("bert", "bert"), ("albert", "bert")])
def test_a_stack_carries_the_families_that_it_is_made_of(types, tmp_path):
    entries = [{"model_type": kind, **TINY, "max_position_embeddings": 8, "embedding_size": 8} for kind in types]
    hf_addnorm.AddNormStackModel(AddNormStackConfig(encoders=entries)).save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.glob("*.py")}
    for family in ("albert", "bert", "deberta_v2", "gpt2", "modernbert"):
        for kind in ("configuration", "modeling"):
            assert (f"{kind}_addnorm_{family}.py" in files) == (family in types)
    # what is left of the table of families is still known to be that of this release
    assert not [finding for finding in check_folder(tmp_path, load=False).errors if finding.where.endswith(".py")]
    # and a section that somebody wrote is not
    table = tmp_path / "part_families.py"
    table.write_text(table.read_text() + "\n\nimport os\n")
    assert [finding.where for finding in check_folder(tmp_path, load=False).errors] == ["part_families.py"]


OWN = '''"""A norm of one's own."""

import torch
from hf_addnorm.components import (
    NORMS,
    Norm,
    Positive,
)


@NORMS.register("peak_norm"{travels})
class PeakNorm(Norm):
    """Division by the largest absolute value.

    Args:
        eps (`float`, *optional*, defaults to 1e-3): the least that is divided by.
    """

    def __init__(self, hidden_size: int, *, eps: Positive = 1e-3):
        super().__init__(hidden_size, gain=True, bias=False)
        self.eps = eps

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.abs().amax(-1, keepdim=True).clamp(min=self.eps)
'''


@pytest.fixture
def own_norm(tmp_path, monkeypatch):
    """Imports a file with a norm of a user's own, and takes the norm back afterwards."""
    monkeypatch.syspath_prepend(tmp_path / "user")
    (tmp_path / "user").mkdir()
    norms = hf_addnorm.components.NORMS

    def make(text: str, name: str = "my_norms") -> None:
        (tmp_path / f"user/{name}.py").write_text(text)
        importlib.invalidate_caches()
        importlib.import_module(name)
        made.append(name)

    made: list[str] = []
    yield make
    norms._factories.pop("peak_norm", None)
    norms.travelling.discard("peak_norm")
    for name in made:
        sys.modules.pop(name, None)


def test_a_component_of_ones_own_travels_and_loads_anywhere(own_norm, tmp_path):
    own_norm(OWN.replace("{travels}", ", travels=True"))
    net = AddNormBertModel(tiny_config({"preset": "pre_ln", "norm": "peak_norm"})).eval()
    folder = tmp_path / "saved"
    net.save_pretrained(folder)
    assert "from .base import NORMS, Positive\n" in (folder / "my_norms.py").read_text()
    inputs = {"input_ids": torch.tensor([[1, 2, 3]])}
    torch.save(net(**inputs).last_hidden_state.detach(), tmp_path / "expected")
    # the user's file is the only one that is not known
    found = check_folder(folder, load=False)
    assert [finding.where for finding in found.errors] == ["my_norms.py"]
    assert not check_folder(folder, run_unknown_code=True).findings[0].what.startswith("not tried")
    # a process that has neither the package nor the file; what it saves loads again
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\nfrom hidden import hide\nhide()\nfrom transformers import AutoModel\n"
        "folder, again, expected = sys.argv[1:]\n"
        "net = AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "net.save_pretrained(again)\n"
        "for net in (net, AutoModel.from_pretrained(again, trust_remote_code=True)):\n"
        "    got = net.eval()(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state\n"
        "    torch.testing.assert_close(got, torch.load(expected), rtol=0, atol=1e-6)\n"
        "print(type(net.encoder.layer[0].attention.pre_norm if hasattr(net.encoder.layer[0].attention, 'pre_norm')"
        " else net.encoder.layer[0].connections.attention.pre_norm).__name__)\n"
    )
    env = os.environ | {
        "PYTHONPATH": str(Path(hide.__code__.co_filename).parent),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    found = _output(script, folder, tmp_path / "again", tmp_path / "expected", env=env, cwd=tmp_path)
    assert found.split() == ["PeakNorm"]


REFUSED = {
    "not said": ("", "my_norms", r"register it with register\('peak_norm', travels=True\)"),
    "a neighbour": ("from .helpers import x\n", "my_norms", "may import packages"),
    "the package": ("import hf_addnorm\n", "my_norms", "may import packages"),
    "a name of ours": ("", "norms", "a checkpoint has a file norms.py"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_travel_is_not_saved(case, own_norm, tmp_path):
    head, name, sentence = REFUSED[case]
    text = OWN.replace("{travels}", "" if case == "not said" else ", travels=True")
    # in a block that is not run: what is written counts
    text = text.replace("import torch\n", f"import torch\nif False:\n    {head}" if head else "import torch\n", 1)
    own_norm(text, name)
    net = AddNormBertModel(tiny_config({"preset": "pre_ln", "norm": "peak_norm"}))
    with pytest.raises(ValueError, match=sentence):
        net.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.safetensors")), "nothing is half-written"


def test_two_files_of_one_name_are_not_saved(own_norm, tmp_path, monkeypatch):
    own_norm(OWN.replace("{travels}", ", travels=True"))
    (tmp_path / "user/other").mkdir()
    (tmp_path / "user/other/my_norms.py").write_text(
        "from hf_addnorm.components import RESIDUALS, Residual\n\n\n"
        "@RESIDUALS.register('peak_sum', travels=True)\nclass PeakSum(Residual):\n"
        "    def __init__(self, hidden_size, position):\n        super().__init__()\n\n"
        "    def forward(self, x, f):\n        return x + f\n"
    )
    importlib.invalidate_caches()
    importlib.import_module("other.my_norms")
    try:
        config = tiny_config({"preset": "pre_ln", "norm": "peak_norm", "residual": "peak_sum"})
        with pytest.raises(ValueError, match="another file of yours that the model needs has this name"):
            config.save_pretrained(tmp_path / "saved")
    finally:
        residuals = hf_addnorm.components.RESIDUALS
        residuals._factories.pop("peak_sum")
        residuals.travelling.discard("peak_sum")
        sys.modules.pop("other.my_norms")


@pytest.mark.parametrize("axis", COMPONENTS)
def test_what_is_registered_on_an_axis_extends_the_class_of_its_components(axis):
    registry, base = COMPONENTS[axis]
    classes = [factory for factory in registry.values() if isinstance(factory, type)]
    assert all(issubclass(cls, base) for cls in classes)
    assert classes or axis == "init", "init rules are functions that make one"


def test_a_component_of_a_script_is_not_saved(tmp_path):
    script = tmp_path / "script.py"
    save = f"AddNormBertConfig(add_norm={{'norm': 'peak_norm'}}).save_pretrained({str(tmp_path / 'saved')!r})"
    text = OWN.replace("{travels}", ", travels=True")
    script.write_text(f"{text}\nfrom hf_addnorm import AddNormBertConfig\n{save}\n")
    result = forked_python.run([script])
    assert "defined in a script or a notebook. Move it to a file of its own" in result.stderr


class DerivedConfig(AddNormBertConfig):
    """A user's own."""


class DerivedModel(AddNormBertModel):
    """A user's own."""


def test_of_a_users_subclass_ours_is_the_code(tmp_path):
    DerivedModel(DerivedConfig(**TINY, max_position_embeddings=8)).save_pretrained(tmp_path)
    assert not {"test_checkpoint_code.py", f"{__name__}.py"} & {path.name for path in tmp_path.iterdir()}
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoConfig"] == "configuration_addnorm_bert.AddNormBertConfig"
    assert {f"{name.split('.')[0]}.py" for name in auto_map.values()} <= set(all_flat_files())
    # what the user registers for an Auto class is the user's word
    DerivedModel.register_for_auto_class("AutoModel")
    try:
        DerivedModel(DerivedConfig(**TINY, max_position_embeddings=8)).save_pretrained(tmp_path)
    finally:
        DerivedModel._auto_class = None
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "test_checkpoint_code.DerivedModel"
    assert auto_map["AutoModelForMaskedLM"] == "modeling_addnorm_bert.AddNormBertForMaskedLM"
