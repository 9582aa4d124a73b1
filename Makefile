# Everything a contributor runs. Each recipe calls one small script in tools/.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup services fmt lint test docs sim mutants chaos chaos-check chaos-totals dist demo pictures bench bench-quick bench-bridge clean

# Holds servers only where the machine has none that will do: see tools/fetch-redis and tools/fetch-etcd.
export PATH := $(CURDIR)/.cache/services/bin:$(PATH)
export PROTOC ?= $(CURDIR)/.venv/bin/protoc

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## Build everything into .venv, node_modules and target
	@tools/check-toolchain
	@tools/setup-python
	@tools/setup-node
	@tools/build-native

services: ## Find, build or unpack the servers that the tests start
	@tools/fetch-redis
	@tools/fetch-faketime
	@tools/fetch-redis-kin
	@tools/fetch-etcd

fmt: setup ## Format all sources
	@cargo fmt --all
	@.venv/bin/ruff check --quiet --fix --exit-zero .
	@.venv/bin/ruff format --quiet .

lint: setup ## Run every static check
	@.venv/bin/python tools/lint

test: setup services ## Run every test; the last line counts them all
	@.venv/bin/python tools/run-tests

docs: setup ## Build the site of the documentation into .cache/site; SERVE=1 shows it and builds it anew as pages change
	@.venv/bin/python tools/make-docs $(if $(SERVE),--serve)

sim: ## Run 20,000 histories on virtual time, or SEEDS=n; SEED=n runs one again with its trace
	@tools/check-toolchain
	@cargo run --quiet --release --locked --package dlock-sim

mutants: setup services ## Reintroduce known faults one at a time: a test must catch each
	@.venv/bin/python tools/mutants $(ONLY)

chaos: setup services ## Real faults on real servers: SECONDS=600 BACKEND=redis SEED=7, or a short mix
	@.venv/bin/python tests/chaos/run.py $(addprefix --seconds ,$(SECONDS)) $(addprefix --backend ,$(BACKEND)) $(addprefix --seed ,$(SEED))

chaos-check: ## Judge a history of `make chaos` again: HISTORY=.cache/chaos/redis-7
	@.venv/bin/python tests/chaos/run.py --check $(HISTORY)

chaos-totals: ## Sum up all runs of `make chaos`
	@.venv/bin/python tests/chaos/totals.py

dist: setup services ## Build wheel, sdist and npm tarball, and try each in an empty environment
	@.venv/bin/python tools/make-dist

demo: setup ## Show the lock at work between Python, Node and shell
	@.venv/bin/python examples/demo/run.py

pictures: setup services ## Record the demo and draw the dashboard anew for the documentation, in seven minutes
	@.venv/bin/python tools/record-demo
	@tools/setup-bench-peers --few
	@tools/fetch-prometheus
	@.cache/benches/python/bin/python tools/draw-dashboard

bench: setup services ## Compare with other lock libraries and write docs/benchmarks.md, or print ONLY=one_task; ROUNDS=5
	@tools/setup-bench-peers
	@.cache/benches/python/bin/python benches/run.py $(addprefix --rounds ,$(ROUNDS)) $(ONLY)

bench-quick: setup services ## Compare in less than two minutes; fails where dlock is far too slow
	@tools/setup-bench-peers --few
	@.cache/benches/python/bin/python benches/run.py --quick

bench-bridge: ## Compare ways to hand a result to an event loop (ADR 1)
	@tools/check-toolchain
	@python3 benches/bridge/run.py

clean: ## Remove all that was built or downloaded
	@rm -rf .cache .venv dist node_modules target .mypy_cache .pytest_cache .ruff_cache
	@rm -f bindings/python/dlock/*.so bindings/node/*.node
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
