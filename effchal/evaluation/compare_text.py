"""A comparison in words and tables: for a terminal, and as Markdown."""

from effchal.evaluation.compare import POWER, Comparison, Difference
from effchal.evaluation.names import short_names
from effchal.evaluation.scored import Scored
from effchal.evaluation.stats import ROUNDING
from effchal.tracking import text_tables
from effchal.tracking.ending import as_typed

MOST_SENTENCES = 12  # on a terminal; Markdown has one for each line of the table


def as_text(result: Comparison) -> str:
    """Who is who, an aligned table, a sentence for each line of it, and what was left out."""
    models = [
        [letter, *who(each), as_typed(each.folder.absolute())]
        for letter, each in result.models.items()
    ]
    blocks = [text_tables.as_text(models), text_tables.as_text(difference_cells(result))]
    if len(result.differences) <= MOST_SENTENCES:
        blocks.append("\n".join(sentences(result)))
    return "\n\n".join([*blocks, *notes(result)])


def as_markdown(result: Comparison) -> str:
    models = [["", "model", "base model", "adapter", "template", "decoding", "evaluation"]]
    models += [
        [letter, *who(each), f"`{as_typed(each.folder.absolute())}`"]
        for letter, each in result.models.items()
    ]
    lines = "\n".join(f"- {line}" for line in sentences(result))
    blocks = [
        "# Comparison",
        text_tables.as_markdown(models),
        text_tables.as_markdown(difference_cells(result)),
        lines,
    ]
    return "\n\n".join([*blocks, *notes(result)])


def who(each: Scored) -> list[str]:
    about = each.about
    return [each.model, about.base, about.adapter, about.template, each.decoding]


def difference_cells(result: Comparison) -> list[list[str]]:
    """Cells of all differences, the head first. Columns that nothing fills are left out."""
    are_two = len(result.models) == 2
    other = "B" if are_two else "other"
    head = ["entry", "metric", "n", "" if are_two else "compared", "A", other, "difference"]
    head += [f"{100 * result.settings.confidence:g} % interval"]
    head += [f"right: both/A/{other}/none", "p", "p corrected"]
    names = short_names(each.entry for each in result.differences)
    rows = []
    for each in result.differences:
        found = each.found
        gap, counts, corrected = found.difference, found.counts, each.p_corrected
        cells = [names[each.entry], found.metric, str(found.instances)]
        cells += ["" if are_two else f"{each.other} - A"]
        cells += [f"{found.first_score:.3f}", f"{found.other_score:.3f}", f"{gap.mean:+.3f}"]
        is_known = found.instances > 1
        cells += [f"[{gap.low:+.3f}, {gap.high:+.3f}]" if is_known else "not known"]
        cells += ["" if counts is None else "/".join(map(str, vars(counts).values()))]
        cells += [p_text(found.p), "" if corrected is None else p_text(corrected)]
        rows.append(cells)
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def sentences(result: Comparison) -> list[str]:
    names = short_names(each.entry for each in result.differences)
    several = len({each.found.metric for each in result.differences}) > 1
    lines = []
    for each in result.differences:
        metric = f", {each.found.metric}" if several else ""
        lines.append(f"{names[each.entry]}{metric}: {sentence(each, result.settings.confidence)}")
    return lines


def sentence(each: Difference, confidence: float) -> str:
    """The difference in plain words, and whether it is shown."""
    found, other, level = each.found, each.other, f"{100 * confidence:g} % interval"
    gap, counts = found.difference, found.counts
    if counts is not None:
        more = counts.only_other - counts.only_first
        side = "more" if more > 0 else "fewer"
        what = f"{other} answers {abs(more)} {side} of {found.instances} questions right than A"
        if more == 0:
            what = f"{other} and A answer equally many of {found.instances} questions right"
        interval = f"{level} {100 * gap.low:+.0f} % to {100 * gap.high:+.0f} % of the questions"
    else:
        side = "higher" if gap.mean > 0 else "lower"
        what = f"{other} scores {abs(gap.mean):.3f} {side} than A on {found.instances} questions"
        if abs(gap.mean) < ROUNDING:
            what = f"{other} and A score the same on {found.instances} questions"
        interval = f"{level} {gap.low:+.3f} to {gap.high:+.3f}"
    if found.instances == 1:
        interval = f"{level} not known from one question"
    return f"{what}; {interval}; {verdict(each, confidence)}."


def verdict(each: Difference, confidence: float) -> str:
    needed = each.needed
    if needed is None:
        return "no difference is shown"
    p = each.found.p if each.p_corrected is None else each.p_corrected
    corrected = "" if each.p_corrected is None else ", corrected"
    chance = f"such a difference arises by chance in {how_often(p)}{corrected}"
    if each.is_shown(confidence):
        return f"{chance}: shown"
    many = "More than a million" if needed > 1e6 else f"About {rounded_up(needed):,}"
    return (
        f"{chance}: not shown. {many} questions would show a "
        f"difference of this size in {100 * POWER:.0f} of 100 cases (an estimate)"
    )


def how_often(p: float) -> str:
    if p > 0.3:
        return f"{round(100 * p)} of 100 cases"
    return f"1 of {round(1 / p):,} cases" if p > 1e-4 else "less than 1 of 10,000 cases"


def rounded_up(count: int) -> int:
    """Two leading digits: the estimate is no better."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def seed_notes(result: Comparison) -> list[str]:
    found = []
    for letter, model in result.models.items():
        names = short_names(model.seeds)
        for entry, each in model.seeds.items():
            means = ", ".join(f"{mean:.3f} (seed {seed})" for seed, mean in each.by_seed.items())
            found.append(
                f"{letter} is a mean over {len(each.by_seed)} seeds. {names[entry]}: {means}; "
                f"standard deviation {each.deviation:.3f}."
            )
    return found


def notes(result: Comparison) -> list[str]:
    """What the table leaves out, and how to read its corrected column."""
    names = short_names(result.data())
    data = [f"{names[k]}: {v.instances} questions, {v.digest}" for k, v in result.data().items()]
    found = [f"Data of A, with the digest of ids and prompts: {'; '.join(data)}."]
    found += seed_notes(result)
    unpaired = {each.entry: each.unpaired for each in result.differences if each.unpaired}
    if unpaired:
        shown = ", ".join(f"{entry} {count}" for entry, count in unpaired.items())
        found.append(f"Left out, for only one of the two answered them: {shown}.")
    if result.refused:
        found.append("Not compared: " + "; ".join(result.refused) + ".")
    if any(each.p_corrected is not None for each in result.differences):
        found.append(
            "Corrected: for the number of comparisons of a metric (Holm), without the lines of "
            "entries together. The corrected p decides what is shown."
        )
    return found
