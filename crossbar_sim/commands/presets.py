"""`crossbar-sim presets`: published designs."""

from dataclasses import dataclass

import click

from crossbar_sim.commands.options import argument, command, option


@dataclass(frozen=True)
class PresetsRequest:
    """What `presets` is to do."""

    name: str | None = argument(required=False)
    laws: bool = option("List the laws that --drift, --mapping and --programming take.")


@command(PresetsRequest)
def presets(request: PresetsRequest) -> None:
    """List hardware designs from publications, or print one of them as a design file.

    The output for NAME can be saved, edited and given to the other commands with --hardware.

    \b
    Examples:
      crossbar-sim presets
      crossbar-sim presets reram_wan2022 > mine.toml
    """
    from crossbar_sim.crossbar.configuration import forms, to_toml
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.crossbar.presets import preset, preset_names

    name = request.name
    if request.laws:
        for family in ("drift", "mapping", "programming"):
            click.echo(f"{family}:")
            for form, text in forms(family):
                click.echo(f"  {form:<58} {text}")
    elif name is None:
        for known in preset_names():
            click.echo(f"{known:<16} {preset(known).summary}")
        click.echo("\nDetails: crossbar-sim presets NAME")
    else:
        found = preset(name)
        for text in found.about():
            click.echo(f"# {text}")
        click.echo(to_toml(Hardware.preset(name)), nl=False)
