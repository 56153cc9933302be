# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs in
# .venv, once. Only `make demo` fetches the large model, also once. All paths are relative, so the
# folder's name may contain spaces.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo setup test editors e2e bench check fix lock clean

demo: $(VENV)/.ready-demo
	@$(BIN)/python docs/demo.py

# What editors' package managers run: no model is fetched behind a user's back.
setup: $(VENV)/.ready-demo

# A process per core; each has torch loaded, about a gigabyte.
test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# Install the real editors, each in a folder of its own beside the system's (CONTRIBUTING.md).
editors:
	tests/e2e/get-emacs
	tests/e2e/get-neovim
	tests/e2e/get-code-server

# Test in the real editors that are installed; a skipped test says what is missing.
e2e: $(VENV)/.ready-test
	if command -v npm >/dev/null; then cd editors/vscode && npm ci --no-fund --no-audit && npm run check; fi
	$(BIN)/python -m pytest tests/e2e -v -rs

# About an hour and a half; the figures mean something only on an idle machine.
bench: $(VENV)/.ready-test
	$(BIN)/talaria bench
	$(BIN)/python -m benchmarks.cpu_engines
	$(BIN)/python -m benchmarks.soak
	$(BIN)/python -m benchmarks.lsp
	@if test -d data/corpus; then \
	  $(BIN)/python -m benchmarks.syntax && $(BIN)/python -m benchmarks.peers --corpus data/corpus \
	    && $(BIN)/python -m benchmarks.memorisation --out out/memorisation; \
	else echo "skipped: benchmarks.syntax, peers, memorisation (they need data/corpus: talaria corpus)"; fi

check: $(VENV)/.ready-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	@mkdir -p build/linked/talaria
	@for package in coder lsp finetune evals; do ln -sfn ../../../$$package build/linked/talaria/$$package; done
	@for file in talaria/*; do ln -sfn ../../../$$file build/linked/$$file; done
	$(BIN)/python -m mypy

fix: $(VENV)/.ready-test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

$(VENV)/.ready-venv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Talaria needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Remedy: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready-demo: pyproject.toml constraints.txt $(VENV)/.ready-venv
	@echo "setting up $(VENV) (once)" >&2
	$(PIP) --editable .
	@touch $@

# torch goes first, in its pinned version, so that no other package chooses another.
$(VENV)/.ready-test: $(VENV)/.ready-demo
	@echo "adding training, evaluation and test tools to $(VENV) (once; torch is large)" >&2
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[train,eval,serve,dev]'
	@touch $@

# Rewrite every pinned version from what is installed.
lock: $(VENV)/.ready-test
	@{ echo "# Every version that set-up may install; \`make lock\` writes this file anew."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
