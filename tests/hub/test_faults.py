"""What goes wrong on the way: a sentence for the user, and a repository that is either as before or as meant."""

import pytest
from cases import CASES
from hub_server import before, cut_reply, drop_in_body, drop_reply
from hub_store import Blob


AUTO = CASES["bert"].auto
REPO = "ann/net"
# more often than the client tries again
ALWAYS = 9


@pytest.fixture
def ann(new_client):
    """A process of the owner of a repository with a model."""
    with new_client("ann").process() as do:
        do("push", case="bert", spec="default", repo=REPO, record="default")
        yield do


def _cut_weights(request, proceed):
    """What is read of the weights is cut."""
    is_read = request.found["path"] == "model.safetensors" and request.handler.command == "GET"
    return cut_reply(request, proceed) if is_read else proceed()


NOTE = "The push to ann/net did not succeed: the repository is as it was"
SENT = "Error while uploading 'model.safetensors' to the Hub."
# route, fault, how often, spec; what the user is told, if anything; whether the commit is there
DROPS = [
    ("lfs_upload", drop_in_body, ALWAYS, "pre_rms_norm", SENT, False),
    ("preupload", drop_in_body, ALWAYS, "pre_rms_norm", "Server disconnected", False),
    ("commit", drop_in_body, 1, "pre_rms_norm", "Server disconnected", False),
    ("commit", drop_reply, 1, "pre_rms_norm", "Server disconnected", True),
    ("lfs_upload", drop_in_body, 1, "batch_norm", None, True),
    ("preupload", drop_reply, 1, "hyper_connections", None, True),
]


def test_a_connection_that_is_dropped(ann, new_client, hub):
    repo = hub.repo(REPO)
    for route, fault, times, spec, sentence, arrives in DROPS:
        old = repo.head
        hub.inject(route, fault, times)
        pushed = ann("push", case="bert", spec=spec, repo=REPO, record=spec)
        assert hub.forgive() < times, route
        if sentence is None:
            assert pushed["commit"] == repo.head.oid, (route, pushed)
        else:
            assert sentence in pushed["message"] and NOTE in pushed["message"], (route, pushed)
        assert (repo.head.parent if arrives else repo.head) is old, route
    # what is loaded
    with new_client(None).hidden() as do:
        load = {"repo": REPO, "auto": AUTO, "record": spec, "trust_remote_code": True}
        hub.inject("resolve", _cut_weights, 500)
        failed = do("load", **load)
        assert hub.forgive() > 400
        assert failed["error"] == "OSError" and "Can't load the model for 'ann/net'" in failed["message"], failed
        # nothing that is cut stays behind
        assert do("load", **load)["equal"]


def test_whoever_may_not(ann, new_client, hub):
    repo, old = hub.repo(REPO), hub.repo(REPO).head
    with new_client("bob").process() as do:
        # another one's token, one that is made up, none
        for given, sentence in (
            ({}, "You don't have the rights to write to ann/net"),
            ({"token": "hf_wrong"}, "Invalid credentials in Authorization header"),
            ({"token": False}, "Invalid username or password"),
        ):
            refused = do("push", case="bert", spec="pre_rms_norm", record="bob", repo=REPO, **given)
            assert refused["error"] == "HfHubHTTPError" and sentence in refused["message"], refused
            assert "hf_" not in refused["message"]
        for repo_id, sentence in (
            ("ann/no", "ann/no is not a local folder and is not a valid model identifier"),
            (REPO, "no-such-branch is not a valid git identifier"),
        ):
            missing = do("load", repo=repo_id, auto=AUTO, record="bob", revision="no-such-branch")
            assert missing["error"] == "OSError", missing
            assert sentence in missing["message"], missing
        refused = do("upload", record="bob", repo="bob/no")
        assert refused["error"] == "RepositoryNotFoundError"
    assert repo.head is old
    assert list(hub.store.repos) == [("models", REPO)]


def test_somebody_else_was_faster(ann, hub):
    repo = hub.repo(REPO)
    changes = {"notes.txt": Blob(b"mine")}
    hub.inject("commit", before(lambda: repo.write("main", changes, "in between", "carol")))
    parent = repo.head.oid
    refused = ann("upload", record="default", repo=REPO, parent_commit=parent, path_in_repo="copy")
    assert refused["error"] == "HfHubHTTPError"
    assert "A commit has happened since" in refused["message"]
    assert repo.head.title == "in between" and repo.head.parent.oid == parent
    # without a parent, both are there
    hub.inject("commit", before(lambda: repo.write("main", {"more.txt": Blob(b"more")}, "again", "carol")))
    pushed = ann("push", case="bert", spec="pre_rms_norm", repo=REPO)
    assert [commit.title for commit in repo.history[:2]] == ["Upload AddNormBertForSequenceClassification", "again"]
    assert repo.head.oid == pushed["commit"] and {"notes.txt", "more.txt"} <= repo.head.files.keys()
