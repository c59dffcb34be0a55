"""Small tokenizers like those of known makers, each with its chat template in templates/.

The templates are written as their makers document them, but for the definitions of tools.
"""

import functools
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.paths import ROOT

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"]
# Of each: first and last token of a text, and the other special tokens.
SPECIAL = {
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", LLAMA),
    "mistral": ("<s>", "</s>", ["[INST]", "[/INST]", "[TOOL_CALLS]"]),
    "qwen25": (None, "<|im_end|>", CHATML),
    "qwen3": (None, "<|im_end|>", CHATML),
    "gemma2": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "phi3": ("<s>", "<|endoftext|>", ["<|assistant|>", "<|user|>", "<|system|>", "<|end|>"]),
}
WORDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*| ?\p{L}+|\s*[\r\n]+|\s+"
BYTES = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
UNDERSCORE = normalizers.Replace(" ", "▁")
# Normalizer and pre-tokenizer of the makers that use SentencePiece; the others use bytes.
PIECES = {
    "mistral": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "gemma2": (UNDERSCORE, pre_tokenizers.Split(" ", "merged_with_previous")),
    "phi3": (normalizers.Sequence([normalizers.Prepend("▁"), UNDERSCORE]), None),
}


@functools.cache
def chat_tokenizer(maker):
    """Some hundred tokens, learned from a page of text, with white space of several kinds."""
    bos, eos, others = SPECIAL[maker]
    pieces = maker in PIECES
    backend = Tokenizer(tokenizers.models.BPE(byte_fallback=pieces))
    backend.normalizer, backend.pre_tokenizer = PIECES.get(maker, (None, BYTES))
    unknown = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    backend.decoder = unknown if pieces else decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=[] if pieces else pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[f"<0x{byte:02X}>" for byte in range(256)] if pieces else [],
        show_progress=False,
    )
    texts = [(ROOT / "docs" / "data.md").read_text(), "\n\n \n\n\n  \n\n", "\n " * 9, "a: \n\n"]
    backend.train_from_iterator(texts, trainer)
    names = dict.fromkeys([*filter(None, (bos, eos)), *others])
    swallows = maker == "phi3"  # the white space behind them
    backend.add_special_tokens([AddedToken(n, rstrip=swallows, normalized=False) for n in names])
    backend.add_tokens([AddedToken(n, normalized=False) for n in ("<think>", "</think>")])
    if bos:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    template = Path(__file__).parent / "templates" / f"{maker}.jinja"
    tokenizer.chat_template = template.read_text()
    return tokenizer
