"""Whether two solutions of a problem of MATH end in the same answer, as HELM 0.5.16 decides it."""

import re


class _OutOfForm(Exception):
    """Text that HELM's normalisation fails on. It then compares the texts as they are."""


def math_equiv_chain_of_thought(gold: str, prediction: str) -> float:
    """Compares what the last \\boxed of each holds; two solutions without one are equal."""
    ours, theirs = _boxed(gold), _boxed(prediction)
    if ours is None or theirs is None:
        return float(ours is theirs)
    try:
        return float(_normal(ours) == _normal(theirs))
    except _OutOfForm:
        return float(ours == theirs)


def _boxed(solution: str) -> str | None:
    """The content of the last \\boxed{...}; None without one, or for \\fbox alone."""
    start = solution.rfind("\\boxed")
    if start < 0:
        start = solution.rfind("\\fbox")
    if start < 0:
        return None
    depth = 0
    for index in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[index], 0)
        if solution[index] == "}" and depth == 0:
            box = solution[start : index + 1]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else None
    return None


def _normal(text: str) -> str:
    for old, new in (
        *(("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac")),
        *(("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", "")),
    ):
        text = text.replace(old, new)
    text = _without_unit(text)
    for old, new in (("\\%", ""), (" .", " 0."), ("{.", "{0.")):
        text = text.replace(old, new)
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    name, *values = text.split("=")
    if len(values) == 1 and len(name) <= 2:  # "x = 5"
        text = values[0]
    text = _fractions(_roots(text).replace(" ", ""))
    return _slash("\\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    value, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise _OutOfForm
    return value


def _roots(text: str) -> str:
    """\\sqrt3 becomes \\sqrt{3}."""
    first, *others = text.split("\\sqrt")
    for part in others:
        if not part:
            raise _OutOfForm
        first += "\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}")
    return first


def _fractions(text: str) -> str:
    """\\frac12 and \\frac1{2} become \\frac{1}{2}; one of a single character changes nothing."""
    first, *others = text.split("\\frac")
    for part in others:
        if not part:
            raise _OutOfForm
        if part[0] == "{":
            first += "\\frac" + part
        elif len(part) < 2:
            return text
        else:
            below = part[1] if part[1] == "{" else f"{{{part[1]}}}"
            first += f"\\frac{{{part[0]}}}{below}{part[2:]}"
    return first


def _slash(text: str) -> str:
    """1/2 becomes \\frac{1}{2}, for whole numbers as Python writes them."""
    found = re.fullmatch(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", text, re.ASCII)
    return f"\\frac{{{found[1]}}}{{{found[2]}}}" if found else text
