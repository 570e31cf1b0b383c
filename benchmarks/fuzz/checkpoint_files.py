"""Files of weights that are damaged, of another kind than their name says, or hold code."""

import json
import pickle
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.fuzz.checkpoint_layouts import Case, Networks, Way, features, saved
from benchmarks.fuzz.damage_bytes import damage


class Code:
    """Leaves a file where it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('ran', 'w').close()",)


def damaged(networks: Networks, random: Random, folder: Path) -> Case:
    """Damaged bytes of torch's container, which has checksums."""
    path = saved(features(networks), folder, random.choice(("weights.pth", "weights.pt", "weights.ckpt")))
    what = damage(path, random.randrange(6), random)
    return Case(what, path, networks.pooled)


def damaged_header(networks: Networks, random: Random, folder: Path) -> Case:
    """A safetensors file whose header is damaged or lies; its values carry no checksum."""
    path = folder / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in features(networks).items()}, path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    key = random.choice(sorted(name for name in header if name.endswith(".weight")))
    how = random.choice(
        ("flipped", "huge length", "other shape", "other type", "swapped", "beyond", "cut", "no header", "renamed")
    )
    if how == "flipped":
        at = random.randrange(8 + size)
        data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    elif how == "huge length":
        data = (2**60).to_bytes(8, "little") + data[8:]
    elif how in ("cut", "no header"):
        data = data[: random.randrange(9, len(data))] if how == "cut" else rest
    else:
        entry = header[key]
        if how == "other shape":
            entry["shape"] = [int(np.prod(entry["shape"]))]
        elif how == "other type":
            entry["dtype"] = "I32"
        elif how == "swapped":
            other = random.choice(sorted(name for name in header if name.endswith(".bias")))
            entry["data_offsets"], header[other]["data_offsets"] = header[other]["data_offsets"], entry["data_offsets"]
        elif how == "beyond":
            entry["data_offsets"] = [len(rest), len(rest) * 2]
        else:
            header[f"{key}x"] = header.pop(key)
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + rest
    path.write_bytes(data)
    return Case(f"safetensors header: {how}", path, networks.pooled)


def zipped(networks: Networks, random: Random, folder: Path) -> Case:
    """The archive of torch.save, rebuilt with something wrong."""
    path = saved(features(networks), folder, "whole.pth")
    how = random.choice(
        ("a member less", "a member cut", "compressed", "another pickle", "huge member", "no members", "doubled")
    )
    out = folder / "weights.pth"
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if how == "compressed" else 0) as new,
    ):
        names = [] if how == "no members" else old.namelist()
        chosen = random.choice([name for name in old.namelist() if "/data/" in name])
        for name in names:
            data = old.read(name)
            if name == chosen and how in ("a member less", "a member cut"):
                if how == "a member less":
                    continue
                data = data[: len(data) // 2]
            if name.endswith("data.pkl") and how == "another pickle":
                data = pickle.dumps({"a": [1, 2]})
            new.writestr(name, data)
            if name == chosen and how == "doubled":
                new.writestr(name, bytes(len(data)))
        if how == "huge member":
            new.writestr("archive/data/huge", bytes(10**8), zipfile.ZIP_DEFLATED)
    return Case(f"archive: {how}", out, networks.pooled)


def code(networks: Networks, random: Random, folder: Path) -> Case:
    """Files that hold code: nothing of it may run."""
    how = random.choice(
        ("an entry", "beside", "old format", "plain pickle", "a module", "TorchScript", "numpy", "our name")
    )
    state: dict[str, Any] = dict(features(networks))
    path = folder / ("weights.safetensors" if how == "our name" else "weights.pth")
    if how == "an entry":
        torch.save({**state, "x": Code()}, path)
    elif how == "beside":
        torch.save({"state_dict": state, "hook": Code()}, path)
    elif how == "old format":
        torch.save({**state, "x": Code()}, path, _use_new_zipfile_serialization=False)
    elif how in ("plain pickle", "our name"):
        path.write_bytes(pickle.dumps({**{key: value.numpy() for key, value in state.items()}, "x": Code()}))
    elif how == "a module":
        torch.save(networks.body, path)
    elif how == "TorchScript":
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    else:
        torch.save({key: value.numpy() for key, value in state.items()}, path)
    return Case(f"code: {how}", path, None)


def shared_storage(networks: Networks, random: Random, folder: Path) -> Case:
    """Tensors that are views of one storage, or the same tensor twice."""
    state = features(networks)
    keys = [key for key, value in state.items() if value.is_floating_point()]
    flat = torch.cat([state[key].flatten() for key in keys])
    at, views = 0, dict(state)
    for key in keys:
        views[key] = flat[at : at + state[key].numel()].view(state[key].shape)
        at += state[key].numel()
    old = random.random() < 0.5
    path = folder / "weights.pth"
    torch.save(views, path, _use_new_zipfile_serialization=not old)
    return Case(f"views of one storage{', old format' if old else ''}", path, networks.pooled, sound=True)


def other_kind(networks: Networks, random: Random, folder: Path) -> Case:
    """No file of weights, or one by a name of another kind."""
    state = {key: value.contiguous() for key, value in features(networks).items()}
    how = random.choice(
        (
            "torch as safetensors",
            "safetensors as pth",
            "no suffix",
            "bin",
            "gz",
            "empty",
            "folder",
            "missing",
            "JSON",
            "npz",
            "link",
        )
    )
    suffix = {"torch as safetensors": ".safetensors", "no suffix": "", "bin": ".bin", "gz": ".pth.gz"}.get(how, ".pth")
    path = folder / f"weights{suffix}"
    known = networks.pooled
    if how == "safetensors as pth":
        save_file(state, path)
    elif how in ("torch as safetensors", "no suffix", "bin", "gz"):
        torch.save(state, path)
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        torch.save(state, folder / "there")
        path.symlink_to(folder / "there")
    elif how == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    elif how != "missing":
        path.write_bytes(b"" if how == "empty" else b'{"a": 1}')
    return Case(f"{how}: {path.name}", path, known)


WAYS: tuple[Way, ...] = (damaged, damaged_header, code, zipped, damaged, other_kind, damaged_header, shared_storage)
