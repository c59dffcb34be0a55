"""LoRA fine-tuning on packed rows, in plain PyTorch.

python examples/minimal_loop.py MODEL_FOLDER DATA.jsonl
"""

import json
import sys

import peft
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPLATE = "### Instruction:\n{}\n\n### Response:\n"
IGNORE = -100  # a position with nothing to predict


def encode(tokenizer, question, answer):
    """Token ids (T,) of one example, and its targets (T,): the next token, or IGNORE."""
    prompt = tokenizer(TEMPLATE.format(question), add_special_tokens=False).input_ids
    # The end-of-sequence token is a target too. Without it the model never learns to stop.
    reply = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    ids = prompt + reply
    # Position t predicts token t + 1. Shift each example before packing: a shift of the packed
    # row would make the last token of one example predict the first token of the next.
    targets = [*[IGNORE] * (len(prompt) - 1), *reply, IGNORE]
    return ids, targets


def pack(examples):
    """One row without padding: ids, positions and targets, (1, T) each."""
    ids = torch.tensor([[token for ids, _ in examples for token in ids]])
    positions = torch.cat([torch.arange(len(ids)) for ids, _ in examples])[None]
    targets = torch.tensor([[target for _, targets in examples for target in targets]])
    return ids, positions, targets


def loss_sum(model, ids, positions, targets):
    """Sum of the cross-entropy over the target tokens, in nats."""
    # transformers isolates the examples by positions that restart at 0, but only without an
    # attention mask and without a cache. With either one, examples silently see each other.
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return F.cross_entropy(logits[0].float(), targets[0], ignore_index=IGNORE, reduction="sum")


def train(folder, examples, steps, per_step=4, lr=1e-2, seed=0):
    """The mean loss per target token of each step."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.requires_grad_(False)
    torch.manual_seed(seed)  # LoRA's A is random; B starts at 0, so the first loss is the base's
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"]
    )
    model = peft.get_peft_model(model, lora).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        chosen = examples[step * per_step : (step + 1) * per_step]
        # A step may have several rows. Divide every row's sum by the target tokens of the whole
        # step: a mean of row means would give the tokens of short answers more weight.
        rows = [pack(chosen[: per_step // 2]), pack(chosen[per_step // 2 :])]
        total = sum(int((targets != IGNORE).sum()) for _, _, targets in rows)
        losses.append(0.0)
        for row in rows:
            loss = loss_sum(model, *row) / total
            loss.backward()  # gradients add up over the rows
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(trainable, 0.3)
        optimizer.step()
        optimizer.zero_grad()
    return losses


if __name__ == "__main__":
    folder, data = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with open(data) as file:
        turns = [json.loads(line)["conversations"] for line in file]
    examples = [encode(tokenizer, question, answer) for question, answer, *_ in turns]
    for step, loss in enumerate(train(folder, examples, steps=10), start=1):
        print(f"step {step} | loss {loss:.3f}")
