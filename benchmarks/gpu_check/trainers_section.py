"""The peers that bring a training loop of their own: TRL and unsloth."""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import ALL_LINEAR

from gpu_check.measure import DEVICE, ON_CARD, finish, free_memory, peak_memory
from gpu_check.models import large_model, make_tokenizer, random_ids, trainable
from gpu_check.session import Session
from gpu_check.training_section import (
    MAX_NORM,
    RANK,
    adapted_model,
    plain_step,
    speed,
    steps_of,
    tokens_of,
)


def trl(session: Session, base: str) -> None:
    """SFTTrainer on a model that has its adapter already."""
    import trl as library

    model = adapted_model(session, base)
    tokenizer = make_tokenizer(model.get_base_model().config.vocab_size)
    for keep in ("none", "full"):
        told = {"system": "TRL", "base": base, "keep": keep, "segments": 1, "dropout": 0.0}

        def work(session: Session, keep: str = keep, told: dict = told) -> None:
            with tempfile.TemporaryDirectory() as folder:
                run = trainer(library, session, model, tokenizer, keep == "full", Path(folder))
                with peak_memory() as memory, contextlib.redirect_stdout(None):
                    run.train()
            times = run.step_times.seconds
            taken = statistics.median(times[2:])
            found = speed(session, model, tokens_of(session), taken, told)
            session.tell("training", **told, **found, **memory)

        session.attempt("training", work, **told)
        for parameter in trainable(model):
            parameter.grad = None
        free_memory()


def trainer(
    library: Any, session: Session, model: Any, tokenizer: Any, checkpointing: bool, folder: Path
) -> Any:
    from datasets import Dataset
    from transformers import TrainerCallback

    class StepTimes(TrainerCallback):
        """Seconds of each step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            finish()
            self._begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            finish()
            self.seconds.append(time.perf_counter() - self._begun)

    tokens, times = tokens_of(session), StepTimes()
    rows = [{"input_ids": random_ids(tokens, 500, i)} for i in range(steps_of(session))]
    made = library.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[times],
        args=library.SFTConfig(
            output_dir=str(folder),
            max_length=tokens,
            per_device_train_batch_size=1,
            max_steps=len(rows),
            bf16=True,
            use_cpu=not ON_CARD,
            gradient_checkpointing=checkpointing,
            max_grad_norm=MAX_NORM,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
    )
    made.step_times = times
    return made


def unsloth(session: Session, base: str) -> None:
    """Its own model class and checkpointing; it loads from a folder, which is written first."""
    import unsloth as library

    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    model = large_model(session.tiny)
    model.save_pretrained(folder)
    make_tokenizer(model.config.vocab_size).save_pretrained(folder)
    del model
    free_memory()
    tokens = tokens_of(session)
    for keep in ("none", "full"):
        told = {"system": "unsloth", "base": base, "keep": keep, "segments": 1, "dropout": 0.0}

        def work(session: Session, keep: str = keep, told: dict = told) -> None:
            model, _ = library.FastLanguageModel.from_pretrained(
                str(folder), max_seq_length=tokens, dtype=torch.bfloat16, load_in_4bit=base == "nf4"
            )
            model = library.FastLanguageModel.get_peft_model(
                model,
                r=RANK,
                lora_alpha=2 * RANK,
                target_modules=ALL_LINEAR,
                use_gradient_checkpointing="unsloth" if keep == "full" else False,
            )
            optimizer = torch.optim.AdamW(trainable(model), fused=True)
            rows = [
                torch.tensor([random_ids(tokens, 500, i)], device=DEVICE)
                for i in range(steps_of(session))
            ]
            time_plain_steps(session, model, optimizer, rows, told)

        session.attempt("training", work, **told)
        free_memory()


def time_plain_steps(
    session: Session, model: Any, optimizer: Any, rows: list[torch.Tensor], told: dict[str, Any]
) -> None:
    from gpu_check.training_section import time_steps

    time_steps(session, model, lambda i: plain_step(model, optimizer, rows[i]), told)
