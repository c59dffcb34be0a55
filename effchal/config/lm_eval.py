"""The schema of lm_eval: what lm-eval's tasks are asked, under lm-eval's own names."""

import difflib
from collections import Counter
from dataclasses import dataclass, field
from os.path import expanduser
from typing import Any

from effchal.config.errors import ABOVE_0, AT_LEAST_0, ConfigError, require, require_keys, shown

# Of lm-eval's generation settings, those that change an answer here. The second to fourth are other
# names of the first.
ANSWER_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
GENERATION = ("until", *ANSWER_LENGTHS, *SAMPLING)


@dataclass
class LmEvalConfig:
    """Tasks of lm-eval, and lm-eval's own options."""

    # Virtual environment with lm-eval. It is made where it is not there.
    environment: str = ".venv-lm-eval"
    # Names of tasks, groups or tags, * for any characters in them; or files of tasks (.yaml).
    tasks: list[str] = field(default_factory=list)
    # Folder with tasks of your own.
    include_path: str | None = None
    # Shots of each task. null = what the task says. A task that says 0 keeps it.
    num_fewshot: int | None = None
    # Questions of each task; below 1, a share of them. null = all.
    limit: float | None = None
    # Put prompts into the model's chat template.
    apply_chat_template: bool = False
    # In a chat, the shots are turns of their own.
    fewshot_as_multiturn: bool = True
    # In front of every prompt; with a chat template, the system's turn.
    system_instruction: str | None = None
    # Generation settings on top of each task's own, e.g. {temperature: 0.7, do_sample: true}.
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    # Of Python, NumPy and the choice of shots. null = lm-eval's: 0, 1234 and 1234.
    seed: int | None = None
    # What tasks that make their own data want to know of the model, e.g. {max_seq_lengths: [4096]}.
    metadata: dict[str, Any] = field(default_factory=dict)
    # Keep every question and answer in lm-eval's form, too.
    log_samples: bool = True
    # Run tasks whose scoring executes code that the model wrote.
    confirm_run_unsafe_code: bool = False

    def __post_init__(self) -> None:
        self.environment = expanduser(self.environment)
        self.include_path = self.include_path and expanduser(self.include_path)
        require_keys(self, "lm_eval", AT_LEAST_0, "num_fewshot", "seed")
        require_keys(self, "lm_eval", ABOVE_0, "limit")
        is_count = self.limit is None or self.limit < 1 or float(self.limit).is_integer()
        require(is_count, "lm_eval.limit", self.limit, "a whole number, or a share below 1")
        twice = [task for task, count in Counter(self.tasks).items() if count > 1]
        if twice:
            raise ConfigError(f"lm_eval.tasks has {twice[0]} more than once")
        check_generation(self.gen_kwargs, "lm_eval.gen_kwargs")


def check_generation(settings: dict[str, Any], where: str) -> None:
    """Raise ConfigError for a setting of generation that would change nothing here, or is wrong."""
    for name, value in settings.items():
        if name not in GENERATION:
            near = difflib.get_close_matches(name, GENERATION, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(GENERATION)}"
            raise ConfigError(f"{where} has {name}, which effchal has no equal of; {meant}")
        if name == "until":
            texts = value if isinstance(value, (list, tuple)) else [value]
            ok = all(each is None or isinstance(each, str) for each in texts)
        elif name == "do_sample":
            ok = isinstance(value, bool | None)
        else:
            ok = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        if not ok:
            raise ConfigError(f"{where}.{name} cannot be {shown(value)}")
