"""Models of transformers on several inputs: the scores are those of their own loss and outputs."""

import math
from typing import Any

import pytest
import torch

from crossbar_sim import Hardware, InputError, LogNormalDrift, to_analog, to_digital
from crossbar_sim.robustness import deploy

transformers = pytest.importorskip("transformers")

N, T, V = 12, 8, 40
IDS = (torch.arange(N * T).view(N, T) * 7 + torch.arange(N)[:, None] ** 2) % V
MASK = (torch.arange(T) < torch.tensor([T, *(3 + i % 5 for i in range(N - 1))])[:, None]).long()
LABELS = IDS.masked_fill(MASK == 0, -100)
CLASSES = torch.arange(N) % 3
PIXELS = (torch.arange(N * 3 * 8 * 8) * 1.7).sin().view(N, 3, 8, 8)
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
}


def bert(head: str) -> Any:
    return getattr(transformers, f"BertFor{head}")(
        transformers.BertConfig(vocab_size=V, max_position_embeddings=16, **SMALL)
    )


def distil(head: str) -> Any:
    return getattr(transformers, f"DistilBertFor{head}")(
        transformers.DistilBertConfig(
            vocab_size=V, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=16
        )
    )


def gpt(head: str) -> Any:
    settings = transformers.GPT2Config(
        vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    return getattr(transformers, head)(settings)


def t5(_: str) -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=V, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )


def vit(_: str) -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=8, patch_size=4, **SMALL))


TEXT = {"input_ids": IDS, "attention_mask": MASK}
MODELS: dict[str, tuple[Any, str, dict[str, Any], torch.Tensor]] = {
    "BERT, a class": (bert, "SequenceClassification", TEXT, CLASSES),
    "BERT, a class of each token": (
        bert,
        "TokenClassification",
        TEXT,
        (IDS % 3).masked_fill(MASK == 0, -100),
    ),
    "BERT, masked": (bert, "MaskedLM", TEXT, LABELS),
    "GPT-2": (gpt, "GPT2LMHeadModel", TEXT, LABELS),
    "T5": (t5, "", TEXT, ((IDS * 3 + 1) % V).masked_fill(torch.arange(T) > 5, -100)),
    "ViT": (vit, "", {"pixel_values": PIXELS, "interpolate_pos_encoding": False}, CLASSES),
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_model_itself(name):
    make, head, inputs, labels = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = make(head).eval()
    with torch.no_grad():
        own = model(**inputs, labels=labels)
    found = deploy(
        model, {**inputs, "labels": labels}, hardware=Hardware.preset("bayesft", sigma=0.0), chips=1,
        metric="cross-entropy", sensitivity_chips=0,
    )  # fmt: skip
    assert math.isclose(found.clean.custom, float(own.loss), rel_tol=1e-5)
    assert math.isclose(found.scores[0].custom, float(own.loss), rel_tol=1e-5)
    assert found.scores[0].output_error < 1e-5
    if name == "GPT-2":
        assert found.judged["next_token"]
    assert not any(
        "on no array" in text for text in found.warnings
    )  # T5's table is looked up by another name
    assert sum(layer.layer.analog for layer in found.layers) >= 4


@pytest.mark.parametrize("name", MODELS)
def test_a_chip_computes_with_the_weights_that_are_read_back_from_it(name):
    make, head, inputs, _ = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = make(head).eval()
    if name == "T5":
        inputs = {**inputs, "decoder_input_ids": IDS}
    analog = to_analog(model, Hardware(drift=LogNormalDrift(0.3)))
    with torch.no_grad():
        clean, chip, read_back = (m(**inputs).logits for m in (model, analog, to_digital(analog)))
    torch.testing.assert_close(chip, read_back, rtol=0, atol=1e-5 * float(read_back.abs().max()))
    assert float((chip - clean).abs().max()) > 1e-2 * float(clean.abs().max())


def test_labels_among_the_inputs_make_a_loss_which_is_no_output():
    places = {"start_positions": CLASSES, "end_positions": CLASSES}
    with pytest.raises(InputError, match=r"returns a loss first.*start_positions"):
        deploy(distil("QuestionAnswering").eval(), TEXT | places, hardware="ideal", chips=1)
