# Targets are listed by `make help`.
SHELL   := /bin/sh
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X github.com/mjdevaccount/pulseflow/cmd/app.version=$(VERSION))
FEED    ?= event/testdata/feedback.jsonl

LINT_VERSION := v2.15.0
LINT         := bin/golangci-lint-$(LINT_VERSION)

# The race detector needs a C compiler; without one the tests run all the same.
RACE := $(shell test "$$($(GO) env CGO_ENABLED)" = 1 && command -v $$($(GO) env CC) >/dev/null 2>&1 && echo -race)

# The picture of docs/simulate.md, whatever the environment.
SIMULATE := env -i bin/pulseflow simulate --config flows.yaml --drain-at 1m=20%,2m=100% \
  --try soft=0.7,min_rate=5,ramp_up=20s --svg -

# Seconds for each fuzz target.
FUZZTIME ?= 60s

.DEFAULT_GOAL := help
.PHONY: help run build test check lint vet fmt generate generated fuzz faults stress bench latency clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Run the shipped flow on the in-memory bus with recorded events, until Ctrl-C
	@exec bin/pulseflow run --config flows.yaml --backend inmem --feed $(FEED)

build: ## Build bin/pulseflow
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/pulseflow ./cmd/pulseflow

test: ## Run all tests; the Redis part finds or installs a redis-server
	@GO='$(GO)' RACE='$(RACE)' .ci/test $(TESTFLAGS)

check: lint vet build generated ## Lint, vet, build, and see that generated files are up to date

lint: $(LINT) ## Run the linters
	$(LINT) run ./...

vet: ## Run go vet
	$(GO) vet ./...

fmt: $(LINT) ## Format the code
	$(LINT) fmt ./...

generate: build ## Write the generated files anew
	bin/pulseflow stages --markdown > docs/stages.md
	bin/pulseflow config --keys > docs/flows.md
	cp flows/default.yaml flows.yaml
	$(SIMULATE) > docs/simulate.svg
	cd docs/examples/custom-stage && $(GO) mod tidy

generated: build ## Fail when a generated file is out of date
	@bin/pulseflow stages --markdown | diff -u docs/stages.md - || { echo 'docs/stages.md: run make generate'; exit 1; }
	@bin/pulseflow config --keys | diff -u docs/flows.md - || { echo 'docs/flows.md: run make generate'; exit 1; }
	@diff -u flows/default.yaml flows.yaml || { echo 'flows.yaml: run make generate'; exit 1; }
	@$(SIMULATE) | diff -q docs/simulate.svg - >/dev/null || { echo 'docs/simulate.svg: run make generate'; exit 1; }
	@$(GO) mod tidy -diff || { echo 'go.mod: run go mod tidy'; exit 1; }
	@cd docs/examples/custom-stage && $(GO) mod tidy -diff || { echo 'docs/examples/custom-stage/go.mod: run make generate'; exit 1; }

fuzz: ## Run every fuzz target for FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

stress: ## Run Watermill's suite many times at once on Redis, and over restarts
	PULSEFLOW_TEST_REDIS=required $(GO) test -tags stress -count=1 -timeout 30m -run 'Stress|Reconnect' ./internal/bus

faults: ## Hurt consumers, servers and connections, and look for missing entries
	PULSEFLOW_TEST_REDIS=required $(GO) test -tags faults -count=1 -timeout 30m -v ./internal/faults

bench: build ## Measure the full chain beside the stock library and the raw limit, each stage, and the token bucket
	$(GO) run ./internal/bench
	$(GO) test -run '^$$' -bench 'Stage' ./stages
	$(GO) test -run '^$$' -bench . -benchmem ./internal/rate

latency: build ## Measure the time from XADD to the applied adjustment at offered rates
	$(GO) run ./internal/bench -latency

clean: ## Remove what was built
	rm -rf bin

$(LINT):
	@mkdir -p bin
	GOBIN='$(CURDIR)/bin' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv bin/golangci-lint $(LINT)
