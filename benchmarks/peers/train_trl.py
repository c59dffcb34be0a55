"""TRL's SFTTrainer with peft on bench_train.py's work: train_trl.py JOB.json; one JSON line.

Needs trl==1.16.*, peft==0.21.*, transformers==5.23.0 and torch==2.13.0 in an environment of its
own (torch first). The code follows TRL's documentation; examples keep the order of the file.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

job = json.loads(Path(sys.argv[1]).read_text())


class Watch(TrainerCallback):
    """Time and tokens after each step, and the loss that the trainer logs."""

    def __init__(self):
        self.ends, self.losses, self.norms = [], [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(
            (time.perf_counter(), time.process_time(), int(state.num_input_tokens_seen))
        )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.norms.append(float(logs["grad_norm"]))


class UnroundedTrainer(trl.SFTTrainer):
    """The trainer rounds the losses that it logs to four digits; this keeps what it computed."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        micro_batches.append((float(loss), inputs["input_ids"].tolist()))
        return loss


micro_batches = []
if job.get("ids"):  # its template would put a system prompt in front
    rows = [{"input_ids": ids} for ids in job["ids"]]
else:
    turns = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in job["pairs"]
    ]
    rows = [{"messages": conversation} for conversation in turns]
watch = Watch()
dtype = getattr(torch, job["dtype"])
trainer = UnroundedTrainer(
    model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype),
    processing_class=AutoTokenizer.from_pretrained(job["model"]),
    train_dataset=Dataset.from_list(rows),
    peft_config=LoraConfig(
        r=job["r"], lora_alpha=job["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    ),
    callbacks=[watch],
    args=trl.SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=job["max_seq_len"],
        packing=job["packing"],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=job["examples_per_step"] // 2,
        max_steps=job["steps"],
        learning_rate=job["lr"],
        bf16=dtype is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=job["checkpointing"],
        include_num_input_tokens_seen="non_padding",
        train_sampling_strategy="sequential",
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        seed=job["seed"],
    ),
)
initial = {
    name: p.detach().sum().item() for name, p in trainer.model.named_parameters() if p.requires_grad
}
trainer.train()
(start_s, cpu_before_s, tokens_before), (end_s, cpu_s, tokens) = (
    watch.ends[0],
    watch.ends[-1],
)  # first: warm-up
accumulated = job["examples_per_step"] // 2
result = {
    "system": f"trl {trl.__version__}",
    "tokens": tokens - tokens_before,
    "seconds": round(end_s - start_s, 2),
    "cpu_s": round(cpu_s - cpu_before_s, 2),
    "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    "losses": watch.losses,
}
if job.get("ids"):
    # training_step gives its share of the step's loss.
    shares = [share for share, _ in micro_batches]
    result["losses"] = [
        sum(shares[i : i + accumulated]) for i in range(0, len(shares), accumulated)
    ]
    result["norms"] = watch.norms
    result["ids"] = [ids for _, ids in micro_batches]
    result["initial"] = initial
print("RESULT", json.dumps(result))
