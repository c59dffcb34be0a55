"""README.md of a hand-in: what it is, what was measured, and the commands to do it again."""

from typing import Any

from effchal.submission.verdicts import wider_interval
from effchal.tracking.ending import NOT_MEASURED, loss
from effchal.tracking.text_tables import as_markdown
from effchal.tracking.words import duration

Facts = dict[str, Any]


def readme(facts: Facts, mix: dict[str, Any], place: str | None) -> str:
    """The page in Markdown.

    Args:
        facts: the content of submission.json.
        mix: the content of mix.json.
        place: the scores among a contest's finalists, as text; None where they are of no contest.
    """
    parts = [
        f"# {facts['name']}",
        _what_it_is(facts),
        "## Commands\n\n" + _commands(facts, mix),
        "## Scores\n\n" + _scores(facts),
        *([f"## Place in the contest\n\n```text\n{place.strip()}\n```"] if place else []),
        "## Training\n\n" + _training(facts),
        "## Data\n\n" + _data(facts, mix),
        "## Server\n\n" + _server(facts),
        "## Rules\n\n" + _rules(facts),
        "## Files\n\n" + FILES,
    ]
    return "\n\n".join(parts) + "\n"


FILES = """\
| file | holds |
|---|---|
| `submission.json` | all figures of this page, for programs |
| `SHA256SUMS` | the digest of every other file |
| `Dockerfile.serve`, `Dockerfile.train` | the two images; this folder is their build context |
| `effchal`, `conf`, `pyproject.toml`, `constraints.txt` | the program, and exact versions |
| `bundle` | adapter, tokenizer, config and their digests |
| `training` | config, record, plan, metrics and data report of the run |
| `evaluation` | scores, every prompt with its answer, own questions |
| `conformance.json` | what the server was asked, and what it answered |"""


BAKE = """\
An image without a mount: copy the base model to `base_model` in this folder, and build with
`--build-arg BUNDLE=bundle --build-arg BASE_MODEL=base_model`.

"""


def _what_it_is(facts: Facts) -> str:
    base = facts["base_model"]
    revision = f" at commit {base['revision']}" if base["revision"] else ""
    lines = [f"A LoRA adapter on {base['name']}{revision}, served with `{facts['decoding']}`."]
    if base["is_folder"]:
        lines.append(
            f"The base model is a folder that this one does not hold; its fingerprint is "
            f"`{base['fingerprint']}`. Wherever `<base model>` stands below, give that folder."
        )
    return "\n".join(lines)


def _commands(facts: Facts, mix: dict[str, Any]) -> str:
    base = facts["base_model"]
    mount = ' -v "<base model>:/base_model:ro"' if base["is_folder"] else ""
    own = " base_model=<base model>" if base["is_folder"] else ""
    bake = BAKE if base["is_folder"] else ""
    again = own + "".join(
        f" data_mix.sources.{each['source']}.path=<its file>" for each in _absent(facts, mix)
    )
    data = " scenario.path=<folder of data>" if facts["questions"]["wants_data"] else ""
    return f"""\
In this folder:

```bash
sha256sum --quiet -c SHA256SUMS
docker build -f Dockerfile.serve -t submission-serve --build-arg BUNDLE=bundle .
docker run --rm --gpus all -p 8080:80{mount} submission-serve
docker build -f Dockerfile.train -t submission-train .
```

{bake}Train again in the image:

```bash
mkdir -p again/train && cp training/config.yaml again/train
docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD/again:/effchal/outputs"{mount} \\
    submission-train resume_from=outputs/train{own.replace("<base model>", "/base_model")}
```

Without Docker, in an environment of its own:

```bash
python3 -m venv ../venv && . ../venv/bin/activate
pip install -c constraints.txt torch setuptools
pip install -c constraints.txt --no-build-isolation '.[train,evaluate,serve]'
effchal serve bundle{own}
```

To do all of it again and compare, beside this folder:

```bash
effchal reproduce <this folder>{again}{data}
```"""


