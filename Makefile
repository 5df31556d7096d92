# Two commands on a fresh machine: `make quickstart` and `make test`. Both make the environment first, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKDIR ?= quickstart-run

# Threads are given out explicitly (workers x threads <= cores); libraries that take all cores by themselves are held to one.
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test test-all test-kubernetes check bench million gpu gpu-cluster chaos soak image-steps dist dist-test golden docs format clean install always

install: $(INSTALLED)

# Asked every time, at once where nothing is to do: an installation that was interrupted, or of other pins, is mended.
$(INSTALLED): always
	@$(PYTHON) .ci/install.py $(VENV)
always:

quickstart: $(INSTALLED)
	@$(BIN)/medfuncta-dist quickstart --workdir $(WORKDIR)

# Every capability in one short form, in two processes: one has the Ray cluster, the other has everything else.
TESTED := -n 2
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTED) -m "not slow"

# All of them, and more examples of each property (docs/testing.md).
test-all: $(INSTALLED)
	$(BIN)/python -m pytest $(TESTED) --hypothesis-profile full

# Submission against the real server of custom resources, which the first call builds in KUBERNETES_SERVER (five minutes
# of one core, 40 MB of Debian's packages and 70 MB of Go's compiler). It wants MEDFUNCTA_SCHEMAS, too (docs/testing.md).
KUBERNETES_SERVER ?= build/kubernetes-server
test-kubernetes: $(INSTALLED)
	$(BIN)/python -m tests.kubernetes.build_server "$(KUBERNETES_SERVER)"
	MEDFUNCTA_KUBERNETES_SERVER="$(KUBERNETES_SERVER)" $(BIN)/python -m pytest tests/kubernetes -rs

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One claim a script, at most four minutes each; the cost model reads the others' results.
bench: $(INSTALLED)
	env -u OMP_NUM_THREADS $(BIN)/python -m benchmarks.meta_step  # one process: all cores are its own
	$(BIN)/python -m benchmarks.fit_throughput
	$(BIN)/python -m benchmarks.exact_fit
	$(BIN)/python -m benchmarks.stream_throughput
	$(BIN)/python -m benchmarks.fanout
	$(BIN)/python -m benchmarks.archive_survey
	$(BIN)/python -m benchmarks.many_runs
	$(BIN)/python -m benchmarks.latent_table
	$(BIN)/python -m benchmarks.pack_memory
	$(BIN)/python -m benchmarks.outer_steps
	$(BIN)/python -m benchmarks.scaling

# A million scans through pack, train and fit, killed in each stage: a quarter of an hour on two cores, 5 GB of disk.
# The cost model reads its results.
million: $(INSTALLED)
	$(BIN)/python -m benchmarks.million_scans
	$(BIN)/python -m benchmarks.scaling

# One GPU, ten minutes, nothing installed: PYTHON has to have torch (CUDA), triton, NumPy, safetensors and jaxtyping.
# GPU_SECONDS (240) for all but the training, TRAIN_SECONDS (180) for that, ONLY=section,…, OUT=folder, DATA=MedMNIST .npz
# (benchmarks/README.md).
gpu:
	@PYTHONPATH="$${PYTHONPATH:+$$PYTHONPATH:}$(CURDIR)" $(PYTHON) -m benchmarks.gpu --seconds "$(GPU_SECONDS)" \
		--training-seconds "$(TRAIN_SECONDS)" --only "$(ONLY)" --out "$(OUT)" --data "$(DATA)"

# The same question for a Ray cluster of several GPUs, with everything installed: RAY_ADDRESS, and STORAGE that all nodes
# reach (benchmarks/README.md).
gpu-cluster: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu_cluster --storage "$(STORAGE)" --out "$(OUT)"

# Faults from outside, in full (the tests have a short form), and the table of docs/reliability.md from what came of it.
chaos: $(INSTALLED)
	@rm -f chaos-results.jsonl
	MEDFUNCTA_CHAOS=full MEDFUNCTA_CHAOS_RESULTS=chaos-results.jsonl $(BIN)/python -m pytest tests/chaos -v
	$(BIN)/python -m tests.chaos.table chaos-results.jsonl

# Twenty minutes of training on four workers, with a random fault every 30 to 90 seconds.
soak: $(INSTALLED)
	$(BIN)/python -m tests.chaos.soak

# The Dockerfile's steps without a container engine: installs everything once more.
image-steps: $(INSTALLED)
	$(BIN)/python -m tests.image_steps cpu

# The wheel and the source archive, in dist/.
dist: $(INSTALLED)
	@rm -rf dist
	$(BIN)/python -m build --no-isolation

# The wheel in a fresh environment outside the clone, a short quickstart and a dry-run submission: installs all once more.
dist-test: dist
	$(BIN)/python -m tests.fresh_install dist/*.whl

# The manifests in tests/golden, written anew after a change on purpose; read the difference.
golden: $(INSTALLED)
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest tests/unit/submit/test_golden.py

# The site, into site/. Strict: a link that leads nowhere is an error. Nothing is fetched.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VENV).lock build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(WORKDIR)
