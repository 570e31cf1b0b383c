"""Layer-wise relevance: rules and functions by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfam_bench.core.errors import UserError
from sfam_bench.explainers.relevance_cam import RelevanceCAM
from sfam_bench.explainers.shared.relevance import Rules, relevance, totals

RULES = [Rules("zplus", epsilon=1e-12), Rules("epsilon", epsilon=1e-12), Rules("gamma", epsilon=1e-12)]
TIGHT = {"rtol": 1e-6, "atol": 1e-9}  # behind the epsilon


def ones(output):
    return torch.ones_like(output)


def dense(*rows, bias=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    layer.weight.data = torch.tensor(rows)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer.double().requires_grad_(False)


def shares(rules, function, *inputs):
    """Relevance of each input, started at the output."""
    x = torch.tensor([inputs], dtype=torch.float64)
    return relevance(rules, function, x, ones)[0].tolist()


def test_the_rules_by_hand():
    layer = dense([1.0, -2.0, 3.0], bias=[2.0])  # of 3, 1, 1: contributions 3, -2, 3 and 2: z = 6
    assert shares(RULES[0], layer, 3.0, 1.0, 1.0) == pytest.approx([6 * 3 / 8, 0, 6 * 3 / 8])
    assert shares(RULES[1], layer, 3.0, 1.0, 1.0) == pytest.approx([3, -2, 3])
    assert shares(Rules("epsilon", epsilon=6.0), layer, 3.0, 1.0, 1.0) == pytest.approx([1.5, -1, 1.5])
    # of -1, 1, 1: contributions -1, -2, 3, by a negative input and by a negative weight
    assert shares(RULES[0], layer, -1.0, 1.0, 1.0) == pytest.approx([0, 0, 2 * 3 / 5])
    assert shares(RULES[0], dense([-1.0, 2.0]), -1.0, 1.0) == pytest.approx([1, 2])
    assert shares(RULES[2], layer, 3.0, 1.0, 1.0) == pytest.approx([3, -2, 3])  # dense layers take epsilon


def test_gamma_favours_the_sign_of_the_output_in_convolutions():
    layer = dense([1.0, -2.0, 3.0], bias=[2.0])

    def convolved(x):
        return F.conv2d(x[..., None, None], layer.weight[..., None, None], layer.bias)[:, :, 0, 0]

    rules = Rules("gamma", gamma=0.5, epsilon=1e-12)  # z = 6 of 3, -2, 3, 2: positive 8, so 6 + 0.5 * 8 = 10
    assert shares(rules, convolved, 3.0, 1.0, 1.0) == pytest.approx([6 * 4.5 / 10, 6 * -2 / 10, 6 * 4.5 / 10])
    # z = -4 of 0, -6, 0, 2: negative -6, so -4 - 3 = -7
    assert shares(rules, convolved, 0.0, 3.0, 0.0) == pytest.approx([0, -4 * -9 / -7, 0])


def test_a_batch_norm_is_folded_into_the_layer_before_it():
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 4, 3).double(), nn.BatchNorm2d(4).double().eval()
    for values in (norm.running_mean, norm.weight, norm.bias):
        nn.init.uniform_(values, -1, 1)
    folded = nn.Conv2d(3, 4, 3).double()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded.weight.data = layer.weight.data * scale[:, None, None, None].data
    folded.bias.data = ((layer.bias - norm.running_mean) * scale + norm.bias).data
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    for rules in RULES:
        found = relevance(rules, lambda x: norm(layer(x)).relu().mean(dim=(2, 3)), x, ones)
        expected = relevance(rules, lambda x: folded(x).relu().mean(dim=(2, 3)), x, ones)
        torch.testing.assert_close(found, expected, **TIGHT)
        used_twice = relevance(rules, lambda x: (lambda z: norm(z) + z)(layer(x)).mean(dim=(2, 3)), x, ones)
        apart = relevance(rules, lambda x: (folded(x) + layer(x)).mean(dim=(2, 3)), x, ones)
        torch.testing.assert_close(used_twice, apart, **TIGHT)


def test_a_batch_norm_elsewhere_is_a_layer_of_its_own():
    norm = nn.BatchNorm1d(2).double().eval()
    norm.running_mean[:] = torch.tensor([-1.0, 1.0])
    value = [3.0 / (1 + norm.eps) ** 0.5, 0.0]  # of 2 and 1: 2 + 1 and 1 - 1
    assert shares(RULES[0], norm, 2.0, 1.0) == pytest.approx([value[0] * 2 / 3, 0])
    assert shares(RULES[1], norm, 2.0, 3.0) == pytest.approx([2 / (1 + norm.eps) ** 0.5, 3 / (1 + norm.eps) ** 0.5])


@pytest.mark.parametrize(
    "activation", [F.silu, F.gelu, F.hardswish, F.relu6, F.elu, F.mish, F.softplus, torch.tanh, F.relu, F.leaky_relu]
)
def test_relevance_passes_activations_unchanged(activation):
    values = torch.tensor([-2.0, -0.3, 0.0, 0.4, 9.0], dtype=torch.float64)
    expected = torch.where(values == 0, 0, activation(values))  # each input gets the output it makes
    assert shares(RULES[1], activation, *values.tolist()) == pytest.approx(expected.tolist())


def test_a_gate_gets_nothing_and_what_it_gates_everything():
    gate, signal = dense([1.0, 1.0]), dense([2.0, 1.0])
    found = shares(RULES[1], lambda x: signal(x) * gate(x).sigmoid(), 1.0, 3.0)
    times = torch.tensor(4.0).sigmoid().item()
    assert found == pytest.approx([2 * times, 3 * times])


def test_layer_norm_and_attention_hold_their_scale_and_scores_constant():
    x = torch.tensor([[[1.0, 3.0], [0.0, 1.0]]], dtype=torch.float64)
    found = relevance(RULES[1], lambda x: F.layer_norm(x, (2,))[:, 0], x[:, :1], lambda e: torch.tensor([[0.0, 1.0]]))
    assert found.flatten().tolist() == pytest.approx([-0.5, 1.5], rel=1e-4)  # (x_2 - (x_1 + x_2) / 2) / 1
    attention = (x @ x.mT / 2**0.5).softmax(dim=-1)
    expected = (attention[0, 0, :, None] * x[0]).flatten().tolist()
    for attend in (
        lambda x: F.scaled_dot_product_attention(x, x, x)[:, 0],
        lambda x: ((x @ x.transpose(1, 2) / 2**0.5).softmax(dim=-1) @ x)[:, 0],
    ):
        assert relevance(RULES[1], attend, x, ones).flatten().tolist() == pytest.approx(expected)
        assert totals(RULES[1], attend, x).flatten().tolist() == pytest.approx(attend(x).flatten().tolist())


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda x: x * x, "product"),
        (lambda x: x / x.sum(), "divisor"),
        (lambda x: x.cumsum(dim=1), "cumsum"),
        (lambda x: F.batch_norm(x, None, None, training=True), "running statistics"),
    ],
)
def test_what_has_no_rule_is_refused(function, what):
    with pytest.raises(UserError, match=what):
        relevance(RULES[0], function, torch.rand(3, 4), ones)


def test_bad_rules_are_refused():
    for make in (
        lambda: Rules("zplus", gamma=-1.0),
        lambda: RelevanceCAM(gamma=-1.0),
        lambda: RelevanceCAM(epsilon=0.0),
    ):
        with pytest.raises(UserError, match=r"(Rules|RelevanceCAM)\.\w+ is"):
            make()