def _absent(facts: Facts, mix: dict[str, Any]) -> list[dict[str, Any]]:
    """The sources that are files of the machine of the training, and not part of the hand-in."""
    return [
        each
        for each in mix["sources"]
        if each["revision"] is None
        and not each["path"].startswith("builtin:")
        and each["source"] not in facts["included_data"]
    ]


def _scores(facts: Facts) -> str:
    rows = [("entry", "instances", "metric", "decoding", "score", "stated interval")]
    found = facts["evaluation"]
    for entry, each in found["entries"].items():
        for decoding, summary in each["decodings"].items():
            metric = each["main_metric"]
            if metric in summary["metrics"]:
                interval = wider_interval(summary, metric, each["instances"])
                span = f"[{interval.low:.3f}, {interval.high:.3f}]" if interval else "one question"
                score = f"{summary['metrics'][metric]['mean']:.3f}"
                rows.append((entry, str(each["instances"]), metric, decoding, score, span))
    lines = [as_markdown(rows)]
    lines += [f"\nLeft out: {entry}: {why}" for entry, why in found["missing"].items()]
    lines.append(
        "\nAn interval has a confidence of 95 % unless the evaluation's config says otherwise. "
        "Where all answers score alike, it is the exact one. "
        "`evaluation/results.md` has all metrics."
    )
    lines.append(f"\nThe server decodes with `{facts['decoding']}`; other rows are its controls.")
    seconds = found["seconds"]
    spent = NOT_MEASURED if seconds is None else duration(seconds)
    lines.append(f"\nMeasured on {found['device']} in {spent}.")
    return "\n".join(lines)


def _training(facts: Facts) -> str:
    run = facts["training"]
    memory = run["peak_memory_gib"]
    losses = [loss(run, key) for key in ("validation_loss_before", "validation_loss")]
    rows = [
        ("what", "value"),
        ("command", f"`{run['command']}`"),
        ("status", run["status"]),
        ("steps", f"{run['step']} of {run['steps_planned']}"),
        ("time", f"{duration(run['spent_s'])} of {duration(run['limit_s'])}"),
        ("tokens", f"{run['tokens']:,}"),
        ("validation loss before, after", ", ".join(losses)),
        ("peak memory", NOT_MEASURED if memory is None else f"{memory:.2f} GiB"),
        ("device", run["device"]),
        ("made with", run["made_with"]),
        ("digest of the data", f"`{run['data_sha256']}`"),
        ("digest of the adapter", f"`{run['adapter_sha256']}`"),
    ]
    return as_markdown(rows)


def _data(facts: Facts, mix: dict[str, Any]) -> str:
    rows = [("source", "examples", "licence", "origin", "SHA-256 of the rows")]
    for each in mix["sources"]:
        cells = (each["source"], f"{each['examples']:,}", each["license"], each["origin"])
        rows.append((*cells, f"`{each['sha256'][:16]}…`"))
    lines = [as_markdown(rows)]
    lines.append("\n`training/mix.md` is the data report.")
    for each in _absent(facts, mix):
        lines.append(
            f"\n{each['source']} is not part of this folder; a reproduction needs its file."
        )
    return "\n".join(lines)


def _server(facts: Facts) -> str:
    found = facts["conformance"]
    lines = [
        f"`effchal conformance` on this folder's code and bundle: {found['kept']} rules kept, "
        f"{len(found['broken'])} broken, {len(found['untold'])} cannot be told. "
        "After SIGTERM the server ended with exit code 0.\n"
    ]
    lines += [f"- broken: {name}" for name in found["broken"]]
    lines += [f"- cannot be told: {name}" for name in found["untold"]]
    return "\n".join(lines)


def _rules(facts: Facts) -> str:
    rules = facts["rules"]
    if rules["name"] is None:
        return "None were checked: the run names no contest."
    lines = [f"{rules['name']}:\n"]
    for each in rules["findings"]:
        lines.append(f"- {'pass' if each['ok'] else '**FAIL**'}: {each['rule']} ({each['found']})")
    return "\n".join(lines)
