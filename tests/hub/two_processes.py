"""Two processes that hold one model, and push it: by its own methods, and by Trainer."""

import torch
import torch.distributed as dist
import transformers
from cases import CASES


torch.manual_seed(0)
dist.init_process_group("gloo")
assert dist.get_world_size() == 2

row = CASES["bert"]
net = row.build("pre_rms_norm")
# both push, as a script does that does not think of it; who wants to load it waits
made = net.push_to_hub("ann/all")
assert (made is None) == (dist.get_rank() > 0)
dist.barrier()
assert type(net).from_pretrained("ann/all").config.add_norm.preset == "pre_rms_norm"
net.save_pretrained("saved", push_to_hub=True, repo_id="ann/saved")
arguments = transformers.TrainingArguments(
    output_dir="trained",
    push_to_hub=True,
    hub_model_id="ann/trained",
    hub_strategy="end",
    max_steps=1,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
)
items = [{name: value[index] for name, value in row.batch().items()} for index in range(2)]
trainer = transformers.Trainer(net, arguments, train_dataset=items, processing_class=row.prepares.make())
trainer.train()
trainer.push_to_hub()
dist.barrier()
dist.destroy_process_group()
