"""Every kind of entry through HELM 0.5.16 and through our evaluation: prompts and scores.

    bash scripts/helm.sh scenario=smoke ...        makes .venv-helm, once
    python benchmarks/helm_parity.py               20 instances of each; about 5 minutes
    python benchmarks/helm_parity.py --write       also into experiments/equality/README.md

Both get the same answers from a script, not from a model: right ones, wrong ones and odd ones.
Data are real where ../shared/data has them, else made up in the real layout. SAMSum, corr2cause
and ETHICS are not in HELM 0.5.16: benchmarks/peers/helm_plugin.py adds them to it after the
contest's fork. Exits with 1 where something differs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common import ROOT

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from parity_entries import ENTRIES, answer, find_run  # noqa: E402
from support.contest_data import contest_folder  # noqa: E402
from support.helm_stand_in import ByteWindow, StandIn, model_window  # noqa: E402

from effchal.config import EvaluateConfig  # noqa: E402
from effchal.evaluation.answers import EncodedInstance  # noqa: E402
from effchal.evaluation.results import TextAnswer, summarise  # noqa: E402
from effchal.evaluation.scenarios.entries import load_scenario  # noqa: E402
from effchal.evaluation.scenarios.helm_tables import TABLES  # noqa: E402
from effchal.evaluation.scenarios.metrics import aggregate_extra, score_completion  # noqa: E402
from effchal.evaluation.scenarios.run_arguments import expanded  # noqa: E402
from effchal.evaluation.scenarios.types import Scenario  # noqa: E402

# HELM's metrics of summaries need packages beyond its own, so only prompts are compared.
DRY = ("summarization_cnndm",)
NEEDS_NLTK_DATA = ("sam_sum", "big_bench:task=made_up,subtask=sentences")
IN_PLUGIN = ("sam_sum", "corr2cause", "ethics_")
HEADING = "## Instance by instance with HELM"
HEAD = ("entry", "data", "scenario of", "instances", "requests", "prompts", "scores", "of the run")


@dataclass
class Outcome:
    """One expanded entry. Counts are of those that are equal, then of all."""

    entry: str
    data: str
    instances: int
    prompts: tuple[int, int]
    scores: tuple[int, int] | None  # None: not measured
    of_run: tuple[int, int] | None

    @property
    def is_equal(self) -> bool:
        counts = [self.prompts, *filter(None, (self.scores, self.of_run))]
        return all(same == of for same, of in counts) and self.prompts[1] > 0

    def row(self) -> str:
        home = "the fork" if self.entry.startswith(IN_PLUGIN) else "HELM"
        found = [
            "not measured" if each is None else f"{each[0]} of {each[1]}"
            for each in (self.prompts, self.scores, self.of_run)
        ]
        requests = str(self.prompts[1])
        cells = [f"`{self.entry}`", self.data, home, str(self.instances), requests, *found]
        return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=20, help="of each entry; default: 20")
    parser.add_argument("--helm", type=Path, default=ROOT / ".venv-helm", help="its environment")
    parser.add_argument(
        "--nltk-data", type=Path, help="folder with tokenizers/punkt_tab; SAMSum and BLEU need it"
    )
    parser.add_argument("--tokenizer", help="of this model; default: a token for each byte")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if not (options.helm / "bin" / "helm-run").is_file():
        sys.exit(f"error: no HELM in {options.helm}; bash scripts/helm.sh makes it")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = compare_all(Path(folder), options)
    text = table(outcomes)
    print(text)
    if options.write:
        write(text)
    sys.exit(not all(each.is_equal for each in outcomes))


def compare_all(tmp: Path, options: argparse.Namespace) -> list[Outcome]:
    data, home = tmp / "data" / "scenarios", tmp / "helm"
    contest_folder(data)
    copy_tables(data, options)
    home.mkdir()
    (home / "scenarios").symlink_to(data)
    shutil.copytree(data / "perturbations", home / "perturbations")
    window = model_window(options.tokenizer) if options.tokenizer else ByteWindow()
    kinds = {
        entry: about
        for entry, about in ENTRIES.items()
        if options.nltk_data is not None or entry not in NEEDS_NLTK_DATA
    }
    ours = {
        (typed, entry): load_scenario(entry, data, options.instances, window)
        for typed in kinds
        for entry in expanded(typed)
    }
    answers = {i.prompt: answer(i) for scenario in ours.values() for i in scenario.instances}
    server = StandIn(window, answers)
    dry = [entry for entry in kinds if entry.startswith(DRY)]
    run_helm(home, server, [entry for entry in kinds if entry not in dry], options, "scored")
    run_helm(home, server, dry, options, "dry", "--dry-run")
    server.shutdown()
    return [
        compare(scenario, answers, find_run(home, entry), kinds[typed])
        for (typed, entry), scenario in ours.items()
    ]


def copy_tables(data: Path, options: argparse.Namespace) -> None:
    """The tables that HELM has in its own source, and NLTK's data where they are given."""
    (package,) = options.helm.glob("lib/python*/site-packages/helm/benchmark")
    (data / "helm").mkdir()
    for place, _ in TABLES.values():
        if place.startswith("helm/"):
            (found,) = package.rglob(Path(place).name)
            shutil.copyfile(found, data / place)
    if options.nltk_data is not None:
        (data / "nltk_data").symlink_to(options.nltk_data.resolve())


