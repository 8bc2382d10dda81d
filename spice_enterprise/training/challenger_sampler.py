"""The sampler of a Challenger that has an adapter of its own.

In: prompts; the Challenger's adapter, which the trainer moves on.
Out: completions with the digest of the weights that wrote them.
Refuses: to speak while the learner holds weights nobody saved (`DeliveryError`).
Not here: decoding (`hf_sampler.py`), what the adapter is (`challenger_adapter.py`).

It speaks on the learner's own module, whoever speaks as the Reasoner: nothing has to be published, and every completion says
which weights wrote it, so the trainer can refuse what another adapter proposed.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from spice_enterprise.training.challenger_adapter import ChallengerAdapter
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.qlora import LearnerModel


class ChallengerSampler(HfSampler):
    """Speaks as the Challenger."""

    def __init__(self, learner: LearnerModel, tokenizer: ChatTokenizer, *, run_dir: Path, challenger: ChallengerAdapter) -> None:
        """Take the model and the adapter."""
        super().__init__(learner, tokenizer, run_dir=run_dir)
        self._challenger = challenger

    @property
    def adapter_digest(self) -> str:
        """The digest of the Challenger's weights, as they stand."""
        return self._challenger.digest

    def _serving(self) -> AbstractContextManager[None]:
        self._require_saved(self._challenger.digest)
        self._challenger.lend(self._learner)
        return nullcontext()
