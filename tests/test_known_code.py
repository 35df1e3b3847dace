"""The hashes of what travels with a checkpoint are those of the files here.

`python tests/test_known_code.py` writes this version's entry anew; those of other versions stay.
"""

from hf_addnorm import __version__, checkpoint_code
from hf_addnorm.checkpoint_code import all_flat_files
from hf_addnorm.hub.known_code import FILE, hashes_of, known_code, releases_of, to_text, with_this_version


_NEIGHBOURS = checkpoint_code._Source.neighbours.fget


def test_the_hashes_are_those_of_the_files():
    assert FILE.read_text() == to_text(with_this_version(known_code())), "run: python tests/test_known_code.py"
    assert known_code()[__version__] == {name: hashes_of(name, text) for name, text in all_flat_files().items()}


def test_the_order_in_which_a_set_gives_its_names_does_not_matter(monkeypatch):
    # it is another one in each process
    found = []
    for backwards in (False, True):
        monkeypatch.setattr(
            checkpoint_code._Source,
            "neighbours",
            property(lambda source, neighbours=_NEIGHBOURS, way=backwards: sorted(neighbours(source), reverse=way)),
        )
        found.append([checkpoint_code._room_as_one_file.__wrapped__(room) for room in checkpoint_code.MACHINERY])
    assert found[0] == found[1]


def test_releases_add_up(tmp_path):
    older = {"0.0.1": {"spec.py": "0" * 64}}
    both = with_this_version(older)
    assert list(both) == ["0.0.1", __version__] and both["0.0.1"] == older["0.0.1"]
    both["0.0.2"] = both[__version__]
    (tmp_path / "spec.py").write_text(all_flat_files()["spec.py"])
    assert releases_of(tmp_path / "spec.py", both) == {"0.0.2", __version__}


if __name__ == "__main__":
    FILE.write_text(to_text(with_this_version(known_code())))
