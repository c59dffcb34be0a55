"""Which rows of all sources a run uses: without duplicates and evaluation questions, and split."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effchal.config import CleanConfig, DataMixConfig
from effchal.config.choices import DataEngine, OnFault
from effchal.mixing.decontaminate import Decontaminator
from effchal.mixing.dropped import Dropped
from effchal.mixing.encode import turns_of
from effchal.mixing.example import Example
from effchal.mixing.near_duplicates import answer_length, near_duplicates, shared_text, signatures
from effchal.mixing.parallel import Work, run_counted
from effchal.mixing.read import read_source
from effchal.mixing.readers import DataError
from effchal.mixing.store import cached, key_of
from effchal.mixing.stored_source import StoredSource
from effchal.tracking.terminal import progress

Ints = npt.NDArray[Any]
Place = tuple[int, int]  # a source and an index into it
BATCH = 512  # rows
LARGE = 20_000  # rows from which processes pay
NEAR, QUESTIONS = "signing rows for near-duplicates", "looking for evaluation questions"


@dataclass
class SelectedSource:
    """The rows of a source that are used."""

    source: StoredSource
    kept: Ints  # (rows,) bool
    dropped: dict[str, Dropped]  # by rule
    reported: dict[str, Dropped]  # by rule; these rows are used
    is_validation: Ints  # (rows,) bool

    @classmethod
    def of(cls, source: StoredSource, clean: CleanConfig) -> "SelectedSource":
        """All rows, for training."""
        dropped: dict[str, Dropped] = {}
        reported: dict[str, Dropped] = {}
        for rule, saved in source.meta["dropped"].items():
            counts = reported if getattr(clean, rule) is OnFault.report else dropped
            counts[rule] = Dropped.of(saved, source.name)
        count = len(source)
        return cls(source, np.ones(count, bool), dropped, reported, np.zeros(count, bool))

    @property
    def indices(self) -> Ints:
        """Of the rows that are used, rising."""
        return np.flatnonzero(self.kept)


@dataclass
class Selection:
    sources: list[SelectedSource]
    checked: dict[str, int] = field(default_factory=dict)  # questions, by evaluation
    not_checked: dict[str, str] = field(default_factory=dict)  # why, by evaluation


def select(cfg: DataMixConfig, scenarios: Path | None = None) -> Selection:
    """Read every source and choose its rows. Neither torch nor a tokenizer is needed.

    Args:
        scenarios: where files of evaluations lie; None is this user's cache.

    Raises:
        DataError: no source, one that cannot be used, or no row left to train on.
    """
    if not cfg.sources:
        raise DataError("data_mix.sources is empty; choose a data_mix, e.g. data_mix=quickstart")
    engine = cfg.engine
    stored = [read_source(name, each, cfg.clean, engine) for name, each in cfg.sources.items()]
    chosen = [SelectedSource.of(source, cfg.clean) for source in stored]
    clean, kept = cfg.clean, [each.kept for each in chosen]
    if clean.duplicates is not OnFault.keep:
        _apply("duplicates", clean.duplicates, _duplicates(stored), chosen)
    for each in chosen:
        _sample(each.source, each.kept, cfg.seed)
    if clean.near_duplicates is not OnFault.keep:
        found = _near_duplicates(stored, kept, clean.near_threshold, engine)
        _apply("near_duplicates", clean.near_duplicates, found, chosen)
    selection = Selection(chosen)
    if cfg.decontaminate.action is not OnFault.keep:
        decontaminator = Decontaminator.of(cfg.decontaminate, scenarios)
        selection.checked = dict(decontaminator.checked)
        selection.not_checked = decontaminator.not_checked
        asked = bool(decontaminator.checked)
        found = _contaminated(stored, kept, decontaminator, engine) if asked else {}
        _apply("decontaminate", cfg.decontaminate.action, found, chosen)
    _split(cfg, chosen)
    return selection


def _apply(
    rule: str, action: OnFault, found: dict[Place, str], chosen: list[SelectedSource]
) -> None:
    """Drop the rows that a rule across rows found, report them, or refuse the first."""
    for (number, index), detail in found.items():
        each = chosen[number]
        if action is OnFault.refuse:
            key = "decontaminate.action" if rule == "decontaminate" else f"clean.{rule}"
            name = each.source.id_of(index)
            raise DataError(f"{name}: {detail}; data_mix.{key}=drop leaves it out")
        counts = each.reported if action is OnFault.report else each.dropped
        counts.setdefault(rule, Dropped()).add(partial(each.source.example, index), detail)
        each.kept[index] = action is OnFault.report


def _duplicates(stored: list[StoredSource]) -> dict[Place, str]:
    """Every row but the first with the same turns, over all sources."""
    keys = np.concatenate([source.text_keys for source in stored])
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    places, found = Places([np.ones(len(source), bool) for source in stored]), {}
    for i in np.flatnonzero(first[group] != np.arange(len(keys))):
        number, index = places[int(first[group[i]])]
        found[places[int(i)]] = f"the same as {stored[number].id_of(index)}"
    return found


def _sample(source: StoredSource, mask: Ints, seed: int) -> None:
    """Leave max_rows rows, by seed and content: the same ones in any order of the file."""
    limit, left = source.cfg.max_rows, np.flatnonzero(mask)
    if limit is None or len(left) <= limit:
        return
    seeded = (f"{seed}:".encode() + key for key in source.text_keys[left].tolist())
    mask[:] = False
    mask[left[_drawn(seeded, limit)]] = True


def _drawn(seeded: Iterable[bytes], count: int) -> Ints:
    """(count,) indices of those with the smallest digests."""
    ranks = b"".join(hashlib.sha256(each).digest()[:8] for each in seeded)
    return np.frombuffer(ranks, ">u8").argsort(kind="stable")[:count]


def _near_duplicates(
    stored: list[StoredSource], kept: list[Ints], threshold: float, engine: DataEngine
) -> dict[Place, str]:
    places = Places(kept)

    def build(_: Path) -> dict[str, Any]:
        parts = list(_over_rows(NEAR, partial(sign_rows, threshold), stored, kept, engine))
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
    stored: list[StoredSource], kept: list[Ints], decontaminator: Decontaminator, engine: DataEngine
) -> dict[Place, str]:
    places = Places(kept)

    def build(_: Path) -> dict[str, Any]:
        work = partial(match_rows, decontaminator)
        found = _over_rows(QUESTIONS, work, stored, kept, engine)
        details = enumerate(itertools.chain.from_iterable(found))
        return {"found": [[i, detail] for i, detail in details if detail]}

    asked = [source.key for source in stored], _digest(kept), decontaminator.sha256
    found = cached("matches", key_of("matches", *asked), build)[1]["found"]
    return {places[i]: detail for i, detail in found}


class Places:
    """Where each kept row stands, by its number among all of them."""

    def __init__(self, kept: list[Ints]) -> None:
        self._indices = [np.flatnonzero(mask) for mask in kept]
        self._starts = np.cumsum([0, *map(len, self._indices)])

    def __getitem__(self, number: int) -> Place:
        source = int(np.searchsorted(self._starts, number, "right")) - 1
        return source, int(self._indices[source][number - self._starts[source]])


def _digest(kept: list[Ints]) -> str:
    return hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in kept)).hexdigest()


def _over_rows(
    what: str, work: Work, stored: list[StoredSource], kept: list[Ints], engine: DataEngine
) -> Iterator[Any]:
    """The results of a work over all kept rows, batch by batch. `what` tells a person of it."""
    batches = (
        batch
        for source, mask in zip(stored, kept, strict=True)
        for batch in source.batches(np.flatnonzero(mask), BATCH)
    )
    total = sum(int(mask.sum()) for mask in kept)
    with progress(what, total, "rows") as advance:
        yield from run_counted(work, batches, engine if total >= LARGE else None, advance)


def sign_rows(threshold: float, batch: Iterable[bytes]) -> tuple[Ints, Ints]:
    """MinHash signatures and lengths of answers."""
    examples = [Example("", turns_of(stored)) for stored in batch]
    lengths = np.array([answer_length(example) for example in examples])
    return signatures([shared_text(example) for example in examples], threshold), lengths


def match_rows(decontaminator: Decontaminator, batch: Iterable[bytes]) -> list[str | None]:
    """What each row has of an evaluation, None where it has nothing."""
    matches = decontaminator.matches([Example("", turns_of(row)) for row in batch])
    return [match.detail if match else None for match in matches]


def _split(cfg: DataMixConfig, chosen: list[SelectedSource]) -> None:
    """Choose validation rows from each source by their first prompts.

    By prompt and over all sources at once: the same prompt may stand in two of them.
    """
    prompts = [each.source.prompt_keys[each.indices] for each in chosen]
    keys = np.unique(np.concatenate([_validation_keys(each, cfg) for each in prompts]))
    for each in chosen:
        each.is_validation = each.kept & np.isin(each.source.prompt_keys, keys)
    if not any((each.kept & ~each.is_validation).any() for each in chosen):
        raise DataError(
            "the data mix has no training example left; lower data_mix.validation_fraction"
        )


def _validation_keys(keys: Ints, cfg: DataMixConfig) -> Ints:
    """The prompts with the smallest seeded digests: stable when rows are added or reordered."""
    if not cfg.validation_fraction:
        return keys[:0]
    unique = np.unique(keys)
    count = max(1, round(cfg.validation_fraction * len(unique)))
    count = max(0, min(count, cfg.validation_max, len(unique) - 1))  # something is left to learn
    seeded = (f"{cfg.seed}:{key.hex()}".encode() for key in unique.tolist())
    return unique[_drawn(seeded, count)]
