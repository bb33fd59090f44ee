"""`crossbar-sim solve`: the circuit of one tile alone, with the resistance of its wires."""

import click


@click.command(no_args_is_help=True)
@click.argument("conductances", type=click.Path())
@click.argument("voltages", type=click.Path())
@click.option("--unit", help="Unit of CONDUCTANCES: S, mS, uS or nS.  [default: S]")
@click.option("--wire-ohm", type=float, help="Resistance of one segment, word lines and bit lines, in ohm.")
@click.option("--word-ohm", type=float, help="Of a word-line segment.  [default: --wire-ohm, or 0]")
@click.option("--bit-ohm", type=float, help="Of a bit-line segment.  [default: --wire-ohm, or 0]")
@click.option("--source-ohm", type=float, default=0.0, show_default=True, help="Of each word line's source.")
@click.option("--sense-ohm", type=float, default=0.0, show_default=True, help="Of each bit line's sense.")
@click.option("--both-sides", is_flag=True, help="Drive word lines from both ends.")
@click.option(
    "--method", type=click.Choice(["fast", "exact"]), default="fast", show_default=True,
    help="Conjugate gradients to --tolerance, or elimination to rounding.",
)  # fmt: skip
@click.option(
    "--tolerance", type=float, default=1e-6, show_default=True,
    help="Largest error of a current, as a part of the largest.",
)  # fmt: skip
@click.option("--nonlinear", help="Cells carry g sinh(a v)/a: this a, per volt; or milo2021.")
@click.option("--plot", type=click.Path(), help="Draw the map of the loss: .png, .pdf or .svg.")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the solution as JSON (- for standard output)."
)
@click.option("-o", "--output", type=click.Path(), help="Write the column currents here (CSV, A).")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
def solve(
    conductances: str,
    voltages: str,
    unit: str | None,
    wire_ohm: float | None,
    word_ohm: float | None,
    bit_ohm: float | None,
    source_ohm: float,
    sense_ohm: float,
    both_sides: bool,
    method: str,
    tolerance: float,
    nonlinear: str | None,
    plot: str | None,
    json_path: str | None,
    output: str | None,
    threads: int | None,
) -> None:
    """Solve one tile: column currents against those without wires, and where the voltage is lost.

    CONDUCTANCES has a line of numbers, in S or --unit, for each word line (0: open); VOLTAGES a line, in V, for each
    input. The circuit is drawn in docs/wires.md.

    \b
    Examples:
      crossbar-sim solve conductances.csv voltages.csv --wire-ohm 1.0 --plot drop.png
      crossbar-sim solve g.csv v.csv --word-ohm 2 --bit-ohm 1 --source-ohm 50 --both-sides -o currents.csv
      crossbar-sim solve g.csv v.csv --wire-ohm 1 --nonlinear 2.5 --json -
    """
    from crossbar_sim.crossbar.wires import Wires
    from crossbar_sim.solving import run_solve

    both = 0.0 if wire_ohm is None else wire_ohm
    wires = Wires(
        r_word=both if word_ohm is None else word_ohm,
        r_bit=both if bit_ohm is None else bit_ohm,
        r_source=source_ohm,
        r_sense=sense_ohm,
        inputs="both" if both_sides else "one",
        tolerance=tolerance,
        method=method,  # type: ignore[arg-type]
    )
    run_solve(
        conductances, voltages, wires, nonlinear,
        plot=plot, json_path=json_path, output=output, threads=threads, unit=unit,
    )  # fmt: skip
