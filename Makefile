# Culvert. `make` or `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A clone that belongs to somebody else than the builder has no readable
# version control status; the build shall work there too.
export GOFLAGS ?= -buildvcs=false

# Daemons that tests run live in sbin.
export PATH := $(PATH):/usr/sbin:/sbin

FUZZTIME  ?= 20s
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 1
RESULT    ?= dist/bench/$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
MINUTES   ?= 30

# Packages with tests that need root, and packages with benchmarks. The longest
# begins first: two run at a time, each in namespaces of its own.
netns_packages = $(sort $(dir $(shell grep -rl --include='*_test.go' '^//go:build netns' . )))
longest = ./test/netns/e2e/
bench_packages = $(sort $(dir $(shell grep -rl --include='*_test.go' '^func Benchmark' . )))

# Tests that measure what work costs packets or takes, and their packages: nothing else
# may run meanwhile.
alone = CostsPackets|CostPackets|UseNoProcessor|OfAMillionFlows
alone_packages = $(sort $(dir $(shell grep -rlE --include='*_test.go' '^func Test[A-Za-z]*($(alone))' .)))

.PHONY: help build man test tools lint unit race netns soak floods bench profile bench-wire bench-compare bench-quick plots fuzz corpus vuln clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# The commit goes into the binary where git can be asked for it.
stamp = -buildvcs=$(shell git status >/dev/null 2>&1 && echo true || echo false)

build: ## bin/culvert, static, the same bytes from the same commit
	CGO_ENABLED=0 go build $(stamp) -trimpath -o bin/culvert ./cmd/culvert

man: build ## manual pages, below dist/man
	bin/culvert man dist/man

test: ## everything, as root: install tools, lint, unit, race, fuzz seeds, namespaces, a quick bench
	@start=$$SECONDS; \
	for step in tools lint unit race netns bench-quick; do \
		began=$$SECONDS; \
		$(MAKE) --no-print-directory $$step || { echo "FAIL: make $$step" >&2; exit 1; }; \
		echo "ok: $$step ($$((SECONDS - began)) s)"; \
	done; \
	echo "PASS: tools, lint, unit tests with fuzz seeds, race, namespaces, bench in $$((SECONDS - start)) s"

tools: ## install the Debian packages that tests need
	@scripts/install-test-tools

lint: ## gofmt, vet, staticcheck
	@scripts/lint

unit: ## unit tests and fuzz seeds, no root needed
	@go test -skip '$(alone)' ./...
	@go test -p 1 -run '$(alone)' $(alone_packages)

race: ## the same under the race detector, long ones shortened; not the checks of the source
	@go test -race -short $$(go list ./... | grep -v '/internal/archtest$$')

netns: build ## end-to-end tests in network namespaces, as root
	@[ "$$(id -u)" = 0 ] || { echo "these tests make network namespaces: run them as root" >&2; exit 1; }
	@CULVERT_BIN=$(CURDIR)/bin/culvert go test -tags netns -p 2 -skip '$(alone)' $(longest) $(filter-out $(longest),$(netns_packages))

soak: build ## mixed traffic and changes for MINUTES, every invariant checked all the time, as root
	@[ "$$(id -u)" = 0 ] || { echo "this makes network namespaces: run it as root" >&2; exit 1; }
	@CULVERT_BIN=$(CURDIR)/bin/culvert SOAK=$(MINUTES)m go test -tags netns -count=1 -v -timeout $$(($(MINUTES) + 5))m ./test/netns/soak

floods: build ## floods through Culvert and through the kernel, side by side, for nine minutes, as root
	@[ "$$(id -u)" = 0 ] || { echo "this makes network namespaces: run it as root" >&2; exit 1; }
	@CULVERT_BIN=$(CURDIR)/bin/culvert FLOODS=long go test -tags netns -count=1 -v -timeout 20m ./test/netns/flood

bench: ## benchmarks in memory into a result file; BENCH=regexp BENCHTIME=1s COUNT=1 RESULT=dist/bench/COMMIT
	@scripts/bench $(RESULT).memory.txt -run='^$$' -bench='$(BENCH)' -benchtime=$(BENCHTIME) -count=$(COUNT) -benchmem -timeout=3h $(bench_packages)

bench-wire: build ## a gateway between two hosts beside the kernel's, as root, into a result file
	@[ "$$(id -u)" = 0 ] || { echo "this makes network namespaces: run it as root" >&2; exit 1; }
	@CULVERT_BIN=$(CURDIR)/bin/culvert scripts/bench $(RESULT).wire.txt -tags=netns -run='^$$' -bench='$(BENCH)' -benchtime=1x -count=$(COUNT) -timeout=3h ./test/bench/wire

plots: ## diagrams of the result files in test/bench/results, which PERFORMANCE.md shows
	@go run ./test/bench/plot -o test/bench/results test/bench/results/*.txt

profile: ## measure anew what the compiler reads of where packets go: cmd/culvert/default.pgo
	@scripts/profile cmd/culvert/default.pgo

bench-compare: ## benchmarks of BASE=revision and HEAD in turns, compared; BENCH=regexp LONG=1
	@BENCH='$(BENCH)' scripts/bench-compare $(or $(BASE),$(error say BASE=revision))

bench-quick: ## every benchmark for a moment, to see that it works
	@go test -short -run='^$$' -bench=. -benchtime=10x $(bench_packages) | grep -E '^(ok|FAIL|---|panic)' || exit 1

fuzz: ## every fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

corpus: ## keep the best of what fuzzing has found as seeds
	@scripts/keep-corpus

vuln: ## known vulnerabilities of the modules and of Go; needs their database on the net
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

clean: ## remove what build made
	rm -rf bin dist
