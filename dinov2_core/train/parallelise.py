"""How a network is spread over memory and processes. What it computes does not change but for rounding."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from dinov2_core.losses.distributed import world_size
from dinov2_core.model.attention import use_attention
from dinov2_core.train.recipe import EfficiencyConfig


def parallelise(
    network: nn.ModuleDict,
    efficiency: EfficiencyConfig,
    *,
    precision: torch.dtype,
    device: torch.device,
    trains: bool,
) -> None:
    """Prepare ``network`` (``objective.build_network``) in place: checkpointing, then compiling, then sharding.

    The order matters: the compiler sees the recomputation, and sharding wraps what is compiled, block by block. Names
    of parameters stay. A single process is not sharded and needs no process group.

    Args:
        precision: the dtype of the products, which is also what sharded weights travel in.
        trains: whether it takes gradients: the student does, teacher and average do not.
    """
    backbone, blocks = network["backbone"], list(network["backbone"].blocks)  # type: ignore[arg-type]
    network.to(device)
    use_attention(network, efficiency.attention)
    if trains and efficiency.checkpoint_activations:
        for block in blocks:
            # The random draws of stochastic depth are arguments of a block: nothing to restore.
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    if efficiency.compile:
        for block in blocks:
            block.compile()
    if world_size() > 1:
        mesh = init_device_mesh(device.type, (world_size(),))
        low = precision if efficiency.reduce == "low" else torch.float32
        # Autocast decides what is computed in which dtype, with and without shards: inputs are not cast here.
        narrow = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=low, cast_forward_inputs=False)
        wide = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
        # A root without a backward pass keeps whole weights by default, and would not see the next average.
        keep = None if trains else True
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=narrow, reshard_after_forward=True)
        fully_shard(backbone, mesh=mesh, mp_policy=narrow, reshard_after_forward=keep)
        for method in ("forward_list", "forward_used"):
            register_fsdp_forward_method(backbone, method)
        for name, module in network.items():
            if name != "backbone":
                fully_shard(module, mesh=mesh, mp_policy=wide, reshard_after_forward=keep)
