# What one does with this repository. `make` alone lists it.
#
# Every target installs what it needs with apt when it is missing (scripts/setup says what), and uses
# sudo for what only root may do. What is compiled is compiled as you.

SHELL := /bin/bash
# Where rustup puts cargo, for shells that have not read their profile since.
export PATH := $(PATH):$(HOME)/.cargo/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
# Cargo starts what it has built through this: tests and benchmarks make network namespaces.
HOST := $$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
AS_ROOT := $(if $(SUDO),env "CARGO_TARGET_$(HOST)_RUNNER=$(SUDO)")

# Tests at once: a cluster under test keeps two CPUs busy, and one that waits for a CPU for longer than
# TCP's patience sends again what was not lost.
TEST_THREADS ?= 1
# `make test` runs everything over IPv4 on one link, and then these suites over the other networks.
OTHER_NETWORKS ?= ipv6 ipv4-routed ipv6-routed
NETWORK_SUITES ?= figures moves slow_path
# For each target of `make fuzz`.
FUZZ_SECONDS ?= 60
# KEEP=1 leaves the demo's cluster running.
KEEP ?=

.PHONY: help setup rust demo test bench lint fuzz

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: ## install what building, testing and the demo need, but for Rust
	@scripts/setup

demo: setup rust ## a cluster of four nodes at work, for about a minute; KEEP=1 leaves it running
	@echo "== building Baton"
	cargo build --release --package baton
	@echo "== the demo"
	$(SUDO) $(TARGET)/release/baton demo $(if $(KEEP),--keep)

test: setup rust ## every test, against the kernel's own TCP, nginx and Apache
	@scripts/setup test
	@echo "== building Baton and its tests"
	cargo test --workspace --no-run
	@echo "== running the tests, $(TEST_THREADS) at once"
	@status=0; export RUST_TEST_THREADS=$(TEST_THREADS); \
	$(AS_ROOT) cargo test --workspace --no-fail-fast || status=1; \
	for network in $(OTHER_NETWORKS); do \
	  echo "== once more over $$network: $(NETWORK_SUITES)"; \
	  BATON_NETWORK=$$network $(AS_ROOT) cargo test --package baton-testbed --no-fail-fast \
	    $(addprefix --test ,$(NETWORK_SUITES)) || status=1; \
	done; exit $$status

bench: rust ## compare with bare nginx, HAProxy, and nginx as a proxy
	@scripts/setup bench
	@echo "== building Baton and the benchmark"
	cargo build --release --package baton --package baton-bench
	@echo "== the benchmark"
	$(AS_ROOT) cargo run --release --package baton-bench

lint: rust ## form: rustfmt, clippy, clang-format
	@scripts/setup lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$$(scripts/newest clang-format) --dry-run -Werror crates/datapath/bpf/*.[ch]

fuzz: setup rust ## everything that reads others' bytes, FUZZ_SECONDS each
	@cargo fuzz --version >/dev/null 2>&1 || { echo "== installing cargo-fuzz"; cargo install --locked cargo-fuzz; }
	@# The sanitizer's flags are unstable; the compiler need not be. What is found goes into the first folder.
	set -e; for target in $$(cargo fuzz list); do \
	  echo "== fuzzing $$target for $(FUZZ_SECONDS) s"; \
	  found=$(TARGET)/fuzz-found/$$target; mkdir -p $$found; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --features libfuzzer $$target $$found fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS); \
	done

rust:
	@scripts/need-rust
