"""Runs whose steps several processes share, as torchrun starts them."""

import json
import os
import socket

from support import forked

TINY = ("model=tiny", "data_mix=quickstart", "budget.hours=0.2", "lora.dropout=0")


def start(size, *words, folder):
    """The processes of `effchal train <words>`, rank 0 first."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = ["train", *TINY, *words, f"hydra.run.dir={folder}"]
    return [
        forked.Command(
            words, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(size)
    ]


def train(size, *words, folder):
    """The records of a run that ends well, with those of its steps first."""
    if size == 1:
        ended = [forked.run(["train", *TINY, *words, f"hydra.run.dir={folder}"])]
    else:
        ended = start(size, *words, folder=folder)
        texts = [process.communicate(200) for process in ended]
        assert [process.returncode for process in ended] == [0] * size, texts
    return records(folder)


def records(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def steps(folder):
    return [record for record in records(folder) if "loss" in record]


def losses(found):
    """Loss and gradient norm of each step, and each validation loss."""
    names = ("loss", "grad_norm", "validation_loss")
    return [record[name] for record in found for name in names if name in record]
