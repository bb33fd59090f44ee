"""A process that adds blocks of trials and says so after each: python results_worker.py FILE BLOCKS [LIMIT] [FIRST]

LIMIT: no file may grow beyond so many bytes (0: none). FIRST: its first block's number.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crossbar_sim.errors import InputError
from crossbar_sim.store.records import Trial
from crossbar_sim.store.results import Results
from helpers.results_files import task, value

BLOCK = 25


def block(number: int) -> list[Trial]:
    return [Trial(0.1, c, value(0.1, c), 10000) for c in range(number * BLOCK, (number + 1) * BLOCK)]


def work(path: str, blocks: int, first: int = 0) -> None:
    one = task()
    print("opening", flush=True)
    with Results.open(path) as results:
        results.add_task(one)
        there = results.places(one.id)
        for number in range(first, first + blocks):
            new = block(number)
            if new[0].place not in there:
                results.add(one.id, new)
                print(number, flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    file, count, limit, start = [*sys.argv[1:], *["0", "0"]][:4]
    if int(limit):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        work(file, int(count), int(start))
    except InputError as error:
        print(f"refused: {error}", flush=True)
        sys.exit(2)
