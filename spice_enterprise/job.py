"""The job: the whole road, once per corpus (being written)."""


class JobResult:
    """Stub while the stages are being written in parallel."""


class SpiceAdapterJob:
    """Stub while the stages are being written in parallel."""
