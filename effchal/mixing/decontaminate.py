"""Rows that hold questions of an evaluation: the same words in the same order.

Of a text of at least `words` (13) words, each 13 in a row are looked for. A shorter question
matches as a whole: anywhere if it has `short_words` (8), and as a sentence of its own if it has
five. What stands in more than a tenth of an evaluation's questions is its form and no match.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effchal.config import DecontaminateConfig
from effchal.mixing.clean import characters_of
from effchal.mixing.example import Example
from effchal.mixing.questions import Question, known_questions, missing_questions, questions_of
from effchal.mixing.words import joined_hashes, parts, phrase_hashes, word_hashes, words
from effchal.runs import cache_folder

SENTENCE_WORDS = 5  # of the shortest question that is looked for
FORM, FORM_QUESTIONS = 0.1, 10  # a phrase of more than this share and number of questions
SHOWN_WORDS = 40
QUESTIONS = 200  # hashed at a time
_NONE = (np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Match:
    evaluation: str  # an entry of scenario.entries, or a file of the user's
    instance: str  # where the question stands: "<file>, line 12"
    text: str  # the words that both have, normalised
    turn: int  # of the example, from 0

    @property
    def detail(self) -> str:
        """For people: what was found, and where."""
        return f"turn {self.turn + 1} has {self.text!r} of {self.evaluation} ({self.instance})"


class PhraseTable:
    """Where phrases stand, by their hashes; a lookup of many costs little if none is there."""

    def __init__(self, hashes: np.ndarray, texts: np.ndarray, positions: np.ndarray) -> None:
        """All (phrases,): uint64, index of the text, position of the phrase in words."""
        order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[order]
        self.texts, self.positions = (each[order].astype(np.int32) for each in (texts, positions))
        bits = max(16, (16 * len(hashes)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._may_have = np.zeros(2**bits, np.bool_)
        self._may_have[hashes >> self._shift] = True

    def likely(self, phrases: np.ndarray) -> np.ndarray:
        """Positions in `phrases` of those that the table holds."""
        likely = np.flatnonzero(self._may_have[phrases >> self._shift])
        wanted = phrases[likely]
        nearest = np.minimum(np.searchsorted(self.hashes, wanted), max(0, len(self.hashes) - 1))
        return likely[self.hashes[nearest] == wanted] if len(self.hashes) else likely[:0]

    def find(self, phrases: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Position in `phrases`, text and position there, of each phrase that the table holds."""
        for at in self.likely(phrases).tolist():
            first = int(np.searchsorted(self.hashes, phrases[at]))
            for entry in range(first, int(np.searchsorted(self.hashes, phrases[at], "right"))):
                yield at, int(self.texts[entry]), int(self.positions[entry])


