"""A tokenizer that a test can follow."""


class Window:
    """A token a character."""

    def encode(self, text):
        return [ord(character) for character in text]

    def decode(self, ids):
        return "".join(map(chr, ids))
