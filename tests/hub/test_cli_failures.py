"""A command that fails at the Hub says in one sentence what failed and what was sent, and exits with 1."""

import errno
import shutil
import socket
import time

import pytest
from cases import CASES
from hub_server import answering, before, drop_in_body, drop_reply

from hf_addnorm.hub import push_folder
from hf_addnorm.hub.failures import HubError, failure


# more often than the client tries again
ALWAYS = 9
REPO = "ann/net"
NOTHING, NO_COMMIT = "Nothing was sent.", "No commit was made, so ann/net is as it was"
# route, fault, how often; what is said of the reason, and of what was sent
FAULTS = [
    ("create_repo", answering(401), 1, "the Hub does not know who asks", NOTHING),
    ("tree", answering(404), ALWAYS, "there is no such repository", "No file was sent"),
    ("lfs_upload", drop_in_body, ALWAYS, "broke off", NO_COMMIT),
    ("commit", drop_reply, 1, "unless only the answer to the commit was lost", NO_COMMIT),
]
MORE_FAULTS = [
    ("create_repo", answering(403), 1, "this login has no right to do that", NOTHING),
    ("create_repo", answering(503), ALWAYS, "the Hub has a fault of its own", NOTHING),
    ("create_repo", drop_in_body, ALWAYS, "broke off", NOTHING),
    ("preupload", answering(500), ALWAYS, "the Hub has a fault of its own", NO_COMMIT),
    ("lfs_batch", answering(403), 1, "this login has no right", NO_COMMIT),
    ("commit", answering(412), 1, "somebody else has pushed in between", NO_COMMIT),
    ("commit", drop_in_body, 1, "broke off", NO_COMMIT),
]


@pytest.fixture
def saved(new_client):
    """The folder of a saved model, below the client's."""
    client = new_client("ann")
    folder = client.home / "saved"
    CASES["bert"].build("pre_rms_norm").save_pretrained(folder)
    return client, folder


def _one_sentence(found):
    assert found["code"] == 1, found
    lines = found["said"].strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0] and "Traceback" not in found["said"], found
    return errors[0]


@pytest.mark.parametrize("faults", [FAULTS, pytest.param(MORE_FAULTS, marks=pytest.mark.slow)], ids=["few", "more"])
def test_a_push_that_fails(faults, saved, new_client, hub):
    client, folder = saved
    with client.process() as do:
        for route, fault, times, reason, sent in faults:
            hub.inject(route, fault, times)
            said = _one_sentence(do("cli", args=["push", str(folder), REPO, "--yes"]))
            hub.forgive()
            assert said.startswith(f"error: {folder} is not pushed to ann/net: "), (route, said)
            assert reason in said and sent in said, (route, said)
            arrived = fault is drop_reply
            files = hub.repo(REPO).head.files if ("models", REPO) in hub.store.repos else {}
            assert ("model.safetensors" in files) == arrived, route
        # nothing stands in the way of the next one
        found = do("cli", args=["push", str(folder), REPO, "--yes"])
        assert found["code"] == 0 and "pushed: " in found["said"]
        assert {path.name for path in folder.iterdir()} <= set(hub.repo(REPO).head.files)
    with new_client("bob").process() as do:
        said = _one_sentence(do("cli", args=["push", str(folder), REPO, "--yes"]))
        assert "is not pushed" in said and "hf_" not in said


def test_showing_a_repository_that_fails(saved, hub):
    client, folder = saved
    with client.process(HF_HUB_ETAG_TIMEOUT="3") as do:
        assert do("cli", args=["push", str(folder), REPO, "--yes"])["code"] == 0
        for status in (403, 404, 503):
            hub.inject("resolve", answering(status), ALWAYS * 5)
            hub.inject("repo_info", answering(status), ALWAYS)
            said = _one_sentence(do("cli", args=["show", REPO]))
            hub.forgive()
            assert said.startswith("error: ann/net cannot be read: "), said
        said = _one_sentence(do("cli", args=["show", "ann/no"]))
        assert "there is no such repository" in said
        assert do("cli", args=["show", REPO])["code"] == 0
        # one that falls silent: what is in the cache is shown
        hub.inject("resolve", before(lambda: time.sleep(8)), ALWAYS)
        assert do("cli", args=["show", REPO])["code"] == 0


def test_nobody_is_there(saved):
    client, folder = saved
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        free = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with client.process(HF_ENDPOINT=free) as do:
        said = _one_sentence(do("cli", args=["push", str(folder), REPO, "--yes"]))
        assert f"{free} cannot be reached" in said and NOTHING in said
        said = _one_sentence(do("cli", args=["show", REPO]))
        assert said.startswith("error: ann/net cannot be read: ") and free in said
        # the Python API keeps the client's error, and adds what was sent
        pushed = do("push", case="bert", spec="default", repo=REPO)
        assert pushed["error"] == "ConnectError" and NOTHING in pushed["message"]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "only be read")])
def test_a_disk_that_takes_no_more(number, words, saved, monkeypatch):
    _, folder = saved
    plan = push_folder.plan_push(folder, REPO)

    class FullDisk:
        def __init__(self, token=None):
            pass

        def create_repo(self, *args, **kwargs):
            raise OSError(number, "of the system", "/cache/file")

    monkeypatch.setattr(push_folder, "HfApi", FullDisk)
    with pytest.raises(HubError, match=rf"is not pushed to ann/net: .*{words}.*: /cache/file\. Nothing was sent\.$"):
        plan.send()
    assert failure(ValueError("of something else")) is None
    shutil.rmtree(folder)


@pytest.fixture
def silent_hub():
    """The address of a server that accepts connections and says nothing; the kernel accepts them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_is_silent(saved, silent_hub):
    client, folder = saved
    seconds = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    with client.process(HF_ENDPOINT=silent_hub, **seconds) as do:
        # before the console script has set anything
        pushed = do("push", case="bert", spec="default", repo=REPO)
        assert pushed["error"] == "ReadTimeout"
        assert NOTHING in pushed["message"] and "The Hub did not answer within 1 seconds" in pushed["message"]
        for args, what, sent in (
            (["push", str(folder), REPO, "--yes"], f"{folder} is not pushed to ann/net", NOTHING),
            (["show", REPO], "ann/net cannot be read", ""),
        ):
            asked = time.monotonic()
            said = _one_sentence(do("cli", args=args))
            assert time.monotonic() - asked < 8
            assert said.startswith(f"error: {what}: {silent_hub} did not answer in time: "), said
            assert "HF_HUB_DOWNLOAD_TIMEOUT" in said and sent in said
