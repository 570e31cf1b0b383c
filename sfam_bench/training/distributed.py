"""Several processes under torchrun, each with its share of every batch; or one."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

LATEST = timedelta(hours=2)  # the other processes wait while the first one validates


def join_group() -> torch.device | None:
    """Join the processes that torchrun started; returns the GPU of this one, None where there is none of either."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", timeout=LATEST)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=LATEST)
    return device


def leave_group() -> None:
    """Leave them, where there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; the first one writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_rows(share: Tensor) -> Tensor:
    """The rows of all processes, in their order; differentiable.

    Each process then has the loss of the whole batch. Its gradient comes back as the sum over the processes, of which
    DDP takes the mean: that of one process with the whole batch.
    """
    gathered: Tensor = _Gather.apply(share) if world_size() > 1 else share
    return gathered


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process says so, so that all of them stop at the same update."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        shares = [torch.empty_like(share) for _ in range(world_size())]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
