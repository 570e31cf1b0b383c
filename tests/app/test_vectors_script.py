"""Class proxies and stored embeddings as references, from training to the report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.models.vectors import read_proxies
from sfam_bench.runs.reader import read_image, read_records, read_run
from tests.app.test_bad_input import mistake, says
from tests.scripts import Run

pytestmark = pytest.mark.slow

DATA = [
    *("dataset=planted", "dataset.size=32", "dataset.train_per_class=4", "dataset.test_per_class=2"),
    *("model=planted_net", "model.image_size=32", "loss=arcface"),
]
SMALL = ["explainer=[sfam,stylianou]", "metric=[deletion,evidence,margin]", "steps.intervals=4"]


@pytest.fixture(scope="module")
def trained(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("proxies") / "train"
    code, _, err = run_script("train", *DATA, "train.epochs=1", f"run_dir={run}")
    assert code == 0, err
    return run


def test_proxies_explain_images_of_their_classes(run_script: Run, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call = [
        *(
            *DATA[:-1],
            *SMALL,
            f"model.checkpoint={trained}/model.safetensors",
            "split=train",
            "protocol.allow=[closed_set]",
        ),
        *("vectors=proxies", f"vectors.vectors.path={trained}/proxies.safetensors", "vectors.count=4", "batch_size=4"),
        *(
            "vectors.kinds=[own_class,nearest_other]",
            "maps.pictures=2",
            "unsupported=skip",
            "target=margin",
            "min_range=1e-9",
        ),
    ]
    code, out, err = run_script("evaluate", *call, f"run_dir={run}")
    assert code == 0, err
    assert "unsupported: stylianou" in out  # it needs positions of the reference
    records, stored = read_records(run), read_run(run)
    assert set(records["explainer"]) == {"sfam", "pair"}
    assert records.loc[records["metric"].str.startswith("deletion"), "value"].notna().any()
    assert list(stored.pairs["kind"].value_counts()) == [4, 4]
    assert (stored.pairs["reference_class"] == stored.pairs["query_class"]).sum() == 4
    code, _, err = run_script("report", f"runs=[{run}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    unknown = run_script("evaluate", *call, "vectors.vectors.classes=[x,y]", f"run_dir={tmp_path / 'unknown'}")
    says(mistake(unknown), "classes have no vector, such as", "the vectors are of x, y")


def test_stored_embeddings_are_references_of_test_images(run_script: Run, trained: Path, tmp_path: Path) -> None:
    dims = read_proxies(trained / "proxies.safetensors").vectors.shape[1]
    np.save(tmp_path / "stored.npy", np.random.default_rng(0).normal(size=(5, dims)))
    call = [*DATA[:-1], *SMALL[:1], "metric=[deletion]", "steps.intervals=4", "unsupported=skip", "vectors=stored"]
    call += [f"model.checkpoint={trained}/model.safetensors", "vectors.count=3"]
    path = f"vectors.vectors.path={tmp_path / 'stored.npy'}"
    code, _, err = run_script("evaluate", *call, path, f"run_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert set(read_run(tmp_path / "run").pairs["reference_id"]) <= {*"01234"}
    ids = read_run(tmp_path / "run").pairs["query_id"].unique()
    images = pd.DataFrame({"name": ids, "vector": [*np.eye(len(ids), dims)]})
    images.to_parquet(tmp_path / "images.parquet")
    named = f"vectors.vectors.path={tmp_path / 'images.parquet'}"
    code, _, err = run_script("evaluate", *call, named, "maps.pictures=all", f"run_dir={tmp_path / 'images'}")
    assert code == 0, err
    found = read_run(tmp_path / "images")
    for image_id in {*found.pairs["reference_id"]}:  # a vector of an image, which is a query of another pair
        assert np.asarray(read_image(found.root, found.manifest, image_id)).std(axis=2).any()
    np.save(tmp_path / "other.npy", np.ones((5, dims + 1)) + np.eye(5, dims + 1))
    other = f"vectors.vectors.path={tmp_path / 'other.npy'}"
    says(mistake(run_script("evaluate", *call, other, f"run_dir={tmp_path / 'b'}")), "give vectors of the same space")
    both = ["episodes=n_way", path, f"run_dir={tmp_path / 'c'}"]
    says(mistake(run_script("evaluate", *call, *both)), "not both")