def run_helm(
    home: Path, server: StandIn, entries: list[str], options: argparse.Namespace, suite: str, *more
) -> None:
    """helm-run on the entries, which asks the script."""
    nltk = options.nltk_data
    if nltk is None:  # without this folder, HELM asks the network for its content
        nltk = home / "nltk"
        (nltk / "tokenizers" / "punkt_tab").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "HELM_HTTP_MODEL_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "NLTK_DATA": str(nltk.resolve()),
        "HF_HUB_OFFLINE": "1",
        "EFFCHAL_MATH": str(home / "scenarios" / "MATH"),
    }
    command = [options.helm / "bin" / "helm-run", "--suite", suite, "--output-path", home]
    command += ["--local-path", home / "local", "--num-threads", "2", *more]
    command += ["--plugins", ROOT / "benchmarks" / "peers" / "helm_plugin.py"]
    command += ["--max-eval-instances", str(options.instances), "--run-entries"]
    command += [f"{entry}{',' if ':' in entry else ':'}model=neurips/local" for entry in entries]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"error: helm-run failed\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")


def compare(scenario: Scenario, answers: dict[str, str], folder: Path, data: str) -> Outcome:
    texts = [answers[instance.prompt] for instance in scenario.instances]
    is_scored = folder.parent.name == "scored"
    originals = [instance for instance in scenario.instances if not instance.perturbation]
    return Outcome(
        scenario.entry,
        data,
        len(originals),
        same_requests(scenario, folder),
        same_scores(scenario, texts, folder) if is_scored else None,
        same_of_run(scenario, texts, folder) if is_scored else None,
    )


def same_requests(scenario: Scenario, folder: Path) -> tuple[int, int]:
    """Requests with the same instance, perturbation, prompt, references and settings."""
    states = json.loads((folder / "scenario_state.json").read_text())["request_states"]
    same = 0
    for ours, state in zip(scenario.instances, states, strict=False):
        request, its = state["request"], state["instance"]
        references = [
            (each["output"]["text"], "correct" in each["tags"]) for each in its["references"]
        ]
        settings = scenario.settings
        same += (
            (ours.id, ours.perturbation) == (its["id"], its.get("perturbation", {}).get("name", ""))
            and (ours.prompt, ours.split) == (request["prompt"], its["split"])
            and [(each.text, each.correct) for each in ours.references] == references
            and (settings.max_new_tokens, list(settings.stops), settings.temperature)
            == (request["max_tokens"], request["stop_sequences"], request["temperature"])
        )
    return same, max(len(states), len(scenario.instances))


