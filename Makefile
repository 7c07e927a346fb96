# `make` alone lists what there is. Needs make and Python 3.11 or newer; the rest is put into .venv.
# PYTHON=/path/to/python chooses the interpreter, ARGS=… is passed on. All paths are relative: make is poor at spaces.
PY := .venv/bin/python
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help lab test notebooks bench reference lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\): ## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r what why; do printf '%-16s %s\n' "$$what" "$$why"; done

# --allow-root: in a container a learner is often root, and JupyterLab would refuse to start. It listens on the loopback
# address alone, with its token. The address it prints opens the notebook, also with --no-browser.
lab: ## open the notebooks in JupyterLab (ARGS=--no-browser)
	@.ci/setup run
	$(PY) -m jupyterlab --ip=127.0.0.1 --allow-root --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

test: ## run the whole test suite (ARGS='-k name')
	@.ci/setup test
	.ci/test $(ARGS)

notebooks: ## execute all notebooks, in place
	@.ci/setup run
	$(PY) -m helpers.publish $(ARGS)

bench: ## compare our figures with those of C tools, and print the ratios
	@.ci/setup test
	$(PY) -m pytest -m bench -s tests/bench $(ARGS)

reference: ## record the reference run anew, on this machine
	@.ci/setup run
	HELPERS_LEDGER=:memory: $(PY) -m helpers reference $(ARGS)

# One resolution for all systems and Pythons from 3.11 on; hashes, but no address of any package index.
COMPILE = $(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-annotate --no-header

lock: ## pin the newest versions that pyproject.toml allows
	@.ci/setup test
	$(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade pyproject.toml --extra test -c requirements.lock -o tests/requirements.lock
	echo uv | $(COMPILE) --upgrade - -o .ci/requirements.lock

clean: ## remove .venv and everything else that was made
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
