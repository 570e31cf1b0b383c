"""Vectors out of files: embeddings of a gallery, and proxies of losses."""

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_metric_learning import losses
from safetensors.torch import save_file

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_json
from sfam_bench.core.references import NamedVectors
from sfam_bench.models.vectors import read_proxies, read_vectors, write_proxies

MATRIX = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))


def test_vectors_are_read_from_each_kind_of_file(tmp_path):
    np.save(tmp_path / "a.npy", MATRIX.numpy())
    save_file({"gallery": MATRIX, "more": torch.zeros(3)}, tmp_path / "a.safetensors")
    wide = pd.DataFrame(MATRIX.numpy()).rename(columns=str)
    wide.assign(image_id=[*"wxyz"]).to_parquet(tmp_path / "wide.parquet")
    pd.DataFrame({"name": [*"wxyz"], "embedding": [*MATRIX.numpy()]}).to_parquet(tmp_path / "long.parquet")
    for file, names in (
        ("a.npy", "0123"),
        ("a.safetensors", "0123"),
        ("wide.parquet", "wxyz"),
        ("long.parquet", "wxyz"),
    ):
        found = read_vectors(tmp_path / file)
        torch.testing.assert_close(found.vectors, MATRIX)
        assert found.names == tuple(names)
        torch.testing.assert_close(found.of([names[2], names[0]]).embeddings, MATRIX[[2, 0]])


@pytest.mark.parametrize(
    ("loss", "each"),
    [
        (lambda: losses.ArcFaceLoss(4, 16), 1),
        (lambda: losses.ProxyAnchorLoss(4, 16), 1),
        (lambda: losses.NormalizedSoftmaxLoss(4, 16), 1),
        (lambda: losses.SoftTripleLoss(4, 16, centers_per_class=2), 2),
        (lambda: losses.SubCenterArcFaceLoss(num_classes=4, embedding_size=16, sub_centers=2), 2),
    ],
    ids=["arcface", "proxy_anchor", "normalised_softmax", "soft_triple", "subcentre_arcface"],
)
def test_a_proxy_is_what_its_loss_compares_with(tmp_path, loss, each):
    """An embedding equal to a proxy is nearest to the class that the loss gives it."""
    torch.manual_seed(0)
    criterion = loss()
    torch.save(criterion.state_dict(), tmp_path / "loss.pth")
    found = read_proxies(tmp_path / "loss.pth", ["a", "b", "c", "d"])
    assert found.names == tuple(name for name in "abcd" for _ in range(each))
    assert write_proxies(criterion, ["a", "b", "c", "d"], tmp_path)
    write_json(tmp_path / "model.json", {"proxy_classes": [*"abcd"]})
    ours = read_proxies(tmp_path / "proxies.safetensors")
    assert ours.names == found.names
    assert torch.equal(ours.vectors, found.vectors)
    if hasattr(criterion, "get_logits"):
        assert criterion.get_logits(found.vectors).argmax(dim=1).tolist() == [k for k in range(4) for _ in range(each)]
    else:  # the loss of an embedding at a proxy is least for its own class
        at = [[float(criterion(row[None], torch.tensor([k]))) for k in range(4)] for row in found.vectors]
        assert [int(np.argmin(row)) for row in at] == list(range(4))


def test_centres_have_a_mean():
    found = NamedVectors(("a", "b", "a", "b"), MATRIX)
    torch.testing.assert_close(found.mean().vectors, torch.stack([MATRIX[::2].mean(0), MATRIX[1::2].mean(0)]))
    with pytest.raises(UserError, match="'a' has 2 centres"):
        found.of(["a"])


def test_bad_files_are_one_line(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros(3))
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    np.save(tmp_path / "zeros.npy", np.zeros((2, 3)))
    save_file({"a": MATRIX, "b": MATRIX.clone()}, tmp_path / "two.safetensors")
    for call, message in (
        (lambda: read_vectors(tmp_path / "none.npy"), "there are no vectors at"),
        (lambda: read_vectors(tmp_path / "flat.npy"), r"expected numbers, \(items, dims\)"),
        (lambda: read_vectors(tmp_path / "broken.npy"), "cannot read vectors"),
        (lambda: read_vectors(tmp_path / "two.safetensors"), "2 matrices that could be the vectors"),
        (lambda: read_vectors(tmp_path / "zeros.npy").of(["1"]), "reference vector 0 is all zeros"),
        (lambda: read_vectors(tmp_path / "zeros.npy").of(["wren"]), "there is no vector of 'wren': known are 0, 1"),
        (lambda: read_proxies(tmp_path / "two.safetensors"), "does not show which entry holds the proxies"),
        (lambda: read_proxies(tmp_path / "two.safetensors", ["x", "y", "z"], "a"), "4 proxies for 3 classes"),
    ):
        with pytest.raises(UserError, match=message):
            call()
