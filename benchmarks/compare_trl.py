"""Loss curves of this package and of TRL.

    python benchmarks/compare_trl.py DATA --trl PYTHON [--steps 20] [--max-seq-len 1024]

DATA is LIMA's train.jsonl. PYTHON is that of an environment with TRL: peers/train_trl.py says
which. The same examples in the same order, seed, hyper-parameters and float32, no packing;
the ids must be equal. Exit code 1 unless every step's loss is within 1e-4.
"""

import argparse
import sys

from bench_train import PEERS, make_job, run
from common import SMOLLM2
from train_worker import prepare, train

TOLERANCE = 1e-4  # nats


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--trl", metavar="PYTHON", required=True)
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--max-seq-len", type=int, default=1024)
    args = parser.parse_args()
    job = make_job(args)
    model, examples = prepare(job)
    job["ids"] = [example.ids for example in examples]
    theirs = run([args.trl, PEERS / "train_trl.py"], job)
    same_start = all(
        abs(theirs["initial"][name] - parameter.sum().item()) < 1e-3
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )
    ids = [row for micro_batch in theirs["ids"] for row in micro_batch]
    same_ids = all(
        row[: len(e.ids)] == e.ids for row, e in zip(ids, examples * args.steps, strict=False)
    )
    ours = train(job, model, examples)
    print(f"same adapter at the start: {same_start}; same ids: {same_ids} ({len(ids)} examples)")
    print(f"step | effchal | {theirs['system']} | difference | gradient norms")
    differences = [
        abs(one - other) for one, other in zip(ours["losses"], theirs["losses"], strict=True)
    ]
    for step, difference in enumerate(differences):
        losses = f"{ours['losses'][step]:.6f} | {theirs['losses'][step]:.6f}"
        norms = f"{ours['norms'][step]:.4f} {theirs['norms'][step]:.4f}"
        print(f"{step + 1} | {losses} | {difference:.1e} | {norms}")
    print(f"largest difference {max(differences):.1e}, allowed {TOLERANCE:.0e}")
    return 0 if same_start and same_ids and max(differences) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
