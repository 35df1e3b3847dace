"""A push over HTTP: the card that a model gets, and the console script's `push`."""

import json
from pathlib import Path

import pytest
from families import FAMILIES
from forked_python import run

from hf_addnorm import AddNormBertForSequenceClassification


CLIENT = Path(__file__).with_name("client_of_cards.py")
SCRIPT = Path(__file__).parents[1] / "console_script.py"


@pytest.fixture
def folder(tmp_path):
    config = FAMILIES["bert"].config("AddNormBertForSequenceClassification", "deepnorm")
    AddNormBertForSequenceClassification(config).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def test_a_pushed_model_has_a_card(hub, tmp_path, folder):
    env = hub.client_env(tmp_path / "home", hub.store.add_user("ann"))
    result = run([CLIENT, folder], env, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.endswith("done\n")
    result = run([CLIENT.with_name("client_of_remote_code.py"), "ann/net", "ann/again"], env, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]


def test_the_script_pushes_in_one_commit(hub, tmp_path, folder):
    token = hub.store.add_user("ann")
    env = hub.client_env(tmp_path / "home", token)
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    said = []

    def push(*options):
        result = run([SCRIPT, "push", folder, "ann/net", "--json", *options], env, tmp_path)
        said.append(result.stdout + result.stderr)
        return result.returncode, json.loads(result.stdout)

    code, plan = push()
    assert (code, plan["pushed"]) == (0, None) and hub.requests == []
    code, done = push("--yes", "--private")
    assert code == 0, done
    repo = hub.repo("ann/net")
    assert done["pushed"].endswith(repo.history[0].oid) and repo.is_private
    files = repo.head.files
    assert set(files) - {".gitattributes"} == set(done["files"]) == set(plan["files"])
    assert {"README.md", "model.safetensors", "spec.py"} <= set(files) and "training_args.bin" not in files
    assert done["left_out"] == {"training_args.bin": "can hold a pickle"}
    assert "(2L)^(1/4)" in files["README.md"].content.decode()
    # the same again, and to a branch; another user's repository
    commits = len(repo.history)
    assert push("--yes")[0] == 0 and len(repo.history) == commits
    assert push("--yes", "--revision", "next")[0] == 0 and "next" in " ".join(repo.refs)
    code, failed = push_as_stranger(hub, tmp_path, folder)
    assert code == 1 and failed["error"], failed
    assert len(repo.history) == commits
    assert not any(token in text for text in said)


def push_as_stranger(hub, tmp_path, folder):
    env = hub.client_env(tmp_path / "home of bob", hub.store.add_user("bob"))
    result = run([SCRIPT, "push", folder, "ann/net", "--json", "--yes"], env, tmp_path)
    return result.returncode, json.loads(result.stdout)
