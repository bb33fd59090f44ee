"""The command line: parse, build objects, call, print. Commands import what they need when they run."""

import atexit
import io
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import click

from crossbar_sim import __version__
from crossbar_sim.cli_options import (
    build_hardware,
    chip_numbers,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    shape,
    split_options,
)
from crossbar_sim.commands.calibrate import calibrate
from crossbar_sim.commands.cost import cost
from crossbar_sim.commands.data import data
from crossbar_sim.commands.fit_device import fit_device
from crossbar_sim.commands.report import report
from crossbar_sim.commands.results import merge, results
from crossbar_sim.commands.run import run as run_command
from crossbar_sim.commands.search import search
from crossbar_sim.commands.sensitivity import sensitivity
from crossbar_sim.commands.solve import solve
from crossbar_sim.commands.sweep import sweep
from crossbar_sim.commands.train import train
from crossbar_sim.errors import InputError, held
from crossbar_sim.text import visible


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="crossbar-sim")
def cli() -> None:
    """What a trained network still does once its weights are memristor conductances."""


@cli.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@hardware_options()
@click.option("--data", help="A data set's name or a path (see `data list`).  [default: the model's own]")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--images", type=int, help="Use only this many examples, drawn by the seed.")
@click.option("--input-shape", help="Without data: the shape of one random input, e.g. 3,32,32.")
@click.option("--chips", help="How many chips, or which: 50:100.  [default: 20]")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--threshold", type=float, help="A chip passes at this score.  [default: clean score less 0.05]"
)
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "agreement", "output_error"]),
    help="What chips are judged by.  [default: the first that labels and outputs allow]",
)
@click.option(
    "--class-axis", type=int, help="Axis of the classes in the outputs, -1: the last.  [default: found]"
)
@click.option(
    "--only", multiple=True, help="Put only these layers on arrays (names or patterns, with commas)."
)
@click.option("--skip", multiple=True, help="Leave these layers digital (names or patterns, with commas).")
@click.option(
    "--calibration-data", help="Data that converter ranges are chosen on.  [default: --data's training split]"
)
@click.option(
    "--sensitivity-chips", default=5, show_default=True, help="Chips for per-layer sensitivity; 0: none."
)
@click.option(
    "--calibrate",
    type=click.Choice(["readout", "affine", "both"]),
    help="Fit a digital correction to each chip, on training images that are run on it (docs/methods.md).",
)
@click.option("--calibration-images", type=int, help="How many training images that takes.  [default: 500]")
@click.option("--conductances", type=click.Path(), help="Compute with the conductances of this chip file.")
@click.option("--remap", is_flag=True, help="Place weights by each chip's stuck cells (docs/devices.md).")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the report as JSON (- for standard output)."
)
@click.option("--plot", type=click.Path(), help="Draw the report: .png, .pdf or .svg.")
@click.option("--maps", type=click.Path(), help="Write the first chip's conductance maps (HDF5).")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@model_options
def deploy(**options: Any) -> None:
    """Say what MODEL still does on simulated chips, with intervals.

    MODEL is a torch.export archive (.pt2), a checkpoint of ours, or a state_dict with --arch.

    \b
    Examples:
      crossbar-sim deploy model.pt --sigma 0.6
      crossbar-sim deploy resnet18.pt2 --sigma 0.6 --data mine.npz --chips 50 --threshold 0.9 --plot out.png
      crossbar-sim deploy model.pt --preset reram_wan2022 --bias row --copies 4
    """
    from crossbar_sim.deploying import run_deploy

    design, rest = split_options(options)
    chips, sides = chip_numbers(rest.pop("chips")), shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path, designed = rest.pop("model"), any(value is not None for value in design.values())
    loaded = read_model(path, **model_ways(rest))
    inputs = (path, design["hardware_file"], rest["data"])
    run_deploy(
        loaded, hardware, told, chips=chips, designed=designed, inputs=inputs, input_shape=sides, **rest
    )


@cli.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path())
@hardware_options()
@click.option("--chip", default=0, show_default=True, help="Which chip.")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--only", multiple=True, help="Only these layers (name or pattern; repeatable).")
@click.option("--skip", multiple=True, help="Not these layers (name or pattern; repeatable).")
@model_options
def export(**options: Any) -> None:
    """Write one chip's conductance maps of MODEL to OUTPUT (HDF5, docs/format.md).

    \b
    Example:
      crossbar-sim export model.pt chip.h5 --sigma 0.6 --chip 3
    """
    from crossbar_sim.deploying import run_export

    design, rest = split_options(options)
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    run_export(loaded, hardware, told, inputs=(path, design["hardware_file"]), **rest)


