# Two commands to begin with: `make demo` and `make test`. The rest is for those who change things.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO ?= go
# Pure Go everywhere but under the race detector: nothing shipped needs C, and with cgo a C twin of
# the SQL parser would be compiled that nobody calls.
export CGO_ENABLED = 0
# Static, the same bytes wherever it is built: no C compiler, no paths, no clock.
BUILD = $(GO) build -buildvcs=false -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
TEST_TIMEOUT ?= 15m
FUZZTIME ?= 10s
BENCHTIME ?= 100ms
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: help
help: ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

.PHONY: demo
demo: build ## Run the demo; ARGS=--interactive or ARGS=--keep
	@./bin/countersign-demo $(ARGS)

.PHONY: build
build: ## Build bin/countersign and bin/countersign-demo
	@$(BUILD) -o bin/countersign ./cmd/countersign
	@$(BUILD) -o bin/countersign-demo ./cmd/demo

.PHONY: deps
deps: ## Install what the tests need and this machine lacks
	@.ci/deps

.PHONY: test
test: deps ## Run all tests, against real peers
	$(GO) test -timeout $(TEST_TIMEOUT) ./...

.PHONY: conformance
conformance: deps ## Run the official MCP conformance suite directly and through countersign
	@$(GO) test -count=1 -v -run '^TestConformance$$' ./cmd/countersign | grep -v -e '^=== ' -e '^ *--- PASS'

# The tests of the same names run with a few hundred calls, sixty approvals, forty kills and four
# outages; SOAK_SEED says which calls, who presses what, and when who is killed.
SOAK_CALLS ?= 100000
SOAK_APPROVALS ?= 1000
SOAK_KILLS ?= 500
SOAK_OUTAGES ?= 40
SOAK_SEED ?= 20260728
.PHONY: kills
kills: ## Kill the record SOAK_KILLS times: the first part of soak
	@COUNTERSIGN_SOAK_KILLS=$(SOAK_KILLS) COUNTERSIGN_SOAK_SEED=$(SOAK_SEED) \
	  $(GO) test -count=1 -timeout 24h -v -run '^TestKilledAtRandom$$' ./audit | grep -v '^=== '

.PHONY: outages
outages: ## Take Git away from the record SOAK_OUTAGES times: the second
	@COUNTERSIGN_SOAK_OUTAGES=$(SOAK_OUTAGES) \
	  $(GO) test -count=1 -timeout 24h -v -run '^TestAwaySoak$$' ./cmd/countersign | grep -v '^=== '

.PHONY: soak
soak: deps kills outages ## Kill the record SOAK_KILLS times, take Git away, then run SOAK_APPROVALS approvals and SOAK_CALLS calls while all is killed
	@COUNTERSIGN_SOAK_APPROVALS=$(SOAK_APPROVALS) COUNTERSIGN_SOAK_SEED=$(SOAK_SEED) \
	  $(GO) test -count=1 -timeout 24h -v -run '^TestApprovalsSoak$$' ./cmd/countersign | grep -v '^=== '
	@COUNTERSIGN_SOAK_CALLS=$(SOAK_CALLS) COUNTERSIGN_SOAK_SEED=$(SOAK_SEED) \
	  $(GO) test -count=1 -timeout 24h -v -run '^TestSoak$$' ./cmd/countersign | grep -v '^=== '

# Without the fixtures' own tests: those start every real peer once more, and hold no concurrency
# of the product. Without the walks through the pages, and the runs behind other programs: under the
# detector each start of the product takes ten times as long, and `make test` runs them all. Without
# the one that measures the product's memory, of which the detector takes several times as much. What
# stays is every package, and the whole program under hostile requests, crashes, stops, approvals. And
# without the record that is killed at random: those are processes of their own, with nothing to race.
PAGES = Page|Pages|Runbook|Readme|TypeScript|Database|PublishedServer|KilledEnforcer|GitHubApp|OverSSH|ExitCodes|StalledReaders|Conformance|ErasMeet|Soak
.PHONY: race
race: deps ## Run the tests of the product under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout $(TEST_TIMEOUT) -skip '^TestKilledAtRandom$$' $$($(GO) list ./... | grep -v -e '^countersign/fixtures' -e '^countersign/cmd')
	CGO_ENABLED=1 $(GO) test -race -timeout $(TEST_TIMEOUT) -skip '$(PAGES)' ./cmd/...

