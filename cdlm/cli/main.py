"""The ``cdlm`` command: one sub-command a file, nothing heavy imported before it is needed."""

import typer

from cdlm.cli import bench, evaluate, generate, key, plan, serve, train
from cdlm.cli.doctor import command as doctor

app = typer.Typer(
    name="cdlm",
    help="Serve, try, measure, plan and train block-causal diffusion language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serve.register(app)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("plan")(plan.plan)
doctor.register(app)
app.command("key")(key.key)
app.add_typer(train.app, name="train")


def main() -> None:
    """Entry point of the console script."""
    app()
