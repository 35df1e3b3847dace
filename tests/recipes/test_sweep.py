"""The sweep: runs that end well or not, their rows, table and figure, going on, signals, bad input."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import sweep
import sweep_report
import yaml
from common.errors import Stopped, UserError
from conftest import PLAIN
from datasets import Dataset


ROWS = {"stock": None, "typo": "pre_nl"}


@pytest.fixture
def base(config, tmp_path) -> dict:
    """Two steps of the tiny checkpoint, stock and of a preset that there is not."""
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(config | {"max_steps": 2, "seed": 7}))
    return {
        "recipe": "finetune_text",
        "recipe_config": str(path),
        "overrides": {"batch_size": 4},
        "add_norms": ROWS,
        "output_dir": str(tmp_path / "sweep"),
    }


@pytest.fixture
def swept(written, base, tmp_path):
    """Run the sweep here; returns its result JSON."""

    def call(*args: str, **more) -> dict:
        sweep.main(written(base | more, *args))
        return json.loads((tmp_path / "sweep" / "result.json").read_text())

    return call


@pytest.fixture
def faked(monkeypatch):
    """Runs that take no time: a function of the run's keys gives accuracy and losses, or an exit code and its log."""

    def replace(answer) -> list[str]:
        started = []

        def ended(command, log, interrupt):
            given = json.loads(Path(command[command.index("--config") + 1]).read_text())
            started.append(" ".join(command[1:]))
            log.write_text("")
            found = answer(given)
            if isinstance(found[0], int):
                log.write_text(found[1])
                return found[0]
            accuracy, losses = found
            row = dict.fromkeys(sweep_report.KEPT, 1) | {"tokens_per_second": 1000.0, "loss_history": losses}
            row |= {"metrics": {"step": 2, "epoch": 0.5, "accuracy": accuracy}}
            path = Path(given["output_dir"])
            path.mkdir(parents=True, exist_ok=True)
            (path / "result.json").write_text(json.dumps(row))
            return 0

        monkeypatch.setattr(sweep, "ended", ended)
        return started

    return replace


def test_script_is_short():
    assert len(Path(sweep.__file__).read_text().splitlines()) < 180


