.DEFAULT_GOAL := help
PY := .venv/bin/python
# Taken literally: a file may be called "50% $(mine).wav".
override INPUT := $(value INPUT)
export INPUT

.PHONY: help demo test check lint types contracts stubs-fresh protos stubs lock pages soak bench install uninstall clean venv ffmpeg postgres

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: venv ffmpeg ## process a recording from end to end; your own with INPUT=path
	@$(PY) tools/demo.py $${INPUT:+"$$INPUT"}

# One worker more than there are cores: many tests wait for processes most of their time. In the order of
# tests/conftest.py, the longest first.
test: venv ffmpeg postgres ## every test that can run on this machine
	@$(PY) -m pytest -m "not soak" -n $$(( $$(nproc) + 1 )) --dist loadfile --no-loadscope-reorder

check: lint types contracts stubs-fresh protos ## everything that is checked without running the product

lint: venv ## style and likely bugs (ruff)
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

types: venv ## static types (mypy --strict)
	@$(PY) -m mypy

contracts: venv ## who may import whom (import-linter)
	@$(PY) -c 'from importlinter.cli import lint_imports_command as c; c()'

stubs-fresh: venv ## the checked-in stubs are what the .proto files generate
	@tools/stubs --check

protos: venv ## style of the .proto files, and no change that breaks callers (buf)
	@.venv/bin/buf lint protos
	@tools/proto-breaking

stubs: venv ## generate the stubs from the .proto files
	@tools/stubs

lock: venv ## resolve the dependencies anew, to their newest versions, into requirements.lock
	@$(PY) -m uv pip compile pyproject.toml --universal --upgrade --all-extras --group dev \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet --output-file requirements.lock

pages: venv ffmpeg ## write docs/presets anew: a page and a picture of each preset
	@$(PY) tools/pages.py

soak: venv ffmpeg postgres ## the tests that run for many minutes
	@$(PY) -m pytest -m soak --timeout 0

bench: venv ffmpeg postgres ## every benchmark, each against a baseline run in the same call
	@set -e; for bench in bench/bench_*.py; do $(PY) "$$bench"; done

install: ## for the whole machine: /opt/mediactl, systemd units, the user; again to upgrade (root; PREFIX, DESTDIR)
	@deploy/install

uninstall: ## take it away again; leaves data and settings
	@deploy/install uninstall

clean: ## remove the environment, caches and outputs; nothing that git tracks
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@tools/bootstrap

ffmpeg:
	@tools/ffmpeg-needed

postgres:
	@tools/postgres-needed
