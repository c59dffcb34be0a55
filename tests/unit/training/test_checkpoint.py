import pytest
import torch

from effchal.config import ConfigError
from effchal.runs import checkpoints
from effchal.training.checkpoint import (
    load_checkpoint,
    load_weights,
    random_states,
    save_checkpoint,
    set_random_states,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1)


def one_step(model, optimizer):
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_is_loaded_goes_on_exactly(tmp_path, model):
    optimizer = optimizer_of(model)
    one_step(model, optimizer)
    save_checkpoint(tmp_path, model, optimizer, {"step": 1, "spent_s": 5.5})
    one_step(model, optimizer)
    expected = model.weight.detach().clone()

    other = torch.nn.Linear(3, 2)
    other_optimizer = optimizer_of(other)
    torch.manual_seed(99)
    assert load_checkpoint(tmp_path, other, other_optimizer) == {"step": 1, "spent_s": 5.5}
    one_step(other, other_optimizer)  # random input too: the random state came back
    assert torch.equal(other.weight, expected)


def test_only_the_newest_are_kept(tmp_path, model):
    for step in range(1, 6):
        save_checkpoint(tmp_path, model, optimizer_of(model), {"step": step})
    assert [path.name for path in checkpoints(tmp_path)] == ["step_0000005.pt", "step_0000004.pt"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_best_is_kept_beside_the_newest_and_can_be_loaded(tmp_path, model):
    optimizer, weights = optimizer_of(model), {}
    for step in range(1, 6):
        one_step(model, optimizer)
        weights[step] = model.weight.detach().clone()
        save_checkpoint(tmp_path, model, optimizer, {"step": step, "best_step": min(step, 2)})
    assert [path.name[-4:-3] for path in checkpoints(tmp_path)] == ["5", "4", "2"]
    assert load_weights(tmp_path, 2, model)
    assert torch.equal(model.weight, weights[2])
    assert not load_weights(tmp_path, 3, model)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, model, caplog, damage):
    optimizer = optimizer_of(model)
    save_checkpoint(tmp_path, model, optimizer, {"step": 1})
    newest = save_checkpoint(tmp_path, model, optimizer, {"step": 2})
    whole = newest.read_bytes()
    newest.write_bytes(
        {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"x" * 1000}[damage]
    )
    assert load_checkpoint(tmp_path, model, optimizer) == {"step": 1}
    assert "step_0000002.pt cannot be read" in caplog.text


def test_a_write_that_fails_leaves_the_older_one(tmp_path, model, monkeypatch):
    optimizer = optimizer_of(model)
    save_checkpoint(tmp_path, model, optimizer, {"step": 1})

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, model, optimizer, {"step": 2})
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_0000001.pt"]
    assert load_checkpoint(tmp_path, model, optimizer) == {"step": 1}


@pytest.mark.parametrize("number", [0, 99])
def test_a_checkpoint_of_another_version_is_refused(tmp_path, model, number):
    path = save_checkpoint(tmp_path, model, optimizer_of(model), {"step": 1})
    content = torch.load(path, weights_only=True) | {"format": number}
    if number == 0:
        del content["format"]  # version 0.1 wrote none
    torch.save(content, path)
    with pytest.raises(ConfigError, match=f"has format {number}, and this version reads 1; go on"):
        load_checkpoint(tmp_path, model, optimizer_of(model))
    assert checkpoints(tmp_path) == [path]


def test_no_checkpoint_is_no_state(tmp_path, model):
    assert load_checkpoint(tmp_path / "checkpoint", model, optimizer_of(model)) is None


@pytest.fixture
def cards(monkeypatch):
    """Random states of two cards, by torch.cuda's functions."""
    states = {torch.device("cuda", i): torch.tensor([i]) for i in range(2)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.__getitem__)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({device: state})
    )
    return states


def test_the_random_state_of_the_card_in_use_is_kept_alone(cards):
    first, second = cards
    saved = random_states(second)
    assert [state.tolist() for state in saved["rng_cuda"]] == [[1]]
    assert random_states(torch.device("cpu"))["rng_cuda"] == []
    set_random_states(saved, first)  # the run goes on with one card fewer
    assert cards[first].tolist() == [1]


def test_a_checkpoint_of_more_cards_is_taken_up_on_one_card_or_none(cards):
    first, second = cards
    older = random_states(torch.device("cpu")) | {
        "rng_cuda": [torch.tensor([7]), torch.tensor([8])]
    }
    set_random_states(older, second)
    assert (cards[first].tolist(), cards[second].tolist()) == ([0], [7])
    set_random_states(older, torch.device("cpu"))
    assert cards[first].tolist() == [0]
