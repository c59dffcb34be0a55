"""Greedy decoding with DoLa (arXiv:2309.03883), in plain PyTorch.

python examples/minimal_dola.py MODEL_FOLDER PROMPT
"""

import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def js_divergence(log_p, log_q):
    """Jensen-Shannon divergence in nats over the last axis, at most ln 2."""
    # float64: early layers can be so sharp that all divergences lie within 1e-7 of ln 2, and
    # rounding in float32 would choose the layer.
    log_p, log_q = log_p.double(), log_q.double()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    to_p = (log_p.exp() * (log_p - log_m)).sum(-1)
    to_q = (log_q.exp() * (log_q - log_m)).sum(-1)
    return (to_p + to_q) / 2


def next_token(model, hidden_states, premature_layers, relative_top):
    """The token that DoLa chooses after the last position.

    Args:
        hidden_states: those of transformers, N + 1 tensors (1, T, D). Number 0 is the embeddings,
            number N the output of the last layer after the final norm.
        premature_layers: candidates i for the contrast, as hidden_states[i].
        relative_top: keep tokens with at least this share of the best token's probability.
    """
    head = model.get_output_embeddings()
    mature = head(hidden_states[-1][0, -1]).float().log_softmax(-1)  # (V,)
    # The published method puts the head on early layers without the final norm.
    early = torch.stack([hidden_states[i][0, -1] for i in premature_layers])  # (K, D)
    premature = head(early).float().log_softmax(-1)  # (K, V)
    # Contrast with the layer that differs most from the last one, anew for every token.
    chosen = js_divergence(mature, premature).argmax()
    scores = mature - premature[chosen]
    # log p - log q is also large where both are tiny. Only tokens that the last layer itself
    # finds plausible may win; where one token is plausible, no contrast changes the outcome.
    plausible = mature >= mature.max() + math.log(relative_top)
    return int(scores.masked_fill(~plausible, -math.inf).argmax())


@torch.inference_mode()
def generate(model, ids, premature_layers, new_tokens, relative_top=0.1, end_id=None):
    """Up to new_tokens token ids after the prompt's ids; ends after end_id."""
    answer, cache, feed = [], None, ids
    while len(answer) < new_tokens:
        # hidden_states are per layer, so one forward pass serves all candidates.
        out = model.base_model(
            input_ids=torch.tensor([feed]),
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        cache = out.past_key_values
        token = next_token(model, out.hidden_states, premature_layers, relative_top)
        answer.append(token)
        if token == end_id:
            break
        feed = [token]  # keys and values of what came before are in the cache
    return answer


if __name__ == "__main__":
    folder, prompt = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    count = model.config.num_hidden_layers
    layers = range(count // 2, count, 2)  # every other layer of the upper half
    ids = tokenizer(prompt).input_ids
    print(tokenizer.decode(generate(model, ids, layers, 64, end_id=tokenizer.eos_token_id)))
