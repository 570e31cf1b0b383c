"""Part agreement: by hand and against scipy, blind, true and inverse maps, and the script on planted birds."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.attributes import GROUPS
from sfam_bench.datasets.cub import cub
from sfam_bench.evaluation.part_agreement import METRIC, SHUFFLED, PartAgreement, encode_images, shuffle_classes
from sfam_bench.explainers.controls import Chance, LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.part_agreement import rank_agreement, relevance_near_parts
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel
from sfam_bench.runs.reader import read_records, read_run
from tests.scripts import Run

SEEDS = st.integers(0, 10_000)


def tables(seed: int, refs: int = 9, parts: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(refs, parts)), random.random((refs, parts))


def centred(table: np.ndarray) -> np.ndarray:
    return table - table.mean(axis=1, keepdims=True)


def value(relevance: np.ndarray, agreement: np.ndarray) -> float:
    found, why = rank_agreement(relevance, agreement)
    assert not why
    return found


# The rank correlation


def test_by_hand() -> None:
    # centred, the first part has relevance 1, 2, 3 and the second -1, -2, -3; the agreements rise 1, 3, 2 and fall
    relevance = np.array([[2.0, 0], [5, 1], [8, 2]])
    agreement = np.array([[0.2, 0.0], [0.6, 0], [0.4, 0]])
    assert value(relevance, agreement) == pytest.approx(0.5)  # of both: ranks 1, 2, 3 and 1, 3, 2


@given(SEEDS)
def test_is_the_mean_of_scipys_spearman_over_parts(seed: int) -> None:
    relevance, agreement = tables(seed)
    agreement = agreement.round(1)  # with ties
    one, other = centred(relevance), centred(agreement).round(9)
    parts = [spearmanr(one[:, part], other[:, part]).statistic for part in range(4)]
    assert value(relevance, agreement) == pytest.approx(np.mean(parts))


@given(SEEDS, st.floats(0.01, 100))
def test_what_follows_the_agreement_scores_1_and_its_inverse_minus_1(seed: int, scale: float) -> None:
    _, agreement = tables(seed)
    level = np.random.default_rng(seed + 1).normal(size=(9, 1))  # of the whole map, by reference
    assert value(scale * agreement + level, agreement) == pytest.approx(1)
    assert value(level - scale * agreement, agreement) == pytest.approx(-1)


@given(SEEDS, st.floats(0.01, 100))
def test_range_and_invariance(seed: int, scale: float) -> None:
    relevance, agreement = tables(seed)
    found = value(relevance, agreement)
    assert -1 <= found <= 1
    assert value(scale * relevance, agreement) == pytest.approx(found)
    assert value(-relevance, agreement) == pytest.approx(-found)
    order = np.random.default_rng(seed).permutation(9)
    assert value(relevance[order], agreement[order]) == pytest.approx(found)


@given(SEEDS, st.floats(0, 1e-7))
def test_a_blind_map_scores_exactly_0_in_spite_of_rounding(seed: int, noise: float) -> None:
    relevance, agreement = tables(seed)
    assert value(relevance[:1] * (1 + noise * relevance), agreement) == 0


def test_shuffled_references_score_0_on_average() -> None:
    relevance, agreement = tables(0, refs=12)
    relevance = agreement + 0.1 * relevance
    random = np.random.default_rng(0)
    found = [value(relevance, agreement[random.permutation(12)]) for _ in range(400)]
    assert value(relevance, agreement) > 0.5
    assert abs(np.mean(found)) < 3 * np.std(found) / 20


def test_what_does_not_count() -> None:
    relevance, agreement = tables(1)
    hidden, unknown = relevance.copy(), agreement.copy()
    hidden[:, 2], unknown[4, 2] = np.nan, np.nan
    fewer = value(np.delete(relevance, 2, axis=1), np.delete(agreement, 2, axis=1))
    assert value(hidden, agreement) == value(relevance, unknown) == fewer


def test_a_constant_map_counts_as_no_relevance_and_one_that_is_not_finite_as_no_value() -> None:
    maps, points = torch.rand(6, 4, 5), torch.tensor([[1.0, 1.0, 1], [3.0, 2.0, 1]])
    maps[1:3] = 0.5
    relevance, flag = PartAgreement().relevance(maps, (8, 10), points)
    assert not flag
    assert (relevance[1:3] == 0).all()
    maps[3:5] = 0.5
    assert PartAgreement().relevance(maps, (8, 10), points)[1] == "constant_map"
    maps[1:5] = torch.rand(4, 4, 5)
    maps[5, 0, 0] = torch.nan
    assert PartAgreement().relevance(maps, (8, 10), points)[1] == "nonfinite_map"


@pytest.mark.parametrize(
    ("refs", "parts", "reason"), [(2, 4, "few_references"), (5, 1, "few_parts"), (5, 0, "few_parts")]
)
def test_too_little_to_tell(refs: int, parts: int, reason: str) -> None:
    found, why = rank_agreement(*tables(2, refs, parts))
    assert (np.isnan(found), why) == (True, reason)


def test_parts_of_unknown_colour_tell_nothing() -> None:
    relevance, agreement = tables(2)
    agreement[:, 1:] = np.nan
    assert rank_agreement(relevance, agreement)[1] == "unknown_parts"


def test_references_that_are_all_alike_tell_nothing() -> None:
    relevance, agreement = tables(3)
    found, why = rank_agreement(relevance, np.repeat(agreement[:1], 9, axis=0))
    assert (np.isnan(found), why) == (True, "equal_references")


# Relevance near a part


def test_relevance_is_the_mean_under_the_gaussian_by_hand() -> None:
    maps = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    keypoints = torch.tensor([[2.0, 3.5, 1], [8.9, 0.1, 1], [4.0, 4.0, 0]])
    found = relevance_near_parts(maps, keypoints, 1.7)
    for part, (x, y, _) in enumerate(keypoints[:2].tolist()):
        weight = np.array(
            [[np.exp(-((c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2) / 2 / 1.7**2) for c in range(9)] for r in range(6)]
        )
        for pair in range(2):
            assert float(found[pair, part]) == pytest.approx(
                (maps[pair].numpy() * weight).sum() / weight.sum(), abs=1e-6
            )
    assert found[:, 2].isnan().all()


def test_a_flat_map_is_equally_relevant_everywhere_up_to_the_border() -> None:
    keypoints = torch.tensor([[0.0, 0.0, 1], [20.0, 10.0, 1], [39.9, 19.9, 1]])
    torch.testing.assert_close(
        relevance_near_parts(torch.full((1, 20, 40), -0.3), keypoints, 5.0).float(), torch.full((1, 3), -0.3)
    )


# Whole classes are exchanged


@given(SEEDS)
def test_shuffling_exchanges_whole_classes(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = random.integers(0, 5, 20)
    found = shuffle_classes(classes, random)
    taken = {label: set(classes[found[classes == label]].tolist()) for label in set(classes.tolist())}
    assert all(len(others) == 1 for others in taken.values())
    assert sorted(other for others in taken.values() for other in others) == sorted(taken)
    assert all(others != {label} for label, others in taken.items()) or len(taken) == 1


# Planted birds: three parts in three corners, each of one colour; activations are the colours themselves

SPECIES = {1: "rgb", 2: "rgr", 3: "rbb", 4: "ggb", 5: "bbr", 6: "grg"}
CORNERS = ((4, 4), (28, 4), (4, 28))  # x, y of back, beak and belly
COLOURS = {"r": "red", "g": "green", "b": "blue"}


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six species of two birds in CUB's official layout; all other parts are hidden."""
    home = tmp_path_factory.mktemp("birds") / "CUB_200_2011"
    names = [f"has_{group}_color::{colour}" for group in dict.fromkeys(GROUPS) for colour in COLOURS.values()]
    table = np.zeros((len(SPECIES), len(names)))
    lines: dict[str, list[str]] = {name: [] for name in ("images.txt", "image_class_labels.txt", "parts/part_locs.txt")}
    for label, parts in SPECIES.items():
        for part, colour in zip(GROUPS, parts, strict=False):
            table[label - 1, names.index(f"has_{part}_color::{COLOURS[colour]}")] = 90
        for copy in range(2):
            image_id, file = 2 * label + copy, f"{label:03d}.Bird/bird_{copy}.png"
            pixels = np.full((32, 32, 3), 10 + 5 * copy, dtype=np.uint8)
            for (x, y), colour in zip(CORNERS, parts, strict=True):
                pixels[max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4, "rgb".index(colour)] = 250
            (home / "images" / file).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(home / "images" / file)
            lines["images.txt"].append(f"{image_id} {file}")
            lines["image_class_labels.txt"].append(f"{image_id} {label}")
            for part in range(15):
                x, y = CORNERS[part] if part < 3 else (0, 0)
                lines["parts/part_locs.txt"].append(f"{image_id} {part + 1} {x} {y} {int(part < 3)}")
    (home / "parts").mkdir()
    (home / "attributes").mkdir()
    for name, text in lines.items():
        (home / name).write_text("\n".join(text) + "\n")
    (home / "attributes" / "attributes.txt").write_text("\n".join(f"{i + 1} {n}" for i, n in enumerate(names)))
    np.savetxt(home / "attributes" / "class_attribute_labels_continuous.txt", table)
    return home


