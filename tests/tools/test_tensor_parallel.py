"""Tensor parallelism by Transformers: GPT-NeoX, whose stock family has a plan for it, in two processes over gloo."""

import datetime
import os
import traceback

import pytest
import torch
import torch.distributed as dist
from families import BASE_MODELS, FAMILIES, specs_of
from small_models import net


FAMILY, MODEL = "gpt_neox", "AddNormGPTNeoXForCausalLM"
PROCESSES = 2
SPECS = specs_of(FAMILY, BASE_MODELS[FAMILY])


def _inputs():
    ids = torch.arange(20).view(PROCESSES, 10) % 90 + 3
    return {"input_ids": ids, "labels": ids}


def _results(model):
    """The logits, and the gradients of what every process has the whole of."""
    output = model(**_inputs())
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = {name: grad for name, grad in gradients.items() if not isinstance(grad, dist.tensor.DTensor)}
    return {"logits": output.logits.detach(), **whole}


def _split(folder):
    from transformers.distributed import DistributedConfig

    model_class = FAMILIES[FAMILY].model_class(MODEL)
    return model_class.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=PROCESSES)).eval()


def _work(rank, folder):
    torch.set_num_threads(1)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES,
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    for spec in SPECS:
        try:
            found = _results(_split(folder / spec))
        except Exception:
            found = traceback.format_exc()
        if rank == 0:
            torch.save(found, folder / f"{spec}.pt")
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """The folder with every model, and what two processes made of it."""
    folder = tmp_path_factory.mktemp("split")
    for spec in SPECS:
        net(FAMILY, MODEL, spec).save_pretrained(folder / spec)
    torch.multiprocessing.spawn(_work, (folder,), PROCESSES)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_a_split_model_is_the_whole_one_or_refused(spec, split):
    whole, found = net(FAMILY, MODEL, spec), torch.load(split / f"{spec}.pt")
    if any(getattr(module, "inner_slots", ()) or hasattr(module, "weight_norm") for module in whole.modules()):
        assert "ValueError: tensor parallelism gives each process a part of the features" in found
        return
    assert isinstance(found, dict), found
    # every process has the embeddings and the norms whole
    assert {"logits", "gpt_neox.embed_in.weight"} <= found.keys()
    expected = _results(whole)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-5, msg=name)
