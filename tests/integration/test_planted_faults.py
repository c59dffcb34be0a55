"""Faults planted in real rows are found, and no right row is taken for wrong."""

import re
from collections import Counter

from planted_faults import CLEAN, EACH, find, plant, refusals
from support.paths import SHARED_DATA, needs_shared_data


@needs_shared_data
def test_each_planted_fault_is_found_and_no_other_row():
    planted = plant(SHARED_DATA)
    said = find(planted, SHARED_DATA)
    assert [planted.examples[i].id for i in range(CLEAN) if planted.examples[i].id in said] == []
    found = Counter((planted.kind[name], why.partition(":")[0]) for name, why in said.items())
    assert found == {
        ("duplicate", "duplicates"): EACH,
        ("near-duplicate at 0.85", "near_duplicates"): EACH,
        ("truthful_qa in an answer", "decontaminate"): EACH,
        ("gsm in an answer", "decontaminate"): EACH,
        ("loop", "loops"): EACH,
        ("empty answer", "empty_answers"): 5,
    }
    lower = find(planted, SHARED_DATA, threshold=0.72)
    near = [kind for name, kind in planted.kind.items() if lower.get(name, "").startswith("near")]
    assert Counter(near) == {"near-duplicate at 0.85": EACH, "near-duplicate at 0.75": EACH}


@needs_shared_data
def test_a_broken_row_is_named_by_its_line():
    for kind, message in refusals(SHARED_DATA).items():
        assert re.search(rf"rows\.jsonl, line {EACH + 1}\b|lima:{EACH}\b", message), (kind, message)