.PHONY: screenshots
screenshots: deps ## Take the pictures of docs/approvals.md anew
	@mkdir -p docs/images
	@COUNTERSIGN_TEST_SCREENSHOTS="$(CURDIR)/docs/images" $(GO) test -count=1 -run '^(TestPictures|TestApprovalPageInARealBrowser)$$' ./bot ./cmd/countersign

.PHONY: bench
bench: ## Measure: each package, then direct, bare proxy, countersign; ARGS=-help for flags
	@$(BUILD) -o bin/countersign ./cmd/countersign
	@$(BUILD) -o bin/countersign-bench ./cmd/bench
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem $$($(GO) list ./... | grep -v '^countersign/\(cmd\|fixtures\)')
	@./bin/countersign-bench $(ARGS)

# gitleaks is a module of its own; its samples are made by its own generator. SLOW=1m looks for slower
# inputs first, that long for each target.
SLOW ?= 0
.PHONY: mask-report
mask-report: ## Measure the mask beside gitleaks, and write the tables of docs/masking.md
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	  if [ "$(SLOW)" != 0 ]; then $(GO) test -count=1 -timeout 0 -run '^TestFindSlowInputs$$' -v ./enforcer/mask -args -slow $(SLOW); fi; \
	  fixtures/gitleaks/samples "$$dir/samples.jsonl"; \
	  $(GO) test -count=1 -run '^TestReport$$' ./enforcer/mask -args -report-inputs "$$dir"; \
	  (cd fixtures/gitleaks && $(GO) vet . && $(GO) run . "$$dir"); \
	  $(GO) test -count=1 -timeout $(TEST_TIMEOUT) -run '^TestReport$$' ./enforcer/mask -args -report-update "$$dir"

.PHONY: lint
lint: ## gofmt, no large files, vet, staticcheck; govulncheck where GOVULNDB names a database
	@unformatted=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r gofmt -l); \
	  if [ -n "$$unformatted" ]; then echo "gofmt wants to change:" $$unformatted >&2; exit 1; fi
	@large=$$(git ls-files -z | xargs -0 sh -c 'find "$$@" -maxdepth 0 -size +1024k' sh); \
	  if [ -n "$$large" ]; then echo "over 1 MB, so hardly source:" $$large >&2; exit 1; fi
	$(GO) vet ./...
	cd fixtures/realvault && $(GO) vet ./...
	$(GO) tool staticcheck ./...
	@if [ -n "$${GOVULNDB:-}" ]; then \
	  echo "$(GO) run $(GOVULNCHECK) ./..."; $(GO) run $(GOVULNCHECK) -db "$$GOVULNDB" ./...; \
	else \
	  echo "govulncheck: not run; set GOVULNDB to the URL of a vulnerability database to run it"; \
	fi

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME
	@grep -rlE --include='*_test.go' --exclude-dir=node_modules '^func Fuzz[A-Z]' . | sort | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
	    echo "$${file%/*} $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$${file%/*}"; \
	  done; \
	done

# The committed inputs only, every one of them, each target's own seeds included.
.PHONY: corpora
corpora: ## Run every fuzz target over its committed corpus
	@files=$$(grep -rlE --include='*_test.go' --exclude-dir=node_modules '^func Fuzz[A-Z]' . || true); \
	  if [ -z "$$files" ]; then echo "no fuzz target"; exit 0; fi; \
	  $(GO) test -count=1 -run '^Fuzz' $$(dirname $$files | sort -u)

# BUILDER is docker, podman or buildah, whichever is there; the latter two keep a health check only
# in Docker's image format. IMAGE_FLAGS takes anything more, such as --build-arg BUILD_BASE=… where
# the usual bases cannot be pulled.
BUILDER ?= $(shell command -v docker || command -v podman || command -v buildah)
IMAGE ?= countersign
IMAGE_BUILD = $(BUILDER) build $(if $(filter podman buildah,$(notdir $(BUILDER))),--format docker) \
  --build-arg VERSION=$(VERSION) $(IMAGE_FLAGS)
.PHONY: image
image: ## Build the container images countersign and countersign-node
	@if [ -z "$(BUILDER)" ]; then echo "image: install docker, podman or buildah" >&2; exit 1; fi
	$(IMAGE_BUILD) --target countersign -t $(IMAGE):$(VERSION) .
	$(IMAGE_BUILD) --target countersign-node -t $(IMAGE)-node:$(VERSION) .
