# Each target sets itself up: Python and make are all it takes.
#
#   make demo      watch a real gunicorn answer first and work afterwards
#   make serve     the same app, for your own requests, on http://127.0.0.1:8000
#   make test      all tests, with this Python; needs no service
#   make unit      the unit tests alone, in seconds, and their coverage
#   make test-all  all tests, with each Python from 3.10 on that this machine has
#   make lint      ruff and mypy --strict
#   make bench     what it costs, beside what it is compared with
#   make services  what the real-server tests use if it is there: older gunicorns

PYTHON ?= python3
BIN = .venv/bin
GUNICORNS = 20.1.0 23.0.0

comma := ,
space := $(subst ,, )
.PHONY: demo serve unit test test-all lint bench services clean
.DEFAULT_GOAL := demo

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

demo: .venv/installed
	$(BIN)/python examples/demo.py

serve: .venv/installed
	$(BIN)/gunicorn

test: unit .venv/installed
	$(BIN)/python -m pytest tests/wire

# Every branch of the heart has a test; what only a fork or an exit reaches, not all.
HEART = _call _drain _middleware _outcome _response _scope _transport

unit: .venv/installed
	$(BIN)/python -m pytest --ignore tests/wire --cov --cov-report=
	@$(BIN)/coverage report
	@$(BIN)/coverage report --fail-under 100 \
	  --include "$(subst $(space),$(comma),$(HEART:%=wsgi_defer/%.py))" >/dev/null

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/cost.py

# gunicorn 20.1 imports pkg_resources, which setuptools had up to 80.
services: .venv/installed
	@for version in $(GUNICORNS); do \
	  test -d .gunicorns/$$version || $(BIN)/python -m pip install --quiet \
	    --disable-pip-version-check --target .gunicorns/$$version \
	    gunicorn==$$version 'setuptools<81' || exit 1; \
	done

test-all:
	@done=; for python in python3.10 python3.11 python3.12 python3.13 python3.14 \
	    $(wildcard $(HOME)/.pyenv/versions/3.1*/bin/python); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
	    2>/dev/null) || continue; \
	  case "$$done" in *" $$version "*) continue;; esac; done="$$done $$version "; \
	  echo "Python $$version"; \
	  test -f .venv-$$version/installed || { $$python -m venv .venv-$$version && \
	    .venv-$$version/bin/python -m pip install --quiet --disable-pip-version-check \
	      --editable '.[test]' && touch .venv-$$version/installed; } || exit 1; \
	  .venv-$$version/bin/python -m pytest --quiet || exit 1; \
	done

clean:
	rm -rf .venv .venv-* .gunicorns *.egg-info .coverage* .*_cache .hypothesis
