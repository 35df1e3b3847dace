"""What a model does with files beyond Transformers: it reads safetensors alone, and a push has a model card."""

import os
import re
from collections.abc import Callable
from typing import ClassVar

from ..base.protocols import StockValue
from .single_commit_push import pushes


class HubFiles:
    """Mixin for a model, before Transformers' own base class."""

    # writes the card of a folder that is about to be pushed to a repository; the package sets it, remote code has none
    write_card: ClassVar[Callable[[str | os.PathLike[str], str], None] | None] = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: StockValue, *args: StockValue, **kwargs: StockValue
    ) -> StockValue:
        """As in Transformers; pickled weights are read only if `use_safetensors=False` asks for them.

        Raises:
            OSError: if there are no weights in safetensors.
        """
        chosen = kwargs.pop("use_safetensors", None)
        base: StockValue = super()
        try:
            return base.from_pretrained(
                pretrained_model_name_or_path, *args, use_safetensors=True if chosen is None else chosen, **kwargs
            )
        except OSError as error:
            if chosen is None and re.search(r"file named \S*\.safetensors", str(error)):
                raise OSError(
                    f"{pretrained_model_name_or_path} has no weights in safetensors (model.safetensors); pickled ones "
                    "(.bin), which can run code, are read only if you ask for it: use_safetensors=False."
                ) from error
            raise

    def _upload_modified_files(
        self, working_dir: str | os.PathLike[str], repo_id: str, *args: StockValue, **kwargs: StockValue
    ) -> StockValue:
        write_card = type(self).write_card
        # the others' folders are empty
        if write_card is not None and pushes():
            write_card(working_dir, repo_id)
        base: StockValue = super()
        return base._upload_modified_files(working_dir, repo_id, *args, **kwargs)
