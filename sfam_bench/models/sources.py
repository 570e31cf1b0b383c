"""Models of transformers and open_clip by folder or name, with exactly their own embedding."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.geometry import Size
from sfam_bench.core.protocol import RANDOM
from sfam_bench.core.similarity import SimilarityFunction
from sfam_bench.models.build import describe_file
from sfam_bench.models.outputs import Where
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.wrapping import wrap

TOWERS = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}  # the part that reads images
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def transformers_model(
    folder: str,
    similarity: SimilarityFunction,
    layer: str | None = None,
    read: Where = None,
    head: nn.Module | None = None,
    normalise: bool = True,
    name: str | None = None,
    image_size: Size | None = None,
) -> SimilarityModel:
    """A model in a local folder of transformers (`save_pretrained`), with the embedding that it returns.

    Args:
        folder: holds config.json, and the weights; without weights they are random.
        similarity: the similarity of two embeddings.
        layer: the cut; None for the last tokens or grid.
        read: name of the embedding in the output; None for `image_embeds` or `pooler_output`.
        head: a module from the embedding to another one; None for none.
        normalise: whether embeddings are scaled to length 1.
        name: in tables; None for the name of the folder.
        image_size: px, or (rows, cols); None for that of the folder's preprocessor_config.json.

    Raises:
        UserError: if transformers or the folder's model is missing, or it cannot be cut.
    """
    library, place = _import("transformers"), Path(folder).expanduser()
    config = place / "config.json"
    if not config.is_file():
        raise UserError(f"{folder} has no config.json: give a folder of transformers' save_pretrained")
    try:
        settings = library.AutoConfig.from_pretrained(place, local_files_only=True)
        kind = getattr(library, TOWERS.get(settings.model_type, "AutoModel"))
        found = next((place / file for file in WEIGHTS if (place / file).is_file()), None)
        if found is None:
            module, absent = _from_config(kind, settings), ["trunk"]
        else:
            module, info = kind.from_pretrained(place, local_files_only=True, output_loading_info=True)
            absent = sorted({key.split(".")[0] for key in info["missing_keys"]})
    except (OSError, ValueError, ImportError, RuntimeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"transformers cannot read {folder} ({first_line(error, 160)})") from error
    model = wrap(
        module.float().eval(),
        layer,
        similarity=similarity,
        read=read,
        head=head,
        normalise=normalise,
        name=name or place.name,
        image_size=image_size,
    )
    model.origin = {
        "weights": RANDOM if found is None else f"file {describe_file(found)}",
        "random": [*absent, *model.origin.get("random", [])],
        **({} if found is None else {"source": "transformers", "chosen": "unknown"}),
    }
    return model


def open_clip_model(
    architecture: str,
    similarity: SimilarityFunction,
    weights: str | None = None,
    layer: str | None = None,
    head: nn.Module | None = None,
    normalise: bool = True,
    name: str | None = None,
    image_size: Size | None = None,
) -> SimilarityModel:
    """The image tower of an architecture of open_clip, with weights from a file; random ones without.

    `layer`, `head`, `normalise`, `name` and `image_size` are those of `transformers_model`.

    Raises:
        UserError: if open_clip, the architecture or the file is missing, or the tower cannot be cut.
    """
    library = _import("open_clip")
    if architecture not in library.list_models():
        raise UserError(f"open_clip has no architecture '{architecture}': see open_clip.list_models()")
    if weights is not None and not Path(weights).is_file():
        raise UserError(f"there are no weights at {weights}: give a file of open_clip")
    try:
        tower = library.create_model(architecture, pretrained=weights, load_weights=weights is not None).visual
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"open_clip cannot build {architecture} ({first_line(error, 160)})") from error
    model = wrap(
        tower.eval(),
        layer,
        similarity=similarity,
        head=head,
        normalise=normalise,
        name=name or architecture,
        image_size=image_size,
    )
    if weights is None:
        model.origin = {"weights": RANDOM, "random": ["trunk"]}
    else:
        known = {"source": "open_clip", "chosen": "unknown"}
        model.origin = {"weights": f"file {describe_file(Path(weights))}", "random": [], **known}
    return model


def _from_config(kind: Any, settings: Any) -> nn.Module:
    made: nn.Module
    if hasattr(kind, "from_config"):
        made = kind.from_config(settings)
    else:
        made = kind(getattr(settings, "vision_config", settings))
    return made


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed ({error}): pip install '.[sources]' in the clone") from error
