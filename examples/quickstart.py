"""Adapt the embedded 135M model to a folder of documents: `python examples/quickstart.py [FOLDER]`.

In: a folder of documents; by default the 24 fictional ones beside this file.
Out: the report card on the terminal; everything else in `runs/quickstart`.
Refuses: what a job refuses, in one line.
Not here: a claim. Five unseen documents and four steps are too few to prove a gain: expect INCONCLUSIVE or FAIL.
"""

import sys
from pathlib import Path

from spice_enterprise import SpiceAdapterJob, SpiceError


def main(folder: Path) -> int:
    """Run the job and show its report card."""
    job = SpiceAdapterJob(
        folder,
        name="quickstart",
        ingest={"chunk_tokens": 96, "min_chunk_tokens": 16},
        selfplay={"steps": 4, "chunks_per_step": 2, "max_tasks": 2, "challenger_tokens": 32, "reasoner_tokens": 12},
        training={"lora_rank": 16, "lora_alpha": 32, "learning_rate": 2e-4, "warmup_steps": 0},
    )
    try:
        job.run().show()
    except SpiceError as error:
        sys.stderr.write(error.explain() + "\n")
        return error.exit_status()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "corpus")))
