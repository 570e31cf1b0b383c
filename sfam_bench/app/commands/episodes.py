"""Embed a split and print the accuracy of N-way K-shot classification over random episodes.

Examples:

    sfam-bench episodes experiment=few_shot/planted_protonet
    sfam-bench episodes dataset=folder dataset.root=photos model=lite0 'shots=[1]' episodes.queries=5
    sfam-bench episodes experiment=few_shot/cub_protonet_conv4 model.checkpoint=RUN/model.safetensors 'shots=[1,5]'

Settings: shots, split, batch_size, device.
"""

import json
from dataclasses import replace

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import check_protocol, dataset_and_model, image_ids
from sfam_bench.app.presets import read_published_few_shot
from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.retrieval.few_shot import describe_episodes, episode_facts
from sfam_bench.retrieval.recall import embed


@script("episodes")
def main(cfg: DictConfig) -> None:
    if not cfg.shots:
        raise UserError("shots=[] gives no episode: give one or more, as in shots=[1,5]")
    if not cfg.episodes:
        raise UserError("episodes is null: choose episodes=n_way")
    dataset, model = dataset_and_model(cfg)
    chosen = image_ids(dataset, cfg.split)
    protocol = check_protocol(cfg, dataset, model, chosen)
    several = [replace(build(cfg.episodes), shots=shots) for shots in cfg.shots]
    for episodes in several:
        episodes.check(dataset, chosen)  # before images are embedded
    gallery = embed(model, dataset, chosen, cfg.batch_size)
    preset = str(HydraConfig.get().runtime.choices.get("experiment")).removeprefix("few_shot/")
    found = []
    for episodes in several:
        facts = episode_facts(episodes, dataset, model.similarity, gallery, chosen)
        published = read_published_few_shot().get((preset, episodes.shots))
        found.append({**facts, **({"published": published} if published else {})})
        print(describe_episodes(facts))
    of = {"dataset": dataset.name, "split": f"{cfg.split}: {dataset.split_name}", "model": model.name}
    print(json.dumps({**of, "similarity": model.similarity.name, "protocol": protocol, "episodes": found}, indent=2))