class Decontaminator:
    """The words of evaluations, and which rows have them. It can be pickled."""

    def __init__(self, questions: Iterable[Question], cfg: DecontaminateConfig) -> None:
        self.cfg = cfg
        self.checked: Counter[str] = Counter()  # questions by evaluation
        self.not_checked: dict[str, str] = {}  # why, by evaluation
        self._texts: list[tuple[str, str, str]] = []  # evaluation, place, text
        digest = hashlib.sha256(repr((cfg.words, cfg.short_words)).encode())
        short: dict[int, np.ndarray] = {}  # hashes of the words, by index of the text
        found = []
        left = iter(questions)
        while some := list(itertools.islice(left, QUESTIONS)):
            digest.update(repr(some).encode())
            self.checked.update(each.evaluation for each in some)
            first = len(self._texts)
            self._texts += [
                (q.evaluation, q.place, text) for q in some for text in q.texts + q.answers
            ]
            hashes, begins = joined_hashes(tuple(text for _, _, text in self._texts[first:]))
            found.append(_phrases(hashes, begins, cfg.words, first))
            asks = [i < len(q.texts) for q in some for i in range(len(q.texts + q.answers))]
            for index, size in enumerate(np.diff(begins).tolist()):
                if asks[index] and SENTENCE_WORDS <= size < cfg.words:
                    short[first + index] = hashes[begins[index] : begins[index + 1]].copy()
        self.sha256 = digest.hexdigest()  # of all questions and of the rule
        phrases, texts, positions = map(np.concatenate, zip(_NONE, *found, strict=True))
        kept = self._is_no_form(phrases, texts)
        self._phrases = PhraseTable(phrases[kept], texts[kept], positions[kept])
        wholes = np.array([hash(each.tobytes()) for each in short.values()], np.int64)
        kept = self._is_no_form(wholes.view(np.uint64), np.array([*short], np.int64))
        self._short = dict(itertools.compress(short.items(), kept))
        self._anchors = _rarest(self._short)

    @classmethod
    def of(cls, cfg: DecontaminateConfig, scenarios: Path | None = None) -> "Decontaminator":
        """Read the evaluations that this machine has, and the files of the config.

        Args:
            scenarios: scenario.path, a folder in HELM's layout; None is this user's cache.

        Raises:
            DataError: a file that cannot be read.
        """
        folder = scenarios or cache_folder() / "scenarios"
        questions = [*known_questions(folder)]
        for file in cfg.files:
            questions += questions_of(Path(file))
        found = cls(questions, cfg)
        found.not_checked = missing_questions(folder)
        return found

    def matches(self, examples: list[Example]) -> list[Match | None]:
        """`match` of each row, several times as fast."""
        found: list[Match | None] = []
        for part in parts(map(characters_of, examples)):
            some = examples[part]
            turns = [(row, turn.content) for row, each in enumerate(some) for turn in each.turns]
            hashes, begins = joined_hashes(tuple(content for _, content in turns))
            likely = set()
            for table, length in ((self._phrases, self.cfg.words), (self._anchors, SENTENCE_WORDS)):
                hits = table.likely(phrase_hashes(hashes, length))
                likely |= {turns[at][0] for at in np.searchsorted(begins, hits, "right") - 1}
            found += [self.match(e) if row in likely else None for row, e in enumerate(some)]
        return found

    def match(self, example: Example) -> Match | None:
        """The first words of an evaluation in a row."""
        for number, turn in enumerate(example.turns):
            hashes = word_hashes(turn.content)
            found = self._phrase(turn.content, hashes) or self._whole(turn.content, hashes)
            if found:
                index, text = found
                return Match(*self._texts[index][:2], text, number)
        return None

    def _phrase(self, content: str, hashes: np.ndarray) -> tuple[int, str] | None:
        """The text of which so many words stand in the content, and all words that do."""
        phrases = phrase_hashes(hashes, self.cfg.words)
        for at, index, position in self._phrases.find(phrases):
            ours, theirs = words(content)[at:], words(self._texts[index][2])[position:]
            pairs = zip(ours, theirs, strict=False)
            common = [a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
            if len(common) >= self.cfg.words:  # else two hashes are equal by chance
                return index, " ".join(common[:SHOWN_WORDS])
        return None

    def _whole(self, content: str, hashes: np.ndarray) -> tuple[int, str] | None:
        """The short text that stands in the content, and its words."""
        for at, index, position in self._anchors.find(phrase_hashes(hashes, SENTENCE_WORDS)):
            wanted, start = self._short[index], at - position
            if start < 0 or not np.array_equal(hashes[start : start + len(wanted)], wanted):
                continue
            if len(wanted) >= self.cfg.short_words or _is_sentence(self._texts[index][2], content):
                return index, " ".join(words(self._texts[index][2]))
        return None

    def _is_no_form(self, hashes: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Of each phrase of a text, whether few enough questions of its evaluation have it."""
        names = {name: number for number, name in enumerate(self.checked)}
        evaluations = np.array([names[name] for name, _, _ in self._texts], np.uint64)[texts]
        most = np.array([max(FORM_QUESTIONS, FORM * n) for n in self.checked.values()])
        keys = hashes ^ (evaluations << np.uint64(40))
        _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
        return counts[which] <= most[evaluations] if len(keys) else np.zeros(0, np.bool_)


def _phrases(
    hashes: np.ndarray, begins: np.ndarray, length: int, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of joined texts, the first of them of index `first`: each phrase, its text and position."""
    phrases = phrase_hashes(hashes, length)
    at = np.arange(len(phrases))
    texts = np.searchsorted(begins, at, "right") - 1
    inside = at + length <= begins[texts + 1]
    return phrases[inside], texts[inside] + first, (at - begins[texts])[inside]


def _rarest(texts: dict[int, np.ndarray]) -> PhraseTable:
    """Of each text, the phrase of SENTENCE_WORDS words that the fewest of them have."""
    phrases = {index: phrase_hashes(each, SENTENCE_WORDS) for index, each in texts.items()}
    counts = Counter(phrase for each in phrases.values() for phrase in each.tolist())
    positions = [min(range(len(p)), key=lambda i: counts[p.item(i)]) for p in phrases.values()]
    hashes = [each[at] for each, at in zip(phrases.values(), positions, strict=True)]
    return PhraseTable(np.array(hashes, np.uint64), np.array([*phrases]), np.array(positions))


def _is_sentence(text: str, content: str) -> bool:
    """Whether the words of a text stand between signs or line ends, not inside of a sentence."""
    inside = r"[\W_]+".join(map(re.escape, words(text)))
    sign = r"[^\w\s,'\u2019-]"
    sentence = rf"(?:^|{sign})[\s_]*{inside}[\s_]*(?:{sign}|$)"
    return re.search(sentence, content, re.IGNORECASE | re.MULTILINE) is not None
