"""`crossbar-sim sensitivity`: what each layer costs when it alone is on its arrays."""

from dataclasses import dataclass

from crossbar_sim.commands.options import (
    DeviceOptions,
    EvaluationOptions,
    ModelOptions,
    SigmasOptions,
    command,
    sigmas_option,
)
from crossbar_sim.files import check_outputs, write_json


@dataclass(frozen=True)
class SensitivityRequest(ModelOptions, SigmasOptions, EvaluationOptions, DeviceOptions):
    """What `sensitivity` is to do."""

    sigma: tuple[float, ...] = sigmas_option("0.6")


@command(SensitivityRequest)
def sensitivity(request: SensitivityRequest) -> None:
    """Find the layers of a model that lose most accuracy on drifting hardware.

    Each layer of MODEL is put on its arrays alone, with all others exact; the drop of the score is measured on several
    chips.

    \b
    Examples:
      crossbar-sim sensitivity model.pt --sigma 0.6
      crossbar-sim sensitivity model.pt --data mnist --sigma 0.3,0.6,0.9 --chips 50 --json drops.json
    """
    from crossbar_sim.nn.device import on_device
    from crossbar_sim.report.console import progress, say_end, terminal
    from crossbar_sim.report.terminal import show_notes, show_sensitivity
    from crossbar_sim.robustness.plans import EveryImage
    from crossbar_sim.robustness.sensitivity import sensitivity
    from crossbar_sim.robustness.tasks import Model, prepare

    hardware, warnings = request.hardware()
    loaded = request.read(request.model)
    inputs = (request.model, request.hardware_file, request.data)
    check_outputs((request.json_path,), inputs, stream=request.json_path)
    request.set_threads()
    request.set_memory()
    device = request.chosen_device()
    examples = request.examples(loaded)
    hardware, calibrated = request.calibrated(loaded, hardware)
    about = {"loading": [*loaded.notes, *calibrated]}
    model = Model(loaded.name, loaded.module, examples, {"sha256": loaded.sha256}, loaded.batch, about)
    chips = request.chips or range(20)
    with on_device(device, model.module) as where, progress(terminal(stderr=True)) as step:
        task, subject = prepare(
            model, hardware, request.seed, request.metric, request.only or None, request.skip,
            EveryImage(tuple(chips)).images, max(request.sigma), request.class_axis, where,
        )  # fmt: skip
        drops = sensitivity(subject, request.sigma, chips, step)
    report = {
        "metric": subject.metric,
        "clean": task.clean,
        "identity": task.identity,
        "chips": list(chips),
        "layers": [drop.as_dict() for drop in drops],
    }
    write_json(request.json_path, report)
    console = terminal(stderr=request.json_path == "-")
    show_sensitivity(drops, subject.metric, task.clean, len(examples.x), console)
    show_notes({task.label: task}, console)
    say_end(console, warnings, request.json_path)
