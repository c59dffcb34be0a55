"""A tokenizer of transformers in the words of a GGUF file."""

import json
from typing import Any

from effchal.config import ConfigError

# Patterns of pre-tokenizers, and llama.cpp's names of them.
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}
REMEDY = "give to=merged and convert that folder by llama.cpp's convert_hf_to_gguf.py"


def add_tokenizer(writer: Any, tokenizer: Any, end: int, rows: int) -> None:
    """Add vocabulary, merges or scores, special tokens and the chat template.

    Args:
        writer: gguf.GGUFWriter.
        end: the token that ends an answer.
        rows: of the embedding matrix, which may be more than there are tokens.

    Raises:
        ConfigError: a kind of tokenizer that is not converted here.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    if tree["model"]["type"] != "BPE":
        raise ConfigError(f"to=gguf: its tokenizer is a {tree['model']['type']}, no BPE; {REMEDY}")
    tokens = vocabulary(tokenizer, rows)
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in tree["model"]["merges"]]
    if tree["model"].get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores(tokens, merges))
        writer.add_add_space_prefix(adds_space(tree))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(tree, bool(merges)))
        writer.add_token_merges([" ".join(pair) for pair in merges])
        if not merges:
            writer.add_token_scores([0.0] * rows)
    writer.add_token_list(tokens)
    writer.add_token_types(token_types(tokenizer, tree, tokens))
    _add_special(writer, tokenizer, end)


def vocabulary(tokenizer: Any, rows: int) -> list[str]:
    """The token of every row of the embedding matrix; one without a token gets a made-up name."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(by_id) >= rows:
        raise ConfigError(
            f"to=gguf: the tokenizer has token {by_id[max(by_id)]!r} beyond the model's {rows} "
            f"embeddings; {REMEDY}"
        )
    return [by_id.get(number, f"[PAD{number}]") for number in range(rows)]


def pre_tokenizer(tree: dict[str, Any], has_merges: bool) -> str:
    """llama.cpp's name of how a text is cut before merges.

    Raises:
        ConfigError: a way that is not known here, or a normalizer that GGUF has no word for.
    """
    found = tree["pre_tokenizer"] or {}
    parts = found.get("pretokenizers", [found])
    kinds = [part.get("type") for part in parts]
    pattern = (parts[0].get("pattern") or {}).get("Regex")
    normalizer = (tree["normalizer"] or {}).get("type")
    if normalizer not in (None, "NFC") or kinds[-1] != "ByteLevel":
        name = None
    elif not has_merges or (len(parts) == 1 and parts[0]["use_regex"]):
        name = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"]:
        name = "smollm" if parts[1]["use_regex"] else None
    elif kinds == ["Split", "ByteLevel"]:
        name = SPLITS.get(pattern or "")
    else:
        name = None
    if name is None or (parts[-1].get("add_prefix_space") and has_merges):
        raise ConfigError(f"to=gguf: its tokenizer cuts texts in a way not known here; {REMEDY}")
    return name


def scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """SentencePiece's scores: the earlier a token is merged, the higher."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks.get(token, 0)) for token in tokens]


def adds_space(tree: dict[str, Any]) -> bool:
    """Whether a text begins with a space of its own."""
    parts = [tree["normalizer"] or {}, tree["pre_tokenizer"] or {}]
    inside = [each for part in parts for each in (part, *part.get("normalizers", []))]
    return any(
        each.get("type") == "Prepend" or each.get("prepend_scheme") in ("always", "first")
        for each in inside
    )


def token_types(tokenizer: Any, tree: dict[str, Any], tokens: list[str]) -> list[int]:
    from gguf import TokenType

    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    known = tokenizer.get_vocab()
    has_bytes = bool(tree["model"].get("byte_fallback"))

    def kind(token: str) -> TokenType:
        if token not in known:
            return TokenType.UNUSED
        if has_bytes and token == tree["model"]["unk_token"]:
            return TokenType.UNKNOWN
        if has_bytes and token in BYTE_TOKENS:
            return TokenType.BYTE
        if token in added:
            return TokenType.CONTROL if added[token] else TokenType.USER_DEFINED
        return TokenType.NORMAL

    return [kind(token) for token in tokens]


def _add_special(writer: Any, tokenizer: Any, end: int) -> None:
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
        "eot": end,
    }
    for name, number in ids.items():
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    around = tokenizer("").input_ids
    writer.add_add_bos_token(bool(around) and around[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
