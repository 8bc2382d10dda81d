"""When sampler and learner must agree, how closely, and what is said when they do not."""

import math

import pytest

from spice_enterprise.errors import DeliveryError
from spice_enterprise.records import AdapterVersion
from spice_enterprise.training.delivery import open_version, require_delivered

VERSION = AdapterVersion(
    role="shared", parent_adapter_id=None, step_id=None, step=3, base_model="m", base_digest="b",
    corpus_digest="c", config_digest="k", manifest=(), digest="sha256:x",
)  # fmt: skip


@pytest.mark.parametrize(("gap", "dtype"), [(0.0, "float32"), (9e-5, "float32"), (0.049, "bfloat16"), (math.nan, "float32")])
def test_rounding_and_broken_numbers_are_not_a_delivery_error(gap, dtype):
    require_delivered(gap, compute_dtype=dtype, version=VERSION)


@pytest.mark.parametrize(
    ("gap", "dtype", "words"), [(2e-4, "float32", "2.00e-04 .* limit 1e-04"), (0.06, "bfloat16", "limit 5e-02")]
)
def test_a_larger_gap_is(gap, dtype, words):
    with pytest.raises(DeliveryError, match=words) as caught:
        require_delivered(gap, compute_dtype=dtype, version=VERSION)
    assert (caught.value.code, caught.value.record_id) == ("E_DELIVERY", VERSION.adapter_id)


def test_files_that_are_not_there_cannot_be_served(tmp_path):
    with pytest.raises(DeliveryError, match="step 3 cannot be served") as caught:
        open_version(tmp_path, VERSION)
    assert caught.value.code == "E_ADAPTER_DIGEST"
