"""ProtoShotXAI and C3A: identities, and definitions in plain loops."""

from dataclasses import replace

import pytest
import torch

from sfam_bench.core.records import Reference, Term
from sfam_bench.core.references import Supports
from sfam_bench.core.similarity import Cosine, Dot
from sfam_bench.core.targets import ClassScore, Similarity
from sfam_bench.explainers.c3a import C3A
from sfam_bench.explainers.protoshotxai import ProtoShotXAI
from sfam_bench.models.similarity_model import encode_pairs
from tests.explainers.masked import added
from tests.explainers.masked import setting as additive
from tests.explainers.networks import CLOSE, setting

SUPPORTS = torch.rand(4, 3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def squares(rows, cols, half):
    """Where the square around each pixel lies, from `half` before it to as far behind it."""
    for i in range(rows):
        for j in range(cols):
            yield slice(max(i - half, 0), i + half), slice(max(j - half, 0), j + half)


def test_on_an_additive_score_protoshotxai_sums_the_contributions_of_each_square():
    model, encoded, pairs = additive(Dot(), additive=True)
    maps = ProtoShotXAI(window=0.5, grid=11, baseline="zeros")(model, encoded, pairs)  # 4 of 8 pixels
    assert maps.shape == (2, 11, 8)
    values = added(model, encoded)
    expected = [values[:, down, right].sum(dim=(1, 2)) for down, right in squares(11, 8, 2)]
    torch.testing.assert_close(maps.flatten(1), torch.stack(expected, dim=1), **CLOSE)


def test_a_coarse_grid_has_the_positions_at_the_centres_of_its_cells():
    of = additive(Cosine())
    fine, coarse = (ProtoShotXAI(window=0.5, grid=grid)(*of) for grid in (11, 3))
    torch.testing.assert_close(coarse, fine[:, [1, 5, 9]][:, :, [1, 4, 6]], **CLOSE)
    assert ProtoShotXAI(grid=3).forwards(of[1].query) == 10


def dn4(points, others, nearest):
    """The sum over positions of the greatest cosines with other positions."""
    total = 0.0
    for point in points.flatten(1).T:
        lengths = [max(float(point.norm() * other.norm()), 1e-9) for other in others]  # dead positions
        cosines = [float(point @ other) / length for other, length in zip(others, lengths, strict=True)]
        total += sum(sorted(cosines)[-nearest:])
    return total


def positions(model, images):
    return [point for one in model.run_trunk(images) for point in one.flatten(1).T]


def by_definition(model, image, sets, nearest):
    """The map of one query: sets of (weight, supports)."""

    described = [(weight, positions(model, images)) for weight, images in sets]

    def value(x):
        points = model.run_trunk(x[None])[0]
        return sum(weight * dn4(points, others, nearest) for weight, others in described)

    found = []
    for down, right in squares(7, 5, 1):
        hidden = image.clone()
        hidden[:, down, right] = 0
        found.append(value(image) - value(hidden))
    return torch.tensor(found, dtype=torch.float64).view(7, 5)


@torch.no_grad()
def test_c3a_of_prototypes_and_rivals_by_its_definition():
    model, _, pairs = setting()
    own = Supports(SUPPORTS, ((0, 1), (2, 3)), tuple("stuv"))
    rivals = Supports(SUPPORTS, ((2,), (0,)), tuple("stuv")), Supports(SUPPORTS, ((3,), (1,)), tuple("stuv"))
    seen = encode_pairs(model, ClassScore(), pairs.query, own, rivals=rivals)
    maps = C3A(alpha=0.3, nearest=3, window=0.4, grid=7, baseline="zeros")(model, seen, pairs)
    for row, (near, far) in enumerate((((0, 1), (2, 3)), ((2, 3), (0, 1)))):
        sets = [(0.7, SUPPORTS[list(near)]), (-0.3, SUPPORTS[list(far)])]
        torch.testing.assert_close(maps[row], by_definition(model, pairs.query[row], sets, 3), **CLOSE)


def test_without_contrast_c3a_is_scaled_and_takes_all_positions_where_there_are_fewer():
    model, _, pairs = setting()
    seen = encode_pairs(model, Similarity(), pairs.query, Supports(SUPPORTS, ((0,), (1,)), tuple("stuv")))
    plain = C3A(alpha=0.0, nearest=12, window=0.4, grid=7)(model, seen, pairs)
    torch.testing.assert_close(C3A(0.25, 1000, 0.4, 7)(model, seen, pairs), 0.75 * plain, **CLOSE)


def test_two_references_with_the_same_images_have_no_contrast():
    model, encoded, pairs = setting(target="margin")
    same = replace(
        encoded, terms=tuple(Term(sign, Reference.of(encoded.terms[0].side.side_for("a test"))) for sign in (1.0, -1.0))
    )
    assert C3A()(model, same, pairs).abs().max() < 1e-12
    assert C3A(alpha=0.4)(model, same, pairs).abs().max() > 1e-6


@pytest.mark.parametrize("method", [C3A(), ProtoShotXAI()], ids=["c3a", "protoshotxai"])
def test_passes_are_those_stated(method):
    model, encoded, pairs = setting()
    assert method.forwards(encoded.query) == 1 + 7 * 5
    assert method(model, encoded, pairs).shape == (2, 7, 5)
