"""Lightning, SetFit and DeepSpeed train the models as they are."""

import pytest
import torch
from small_models import THREE_SPECS, batch, classifier, labelled, net, saved


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("spec", THREE_SPECS)
def test_lightning_trains_and_saves(spec, tmp_path):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed (extra `tools`)")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = classifier(spec).train()

        def training_step(self, rows, _):
            return self.model(**rows).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    rows = [{key: torch.tensor(value) for key, value in row.items()} for row in labelled()]
    module = Module()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=8))
    still = [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert [name for name in still if not name.endswith("key.bias")] == []
    back = Module.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    inputs = batch()
    module.eval(), back.eval()
    assert torch.equal(back.model(**inputs).logits, module.model(**inputs).logits)


def test_setfit_trains_and_predicts(tmp_path):
    """SetFit 1.2 asks Transformers for a name that 5 no longer has: see the table."""
    setfit = pytest.importorskip(
        "setfit", reason="setfit is not installed, or does not import with this Transformers", exc_type=ImportError
    )
    from datasets import Dataset

    folder = saved(net("bert", "AddNormBertModel", "hyper_connections"), tmp_path / "model")
    model = setfit.SetFitModel.from_pretrained(folder, device="cpu")
    rows = {"text": ["w1 w2", "w3 w4", "w5 w6", "w7 w8"], "label": [0, 1, 0, 1]}
    arguments = setfit.TrainingArguments(
        str(tmp_path / "run"), max_steps=2, batch_size=2, num_epochs=1, report_to="none", show_progress_bar=False
    )
    trainer = setfit.Trainer(model, arguments, train_dataset=Dataset.from_dict(rows))
    trainer.train()
    assert set(model.predict(["w1 w2", "w7"]).tolist()) <= {0, 1}


def test_deepspeed_trains_in_one_process(tmp_path, monkeypatch):
    """ZeRO stage 2 on the CPU, with torch's own optimizer."""
    deepspeed = pytest.importorskip(
        "deepspeed", reason="deepspeed is not installed, or cannot be imported here", exc_type=ImportError
    )
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29531")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    model = classifier("hyper_connections").train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    try:
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=True)
        rows = {key: torch.tensor([row[key] for row in labelled(8)]) for key in ("input_ids", "labels")}
        for _ in range(2):
            engine.backward(engine(**rows).loss)
            engine.step()
        still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
        assert [name for name in still if not name.endswith("key.bias")] == []
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
