"""What a Hub keeps: users, repositories with commits, branches, tags and pull requests, and large files.

No HTTP here, see `hub_server.py`. What a user may not do, and what is not there, raises a `HubError`, which has the
status and the error code of the real Hub.
"""

import hashlib
import re
import threading
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any


LARGE = re.compile(r"\.(safetensors|bin|pt|onnx|msgpack|zip|gz|parquet)$")
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_PULL = re.compile(r"refs/pr/\d+")


class HubError(Exception):
    """A refusal, as the Hub words it: status, `X-Error-Code`, `X-Error-Message`."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict[str, Any] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body or {}


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    content: bytes
    is_large: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds of a large file."""
        lines = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return lines.encode()

    @cached_property
    def git_oid(self) -> str:
        stored = self.pointer if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0%s" % (len(stored), stored)).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_oid


@dataclass(frozen=True)
class Commit:
    """A state of a repository, and how it came about."""

    oid: str
    files: dict[str, Blob]
    title: str = "initial commit"
    description: str = ""
    author: str = ""
    parent: "Commit | None" = None

    @property
    def history(self) -> "list[Commit]":
        """This commit and those before it, the newest first."""
        return [self, *(self.parent.history if self.parent else [])]


@dataclass
class Repo:
    """A repository: what its branches, tags and pull requests point at."""

    repo_id: str
    kind: str
    owner: str
    is_private: bool
    refs: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a pull request or an object id."""
        for known in (self.refs, self.tags, self.commits):
            if revision in known:
                return known[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    @property
    def head(self) -> Commit:
        return self.refs["main"]

    @property
    def history(self) -> list[Commit]:
        """The commits of the branch main, the newest first."""
        return self.head.history

    def write(
        self,
        ref: str,
        changes: dict[str, Blob | None],
        title: str,
        author: str,
        description: str = "",
        expected: str | None = None,
        as_pull: bool = False,
    ) -> tuple[Commit, str]:
        """A new commit on a branch, or on a new pull request of it; a change that is None deletes.

        Args:
            expected (`str`, *optional*): the commit that the ref must still point at.
        Returns:
            The commit, and the ref that points at it now.
        """
        if ref not in self.refs:
            raise HubError(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        base = self.refs[ref]
        if expected is not None and not base.oid.startswith(expected):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = {path: blob for path, blob in (base.files | changes).items() if blob is not None}
        listing = "".join(f"{path} {blob.git_oid}\n" for path, blob in sorted(files.items()))
        text = f"{base.oid}\n{title}\n{description}\n{len(self.commits)}\n{listing}"
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), files, title, description, author, base)
        self.commits[commit.oid] = commit
        if as_pull:
            ref = next(name for number in count(1) if (name := f"refs/pr/{number}") not in self.refs)
        self.refs[ref] = commit
        return commit, ref

    def under(self, commit: Commit, folder: str) -> dict[str, Blob]:
        """The files in a folder, at any depth."""
        start = f"{folder}/" if folder else ""
        found = {path: blob for path, blob in commit.files.items() if path.startswith(start)}
        if folder and not found:
            raise HubError(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
        return found

    @property
    def pulls(self) -> list[str]:
        return [ref for ref in self.refs if _PULL.fullmatch(ref)]

    @property
    def branches(self) -> list[str]:
        return [ref for ref in self.refs if not _PULL.fullmatch(ref)]


class Store:
    """All of a Hub: `users` by token, `repos` by kind and id, `large` files by sha256. One lock for who writes."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def add_user(self, name: str) -> str:
        """A token for a user of this name."""
        token = f"hf_{name}{len(self.users)}"
        self.users[token] = name
        return token

    def create(self, owner: str, repo_id: str, kind: str = "models", is_private: bool = False) -> Repo:
        """A new repository, with the one file that the Hub puts into it."""
        if (kind, repo_id) in self.repos:
            raise HubError(409, "You already created this model repo")
        repo = Repo(repo_id, kind, owner, is_private)
        first = Commit(hashlib.sha1(f"{kind}/{repo_id}".encode()).hexdigest(), {".gitattributes": Blob(GITATTRIBUTES)})
        repo.refs["main"] = repo.commits[first.oid] = first
        self.repos[kind, repo_id] = repo
        return repo

    def readable(self, user: str | None, repo_id: str, kind: str = "models") -> Repo:
        """The repository, if this user may see it."""
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.is_private and user != repo.owner):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, user: str | None, repo_id: str, kind: str = "models", as_pull: bool = False) -> Repo:
        """The repository, if this user may write to it; whoever sees it may open a pull request."""
        repo = self.readable(user, repo_id, kind)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user != repo.owner and not as_pull:
            raise HubError(403, f"You don't have the rights to write to {repo_id}")
        return repo

    def blob_to_be(self, path: str, size: int, sample: bytes) -> bool:
        """Whether a file goes among the large ones."""
        return size > 10 * 2**20 or b"\0" in sample or LARGE.search(path) is not None
