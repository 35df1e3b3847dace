"""mlinter, the linter of Transformers' model files, on hf_addnorm/models.

Two of its rules are off, which are about living inside the Transformers repository: TRF028 (its licence header) and
TRF057 (its generated docstrings).
"""

import importlib.resources
import re
import subprocess
import sys
import tempfile
from pathlib import Path


OFF = ("TRF028", "TRF057")


def main() -> int:
    rules = importlib.resources.files("mlinter").joinpath("rules.toml").read_text()
    for rule in OFF:
        rules, count = re.subn(rf"(\[rules\.{rule}\]\n.*?default_enabled = )true", r"\1false", rules, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"mlinter has no rule {rule} that is on by default")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rules.toml")
        file.write_text(rules)
        models = Path(__file__).parents[1] / "hf_addnorm" / "models"
        command = [
            sys.executable,
            "-m",
            "mlinter",
            str(models),
            "--rules-toml",
            str(file),
            "--no-progress",
            "--no-cache",
        ]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
