"""What `test_server.py` asks of the Hub, as ann; bob's token is the argument."""

import os
import sys
from pathlib import Path

import huggingface_hub as hf


api = hf.HfApi()
add = hf.CommitOperationAdd


def refused(call, error, words=""):
    try:
        call()
    except error as caught:
        assert type(caught) is error and words in str(caught), (type(caught), str(caught))
    else:
        raise AssertionError(f"no {error}")


assert api.whoami()["name"] == "ann"
for _ in range(2):
    assert api.create_repo("net", exist_ok=True).repo_id == "ann/net"
refused(lambda: api.create_repo("net"), hf.errors.HfHubHTTPError, "409")

Path("files/sub/deep").mkdir(parents=True)
Path("files/README.md").write_text("---\ntags: [a]\n---\nhello")
Path("files/sub/deep/small.txt").write_text("small")
large = os.urandom(300_000)
Path("files/large.safetensors").write_bytes(large)
first = api.upload_folder(repo_id="ann/net", folder_path="files").oid
assert api.upload_folder(repo_id="ann/net", folder_path="files").oid == first == api.repo_info("ann/net").sha

api.create_branch("ann/net", branch="a/b")
api.create_branch("ann/net", branch="a/b", exist_ok=True)
api.create_tag("ann/net", tag="v1")
refused(lambda: api.create_tag("ann/net", tag="v1"), hf.errors.HfHubHTTPError, "409")
api.create_commit("ann/net", [add("on.txt", b"branch")], commit_message="one", revision="a/b")
api.create_commit("ann/net", [add("on.txt", b"pull")], commit_message="two", create_pr=True)
refs = api.list_repo_refs("ann/net", include_pull_requests=True)
named = {ref.name: ref.target_commit for ref in refs.branches + refs.tags + refs.pull_requests}
assert named["main"] == named["v1"] == first and len(set(named.values())) == 3, named
for revision, text in (("a/b", "branch"), ("refs/pr/1", "pull"), (named["a/b"], "branch")):
    assert Path(hf.hf_hub_download("ann/net", "on.txt", revision=revision)).read_text() == text
titles = [commit.title for commit in api.list_repo_commits("ann/net", revision="a/b")]
assert titles == ["one", "Upload folder using huggingface_hub", "initial commit"], titles

files = [".gitattributes", "README.md", "large.safetensors"]
assert api.list_repo_files("ann/net") == [*files, "sub/deep/small.txt"]
assert [entry.path for entry in api.list_repo_tree("ann/net")] == [*files, "sub"]
inside = api.list_repo_tree("ann/net", "sub", recursive=True)
assert [entry.path for entry in inside] == ["sub/deep", "sub/deep/small.txt"]
assert [entry.path for entry in api.get_paths_info("ann/net", ["sub", "README.md", "no"])] == ["README.md", "sub"]
assert Path(hf.snapshot_download("ann/net"), "large.safetensors").read_bytes() == large

refused(lambda: hf.hf_hub_download("ann/net", "no"), hf.errors.RemoteEntryNotFoundError)
refused(lambda: hf.hf_hub_download("ann/net", "on.txt", revision="no"), hf.errors.RevisionNotFoundError)
refused(lambda: hf.hf_hub_download("ann/no", "on.txt"), hf.errors.RepositoryNotFoundError)
refused(lambda: api.whoami(token="hf_wrong"), hf.errors.HfHubHTTPError, "Invalid user token")
refused(
    lambda: api.create_commit("ann/net", [add("on.txt", b"3")], commit_message="three", parent_commit="0" * 40),
    hf.errors.HfHubHTTPError,
    "A commit has happened since",
)
card = add("README.md", b"---\na: [\n---\n")
refused(lambda: api.create_commit("ann/net", [card], commit_message="four"), ValueError, "Invalid metadata")

# a stranger may read, and open a pull request; a private repository is not there for him
stranger, nobody = hf.HfApi(token=sys.argv[1]), hf.HfApi(token=False)
api.create_repo("secret", private=True)
for who in (stranger, nobody):
    assert who.list_repo_files("ann/net") == api.list_repo_files("ann/net")
    refused(lambda who=who: who.repo_info("ann/secret"), hf.errors.RepositoryNotFoundError)
for revision in ("main", "a/b"):
    refused(
        lambda rev=revision: stranger.create_commit(
            "ann/net", [add("on.txt", b"5")], commit_message="five", revision=rev
        ),
        hf.errors.HfHubHTTPError,
        "403 Forbidden: You don't have the rights to write to ann/net",
    )
stranger.create_commit("ann/net", [add("on.txt", b"mine")], commit_message="six", create_pr=True)
refused(lambda: nobody.create_repo("ann/other"), hf.errors.HfHubHTTPError, "Invalid username or password")

api.delete_folder("sub", "ann/net")
api.delete_file("README.md", "ann/net")
assert api.list_repo_files("ann/net") == [".gitattributes", "large.safetensors"]
api.delete_tag("ann/net", tag="v1")
api.delete_branch("ann/net", branch="a/b")
api.delete_repo("ann/secret")
assert not api.repo_exists("ann/secret")
