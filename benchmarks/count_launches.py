"""What a training step and a decode step of Mistral-7B's shape would launch on a card.

    python benchmarks/count_launches.py [--quantization nf4] [--dropout 0.05] [--operations]

No card and no weights are needed: the real code runs on fake tensors. Where there is a card
they are the card's. Without one autograd cannot run on such, so they are the CPU's, and
`is_cuda` alone says otherwise: layers take the card's way, and waits of the host are not seen.
Two depths of the model are counted, and their difference
is a layer. The bytes are those of the operations' arguments and results, as the planner counts
them, whatever a cache saves; writing unpacked NF4 weights is among them.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from common import print_result
from launches import Counts, Launches
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode  # private; checked with 2.13 and 2.14

from effchal.planning.meta_model import to_fake
from effchal.planning.pretended import claiming_cuda

DEPTHS = (2, 4)  # layers
PROMPT, FIRST_STEPS = 512, 2  # tokens before the decode step that is counted; steps before it
KEEPS = ("none", "selective", "full")


def main() -> None:
    args = arguments()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    with claiming_cuda(device.type == "cpu"):
        rows = [training_row(args, device, keep) for keep in KEEPS]
        decode = decoding_row(args, device)
    for row in [*rows, decode]:
        print_result(row)
    base = f"{args.quantization or 'bf16'}, dropout {args.dropout:g}, r {args.rank}"
    print(f"\nMistral-7B's shape, {base}, {args.tokens} tokens in {args.segments} examples")
    print(f"torch {torch.__version__}, fake tensors of {device}\n")
    columns = ("element-wise", "products", "attention", "kB a token", "layers")
    print(f"{'a layer of a':<24}" + "".join(f"{name:>14}" for name in columns))
    for row in rows:
        print(line(f"training step, {row['keep']}", row, f"{row['kb_per_token']:.0f}"))
    print(line("decode step, 1 row", decode, "-"))
    waits = decode["waits"] if device.type == "cuda" else "not seen without a card"
    print(f"\nwaits of the host in a decode step: {waits}")
    if args.operations:
        show_operations(rows[0]["operations"], args.tokens)


def line(name: str, row: dict, bytes_: str) -> str:
    numbers = (row["element_wise"], row["products"], row["attention"], bytes_, row["layers"])
    return f"{name:<24}" + "".join(f"{each:>14}" for each in numbers)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--segments", type=int, default=1, help="examples in the row")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--quantization", choices=["nf4"])
    parser.add_argument("--operations", action="store_true", help="list them by bytes")
    return parser.parse_args()


def training_row(args: Any, device: torch.device, keep: str) -> dict:
    """Counts of a layer in forward and backward pass, and whether it is ours."""
    counted, fused = [], False
    for depth in DEPTHS:
        model = meta_model(args, depth)
        with FakeTensorMode(allow_non_fake_inputs=True):
            to_fake(model, device)
            fused = prepare(model, keep)
            counted.append(count(lambda model=model: forward_and_backward(model, args)))
    row = difference(*counted)
    row["kb_per_token"] = row.pop("bytes") / args.tokens / 1000
    layers = "fused" if fused else "library's"
    return {"step": "training", "keep": keep, "layers": layers} | row


def decoding_row(args: Any, device: torch.device) -> dict:
    counted, fused = [], False
    for depth in DEPTHS:
        model = meta_model(args, depth)
        with FakeTensorMode(allow_non_fake_inputs=True):
            to_fake(model, device)
            step, fused = count_decode_step(model.eval())
            counted.append(step)
    waits = counted[-1].waits
    row = difference(*counted)
    return {"step": "decode", "layers": "fused" if fused else "library's"} | row | {"waits": waits}


def count(work: Callable[[], Any]) -> Counts:
    with Launches() as mode:
        work()
    return mode.counts


def difference(less: Counts, more: Counts) -> dict[str, Any]:
    """What a layer adds."""
    layers = DEPTHS[1] - DEPTHS[0]

    def of(name: str) -> Counter:
        result = Counter(getattr(more, name))
        result.subtract(getattr(less, name))
        return result

    launches, moved = of("element_wise"), of("element_wise_bytes")
    return {
        "element_wise": round(launches.total() / layers),
        "products": round(of("products").total() / layers),
        "attention": round(of("attention").total() / layers),
        "bytes": moved.total() / layers,
        "operations": {
            name: [launches[name] / layers, moved[name] / layers]
            for name, _ in moved.most_common()
            if launches[name]
        },
    }


def show_operations(operations: dict[str, list[float]], tokens: int) -> None:
    print(f"\n{'operation':<40}{'launches':>10}{'kB a token':>12}")
    for name, (launches, moved) in operations.items():
        print(f"{name:<40}{launches:>10.1f}{moved / tokens / 1000:>12.1f}")


def prepare(model: nn.Module, keep: str) -> bool:
    from effchal.config.choices import ActivationCheckpointing
    from effchal.training.layers import prepare_training

    cuda = torch.device("cuda")
    return prepare_training(model.train(), ActivationCheckpointing(keep), device=cuda)


def meta_model(args: Any, layers: int) -> nn.Module:
    """The planner's model of Mistral-7B with its adapter."""
    import effchal
    from effchal.planning.meta_model import build_meta_model

    overrides = ["model=mistral_7b", f"lora.r={args.rank}", f"lora.dropout={args.dropout}"]
    cfg = effchal.load_config([*overrides, f"model.quantization={args.quantization or 'null'}"])
    return build_meta_model(cfg, torch.device("cuda"), layers)


def forward_and_backward(model: nn.Module, args: Any) -> None:
    """Of the layers. The loss is no part of a layer."""
    from effchal.kernels.attention import packed_hidden_states

    device = next(model.parameters()).device
    lengths = [args.tokens // args.segments] * args.segments
    lengths[0] += args.tokens - sum(lengths)
    row = torch.zeros(1, args.tokens, dtype=torch.int64, device=device)
    states = packed_hidden_states(model, row, row, tuple(lengths))
    states.backward(torch.zeros_like(states))


def count_decode_step(model: nn.Module) -> tuple[Counts, bool]:
    """A greedy token of one row, and whether the layers are ours."""
    from effchal.decoding.engine import Engine
    from effchal.decoding.sampling import SamplingParams
    from effchal.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(effchal_tiny())
    engine = Engine(model, tokenizer)
    params = SamplingParams(max_new_tokens=100, ignore_eos=True)

    def begin() -> None:  # counted too, and thrown away: fake values are read in a mode alone
        engine.start([1] * PROMPT, [params])
        for _ in range(FIRST_STEPS):
            engine.step()

    count(begin)
    return count(engine.step), engine.model.is_fused


def effchal_tiny() -> Any:
    from effchal.config import ModelConfig

    return ModelConfig(name="builtin:tiny")


if __name__ == "__main__":
    sys.exit(main())
