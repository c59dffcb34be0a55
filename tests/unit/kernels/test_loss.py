import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effchal.config import LoraConfig, ModelConfig
from effchal.config.choices import Dtype
from effchal.kernels import loss
from effchal.kernels.dropout import draw_seed, keep_mask
from effchal.kernels.loss import chunked_loss
from effchal.model.load import add_adapter, load_base_model
from effchal.model.structure import head

TARGETS = torch.arange(50) % 41
HIDDEN = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def plain_head():
    torch.manual_seed(1)
    return nn.Linear(16, 41, bias=False).requires_grad_(False)


def adapted_head(**lora):
    model = load_base_model(
        ModelConfig(name="builtin:tiny", dtype=Dtype.float32), torch.device("cpu")
    )
    model = add_adapter(model, LoraConfig(r=4, target_modules=["lm_head"], **lora), seed=0)
    nn.init.normal_(head(model).lora_B["default"].weight, std=0.1)
    return head(model)


def dora_head():
    return adapted_head(use_dora=True)  # the library's own, by autograd


def loss_and_gradients(function, head, hidden):
    hidden = hidden.clone().requires_grad_()
    parameters = [p for p in head.parameters() if p.requires_grad]
    total = function(head, hidden, TARGETS)
    return total.detach(), torch.autograd.grad(total / 7, [hidden, *parameters])


def whole(head, hidden, targets):
    return F.cross_entropy(head(hidden), targets, reduction="sum")


@pytest.mark.parametrize("make", [plain_head, adapted_head, dora_head])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_give_the_loss_and_gradients_of_the_whole(make, chunk, monkeypatch):
    head = make()
    size, width = head.weight.shape
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", chunk * size)
    hidden = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    expected, expected_gradients = loss_and_gradients(whole, head, hidden)
    found, gradients = loss_and_gradients(chunked_loss, head, hidden)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert len(gradients) == {plain_head: 1, adapted_head: 3, dora_head: 4}[make]
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert (gradient - other).abs().max() <= 2e-6 * other.abs().max()
    with torch.no_grad():
        assert chunked_loss(head, hidden, TARGETS) == pytest.approx(expected.item(), rel=1e-6)


def test_dropout_on_the_head_takes_its_mask_from_a_seed():
    head, share = adapted_head(dropout=0.3).train(), 1 / (1 - 0.3)
    hidden = torch.randn(50, head.weight.shape[1], generator=torch.Generator().manual_seed(0))

    def by_hand(head, hidden, targets):
        mask = keep_mask(hidden, 1 - 0.3, draw_seed(torch.empty(1)))
        a, b = head.lora_A["default"].weight, head.lora_B["default"].weight
        added = head.scaling["default"] * share * ((hidden * mask) @ a.T @ b.T)
        return F.cross_entropy(hidden @ head.weight.T + added, targets, reduction="sum")

    torch.manual_seed(3)
    expected, expected_gradients = loss_and_gradients(by_hand, head, hidden)
    torch.manual_seed(3)
    found, gradients = loss_and_gradients(chunked_loss, head, hidden)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert (gradient - other).abs().max() <= 2e-6 * other.abs().max()


def test_no_more_than_a_chunk_of_logits_is_ever_held(monkeypatch):
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", 5 * 41)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(
                t.numel()
                for t in (out if isinstance(out, (tuple, list)) else [out])
                if torch.is_tensor(t)
            )
            return out

    with Watch():
        chunked_loss(plain_head(), HIDDEN.clone().requires_grad_(), TARGETS).backward()
    weights_and_input = {16 * 41, 50 * 16, 50}
    assert max(size for size in sizes if size not in weights_and_input) <= 5 * 41


def test_a_loss_far_from_every_target_stays_finite():
    head = plain_head()
    found, (gradient,) = loss_and_gradients(chunked_loss, head, HIDDEN * 1e4)
    assert torch.isfinite(found)
    assert torch.isfinite(gradient).all()
    assert found == pytest.approx(whole(head, HIDDEN * 1e4, TARGETS).item(), rel=1e-5)
