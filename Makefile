# The two commands are `make lab` and `make test`. `make help` lists them all.
PYTHON ?= python3
PORT ?= 8888
BIN := .venv/bin
READY := .venv/.ready
# Of vLLM, for notebook 08.
LLM := .venv-llm/.ready
# Of Spark, for notebook 11.
SPARK := .venv/.spark
# One notebook, or all: make notebooks ONLY=notebooks/01_tasks_and_actors.ipynb
ONLY ?= notebooks
SECONDS_PER_CELL ?= 480
# To edit the course itself: make lab FOLDER=notebooks
FOLDER ?= work
# Offline, where the system has network namespaces: what passes needs no internet.
PYTEST = $(BIN)/python tools/offline.py $(BIN)/python -m pytest
NBMAKE = --nbmake --nbmake-timeout $(SECONDS_PER_CELL)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help lab work llm spark test test-fast test-all notebooks scripts rehearse gpu-check bench chaos lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Settings of JupyterLab: no question about news at the first start, and nothing asked of the internet.
lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/tools/jupyter$(if $(JUPYTER_CONFIG_PATH),:$(JUPYTER_CONFIG_PATH))
lab: work ## set up if needed, then open your own copies of the notebooks in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --port $(PORT) $(LAB_ARGS) $(FOLDER)/00_start_here.ipynb

work: $(READY) ## set up if needed, then bring your own copies in work/ up to date; make lab does this, too
	@$(BIN)/python tools/own_copies.py

llm: $(READY) $(LLM) ## set up vLLM, which notebook 08 serves with, in an environment of its own (Linux, 3.5 GB)

spark: $(SPARK) ## add Spark, which notebook 11 compares with, to the environment (0.5 GB; it needs Java)

# Where vLLM or Spark cannot be had, the notebooks say so; 08 shows stored results, 11 goes on without Spark.
.PHONY: try-llm try-spark
try-llm: $(READY)
	-@$(MAKE) --no-print-directory llm
try-spark: $(READY)
	-@$(MAKE) --no-print-directory spark

# The notebooks of solutions run in make test-all; tests of the exercises run each solution's cells.
test: try-llm try-spark ## set up if needed, then the tests, all lessons and the field guide, offline; an hour
	$(PYTEST) $(NBMAKE) tests notebooks/[0-9]*.ipynb notebooks/deep_dives notebooks/reference

test-fast: $(READY) ## under a minute: helpers and static checks of the notebooks
	$(BIN)/python -m pytest -m fast tests

test-all: try-llm try-spark ## everything, each notebook a second time, and two notebooks at once
	$(PYTEST) $(NBMAKE) --long tests notebooks

notebooks: $(READY) ## run the notebooks and refresh their committed outputs
	$(PYTEST) $(NBMAKE) --overwrite $(ONLY)

scripts: $(READY) ## export the core of lessons 04, 05 and 07 to scripts/
	$(BIN)/python -m tools.export_scripts

rehearse: $(READY) ## a few steps of a GPT-J as wide as the 6B model; takes minutes and most of the memory
	$(BIN)/python tools/rehearse.py $(ARGS)

gpu-check: $(READY) ## lessons 04, 07 and 08 on one GPU, ten minutes; the table goes to benchmarks/gpu
	$(BIN)/python -m tools.gpu_check $(ARGS)

bench: $(READY) ## measure the course beside other ways, half an hour on two cores; ARGS="store serving" for some groups
	$(BIN)/python -m benchmarks $(ARGS)

chaos: $(READY) ## kill workers, replicas and nodes at random for ten minutes, and count what was lost
	RAY_AUTH_MODE=token $(BIN)/python -m tools.chaos $(ARGS)

lock: $(READY) ## compile requirements.txt from pyproject.toml, requirements-spark.txt, and the environment of cluster/vllm
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --python-platform linux --python-version 3.12 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" \
		cluster/vllm/requirements.in --output-file cluster/vllm/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" --override cluster/vllm/overrides-cpu.txt \
		cluster/vllm/requirements-cpu.in --output-file cluster/vllm/requirements-cpu.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" \
		requirements-spark.in --output-file requirements-spark.txt

clean: ## remove what was made here: environment, unpacked data, results; work/ stays
	rm -rf .venv .venv-llm .uv-cache .report .pytest_cache .ruff_cache .hypothesis build *.egg-info data/.cache results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than the lock as long as the environment is up to date.
$(READY): requirements.txt tools/install.py
	$(PYTHON) tools/install.py
	@touch $(READY)

$(LLM): cluster/vllm/requirements-cpu.txt tools/install_llm.py
	$(BIN)/python -m tools.install_llm

# A source release without anything to compile: the setuptools of the environment packs it.
$(SPARK): $(READY) requirements-spark.txt
	UV_CACHE_DIR=$(CURDIR)/.uv-cache $(BIN)/uv pip install --python $(BIN)/python --no-build-isolation \
		--require-hashes --requirement requirements-spark.txt
	@touch $(SPARK)
