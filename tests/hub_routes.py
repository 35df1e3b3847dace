"""The requests that `HubServer` answers: a table of routes, each a function from a `Request` to a `Reply`."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_store import Blob, Commit, HubError, Repo, Store


DATE = "2026-01-01T00:00:00.000Z"


class DroppedError(Exception):
    """The connection is closed without a (whole) reply."""


@dataclass
class Reply:
    """What a route answers: JSON, or bytes of a file."""

    json: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    # the connection ends after so many bytes of the body
    cut_at: int | None = None

    @property
    def body(self) -> bytes:
        return json.dumps(self.json).encode() if self.content is None else self.content


class Request:
    """A request: who asks, for what, and the body once it is read."""

    def __init__(self, handler: BaseHTTPRequestHandler, store: Store, url: str, found: dict[str, str | None]):
        self.handler, self.store, self.url = handler, store, url
        self.found = {key: None if value is None else unquote(value) for key, value in found.items()}
        self.query = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)
        self.length = int(handler.headers.get("Content-Length") or 0)

    @cached_property
    def body(self) -> bytes:
        return self.handler.rfile.read(self.length)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @cached_property
    def user(self) -> str | None:
        given = (self.handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not given:
            return None
        if given not in self.store.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.store.users[given]

    @property
    def kind(self) -> str:
        return (self.found.get("kind") or "models").rstrip("/")

    @property
    def as_pull(self) -> bool:
        return "create_pr" in self.query

    def readable(self) -> Repo:
        return self.store.readable(self.user, str(self.found["repo"]), self.kind)

    def writable(self) -> Repo:
        return self.store.writable(self.user, str(self.found["repo"]), self.kind, self.as_pull)

    def commit(self) -> Commit:
        return self.readable().at(self.found.get("rev") or "main")


@dataclass(frozen=True)
class Route:
    """A kind of request: its name is that of the function that answers it."""

    method: str
    path: re.Pattern[str]
    answer: Callable[[Request], Reply]


ROUTES: list[Route] = []

_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_WEB = r"/(?P<kind>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)"


def route(method: str, path: str) -> Callable[[Callable[[Request], Reply]], Callable[[Request], Reply]]:
    """Enter a function into the table."""

    def enter(answer: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
        ROUTES.append(Route(method, re.compile(path), answer))
        return answer

    return enter


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Reply:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "test", "role": "write"}
    return Reply({"name": request.user, "type": "user", "orgs": [], "auth": {"accessToken": token}})


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Reply:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    asked = request.json
    owner = asked.get("organization") or request.user
    repo_id, kind = f"{owner}/{asked['name']}", f"{asked.get('type') or 'model'}s"
    url = {"url": f"{request.url}/{repo_id}"}
    if owner != request.user:
        raise HubError(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    try:
        request.store.create(request.user, repo_id, kind, asked.get("visibility") == "private")
    except HubError as error:
        error.body = url
        raise
    return Reply(url)


@route("DELETE", "/api/repos/delete")
def delete_repo(request: Request) -> Reply:
    asked = request.json
    kind = f"{asked.get('type') or 'model'}s"
    repo = request.store.writable(request.user, f"{asked.get('organization') or request.user}/{asked['name']}", kind)
    del request.store.repos[kind, repo.repo_id]
    return Reply({})


@route("POST", "/api/validate-yaml")
def validate_card(request: Request) -> Reply:
    front = re.match(r"---\n(.*?)\n---", request.json["content"], flags=re.DOTALL)
    try:
        yaml.safe_load(front.group(1) if front else "")
    except yaml.YAMLError as error:
        return Reply({"errors": [{"message": str(error)}], "warnings": []}, status=400)
    return Reply({"errors": [], "warnings": []})


@route("POST", f"{_API}/preupload/(?P<rev>[^/]+)")
def preupload(request: Request) -> Reply:
    files = request.writable().at(str(request.found["rev"])).files
    asked = [(file["path"], file["size"], base64.b64decode(file["sample"])) for file in request.json["files"]]
    return Reply(
        {
            "files": [
                {
                    "path": path,
                    "uploadMode": "lfs" if request.store.blob_to_be(path, size, sample) else "regular",
                    "shouldIgnore": False,
                    "oid": files[path].etag if path in files else None,
                }
                for path, size, sample in asked
            ]
        }
    )


@route("POST", rf"{_WEB}\.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Reply:
    # a pull request uploads, too
    request.readable()
    objects = []
    for asked in request.json["objects"]:
        known = request.store.large.get(asked["oid"])
        upload = {"href": f"{request.url}/lfs/{asked['oid']}"}
        actions = {"upload": upload, "verify": {"href": f"{request.url}/lfs/verify"}}
        objects.append(asked | ({"actions": actions} if known is None else {}))
    return Reply({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(request: Request) -> Reply:
    if len(request.body) < request.length:
        raise DroppedError
    blob = Blob(request.body, is_large=True)
    if blob.sha256 != request.found["oid"]:
        raise HubError(400, f"Content of {request.found['oid']} has another sha256: {blob.sha256}")
    request.store.large[blob.sha256] = request.body
    return Reply({})


@route("POST", "/lfs/verify")
def lfs_verify(request: Request) -> Reply:
    if len(request.store.large.get(request.json["oid"], b"")) != request.json["size"]:
        raise HubError(404, f"{request.json['oid']} was not uploaded")
    return Reply({})


def _changes(request: Request, repo: Repo, files: dict[str, Blob], lines: list[Any]) -> dict[str, Blob | None]:
    """What the lines of a commit do, by path."""
    changes: dict[str, Blob | None] = {}
    for line in lines:
        value = line["value"]
        path = value.get("path")
        if line["key"] == "file":
            changes[path] = Blob(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            if value["oid"] not in request.store.large:
                raise HubError(400, f"{path}: the object {value['oid']} was not uploaded")
            changes[path] = Blob(request.store.large[value["oid"]], is_large=True)
        elif line["key"] == "deletedFile":
            if path not in files:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            changes[path] = None
        elif line["key"] == "deletedFolder":
            changes |= dict.fromkeys(repo.under(Commit("", files), path.rstrip("/")))
    return changes


@route("POST", f"{_API}/commit/(?P<rev>[^/]+)")
def commit(request: Request) -> Reply:
    if len(request.body) < request.length:
        raise DroppedError
    repo, rev = request.writable(), str(request.found["rev"])
    header, *lines = map(json.loads, request.body.splitlines())
    about = header["value"]
    made, ref = repo.write(
        rev,
        _changes(request, repo, repo.at(rev).files, lines),
        about["summary"],
        str(request.user),
        about.get("description", ""),
        about.get("parentCommit"),
        request.as_pull,
    )
    place = f"{request.url}/{repo.repo_id}"
    answer = {"commitUrl": f"{place}/commit/{made.oid}", "commitOid": made.oid, "success": True}
    return Reply(answer | ({"pullRequestUrl": f"{place}/discussions/{ref[8:]}"} if request.as_pull else {}))


@route("POST", f"{_API}/branch/(?P<name>[^/]+)")
def create_branch(request: Request) -> Reply:
    repo, name = request.writable(), str(request.found["name"])
    if name in repo.refs:
        raise HubError(409, f"Reference already exists: {name}")
    repo.refs[name] = repo.at(request.json.get("startingPoint") or "main")
    return Reply({})


@route("DELETE", f"{_API}/branch/(?P<name>[^/]+)")
def delete_branch(request: Request) -> Reply:
    repo = request.writable()
    repo.at(str(request.found["name"]))
    del repo.refs[str(request.found["name"])]
    return Reply({})


@route("POST", f"{_API}/tag/(?P<rev>[^/]+)")
def create_tag(request: Request) -> Reply:
    repo, name = request.writable(), request.json["tag"]
    if name in repo.tags:
        raise HubError(409, f"Reference already exists: {name}")
    repo.tags[name] = repo.at(str(request.found["rev"]))
    return Reply({})


@route("DELETE", f"{_API}/tag/(?P<name>[^/]+)")
def delete_tag(request: Request) -> Reply:
    repo, name = request.writable(), str(request.found["name"])
    if repo.tags.pop(name, None) is None:
        raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return Reply({})


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "oid": blob.git_oid, "size": len(blob.content)}
    large = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return entry | ({"lfs": large} if blob.is_large else {})


@route("GET", f"{_API}(?:/revision/(?P<rev>[^/]+))?")
def repo_info(request: Request) -> Reply:
    repo, made = request.readable(), request.commit()
    siblings = []
    for path, blob in sorted(made.files.items()):
        entry = _entry(path, blob)
        more = {"size": entry["size"], "blobId": entry["oid"]} if "blobs" in request.query else {}
        siblings.append({"rfilename": path, **more})
    about = {"_id": made.oid[:24], "id": repo.repo_id, "modelId": repo.repo_id, "author": repo.owner}
    state = {"sha": made.oid, "private": repo.is_private, "gated": False, "disabled": False}
    return Reply({**about, **state, "siblings": siblings, "tags": [], "lastModified": DATE, "createdAt": DATE})


@route("GET", f"{_API}/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?")
def tree(request: Request) -> Reply:
    folder, made = request.found["path"] or "", request.commit()
    skip = len(folder) + 1 if folder else 0
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(request.readable().under(made, folder).items()):
        parts = path[skip:].split("/")
        for depth in range(1, len(parts)):
            place = path[:skip] + "/".join(parts[:depth])
            entries[place] = {"type": "directory", "path": place, "oid": made.oid, "size": 0}
        entries[path] = _entry(path, blob)
    if request.query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
        entries = {path: entry for path, entry in entries.items() if "/" not in path[skip:]}
    return Reply(list(entries.values()))


@route("POST", f"{_API}/paths-info/(?P<rev>[^/]+)")
def paths_info(request: Request) -> Reply:
    files, asked = request.commit().files, parse_qs(request.body.decode()).get("paths", [])
    folders = [path for path in asked if any(file.startswith(f"{path}/") for file in files)]
    found = [{"type": "directory", "path": path, "oid": request.commit().oid, "size": 0} for path in folders]
    return Reply([_entry(path, files[path]) for path in asked if path in files] + found)


@route("GET", f"{_API}/refs")
def refs(request: Request) -> Reply:
    repo = request.readable()

    def listed(names: list[str], prefix: str, known: dict[str, Commit]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": known[name].oid} for name in names]

    answer = {"branches": listed(repo.branches, "refs/heads/", repo.refs), "converts": []}
    answer |= {"tags": listed(list(repo.tags), "refs/tags/", repo.tags)}
    return Reply(answer | {"pullRequests": listed(repo.pulls, "", repo.refs)})


@route("GET", f"{_API}/commits/(?P<rev>[^/]+)")
def commits(request: Request) -> Reply:
    return Reply(
        [
            {"id": made.oid, "title": made.title, "message": made.description, "date": DATE, "authors": []}
            for made in request.commit().history
        ]
    )


@route("GET", f"{_WEB}/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
def resolve(request: Request) -> Reply:
    made, path = request.commit(), str(request.found["path"])
    headers = {"X-Repo-Commit": made.oid, "Accept-Ranges": "bytes"}
    if path not in made.files:
        # the client remembers of which commit a file is absent
        error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": f"Entry not found: {path}"}
        return Reply({"error": "Entry not found"}, 404, headers | error)
    blob = made.files[path]
    headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
    if blob.is_large:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.handler.headers.get("Range") or "")
    if span is None:
        return Reply(content=blob.content, headers=headers)
    first, last = int(span[1]), int(span[2] or len(blob.content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(blob.content)}"
    return Reply(content=blob.content[first : last + 1], headers=headers, status=206)
