"""The code of an older release in a checkpoint, and a newer package beside it.

The rule: where hf_addnorm is imported, its code runs, whatever the checkpoint carries; where it is not, installed or
not, the checkpoint's own code runs, all of it. A class that is asked for by reference is the checkpoint's.
"""

import shutil
from pathlib import Path

import pytest
from cases import CASES

import hf_addnorm


PACKAGE = Path(hf_addnorm.__file__).parent
CODE = PACKAGE / "models"
AUTO = CASES["bert"].auto
# the norm of the older release divides by twice as much, and does so in a file that the newer one has not
LEGACY = '"""Of an older release."""\n\n\ndef halved(x):\n    return x / 2\n'
REFERENCE = "modeling_addnorm_bert.AddNormBertForSequenceClassification"


@pytest.fixture
def older(tmp_path):
    """The folder of an older release, to be imported instead of the package."""
    folder = tmp_path / "older"
    shutil.copytree(PACKAGE, folder / "hf_addnorm", ignore=shutil.ignore_patterns("__pycache__"))
    norms = folder / "hf_addnorm/models/rms_norms.py"
    text = norms.read_text()
    formula = "return x / root(self.mean_square(x), self.eps, self.eps_place)"
    assert text.count(formula) == 1
    text = text.replace(formula, f"return halved({formula.removeprefix('return ')})")
    norms.write_text(text.replace("from .registry", "from .legacy import halved\nfrom .registry"))
    (folder / "hf_addnorm/models/legacy.py").write_text(LEGACY)
    return folder


def _load(verb="load", **more):
    return verb, {"repo": "ann/old", "auto": AUTO, "trust_remote_code": True} | more


def _code(repo, hub):
    files = hub.repo(repo).head.files
    return {name: blob.content for name, blob in files.items() if name.endswith(".py")}


def test_an_older_checkpoint_beside_a_newer_package(older, new_client, hub):
    ann = new_client("ann")
    push = "push", {"case": "bert", "spec": "pre_rms_norm", "repo": "ann/old"}
    where, pushed = ann.run(("package", {}), push, PYTHONPATH=f"{older}:{ann.env()['PYTHONPATH']}")
    assert where == str(older / "hf_addnorm/__init__.py"), pushed
    code = _code("ann/old", hub)
    assert code["legacy.py"] == LEGACY.encode()
    assert code["rms_norms.py"] != (CODE / "rms_norms.py").read_bytes()
    ann.run((push[0], push[1] | {"repo": "ann/new"}))
    newer = _code("ann/new", hub)

    # not imported: the older code and nothing else, when it is pushed on, too
    remote = f"transformers_modules.ann.old.{pushed['commit']}.modeling_addnorm_bert"
    user = new_client("ann")
    found, before, again, after, both = user.run(
        _load(),
        ("package", {}),
        _load("push_again", to="ann/again"),
        # and imported afterwards: a model that is loaded then is the package's
        ("package", {"load": True}),
        _load(record="ann/new"),
        ADDNORM_HIDDEN="0",
    )
    assert (found["equal"], found["model"], before) == (True, remote, None)
    assert again["equal"] and _code("ann/again", hub) == code
    assert after == str(PACKAGE / "__init__.py")
    assert (both["equal"], both["model"]) == (True, "hf_addnorm.models.modeling_addnorm_bert")

    # imported: the package's code, with and without trust; the checkpoint's by reference
    loads = [_load(record="ann/new"), _load(record="ann/new", trust_remote_code=False)]
    by_reference = "load_by_reference", {"repo": "ann/old", "reference": REFERENCE}
    *results, referred, last = new_client("ann").run(
        *loads, by_reference, _load("push_again", record="ann/new", to="ann/old")
    )
    for found in results:
        assert (found["equal"], found["model"]) == (True, "hf_addnorm.models.modeling_addnorm_bert")
    assert (referred["equal"], referred["model"]) == (True, remote)

    # pushed to its place by the package, it has the newer code, and means the same to everybody
    assert last["equal"] and newer.items() <= _code("ann/old", hub).items()
    (found,) = new_client(None).run_hidden(_load(record="ann/new"))
    assert (found["equal"], hub.repo("ann/old").head.oid in found["model"]) == (True, True)
    # and who has pinned the older commit has the older model
    pinned = _load(revision=pushed["commit"])
    # code and weights of two commits
    mixed = _load(record="ann/new", revision=pushed["commit"], code_revision=last["commit"])
    (old, new) = new_client(None).run_hidden(pinned, mixed)
    assert (old["equal"], old["model"]) == (True, remote)
    assert (new["equal"], last["commit"] in new["model"]) == (True, True)
