"""For test_scenarios_helm.py: tokenizers, a server in a model's place, made-up data, helm-run."""

import json
import os
import random
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from effchal.config import ModelConfig, PromptConfig
from effchal.evaluation.encoding import TokenizerWindow
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder
from support.paths import ROOT

HELM_BIN = ROOT / ".venv-helm" / "bin"
MAX_INSTANCES = 40


class ByteWindow:
    """A token for each byte: most prompts are too long. Half characters become U+FFFD."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def model_window(name):
    return TokenizerWindow(PromptEncoder(load_tokenizer(ModelConfig(name=name)), PromptConfig()))


class StandIn(ThreadingHTTPServer):
    """Answers HELM's tokenizer and model requests; the completion goes by the prompt."""

    def __init__(self, window, completions):
        self.window, self.completions = window, completions
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = json.dumps(self.answer(self.server.window, body) | {"request_time": 0.1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, window, body):
        if self.path == "/tokenize":
            ids = window.encode(body["text"])
            return {"tokens": ids[: body["max_length"]] if body["truncation"] else ids}
        if self.path == "/decode":
            return {"text": window.decode(body["tokens"])}
        text = self.server.completions.get(body["prompt"], "a prompt that is not ours")
        return {
            "text": text,
            "logprob": -1.0,
            "tokens": [{"text": text, "logprob": -1.0}] if text else [],
        }

    def log_message(self, *_):
        pass


def made_up_bbq(subject):
    """Rows with the descriptions that HELM treats apart."""
    choose = random.Random(subject)
    described = [
        *[["Cannot answer", "unknown"], ["Not enough info", "unknown"], ["Black"], ["M-Black"]],
        *[["African American"], ["F-African American", ""], ["Latino"], ["M-Latino"]],
        *[["lowSES", "x"], ["low SES"], ["highSES"], ["lowSES-Black"], ["lowSES-M-Black"]],
        *[["lowSES-F-Latino"], ["White", "x"]],
    ]
    for number in range(80):
        # From the second one, often nobody is outside the stereotyped group.
        pool = choose.choice([described, described[:3]])
        names = choose.sample(["The first", "The second", "Can't say", "The first"], 3)
        yield {
            "question_polarity": choose.choice(["neg", "nonneg"]),
            "context_condition": choose.choice(["ambig", "disambig"]),
            "context": f"{subject} number {number}.",
            "question": "Who?",
            "label": choose.randrange(3),
            "additional_metadata": {
                "stereotyped_groups": choose.choice(
                    [["Black"], ["low SES"], ["African American", "Black"], ["Latino"]]
                )
            },
            "answer_info": {f"ans{index}": choose.choice(pool) for index in range(3)},
            **{f"ans{index}": name for index, name in enumerate(names)},
        }


def made_up_big_bench(option_letters):
    examples = [
        {"input": f"How many, {n}?", "target_scores": {"none": 0, f"the {n}": 1, "a few": n % 2}}
        if option_letters
        else {
            "input": f"Count to {n}{' and “naïvely”' * 30 * (n % 7)}",
            "target": [f"up to {n}", str(n)] if n % 2 else f"a {n}",
        }
        for n in range(70)
    ]
    task = {
        "keywords": ["x"],
        "description": "Made up.",
        "examples": examples,
        "example_input_prefix": "\nQ: ",
    }
    if option_letters:
        return task | {
            "metrics": ["multiple_choice_grade"],
            "task_prefix": "Choose.\n",
            "stop_string": "!",
        }
    return task | {
        "metrics": ["exact_str_match"],
        "example_output_prefix": "\nA: ",
        "stop_string": ".",
    }


def made_up_sentences():
    """A BIG-bench task whose answers are sentences, with every metric that HELM knows."""
    examples = [
        {
            "input": f"Tell of {n}.",
            "target": f"Dr. Li counts to {n}, then to {n + 1}. It's {n % 3}!",
        }
        for n in range(70)
    ]
    metrics = ["exact_str_match", "bleu", "rouge"]
    return {"examples": examples, "metrics": metrics, "keywords": ["x"], "description": "Made up."}


def made_up_cnndm():
    choose = random.Random(0)

    def rows(count, shortest, longest):
        for n in range(count):
            words = choose.choices(
                ["the", "news\n", "of {", "}", "“day”", "naïve  "],
                k=choose.randint(shortest, longest),
            )
            yield {
                "article": f"Article {n}: " + " ".join(words),
                "highlights": f"{{Summary {n} \n of the news}}",
            }

    return {
        "train": list(rows(60, 40, 160)),
        "validation": list(rows(10, 0, 900)),
        "test": list(rows(30, 0, 900)),
    }


def helm_environment(tmp, **more):
    # Without this folder, HELM asks the network for its content.
    (tmp / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True, exist_ok=True)
    return {**os.environ, "NLTK_DATA": str(tmp / "nltk"), "HF_HUB_OFFLINE": "1", **more}


def run_helm(tmp, server, entries, *options):
    """Output folders of the entries, in order."""
    url = f"http://127.0.0.1:{server.server_address[1]}"
    command = [HELM_BIN / "helm-run", "--suite", "s", "--output-path", tmp]
    command += ["--local-path", tmp / "local", *options]
    command += ["--max-eval-instances", str(MAX_INSTANCES), "--num-threads", "2", "--run-entries"]
    command += [f"{entry}{',' if ':' in entry else ':'}model=neurips/local" for entry in entries]
    environment = helm_environment(tmp, HELM_HTTP_MODEL_BASE_URL=url)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    server.shutdown()
    folders = {}
    for spec in (tmp / "runs" / "s").glob("*/run_spec.json"):
        args = json.loads(spec.read_text())["scenario_spec"]["args"]
        folders[spec.parent.name.split(":")[0], *map(str, args.values())] = spec.parent
    return folders


def folder_of(folders, entry):
    name, _, rest = entry.partition(":")
    values = [
        part.partition("=")[2] for part in rest.split(",") if part and not part.startswith("method")
    ]
    return next(
        folder for key, folder in folders.items() if key[0] == name and list(key[1:]) == values
    )
