#!/usr/bin/env bash
# The main job on a small real model: fine-tune, bundle, serve, ask. About 7 minutes on 2 cores, installation included.
source "$(dirname "$0")/venv.sh"

run="outputs/train/$(date +%Y-%m-%d_%H-%M-%S)_quickstart"
question="How can I tell whether my model is overfitting?"

echo "1/4  The base model: SmolLM2-135M-Instruct (weights Q4_1, de-quantised)"
python scripts/fetch.py smollm2_135m
echo "2/4  Fine-tuning it with LoRA on 177 examples that ship with the project"
python -m effchal.train experiment=quickstart "hydra.run.dir='$run'"
echo "3/4  Serving the bundle"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
python -m effchal.serve "bundle='$run/bundle'" serve.port="$port" "hydra.run.dir='$run'" >"$run/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
python -m effchal.serving.ready "http://127.0.0.1:$port" 300 $server || { cat "$run/server.log" >&2; exit 1; }
echo "4/4  Asking it over HTTP"
python - "$run" "http://127.0.0.1:$port" "$question" <<'PYTHON'
import json, sys, urllib.request
from effchal.tracking.ending import hours_for_the_rest
run, url, question = sys.argv[1:]
body = json.dumps({"prompt": question, "max_new_tokens": 80}).encode()
answer = json.load(urllib.request.urlopen(f"{url}/process", body))
record = json.load(open(f"{run}/run.json"))
before, after = (
    "not measured" if record[key] is None else f"{record[key]:.3f}"
    for key in ("validation_loss_before", "validation_loss")
)
slow = "" if record["status"] == "finished" else (
    f"The time was over after {record['step']} of {record['steps_planned']} steps. This does the others:\n"
    f"  .venv/bin/effchal train {run} budget.hours={hours_for_the_rest(record):.2g}\n\n"
)
print(f"""
  question      {question}
  answer        {answer['text'].strip()}
                ({len(answer['tokens'])} tokens in {answer['request_time']:.1f} s)

  validation loss {before} before, {after} after {record['step']} steps
  status        {record['status']}, {record['spent_s']:.0f} s, peak {record['peak_memory_gib']:.1f} GiB
  bundle        {run}/bundle

{slow}Next:
  .venv/bin/effchal serve {run}
  .venv/bin/effchal report outputs
  .venv/bin/effchal evaluate base {run} 'scenario.entries=[truthful_qa_mc]'
  .venv/bin/effchal train experiment=quickstart lora.r=64 train.epochs=4 budget.hours=0.5
  bash scripts/helm.sh {run} scenario=smoke
""")
PYTHON
