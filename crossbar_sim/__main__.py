"""Entry point of the command line, also of `python -m crossbar_sim`: Ctrl-C is handled before any import."""

import os
import signal


def main() -> None:
    """Import the command line and run it; Ctrl-C meanwhile prints "stopped" and ends with 130."""
    # A shell's `&` starts a process with the signal ignored.
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handled:
        # A KeyboardInterrupt could leave a library half imported, or be turned into another error there.
        signal.signal(signal.SIGINT, _stopped)
    from crossbar_sim import cli

    try:
        if handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:  # before `cli.main` handles it, or after it has ended
        _stopped()


def _stopped(*_: object) -> None:
    os.write(2, b"stopped\n")
    os._exit(130)


if __name__ == "__main__":
    main()
