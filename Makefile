# Each target sets itself up: Python and make are all it takes. "make help" lists them.

# Compiled modules are kept, whatever the environment says: the tests start processes by
# the thousand, and each would compile the package and its tests anew.
export PYTHONDONTWRITEBYTECODE =

PYTHON ?= python3
BIN = .venv/bin
GUNICORNS = 20.1.0 21.2.0 22.0.0 23.0.0 25.3.0
DEBS = nginx apache2-bin libapache2-mod-wsgi-py3 libev-dev curl \
  redis-server rabbitmq-server postgresql
# Those that are here, the oldest first, as 3.10=/usr/bin/python3.10.
PYTHONS = $(shell for python in python3.10 python3.11 python3.12 python3.13 python3.14 \
  python3.15 $(wildcard $(HOME)/.pyenv/versions/3.1*/bin/python); do $$python -c \
  'import sys; print("%d.%d=%s" % (*sys.version_info[:2], sys.executable))' 2>/dev/null; \
  done | sort --version-sort --field-separator== --key=1,1 --unique)

# For the tests of what surrounds these servers, which CI does not run.
OUTER_DEBS = pgbouncer faketime iproute2

comma := ,
space := $(subst ,, )
.PHONY: help demo serve unit system servers others test test-all test-newest test-lowest \
  django django-new lint docs docs-serve release bench instructions services outer wire \
  life soak kills oldest clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | \
	  expand -t 20

INSTALL = -m pip install --quiet --disable-pip-version-check

# A virtual environment, made by one Python in one folder. Its pip has dependency groups.
define environment
	$(1) -m venv $(2)
	$(2)/bin/python $(INSTALL) 'pip>=25.1'
endef

.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed; try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(call environment,$(PYTHON),.venv)
	@touch $@

.venv/installed: setup.cfg pyproject.toml | .venv/pip
	$(BIN)/python $(INSTALL) --editable . --group test --group lint --group engines
	@touch $@

# Only what a demo needs.
.venv/demo: setup.cfg pyproject.toml | .venv/pip
	$(BIN)/python $(INSTALL) --editable '.[flask,gunicorn,jobs]' --group demo
	@touch $@

demo: .venv/demo  ## watch a real gunicorn answer first and work afterwards
	$(BIN)/python examples/demo.py
	$(BIN)/python examples/demo_jobs.py

serve: .venv/demo  ## the same app, for your own requests, on http://127.0.0.1:8000
	$(BIN)/gunicorn

# Two halves at the same time, as most tests wait; each prints its part when it is done.
# With more at a time, servers run into time-outs of their own.
test: .venv/docs  ## all tests, with this Python; those of servers that are not here skip
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target servers others

servers:
	$(BIN)/python -m pytest tests/wire tests/life

others: unit
	$(BIN)/python -m pytest tests/engines tests/system tests/examples $(QUICK_DJANGO)

# All but those of its connections, which take as long as all of these.
QUICK_DJANGO = $(filter-out %/test_connections.py,$(wildcard tests/django/test_*.py))

