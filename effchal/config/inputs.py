"""The schema of what a run starts from: model and prompt templates."""

from dataclasses import dataclass
from os.path import expanduser

from omegaconf import MISSING

from effchal.config.choices import Attention, Dtype, Quantization
from effchal.config.errors import Bound, require_keys


@dataclass
class ModelConfig:
    """The base model and how its weights are loaded."""

    # Hugging Face repo id, local folder, or builtin:tiny (random weights, for tests).
    name: str = MISSING
    # Commit hash. A repo id needs one, or the run is not reproducible.
    revision: str | None = None
    # Type of the frozen weights and of the arithmetic. Adapters are always float32. A CPU without
    # bfloat16 arithmetic trains bfloat16 weights in float32, and decodes them many times slower.
    dtype: Dtype = Dtype.auto
    # Load the weights in 4 bits (QLoRA). null = plain weights.
    quantization: Quantization | None = None
    # For nf4: quantise the quantisation constants too.
    double_quant: bool = True
    # Which implementation computes attention.
    attention: Attention = Attention.auto
    # [tokens] A longer training example is cut.
    max_seq_len: int = 2048

    def __post_init__(self) -> None:
        self.name = expanduser(self.name)
        require_keys(self, "model", Bound("at least 8", lambda n: n >= 8), "max_seq_len")


@dataclass
class PromptConfig:
    """How a conversation becomes text, in training and in serving alike.

    `{content}` stands for the turn's text. An answer always ends with the
    tokenizer's end-of-sequence token, which no template has to spell.
    """

    # Template of a system turn.
    system: str = "{content}\n\n"
    # Template of a user turn.
    user: str = "{content}"
    # Template of an answer.
    assistant: str = "{content}"
    # Text between an answer's end-of-sequence token and the next turn.
    after_answer: str = "\n\n"

    def __post_init__(self) -> None:
        one = Bound("a template with one {content}", lambda text: text.count("{content}") == 1)
        require_keys(self, "prompt", one, "system", "user", "assistant")
