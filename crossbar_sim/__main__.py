"""The start of the command line, also of `python -m crossbar_sim`: it loads nothing before it hears Ctrl-C."""

import os
import signal


def main() -> None:
    """Load the command line and run it; stopped while it loads, the process says so and ends with code 130."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored, as by a shell's `&`
    if heard:
        # An exception would leave some library half loaded, or be made another one there.
        signal.signal(signal.SIGINT, _stopped)
    from crossbar_sim import cli

    try:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:  # before `cli.main` hears it, or after it has ended
        _stopped()


def _stopped(*_: object) -> None:
    os.write(2, b"stopped\n")
    os._exit(130)


if __name__ == "__main__":
    main()
