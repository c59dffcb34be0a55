"""What runs in lm-eval's own environment: tasks ask, our process answers, lm-eval scores.

<lm-eval's python> -P inside.py <file descriptor of a socket>

Both sides send JSON objects, one a line. -P keeps this file's folder out of Python's search path.
Nothing of effchal can be imported here. Checked with lm-eval 0.4.13.
"""

import contextlib
import difflib
import glob
import hashlib
import importlib.metadata
import json
import os
import socket
import sys
import traceback
from typing import Any


class ParentPipe:
    """The other process."""

    def __init__(self, descriptor: int) -> None:
        self._file = socket.socket(fileno=descriptor).makefile("rw", encoding="utf-8")

    def send(self, message: dict[str, Any]) -> None:
        from lm_eval.utils import handle_non_serializable

        self._file.write(json.dumps(message, default=handle_non_serializable) + "\n")
        self._file.flush()

    def receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            sys.exit("the other process has ended")
        return json.loads(line)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.send(message)
        return self.receive()


class TaskError(Exception):
    """A task that cannot be run; one line for the user."""


def make_model(parent: ParentPipe) -> Any:
    """lm-eval's view of the model: it asks the other process for all decodings at once."""
    from lm_eval.api.model import LM

    class AskingModel(LM):
        def __init__(self) -> None:
            super().__init__()
            self.decoding = ""
            self._known: dict[str, dict[str, Any]] = {}  # answers of all decodings, by key

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            found = self._answers("loglikelihood", requests)
            return [(each["logprob"], each["greedy"]) for each in found]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [each["logprob"] for each in self._answers("loglikelihood_rolling", requests)]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [each["text"] for each in self._answers("generate_until", requests)]

        def _answers(self, kind: str, requests: list[Any]) -> list[dict[str, Any]]:
            keys: list[str] = []
            seen: dict[int, int] = {}
            unknown: dict[str, dict[str, Any]] = {}
            for request in requests:
                times = seen[id(request)] = seen.get(id(request), -1) + 1
                keys.append(key_of(kind, request.args, times))
                if keys[-1] not in self._known:
                    asked = {"key": keys[-1], "task": request.task_name, "args": request.args}
                    unknown[keys[-1]] = asked
            if unknown:
                message = {"ask": kind, "requests": list(unknown.values())}
                self._known |= parent.ask(message)["answers"]
            return [self._known[key][self.decoding] for key in keys]

        @property
        def tokenizer_name(self) -> str:
            return "effchal"

        def chat_template(self, chat_template: Any = False) -> str:
            return parent.ask({"ask": "chat_template"})["text"]

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: Any = True) -> str:
            message = {"messages": chat_history, "add_generation_prompt": add_generation_prompt}
            return parent.ask({"ask": "chat"} | message)["text"]

    return AskingModel()


