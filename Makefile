# Two commands do everything: `make demo` and `make test`. The first of them makes .venv; later ones reuse it.
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-slow check lint docs calibrate mutations comparators lock test-lowest test-newest audit release-check clean
help:
	@echo "make demo    install, run the main job on a simulated study, print the results and where they are"
	@echo "make test    install, check style, types and architecture, run the tests (PYTEST='-k name' for some)"
	@echo "make test-slow  the tests that fit studies of their own, for a quarter of an hour more"
	@echo "make check   style, types, architecture and the fast tests, for daily work"
	@echo "make lint    the checks of 'make test' without the tests"
	@echo "make docs    the documentation site, in build/docs (runs the tutorials; results are kept for the next time)"
	@echo "make calibrate  are posteriors right? 200 simulated studies of each model (an hour; goes on where it stopped)"
	@echo "make mutations  plant bugs one at a time in a copy, and see whether the tests notice (half an hour on two cores)"
	@echo "make comparators  make .venv-comparators, where other libraries run to compare with (optional)"
	@echo "make lock    pin exact versions anew after a change in pyproject.toml (UPGRADE=1 takes the newest)"
	@echo "make test-lowest  the fast tests with the lowest versions that pyproject.toml allows (VERSION=3.13 for another Python)"
	@echo "make test-newest  the same with the newest versions"
	@echo "make audit   known vulnerabilities of the versions in requirements.lock (needs the network)"
	@echo "make release-check  build sdist and wheel, check what is in them, install and run both in empty environments"
	@echo "make clean   remove .venv, uv, caches and builds"

demo: $(READY)
	$(BIN)/bayesharm demo

ALL_TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint
	$(ALL_TESTS) -m "not slow" $(PYTEST)

test-slow: $(READY)
	$(ALL_TESTS) -m slow $(PYTEST)

# Test files without a fit that have little to compile.
FAST := docs spec design scans dataset features metrics definition identifiability diagnostics

check: lint
	$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not slow" $(FAST:%=tests/test_%.py)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_architecture.py
	$(BIN)/python scripts/document_results.py --check

docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --nitpicky --keep-going --jobs 2 --builder html docs build/docs

calibrate: $(READY)
	$(BIN)/python benchmarks/calibration.py run
	$(BIN)/python benchmarks/calibration.py report

mutations: $(READY)
	$(BIN)/python scripts/mutation_check.py

$(READY): pyproject.toml requirements.lock scripts/setup.sh scripts/common.sh
	@sh scripts/setup.sh install

# .ready holds the folder that .venv was made in: copied or moved elsewhere, .venv would still run the code of the old place.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

comparators:
	@sh scripts/setup.sh comparators

lock:
	@sh scripts/setup.sh lock $(if $(UPGRADE),--upgrade)

test-lowest test-newest: test-%:
	@sh scripts/test_versions.sh $* $(or $(VERSION),3.12) $(FAST:%=tests/test_%.py) tests/test_hostile_files.py

audit:
	@sh scripts/audit.sh

release-check:
	@sh scripts/release_check.sh

clean:
	rm -rf .venv .venv-comparators .uv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
