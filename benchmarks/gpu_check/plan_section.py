"""What the planner says of the training runs that training_section measures."""

import tempfile
from pathlib import Path

import torch
from common import ALL_LINEAR

import effchal
from effchal.planning.machine import CUDA_CONTEXT
from effchal.planning.memory import allocator_bytes, plan_memory
from effchal.planning.workload import MicroBatchSize
from gpu_check.measure import GIB
from gpu_check.models import large_model, make_tokenizer
from gpu_check.session import Session
from gpu_check.training_section import RANK, tokens_of

KEEPS = ("none", "selective", "full")


def plan(session: Session, base: str) -> None:
    """Memory for a card, planned on the CPU while the card does other things."""
    with tempfile.TemporaryDirectory() as name:
        model = ["model=mistral_7b"]
        if session.tiny:
            toy = large_model(session.tiny)
            toy.save_pretrained(name)
            make_tokenizer(toy.config.vocab_size).save_pretrained(name)
            model = ["model=other", f"model.name={Path(name)}", "model.max_seq_len=128"]
        for keep in KEEPS[:1] if session.tiny else KEEPS:
            session.attempt(
                "plan", lambda s, k=keep: plan_one(s, model, base, k), base=base, keep=keep
            )


def plan_one(session: Session, model: list[str], base: str, keep: str) -> None:
    tokens, card = tokens_of(session), torch.device("cuda")
    cfg = effchal.load_config(
        [
            *model,
            f"model.quantization={'nf4' if base == 'nf4' else 'null'}",
            "model.dtype=bfloat16",
            f"lora.target_modules=[{','.join(ALL_LINEAR)}]",
            f"lora.r={RANK}",
            f"train.activation_checkpointing={keep}",
        ]
    )
    memory = plan_memory(cfg, card, MicroBatchSize(tokens, tokens, tokens, False), None)
    step = memory.phases["training step"]
    beside = allocator_bytes(memory, card) + CUDA_CONTEXT
    session.tell(
        "plan",
        base=base,
        keep=keep,
        planned_gib=round(step / GIB, 3),
        planned_with_context_gib=round((step + beside) / GIB, 3),
    )