@pytest.mark.slow
def test_a_sweep_of_which_one_run_fails(swept, tmp_path, capsys, monkeypatch):
    result = swept("--result_file", str(tmp_path / "results" / "sweep.json"))
    assert json.loads((tmp_path / "results" / "sweep.json").read_text()) == result
    assert set(result) == {"recipe", "config", "missing", "runs"}
    good, bad = result["runs"]
    assert (good["name"], bad["name"], result["missing"]) == ("stock_0", "typo_0", [])
    assert good["settings"]["batch_size"] == 4 and good["settings"]["seed"] == 0
    whole = json.loads((tmp_path / "sweep" / "runs" / "stock_0" / "result.json").read_text())
    assert whole["config"]["add_norm"] is None and whole["steps"] == 2
    for key in sweep_report.KEPT:
        assert good[key] == whole[key]
    assert good["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-3)
    assert set(bad) == {"name", "settings", "error"}
    assert bad["error"].startswith("cannot load ") and "pre_nl" in bad["error"] and "pre_ln" in bad["error"]
    text = (tmp_path / "sweep" / "table.md").read_text()
    assert capsys.readouterr().out.endswith(text)
    assert f"| `stock` | 1 | {good['metrics']['accuracy']:.3f} |" in text
    assert "| `typo` | 0 of 1 |  |" in text and "- `typo_0` failed: cannot load" in text
    for figure in ("sweep/losses.png", "results/sweep.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")

    # nothing is done again, and more seeds come to those that are there
    monkeypatch.setattr(sweep, "ended", None)
    assert swept("--resume")["runs"] == result["runs"]
    with pytest.raises(UserError, match="sweep is not empty: choose another folder, or go on in it with --resume"):
        swept()
    with pytest.raises(UserError, match=r"stock_0.json holds another run; it differs in batch_size \(4 there, 2 now"):
        swept("--resume", overrides={"batch_size": 2})


def test_table_over_the_seeds(swept, faked, tmp_path):
    started = faked(
        lambda run: ((None if run["add_norm"] != "pre_ln" else 0.5 + run["seed"] / 10), [3.0] * 18 + [2, run["seed"]])
    )
    result = swept(seeds=[1, 3], add_norms={"a": "pre_ln", "b": {"preset": "post_ln", "norm": "dyt"}})
    names = [run["name"] for run in result["runs"]]
    assert names == ["a_1", "b_1", "a_3", "b_3"]
    assert [run["settings"]["add_norm"] for run in result["runs"]] == [
        "pre_ln",
        {"preset": "post_ln", "norm": "dyt"},
    ] * 2
    assert len(started) == 4 and all("finetune_text.py --config" in line for line in started)
    text = (tmp_path / "sweep" / "table.md").read_text()
    assert text.splitlines()[0] == "| `add_norm` | runs | accuracy | training loss, last tenth | tokens/s |"
    assert "| `a` | 2 | 0.700 (0.600 to 0.800) | 2.000 (1.500 to 2.500) | 1000 (1000 to 1000) |" in text
    assert "| `b` | 2 | nan" in text
    more = swept("--resume", seeds=[1, 3, 5], add_norms={"a": "pre_ln"}, launch=None)
    assert len(started) == 5 and [run["name"] for run in more["runs"]] == ["a_1", "a_3", "a_5"]


def test_stop_at_a_failure_and_go_on(swept, faked, tmp_path):
    broken = [True]
    started = faked(lambda run: (1, "Traceback\nKeyError: 3\n") if run["add_norm"] and broken[0] else (0.5, [1.0]))
    with pytest.raises(UserError, match="run typo_0 failed, and --resume tries it again: KeyError: 3"):
        swept(keep_going=False)
    unfinished = json.loads((tmp_path / "sweep" / "result.json").read_text())
    assert [run["name"] for run in unfinished["runs"]] == ["stock_0"] and unfinished["missing"] == ["typo_0"]
    assert "- `typo_0` is still to be done" in (tmp_path / "sweep" / "table.md").read_text()
    # the run had begun
    (tmp_path / "sweep" / "runs" / "typo_0").mkdir(parents=True)
    (tmp_path / "sweep" / "runs" / "typo_0" / "run.json").write_text("{}")
    broken[0] = False
    assert swept("--resume")["missing"] == []
    assert len(started) == 3 and started[-1].endswith("typo_0.json --resume")


def test_launcher_and_its_arguments(swept, faked):
    started = faked(lambda run: (0.5, [1.0]))
    swept(launch="--multi_gpu --num_processes 2", add_norms={"a": "pre_ln"})
    assert started[0].startswith("-m accelerate.commands.launch --multi_gpu --num_processes 2 ")


@pytest.mark.parametrize(
    ("code", "log", "sentence"),
    [
        (1, "100%|##|\nerror: no data: give it\nCalledProcessError: command returned 1\n", "no data: give it"),
        (1, "error in process 1: another process has ended\n\n", "another process has ended"),
        (1, "Traceback\n  here\nValueError: odd\n\n", "ValueError: odd"),
        (3, "", "exit code 3"),
        (-9, "error: this is not why\n", "killed by SIGKILL"),
    ],
)
def test_what_a_failed_run_said(tmp_path, code, log, sentence):
    (tmp_path / "log.txt").write_text(log)
    assert sweep.what_went_wrong(tmp_path / "log.txt", code) == sentence


@pytest.mark.parametrize("second", [False, True])
def test_a_signal_is_passed_on_to_the_run(swept, tmp_path, monkeypatch, second):
    # a run that answers the signal as the recipes do, or does not answer at all
    answer = "sys.exit(143)" if not second else "None"
    code = f"import signal, sys, time; signal.signal(15, lambda *_: {answer}); open('ready', 'w'); time.sleep(60)"
    real = sweep.ended
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "ended", lambda _, log, interrupt: real([sys.executable, "-c", code], log, interrupt))

    def signals():
        for _ in range(600):
            time.sleep(0.05)
            if Path("ready").exists():
                break
        for _ in range(1 + second):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.6)

    threading.Thread(target=signals).start()
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"stopped in run stock_0; --resume goes on; .*stock_0\.txt") as caught:
        swept()
    assert caught.value.exit_code == 143
    assert time.monotonic() - began < 40
    assert json.loads((tmp_path / "sweep" / "result.json").read_text())["missing"] == ["stock_0", "typo_0"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"recipe": "depth"}, "recipe is 'depth'; the training scripts are .*finetune_text, .*pretrain_mlm"),
        ({"recipe": "json"}, "recipe is 'json'; the training scripts are"),
        ({"recipe_config": "nowhere.yaml"}, r"File does not exist: .*nowhere\.yaml"),
        ({"overrides": {"batch_sizes": 3}}, "unknown config key 'batch_sizes': did you mean batch_size"),
        ({"overrides": {"epochs": 0}}, 'config key "epochs": Not of type PositiveInt'),
        ({"overrides": {"seed": 3}}, "overrides has seed, which the sweep gives to each run itself"),
        ({"add_norms": {}}, "add_norms and seeds need entries, no two seeds alike: {}, .0."),
        ({"seeds": [1, 1]}, "add_norms and seeds need entries, no two seeds alike: .*, .1, 1."),
        ({"add_norms": {"../a": "pre_ln"}}, "add_norms: '../a' becomes a file's name; letters, digits"),
        ({"add_norm": "pre_ln"}, "unknown config key 'add_norm': did you mean add_norms"),
        ({"output_dir": "/dev/null/x"}, "cannot write to /dev/null.*: Not a directory"),
    ],
)
def test_bad_input(swept, tmp_path, keys, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        swept(**keys)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_another_recipe(swept, config, tmp_path):
    """A spec that trains, of the masked LM, in a process."""
    Dataset.from_dict({"text": [" ".join(PLAIN[:-1])] * 4}).to_json(tmp_path / "few.jsonl")
    path = str(tmp_path / "few.jsonl")
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump(config | {"max_steps": 1, "train_file": path, "validation_file": path})
    )
    result = swept(recipe="pretrain_mlm", overrides={"dropout": 0.0}, add_norms={"deep": "deepnorm"})
    assert result["runs"][0]["model"] == "AddNormBertForMaskedLM"
    head = (tmp_path / "sweep" / "table.md").read_text().splitlines()[0]
    assert head == "| `add_norm` | runs | loss | perplexity | accuracy | training loss, last tenth | tokens/s |"
