"""A report of the contest in tables and plain words."""

from collections.abc import Sequence

from effchal.reporting.finals import Finals
from effchal.reporting.standing import Difference, Measured, Missing, Place, Standing

SHOWN = 5  # notes of one kind


def table_of(standing: Standing) -> list[list[str]]:
    """Scenarios with their metrics, then the sides that are complete."""
    rows = [["scenario", "metric", "instances", "this run", "place", "win rate"]]
    for name, measured in standing.scenarios.items():
        for i, (metric, span) in enumerate(measured.metrics.items()):
            score = f"{span.value:.3f} [{span.low:.3f}, {span.high:.3f}]"
            row = [name, metric, str(measured.instances), score, "", ""]
            if i == 0:
                row[4:] = [place_of(measured.place), f"{measured.place.score:.3f}"]
            rows.append(row)
    for name, side in standing.sides.items():
        if isinstance(side, Place):
            rows.append([name, "score", "", f"{side.score:.3f}", place_of(side), ""])
    return rows


def place_of(place: Place) -> str:
    return f"{place.place} of {place.of} [{place.low}, {place.high}]"


def notes_of(standing: Standing) -> list[str]:
    """What a reader of the table has to know of this run."""
    notes = []
    for name, side in standing.sides.items():
        if isinstance(side, Missing):
            what = " side" if name == "final" else ""
            notes.append(f"{name}: not complete: no {', '.join(side.names)}{what}")
        elif side.is_noise:
            notes.append(f"{name}: this place is mostly noise: {_span(side)}")
    notes += [note for name, each in standing.scenarios.items() for note in _notes(name, each)]
    absent: dict[str, list[str]] = {}
    for name, each in standing.scenarios.items():
        absent.setdefault(", ".join(each.not_measured), []).append(name)
    notes += [
        f"{', '.join(names)}: {metrics} not measured, so places go by the other metrics alone, "
        "the finalists' too"
        for metrics, names in absent.items()
        if metrics
    ]
    left_out = standing.scores.left_out
    notes += [f"left out: {each}" for each in left_out[:SHOWN]]
    if len(left_out) > SHOWN:
        notes.append(f"left out: {len(left_out) - SHOWN} more")
    return [f"- {note}" for note in notes]


def _notes(name: str, measured: Measured) -> list[str]:
    notes = []
    if measured.place.is_noise:
        notes.append(
            f"{name}: with {measured.instances} instances this place is mostly noise: "
            f"{_span(measured.place)}"
        )
    if measured.unseen is not None:
        low, high = measured.unseen
        notes.append(
            f"{name}: all {measured.instances} instances score the same, so resampling shows no "
            f"noise, but the true value may be from {low:.2f} to {high:.2f}: do not trust the place"
        )
    if len(measured.entries) > 1:
        notes.append(f"{name}: the mean over {len(measured.entries)} entries of their means")
    return notes


def _span(place: Place) -> str:
    return f"its interval spans {place.high - place.low + 1} of {place.of} places"


def field_notes(finals: Finals) -> list[str]:
    """What the places rest on."""
    varied = [each for each in finals.scenarios if each.instances is not None]
    counts = ", ".join(f"{each.name} {each.instances}" for each in varied)
    fixed = ", ".join(each.name for each in finals.scenarios if each.instances is None)
    return [
        "- A win rate is relative to the field: the finalists beaten (a tie of k counts 1/k), over "
        "all places. Equal entries share the better place. Each run stands alone with the "
        "finalists.",
        "- Intervals are 95 %, by resampling this run's instances. The finalists vary, too, as "
        f"independent binomials where their shares show how many instances there were: {counts}. "
        f"The others stay fixed, so their intervals are too narrow: {fixed}.",
        "- The finalists answered other draws of questions, through HELM of 2023.",
        "- HELM 0.5.16 has no SAMSum and no corr2cause, and ETHICS in another form: its runs lack "
        "the hidden side. An evaluation with scenario=challenge_whole has both.",
        *recomputation_notes(finals),
    ]


def differences_table(differences: Sequence[Difference]) -> list[list[str]]:
    rows = [["run", "scenario", "instances", "difference", "in words"]]
    for each in differences:
        gap = f"{each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"
        rows.append([each.run, each.scenario, str(each.instances), gap, each.verdict])
    return rows


def published_table(finals: Finals) -> list[list[str]]:
    """The mean win rates and scores of the finalists, as recomputed."""
    columns = finals.recomputed()
    rows = [["entry", *columns]]
    for i, entry in enumerate(finals.entries):
        rows.append([entry, *(f"{column[i]:.3f}" for column in columns.values())])
    return rows


def recomputation_notes(finals: Finals) -> list[str]:
    """Which columns of the published table follow from its metrics, and which cannot be checked."""
    published = finals.published()
    differing = [
        name
        for name, column in finals.recomputed().items()
        if any(abs(a - b) > 1e-9 for a, b in zip(column, published[name], strict=True))
    ]
    metrics = sum(len(each.metrics) for each in finals.scenarios)
    equal = len(published) - len(differing)
    return [
        f"- {equal} of {len(published)} columns, recomputed from the published metrics, equal the "
        f"published ones{': not ' + ', '.join(differing) if differing else ''}.",
        f"- The {metrics} metrics themselves cannot be recomputed: the finalists' answers are not "
        "in the source.",
        f"- Source: {finals.source}",
    ]
