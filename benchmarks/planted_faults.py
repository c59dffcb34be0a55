"""Real rows with faults planted in them: which are found, and which right rows are taken for wrong.

python benchmarks/planted_faults.py <folder>
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from effchal.config import CleanConfig, ConfigError, DataSourceConfig, DecontaminateConfig
from effchal.config.choices import OnFault
from effchal.mixing.clean import faults_of, text_key
from effchal.mixing.decontaminate import Decontaminator
from effchal.mixing.example import Example
from effchal.mixing.locate import locate
from effchal.mixing.near_duplicates import (
    PHRASE_WORDS,
    answer_length,
    near_duplicates,
    shared_text,
    signatures,
)
from effchal.mixing.questions import known_questions
from effchal.mixing.sources import SourceReader
from effchal.mixing.words import joined_hashes, words
from effchal.prompts.encoder import Turn

CLEAN, EACH = 500, 20  # right rows, and rows of each fault
LONG_ROW = 200_000  # characters


@dataclass
class Planted:
    examples: list[Example]
    kind: dict[str, str] = field(default_factory=dict)  # what is wrong, by id of an example

    def add(self, kind: str, turns: tuple[Turn, ...]) -> None:
        self.examples.append(Example(f"planted:{len(self.kind)}", turns))
        self.kind[self.examples[-1].id] = kind


def rows_of(name: str, path: Path) -> list[Example]:
    cfg = DataSourceConfig(path=str(path))
    return list(SourceReader(name, cfg, locate(name, cfg)))


def plant(data: Path) -> Planted:
    """The first rows of LIMA, and rows made of the others of it with one fault each."""
    lima = rows_of("lima", data / "train" / "lima.jsonl")
    found, draw = Planted(lima[:CLEAN]), random.Random(18)
    long = [each for each in lima[:CLEAN] if len(words(each.turns[1].content)) >= 250]
    others = iter(lima[CLEAN:])
    for each in long[:EACH]:
        question, answer = each.turns[0].content.upper(), each.turns[1].content
        found.add("duplicate", _turns(question, "  ".join(answer.split(" ")) + "\n"))
    for at, similarity in enumerate((0.85, 0.75)):
        for each in long[EACH * (at + 1) : EACH * (at + 2)]:
            question, answer = each.turns[0].content, each.turns[1].content
            changed = _changed(question, answer, similarity)
            found.add(f"near-duplicate at {similarity}", _turns(question, changed))
    questions = {"truthful_qa": [], "gsm": []}
    for each in known_questions(data / "helm" / "scenarios"):
        if each.evaluation in questions and len(words(each.texts[0])) >= 5:
            questions[each.evaluation].append(each.texts[0])
    for evaluation, texts in questions.items():
        for text in draw.sample(texts, EACH):
            row = next(others)
            before, _, after = row.turns[1].content.partition(". ")
            hidden = f"{before}. {text} {after}"
            found.add(f"{evaluation} in an answer", _turns(row.turns[0].content, hidden))
    for number in range(EACH):
        row = next(others)
        phrase = " ".join(row.turns[1].content.split()[: 1 + 2 * number])
        looping = f"{row.turns[1].content}\n{f'{phrase} ' * max(60, 60 // (number + 1))}"
        found.add("loop", _turns(row.turns[0].content, looping))
    for blank in ("", " ", "\n\n", "\u200b", "\t \u00a0"):
        found.add("empty answer", _turns(next(others).turns[0].content, blank))
    much = "\n\n".join(turn.content for each in lima[-200:] for turn in each.turns[1::2])
    found.add("200,000 characters", _turns("Tell me all of it.", much[:LONG_ROW]))
    return found


def _turns(question: str, answer: str) -> tuple[Turn, ...]:
    return Turn("user", question), Turn("assistant", answer)


def _changed(question: str, answer: str, similarity: float) -> str:
    """The answer with as many words exchanged as leave this share of phrases in common."""
    parts = answer.split(" ")
    phrases = len(words(f"{question}\n{answer}")) - PHRASE_WORDS + 1
    # Each exchanged word changes the five phrases that it stands in: (n - 5k) / (n + 5k).
    exchanged = round(phrases * (1 - similarity) / (1 + similarity) / PHRASE_WORDS)
    for number in range(exchanged):
        parts[(2 * number + 1) * len(parts) // (2 * exchanged)] = "x"
    return " ".join(parts)


def find(planted: Planted, data: Path, threshold: float = 0.8) -> dict[str, str]:
    """What the rules say of each row, by its id; the near-duplicates among the rows left last."""
    examples, said = planted.examples, {}
    cfg = CleanConfig(empty_answers=OnFault.drop)
    seen: set[bytes] = set()
    decontaminator = Decontaminator.of(DecontaminateConfig(), data / "helm" / "scenarios")
    faults, matches = faults_of(examples, cfg), decontaminator.matches(examples)
    for example, fault, match in zip(examples, faults, matches, strict=True):
        key = text_key(example)
        if fault:
            said[example.id] = f"{fault.rule}: {fault.detail}"
        elif key in seen:
            said[example.id] = "duplicates: all of it"
        elif match:
            said[example.id] = f"decontaminate: {match.detail}"
        seen.add(key)
    left = [example for example in examples if example.id not in said]
    texts = [shared_text(example) for example in left]
    lengths = np.array([answer_length(example) for example in left])
    dropped = near_duplicates(
        signatures(texts, threshold), lengths, threshold, lambda row: texts[row]
    )
    for row, (other, similarity) in dropped.items():
        said[left[row].id] = f"near_duplicates: {similarity:.3f} with {left[other].id}"
    return said


BROKEN = {  # what happens to the bytes of a row
    "cut in the middle": lambda row: row[: len(row) // 2],
    "a key twice": lambda row: b'{"source": "a", ' + row[1:],
    "no conversations": lambda row: row.replace(b'"conversations"', b'"talk"'),
    "a number for a text": lambda row: b'{"conversations": [1, "b"], "source": ""}',
    "an empty line": lambda row: b"",
    "a list for an object": lambda row: b"[" + row + b"]",
    "a NUL byte": lambda row: b"\x00" + row,
    "Latin-1": lambda row: '{"conversations": ["é", "à"], "source": ""}'.encode("latin-1"),
    "UTF-16": lambda row: row.decode().encode("utf-16"),
}


def refusals(data: Path) -> dict[str, str]:
    """What is said of a file of clean rows in which one row is broken, by how it is."""
    rows = (data / "train" / "lima.jsonl").read_bytes().splitlines()[: EACH + 1]
    said = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, spoil in BROKEN.items():
            path = Path(folder) / "rows.jsonl"
            path.write_bytes(b"\n".join([*rows[:EACH], spoil(rows[EACH]), *rows]))
            try:
                rows_of("planted", path)
                said[kind] = "nothing"
            except ConfigError as error:
                said[kind] = str(error).replace(f"{folder}/", "")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    planted = plant(data)
    start = time.perf_counter()
    said = find(planted, data)
    seconds = time.perf_counter() - start
    rules = {name: reason.partition(":")[0] for name, reason in said.items()}
    print("| planted | rows | found as |\n|---|---:|---|")
    for kind, rows in Counter(planted.kind.values()).items():
        found = Counter(rules.get(name, "-") for name, each in planted.kind.items() if each == kind)
        print(f"| {kind} | {rows} | {', '.join(f'{n} {rule}' for rule, n in found.items())} |")
    wrong = {name: reason for name, reason in said.items() if name not in planted.kind}
    print(f"\n{len(wrong)} of {CLEAN} right rows taken for wrong: {json.dumps(wrong, indent=2)}")
    print(f"{len(planted.examples)} rows in {seconds:.1f} s\n")
    print(f"| line {EACH + 1} of a file | what is said |\n|---|---|")
    for kind, message in refusals(data).items():
        print(f"| {kind} | {message} |")
    print()
    print("| rule | rows of 1.4 kB a second, one process |\n|---|---:|")
    for rule, rows in speeds(planted.examples[:CLEAN], data).items():
        print(f"| {rule} | {rows:,.0f} |")


def speeds(examples: list[Example], data: Path) -> dict[str, float]:
    """Rows of 1,400 characters a second of processor time."""
    rows = sum(len(turn.content) for each in examples for turn in each.turns) / 1400
    cfg, texts = CleanConfig(), [shared_text(each) for each in examples]
    decontaminator = Decontaminator.of(DecontaminateConfig(), data / "helm" / "scenarios")
    rules: dict[str, Callable[[], object]] = {
        "empty_answers, loops": lambda: faults_of(examples, cfg),
        "duplicates": lambda: [text_key(each) for each in examples],
        "near_duplicates, signatures": lambda: signatures(texts, cfg.near_threshold),
        "decontaminate": lambda: decontaminator.matches(examples),
    }
    found = {}
    for name, rule in rules.items():
        joined_hashes.cache_clear()
        start = time.process_time()
        rule()
        found[name] = rows / (time.process_time() - start)
    return found


if __name__ == "__main__":
    main()
