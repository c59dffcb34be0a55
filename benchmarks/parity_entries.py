"""For helm_parity.py: the entries to compare, their scripted answers, HELM's folders of them."""

import json
import random
import re
import sys
import zlib
from pathlib import Path

from effchal.evaluation.scenarios.entries import parse_entry
from effchal.evaluation.scenarios.run_arguments import AUGMENTATION, QUESTIONS, SHOTS
from effchal.evaluation.scenarios.types import Instance

AUGMENTED = f"{AUGMENTATION}=canonical"
ENTRIES = {  # by entry: what its data are
    "mmlu:subject=anatomy": "real",
    f"mmlu:subject=anatomy,{AUGMENTED}": "real",
    f"mmlu:subject=us_foreign_policy,{AUGMENTED},{QUESTIONS}=5": "real",
    f"mmlu:subject=made_up,{AUGMENTED},{SHOTS}=2": "made up",
    "truthful_qa:task=mc_single": "real",
    f"truthful_qa:task=mc_single,{AUGMENTED}": "real",
    "bbq:subject=Religion": "real",
    "bbq:subject=all": "real and made up",
    f"bbq:subject=Age,{AUGMENTED}": "real",
    "gsm": "real",
    f"gsm:{AUGMENTED}": "real",
    f"big_bench:{SHOTS}=big_bench_few_shot_setting,task=snarks,subtask=": "real",
    f"big_bench:{SHOTS}=3,task=causal_judgement,subtask=,{AUGMENTED}": "real",
    "big_bench:task=boolean_expressions,subtask=": "real",
    "big_bench:task=made_up,subtask=letters": "made up",
    f"big_bench:{SHOTS}=big_bench_few_shot_setting,task=made_up,subtask=texts": "made up",
    "big_bench:task=made_up,subtask=sentences": "made up",
    "math:subject=number_theory,level=1,use_chain_of_thought=True": "made up",
    f"math:subject=algebra,level=5,use_chain_of_thought=True,{QUESTIONS}=8": "made up",
    "summarization_cnndm:temperature=0.3,device=cpu": "made up",
    "sam_sum": "made up",
    "corr2cause:max_train_instances=1": "made up",
    **{
        f"ethics_{part}:{AUGMENTED}": "made up"
        for part in ("commonsense", "deontology", "justice", "utilitarianism", "virtue")
    },
}
ODD = [
    *["A", " A", "A.", "a", "B", "b", " C ", "D", "E", "", " ", "\n", "A B", "(A)", "C", "D"],
    *["\uff21", "The answer is 5.", "-7", "3.14", "5 6", "3/4", "Yes", "yes.", "True", "no number"],
    *["$\\boxed{\\frac{1}{2}}$", "\\boxed{5}", "so \\boxed{0.5}.", "\\boxed{x=3}", "\\fbox{2}"],
]


# Of HELM's word lists for bias, and others.
PEOPLE = (
    "She",
    "he",
    "Wang",
    "garcia,",
    "Harris.",
    "the doctor",
    "nurse",
    "lawyer",
    "the",
    "did not",
)


def answer(instance: Instance) -> str:
    """Odd, or near a reference, or a letter; always the same for one prompt."""
    choose = random.Random(zlib.crc32(instance.prompt.encode()))
    if instance.prompt.startswith("###\nArticle: "):
        return " ".join(choose.choices(PEOPLE, k=8))
    gold = choose.choice([reference.text for reference in instance.references])
    near = [gold, f" {gold}\n", gold.upper(), gold.strip(".()"), f"{gold} and more"]
    near += [" ".join(gold.split()[1:]), f"He said: {gold.lower()}"]
    return choose.choice(choose.choice([ODD, near, [*instance.letters] or near]))


def find_run(home: Path, entry: str) -> Path:
    """HELM's folder of one expanded entry, by what its run spec says."""
    name, args = parse_entry(entry)
    wanted = {key: args.pop(key, None) for key in (SHOTS, QUESTIONS, AUGMENTATION)}
    for file in sorted(home.glob("runs/*/*/run_spec.json")):
        spec = json.loads(file.read_text())
        adapter, its = spec["adapter_spec"], spec["scenario_spec"]["args"]
        shots, questions = adapter["max_train_instances"], adapter["max_eval_instances"]
        if (
            re.split("[:,]", spec["name"])[0] == name
            and all(str(its.get(key, value)) == value for key, value in args.items())
            and (f"{SHOTS}=" in spec["name"]) == (wanted[SHOTS] is not None)
            and wanted[SHOTS] in (None, str(shots))
            and (f"{QUESTIONS}=" in spec["name"]) == (wanted[QUESTIONS] is not None)
            and wanted[QUESTIONS] in (None, str(questions))
            and (f"{AUGMENTATION}=" in spec["name"]) == (wanted[AUGMENTATION] is not None)
        ):
            return file.parent
    sys.exit(f"error: HELM has no run of {entry}")
