"""Maps of the images that a reference was made of."""

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, Reference, Term
from sfam_bench.core.targets import can_swap
from sfam_bench.core.types import RawMaps
from sfam_bench.evaluation.evaluate import raw_maps, swap_pairs
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.products import product_shares
from sfam_bench.models.similarity_model import SimilarityModel


def support_maps(explainer: Explainer, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
    """A map of each support: its share in the reference times the map of its comparison with the query.

    (entries, grid rows, grid cols), in the order of the reference's `blend`. Under cosine and dot, maps of additive
    methods add up over supports to the score. Under the squared distance each support has its own distance, whose mean
    is that to the prototype plus the spread of the supports. One image has share 1, and the map of the swapped pair.

    Raises:
        UserError: if the target has several references, or its reference is a vector.
    """
    if len(encoded.terms) != 1 or encoded.terms[0].rivals:
        raise UserError(
            "only the supports of a target with one reference have maps: explain its comparisons one by one"
        )
    if can_swap(encoded):  # one image, whose share is 1
        return raw_maps(explainer, model, *swap_pairs(encoded, pairs))
    (term,) = encoded.terms
    blend = term.side.images_for("a map of its supports")
    other = Reference.of(encoded.query.take(blend.pairs))
    swapped = Encoded(blend.side.take(blend.rows), (Term(term.sign, other),), encoded.passes)
    ids = [tuple(of[pair] for pair in blend.pairs.tolist()) for of in (pairs.query_ids, pairs.reference_ids)]
    own = tuple(f"{name}/{row}" for name, row in zip(ids[1], blend.rows.tolist(), strict=True))
    batch = PairBatch(own, ids[0], swapped.query.images, other.images)
    shares = product_shares(model, blend, term.side.embeddings)
    return raw_maps(explainer, model, swapped, batch) * shares[:, None, None]
