"""Training in several processes under torchrun, each with a share of every batch, or in one."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=2)  # the other processes wait while the first one validates


def join_group() -> torch.device | None:
    """Join the processes started by torchrun and return the device of this one; None for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", timeout=TIMEOUT)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=TIMEOUT)
    return device


def leave_group() -> None:
    """Leave the process group if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; only rank 0 writes files and logs."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather_rows(share: Tensor) -> Tensor:
    """Concatenate the rows of all processes in rank order; differentiable.

    Each process then computes the loss of the whole batch. The backward pass sums gradients over processes, and DDP
    averages them, so that the result equals that of one process with the whole batch.
    """
    gathered: Tensor = _Gather.apply(share) if world_size() > 1 else share
    return gathered


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process, so that all stop at the same update."""
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
