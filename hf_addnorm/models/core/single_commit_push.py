"""How a model is pushed to the Hub: by one process, in one commit, and without weights of an earlier push."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session
from transformers.utils import PushToHubMixin

from ..base.protocols import StockValue


_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def stale_weights(there: Iterable[str], sent: Iterable[str]) -> list[str]:
    """Weights that are there and are not those of a model that is sent: the same in one file, or in other shards.

    A loader takes `model.safetensors` before it looks for shards: it must not find an earlier model's.

    Args:
        there (`list[str]`): the files of the repository.
        sent (`list[str]`): those of the model's folder; if it has no weights, none are stale.
    """
    weights = {name for name in sent if _WEIGHTS.fullmatch(name)}
    return [name for name in there if weights and name not in weights and _WEIGHTS.fullmatch(name)]


def pushes() -> bool:
    """Whether this process is the one that pushes."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0)


def seconds_for_an_answer() -> float:
    """How long a push waits for an answer: HF_HUB_DOWNLOAD_TIMEOUT where it is set, else the minute of a commit."""
    return constants.HF_HUB_DOWNLOAD_TIMEOUT if os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") else 60


@contextmanager
def answered_in_time() -> Iterator[None]:
    """Let the client of the Hub, which by default waits without end, wait for `seconds_for_an_answer`.

    A client of the user's own that has limits keeps them. An error that is a time-out gets a note.
    """
    session = get_session()
    before = session.timeout
    if not any(before.as_dict().values()):
        session.timeout = seconds_for_an_answer()
    try:
        yield
    except Exception as error:
        if "Timeout" in type(error).__name__ and session.timeout != before:
            limit = seconds_for_an_answer()
            error.add_note(f"The Hub did not answer within {limit} seconds; HF_HUB_DOWNLOAD_TIMEOUT sets how many.")
        raise
    finally:
        session.timeout = before


class SingleCommitPush(PushToHubMixin):
    """Mixin for models: `push_to_hub`, and `save_pretrained(push_to_hub=True)`, make one commit that is the model.

    Of several processes that push, the first one, which has written the files, makes it; the others get None at once.
    """

    # for types, the method stays Transformers' own
    if not TYPE_CHECKING:

        def push_to_hub(self, *args: StockValue, **kwargs: StockValue) -> StockValue:
            """As in Transformers; an error's note says what has become of the repository."""
            with answered_in_time():
                try:
                    return super().push_to_hub(*args, **kwargs)
                except Exception as error:
                    # an error of the commit has its note already
                    if not getattr(error, "__notes__", ()):
                        error.add_note("Nothing was sent.")
                    raise

        def save_pretrained(self, *args: StockValue, **kwargs: StockValue) -> None:
            """As in Transformers; with `push_to_hub=True`, a silent Hub is not waited for without end."""
            with answered_in_time() if kwargs.get("push_to_hub") else nullcontext():
                super().save_pretrained(*args, **kwargs)

    def _upload_modified_files(
        self,
        working_dir: str | os.PathLike[str],
        repo_id: str,
        files_timestamps: dict[str, float],
        commit_message: str | None = None,
        token: bool | str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        commit_description: str | None = None,
    ) -> CommitInfo | None:
        if not pushes():
            return None
        api, folder = HfApi(token=token), Path(working_dir)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        # as in Transformers: what was in the folder before, and has not been written again, is left out
        since = {name: files_timestamps.get(name.split("/")[0], 0.0) for name in files}
        changed = [name for name, path in sorted(files.items()) if path.stat().st_mtime > since[name]]
        try:
            if revision is not None and not revision.startswith("refs/pr/") and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            there = api.list_repo_files(repo_id, revision=revision)
            return api.create_commit(
                repo_id,
                [
                    *(CommitOperationAdd(name, files[name]) for name in changed),
                    *(CommitOperationDelete(name) for name in stale_weights(there, files)),
                ],
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                create_pr=create_pr,
                revision=revision,
            )
        except Exception as error:
            error.add_note(
                f"The push to {repo_id} did not succeed: the repository is as it was, unless it was the answer to the "
                "commit that was lost. To push again is safe."
            )
            raise