@cli.command(no_args_is_help=True)
@click.argument("path", type=click.Path())
@model_options
def info(path: str, **options: Any) -> None:
    """Say what a model file or a chip file holds.

    \b
    Examples:
      crossbar-sim info model.pt
      crossbar-sim info chip.h5
    """
    from crossbar_sim.deploying import describe

    for name, text in describe(path, **options):
        click.echo(visible(f"{name:<16} {text}" if name else text))


@cli.command()
@click.argument("name", required=False)
@click.option("--laws", is_flag=True, help="List what --drift, --mapping and --programming take.")
def presets(name: str | None, laws: bool) -> None:
    """List the published designs, or print NAME as a file for --hardware.

    \b
    Examples:
      crossbar-sim presets
      crossbar-sim presets reram_wan2022 > mine.toml
    """
    from crossbar_sim.crossbar.config import to_toml
    from crossbar_sim.crossbar.config_text import forms
    from crossbar_sim.crossbar.presets import preset, preset_names

    if laws:
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
        click.echo(to_toml(found.hardware), nl=False)


@cli.command()
def doctor() -> None:
    """Check versions, kernels and the machine.

    \b
    Example:
      crossbar-sim doctor
    """
    from crossbar_sim.doctor import findings

    healthy = True
    for what, text, good in findings():
        click.echo(visible(f"{'ok ' if good else 'BAD'}  {what:<14} {text}"))
        healthy = healthy and good
    if not healthy:
        raise InputError("something above is not as it should be")


cli.add_command(calibrate)
cli.add_command(sweep)
cli.add_command(sensitivity)
cli.add_command(solve)
cli.add_command(run_command)
cli.add_command(train)
cli.add_command(search)
cli.add_command(report)
cli.add_command(merge)
cli.add_command(results)
cli.add_command(data)
cli.add_command(fit_device)
cli.add_command(cost)


def main() -> None:
    """Run the command line; every bad input is one line and exit code 2, and what is stopped ends at once."""
    _Stop.hear()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is written out
    try:
        code = run(sys.argv[1:])
    except BaseException:
        if not _Stop.code:
            raise
        code = _stopped()  # a library made another error of the interruption
    if _Stop.code:
        with suppress(OSError):
            sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(code)  # taking a large model apart can take seconds
    sys.exit(code)


class _Stop:
    """Ctrl-C and the signals that ask a process to end: work is interrupted, and its outputs stay as they were.

    Some libraries let an interruption get lost, or wait for their threads. So the process ends GRACE seconds after the
    signal in any case, and at once if another comes.
    """

    GRACE, AGAIN = 5.0, 1.0
    code = 0
    """The exit code, once a signal has come."""
    heard = 0.0

    @classmethod
    def hear(cls) -> None:
        """From now on, unless the process was started with a signal ignored (`nohup`, a shell's `&`)."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in (
                signal.SIG_DFL,
                signal.default_int_handler,
            ):
                signal.signal(number, cls._came)
        report = sys.unraisablehook
        sys.unraisablehook = lambda lost: None if cls.code else report(lost)

    @classmethod
    def _came(cls, number: int, _frame: object) -> None:
        now = time.monotonic()
        if cls.code:
            if now - cls.heard > cls.AGAIN:  # else the same one, from the terminal and from a parent
                cls._end()
            return
        cls.code, cls.heard = 128 + number, now
        timer = threading.Timer(cls.GRACE, cls._end)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    @classmethod
    def _end(cls) -> None:
        started = sys.modules.get("multiprocessing")
        for child in started.active_children() if started is not None else ():
            child.kill()
        with suppress(OSError):
            os.write(2, b"" if cls.said else b"stopped\n")
        os._exit(cls.code)

    said = False
    """Whether "stopped" is on the terminal."""


def _stopped() -> int:
    if not (_Stop.code and _Stop.said):
        _Stop.said = True
        click.echo("stopped", err=True)
    return _Stop.code or 130


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # torch's, on its own future: nothing that a user could change
    try:
        with held():  # commands print the sentences themselves
            cli.main(arguments, prog_name="crossbar-sim", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return _stopped()
    except InputError as error:
        return _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone (| head): nothing more can be said
        return 1
    except MemoryError:
        return _fail(
            "there is not enough memory for this model and these data: fewer --images, or a larger machine"
        )
    except RecursionError:
        return _fail("an input is nested too deeply to be read: look for lists or layers inside one another")
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    return 0


def _fail(message: str) -> int:
    if _Stop.code:  # what a library made of the interruption
        return _stopped()
    click.echo(f"error: {visible(' '.join(message.split()))}", err=True)
    return 2
