"""Which rows of all sources a run uses: without duplicates and evaluation questions, and split."""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effchal.config import DataMixConfig
from effchal.config.choices import OnFault
from effchal.mixing.decontaminate import Decontaminator
from effchal.mixing.encode import turns_of
from effchal.mixing.near_duplicates import answer_length, near_duplicates, shared_text, signatures
from effchal.mixing.parallel import Work, run_batches
from effchal.mixing.read import Dropped, StoredSource, read_source
from effchal.mixing.sources import DataError, Example
from effchal.mixing.store import cached, key_of

log = logging.getLogger(__name__)
Ints = npt.NDArray[Any]
BATCH = 512  # rows
LARGE = 20_000  # rows from which processes pay


@dataclass
class SelectedSource:
    """The rows of a source that are used."""

    source: StoredSource
    kept: Ints  # (n,) indices into the source, rising
    is_validation: Ints  # (n,) bool
    dropped: dict[str, Dropped]  # by rule, those of the source included


@dataclass
class Selection:
    sources: list[SelectedSource]
    decontaminated: dict[str, Any] = field(default_factory=dict)  # what was checked, what not


@dataclass
class Kept:
    """A row that a rule across rows asks about."""

    source: int
    index: int


def select(cfg: DataMixConfig, scenarios: Path | None = None) -> Selection:
    """Read every source and choose its rows. Neither torch nor a tokenizer is needed.

    Args:
        scenarios: where files of evaluations lie; None is this user's cache.

    Raises:
        DataError: no source, one that cannot be used, or no row left to train on.
    """
    if not cfg.sources:
        raise DataError("data_mix.sources is empty; choose a data_mix, e.g. data_mix=quickstart")
    stored = [read_source(name, source, cfg.clean) for name, source in cfg.sources.items()]
    kept = [np.ones(len(source), bool) for source in stored]
    dropped: list[dict[str, Dropped]] = [
        {rule: Dropped(**one) for rule, one in source.meta["dropped"].items()} for source in stored
    ]

    def apply(rule: str, action: OnFault, found: dict[tuple[int, int], str]) -> None:
        for (number, index), detail in found.items():
            example = stored[number].example(index)
            if action is OnFault.refuse:
                raise DataError(f"{example.id}: {detail}; data_mix: {rule}=drop leaves it out")
            dropped[number].setdefault(rule, Dropped()).add(example, detail)
            kept[number][index] = action is OnFault.report

    if cfg.clean.duplicates is not OnFault.keep:
        apply("duplicates", cfg.clean.duplicates, _duplicates(stored))
    for source, mask in zip(stored, kept, strict=True):
        _sample(source, mask, cfg.seed)
    if cfg.clean.near_duplicates is not OnFault.keep:
        found = _near_duplicates(stored, kept, cfg.clean.near_threshold)
        apply("near_duplicates", cfg.clean.near_duplicates, found)
    checked: dict[str, Any] = {}
    if cfg.decontaminate.action is not OnFault.keep:
        decontaminator = Decontaminator.of(cfg.decontaminate, scenarios)
        checked = {"checked": decontaminator.checked, "not_checked": decontaminator.not_checked}
        found = _contaminated(stored, kept, decontaminator)
        apply("decontaminate", cfg.decontaminate.action, found)
    return Selection(_split(cfg, stored, kept, dropped), checked)


def _duplicates(stored: list[StoredSource]) -> dict[tuple[int, int], str]:
    """Every row but the first with the same turns, over all sources."""
    keys = np.concatenate([source.text_keys for source in stored])
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    starts = np.cumsum([0, *(len(source) for source in stored)])

    def place(i: int) -> tuple[int, int]:
        number = int(np.searchsorted(starts, i, "right")) - 1
        return number, int(i - starts[number])

    found = {}
    for i in np.flatnonzero(first[group] != np.arange(len(keys))):
        number, index = place(int(first[group[i]]))
        found[place(int(i))] = f"the same as {stored[number].id_of(index)}"
    return found


def _sample(source: StoredSource, mask: Ints, seed: int) -> None:
    """Leave max_rows rows, by seed and content: the same ones in any order of the file."""
    limit, left = source.cfg.max_rows, np.flatnonzero(mask)
    if limit is None or len(left) <= limit:
        return
    keys = source.text_keys[left].tolist()
    ranks = [hashlib.sha256(f"{seed}:".encode() + key).digest() for key in keys]
    chosen = sorted(range(len(left)), key=lambda i: ranks[i])[:limit]
    mask[:] = False
    mask[left[chosen]] = True


