"""Prints the findings of ``cdlm doctor``."""

from collections.abc import Iterator
from typing import Any

import typer

from cdlm.cli.display import quantity

_MAIN_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "torchao")


def print_findings(found: dict[str, Any]) -> None:
    """Prints one line per part, the flags, the warnings, and whether the model can be served."""
    for name, text in _lines(found):
        typer.echo(f"{name:15}{text}")
    if found["flags"] is not None:
        typer.echo("flags")
        for name, value in found["flags"].items():
            if value is not None:
                typer.echo(f"  --{name.replace('_', '-')} {str(value).lower() if isinstance(value, bool) else value}")
    for warning in found["warnings"]:
        typer.echo(f"warning: {warning}")
    if found["problem"] is not None:
        typer.echo(f"The model cannot be served: {found['problem']}")
    elif found["model"] is not None:
        typer.echo("The model can be served.")


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if system := found["system"]:
        inside = f", in a container of {system['container']}" if system["container"] else ""
        yield "system", f"Python {system['python']}, {system['platform']}{inside}"
    if versions := found["packages"]:
        named = [f"{name} {versions.get(name) or 'is not installed'}" for name in _MAIN_PACKAGES]
        yield "versions", ", ".join([f"cdlm-serve {versions['cdlm-serve']}", *named])
    if processor := found["processor"]:
        yield (
            "processor",
            f"{processor['name']}, {processor['usable_cores']} of {processor['cores']} cores, torch uses "
            f"{processor['torch_capability']} and up to {processor['torch_threads']} threads",
        )
    if gpus := found["gpus"]:
        yield "GPUs", _gpus(gpus)
    for name in ("memory", "shared_memory"):
        if size := found[name]:
            yield name.replace("_", " "), _free(size)
    for name, disk in (found["disks"] or {}).items():
        yield f"disk, {name.replace('_', ' ')}"[:15].ljust(15), f" {_free(disk)} at {disk['path']}"
    if model := found["model"]:
        yield "model", _model(model)


def _gpus(gpus: dict[str, Any]) -> str:
    build = f"torch for CUDA {gpus['torch_cuda']}" if gpus["torch_cuda"] else "torch without CUDA"
    driver = f", driver {gpus['driver']}" if gpus["driver"] else ""
    names = [f"{gpu['name']} ({_free(gpu)})" for gpu in gpus["seen_by_torch"]]
    return f"{', '.join(names) or 'none that torch sees'}; {build}{driver}"


def _model(model: dict[str, Any]) -> str:
    return (
        f"{model['name']}: format {model['format']}, {quantity(model['parameters'], '').strip()} parameters, weights "
        f"{quantity(model['weight_bytes'], 'B')} of {quantity(model['free_bytes'], 'B')} free, then a KV pool of "
        f"{quantity(model['pool_bytes'], 'B')} for {model['full_contexts']} requests of the full context"
    )


def _free(size: dict[str, Any]) -> str:
    return f"{quantity(size['free'], 'B')} free of {quantity(size['total'], 'B')}"
