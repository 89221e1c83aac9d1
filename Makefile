# Everything is installed into .venv; nothing else on the machine is touched. `make` alone lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DEEPSPEED := .venv-deepspeed
EXTRAS := .venv-extras

# The tests start many processes; without bytecode files each would compile halfstep anew.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: mutants help demo test test-long test-deepspeed lint types docs format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## train a small GPT in every precision of this machine, and compare
	rm -rf halfstep-out/demo
	$(BIN)/halfstep compare --steps 60 --repeats 3 --out halfstep-out/demo examples/char_gpt.py

test: lint types ## lint, types and every test; CI runs this, docs and test-long
	$(BIN)/pytest -n 2 --dist worksteal

test-long: $(INSTALLED) $(EXTRAS)/installed ## clusters, kernels, real trackers, Ray and torchao; what is drawn by chance, many more times
	$(BIN)/pytest -n 2 --dist worksteal --long -m long
	$(EXTRAS)/bin/python -m pytest --long tests/report/tracking/test_packages.py tests/comparison/cluster/test_ray.py \
	  tests/pytorch/lean/test_eight_bit.py

test-deepspeed: $(DEEPSPEED)/installed ## DeepSpeed on a CPU, in an environment of its own on top of .venv (some 5 minutes)
	$(DEEPSPEED)/bin/python -m pytest tests/integrations/test_deepspeed.py

mutants: $(INSTALLED) ## faults in the files that judge, which tests are to notice; FILE=... SAMPLE=14: so many of a file
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[mutants]'
	$(BIN)/python tools/mutants.py $(FILE) $(if $(SAMPLE),--sample $(SAMPLE))

lint: $(INSTALLED) ## ruff: rules and format; import-linter (needs Python 3.11): what may import what
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@if [ -x $(BIN)/lint-imports ]; then $(BIN)/lint-imports; else echo 'no import-linter for this Python'; fi

types: $(INSTALLED) ## mypy, strict, for Linux, macOS and Windows at once; each has a cache of its own
	printf '%s\n' linux darwin win32 | xargs -P 3 -I PLATFORM $(BIN)/mypy --platform PLATFORM --cache-dir .mypy_cache/PLATFORM

docs: $(INSTALLED) ## build the site in docs/_build, strictly (half a minute; needs Python 3.11)
	@$(BIN)/python -c 'import sphinx' 2> /dev/null || { \
	  echo "halfstep: the site needs Python 3.11 or newer, and $(VENV) has another; name one as in make PYTHON=python3.12 docs." >&2; \
	  exit 1; }
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build
	@echo "halfstep: the site is docs/_build/index.html."

format: $(INSTALLED) ## let ruff rewrite the files
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove all that make has made, the environment too
	rm -rf $(VENV) $(DEEPSPEED) $(EXTRAS) halfstep-out/demo build docs/_build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt tools/install.py
	@command -v $(PYTHON) > /dev/null || { \
	  echo "halfstep: there is no '$(PYTHON)': install Python 3.10 or newer, or name it as in 'make PYTHON=/path/to/python3'." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("halfstep: $(PYTHON) is Python %d.%d: Python 3.10 or newer is needed; name one as in make PYTHON=python3.12." % sys.version_info[:2])'
	@$(PYTHON) tools/install.py $(VENV)
	@touch $@

# Lightning and PyTorch change what they do where a tracker or Ray is installed: their tests are to see none.
$(EXTRAS)/installed: $(INSTALLED)
	$(BIN)/python -m venv $(EXTRAS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$($(EXTRAS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_halfstep.pth"
	$(EXTRAS)/bin/python -m pip install -q -c constraints.txt -e '.[tensorboard,mlflow,wandb,ray,torchao]'
	@touch $@

# DeepSpeed builds itself against the torch that is there, and needs nothing else of .venv.
$(DEEPSPEED)/installed: $(INSTALLED)
	$(BIN)/python -m venv $(DEEPSPEED)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$($(DEEPSPEED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_halfstep.pth"
	DS_BUILD_OPS=0 $(DEEPSPEED)/bin/python -m pip install -q --no-build-isolation deepspeed==0.19.8
	@touch $@
