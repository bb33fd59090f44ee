"""Claim: a language model of 1.3 G parameters deploys on 24 GiB, in bfloat16, from a Hugging Face folder.

    python benchmarks/big_model.py [-o results.json]                              # 124 M parameters
    python benchmarks/big_model.py --width 2048 --layers 24 --heads 16 [-o results.json]   # 1.3 G parameters
    python benchmarks/big_model.py --memory 100                        # all weights of a chip kept in memory

Needs `pip install 'crossbar-sim[hf]'`. Nothing is downloaded: one process writes a GPT-2 model with random weights to a
temporary folder, another one deploys it on preset reram_wan2022. Its memory is sampled every 20 ms: its own
(anonymous), and what is mapped from files, which the system takes back when it needs it. "copies" are multiples of
the model's weights above the memory of the process after its imports. The last lines say all in short: the largest own
memory of the whole run, the time to the clean score, and that of a further chip (the mean without the first).
"""

import argparse
import json
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from timing import processor

VOCABULARY, POSITIONS = 50257, 1024
MODEL = """
import sys
import torch, transformers
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key
folder, width, layers, heads, vocabulary, positions = sys.argv[1], *map(int, sys.argv[2:])
torch.set_default_dtype(torch.bfloat16)
config = transformers.GPT2Config(
    vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads,
    bos_token_id=0, eos_token_id=0,
)
with seeded(Key(0)):
    model = transformers.GPT2LMHeadModel(config)
model.save_pretrained(folder)
print(sum(p.numel() for p in model.parameters()), sum(p.numel() * p.element_size() for p in model.parameters()))
"""
DEPLOY = """
import sys, time
import torch, transformers
from transformers import GPT2LMHeadModel
from crossbar_sim import Hardware, memory
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data.inputs import Inputs
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.robustness import deploy
from crossbar_sim.rng import Key
began = time.perf_counter()
def say(what):
    print(f"{time.perf_counter() - began:.2f}", what, flush=True)
folder, room, sequences, tokens, chips, vocabulary = sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:])
memory.set_room(room)
say("start")
model = load_model(folder).module
say("loaded")
words = Stream.of(Key(0), 0).words(sequences * tokens)
x = torch.from_numpy(words.astype("int64") % vocabulary).reshape(sequences, tokens)
deploy(
    model, Inputs(kwargs={"input_ids": x}), x, Hardware.preset("reram_wan2022"), chips=range(chips),
    sensitivity_chips=0, metric="perplexity", progress=lambda done, total, what: say(what),
)
say("end")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--memory", type=float, default=0.0, help="GiB for the weights of a chip")
    parser.add_argument("-o", "--output")
    given = parser.parse_args()
    sizes = [str(n) for n in (given.width, given.layers, given.heads, VOCABULARY, POSITIONS)]
    with tempfile.TemporaryDirectory() as folder:
        made = [sys.executable, "-c", MODEL, folder, *sizes]
        run = subprocess.run(made, capture_output=True, text=True, check=True)
        parameters, size = map(int, run.stdout.split()[-2:])
        of_data = [str(n) for n in (given.memory, given.sequences, given.tokens, given.chips, VOCABULARY)]
        stages = sampled([sys.executable, "-c", DEPLOY, folder, *of_data])
    start = stages[0]["own MiB"]
    print(f"{parameters:,} parameters, {size / 2**20:.0f} MiB; {given.sequences} x {given.tokens} tokens")
    for stage in stages:
        stage["copies"] = round((stage["own MiB"] - start) / (size / 2**20), 2)
        print(
            f"{stage['stage']:<12} until {stage['seconds']:7.1f} s: at most {stage['own MiB']:6.0f} MiB of its own "
            f"({stage['copies']:.2f} copies), {stage['mapped MiB']:6.0f} MiB mapped"
        )
    times = {stage["stage"]: stage["seconds"] for stage in stages}
    chips = [times[f"chip {chip}"] for chip in range(given.chips)]
    found = {
        "peak copies": max(stage["copies"] for stage in stages),
        "peak own GiB": round((max(stage["own MiB"] for stage in stages) - start) / 1024, 2),
        "seconds to the clean score": times["clean model"] - times["start"],
        "seconds per further chip": (chips[-1] - chips[0]) / (len(chips) - 1) if len(chips) > 1 else None,
    }
    print("\n".join(f"{name}: {value}" for name, value in found.items()))
    if given.output:
        about = {
            "parameters": parameters,
            "bytes": size,
            "processor": processor(),
            "options": vars(given),
            **found,
        }
        content = {"title": "a language model on arrays", **about, "rows": stages}
        Path(given.output).write_text(json.dumps(content, indent=2) + "\n")


def sampled(command: list[str]) -> list[dict[str, Any]]:
    """Run a command that prints a time and a name at the end of each stage; the peak memory of each stage."""
    stages: list[dict[str, Any]] = []
    own = mapped = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = dict(line.split(":") for line in status.splitlines() if line.startswith("Rss"))
            if found:  # not in the moment of its end
                own = max(own, int(found["RssAnon"].split()[0]) / 1024)
                mapped = max(mapped, int(found["RssFile"].split()[0]) / 1024)
            if select.select([process.stdout], [], [], 0.02)[0]:
                seconds, _, name = process.stdout.readline().decode().strip().partition(" ")
                if name:
                    stages.append(
                        {"stage": name, "seconds": float(seconds), "own MiB": own, "mapped MiB": mapped}
                    )
                    own = mapped = 0.0
    if process.returncode:
        raise SystemExit("the deployment failed")
    return stages


if __name__ == "__main__":
    main()
