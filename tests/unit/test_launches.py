"""What count_launches.py counts: launches by kind, and bytes that element-wise ones move."""

import torch
from launches import Launches
from torch._subclasses.fake_tensor import FakeTensorMode

from effchal.kernels.elementwise import SILU, gate, gate_backward
from effchal.planning.pretended import claiming_cuda


def counts_of(work, *tensors):
    with Launches() as mode:
        work(*tensors)
    return mode.counts


def test_an_element_wise_operation_reads_its_inputs_and_writes_its_result():
    counts = counts_of(lambda x, y: x + y, torch.ones(5, 3), torch.ones(3).expand(5, 3))
    assert counts.element_wise == {"add": 1}
    assert counts.element_wise_bytes["add"] == 4 * (15 + 3 + 15)


def test_in_place_operations_write_what_they_read_and_copies_do_not_read_their_target():
    x, y = torch.ones(10), torch.ones(10)
    assert counts_of(lambda: x.mul_(y)).element_wise_bytes["mul_"] == 4 * 30
    assert counts_of(lambda: x.copy_(y)).element_wise_bytes["copy_"] == 4 * 20
    assert counts_of(lambda: torch.mul(x, y, out=x)).element_wise_bytes["mul"] == 4 * 30


def test_views_and_allocations_launch_nothing():
    def work(x):
        x.view(6).unsqueeze(0).transpose(0, 1).split(2)
        torch.empty_like(x).detach()

    x = torch.ones(2, 3)
    with Launches() as mode:
        work(x)
    assert mode.launches == 0


def test_products_and_attention_are_counted_apart():
    def work(x):
        torch.addmm(x, x, x).addmm_(x, x)
        torch.nn.functional.scaled_dot_product_attention(
            x[None, None], x[None, None], x[None, None]
        )

    counts = counts_of(work, torch.ones(4, 4))
    assert counts.products == {"addmm": 1, "addmm_": 1}
    assert counts.attention.total() == 1
    assert counts.element_wise.total() == 0


def test_backward_passes_count_too():
    x = torch.ones(3, requires_grad=True)
    assert counts_of(lambda: (x * 2).sum().backward()).element_wise["mul"] == 2


def test_values_that_the_host_reads_together_are_one_wait():
    with FakeTensorMode():
        x = torch.empty(3)
        counts = counts_of(lambda: (x.tolist(), (x + 1).tolist()))
    assert counts.waits == 2


def test_fake_tensors_claim_to_be_on_a_card_only_within():
    with FakeTensorMode():
        x = torch.empty(3)
        with claiming_cuda(True):
            assert x.is_cuda
        assert not x.is_cuda


def test_a_compiled_function_on_a_claimed_card_is_one_launch():
    with FakeTensorMode(), claiming_cuda(True):
        gate_up = torch.empty(2, 8)
        with Launches() as mode:
            product = gate(gate_up, SILU)
            d_gate_up = gate_backward(product, gate_up, None, SILU)
    assert (product.shape, d_gate_up.shape) == ((2, 4), (2, 8))
    assert mode.counts.element_wise == {"gated": 1, "gated_backward": 1}
    assert mode.counts.element_wise_bytes == {"gated": 4 * (16 + 8), "gated_backward": 4 * 40}
