"""transformers' own DoLa, greedy, for compare_dola.py: dola.py MODEL < job.json > tokens.json

Needs transformers 4.55.4, the last release that holds DoLa itself, in an environment of its own:
pip install torch==2.13.0 transformers==4.55.4 'tokenizers<0.22' 'huggingface_hub<1.0'
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM

job = json.load(sys.stdin)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=torch.float32).eval()
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
