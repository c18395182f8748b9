"""The command line. Commands are imported when they are called, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from typing import Any, final

import click

from vaepipe import __version__

COMMANDS = {
    "run": "Run the stages of a pipeline file that are not done yet.",
    "check": "Parse, assemble and rehearse pipeline files; write nothing.",
    "plan": "Show what is done, what would run, and what it needs.",
    "evaluate": "Evidence and ELBO of a model on data, as Parquet tables.",
    "encode": "Latents of every row of a dataset, as Parquet files.",
    "latents": "Verify latents, or compare two of them.",
    "lineage": "Follow latents back to model, run, data and plugins.",
    "report": "Make the page of a finished pipeline, an evaluation, latents or a model.",
    "sample": "Draw examples from a model.",
    "reconstruct": "Examples beside what a model makes of their codes.",
    "interpolate": "Examples between two codes.",
    "promote": "Move an alias of a registered model to a version.",
    "plugins": "Installed components, their options and abilities.",
    "runs": "Pipelines of a workspace and what became of their stages.",
    "doctor": "Diagnose this machine, the cluster and the tracking server.",
    "schema": "JSON Schema of the pipeline file, for editors.",
}


@final
class LazyGroup(click.Group):
    """Lists commands by name; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"vaepipe.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one line each, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest name for one that does not exist."""
        from vaepipe.errors import did_you_mean

        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(f"no command '{name}'.{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="vaepipe")
def root() -> None:
    """Fit, compare and use variational autoencoders.

    Results go to stdout, progress and logs to stderr. Exit codes: 0 ok, 1 failed, 2 you can fix it,
    3 finished but trials or shards failed, 4 a plugin is broken, 5 cluster or tracking server out
    of reach, 130 interrupted, 143 terminated.
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(call(args))


def call(args: list[str] | None = None) -> int:
    """Run the command line; its exit code."""
    from vaepipe.cli.signals import listening

    with listening() as asked:
        try:
            code = _call(args)
        except BaseException:
            if asked.code is None:
                raise
            click.echo("vaepipe: interrupted; run the same command again to continue.", err=True)
            return asked.code
        return code if code == 0 or asked.code is None else asked.code


def _call(args: list[str] | None) -> int:
    """Run the command line; what a user can understand becomes a message and a code."""
    from vaepipe.errors import ConfigError, VaepipeError

    try:
        return _code(root.main(args, prog_name="vaepipe", standalone_mode=False))
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except VaepipeError as error:
        prefix = "" if isinstance(error, ConfigError) or "\n" in str(error) else "vaepipe: "
        click.echo(f"{prefix}{error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _code(value: Any) -> int:
    return value if isinstance(value, int) else 0
