# make demo: everything from nothing to verified firmware.  make test: the tests.  Both set up what they need.
VENV   ?= .venv
PYTHON ?= python3
RUN    := $(VENV)/bin

.PHONY: demo test check lint sweep aarch64 bench host-bench doors costs compression check-figures conformance fuzz tools clean
.DELETE_ON_ERROR:

# Needs no root: where gcc or QEMU are missing, zig's compiler and unicorn came with pip.
demo: $(VENV)/.ready
	$(RUN)/picoformer run examples/digits/pipeline.toml

test: $(VENV)/.ready-tests tools
	$(RUN)/python -m pytest -n 2 --dist loadscope -m "not slow"

# By file: what a file of tests builds or trains is built once, not once for each of two processes.
# What CI runs: style, types, the tests, the slow sweeps, other mutated files each time, the figures against the table.
# Figures, style and fuzzing, each one process, share the two cores. Of the longest sweeps a commit's hash picks every second file
# (tests/conftest.py); `make sweep` runs all.
check:
	$(MAKE) --output-sync=target -j 2 check-figures lint fuzz
	$(MAKE) test
	hash=$$(git rev-parse HEAD 2>/dev/null | cut -c1-4); PICOFORMER_SWEEP_PART=$$(( 0x$${hash:-0} % 2 )) $(MAKE) sweep

lint: $(VENV)/.ready tools
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	find firmware -name '*.[ch]' | xargs clang-format --dry-run -Werror

sweep: $(VENV)/.ready-tests tools
	$(RUN)/python -m pytest -n 2 --dist loadscope -m slow

# Bundles under the aarch64 wheels that a Raspberry Pi gets, in an emulated process; a part of the sweep.
aarch64: $(VENV)/.ready-tests tools
	$(RUN)/python tests/aarch64_machine.py
	$(RUN)/python -m pytest -m slow tests/test_aarch64.py

# Files that nobody vouches for, mutated; each run begins with another case, which it prints.
FUZZ_SECONDS ?= 20
fuzz: $(VENV)/.ready
	PYTHONPATH=toolkit $(RUN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS)

check-figures: $(VENV)/.ready tools
	$(RUN)/python benchmarks/run.py --check

bench: $(VENV)/.ready tools
	$(RUN)/python benchmarks/run.py

# The C on this machine against onnxruntime: two minutes, ratios within one run.
host-bench: $(VENV)/.ready
	$(RUN)/python benchmarks/host.py

# Every form that models go out in, run by others' software; behind `picoformer run` of both examples. Four minutes.
doors: $(VENV)/.ready-tests tools
	$(RUN)/python benchmarks/doors.py

# ONNX's own node tests on the C of this machine; writes the list of what passes. A minute.
conformance: $(VENV)/.ready
	$(RUN)/python benchmarks/conformance.py

# What `inspect --target` knows of each core, measured anew: after a change of kernels or of how they are called. A
# quarter of an hour; COSTS=--stale measures what has changed only, COSTS=cortex-m4 one core.
costs: $(VENV)/.ready tools
	$(RUN)/python benchmarks/fit_costs.py $(COSTS)

# Half an hour on two cores; what is in build/compression already is not measured again.
compression: $(VENV)/.ready
	$(RUN)/python benchmarks/compression.py

tools:
	@sh .ci/tools

# torch goes first and by its exact version: a looser request would bring CUDA with it.
$(VENV)/.ready: pyproject.toml
	@sh .ci/tools python
	$(PYTHON) -m venv $(VENV)
	@echo "== downloads begin $$(date +%T)"
	$(RUN)/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0
	$(RUN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[dev]'
	@echo "== downloads end   $$(date +%T)"
	@touch $@

# TensorFlow, the second opinion on TFLite files, is large, and only the tests want it.
$(VENV)/.ready-tests: $(VENV)/.ready
	@echo "== downloads begin $$(date +%T)"
	$(RUN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[dev,tensorflow]'
	@echo "== downloads end   $$(date +%T)"
	@touch $@

clean:
	rm -rf $(VENV) build dist examples/*/build
