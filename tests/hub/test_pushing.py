"""What a push leaves on the Hub: pushed twice, from remote code, in another form, by Trainer, by several processes."""

import json
import re
from functools import partial
from pathlib import Path

import forked_python
from cases import CASES


AUTO = CASES["bert"].auto
REPO = "ann/net"
TRUSTING = {"auto": AUTO, "trust_remote_code": True}


def _code(commit):
    return {name: blob.content for name, blob in commit.files.items() if name.endswith(".py")}


def test_pushed_again(new_client, hub):
    with new_client("ann").process() as do:
        push = partial(do, "push", case="bert", repo=REPO)
        first = push(spec="pre_rms_norm")
        assert push(spec="pre_rms_norm") == first
        repo = hub.repo(REPO)
        assert [commit.oid for commit in repo.history[:-1]] == [first["commit"]]
    # one who has loaded it as remote code
    with new_client("ann").hidden() as do:
        for to in (REPO, "ann/copy", "ann/copy"):
            again = do("push_again", repo=REPO, to=to, **TRUSTING)
            assert again["equal"] and again["commit"] == hub.repo(to).head.oid
        assert len(repo.history) == len(hub.repo("ann/copy").history) == 2
        copy = hub.repo("ann/copy").head
        assert _code(copy) == _code(repo.head)
        # a copy says nothing of where it comes from: it needs nothing of it
        auto_map = json.loads(copy.files["config.json"].content)["auto_map"]
        assert not [reference for reference in auto_map.values() if "--" in reference]
        do("api", method="delete_repo", repo_id=REPO)
    with new_client(None).hidden() as do:
        assert do("load", repo="ann/copy", record=REPO, **TRUSTING)["equal"]


def test_pushed_again_in_another_form(new_client, hub):
    with new_client("ann").process() as do, new_client(None).process() as reader:
        for number, size in enumerate(("40KB", "5GB", "60KB", "40KB")):
            spec = ["pre_rms_norm", "batch_norm"][number % 2]
            do("push", case="bert", spec=spec, repo=REPO, max_shard_size=size)
            files = hub.repo(REPO).head.files
            weights = [name for name in files if re.match(r"model[.-]", name)]
            index = files.get("model.safetensors.index.json")
            named = {"model.safetensors"}
            if index is not None:
                named = {"model.safetensors.index.json", *json.loads(index.content)["weight_map"].values()}
            assert set(weights) == named, size
            assert reader("load", repo=REPO, auto=AUTO)["equal"], size
        # to a branch, whose weights are its own
        do("push", case="bert", spec="batch_norm", repo=REPO, record="branch", revision="whole")
        assert "model.safetensors" not in hub.repo(REPO).head.files
        assert reader("load", repo=REPO, auto=AUTO, record="branch", revision="whole")["equal"]


def test_trainer_pushes(new_client, hub):
    with new_client("ann").process() as do:
        assert do("train", case="bert", spec="batch_norm", repo=REPO) == 1
    repo = hub.repo(REPO)
    *middle, _ = repo.history[1:]
    assert middle and repo.head.title == "End of training"
    assert not [name for name in repo.head.files if name.startswith("checkpoint")]
    with new_client(None).hidden() as do:
        assert do("load", repo=REPO, **TRUSTING)["equal"]
        # what was pushed on the way can be used by everybody, too
        for commit in middle:
            assert commit.title.startswith("Training in progress, step ")
            found = do("load", repo=REPO, revision=commit.oid, **TRUSTING)
            assert commit.oid in found.get("model", ""), found


def test_two_processes_make_one_commit(new_client, hub):
    ann = new_client("ann")
    script = Path(__file__).with_name("two_processes.py")
    for done in forked_python.run_distributed([script], env=ann.env(), cwd=ann.home):
        assert done.returncode == 0, done.stderr[-3000:]
    for repo_id in ("ann/all", "ann/saved", "ann/trained"):
        made, first = hub.repo(repo_id).history
        assert {"config.json", "model.safetensors", "modeling_addnorm_bert.py"} <= made.files.keys(), repo_id
        assert first.files.keys() == {".gitattributes"}
