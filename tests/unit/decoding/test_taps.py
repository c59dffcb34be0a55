"""Tapped states against the library's own hidden states."""

import torch
from support.slow_decoding import all_states, prompts


def test_taps_equal_output_hidden_states_bit_for_bit(engine):
    ids = prompts(engine)[3]
    layers = range(engine.model.num_layers)
    taps = tuple((layer, False) for layer in layers)
    at = torch.tensor([0, 3, len(ids) - 1])
    with torch.inference_mode():
        states = engine.model.states(
            torch.tensor([ids]), torch.arange(len(ids))[None], None, None, taps, at
        )
    assert torch.equal(states, all_states(engine, ids)[:, at])


def test_taps_work_in_a_left_padded_batch(engine):
    rows = prompts(engine)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    taps = tuple((layer, False) for layer in range(engine.model.num_layers))
    at = torch.arange(1, len(rows) + 1) * width - 1
    with torch.inference_mode():
        states = engine.model.states(ids, positions, None, mask, taps, at)
    for i, row in enumerate(rows):
        expected = all_states(engine, row)[:, -1]
        assert (states[:, i] - expected).norm() <= 1e-4 * expected.norm()
