"""builtin:tiny: two Llama layers of random weights and a byte tokenizer, made for tests."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TINY = "builtin:tiny"


def tiny_folder() -> Path:
    """The folder of the model, the same on every machine."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = Path(tempfile.gettempdir()) / f"effchal-tiny-{os.getuid()}-{transformers.__version__}"
    if (folder / "model.safetensors").is_file():
        return folder
    if sys.modules.get("torch", sys) is None:  # hidden from this process
        make = "from effchal.model.tiny import tiny_folder; tiny_folder()"
        subprocess.run([sys.executable, "-c", make], check=True)
        return folder
    import torch

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>", "<pad>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory(dir=folder.parent) as parts:
        made = Path(parts) / "tiny"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        with contextlib.suppress(OSError):  # another process made it first
            made.rename(folder)
    return folder
