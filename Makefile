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

# `make test` runs each suite of the testbed over IPv4 on one link, and these over the other networks too. Not
#   outsider wire long_haul networks  which choose their networks themselves, mostly all four;
#   long                              what a connection's age brings is above the network, and takes minutes;
#   stress                            keeps every CPU busy for minutes over one;
#   daemon h1spec                     have no cluster, or run only when asked for.
OTHER_NETWORKS ?= ipv6 ipv4-routed ipv6-routed
NETWORK_SUITES ?= figures moves slow_path deciding clients adversity direct tls tcp real_tcp reload \
  conformance servers lifetimes
# The longest first: what is left over at the end is short.
SUITES ?= long outsider $(filter-out $(ALONE) long outsider,$(patsubst testbed/tests/%.rs,%,$(wildcard testbed/tests/*.rs)))
# By itself: it leaves no CPU to others.
ALONE ?= stress
# A cluster under test waits half of the time. Those that measure on one CPU wait for one that no other such
# test has; two at once keep two CPUs busy, and a third one what these leave.
AT_ONCE ?= 3
# For each target of `make fuzz`.
FUZZ_SECONDS ?= 60
# KEEP=1 leaves the demo's cluster running.
KEEP ?=

.PHONY: help setup rust demo test test-crates test-suites test-alone bench lint fuzz

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
	cargo test --package baton-testbed --no-run
	@$(MAKE) --no-print-directory --keep-going test-crates test-suites test-alone

test-crates:
	@echo "== the tests of the crates"
	@status=0; export RUST_TEST_THREADS=1; \
	$(AS_ROOT) cargo test --workspace --exclude baton-testbed --no-fail-fast || status=1; \
	$(AS_ROOT) cargo test --package baton-testbed --lib || status=1; \
	$(AS_ROOT) cargo test --package baton-testbed --doc || status=1; \
	exit $$status

test-suites:
	@echo "== the suites of the testbed, $(AT_ONCE) at once"
	@$(MAKE) --no-print-directory --keep-going --jobs $(AT_ONCE) --output-sync=target \
	  $(addprefix run/ipv4/,$(SUITES)) \
	  $(foreach network,$(OTHER_NETWORKS),$(addprefix run/$(network)/,$(NETWORK_SUITES)))

test-alone: $(addprefix run/ipv4/,$(ALONE))

# One suite over one network: `make run/ipv6-routed/figures`.
run/%:
	@echo "== $(@F) over $(notdir $(@D))"
	@BATON_NETWORK=$(notdir $(@D)) $(AS_ROOT) \
	  cargo test --quiet --package baton-testbed --test $(@F) -- --test-threads=1

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
