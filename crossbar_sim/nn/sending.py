"""Models on their way to another process."""

import pickle
from collections import OrderedDict

from torch import fx, nn

from crossbar_sim.errors import InputError


def portable(model: nn.Module) -> nn.Module:
    """The model in a form that pickle takes: itself, or an exported graph without torch's hooks.

    torch.export hangs functions of its own on a graph, which check the shapes of inputs and cannot be pickled. The
    parameters are shared.

    Raises:
        InputError: if torch cannot make the graph again from its code, as for an LSTM over a batch of any size, or
            one that `ExportedProgram.module()` has given checks in its midst (`load_model` asks for none).
    """
    if not isinstance(model, fx.GraphModule):
        return model
    bare = fx.GraphModule.__new__(fx.GraphModule)
    bare.__dict__.update({k: v for k, v in model.__dict__.items() if k not in ("train", "eval")})
    bare._forward_hooks, bare._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        pickle.loads(pickle.dumps(bare))
    except Exception as error:  # of torch's tracer, of any kind
        raise InputError(
            "this exported graph cannot be sent to other processes, since torch cannot trace it again "
            f"({str(error).splitlines()[0]}): load it from its file, or run it without workers (threads use all "
            "cores of a machine)"
        ) from error
    return bare
