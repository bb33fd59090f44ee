"""Which weight matrices of common architectures are on arrays, which stay digital and why, and the share of the work.

Random weights at small sizes; needs torchvision, timm and transformers.

    python benchmarks/architectures.py            # the table of docs/architectures.md
    python benchmarks/architectures.py gpt2 vit   # those whose names hold one of these
"""

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from crossbar_sim import Hardware, InputError
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.multiply_adds import ArrayShare
from crossbar_sim.nn.module_state import watched
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def normals(*shape: int) -> Tensor:
    """Standard normal values."""
    return torch.from_numpy(Stream(1, 2, 0, 0).normals(math.prod(shape))).reshape(shape)


class First(nn.Module):
    """A model whose first output is a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The logits, the last hidden state, or the first map of features."""
        found = self.model(x)
        return found if isinstance(found, Tensor) else next(iter(found.values()))


def images(make: Callable[[], nn.Module], side: int = 64) -> tuple[nn.Module, Tensor]:
    """A model of images."""
    return First(make()), normals(2, 3, side, side)


def words(model: str, config: str, **sizes: Any) -> tuple[nn.Module, Tensor]:
    """A model of transformers that reads tokens."""
    made = getattr(transformers, config)(**WORDS, **sizes)
    return First(getattr(transformers, model)(made)), torch.randint(3, 64, (2, 16))


def seen(model: str, config: str, **sizes: Any) -> tuple[nn.Module, Tensor]:
    """A model of transformers that reads images."""
    made = getattr(transformers, config)(image_size=32, patch_size=8, **sizes)
    return First(getattr(transformers, model)(made)), normals(2, 3, 32, 32)


TV = torchvision.models
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
ARCHITECTURES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "torchvision resnet18": lambda: images(TV.resnet18),
    "torchvision vgg11_bn": lambda: images(TV.vgg11_bn, 32),
    "torchvision mobilenet_v3_small": lambda: images(TV.mobilenet_v3_small),
    "torchvision efficientnet_b0": lambda: images(TV.efficientnet_b0),
    "torchvision densenet121": lambda: images(TV.densenet121),
    "torchvision convnext_tiny": lambda: images(TV.convnext_tiny),
    "torchvision regnet_y_400mf": lambda: images(TV.regnet_y_400mf),
    "torchvision swin_t": lambda: images(TV.swin_t),
    "torchvision lraspp_mobilenet_v3_large": lambda: images(
        lambda: TV.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    ),
    "timm vit_tiny_patch16_224": lambda: images(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64)
    ),
    "timm deit_tiny_distilled_patch16_224": lambda: images(
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=64)
    ),
    "timm mixer_s32_224": lambda: images(lambda: timm.create_model("mixer_s32_224"), 224),
    "timm edgenext_xx_small": lambda: images(lambda: timm.create_model("edgenext_xx_small")),
    "timm ghostnet_050": lambda: images(lambda: timm.create_model("ghostnet_050")),
    "timm poolformer_s12": lambda: images(lambda: timm.create_model("poolformer_s12")),
    "timm xcit_nano_12_p16_224": lambda: images(lambda: timm.create_model("xcit_nano_12_p16_224")),
    "transformers BERT": lambda: words("BertForSequenceClassification", "BertConfig", **SMALL),
    "transformers DistilBERT": lambda: words(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
    ),
    "transformers ALBERT": lambda: words(
        "AlbertForSequenceClassification", "AlbertConfig", embedding_size=16, **SMALL
    ),
    "transformers GPT-2": lambda: words("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "transformers GPT-NeoX": lambda: words("GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL),
    "transformers Llama": lambda: words("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, **SMALL),
    "transformers Mixtral": lambda: words(
        "MixtralForCausalLM", "MixtralConfig", num_key_value_heads=1, num_local_experts=4, **SMALL
    ),
    "transformers T5 encoder": lambda: words("T5EncoderModel", "T5Config", **T5),
    "transformers XLNet": lambda: words(
        "XLNetForSequenceClassification", "XLNetConfig", d_model=32, n_layer=2, n_head=2, d_inner=64
    ),
    "transformers ViT": lambda: seen("ViTForImageClassification", "ViTConfig", **SMALL),
}


def row(model: nn.Module, x: Tensor, fixed: int | None = None) -> str:
    """One line of the table: matrices, those on arrays, the share of the work, ideal against clean, why digital."""
    with torch.inference_mode():
        try:
            analog, operands = map_model(model, Hardware(), x, fixed=fixed)
        except InputError as error:
            return f"refused: {str(error)[:160]} | | | | "
        with watched(model):
            clean = model(x)
        ideal = analog(x)
    layers = chips.layers(analog)
    mapped = {slot.name for layer in layers for slot in layer.matrices}
    firsts = {name: p for name, p in model.named_parameters() if sum(n > 1 for n in p.shape) > 1}
    share = None if operands is None else ArrayShare.of(layers, operands.work)
    why = Counter(
        layer.reason.split(";")[0]
        for layer in layers
        if not layer.analog and any(layer.name in (n, n.rpartition(".")[0]) for n in firsts)
    )
    left = Counter(reason for layer in layers for _, reason in layer.left)
    difference = float((ideal - clean).abs().max() / clean.abs().max().clamp(min=1e-30))
    digital = "; ".join(f"{count} {reason}" for reason, count in (why + left).most_common(3))
    percent = "unknown" if share is None else f"{100 * share.share:.1f} %"
    return f"{len(firsts)} | {len(mapped)} | {percent} | {difference:.1g} | {digital}"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    print("| model | weights | on arrays | multiply-adds | ideal - clean | digital, why |")
    print("|---|---|---|---|---|---|")
    for name, make in ARCHITECTURES.items():
        if wanted and not any(text.lower() in name.lower() for text in wanted):
            continue
        with seeded(Key(0)):
            model, x = make()
        model.eval()
        print(f"| {name} | {row(model, x)} |", flush=True)
        try:
            with torch.no_grad():
                exported = torch.export.export(model, (x,)).module()
        except Exception as error:  # whatever torch.export says of a forward that it cannot follow
            print(f"| {name}, `.pt2` | not exported: {str(error).splitlines()[0][:80]} | | | | |", flush=True)
            continue
        print(f"| {name}, `.pt2` | {row(exported, x, len(x))} |", flush=True)


if __name__ == "__main__":
    main()
