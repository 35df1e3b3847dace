"""Where a model is looked for: branches, tags, pull requests, pinned commits, private repositories, shards."""

from functools import partial

from cases import CASES


AUTO = CASES["bert"].auto
REPO = "ann/net"


def test_every_revision_has_its_own_model(new_client, hub):
    with new_client("ann").process() as do:
        push = partial(do, "push", case="bert", repo=REPO)
        first = push(spec="default", record="first")
        do("api", method="create_tag", repo_id=REPO, tag="v1")
        branch = push(spec="pre_rms_norm", record="branch", revision="other/scheme")
        pull = push(spec="batch_norm", record="pull", create_pr=True)
        last = push(spec="hyper_connections", record="last")
    repo = hub.repo(REPO)
    assert [made["commit"] for made in (last, first)] == [commit.oid for commit in repo.history[:-1]]
    assert repo.refs["other/scheme"].oid == branch["commit"]
    assert repo.tags["v1"].oid == first["commit"]
    assert (repo.pulls, repo.refs["refs/pr/1"].oid) == (["refs/pr/1"], pull["commit"])
    assert pull["pull"].endswith("/ann/net/discussions/1")

    revisions = {
        "v1": "first",
        "other/scheme": "branch",
        "refs/pr/1": "pull",
        "main": "last",
        first["commit"]: "first",
    }
    stranger = new_client("bob")
    with stranger.hidden() as do:
        for revision, record in revisions.items():
            found = do("load", repo=REPO, auto=AUTO, record=record, revision=revision, trust_remote_code=True)
            code = f"transformers_modules.ann.net.{repo.at(revision).oid}"
            assert found["equal"], revision
            assert found["model"] == f"{code}.modeling_addnorm_bert"
            assert found["config"] == f"{code}.configuration_addnorm_bert"
    # with the package, from the same cache, and not asking the Hub again
    asked = len(hub.requests)
    with stranger.process(HF_HUB_OFFLINE="1") as do:
        for revision, record in revisions.items():
            found = do("load", repo=REPO, auto=AUTO, record=record, revision=revision)
            assert (found["equal"], found["model"]) == (True, "hf_addnorm.models.families.modeling_addnorm_bert"), (
                revision
            )
    assert len(hub.requests) == asked


def test_shards_and_privacy(new_client, hub):
    repos = {REPO: True, "ann/shards": False}
    with new_client("ann").process() as do:
        for repo, private in repos.items():
            do("push", case="bert", spec="pre_rms_norm", repo=repo, private=private, max_shard_size="40KB")
    for repo, private in repos.items():
        files = hub.repo(repo).head.files
        assert "model.safetensors.index.json" in files and "model.safetensors" not in files
        assert len([name for name in files if name.startswith("model-")]) > 2
        assert hub.repo(repo).is_private is private
    trusting = {"auto": AUTO, "trust_remote_code": True}
    with new_client("ann").hidden() as do:
        assert do("load", repo=REPO, **trusting)["equal"]
    # somebody else, and nobody
    with new_client("bob").hidden() as do:
        for token in ({}, {"token": False}):
            assert do("load", repo="ann/shards", **trusting, **token)["equal"]
            refused = do("load", repo=REPO, record="ann/shards", **trusting, **token)
            assert refused["error"] == "OSError"
            assert "ann/net is not a local folder and is not a valid model identifier" in refused["message"]
            assert "private" in refused["message"] and "token" in refused["message"]
