"""`watch`: figures in the tracker's files, and a training that is the same with it."""

from pathlib import Path

import pytest
from common.errors import UserError


def _weights(config):
    return (Path(config["output_dir"]) / "model" / "model.safetensors").read_bytes()


def test_figures_are_in_the_trackers_files(recipe, config, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = config | {"max_steps": 3, "output_dir": str(tmp_path / "plain"), "dropout": 0.1}
    watched = plain | {"output_dir": str(tmp_path / "watched"), "track": ["tensorboard"], "watch": 2}
    recipe(plain)
    recipe(watched)
    assert _weights(plain) == _weights(watched)
    events = {}
    for file in Path(watched["output_dir"]).rglob("events.out.tfevents.*"):
        found = EventAccumulator(str(file)).Reload()
        events |= {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert events["add_norm/branch_ratio/0_attention"] == [0, 2]
    assert events["add_norm/gradient_norm/1_feed_forward"] == [0, 2]


def test_without_a_tracker_it_is_refused(recipe, config):
    with pytest.raises(UserError, match="watch is 2, and track, which says where the figures go, is empty"):
        recipe(config | {"watch": 2})
