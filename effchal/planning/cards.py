"""Figures of NVIDIA cards, for plans of cards that nothing was measured on.

Rates are dense: sheets that state them with sparsity state twice as much. They are for sums in
float32; GeForce cards are faster with sums in float16, which training does not use.

Figures are those of the documents below, by NVIDIA unless said, read in second copies. Some were
found in no copy; they are stated from memory, and still to be checked:

- the bfloat16 rates of RTX 5090 and L4,
- the rates and bandwidth of RTX 6000 Ada,
- all figures of A10, A10G, RTX 3090 and RTX A6000.

The documents:

- RTX 4090: Ada GPU architecture, appendix A. RTX 5090: RTX Blackwell GPU architecture, appendix.
- RTX PRO 6000 (Workstation Edition, 600 W): RTX Blackwell PRO GPU architecture.
- RTX 3090, RTX A6000: Ampere GA102 GPU architecture.
- Data sheets: A100, H100, H200, L4, L40S, A10, T4, RTX 6000 Ada (FP8 with sparsity, 1,457, by
  four). A10G: AWS.
- Where sources differ the data sheet counts: L40S 362 (others 366), T4 300 GB/s (others 320).
- Memory: what torch calls the card's total capacity in errors that users reported, rounded down.
  Drivers differ by 0.1 GiB; nvidia-smi shows 0.5 GiB more. L4 and H200: nvidia-smi's value less
  0.5 to 0.6. With ECC off, an RTX 6000 Ada and an RTX A6000 show 3 GiB more.
"""

from dataclasses import dataclass

from effchal.config.choices import PlanDevice
from effchal.rules import card_words

MAKER = {"nvidia", "geforce", "tesla", "generation"}  # words of a name that tell no card apart


@dataclass(frozen=True)
class Card:
    name: str  # for people; one of its names
    names: tuple[str, ...]  # exact, in words of `card_words` without the maker's
    memory_gib: float  # as torch reports it
    bandwidth: float  # GB/s
    tflops: float  # products of bfloat16, or of float16 where bfloat16=False
    tflops_float32: float  # products of float32, without TF32
    bfloat16: bool = True


CARDS = {
    PlanDevice.rtx_4090: Card("RTX 4090", ("rtx 4090",), 23.5, 1008, 165.2, 82.6),
    PlanDevice.rtx_5090: Card("RTX 5090", ("rtx 5090",), 31.3, 1792, 209.5, 104.8),
    PlanDevice.a100_40gb: Card(
        "A100 40GB",
        ("a100 40gb", "a100", "a100 sxm4 40gb", "a100 pcie 40gb"),
        *(39.4, 1555, 312, 19.5),
    ),
    PlanDevice.a100_80gb: Card("A100 80GB", ("a100 80gb", "a100 sxm4 80gb"), 79.1, 2039, 312, 19.5),
    PlanDevice.h100: Card("H100", ("h100", "h100 80gb hbm3", "h100 sxm"), 79.1, 3350, 989, 67),
    PlanDevice.h200: Card("H200", ("h200",), 139.0, 4800, 989, 67),
    PlanDevice.l4: Card("L4", ("l4",), 22.0, 300, 121, 30.3),
    PlanDevice.l40s: Card("L40S", ("l40s",), 44.4, 864, 362, 91.6),
    PlanDevice.rtx_6000_ada: Card("RTX 6000 Ada", ("rtx 6000 ada",), 44.4, 960, 364.2, 91.1),
    PlanDevice.rtx_pro_6000: Card(
        "RTX PRO 6000",
        ("rtx pro 6000", "rtx pro 6000 blackwell workstation edition"),
        *(94.9, 1792, 503.8, 125),
    ),
    PlanDevice.t4: Card("T4", ("t4",), 14.5, 300, 65, 8.1, bfloat16=False),
}
OTHERS = (
    Card("A100 80GB PCIe", ("a100 80gb pcie",), 79.1, 1935, 312, 19.5),
    Card("H100 PCIe", ("h100 pcie",), 79.1, 2000, 756, 51),
    Card("RTX A6000", ("rtx a6000", "a6000"), 44.4, 768, 154.8, 38.7),
    Card("A10", ("a10",), 21.9, 600, 125, 31.2),
    Card("A10G", ("a10g",), 21.9, 600, 70, 35),
    Card("RTX 3090", ("rtx 3090",), 23.5, 936, 71, 35.6),
)
BY_NAME = {name: card for card in (*CARDS.values(), *OTHERS) for name in card.names}


def find_card(name: str | None) -> Card | None:
    """The card of this name, as CUDA reports it or as people type it; None for an unknown one.

    All words of a name count, so an L40 is no L4, and a laptop's RTX 4090 none of a desktop.
    """
    words = [word for word in card_words(name or "") if word not in MAKER]
    return BY_NAME.get(" ".join(words))
