"""Runs the Python blocks of documentation pages, each page in a process of its own.

Reads a page's path and a folder from each line of the input, and answers with a line of JSON: for every block its
output, or the error that ended the page. The packages are imported once; a page is a fork of this process, so that
nothing that one page defines or registers is there for the next.
"""

import contextlib
import io
import json
import os
import re
import sys
import traceback
from pathlib import Path

import torch
import transformers
from pages import blocks, is_run
from transformers import Trainer, pipeline

import hf_addnorm


# what the pages need is imported before the forks; the names say that it is meant to be there
WARM = (Trainer, pipeline, hf_addnorm)


def run_page(page: str, folder: str) -> dict:
    """The outputs of the page's blocks, which share one namespace, run in `folder`."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    names: dict = {"__name__": "__main__"}
    outputs: list[str] = []
    for block in blocks(Path(page).read_text(), "python"):
        if not is_run(block):
            continue
        # a block that begins with the name of a file is that file
        if name := re.match(r"# (\w+\.py)\n", block.text):
            Path(name[1]).write_text(block.text)
            outputs.append("")
            continue
        said = io.StringIO()
        # as many lines above it as on the page, so that a traceback names the page's line
        code = "\n" * block.line + block.text
        try:
            with contextlib.redirect_stdout(said):
                exec(compile(code, page, "exec"), names)
        except BaseException:
            return {"outputs": outputs, "error": traceback.format_exc()}
        outputs.append(said.getvalue())
    return {"outputs": outputs, "error": None}


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        page, folder = json.loads(line)
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            with os.fdopen(writer, "w") as answer:
                answer.write(json.dumps(run_page(page, folder)))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            sys.stdout.write(answer.read() + "\n")
            sys.stdout.flush()
        os.wait()


if __name__ == "__main__":
    main()