# Every branch of the heart has a unit test, but for one of pools that needs a process;
# what only a fork or an exit reaches, not all.
HEART = $(filter-out %/coroutine.py,$(wildcard $(addprefix wsgi_defer/,\
  _calls/*.py _request/*.py _servers/*.py observers/*.py ledger.py \
  _runtime/host.py _runtime/stop_orders.py _runtime/per_process.py \
  $(addprefix pools/_,coroutines.py deadlines.py gather.py kinds.py task.py threads.py))))

unit: .venv/installed  ## the unit tests alone, in seconds, and their coverage
	$(BIN)/python -m pytest tests/unit --cov --cov-report=
	@$(BIN)/coverage report
	@$(BIN)/coverage report --fail-under 100 --include "$(subst $(space),$(comma),$(HEART))" >/dev/null

# Without coverage. It takes a lock at each call of ours, and what ends a call there, or
# forks, leaves that lock taken for ever.
system: .venv/installed  ## those with processes, forks and signals, and the examples
	$(BIN)/python -m pytest tests/system tests/examples

# And more of them: make django REQUESTS=1000
django: .venv/installed  ## all tests of Django, also those that restart its database
	$(BIN)/python -m pytest tests/unit/django tests/django

# With Django's own tests of tasks, which are not in its wheel.
django-new: .venv-django/installed  ## the same with the newest Django, which has tasks
	DJANGO_SOURCE="$$(ls .venv-django/?jango-*.tar.gz)" .venv-django/bin/python -m pytest \
	  tests/unit/django $(QUICK_DJANGO) tests/examples/test_django_*.py

# It needs Python 3.12.
.venv-django/installed: setup.cfg pyproject.toml
	@test -n "$(NEWEST)" || { echo "Python 3.12 or later is needed"; exit 1; }
	$(call environment,$(NEWEST),.venv-django)
	.venv-django/bin/python $(INSTALL) --editable . --group test --group engines 'django>=6'
	.venv-django/bin/python -m pip download --quiet --disable-pip-version-check \
	  --no-deps --no-binary=:all: --dest=.venv-django \
	  "$$(.venv-django/bin/python -m pip freeze | grep -i '^django==')"
	@touch $@

lint: .venv/installed  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## build the documentation into docs/_build; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build

docs-serve: docs  ## the same, on http://127.0.0.1:8001
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build 8001

.venv/docs: .venv/installed
	$(BIN)/python $(INSTALL) --group docs --group release
	@touch $@

bench: .venv/bench  ## what it costs, beside what it is compared with
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/served.py
	$(BIN)/python benchmarks/jobs.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/many.py

instructions: .venv/installed  ## the same in instructions, which no busy machine changes
	$(BIN)/python benchmarks/instructions.py --seeds 5

.venv/bench: .venv/installed
	$(BIN)/python $(INSTALL) --editable . --group bench
	@touch $@

# gunicorn 20.1 imports pkg_resources, which setuptools had up to 80.
services: .venv/installed .venv/wire  ## the servers that the tests use (Debian, root)
	@for version in $(GUNICORNS); do \
	  test -f .gunicorns/$$version/installed || { $(BIN)/python $(INSTALL) \
	    --upgrade --target .gunicorns/$$version \
	    gunicorn==$$version 'setuptools<81' && \
	    touch .gunicorns/$$version/installed; } || exit 1; \
	done

# What is not from PyPI comes from Debian; elsewhere, and without root, it is skipped.
# Debian would start each server that it installs, but not while policy-rc.d says no.
define debian
	@if test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    ! dpkg --status $(1) >/dev/null 2>&1; then \
	  policy=/usr/sbin/policy-rc.d; made=; \
	  test -e $$policy || { printf '#!/bin/sh\nexit 101\n' >$$policy && \
	    chmod +x $$policy && made=$$policy; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $(1) >/dev/null; \
	  status=$$?; rm -f $$made; exit $$status; \
	fi
endef

.venv/wire: .venv/installed
	$(call debian,$(DEBS))
	$(BIN)/python $(INSTALL) --group wire
	$(BIN)/python $(INSTALL) --group wire-source || echo "uwsgi and bjoern could not be built"
	@touch $@

.venv/outer: .venv/wire
	$(call debian,$(OUTER_DEBS))
	@touch $@

# Minutes, and root for some. Patterns of tests, and more: make outer OUTER="-k tls"
outer: .venv/outer  ## queue servers behind TLS or a pooler, restarted, cut off; wrong clocks
	$(BIN)/python -m pytest tests/outer $(OUTER)

# Patterns of set-ups, and more: make wire WIRE="'gunicorn*' --markdown table.md"
wire: .venv/installed  ## the table: what the client sees on each server
	$(BIN)/python -m tests.wire.table $(WIRE)

# Patterns of rows, and more: make life LIFE="'27-*' --event SIGKILL"
life: .venv/installed  ## the table: what becomes of calls when gunicorn's workers end
	$(BIN)/python -m tests.life.table $(LIFE)

# A row of that table, and more: make soak SOAK="27-sync --requests 20000"
soak: .venv/installed  ## many requests while workers are killed: the calls are counted
	$(BIN)/python -m tests.life.soak $(SOAK)

# Engines, and more: make kills KILLS="rq celery --jobs 1000"
kills: .venv/installed  ## many jobs while all their workers are killed: the jobs are counted
	$(BIN)/python -m tests.engines.kills $(KILLS)

OTHERS = $(filter-out $(shell $(BIN)/python -c \
  'import sys; print("%d.%d" % sys.version_info[:2])'),$(NUMBERS))
NUMBERS = $(foreach each,$(PYTHONS),$(firstword $(subst =, ,$(each))))
OLDEST = $(word 2,$(subst =, ,$(firstword $(PYTHONS))))
NEWEST = $(word 2,$(subst =, ,$(lastword $(filter 3.12=% 3.13=% 3.14=%,$(PYTHONS)))))

# The others run at the same time, as tests wait more than they compute.
test-all: .venv/installed  ## unit and system tests with each other Python that is here
	@others="$(OTHERS:%=test-with-%)"; test -z "$$others" || \
	  $(MAKE) --no-print-directory --jobs --output-sync=target $$others

oldest:
	@echo $(OLDEST)

test-newest:  ## unit and system tests with Python 3.14 and 3.15, if they are here
	@newest="$(patsubst %,test-with-%,$(filter 3.14 3.15,$(NUMBERS)))"; \
	  test -z "$$newest" || $(MAKE) --no-print-directory $$newest

test-with-%: .venv-%/installed
	.venv-$*/bin/python -m pytest --quiet -p no:cacheprovider tests/unit tests/system

.venv-%/installed: setup.cfg pyproject.toml
	$(call environment,$(patsubst $*=%,%,$(filter $*=%,$(PYTHONS))),.venv-$*)
	.venv-$*/bin/python $(INSTALL) --editable . --group test
	@touch $@

test-lowest: .venv-lowest/installed  ## unit tests and those of engines, with the oldest versions allowed
	.venv-lowest/bin/python -m pytest --quiet -p no:cacheprovider tests/unit tests/engines

# The checks that take no time come first. Nothing is uploaded.
release: .venv/docs  ## check all, build, install, and tag: make release VERSION=0.2.0
	@test -n "$(VERSION)" || { echo "Say which: make release VERSION=0.2.0"; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo "Commit or remove first:"; \
	  git status --short; exit 1; }
	@! git rev-parse --quiet --verify v$(VERSION) >/dev/null || { \
	  echo "There is a tag v$(VERSION) already"; exit 1; }
	@grep -q '^## $(VERSION) (20[0-9-]*)$$' CHANGELOG.md || { \
	  echo "CHANGELOG.md has no line \"## $(VERSION) ($$(date +%F))\""; exit 1; }
	@grep -q '^version = $(VERSION)$$' setup.cfg && \
	  grep -q '^__version__ = "$(VERSION)"$$' wsgi_defer/__init__.py || { \
	  echo "setup.cfg and wsgi_defer/__init__.py have another version"; exit 1; }
	$(MAKE) lint test test-all test-lowest docs
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	rm -rf .venv-release
	$(call environment,$(OLDEST),.venv-release)
	.venv-release/bin/python $(INSTALL) "$$(ls dist/*.whl)[flask,django,gunicorn,jobs]"
	cd .venv-release && bin/python -c 'import wsgi_defer.flask, wsgi_defer.gunicorn, \
	  wsgi_defer.jobs; assert wsgi_defer.__version__ == "$(VERSION)"'
	git tag --annotate v$(VERSION) --message 'Release $(VERSION)'
	@echo "Tagged. To publish: git push origin v$(VERSION) && $(BIN)/twine upload dist/*"

# The lower bounds of all extras, as constraints.
.venv-lowest/installed: setup.cfg pyproject.toml
	$(call environment,$(OLDEST),.venv-lowest)
	sed -n 's/^    \([a-z]*\)\(\[.*\]\)\{0,1\}>=\([0-9.]*\).*/\1==\3/p' setup.cfg | grep -v -e gunicorn -e gevent | \
	  sort -u >.venv-lowest/constraints.txt
	.venv-lowest/bin/python $(INSTALL) --constraint .venv-lowest/constraints.txt \
	  --editable '.[flask,django,jobs,rq,celery,procrastinate]' --group test --group engines
	@touch $@

.PRECIOUS: .venv-%/installed

clean:  ## remove what all this has made
	rm -rf .venv .venv-* .gunicorns build dist docs/_build *.egg-info .coverage* .*_cache .hypothesis
