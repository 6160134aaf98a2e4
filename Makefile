# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev

.PHONY: install install-dev quickstart test lint types soak bench clean

install: $(CORE)
install-dev: $(DEV)

$(CORE): pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py $(VENV)
	@touch $@

$(DEV): pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py $(VENV) --dev
	@touch $(CORE) $@

quickstart: $(CORE)
	$(BIN)/sightline run recipes/quickstart.yaml --out runs/quickstart
	@echo
	@echo "Look at   runs/quickstart/report.html"
	@echo "Ask it    $(BIN)/sightline chat runs/quickstart --image runs/quickstart/pictures/00000.png \"how many buildings are there?\""

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/basedpyright

# Two workers with one thread each: more threads than cores spin, and cost minutes where many cores are seen but few are lent.
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"
	@echo "make test: style, types and tests passed. Slower proofs: make soak. Speed and accuracy figures: make bench (benchmarks/RESULTS.md)."

soak: $(DEV)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python benchmarks/soak.py

bench: $(DEV)
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) runs dist
