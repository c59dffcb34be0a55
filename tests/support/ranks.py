"""Runs whose steps several processes share, as torchrun starts them."""

import json
import os

import torch
from torch._subclasses.fake_tensor import FakeTensor

from effchal.training.launch import free_port, places
from support import forked

TINY = ("model=tiny", "data_mix=quickstart", "budget.hours=0.2", "lora.dropout=0")
TINY += ("budget.periodic_work_share=1",)  # a busy machine leaves out no validation


def start(size, *words, folder, before=None):
    """The processes of `effchal train <words>`, rank 0 first; `before` as forked.Command has it."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["train", *TINY, *words, f"hydra.run.dir={folder}"]
    return [
        forked.Command(words, env=os.environ | shared | places(rank), before=before)
        for rank in range(size)
    ]


def train(size, *words, folder, before=None):
    """The records of a run that ends well, with those of its steps first."""
    if size == 1:
        ended = [forked.run(["train", *TINY, *words, f"hydra.run.dir={folder}"])]
    else:
        ended = start(size, *words, folder=folder, before=before)
        texts = [process.communicate(200) for process in ended]
        assert [process.returncode for process in ended] == [0] * size, texts
    return records(folder)


def lack_memory_once(folder):
    """Before a command: rank 1 lacks memory in a forward pass, rank 2 in a backward, 3 in a loss.

    It is in the first micro-batch, and leaves a file of that name in the folder.
    """
    from effchal.kernels import decoder_layer
    from effchal.training import step

    layers = []

    def plant(owner, name, is_due):
        whole = getattr(owner, name)

        def planted(*given):
            if is_due(*given):
                setattr(owner, name, whole)
                (folder / name).touch()
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return whole(*given)

        setattr(owner, name, planted)

    def is_real(tensor):  # not the planner's
        return not isinstance(tensor, FakeTensor)

    def is_second(layer, x, *others):
        if is_real(x) and others[-2]:  # with gradients
            layers.append(layer)
        return bool(layers) and layers[0] is not layer

    match os.environ["RANK"]:
        case "1":
            plant(decoder_layer.FusedLayer, "activations", is_second)
        case "2":
            plant(decoder_layer, "mlp_backward", lambda _, dy, __: is_real(dy))
        case "3":
            plant(step, "chunked_loss", lambda _, x, __: is_real(x) and x.requires_grad)


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
