"""Processes, devices and precision of an adapter's training."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy

from cdlm.training.backbone.config import OptimizationSection


def make_accelerator(section: OptimizationSection) -> Accelerator:
    """Makes an ``Accelerator`` for the processes that ``torchrun`` started, on GPUs if there are any.

    With ``fsdp`` and more than one process, each layer's weights are sharded, and gathered when it runs.
    """
    plugin = _sharding() if section.fsdp else None
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=section.mixed_precision, fsdp_plugin=plugin
    )
    if plugin and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate enables FSDP on accelerators only, but its code also runs on CPUs.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _sharding() -> FullyShardedDataParallelPlugin:
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Layer"],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
        # Autocast sets the precision. A policy would also round the rotary angles, which are inputs of a layer.
        mixed_precision_policy=MixedPrecisionPolicy(),
    )
