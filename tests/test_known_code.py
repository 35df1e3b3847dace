"""The hashes of what travels with a checkpoint are those of the files here.

`python tests/test_known_code.py` writes this version's entry anew; those of other versions stay.
"""

import os
import subprocess
import sys

from hf_addnorm import __version__
from hf_addnorm.checkpoint_code import all_flat_files
from hf_addnorm.hub.known_code import FILE, hashes_of, known_code, releases_of, to_text, with_this_version


def test_the_hashes_are_those_of_the_files():
    assert FILE.read_text() == to_text(with_this_version(known_code())), "run: python tests/test_known_code.py"
    assert known_code()[__version__] == {name: hashes_of(name, text) for name, text in all_flat_files().items()}


def test_the_files_are_the_same_in_every_process():
    # sets of strings have another order in each process
    code = "from hf_addnorm.checkpoint_code import all_flat_files; print(hash_of(str(all_flat_files())))"
    command = [sys.executable, "-c", f"from hf_addnorm.hub.known_code import hash_of; {code}"]
    found = {
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_releases_add_up(tmp_path):
    older = {"0.0.1": {"spec.py": "0" * 64}}
    both = with_this_version(older)
    assert list(both) == ["0.0.1", __version__] and both["0.0.1"] == older["0.0.1"]
    both["0.0.2"] = both[__version__]
    (tmp_path / "spec.py").write_text(all_flat_files()["spec.py"])
    assert releases_of(tmp_path / "spec.py", both) == {"0.0.2", __version__}


if __name__ == "__main__":
    FILE.write_text(to_text(with_this_version(known_code())))
