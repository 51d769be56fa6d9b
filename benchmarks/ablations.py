"""Ablations of the recipe: trains students without one part each, and measures them on development problems.

    .venv/bin/python benchmarks/ablations.py --run runs/nano --output runs/ablations --steps 400 --count 200

All variants start from the teacher of ``--run`` and, except for other block lengths, use its trajectories. Finished
variants are kept: a killed run can be repeated.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cdlm.cli.eval.table import TASKS, make_table
from cdlm.training.config import RecipeConfig, read_config
from cdlm.training.descent.parallel import launch
from cdlm.training.student.run import run_student
from cdlm.training.trajectories.run import run_trajectories

# Not the checkpoint's own threshold: the teacher's checkpoint has another one than the students'.
ROWS = "student_tau_0.9,student_tau_0.95,student_tau_0.99"

VARIANTS: dict[str, dict[str, Any]] = {
    "untrained teacher": {},
    "all three losses": {"student": {}},
    "no consistency": {"student": {"consistency": 0.0}},
    "no distillation": {"student": {"distillation": 0.0}},
    "no masked likelihood": {"student": {"dlm": 0.0}},
    "block 16": {"student": {}, "manifest": {"block_length": 16}},
}


def main(
    run: Annotated[Path, typer.Option(help="Run directory of the recipe, with teacher and trajectories.")],
    output: Annotated[Path, typer.Option(help="Where the variants are trained.")],
    config: Annotated[Path, typer.Option(help="The recipe.")] = Path("training/configs/nano.toml"),
    steps: Annotated[int, typer.Option(help="Student steps of every variant.")] = 400,
    count: Annotated[int, typer.Option(help="Development problems of each task.")] = 200,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 0,
    variants: Annotated[str, typer.Option(help="Their names, separated by commas.")] = ",".join(VARIANTS),
    workers: Annotated[int, typer.Option(help="Processes, one per core.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Trains and measures every variant."""
    recipe, rows = read_config(config, RecipeConfig), []
    unknown = set(variants.split(",")) - VARIANTS.keys()
    if unknown:
        raise typer.BadParameter(f"no such variants: {', '.join(sorted(unknown))}")
    for name, changes in VARIANTS.items():
        if name not in variants.split(","):
            continue
        directory = output / "".join(letter if letter.isalnum() else "_" for letter in name)
        train(recipe, run, directory, changes, steps, workers)
        table = make_table(
            count=count, seed=seed, split="development", latency_count=5, generation_length=192, runs=directory,
            tasks=TASKS, rows=ROWS, answers=directory / "answers", json_file=None, picture=None,
        )  # fmt: skip
        for row in table["rows"]:
            kept = ("name", "task", "n", "score", "interval", "denoise_steps", "tokens_per_step", "generated_length")
            rows.append({"variant": name, **{key: row[key] for key in kept}})
    text = json.dumps({"steps": steps, "split": "development", "seed": seed, "rows": rows}, indent=2)
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


def train(
    recipe: RecipeConfig, run: Path, directory: Path, changes: dict[str, dict[str, Any]], steps: int, workers: int
) -> None:
    """Trains a variant in ``directory``; without a student section, the variant is the teacher itself."""
    directory.mkdir(parents=True, exist_ok=True)
    sections = {key: getattr(recipe, key).model_copy(update=values) for key, values in changes.items()}
    shared = ["teacher"] if "manifest" in changes else ["teacher", "trajectories"]
    if "student" in sections:
        sections["student"] = sections["student"].model_copy(update={"steps": steps})
    else:
        shared = ["teacher"]
        link(run / "teacher", directory / "student")
    for stage in shared:
        link(run / stage, directory / stage)
    variant = recipe.model_copy(update=sections)
    if "manifest" in changes:
        launch(run_trajectories, workers, variant, directory)
    if "student" in sections:
        launch(run_student, workers, variant, directory)


def link(target: Path, path: Path) -> None:
    """Creates a symbolic link unless it exists."""
    if not path.is_symlink():
        path.symlink_to(target.resolve(), target_is_directory=True)


if __name__ == "__main__":
    typer.run(main)
