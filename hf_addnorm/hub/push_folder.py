"""Uploading a saved folder to the Hub: a plan of what would be sent, and one commit that sends it."""

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..models.base.protocols import JsonValue, StockValue
from ..models.base.whole_file import PARTIAL
from ..models.core.single_commit_push import answered_in_time, stale_weights
from .card import CARD, create_card
from .checks import Check, check_folder, files_of, is_pickle
from .failures import failing_as


# what Trainer keeps in its folder for itself
_NOT_PUSHED = ("checkpoint-", "runs/")


@dataclass(frozen=True)
class Push:
    """A plan of an upload: the files that would be sent.

    Args:
        folder (`str`), repo (`str`): from where to where.
        files (`dict`): the files with their sizes in bytes.
        left_out (`dict`): those that are not sent, with the reason.
        card (`str`, *optional*): the card that is made for it, where the folder has none.
        check (`Check`): what is wrong with the folder, by its files.
    """

    folder: str
    repo: str
    files: dict[str, int]
    left_out: dict[str, str]
    card: str | None
    check: Check

    @property
    def size(self) -> int:
        """The size of all files together, in bytes."""
        return sum(self.files.values())

    @property
    def obstacles(self) -> list[str]:
        """Why it cannot be sent; what is left out is no obstacle."""
        return [
            f"{finding.where}: {finding.what}" for finding in self.check.errors if finding.where not in self.left_out
        ]

    def send(self, **kwargs: StockValue) -> str:
        """Create the repository if it is not there, and send all files in one commit.

        Args:
            kwargs: `private`, `revision`, `create_pr`, `commit_message`, `token`: as in `huggingface_hub`.
        Returns:
            The address of the commit.
        Raises:
            ValueError: if something stands in the way.
            HubError: if the Hub or the way there fails; the sentence says what was sent.
        """
        if self.obstacles:
            raise ValueError(f"{self.folder} is not pushed: {self.obstacles[0]}")
        progress = ["nothing was sent"]
        what = f"{self.folder} is not pushed to {self.repo}"
        with failing_as(what, then=lambda: progress[-1]), answered_in_time():
            return self._send(kwargs, progress)

    def _send(self, kwargs: dict[str, StockValue], progress: list[str]) -> str:
        """`send`; what was done so far goes to the end of `progress`."""
        api = HfApi(token=kwargs.pop("token", None))
        repo = api.create_repo(self.repo, private=kwargs.pop("private", None), exist_ok=True).repo_id
        revision = kwargs.get("revision")
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        progress.append(f"no file was sent; the repository {repo} is there")
        there = api.list_repo_files(repo, revision=revision)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, str(Path(self.folder, name))) for name in self.files if not self._is_made(name)
        ]
        operations += [CommitOperationDelete(name) for name in stale_weights(there, self.files)]
        # a card that somebody wrote there stays
        if self.card is not None and CARD not in there:
            operations.append(CommitOperationAdd(CARD, self.card.encode()))
        kwargs.setdefault("commit_message", "Upload model")
        progress.append(
            f"no commit was made, so {repo} is as it was, unless only the answer to the commit was lost; to push "
            "again is safe, and sends only what is missing"
        )
        return str(api.create_commit(repo, operations, **kwargs).commit_url)

    def _is_made(self, name: str) -> bool:
        return name == CARD and self.card is not None

    def to_dict(self) -> dict[str, JsonValue]:
        """JSON form."""
        return {
            "folder": self.folder,
            "repo": self.repo,
            "files": self.files,
            "size": self.size,
            "left_out": self.left_out,
            "card_is_made": self.card is not None,
            "obstacles": self.obstacles,
        }


def plan_push(folder: str | os.PathLike[str], repo: str) -> Push:
    """What a push of `folder` to `repo` would send. Nothing is sent, and nothing is asked of the Hub.

    Args:
        folder: where the model was saved.
        repo (`str`): "owner/name", or the name alone for one's own.
    Raises:
        FileNotFoundError: if there is no model in it.
        ValueError: if `repo` is no name of a repository.
    """
    _refuse_name(repo)
    path, check = Path(folder), check_folder(folder, load=False)
    files: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for file in files_of(path):
        name = file.relative_to(path).as_posix()
        if is_pickle(file):
            left_out[name] = "can hold a pickle"
        elif name.startswith(_NOT_PUSHED):
            left_out[name] = "is Trainer's own"
        elif name.endswith(PARTIAL):
            left_out[name] = "is what a save that broke off has left"
        else:
            files[name] = file.stat().st_size
    card = None
    if CARD not in files:
        card = str(create_card(path, repo=repo))
        files[CARD] = len(card.encode())
    return Push(str(folder), repo, dict(sorted(files.items())), left_out, card, check)


def _refuse_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no name of a repository: {' '.join(str(error).split())}") from None
