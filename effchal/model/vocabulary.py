"""Token ids that a tokenizer gives and a model has no embedding of: on a GPU, a fatal fault."""

import logging
from collections.abc import Sequence
from typing import Any

from effchal.model.tokenizer import ModelError

log = logging.getLogger(__name__)


def embedding_rows(model: Any) -> int:
    """How many ids a model of transformers, or its backbone, takes."""
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def first_unknown(ids: Sequence[int], rows: int) -> int | None:
    """The first id without an embedding, or None."""
    return next((int(i) for i in ids if i >= rows), None)


def check_ids(ids: Sequence[int], rows: int) -> None:
    """Raises ValueError for an id without an embedding; a GPU would be lost by it."""
    if max(ids, default=0) >= rows:
        raise ValueError(f"token {max(ids)} is beyond this model's {rows} embeddings")


def check_vocabulary(tokenizer: Any, rows: int) -> bool:
    """Compare a tokenizer with the model's number of embeddings, and warn of tokens beyond.

    Returns:
        whether every token has an embedding.

    Raises:
        ModelError: a token that begins or ends texts has none.
    """
    named = {
        "beginning-of-sequence": tokenizer.bos_token_id,
        "end-of-sequence": tokenizer.eos_token_id,
    }
    for name, token_id in named.items():
        if token_id is not None and token_id >= rows:
            token = tokenizer.convert_ids_to_tokens(token_id)
            raise ModelError(
                f"model.name: the tokenizer's {name} token {token!r} has id {token_id}, and the "
                f"model has {rows} embeddings: they do not belong together; bring the model's own "
                "tokenizer.json and tokenizer_config.json"
            )
    beyond = len(tokenizer) - rows
    if beyond > 0:
        log.warning(
            "the last %d of the tokenizer's %d tokens, from %r on, are beyond the model's %d "
            "embeddings; texts with one of them are refused",
            beyond,
            len(tokenizer),
            tokenizer.convert_ids_to_tokens(rows),
            rows,
        )
    return beyond <= 0
