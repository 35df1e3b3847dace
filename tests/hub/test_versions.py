"""The code of an older release in a checkpoint, and a newer package beside it.

The rule: where hf_addnorm is imported, its code runs, whatever the checkpoint carries; where it is not, installed or
not, the checkpoint's own code runs, all of it. A class that is asked for by reference is the checkpoint's.
"""

import shutil
from pathlib import Path

import pytest
from cases import CASES

import hf_addnorm
from hf_addnorm.checkpoint_code import flat_file


PACKAGE = Path(hf_addnorm.__file__).parent
AUTO = CASES["bert"].auto
# the norm of the older release divides by twice as much, by a function in a file that the newer one has not
LEGACY = '"""Of an older release."""\n\n\ndef halved(x):\n    return x / 2\n'
REFERENCE = "modeling_addnorm_bert.AddNormBertForSequenceClassification"


@pytest.fixture
def older(tmp_path):
    """The folder of an older release, to be imported instead of the package."""
    folder = tmp_path / "older"
    shutil.copytree(PACKAGE, folder / "hf_addnorm", ignore=shutil.ignore_patterns("__pycache__"))
    # where a checkout has it
    (folder / "model_cards").mkdir()
    shutil.copy(PACKAGE.parent / "model_cards/card.md.jinja", folder / "model_cards")
    norms = folder / "hf_addnorm/models/norms/rms_norms.py"
    text = norms.read_text()
    formula = "return x / root(self.mean_square(x), self.eps, self.eps_place)"
    assert text.count(formula) == 1
    text = text.replace(formula, f"return halved({formula.removeprefix('return ')})")
    first_import = "from .norm_base "
    norms.write_text(text.replace(first_import, f"from ..legacy.halved import halved\n{first_import}"))
    (folder / "hf_addnorm/models/legacy").mkdir()
    (folder / "hf_addnorm/models/legacy/__init__.py").write_text('"""An older room."""\n')
    (folder / "hf_addnorm/models/legacy/halved.py").write_text(LEGACY)
    code = folder / "hf_addnorm/checkpoint_code.py"
    code.write_text(code.read_text().replace("MACHINERY = (", 'MACHINERY = ("legacy", '))
    return folder


def _code(repo):
    return {name: blob.content for name, blob in repo.head.files.items() if name.endswith(".py")}


def test_an_older_checkpoint_beside_a_newer_package(older, new_client, hub):
    ann = new_client("ann")
    push = {"case": "bert", "spec": "pre_rms_norm"}
    with ann.process(PYTHONPATH=f"{older}:{ann.env()['PYTHONPATH']}") as do:
        assert do("package") == str(older / "hf_addnorm/__init__.py")
        pinned = do("push", repo="ann/old", **push)["commit"]
    old = hub.repo("ann/old")
    code = _code(old)
    assert b"def halved(x)" in code["legacy.py"]
    assert code["norms.py"] != flat_file("norms").encode()
    ours, remote = (
        "hf_addnorm.models.families.modeling_addnorm_bert",
        f"transformers_modules.ann.old.{pinned}.modeling_addnorm_bert",
    )
    load = {"repo": "ann/old", "auto": AUTO, "trust_remote_code": True}

    # imported: the package's code, with and without trust; the checkpoint's by reference
    with ann.process() as do:
        do("push", repo="ann/new", **push)
        newer = _code(hub.repo("ann/new"))
        for trust in (True, False):
            found = do("load", **load | {"trust_remote_code": trust}, record="ann/new")
            assert (found["equal"], found["model"]) == (True, ours)
        found = do("load_by_reference", repo="ann/old", reference=REFERENCE)
        assert (found["equal"], found["model"]) == (True, remote)

    # not imported: the older code and nothing else, also where it is pushed to from here
    with new_client("ann").process(ADDNORM_HIDDEN="0") as do:
        found = do("load", **load)
        assert (found["equal"], found["model"]) == (True, remote)
        assert do("push_again", **load, to="ann/again")["equal"]
        assert do("package") is None
        assert _code(hub.repo("ann/again")) == code
        # imported afterwards: a model that is loaded from then on is the package's
        assert do("package", load=True) == str(PACKAGE / "__init__.py")
        found = do("push_again", **load, record="ann/new", to="ann/old")
        assert (found["equal"], found["model"]) == (True, ours)

    # pushed to its place by the package, it has the newer code, and means the same to everybody
    assert newer.items() <= _code(old).items()
    with new_client(None).hidden() as do:
        found = do("load", **load, record="ann/new")
        assert (found["equal"], old.head.oid in found["model"]) == (True, True)
        # who has pinned the older commit has the older model
        found = do("load", **load, revision=pinned)
        assert (found["equal"], found["model"]) == (True, remote)
        # the code of one commit with the weights of another
        found = do("load", **load, record="ann/new", revision=pinned, code_revision=old.head.oid)
        assert (found["equal"], old.head.oid in found["model"]) == (True, True)
        found = do("load", **load, revision="main", code_revision=pinned)
        assert (found["equal"], found["model"]) == (True, remote)
