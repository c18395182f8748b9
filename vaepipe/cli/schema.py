"""`vaepipe schema`: JSON Schema of the pipeline file."""

from __future__ import annotations

import click

from vaepipe.cli.options import echo_json


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of the pipeline file, for editors.

    It knows the installed components and their options. With the output in pipeline.schema.json,
    the first line of a file may be: # yaml-language-server: $schema=pipeline.schema.json
    """
    from vaepipe.pipeline.schema import json_schema

    echo_json(json_schema())
    return 0
