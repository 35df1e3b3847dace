"""Where a model is looked for: branches, tags, pull requests, pinned commits, private repositories, shards."""

from cases import CASES


AUTO = CASES["bert"].auto
REPO = "ann/net"


def _push(spec, record, **more):
    return "push", {"case": "bert", "spec": spec, "repo": REPO, "record": record} | more


def _load(record, repo=REPO, **more):
    return "load", {"repo": repo, "auto": AUTO, "record": record, "trust_remote_code": True} | more


def test_every_revision_has_its_own_model(new_client, hub):
    first, _, branch, pull, last = new_client("ann").run(
        _push("default", "first"),
        ("api", {"method": "create_tag", "repo_id": REPO, "tag": "v1"}),
        _push("pre_rms_norm", "branch", revision="other/scheme"),
        _push("batch_norm", "pull", create_pr=True),
        _push("hyper_connections", "last"),
    )
    repo = hub.repo(REPO)
    assert [made["commit"] for made in (last, first)] == [commit.oid for commit in repo.history[:-1]]
    assert repo.refs["other/scheme"].oid == branch["commit"]
    assert repo.tags["v1"].oid == first["commit"]
    assert (repo.pulls, repo.refs["refs/pr/1"].oid) == (["refs/pr/1"], pull["commit"])
    assert pull["pull"].endswith("/ann/net/discussions/1")

    loads = {
        "v1": _load("first", revision="v1"),
        "branch": _load("branch", revision="other/scheme"),
        "pull": _load("pull", revision="refs/pr/1"),
        "main": _load("last"),
        "pinned": _load("first", revision=first["commit"]),
    }
    stranger = new_client("bob")
    for found, (name, step) in zip(stranger.run_hidden(*loads.values()), loads.items(), strict=True):
        commit = repo.at(step[1].get("revision", "main")).oid
        assert found["equal"], name
        assert found["model"] == f"transformers_modules.ann.net.{commit}.modeling_addnorm_bert"
        assert found["config"] == f"transformers_modules.ann.net.{commit}.configuration_addnorm_bert"
    package = [(verb, given | {"trust_remote_code": False}) for verb, given in loads.values()]
    assert [found["equal"] for found in new_client(None).run(*package)] == [True] * len(loads)
    # none of them needs the Hub again
    asked = len(hub.requests)
    offline = stranger.run_hidden(*loads.values(), HF_HUB_OFFLINE="1")
    assert [found["equal"] for found in offline] == [True] * len(loads)
    assert len(hub.requests) == asked


def test_shards_and_privacy(new_client, hub):
    shards = {"max_shard_size": "40KB"}
    ann = new_client("ann")
    ann.run(
        _push("pre_rms_norm", "private", private=True, **shards),
        _push("default", "public", repo="ann/shards", **shards),
    )
    for repo in ("ann/net", "ann/shards"):
        files = hub.repo(repo).head.files
        assert "model.safetensors.index.json" in files and "model.safetensors" not in files
        assert len([name for name in files if name.startswith("model-")]) > 2
    assert [hub.repo(repo).is_private for repo in ("ann/net", "ann/shards")] == [True, False]
    loads = [_load("private"), _load("public", "ann/shards")]
    assert [found["equal"] for found in new_client("ann").run_hidden(*loads)] == [True, True]
    # somebody else, and nobody
    nobody = [(verb, given | {"token": False}) for verb, given in loads]
    theirs, public, *again = new_client("bob").run_hidden(*loads, *nobody)
    for refused in (theirs, again[0]):
        assert refused["error"] == "OSError"
        assert "ann/net is not a local folder and is not a valid model identifier" in refused["message"]
        assert "private" in refused["message"] and "token" in refused["message"]
    assert public["equal"] and again[1]["equal"]
