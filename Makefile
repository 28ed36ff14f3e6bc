# Each target sets itself up: Python and make are all it takes.
#
#   make demo      watch a real gunicorn answer first and work afterwards
#   make serve     the same app, for your own requests, on http://127.0.0.1:8000
#   make test      all tests, with this Python; needs no service
#   make unit      the unit tests alone, in seconds, and their coverage
#   make system    those with processes, forks and signals
#   make test-all  all tests but the tables, with each other Python from 3.10 on that is here
#   make lint      ruff and mypy --strict
#   make bench     what it costs, beside what it is compared with
#   make services  the servers that the tests use if they are there (Debian, root)
#   make wire      the table: what the client sees on each server
#   make life      the table: what becomes of calls when gunicorn's workers end
#   make soak      many requests while workers are killed: the calls are counted
#   make kills     many jobs while all their workers are killed: the jobs are counted

PYTHON ?= python3
BIN = .venv/bin
GUNICORNS = 20.1.0 21.2.0 22.0.0 23.0.0 25.3.0
DEBS = nginx apache2-bin libapache2-mod-wsgi-py3 libev-dev curl \
  redis-server rabbitmq-server postgresql

comma := ,
space := $(subst ,, )
.PHONY: demo serve unit system test test-all test-with lint bench services wire life soak kills clean
.DEFAULT_GOAL := demo

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint,engines]'
	@touch $@

demo: .venv/installed
	$(BIN)/python examples/demo.py
	$(BIN)/python examples/demo_jobs.py

serve: .venv/installed
	$(BIN)/gunicorn

test: unit system .venv/installed
	$(BIN)/python -m pytest tests/wire tests/life tests/engines

# Every branch of the heart has a unit test, but for one of pools that needs a process;
# what only a fork or an exit reaches, not all.
HEART = _async_pool _call _deadlines _drain _future _gather _host _job _limit _middleware \
  _observer _outcome _per_process _pool_kinds _response _room _scope _thread_pool _transport \
  _watch ledger
files = $(subst $(space),$(comma),$(1:%=wsgi_defer/%.py))

# Compiled tests are kept, whatever the environment says: it takes longer than to run them.
unit: export PYTHONDONTWRITEBYTECODE =
unit: .venv/installed
	$(BIN)/python -m pytest --ignore tests/system --ignore tests/wire --ignore tests/life \
	  --ignore tests/engines --cov --cov-report=
	@$(BIN)/coverage report
	@$(BIN)/coverage report --fail-under 100 --include "$(call files,$(HEART))" >/dev/null

# Without their coverage. It takes a lock at each call of ours, and what ends a call there,
# or forks, leaves that lock taken for ever.
system: .venv/installed
	$(BIN)/python -m pytest tests/system

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/jobs.py

# gunicorn 20.1 imports pkg_resources, which setuptools had up to 80.
services: .venv/installed .venv/wire
	@for version in $(GUNICORNS); do \
	  test -f .gunicorns/$$version/installed || { $(BIN)/python -m pip install --quiet \
	    --disable-pip-version-check --upgrade --target .gunicorns/$$version \
	    gunicorn==$$version 'setuptools<81' && \
	    touch .gunicorns/$$version/installed; } || exit 1; \
	done

# What is not from PyPI comes from Debian; elsewhere, and without root, it is skipped.
# Debian would start each server that it installs, but not while policy-rc.d says no.
.venv/wire: .venv/installed
	@if test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    ! dpkg --status $(DEBS) >/dev/null 2>&1; then \
	  policy=/usr/sbin/policy-rc.d; made=; \
	  test -e $$policy || { printf '#!/bin/sh\nexit 101\n' >$$policy && \
	    chmod +x $$policy && made=$$policy; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $(DEBS) >/dev/null; \
	  status=$$?; rm -f $$made; exit $$status; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[wire]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[wire-source]' || echo "uwsgi and bjoern could not be built"
	@touch $@

# Patterns of set-ups, and more: make wire WIRE="'gunicorn*' --markdown table.md"
wire: .venv/installed
	$(BIN)/python -m tests.wire.table $(WIRE)

# Patterns of rows, and more: make life LIFE="'27-*' --event SIGKILL"
life: .venv/installed
	$(BIN)/python -m tests.life.table $(LIFE)

# A row of that table, and more: make soak SOAK="27-sync --requests 20000"
soak: .venv/installed
	$(BIN)/python -m tests.life.soak $(SOAK)

# Engines, and more: make kills KILLS="rq celery --jobs 1000"
kills: .venv/installed
	$(BIN)/python -m tests.engines.kills $(KILLS)

# "make test" has run them with the Python of .venv. The others run at the same time, as
# tests wait more than they compute.
test-all: .venv/installed
	@done=" $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])') "; \
	for python in python3.10 python3.11 python3.12 python3.13 python3.14 \
	    $(wildcard $(HOME)/.pyenv/versions/3.1*/bin/python); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
	    2>/dev/null) || continue; \
	  case "$$done" in *" $$version "*) continue;; esac; done="$$done $$version "; \
	  test -f .venv-$$version/installed || { $$python -m venv .venv-$$version && \
	    .venv-$$version/bin/python -m pip install --quiet --disable-pip-version-check \
	      --editable '.[test]' && touch .venv-$$version/installed; } || exit 1; \
	  $(MAKE) --no-print-directory test-with VERSION=$$version & running="$$running $$!"; \
	done; \
	for each in $$running; do wait $$each || failed=yes; done; test -z "$$failed"

# Not the tables, and not what is the same with each Python.
test-with:
	@.venv-$(VERSION)/bin/python -m pytest --quiet -p no:cacheprovider \
	  --ignore tests/wire/test_table.py --ignore tests/wire/test_stress.py \
	  --ignore tests/wire/test_examples.py --ignore tests/life/test_table.py \
	  --ignore tests/life/test_soak.py --ignore tests/life/test_limits.py \
	  --ignore tests/life/test_pools.py --ignore tests/engines \
	  >.venv-$(VERSION)/output 2>&1; status=$$?; \
	echo "Python $(VERSION)"; cat .venv-$(VERSION)/output; exit $$status

clean:
	rm -rf .venv .venv-* .gunicorns *.egg-info .coverage* .*_cache .hypothesis