def same_scores(scenario: Scenario, texts: list[str], folder: Path) -> tuple[int, int]:
    """Values of all metrics of ours, perturbed instances included."""
    helm: dict[tuple[str, str], dict[str, float]] = {}
    for record in json.loads((folder / "per_instance_stats.json").read_text()):
        key = record["instance_id"], record.get("perturbation", {}).get("name", "")
        found = {stat["name"]["name"]: stat.get("mean") for stat in record["stats"]}
        helm.setdefault(key, {}).update(found)
    same = total = 0
    for instance, text in zip(scenario.instances, texts, strict=True):
        its = helm.get((instance.id, instance.perturbation), {})
        for name, score in score_completion(scenario, instance, text).items():
            total += 1
            same += its.get(name) == score
    return same, total


def same_of_run(scenario: Scenario, texts: list[str], folder: Path) -> tuple[int, int]:
    """Means of the run: the main metric, its two worst cases, and scores that are no mean."""
    records = []
    for instance, text in zip(scenario.instances, texts, strict=True):
        scored = TextAnswer(text=text, metrics=score_completion(scenario, instance, text))
        records.append(EncodedInstance(scenario.entry, instance, [0]).record({"greedy": scored}))
    main = scenario.settings.main_metric
    summary = summarise(records, main, EvaluateConfig(resamples=100))
    means = summary.decodings["greedy"].metrics
    ours = {name: means[name].mean for name in means if name.startswith(main)}
    pairs = list(zip(scenario.instances, texts, strict=True))
    whole = aggregate_extra(scenario, [pair for pair in pairs if not pair[0].perturbation])
    stats = json.loads((folder / "stats.json").read_text())
    helm = {}
    for stat in stats:
        name = stat["name"]
        changed = name.get("perturbation", {})
        if name.get("split") == summary.split and "mean" in stat:
            if not changed:
                helm[own_name(name["name"])] = stat["mean"]
            elif changed["computed_on"] == "worst":
                helm[f"{name['name']} ({changed['name']})"] = stat["mean"]
    found = ours | whole
    same = sum(abs(helm.get(name, float("inf")) - score) < 1e-12 for name, score in found.items())
    return same, len(found)


def own_name(metric: str) -> str:
    """Our name of HELM's bias scores; other names are alike."""
    found = re.fullmatch(
        r"bias_metric:mode=(\w+),demographic_category=(\w+)(,target_category=profession)?", metric
    )
    if not found:
        return metric
    kind = {"associations": "stereotypes"}.get(found[1], found[1])
    return f"{kind} ({found[2]})"


def table(outcomes: list[Outcome]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    lines += [each.row() for each in outcomes]
    equal = sum(each.is_equal for each in outcomes)
    totals = []
    for what, name in (
        ("prompts", "prompts"),
        ("scores", "scores of instances"),
        ("of_run", "scores of runs"),
    ):
        counts = [found for each in outcomes if (found := getattr(each, what)) is not None]
        same, of = map(sum, zip(*counts, strict=True))
        totals.append(f"{same:,} of {of:,} {name}")
    lines += ["", f"{equal} of {len(outcomes)} runs are equal in all: {', '.join(totals)}."]
    return "\n".join(lines)


def write(text: str) -> None:
    """Put the table where the section of it stands, else at the end of the page."""
    page = ROOT / "experiments" / "equality" / "README.md"
    before, _, after = page.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    rest = after[after.index("\n## ") :] if "\n## " in after else ""
    about = (
        "`python benchmarks/helm_parity.py --nltk-data <folder> --write` writes this section.\n"
        "Both sides get the same answers from a script; a token is a byte, so many prompts are\n"
        "cut. Tables of dialect and names are made up, those of misspellings and contractions\n"
        "HELM's own. `of the run`: the mean, its robustness and fairness, and bias scores. `not\n"
        "measured`: HELM's metric needs packages beyond its own, so prompts alone are compared.\n"
    )
    page.write_text(f"{before.rstrip()}\n\n{HEADING}\n\n{about}\n{text}\n{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
