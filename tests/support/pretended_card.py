"""A card that torch.cuda claims to have, for code that asks about one and computes nothing."""

import importlib
from types import SimpleNamespace

import torch

importlib.import_module("bitsandbytes")  # looks for its CUDA library when it is imported
GIB = 2**30


def pretend_card(
    monkeypatch,
    name="NVIDIA GeForce RTX 4090",
    total_gib=23.64,
    free_gib=23.2,
    major=8,
    count=1,
    current=0,
    allocated_gib=0.0,
    reserved_gib=0.0,
):
    """Let torch.cuda answer as on a machine with `count` such cards."""
    total, free = round(total_gib * GIB), round(free_gib * GIB)
    answers = {
        "is_available": True,
        "device_count": count,
        "current_device": current,
        "get_device_name": name,
        "get_device_properties": SimpleNamespace(total_memory=total, major=major, name=name),
        "get_device_capability": (major, 0),
        "mem_get_info": (free, total),
        "memory_reserved": round(reserved_gib * GIB),
        "max_memory_reserved": round(reserved_gib * GIB),
        "max_memory_allocated": round(allocated_gib * GIB),
        "_check_bf16_tensor_supported": True,  # older cards emulate it
    }
    for function, answer in answers.items():
        monkeypatch.setattr(torch.cuda, function, lambda *_, answer=answer: answer)
