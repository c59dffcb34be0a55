"""Cards are told apart by all words of their names."""

import pytest
from support.paths import ROOT

from effchal.config.choices import PlanDevice
from effchal.planning.cards import BY_NAME, CARDS, OTHERS, find_card
from effchal.rules import is_card

HERE = {PlanDevice.auto, PlanDevice.cpu, PlanDevice.cuda}


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("A100", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10G", "A10G"),
        ("rtx 4090", "RTX 4090"),
    ],
)
def test_a_card_is_found_by_the_name_that_cuda_reports(reported, expected):
    assert find_card(reported).name == expected


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA H100 NVL",
        "NVIDIA B200",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "Quadro RTX 6000",
        "a GPU",
        "",
        None,
    ],
)
def test_a_card_like_one_of_the_table_is_another_card(reported):
    assert find_card(reported) is None


def test_every_card_that_can_be_planned_for_has_its_figures():
    assert set(CARDS) == set(PlanDevice) - HERE
    for card in CARDS.values():
        assert card is find_card(card.name)
        assert card.tflops_float32 < card.tflops


def test_the_page_has_the_figures_of_the_table():
    page = (ROOT / "docs" / "gpu.md").read_text()
    for key, card in CARDS.items():
        rate = f"{card.tflops:g}" if card.bfloat16 else f"none; float16 {card.tflops:g}"
        figures = f"{card.memory_gib:g} | {card.bandwidth:,.0f} | {rate} | {card.tflops_float32:g}"
        assert f"| {card.name} | `{key.value}` | {figures} |" in page


def test_no_name_stands_for_two_cards():
    assert len(BY_NAME) == sum(len(card.names) for card in (*CARDS.values(), *OTHERS))


@pytest.mark.parametrize(
    ("reported", "wanted", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090", True),
        ("NVIDIA A100-SXM4-40GB", "A100", True),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090", False),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 Laptop", True),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "A100", False),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA L40", "L4", False),
        ("NVIDIA A100X", "A100", False),
    ],
)
def test_a_contest_names_cards_by_whole_words(reported, wanted, expected):
    assert is_card(reported, wanted) is expected
