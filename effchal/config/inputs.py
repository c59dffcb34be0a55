"""The schema of what a run starts from: model and prompt templates."""

import json
from dataclasses import dataclass, fields
from os.path import expanduser
from pathlib import Path

from omegaconf import MISSING, OmegaConf

from effchal.config.choices import Dtype, Quantization, Template
from effchal.config.errors import Bound, ConfigError, require_keys

TEXTS = ("system", "user", "assistant", "after_answer")

LENGTH = 2048
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def length_for(name: str) -> int:
    """model.max_seq_len where nothing says it: 2048, or a local folder's positions if fewer."""
    try:
        config = json.loads((Path(expanduser(name)) / "config.json").read_bytes())
        config = config.get("text_config") or config
        named = [config[key] for key in POSITIONS if isinstance(config.get(key), int)]
    except (OSError, ValueError, AttributeError):  # loading it will say what is wrong
        named = []
    return min([LENGTH, *named[:1]])


OmegaConf.register_new_resolver("length_for", length_for, replace=True)


@dataclass
class ModelConfig:
    """The base model and how its weights are loaded."""

    # Hugging Face repo id, local folder, or builtin:tiny (random weights, for tests).
    name: str = MISSING
    # Commit hash of a repo id. null = the newest one, which the run then keeps.
    revision: str | None = None
    # Type of the frozen weights and of the arithmetic. Adapters are always float32. A CPU without
    # bfloat16 arithmetic trains bfloat16 weights in float32, and decodes them many times slower.
    dtype: Dtype = Dtype.auto
    # Load the weights in 4 bits (QLoRA). null = plain weights.
    quantization: Quantization | None = None
    # For nf4: quantise the quantisation constants too.
    double_quant: bool = True
    # On a GPU, decode steps of one adapter are recorded as CUDA graphs: fewer calls of the host for
    # each token. The first replay of each is compared with the step itself.
    cuda_graphs: bool = True
    # [tokens] A longer training example is cut.
    max_seq_len: int = LENGTH

    def __post_init__(self) -> None:
        self.name = expanduser(self.name)
        require_keys(self, "model", Bound("at least 8", lambda n: n >= 8), "max_seq_len")


@dataclass
class PromptConfig:
    """How a conversation becomes text, in training and in serving alike.

    `{content}` stands for the turn's text. An answer always ends with the
    tokenizer's end-of-sequence token, which no template has to spell.
    """

    # Whose template: own = the texts below; tokenizer = the chat template of the model's tokenizer;
    # auto = the tokenizer's where it has one, else own. The bundle carries what was chosen.
    template: Template = Template.own
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
        default = {each.name: each.default for each in fields(self)}
        given = [name for name in TEXTS if getattr(self, name) != default[name]]
        if self.template is Template.tokenizer and given:
            raise ConfigError(
                f"prompt.template=tokenizer takes no prompt.{given[0]}; "
                "give prompt=tokenizer alone, or prompt.template=own"
            )
