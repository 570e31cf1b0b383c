"""Compare networks by name with their own forward pass, and measure for which of them the decomposition is exact."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine, unit
from sfam_bench.core.types import Images
from sfam_bench.evaluation import libraries
from sfam_bench.explainers.shared.forms import contributions
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build
from sfam_bench.models.cuts import distance_of, enlarged, probe_images
from sfam_bench.models.layouts import Size, size_of
from sfam_bench.models.networks import network
from sfam_bench.models.poolings import Own
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.wrapping import wrap

# A small member of each family
_TIMM = (
    "beit_base_patch16_224 botnet26t_256 resnext26ts cait_xxs24_224 coat_lite_tiny convit_tiny convmixer_768_32 "
    "convnextv2_atto crossvit_tiny_240 csatv2 cspresnet50 davit_tiny deit_tiny_distilled_patch16_224 "
    "deit3_small_patch16_224 densenet121 dla34 edgenext_xx_small efficientformer_l1 efficientformerv2_s0 "
    "efficientnet_lite0 efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 "
    "focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_atto "
    "inception_v3 lcnet_050 levit_128s mambaout_femto maxvit_pico_rw_256 poolformer_s12 mixer_s32_224 "
    "mobilenetv3_small_050 mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small nfnet_f0 pit_ti_224 pvt_v2_b0 rdnet_tiny "
    "regnetx_002 repghostnet_050 repvit_m1 res2net50_26w_4s resnest14d resnetv2_18 rexnet_100 selecsls42 seresnet33ts "
    "sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 "
    "swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 twins_svt_small "
    "visformer_tiny vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224 vitamin_small_224 volo_d1_224 "
    "ese_vovnet19b_slim xception41 xcit_nano_12_p16_224 vit_base_patch16_siglip_224 vit_small_patch14_dinov2 "
    "vit_small_patch16_dinov3 vit_tiny_patch16_224"
)
TIMM = tuple(_TIMM.split())
_TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mnasnet0_5 mobilenet_v2 "
    "mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t vgg11 vit_b_32"
)
TORCHVISION = tuple(_TORCHVISION.split())
NETWORKS = (
    *(f"timm/{name}" for name in TIMM),
    *(f"torchvision/{name}" for name in TORCHVISION),
    *libraries.NETWORKS,
)
INTRODUCTION = """# Networks and their cuts

A member of each family, with random weights, beside a second network of its library with the same weights. The
difference is the largest one between the embeddings of four test images, of two sizes where the network allows it, as
unit vectors; above 1e-4 a network is refused. The residual is what the exact decomposition leaves over of the cosine
of two images, relative to it: near zero where pooling and projection are homogeneous of degree one; about one where a
norm behind the pooling, or the class token, makes the shares sum to zero. Regenerate the page with `make networks`, and
check one network with `sfam-bench models check NAME`.
"""
HEAD = """| family | network | cut | channels, grid | dims | difference | residual |
| :-- | :-- | :-- | :-- | --: | --: | --: |"""


@dataclass(frozen=True)
class Equality:
    """A network by name beside itself.

    Attributes:
        name: SOURCE/NAME.
        family: the module of the source in which it is defined.
        layer: the layer at the cut.
        grid: channels, rows and cols of the activations.
        dims: of the embedding.
        difference: the largest difference of unit vectors from the network's own embeddings.
        residual: what the decomposition of a pair's cosine leaves over, relative to it; near zero where it is exact.
        refused: why the network cannot be cut; empty where it can.
    """

    name: str
    family: str
    layer: str = ""
    grid: tuple[int, ...] = ()
    dims: int = 0
    difference: float = float("nan")
    residual: float = float("nan")
    refused: str = ""


def compare(name: str, seed: int = 0) -> Equality:
    """Compare SOURCE/NAME, with random weights, with a second network of the source that has the same weights.

    Weights near zero (LayerScale, zero-initialised norms) are random too, and batch norms have the statistics of the
    test images, so that no path is without influence and no activation vanishes.
    """
    source, _, member = name.partition("/")
    torch.manual_seed(seed)
    try:
        whole, pixels = network(source, member) if source not in libraries.MAKERS else (libraries.make(name), None)
        family = type(whole).__module__.rpartition(".")[2]
        with enlarged(whole):
            _settle_norms(whole, pixels or nn.Identity(), _size(source, whole))
            model, probes = _cut_by_name(source, member, whole) if pixels else _wrap(source, member, whole)
            read = pixels or next(model.trunk.children())
            whole.eval()
            with torch.no_grad():
                pairs = [(model(images), unit(libraries.read(whole(read(images))))) for images in probes]
            first = model.encode(probes[0])
            other = first.embeddings.flip(0)
            shares = contributions(model, first, Cosine().direction(first.embeddings, other)).sum(dim=(1, 2, 3))
            scores = (first.embeddings * other).sum(dim=1)
    except UserError as error:
        return Equality(name, _family(source, member), refused=str(error))
    return Equality(
        name,
        family,
        model.layer,
        tuple(first.activations.shape[1:]),
        first.embeddings.shape[1],
        max(distance_of(found, own) for found, own in pairs),
        float(((shares - scores) / scores).abs().max()),
    )


def _settle_norms(whole: nn.Module, pixels: nn.Module, size: Size) -> None:
    """Give batch norms the statistics of the test images and of changes of them: behind a pooling, two are too few."""
    norms = [module for module in whole.modules() if isinstance(module, _BatchNorm)]
    if norms:
        whole.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of what was seen
            norm.train()
        with torch.no_grad():
            images = probe_images(size)
            whole(pixels(torch.cat([images, images.flip(-1) ** 2, 1 - images.flip(-2), images.roll(1, 1).sqrt()])))


def _size(source: str, whole: nn.Module) -> Size:
    known = libraries.SIZES.get(source)
    if known is None:
        rows, cols = getattr(whole, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[1:]
        return rows, cols
    return known if isinstance(known, tuple) else (known, known)


def _cut_by_name(source: str, member: str, whole: nn.Module) -> tuple[SimilarityModel, list[Images]]:
    """The model of a network by name with the weights of `whole`, and the images to compare them on."""
    cut = trunk_and_tail(source, member, state=dict(whole.state_dict()))
    model = build(member, cut, Own(), Cosine(), image_size=size_of(cut.probes[0].images))
    return model, [images for images, _ in cut.probes]


def _wrap(source: str, member: str, whole: nn.Module) -> tuple[SimilarityModel, list[Images]]:
    """The same for a module of another library."""
    model = wrap(deepcopy(whole), image_size=libraries.SIZES.get(source), name=member)
    return model, [probe_images(model.geometry.size)]


def _family(source: str, member: str) -> str:
    known = source == "timm" and timm.is_model(member)
    return timm.model_entrypoint(member).__module__.rpartition(".")[2] if known else source


def compare_all(names: Iterable[str] = NETWORKS) -> Iterator[Equality]:
    """Compare each network in turn."""
    return map(compare, names)


def format_row(row: Equality) -> str:
    """A line of the Markdown table below HEAD."""
    start = f"| {row.family} | {row.name} |"
    if row.refused:
        return f"{start} refused: {row.refused.replace('|', ' ')} | | | | |"
    channels, rows, cols = row.grid
    cut = f"`{row.layer}` | {channels}, {rows} x {cols} | {row.dims}"
    return f"{start} {cut} | {row.difference:.0e} | {row.residual:.0e} |"