def _near_duplicates(
    stored: list[StoredSource], kept: list[Ints], threshold: float
) -> dict[tuple[int, int], str]:
    places = _places(kept)

    def build(_: Path) -> dict[str, Any]:
        parts = list(_over_rows(SignatureJob(), stored, kept))
        signed = np.concatenate([part[0] for part in parts])
        lengths = np.concatenate([part[1] for part in parts])

        def text_at(i: int) -> str:
            number, index = places[i]
            return shared_text(stored[number].example(index))

        found = near_duplicates(signed, lengths, threshold, text_at)
        return {"found": [[i, j, alike] for i, (j, alike) in found.items()]}

    key = key_of("near", [source.key for source in stored], _digest(kept), threshold)
    found = cached("near", key, build)[1]["found"]
    return {
        places[i]: f"{alike:.2f} alike to {stored[places[j][0]].id_of(places[j][1])}"
        for i, j, alike in found
    }


def _contaminated(
    stored: list[StoredSource], kept: list[Ints], decontaminator: Decontaminator
) -> dict[tuple[int, int], str]:
    places = _places(kept)

    def build(_: Path) -> dict[str, Any]:
        found = _over_rows(MatchJob(decontaminator), stored, kept)
        details = enumerate(itertools.chain.from_iterable(found))
        return {"found": [[i, detail] for i, detail in details if detail]}

    asked = [source.key for source in stored], _digest(kept), decontaminator.sha256
    found = cached("matches", key_of("matches", *asked), build)[1]["found"]
    return {places[i]: detail for i, detail in found}


def _places(kept: list[Ints]) -> list[tuple[int, int]]:
    return [(n, int(i)) for n, mask in enumerate(kept) for i in np.flatnonzero(mask)]


def _digest(kept: list[Ints]) -> str:
    return hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in kept)).hexdigest()


def _over_rows(job: Any, stored: list[StoredSource], kept: list[Ints]) -> Iterator[Any]:
    """The results of a job over all kept rows, batch by batch."""
    batches = (
        batch
        for source, mask in zip(stored, kept, strict=True)
        for batch in batched(source.stored(np.flatnonzero(mask).tolist()), BATCH)
    )
    return run_batches(job, batches, sum(int(mask.sum()) for mask in kept) >= LARGE)


def batched(values: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(values, size)):
        yield batch


@dataclass(frozen=True)
class SignatureJob:
    """MinHash signatures and lengths of answers."""

    def start(self) -> Work:
        def work(batch: Sequence[bytes]) -> tuple[Ints, Ints]:
            examples = [Example("", turns_of(stored)) for stored in batch]
            lengths = np.array([answer_length(example) for example in examples])
            return signatures([shared_text(example) for example in examples]), lengths

        return work


@dataclass(frozen=True)
class MatchJob:
    """What each row has of an evaluation, None where it has nothing."""

    decontaminator: Decontaminator

    def start(self) -> Work:
        def work(batch: Sequence[bytes]) -> list[str | None]:
            matches = [self.decontaminator.match(Example("", turns_of(row))) for row in batch]
            return [match and match.detail for match in matches]

        return work


def _split(
    cfg: DataMixConfig,
    stored: list[StoredSource],
    kept: list[Ints],
    dropped: list[dict[str, Dropped]],
) -> list[SelectedSource]:
    """Choose validation rows from each source by their first prompts.

    By prompt and over all sources at once: the same prompt may stand in two of them.
    """
    indices = [np.flatnonzero(mask) for mask in kept]
    prompts = [source.prompt_keys[i] for source, i in zip(stored, indices, strict=True)]
    chosen = np.unique(np.concatenate([_validation_keys(keys, cfg) for keys in prompts]))
    selected = []
    for source, rows, keys, one in zip(stored, indices, prompts, dropped, strict=True):
        selected.append(SelectedSource(source, rows, np.isin(keys, chosen), one))
    if all(each.is_validation.all() for each in selected):
        raise DataError(
            "the data mix has no training example left; lower data_mix.validation_fraction"
        )
    return selected


def _validation_keys(keys: Ints, cfg: DataMixConfig) -> Ints:
    """The prompts with the smallest seeded digests: stable when rows are added or reordered."""
    if not cfg.validation_fraction:
        return keys[:0]
    unique = np.unique(keys)
    count = max(1, round(cfg.validation_fraction * len(unique))) if len(unique) else 0
    ranks = [hashlib.sha256(f"{cfg.seed}:{k.hex()}".encode()).digest() for k in unique.tolist()]
    return unique[sorted(range(len(unique)), key=lambda i: ranks[i])[:count]]


def fingerprint(selection: Selection) -> str:
    """Of all chosen rows, their order and their use."""
    parts = [
        [each.source.key, _digest([each.is_validation]), hashlib.sha256(each.kept).hexdigest()]
        for each in selection.sources
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
