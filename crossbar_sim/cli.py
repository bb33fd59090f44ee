"""The command line: the table of commands, signals, and errors as one line. Commands are imported when called."""

import atexit
import io
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from importlib import import_module

import click

from crossbar_sim import __version__
from crossbar_sim.errors import InputError, silenced_warnings
from crossbar_sim.text import visible

COMMANDS = {
    "deploy": "Evaluate a trained model on simulated chips.",
    "sweep": "Compare models over a range of drift strengths.",
    "report": "Make a report page of the results of a sweep.",
    "results": "List or export the contents of a results file.",
    "merge": "Combine several results files into one.",
    "sensitivity": "Find the layers that lose most accuracy.",
    "calibrate": "Choose the ranges of DACs and ADCs from data.",
    "export": "Write the conductances of one chip to a file.",
    "info": "Show what a model file or a chip file contains.",
    "presets": "List hardware designs from publications.",
    "cost": "Estimate energy, latency and chip area.",
    "tradeoff": "Compare accuracy with energy, latency and area.",
    "solve": "Compute the currents of one tile with wire resistance.",
    "fit-device": "Fit a device model to your own measurements.",
    "train": "Train a network, plainly or robustly.",
    "search": "Find the most robust dropout rates (BayesFT).",
    "run": "Run an experiment that is described in a file.",
    "data": "List, check and download data sets.",
    "doctor": "Check that crossbar-sim works on this machine.",
}
"""The commands, in the order of `--help`."""


class _Commands(click.Group):
    """The commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context | None, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        file = import_module(f"crossbar_sim.commands.{name.replace('-', '_')}")
        found: click.Command = getattr(file, name.replace("-", "_"))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="crossbar-sim")
def cli() -> None:
    """Simulate trained neural networks on memristor crossbars."""


def main() -> None:
    """Run the command line: bad input gives one line and exit code 2; a signal ends the process at once."""
    _Stop.install()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # characters that the terminal cannot show are escaped
    try:
        code = run(sys.argv[1:])
    except BaseException:
        if not _Stop.code:
            raise
        code = _stopped()  # a library turned the interruption into another error
    if _Stop.code:
        with suppress(OSError):
            sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(code)  # deleting a large model can take seconds
    sys.exit(_flushed(code))


def _flushed(code: int) -> int:
    """The exit code after the rest of standard output is written, or discarded where it cannot be written."""
    if not isinstance(sys.stdout, io.TextIOWrapper) or sys.stdout.closed:
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would flush again as it ends, and turn the exit code into 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or 1
        return code or _fail(f"standard output: {error.strerror or error}")
    return code


class _Stop:
    """Handlers of Ctrl-C and of the signals that terminate a process: outputs stay unchanged.

    Some libraries swallow the interruption, or wait for their threads. So the process ends at the latest GRACE seconds
    after the signal, and at once after a second signal.
    """

    GRACE, AGAIN = 5.0, 1.0
    code = 0
    """The exit code, after a signal."""
    received = 0.0

    @classmethod
    def install(cls) -> None:
        """Handle these signals, except those that the process was started to ignore (by `nohup`, or a shell's `&`)."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in (
                signal.SIG_DFL,
                signal.default_int_handler,
            ):
                signal.signal(number, cls._handle)
        report = sys.unraisablehook
        sys.unraisablehook = lambda lost: None if cls.code else report(lost)

    @classmethod
    def _handle(cls, number: int, _frame: object) -> None:
        now = time.monotonic()
        if cls.code:
            if now - cls.received > cls.AGAIN:  # else the terminal and a parent process sent the same one
                cls._end()
            return
        cls.code, cls.received = 128 + number, now
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
            os.write(2, b"" if cls.printed else b"stopped\n")
        os._exit(cls.code)

    printed = False
    """Whether "stopped" has been printed."""


def _stopped() -> int:
    if not (_Stop.code and _Stop.printed):
        _Stop.printed = True
        click.echo("stopped", err=True)
    return _Stop.code or 130


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # deprecation warnings of torch, which a user cannot act on
    try:
        with silenced_warnings():  # commands print these warnings themselves
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
        sys.stderr.close()  # the reader has closed the pipe (| head)
        return 1
    except MemoryError:
        return _fail(
            "there is not enough memory for this model and these data: use fewer --images, or a larger machine"
        )
    except RecursionError:
        return _fail("an input is nested too deeply to be read: look for lists or layers inside one another")
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    return 0


def _fail(message: str) -> int:
    if _Stop.code:  # a library turned the interruption into this error
        return _stopped()
    click.echo(f"error: {visible(' '.join(message.split()))}", err=True)
    return 2
