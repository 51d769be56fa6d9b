"""Low-rank adapters (LoRA, Hu et al., 2021, arXiv 2106.09685) inside our transformer."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from cdlm.model.backbones import Backbone
from cdlm.model.network.gate import LowRankUpdate
from cdlm.model.network.transformer import Transformer
from cdlm.training.backbone.config import LoraSection
from cdlm.training.errors import TrainingError

_NAME = "default"  # PEFT may hold several adapters; this is its name for the first.


def add_adapter(model: Transformer, section: LoraSection) -> None:
    """Adds LoRA to the named projections of each layer. Only LoRA trains, in fp32 whatever the base's dtype.

    A is random (torch's generator), B is zero: the model's output does not change.
    """
    config = LoraConfig(r=section.r, lora_alpha=section.alpha, target_modules=list(section.targets), bias="none")
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()


def check_names(model: Transformer, backbone: Backbone) -> None:
    """Raises ``TrainingError`` if the format stores an adapted projection as a part of another: it has no file then."""
    for name in adapter_weights(model):
        stored = backbone.stored_module(name)
        if backbone.module_name(stored) != name:
            raise TrainingError(f"[lora] targets: {name} is a part of {stored} in this format; leave it out")


def start_from(model: Transformer, updates: Mapping[str, LowRankUpdate], section: LoraSection) -> None:
    """Sets the adapter's weights to ``updates``, by module name in ``Transformer``.

    Raises:
        TrainingError: they belong to other modules, or have another rank or scale than ``section``.
    """
    own = adapter_weights(model)
    wrong = sorted(own.keys() ^ updates.keys())
    if wrong:
        raise TrainingError(f"start: {wrong[0]} is in one of the two adapters only")
    for name, (down, up) in own.items():
        update = updates[name]
        if update.down.shape != down.shape or update.scale != section.alpha / section.r:
            raise TrainingError(f"start: {name} has another rank or scale than [lora] says")
        down.copy_(update.down)
        up.copy_(update.up)


def compile_layers(model: Transformer) -> None:
    """Compiles each layer with ``torch.compile``; all layers share the code. It needs a C++ compiler."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for layer in model.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def checkpoint_gradients(model: Transformer) -> None:
    """Enables gradient checkpointing per layer: the backward pass recomputes each layer (arXiv 1604.06174)."""
    for layer in model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class AdapterParameters(nn.Module):
    """The adapter's parameters as a module, so that saved states do not contain the frozen base."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        for name, parameter in trainable(model).items():
            self.register_parameter(name.replace(".", "/"), parameter)  # A parameter's name may not have dots.


@contextlib.contextmanager
def without_adapter(model: Transformer) -> Iterator[None]:
    """A context in which the adapter is off."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_weights(model: Transformer) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name in ``Transformer`` -> A [r, in] and B [out, r].

    Gathers sharded weights: all processes of the group must call it.
    """
    weights = dict(model.named_parameters())
    down, up = f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"
    names = [name.removesuffix(down) for name in weights if name.endswith(down)]
    return {name: (whole(weights[name + down]), whole(weights[name + up])) for name in names}


def whole(tensor: Tensor) -> Tensor:
    """The full value of a tensor that may be sharded over processes."""
    detached = tensor.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """Moves ``value``, equal on all processes, to the device of ``like`` and shards it the same way."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value
