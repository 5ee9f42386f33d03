# Every target sets up what it needs, once: the virtual environment from the hashed lock, and the real servers.
#   make demo     the guided tour
#   make demo-cluster  a cluster that lost its master, rebuilt
#   make test     lint, types, layers, and every test
#   make test-lab restores of clusters with real containers
#   make bench    the table of speed and memory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -W error -m pytest
SOURCES := bbr restore schedules tests testbed bench docs/restore_by_hand.py

# A machine that is new has no package lists yet.
debian = echo "set-up: installing $(1) with apt-get" && apt-get update -qq && apt-get install -y -qq $(1) >/dev/null || \
  { echo "set-up: $(1) is missing; install it as root: apt-get install $(1)"; exit 1; }

# Tests start an sshd of their own; installing the package must not start one for all the world. Debian's own way to say so.
policy := /usr/sbin/policy-rc.d
quietly = test -e $(policy) || { trap 'rm -f $(policy)' EXIT; printf '\#!/bin/sh\nexit 101\n' >$(policy) && chmod 755 $(policy); }

.DEFAULT_GOAL := help
.PHONY: help demo demo-cluster test test-lab lint quick flips bench testbed testbed-etcd testbed-lab programs format lock protos clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/ready testbed-etcd  ## a real etcd backed up, destroyed, restored and compared
	@$(BIN)/bbr demo $(DEMO)

demo-cluster: $(VENV)/ready programs testbed-etcd testbed-lab  ## a cluster loses its master and gets another; needs root
	@$(BIN)/bbr demo --cluster $(DEMO)

test: lint testbed testbed-lab  ## everything: lint, types, layers, tests
	@$(PYTEST) -m "not full and not truelab and not lab"

quick: $(VENV)/ready testbed testbed-lab  ## the tests that are not slow
	@$(PYTEST) -m "not full and not truelab and not lab and not slow"

test-lab: $(VENV)/ready testbed testbed-lab  ## each restore with real containers and 20,000 objects; every kill, undo and bad input
	@$(PYTEST) -m "truelab or lab" --durations=0 $(LAB)

flips: $(VENV)/ready testbed  ## every bit of a small repository flipped
	@$(PYTEST) -m full tests/test_flips.py

lint: $(VENV)/ready  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(VENV)/ready testbed  ## speed and memory against the stock tools; BENCH="--only rebuild": of a cluster, needs root
	@$(BIN)/python -m bench $(BENCH)

testbed: programs  ## build the real servers, once
	@$(PYTHON) testbed/build.py --all

testbed-etcd:
	@$(PYTHON) testbed/build.py etcd-3.6

testbed-lab:  ## build Kubernetes and containerd, for real clusters in the lab: minutes, once
	@$(PYTHON) testbed/build.py --lab

programs:
	@command -v zstd >/dev/null || { $(call debian,zstd); }
	@PATH="$$PATH:/usr/sbin"; command -v sshd >/dev/null || { $(quietly); $(call debian,openssh-server); }
	@PATH="$$PATH:/usr/sbin"; command -v runc >/dev/null || { $(call debian,runc); }

# The stamp is as new as what it was made from, so that a warm make does nothing here.
$(VENV)/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "set-up: Python 3.11 or newer is missing"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "set-up: Python 3.11 or newer is needed"; exit 1; }
	@echo "set-up: virtual environment in $(VENV), from requirements.lock"
	@start=$$(date +%s); \
	  { $(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call debian,python3-venv); }; } && \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . && \
	  echo "set-up: ready in $$(( $$(date +%s) - start )) s"
	@touch $@

format: $(VENV)/ready  ## put every file in its one form
	@$(BIN)/ruff check --fix --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

protos: $(VENV)/ready  ## the etcd stubs, from rpc.proto
	@$(BIN)/python bbr/etcd/generate

lock:  ## requirements.lock anew, from pyproject.toml
	@$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --extra dev --no-emit-index-url \
	  --no-emit-trusted-host --no-emit-find-links --no-header --output-file requirements.lock pyproject.toml

clean:  ## remove the virtual environment and caches of this folder
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
