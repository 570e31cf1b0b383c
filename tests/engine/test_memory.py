"""The allocator takes its settings where there is one that has them; the peak of tensors is counted right."""

import platform

import torch

from sfam_bench.engine.memory import keep_memory, peak

CPU = torch.device("cpu")


def test_glibc_is_told_and_others_are_left_alone():
    assert keep_memory() is (platform.libc_ver()[0] == "glibc")


def test_the_peak_is_that_of_tensors_alive_together_not_of_all_that_were_made():
    with peak(CPU) as held:
        first = torch.zeros(1000)
        del first
        second, third = torch.zeros(2000), torch.zeros(500)
        view = second[:10]  # no storage of its own
        del third
    assert held.most == 4 * 2500
    assert len(view) == 10


def test_activations_kept_for_a_backward_pass_count():
    weight, image = torch.ones(1000, requires_grad=True), torch.ones(1000)
    with peak(CPU) as held:
        out = ((weight * image).exp() * image).sum()  # the product is kept nowhere, its exponential is
        out.backward()
    assert 4 * 2000 <= held.most <= 4 * 4001
