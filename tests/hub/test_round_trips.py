"""There and back: every kind of model and spec, pushed and loaded over HTTP, with its code and with the package's."""

import pytest
from cases import CASES, SPECS


ALL = {f"ann/{case}-{spec}": (case, spec) for case in CASES for spec in SPECS}
# every model and every spec
FEW = [
    "ann/bert-default",
    "ann/bert-hyper_connections",
    "ann/vit-batch_norm",
    "ann/wav2vec2-pre_rms_norm",
    "ann/stack-batch_norm",
]
CHOICES = {"few": FEW, "all": list(ALL)}


def _load(repo, case, **more):
    row = CASES[case]
    return "load_all", {"repo": repo, "auto": row.auto, "prepares": row.prepares.auto} | more


@pytest.mark.parametrize("choice", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_what_is_pushed_loads_bit_for_bit(choice, new_client, hub):
    repos = {repo: ALL[repo] for repo in CHOICES[choice]}
    steps = [
        ("push", {"case": case, "spec": spec, "repo": repo, "prepares": True}) for repo, (case, spec) in repos.items()
    ]
    new_client("ann").run(*steps)

    # where the package cannot be imported, with the code of the checkpoint
    stranger = new_client(None)
    trusting = [_load(repo, case, trust_remote_code=True) for repo, (case, _) in repos.items()]
    results = stranger.run_hidden(*trusting)
    right = {"same_config": True, "equal": True, "base": True, "prepared": True}
    for (repo, (case, _)), found in zip(repos.items(), results, strict=True):
        name = repo.split("/")[1].replace("-", "_hyphen_")
        code = f"transformers_modules.ann.{name}.{hub.repo(repo).head.oid}"
        modules = {kind: f"{code}.{kind}_addnorm_{case}" for kind in ("configuration", "modeling")}
        expected = {"model": modules["modeling"], "config": modules["configuration"], "class": CASES[case].model}
        assert found == right | expected, repo

    # once more without the Hub, from what it has kept; refused without trust, whose absence is not asked about
    asked = len(hub.requests)
    repo, (case, _) = next(iter(repos.items()))
    untrusted = [_load(repo, case), _load(repo, case, trust_remote_code=False)]
    again = stranger.run_hidden(*trusting[-2:], *untrusted, HF_HUB_OFFLINE="1")
    assert again[:-2] == results[-2:]
    assert len(hub.requests) == asked
    for refused in again[-2:]:
        assert refused["error"] == "ValueError"
        assert "contains custom code which must be executed" in refused["message"]

    # where the package is imported, without the code: it is not even fetched
    hub.requests.clear()
    results = new_client(None).run(*[_load(repo, case) for repo, (case, _) in repos.items()])
    for (repo, (case, _)), found in zip(repos.items(), results, strict=True):
        modules = {key: found.pop(key) for key in ("model", "config")}
        assert found == right | {"class": CASES[case].model}, repo
        assert all(module.startswith("hf_addnorm.models.") for module in modules.values()), modules
    assert not [request for request in hub.requests if request.endswith(".py")]
