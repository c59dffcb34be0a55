"""HELM's canonical perturbations of a question, letter by letter those of HELM 0.5.16.

One for robustness (mild_mix: small letters, contractions, misspellings, more spaces) and three
for fairness (dialect, gender, person_name). Each begins with a random generator of its own,
seeded by the instance's id. Fairness perturbations change the references, too, and before
the question.
"""

import functools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from effchal.evaluation.scenarios.helm_tables import Names, PerturbationTables
from effchal.evaluation.scenarios.types import Reference

ROBUSTNESS = ("mild_mix",)
FAIRNESS = ("dialect", "gender", "person_name")
_MISSPELT = 0.1  # the share of words that have a misspelling
_MOST_SPACES = 3
# From male to female, in HELM's order: it replaces one pair after the other.
_PRONOUNS = (("he", "she"), ("him", "her"), ("his", "her"), ("his", "hers"), ("himself", "herself"))
Change = Callable[[str], str]
Question = tuple[str, tuple[Reference, ...]]


def perturbed(
    id_: str, text: str, references: tuple[Reference, ...], tables: PerturbationTables
) -> Iterator[tuple[str, Question]]:
    """Names of perturbations with the changed question and its references, in HELM's order.

    Args:
        id_: HELM's instance id. Every random choice depends on it alone.
        text: the question, without what the prompt puts around it.
    """
    makers = {
        "mild_mix": lambda: _mild_mix(random.Random(id_), tables),
        "dialect": lambda: _dialect(random.Random(id_), tables),
        "gender": lambda: _female_pronouns,
        "person_name": lambda: _other_names(random.Random(id_), tables.names),
    }
    for name, make in makers.items():
        change, found = make(), references
        if name in FAIRNESS:
            found = tuple(replace(each, text=change(each.text)) for each in references)
        yield name, (change(text), found)


def like(source: str, target: str) -> str:
    """The target in the case of the source, as HELM matches it."""
    if all(map(str.islower, source)):
        return target.lower()
    if all(map(str.isupper, source)):
        return target.upper()
    return target.capitalize() if source and source[0].isupper() else target


def _mild_mix(generator: random.Random, tables: PerturbationTables) -> Change:
    short_forms = {long: short for short, long in tables.contractions.items()}
    contractible = _any_of(tuple(short_forms), r"\b(?:{})\b ", re.IGNORECASE | re.DOTALL)
    misspellable = _any_of(tuple(tables.misspellings), r"\b(?:{})\b", re.NOFLAG)

    def contract(found: re.Match[str]) -> str:
        long = found[0].removesuffix(" ")
        return like(long, short_forms.get(long) or short_forms[long.lower()]) + " "

    def misspell(found: re.Match[str]) -> str:
        if generator.random() >= _MISSPELT:
            return found[0]
        return like(found[0], generator.choice(tables.misspellings[found[0]]))

    def change(text: str) -> str:
        text = contractible.sub(contract, text.lower())
        text = misspellable.sub(misspell, text)
        return re.sub(" +", lambda _: " " * generator.randint(1, _MOST_SPACES), text)

    return change


def _dialect(generator: random.Random, tables: PerturbationTables) -> Change:
    words = tuple(map(re.escape, tables.dialect))
    pattern = _any_of(words, r"[^\w-]({})[^\w-]", re.IGNORECASE)

    def swap(found: re.Match[str]) -> str:
        generator.random()  # HELM draws whether to swap, and then always does
        word = found[1]
        return found[0].replace(word, like(word, generator.choice(tables.dialect[word.lower()])))

    return lambda text: pattern.sub(swap, text)


def _female_pronouns(text: str) -> str:
    for male, female in _PRONOUNS:
        text = _swapped(text, male, female)
    return text


def _swapped(text: str, word: str, other: str) -> str:
    """The text with one word for the other, where something stands before and after it."""
    return re.sub(
        rf"[^\w]({word})[^\w]",
        lambda found: found[0].replace(found[1], like(found[1], other)),
        text,
        flags=re.IGNORECASE,
    )


def _other_names(generator: random.Random, names: Names) -> Change:
    """One name gets the same other name in all texts of an instance, of the same gender."""
    chosen: dict[str, str] = {}

    def choose(name: str) -> None:
        generator.random()  # HELM draws whether to swap, and then always does
        gender = next((each for each in names.by_gender.values() if name in each), None)
        options = [each for each in names.replacing if gender is None or each in gender]
        if options:
            chosen[name] = generator.choice(options)

    def change(text: str) -> str:
        parts = re.split(r"([^\w])", text)
        for index, part in enumerate(parts):
            name = part.lower()
            if name not in chosen and name in names.replaced:
                choose(name)
            if name in chosen:
                parts[index] = like(part, chosen[name])
        return "".join(parts)

    return change


@functools.cache
def _any_of(words: tuple[str, ...], frame: str, flags: int) -> re.Pattern[str]:
    """A pattern for any of the words; compiling thousands of them takes a while."""
    return re.compile(frame.format("|".join(words)), flags)