class Pixels(torch.nn.Module):
    """Activations = the image at a quarter of its size; one dead weight, since a model has a device."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 4) + 0 * self.dead


@dataclass(frozen=True)
class Product:
    """Where query and reference have the same colour at the same place: the truth about these birds."""

    sign: float = 1.0

    def __call__(self, model, encoded, pairs):
        return self.sign * (encoded.query.activations * encoded.terms[0].side.activations).sum(dim=1)


@dataclass(frozen=True)
class Flat:
    """A constant, or NaN."""

    level: float = 0.0

    def __call__(self, model, encoded, pairs):
        return torch.full_like(encoded.query.activations[:, 0], self.level)


def measured(home: Path, explainers: dict[str, object], batch: int = 32, **settings: int) -> pd.DataFrame:
    data = cub(home, geometry=Geometry(None, 32))
    model, chosen = SimilarityModel(Pixels(), Embedder(GAP()), Cosine()).eval(), list(data.index.index)
    metric = PartAgreement(queries=6, sigma=0.1, **settings)
    encoded = encode_images(model, data, chosen, batch)
    pairs = metric.pairs(data, model.similarity, encoded.side.embeddings, chosen)
    found = metric(model, data, encoded, pairs, explainers, metric.colours(data), batch)
    return pd.DataFrame([vars(record) for records in found for record in records])


def test_the_truth_scores_best_its_inverse_worst_and_blind_maps_0(birds: Path) -> None:
    methods = {"truth": Product(), "inverse": Product(-1.0), "sfam": SFAM(), "lafam": LaFAM(), "chance": Chance()}
    found = measured(birds, methods)
    assert found.groupby(["explainer", "metric"]).size().eq(6).all()
    means = found[found.metric == METRIC].groupby("explainer").value.mean()
    assert means["truth"] > 0.85
    assert means["inverse"] < -0.85
    assert means["truth"] > means["sfam"] > means["chance"]
    assert (found[found.explainer == "lafam"].value == 0).all()
    shuffles = found[(found.metric == SHUFFLED) & (found.explainer == "truth")].value
    assert shuffles.mean() < 0.6


def test_values_do_not_hang_on_the_batch(birds: Path) -> None:
    one, many = (measured(birds, {"sfam": SFAM(), "chance": Chance()}, batch) for batch in (1, 32))
    pd.testing.assert_frame_equal(one, many, rtol=1e-6)


def test_maps_that_say_nothing_are_flagged(birds: Path) -> None:
    found = measured(birds, {"flat": Flat(), "nan": Flat(float("nan"))})
    assert found.value.isna().all()
    assert set(zip(found.explainer, found.flag, strict=True)) == {("flat", "constant_map"), ("nan", "nonfinite_map")}


def test_references_are_the_nearest_of_other_classes_few_of_each(birds: Path) -> None:
    data = cub(birds, geometry=Geometry(None, 32))
    chosen = list(data.index.index)
    gallery = torch.nn.functional.normalize(torch.rand(12, 5, generator=torch.Generator().manual_seed(0)))
    for per_class, count in ((1, 5), (2, 10)):
        pairs = PartAgreement(queries=12, per_class=per_class).pairs(data, Cosine(), gallery, chosen)
        assert sorted(pairs.query_id) == sorted(chosen)
        assert pairs.query_label.iloc[:6].nunique() == 6  # each class once before any again
        for row in pairs.itertuples():
            labels = data.index.label[row.references]
            assert len(set(row.references)) == count
            assert row.query_label not in set(labels)
            assert labels.value_counts().eq(per_class).all()
            scores = (gallery[[chosen.index(i) for i in row.references]] @ gallery[chosen.index(row.query_id)]).numpy()
            assert (np.diff(scores) <= 1e-6).all()
            assert row.score == pytest.approx(scores.mean(), abs=1e-5)
    assert all(len(ids) == 3 for ids in PartAgreement(references=3).pairs(data, Cosine(), gallery, chosen).references)


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"references": 2}, {"per_class": 0}, {"sigma": 0.0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(wrong))}( is |=){next(iter(wrong.values()))}"):
        PartAgreement(**wrong)


# The script

MODEL = ["model.image_size=32", "agreement.queries=4"]


def call(home: Path, run: Path, *more: str) -> list[str]:
    return ["part_agreement", "dataset=cub", f"dataset.root={home}", *MODEL, f"run_dir={run}", *more]


@pytest.mark.slow
def test_the_script_leaves_a_run_folder_that_is_continued_and_reported(
    run_script: Run, birds: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, out, err = run_script(*call(birds, run))
    assert code == 0, err
    assert "records of 4 queries" in out
    first = read_run(run)
    assert first.manifest["attributes"] == "class"
    assert first.manifest["blind"]
    assert set(read_records(first.root).query_id) == set(first.pairs.query_id)
    assert set(read_records(first.root).metric) == {METRIC, SHUFFLED}
    assert not read_records(first.root).duplicated(["explainer", "metric", "query_id"]).any()
    assert set(read_records(first.root).value[read_records(first.root).explainer == "lafam"].dropna()) == {0}

    (run / "records" / "00002.parquet").unlink()
    code, _, err = run_script(*call(birds, run, "resume=true"))
    assert code == 0, err
    pd.testing.assert_frame_equal(read_records(run), read_records(first.root), check_exact=True)

    code, _, err = run_script("report", f"runs=[{run}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    summary = pd.read_csv(tmp_path / "report" / "summary.csv")
    own = summary[summary.metric == METRIC]
    assert set(own.explainer) == set(read_records(first.root).explainer)
    assert own["clustered"].astype(str).eq("True").all()
    assert json.loads((run / "manifest.json").read_text())["retrieval"]["count"] > 0


def test_other_data_sets_are_refused_in_one_line(run_script: Run, birds: Path, tmp_path: Path) -> None:
    small = ["dataset.size=32", "dataset.train_per_class=1", "dataset.test_per_class=1", "model.image_size=32"]
    code, _, err = run_script("part_agreement", *small, f"run_dir={tmp_path / 'run'}")
    assert code == 2
    assert "error: planted does not have CUB's 15 parts: part agreement needs dataset=cub" in err
    code, _, err = run_script(*call(birds, tmp_path / "run", "target=margin"))
    assert code == 2
    assert "the margin target" in err
    (birds / "attributes").rename(tmp_path / "attributes")
    code, _, err = run_script(*call(birds, tmp_path / "run"))
    (tmp_path / "attributes").rename(birds / "attributes")
    assert code == 2
    assert "part agreement needs CUB's attributes" in err
    assert not (tmp_path / "run").exists()


def test_real_birds(run_script: Run, shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "CUB_200_2011"
    few = ["model.image_size=64", "agreement.queries=2"]
    code, _, err = run_script(
        "part_agreement",
        "dataset=cub",
        f"dataset.root={root}",
        *few,
        "explainer=[lafam,chance]",
        f"run_dir={tmp_path}/run",
    )
    assert code == 0, err
    records = read_records(tmp_path / "run")
    assert records.value[records.explainer == "lafam"].eq(0).all()
    assert records.value[records.explainer == "chance"].abs().between(1e-9, 0.5).all()