def key_of(kind: str, arguments: tuple[Any, ...], times: int) -> str:
    """Tells one request from another: its content, and the how manieth of its kind it is."""
    text = json.dumps([kind, arguments, times], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load_tasks(job: dict[str, Any]) -> tuple[Any, dict[str, dict[str, Any]]]:
    """lm-eval's task manager, and what it makes of each name.

    Raises:
        TaskError: an unknown name, or a task whose data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    own = {"include_path": job["include_path"], "metadata": job["metadata"]}
    names = job["tasks"]
    few = TaskManager(**own, include_defaults=False)
    if all(name.endswith(".yaml") or few.match_tasks([name]) for name in names):
        with contextlib.suppress(TaskError):  # a group of theirs may name tasks of lm-eval's
            return few, load_each(few, names)
    manager = TaskManager(**own)  # reads 15,000 files, which takes seconds
    return manager, load_each(manager, names)


def load_each(manager: Any, names: list[str]) -> dict[str, dict[str, Any]]:
    loaded = {}
    for name in names_of(manager, names):
        try:
            loaded[name] = manager.load([name])
        except Exception as error:
            traceback.print_exc()
            raise TaskError(
                f"lm_eval.tasks: {name} cannot be loaded: {in_a_line(error)}"
            ) from error
    return loaded


def names_of(manager: Any, wanted: list[str]) -> list[str]:
    """The names that patterns stand for, each once."""
    found: dict[str, None] = {}
    for name in wanted:
        matches = sorted(glob.glob(name) if name.endswith(".yaml") else manager.match_tasks([name]))
        if not matches:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            raise TaskError(f"lm_eval.tasks has {name}, which lm-eval does not know{meant}")
        found |= dict.fromkeys(matches)
    return list(found)


def in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).replace("**", "").split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def wanted_parts(loaded: dict[str, dict[str, Any]], kinds: list[str]) -> list[Any]:
    """What to give to lm-eval for one decoding: whole groups where every task in them is wanted."""
    parts: list[Any] = []
    for name, found in loaded.items():
        tasks = found["tasks"].values()
        wanted = [task for task in tasks if task.OUTPUT_TYPE in kinds]
        if len(wanted) == len(tasks) and name in found.get("groups", {}):
            parts.append(found["groups"][name])
        else:
            parts += wanted
    return parts


def run(job: dict[str, Any], parent: ParentPipe) -> None:
    """Run the tasks under each decoding, and send what lm-eval makes of the answers."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    manager, loaded = load_tasks(job)
    tasks = {name: task for found in loaded.values() for name, task in found["tasks"].items()}
    check_tasks(tasks, job["options"]["confirm_run_unsafe_code"])
    kinds = {name: task.OUTPUT_TYPE for name, task in tasks.items()}
    parent.send({"tasks": kinds, "version": importlib.metadata.version("lm_eval")})
    model = make_model(parent)
    for decoding, of_kinds in job["decodings"].items():
        parts = wanted_parts(loaded, of_kinds)
        if not parts:
            continue
        model.decoding = decoding
        tracker = EvaluationTracker(output_path=os.path.join(job["output"], slug(decoding)))
        results = simple_evaluate(
            model,
            model_args={"model": job["name"], "decoding": decoding},
            tasks=parts,
            task_manager=manager,
            evaluation_tracker=tracker,
            **job["options"],
        )
        samples = results.pop("samples")
        scored = {name: scored_task(tasks[name], samples[name], results) for name in samples}
        parent.send({"decoding": decoding, "tasks": scored, "groups": results.get("groups", {})})
        tracker.save_results_aggregated(results, samples)
        for name in samples if job["log_samples"] else ():
            tracker.save_results_samples(name, samples[name])
    parent.send({"done": True})


def check_tasks(tasks: dict[str, Any], may_run_code: bool) -> None:
    """Raises TaskError for what lm-eval would refuse once the model is loaded."""
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not may_run_code:
            raise TaskError(
                f"lm_eval.tasks: {name} runs code that the model writes; "
                "lm_eval.confirm_run_unsafe_code=true allows it"
            )
        if getattr(task, "MULTIMODAL", False):
            raise TaskError(f"lm_eval.tasks: {name} has images, and these models read text alone")


def slug(decoding: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in decoding)


def scored_task(
    task: Any, samples: list[dict[str, Any]], results: dict[str, Any]
) -> dict[str, Any]:
    """A task's questions with their numbers, and its metrics over all of them.

    A question has the metrics whose mean over questions is the task's. A metric goes by `name`,
    or by `name,filter` where answers were filtered.
    """
    of_all = {
        metric_name(*key.split(",", 1)): value
        for key, value in results["results"][task.task_name].items()
        if "," in key and "_stderr," not in key
    }
    ways = task.aggregation()
    means = [name for name in ways if getattr(ways[name], "__name__", "") == "mean"]
    instances: dict[int, list[Any]] = {}
    for each in task.instances:
        instances.setdefault(each.doc_id, []).append(each)
    questions: dict[int, dict[str, Any]] = {}
    for sample in samples:
        number = sample["doc_id"]
        if number not in questions:
            questions[number] = question_of(task, sample, instances[number])
        for name in means:
            if name in sample["metrics"]:
                value = float(sample[name])
                questions[number]["metrics"][metric_name(name, sample["filter"])] = value
    everywhere = set.intersection(*(set(each["metrics"]) for each in questions.values()))
    for each in questions.values():  # lm-eval leaves a metric out where it has no meaning
        each["metrics"] = {k: value for k, value in each["metrics"].items() if k in everywhere}
    return {"questions": list(questions.values()), "metrics": of_all}


def metric_name(name: str, filter_name: str) -> str:
    return name if filter_name == "none" else f"{name},{filter_name}"


def question_of(task: Any, sample: dict[str, Any], instances: list[Any]) -> dict[str, Any]:
    """What was asked of one document, with the keys of its answers."""
    target = sample["target"]
    if task.OUTPUT_TYPE == "multiple_choice" and isinstance(target, str):
        choices = task.doc_to_choice(sample["doc"])
        target = choices.index(target) if target in choices else None
    kinds = [each.request_type for each in instances]
    requests = [
        {"key": key_of(kind, each.args, 0), "kind": kind, "args": each.args}
        for kind, each in zip(kinds, instances, strict=True)
    ]
    return {"id": sample["doc_id"], "requests": requests, "target": target, "metrics": {}}


def main() -> None:
    parent = ParentPipe(int(sys.argv[1]))
    job = parent.receive()
    try:
        run(job, parent)
    except TaskError as error:
        parent.send({"error": str(error)})
    except Exception as error:
        traceback.print_exc()
        parent.send({"error": f"lm-eval failed: {in_a_line(error)}"})


if __name__ == "__main__":
    main()
