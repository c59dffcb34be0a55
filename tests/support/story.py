"""In a model's place: a story as answer, and a tokenizer of pairs of characters."""

import codecs
import math

BOS, EOS, FIRST_BYTE, FIRST_PAIR = 0, 1, 2, 258
SPECIAL = {BOS: b"<s>", EOS: b"</s>"}
STORY = "Once there was a fox.\n\nIt ran, it slept; then ### 1, 2, 3 dogs came. Why? Nobody knows "
IDS = range(FIRST_PAIR + 128 * 128)
MOST = 100  # alternatives


def encode(text):
    """A token for two ASCII characters, or for one byte."""
    data, ids, at = text.encode(), [], 0
    while at < len(data):
        pair = data[at : at + 2]
        is_pair = len(pair) == 2 and max(pair) < 128
        ids.append(FIRST_PAIR + pair[0] * 128 + pair[1] if is_pair else FIRST_BYTE + pair[0])
        at += 1 + is_pair
    return ids


def spelled(each):
    if each < FIRST_BYTE:
        return SPECIAL[each]
    if each < FIRST_PAIR:
        return bytes([each - FIRST_BYTE])
    return bytes(divmod(each - FIRST_PAIR, 128))


def texts(ids):
    """The text that each id adds."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(spelled(each)) for each in ids]


def logprob(each):
    return -math.sqrt(1 + each * 37 % 97) / 10


def top(text, value, count):
    """A token's own entry, the best one, and less likely ones."""
    return {text: value} | {f"~{i}": value - i for i in range(1, min(count, MOST))}
