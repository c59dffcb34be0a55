"""Small random models whose tokenizer and embedding do not agree, as in some published ones."""

from pathlib import Path

import torch
import transformers
from common import instructions
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LEARNED = 400  # tokens
EXTRA = ["<extra_0>", "<extra_1>", "<extra_2>"]
# More embeddings than tokens: what pads the matrix to a round number can be generated.
PADDED = "padded vocabulary"
# Fewer embeddings than tokens: the last ones can be typed, and have no embedding.
OVERLONG = "over-long tokenizer"


def odd_model(kind: str, folder: Path) -> Path:
    """Write a model with a beginning-of-sequence token into `folder`; PADDED or OVERLONG."""
    backend = byte_pairs()
    backend.add_special_tokens(EXTRA)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    embeddings = len(tokenizer) + (40 if kind == PADDED else -len(EXTRA))
    config = transformers.LlamaConfig(
        vocab_size=embeddings,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    # Greedy answers are of plain letters, so that each token is an event of a stream.
    decoded = [tokenizer.decode([i], skip_special_tokens=True) for i in range(embeddings)]
    plain = torch.tensor([text.isascii() and text.isprintable() and text != "" for text in decoded])
    model.lm_head.weight.data[~plain] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_pairs() -> Tokenizer:
    """Byte pairs learned from the shipped examples, behind <s>; one token is long, as in Llama."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    backend.add_tokens([AddedToken("-" * 80, normalized=False)])
    bos = ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return backend


def texts() -> list[str]:
    return [" ".join(map(str, row.values())) for row in instructions()]
