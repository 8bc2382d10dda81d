"""Which settings of the loss have an effect, and on which rollouts."""

import pytest
import torch

from spice_enterprise.records import Rollout, RolloutGroup
from spice_enterprise.training.learning import PolicyGradient

LOGPS = (-1.0, -9.0, -2.0, -8.0)
WIDE = {"clip_low": 0.999999, "clip_high": 1e6}


@pytest.fixture
def gradient(make_learner, config):
    def make(*, is_stale, **changes):
        learner = make_learner(moved=0.05)
        settings = config.model_copy(update=changes)
        pass_ = PolicyGradient(learner, config=settings, l_max={"challenger": 8, "reasoner": 8}, temperature=1.0)
        pass_.forward_backward([group()], is_stale=is_stale)
        return torch.cat([parameter.grad.flatten() for parameter in learner.parameters.values()])

    return make


def group():
    rollouts = tuple(
        Rollout(
            role="reasoner", parent_id="p", adapter_id="a", adapter_digest="d", template_id="t", step=1, index=i,
            token_ids=(5 + i, 6, 7, 8), logprobs=LOGPS, text="", stop_reason="stop", outcome="correct", reason="",
            reward=float(i),
        )
        for i in range(2)
    )  # fmt: skip
    return RolloutGroup(role="reasoner", parent_id="p", prompt_token_ids=(1, 2, 3), rollouts=rollouts)


@pytest.mark.parametrize("changes", [WIDE, {"loss": "cispo"}, {"loss": "gspo"}])
def test_clip_and_loss_matter_for_rollouts_of_the_version_before(gradient, changes):
    usual, other = gradient(is_stale=True), gradient(is_stale=True, **changes)
    assert (usual - other).abs().max() > 0.01 * usual.abs().max()


@pytest.mark.parametrize("changes", [WIDE, {"loss": "cispo"}])
def test_they_do_not_for_a_versions_own(gradient, changes):
    usual, other = gradient(is_stale=False), gradient(is_stale=False, **changes)
    assert torch.allclose(usual, other, rtol=1e-5, atol=1e-7)


def test_the_importance_cap_matters_for_a_versions_own_only(gradient):
    assert not torch.allclose(gradient(is_stale=False), gradient(is_stale=False, importance_cap=1.0))
    assert torch.equal(gradient(is_stale=True), gradient(is_stale=True, importance_cap=1.0))
