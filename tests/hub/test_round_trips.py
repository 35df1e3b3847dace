"""There and back: every kind of model and spec, pushed and loaded over HTTP, with its code and with the package's."""

import pytest
from cases import CASES, SPECS
from families import slow_unless


ALL = {f"ann/{case}-{spec}": (case, spec) for case in CASES for spec in SPECS}
# one a test: each has fresh processes of its own
FEW = ["bert-batch_norm", "encoder_decoder-hyper_connections"]
CHOICES = {name: [f"ann/{name}"] for name in FEW} | {"all": list(ALL)}


@pytest.mark.parametrize("choice", [slow_unless(name in FEW, name) for name in CHOICES])
def test_what_is_pushed_loads_bit_for_bit(choice, new_client, hub):
    loads = {}
    with new_client("ann").process() as do:
        for repo in CHOICES[choice]:
            case, spec = ALL[repo]
            do("push", case=case, spec=spec, repo=repo, prepares=True)
            loads[repo] = {"repo": repo, "auto": CASES[case].auto, "prepares": CASES[case].prepares.auto}

    # where the package cannot be imported, with the code of the checkpoint
    stranger = new_client(None)
    right = {"same_config": True, "equal": True, "base": True, "prepared": True}
    with stranger.hidden() as do:
        for repo, load in loads.items():
            case = CASES[ALL[repo][0]]
            found = do("load_all", **load, trust_remote_code=True)
            name = repo.split("/")[1].replace("-", "_hyphen_")
            code = f"transformers_modules.ann.{name}.{hub.repo(repo).head.oid}"
            modules = {"model": f"{code}.modeling_addnorm_{ALL[repo][0]}"}
            modules |= {"config": modules["model"].replace("modeling", "configuration")}
            assert found == right | modules | {"class": case.model}, repo
            found_processor = do("prepare", repo=repo, auto=load["prepares"])
            assert found_processor == {"prepared": True, "package": "transformers"}, repo
        for trust in ({}, {"trust_remote_code": False}):
            refused = do("load_all", **load, **trust)
            assert refused["error"] == "ValueError"
            assert "contains custom code which must be executed" in refused["message"]

    # once more without the Hub, from what it has kept
    asked = len(hub.requests)
    with stranger.hidden(HF_HUB_OFFLINE="1") as do:
        assert do("load_all", **load, trust_remote_code=True) == found
    assert len(hub.requests) == asked

    # where the package is imported, without the code: it is not even fetched
    with new_client(None).process() as do:
        for repo, load in loads.items():
            found = do("load_all", **load)
            modules = [found.pop("model"), found.pop("config")]
            assert found == right | {"class": CASES[ALL[repo][0]].model}, repo
            assert all(module.startswith("hf_addnorm.models.") for module in modules), modules
    assert not [request for request in hub.requests[asked:] if request.endswith(".py")]
