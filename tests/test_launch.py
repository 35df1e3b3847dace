"""The launch files: each is read by Accelerate and says what it is for, and on what it was run."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from hf_addnorm.launch import launch_file, launch_files


def test_the_names():
    assert list(launch_files()) == ["cpu", "cpu2", "ddp", "fsdp2", "multi_node", "single", "zero2", "zero3"]


@pytest.mark.parametrize("name", launch_files())
def test_a_file_is_read_and_says_what_it_was_run_on(name):
    path = launch_file(name)
    assert load_config_from_file(str(path)).num_processes >= 1
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert head[0] == f"# {launch_files()[name]}"
    assert any(line.startswith("# Needs: ") for line in head)
    assert any(line.startswith("# Run on: ") for line in head)


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"there is no launch file 'tpu'; allowed are cpu, cpu2, ddp, "):
        launch_file("tpu")
