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

# `make test` runs each suite of the testbed over IPv4 on one link, and over the other networks those whose subject
# looks different there: how a packet is read, wrapped, answered and sent on its way. What is decided from it looks at
# no address: tests/against_model plays all four networks packet by packet, and the simulation plays the decisions,
# so these are not repeated over others than the first:
#   deciding pools owners unknown lifetimes   rules of the core, played by the simulation, too;
#   reload                                    a file's succession, played by the simulation, too;
#   differential conformance servers          what requests and web servers are like;
#   outsider wire long_haul networks flooded  which choose their networks themselves, mostly all four;
#   long                                      what a connection's age brings is above the network, and takes minutes;
#   stress floods                             keep every CPU busy over one;
#   pipelining                                counts what clients repeat, so nothing else may keep a CPU from the daemons;
#   standby                                   is about who is asked, which the simulation plays, too; on a machine that lets a
#                                             daemon wait for half a second nodes rightly decide alone;
#   undisturbed growing clocks evidence       are about daemons, whatever the network;
#   first_hour                                is about what an operator types;
#   direct                                    has no Baton: it tries the testbed;
#   daemon h1spec                             have no cluster, or run only when asked for.
# Over IPv6 with each node behind a router: what is least like the first. IPv6 on one link and IPv4 behind routers are
# mixtures of the two, which outsider, wire, long_haul and networks go through.
ROUTED_SUITES ?= figures moves slow_path tls clients adversity tcp host_changes killed layouts black_holes
# Over a link that gives every frame to every node, where `flooded` alone runs otherwise.
FLOODED_SUITES ?= moves
# Over any other: `make test OTHER_NETWORKS="ipv6 ipv4-routed" NETWORK_SUITES=moves`.
OTHER_NETWORKS ?=
NETWORK_SUITES ?= moves
# The longest first: what is left over at the end is short.
SUITES ?= long outsider $(filter-out $(ALONE) long outsider,$(patsubst testbed/tests/%.rs,%,$(wildcard testbed/tests/*.rs)))
# By themselves: they leave no CPU to others, or need it.
ALONE ?= pipelining floods stress standby
ROUTED_ALONE ?= pipelining
# A cluster under test waits half of the time. Those that measure on one CPU wait for one that no other such
# test has.
AT_ONCE ?= 3
RUNS = $(addprefix run/ipv4/,$(SUITES)) \
  $(foreach network,$(OTHER_NETWORKS),$(addprefix run/$(network)/,$(NETWORK_SUITES))) \
  $(addprefix run/ipv6-routed/,$(ROUTED_SUITES)) $(addprefix run/ipv4-flooded/,$(FLOODED_SUITES))
# `make audit` fetches the database of weaknesses (RustSec).
ADVISORIES ?= advisories
# For each target of `make fuzz`.
FUZZ_SECONDS ?= 60
# KEEP=1 leaves the demo's cluster running.
KEEP ?=

# `make test-fresh` makes these, in a new Debian; with SUITES, ALONE and their like as they are given here.
FRESH ?= setup demo test

.PHONY: help setup rust demo simulate quick test test-fresh test-kernels test-crates test-suites test-together test-alone bench lint audit fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: ## install what building, testing and the demo need, but for Rust
	@scripts/setup

demo: setup rust ## a cluster of four nodes at work, for about a minute; KEEP=1 leaves it running
	@echo "== building Baton"
	cargo build --release --package baton --package baton-demo
	@echo "== the demo"
	$(SUDO) $(TARGET)/release/baton-demo $(if $(KEEP),--keep)

test: setup rust ## every test, against the kernel's own TCP, nginx and Apache
	@scripts/setup test
	@echo "== building Baton and its tests"
	cargo test --workspace --no-run
	cargo test --package baton-testbed --no-run
	@$(MAKE) --no-print-directory --keep-going test-together test-alone

test-fresh: rust ## the same on a machine that has nothing but git, make and Rust: a minimal Debian in a folder
	@scripts/setup fresh
	$(SUDO) scripts/test-fresh $(FRESH) $(foreach given,SUITES ALONE ROUTED_SUITES ROUTED_ALONE FLOODED_SUITES OTHER_NETWORKS AT_ONCE,\
	  $(if $(filter command environment,$(firstword $(origin $(given)))),$(given)='$($(given))'))

test-kernels: rust ## on Debian's own kernels, each in a virtual machine: JOBS="node links" (programs, demo), DEBIAN_SUITES=trixie
	@scripts/setup kernels
	$(SUDO) env $(foreach given,DEBIAN_SUITES KERNELS KERNELS_DIR PATIENCE BATON_PATIENCE,\
	  $(if $(filter command environment,$(firstword $(origin $(given)))),$(given)='$($(given))')) scripts/test-kernels $(JOBS)

test-crates:
	@echo "== the tests of the crates"
	@status=0; export RUST_TEST_THREADS=1; \
	$(AS_ROOT) cargo test --workspace --exclude baton-testbed --no-fail-fast || status=1; \
	$(AS_ROOT) cargo test --package baton-testbed --lib || status=1; \
	$(AS_ROOT) cargo test --package baton-testbed --doc || status=1; \
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --document-private-items || status=1; \
	exit $$status

# What others do not disturb. The tests of the crates are one of these, and the longest.
test-together:
	@echo "== the tests of the crates and the suites of the testbed, $(AT_ONCE) at once"
	@$(MAKE) --no-print-directory --keep-going --jobs $(AT_ONCE) --output-sync=target test-crates $(RUNS)

test-suites:
	@$(MAKE) --no-print-directory --keep-going --jobs $(AT_ONCE) --output-sync=target $(RUNS)

test-alone: $(addprefix run/ipv4/,$(ALONE)) $(addprefix run/ipv6-routed/,$(ROUTED_ALONE))

# One suite over one network: `make run/ipv6-routed/figures`.
run/%:
	@echo "== $(@F) over $(notdir $(@D))"
	@BATON_NETWORK=$(notdir $(@D)) $(AS_ROOT) \
	  cargo test --quiet --package baton-testbed --test $(@F) -- --test-threads=1

quick: setup rust ## what needs no root and under three minutes: form, the pure crates, the searches, the fuzz corpus
	cargo fmt --all --check
	cargo test --quiet --package baton-http --package baton-tls --package baton-cluster --package baton-dispatcher \
	  --package baton-control --package baton-fuzz
	cargo test --quiet --package baton-datapath --lib --test moves
	cargo test --quiet --package baton-core --package baton-node --lib
	cargo run --quiet --release --package baton-simulation -- 0 3000

simulate: setup rust ## a cluster under simulated time: SEED=n tells one story, SEED=n LAST=m plays many
	cargo run --quiet --release --package baton-simulation -- $(or $(SEED),0) $(LAST)

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
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	$$(scripts/newest clang-format) --dry-run -Werror crates/datapath/bpf/*.[ch]

audit: rust ## the crates that are linked: known weaknesses, licences, sources (ADVISORIES= needs no network)
	@cargo deny --version >/dev/null 2>&1 || { echo "== installing cargo-deny"; cargo install --locked cargo-deny; }
	cargo deny --workspace check $(ADVISORIES) bans licenses sources

fuzz: setup rust ## everything that reads others' bytes, FUZZ_SECONDS each
	@scripts/setup fuzz
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
