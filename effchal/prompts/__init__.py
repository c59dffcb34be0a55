"""Conversation to token ids, by the same functions in training and in serving."""
