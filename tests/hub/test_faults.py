"""What goes wrong on the way: a sentence for the user, and a repository that is either as before or as meant."""

import pytest
from cases import CASES
from hub_server import drop_in_body, drop_reply


AUTO = CASES["bert"].auto
REPO = "ann/net"
ALWAYS = 50


def _push(spec, **more):
    return "push", {"case": "bert", "spec": spec, "repo": REPO, "record": spec} | more


def _load(record, **more):
    return "load", {"repo": REPO, "auto": AUTO, "record": record, "trust_remote_code": True} | more


@pytest.fixture
def ann(new_client):
    """The owner of a repository with a model."""
    client = new_client("ann")
    client.run(_push("default"))
    return client


# route, fault, how often; whether the push succeeds all the same; whether the new state is there
DROPS = {
    "an upload, once": ("lfs_upload", drop_in_body, 1, None, True),
    "an upload, every time": ("lfs_upload", drop_in_body, ALWAYS, "Error while uploading 'model.safetensors'", False),
    "what is asked before": ("preupload", drop_in_body, ALWAYS, "Server disconnected", False),
    "the commit": ("commit", drop_in_body, 1, "Server disconnected", False),
    "the answer to the commit": ("commit", drop_reply, 1, "Server disconnected", True),
}


def test_dropped_connections(ann, hub):
    repo = hub.repo(REPO)
    for name, (route, fault, times, sentence, arrives) in DROPS.items():
        old = repo.head
        hub.inject(route, fault, times)
        spec = "pre_rms_norm" if name == "an upload, once" else "batch_norm"
        (pushed,) = ann.run(_push(spec))
        hub.forgive()
        print(name, pushed, repo.head is old)
