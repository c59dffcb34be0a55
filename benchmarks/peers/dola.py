"""transformers' own DoLa, greedy, for compare_dola.py: dola.py MODEL < job.json > tokens.json

Needs transformers 4.55.4, the last release that holds DoLa itself, in an environment of its own:
pip install torch==2.13.0 transformers==4.55.4 'tokenizers<0.22' 'huggingface_hub<1.0'
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

job = json.load(sys.stdin)
config = AutoConfig.from_pretrained(sys.argv[1])
rope = json.loads((Path(sys.argv[1]) / "config.json").read_text()).get("rope_parameters")
if rope:  # as transformers 5 writes it; 4 would pass over it and turn by another angle
    config.rope_theta = rope["rope_theta"]
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], config=config, torch_dtype=torch.float32
).eval()
model.generation_config.eos_token_id = (
    None  # an end-of-sequence token is a token like others: every answer is as long
)
answers = []
for ids in job["prompts"]:
    prompt = torch.tensor([ids])
    with torch.no_grad():
        # relative_top is 0.1 inside; the penalty that its documentation advises is left off.
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=job["new_tokens"],
            do_sample=False,
            dola_layers=job["layers"],
        )
    answers.append(out[0, len(ids) :].tolist())
json.dump({"version": transformers.__version__, "answers": answers}, sys.stdout)
