SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
BIN := bin
TOOLS := $(BIN)/tools
# What the tests and the demo use beyond Go: Debian package and, after the colon,
# a program of it that shows whether it is there.
DEPS := iproute2:ip busybox-static:busybox attr:setfattr acl:setfacl gcc:gcc libc6-dev:gencat libcap2-bin:setcap rpm:rpm debootstrap:debootstrap
# Tests of figures and of large images, which run without the race detector.
FIGURES := IndexShare|ConvertMemory|FullShare|DemoImage|BuildBudget|Scale|Throughput|WarmNodes|Shortlist
# Packages whose tests have kube-apiserver in their process, which takes many minutes to
# build with the race detector. What they test is tested with it in its own package.
CLUSTERS := /(test/(scheduler|controlplane|integration|chart)|cmd/kubectl-brisk)(/|$$)
# Packages whose unit tests need no root and are quick.
UNIT := ./api/... ./control/nodeblocks ./image/gzran ./image/index ./image/registry/credential ./image/startup \
	./internal/... ./lazyfs/stream ./node/config ./node/host/tomledit ./node/ops ./p2p/policy ./p2p/wire ./scheduler/estimate ./scheduler/index ./test/docs
FUZZTIME ?= 60s
# What packages, archives and images are made for.
ARCHS ?= amd64 arm64
RELEASE ?= $(BIN)/release
VERSION := $(shell sed -n 's/^appVersion: //p' deploy/charts/brisk/Chart.yaml)
# What "version" of the programs says. Nothing of it depends on when or where they are built.
COMMIT := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
STAMP := github.com/brisk-project/brisk/internal/version
LDFLAGS := -X $(STAMP).release=v$(VERSION) -X $(STAMP).commit=$(COMMIT) -X $(STAMP).date=$(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

# What "make check" lints is what differs from this branch, so that it is quick. CI lints everything.
BASE ?= $(firstword $(shell git for-each-ref --sort=-refname --format='%(refname:short)' refs/remotes/origin/main refs/heads/main 2>/dev/null) HEAD)

.PHONY: check
check: lint-changed ## The fast loop: build, vet, lint, unit tests that need no root
	$(GO) build ./...
	$(GO) vet $(UNIT)
	$(GO) test -short $(UNIT)

.PHONY: demo
demo: build ## Run the demo: one image, a plain pull beside three lazy nodes (needs root)
	$(BIN)/brisk demo $(DEMO_FLAGS)

.PHONY: push
push: $(TOOLS)/crane ## Build the images that the chart runs and that of brisk, for each of ARCHS, and push them to REGISTRY
	@test -n "$(REGISTRY)" || { echo "usage: make push REGISTRY=registry.example.com/brisk"; exit 1; }
	GO=$(GO) CRANE=$(TOOLS)/crane VERSION=$(VERSION) LDFLAGS='$(LDFLAGS)' deploy/packages/push.sh $(BIN)/programs $(REGISTRY) $(ARCHS)

.PHONY: test-push
test-push: ## Push the images to a registry of the test, and run them (as root)
	BRISK_TEST_PUSH="make -C $(CURDIR) push" $(GO) test -timeout 40m -count=1 $(TEST_FLAGS) -run '^TestPush$$' ./test/packages

.PHONY: packages
packages: $(TOOLS)/nfpm ## Make deb and rpm packages in bin/packages, for each of ARCHS
	GO=$(GO) NFPM=$(TOOLS)/nfpm VERSION=$(VERSION) LDFLAGS='$(LDFLAGS)' deploy/packages/packages.sh $(BIN)/programs $(BIN)/packages $(ARCHS)

.PHONY: test-packages
test-packages: deps packages ## Test the packages, and install them in a fresh Debian (as root); -short leaves that out
	BRISK_TEST_PACKAGES=$(CURDIR)/$(BIN)/packages $(GO) test -timeout 20m -count=1 $(TEST_FLAGS) ./test/packages

.PHONY: release
release: $(TOOLS)/nfpm $(TOOLS)/cyclonedx-gomod ## Make packages, archives, SBOMs, checksums and a krew manifest in RELEASE
	GO=$(GO) NFPM=$(TOOLS)/nfpm CYCLONEDX=$(TOOLS)/cyclonedx-gomod VERSION=$(VERSION) LDFLAGS='$(LDFLAGS)' \
	  deploy/packages/release.sh $(BIN)/programs $(RELEASE) $(ARCHS)

.PHONY: test-release
test-release: $(TOOLS)/krew $(TOOLS)/validate-krew-manifest ## Make a release twice, compare, and install "kubectl brisk" with krew
	PATH="$(CURDIR)/$(TOOLS):$$PATH" BRISK_TEST_RELEASE="make -C $(CURDIR) release" \
	  $(GO) test -timeout 40m -count=1 $(TEST_FLAGS) -run '^TestRelease$$' ./test/packages

.PHONY: e2e
e2e: deps $(TOOLS)/helm ## Test in a real Kubernetes cluster of three nodes (as root; builds Kubernetes once)
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(GO) test -tags e2e -timeout 60m $(TEST_FLAGS) ./test/e2e

.PHONY: test
test: deps $(TOOLS)/helm ## Run all tests, under the race detector but for figures and clusters (as root: real mounts)
	packages=$$($(GO) list ./...); export PATH="$(CURDIR)/$(TOOLS):$$PATH"; \
	$(GO) test -race -timeout 20m $(TEST_FLAGS) $$(grep -vE '$(CLUSTERS)' <<< "$$packages"); \
	$(GO) test -timeout 20m $(TEST_FLAGS) $$(grep -E '$(CLUSTERS)' <<< "$$packages")
	$(GO) test -timeout 20m $(TEST_FLAGS) -run "$(FIGURES)" ./bench/... ./node ./cmd/brisk-node ./image/erofs ./scheduler

.PHONY: test-images
test-images: deps ## Compare BRISK_IMAGES random images, from BRISK_SEED on, with what containerd mounts (as root)
	export BRISK_SEED=$${BRISK_SEED:-$$(date +%s)} BRISK_IMAGES=$${BRISK_IMAGES:-100}; \
	echo "the same images again: make test-images BRISK_SEED=$$BRISK_SEED BRISK_IMAGES=$$BRISK_IMAGES"; \
	$(GO) test -count=1 -timeout 60m $(TEST_FLAGS) -run '^TestRandomImages$$' ./node

.PHONY: test-releases
test-releases: ## Test with the containerd releases from 1.7 on, built here (as root)
	BRISK_TEST_CONTAINERDS="$$(test/tools/containerds.sh $(TOOLS)/containerd)" \
	  $(GO) test -timeout 20m -count=1 -run '^(TestReleases|TestContainerd)$$' ./cmd/brisk-node ./node/host/containerdconfig ./node/host/install

.PHONY: test-kubernetes
test-kubernetes: $(TOOLS)/helm $(TOOLS)/kube-apiserver-1.36 ## Test scheduler, agent and chart with kube-apiserver 1.36, built here
	PATH="$(CURDIR)/$(TOOLS):$$PATH" BRISK_TEST_APISERVER=$(CURDIR)/$(TOOLS)/kube-apiserver-1.36 \
	  $(GO) test -timeout 20m -count=1 $(TEST_FLAGS) ./test/controlplane ./test/scheduler ./test/integration/... ./test/chart/... ./cmd/kubectl-brisk

.PHONY: test-cosign
test-cosign: $(TOOLS)/cosign ## Sign indexes with Brisk and verify them with cosign, built here, and the other way round
	BRISK_TEST_COSIGN=$(CURDIR)/$(TOOLS)/cosign $(GO) test -timeout 20m -count=1 $(TEST_FLAGS) -run '^TestCosign$$' ./cmd/brisk

# A module of its own: Prometheus needs other versions of Kubernetes than Brisk has.
.PHONY: test-alerts
test-alerts: $(TOOLS)/helm $(TOOLS)/golangci-lint ## Test alerts, monitors and dashboard of the chart with Prometheus
	cd test/chart/alerts && $(CURDIR)/$(TOOLS)/golangci-lint run ./... && PATH="$(CURDIR)/$(TOOLS):$$PATH" $(GO) test -count=1 $(TEST_FLAGS) ./...

.PHONY: nightly
nightly: ## What is slow and rarely fails: run it every night, not for every change (as root; 1 to 2 hours)
	$(MAKE) test-kubernetes
	$(MAKE) test-cosign
	$(MAKE) test-images BRISK_IMAGES=1000
	$(MAKE) test-packages
	$(MAKE) test-push
	$(MAKE) test-release
	$(GO) test -timeout 20m -count=1 $(TEST_FLAGS) -run '^TestConvertLarge$$' ./bench
	$(GO) test -timeout 60m -count=5 $(TEST_FLAGS) -run 'Kill|Keeper' ./lazyfs/... ./node ./cmd/brisk-node
	$(MAKE) fuzz FUZZTIME=10s

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## Check style, layering and formatting
	$(TOOLS)/golangci-lint run ./...

.PHONY: lint-changed
lint-changed: ## Check style of the packages that differ from the branch BASE (the main branch)
	@files=$$({ git diff --name-only --diff-filter=d "$$(git merge-base HEAD $(BASE))" -- '*.go'; git ls-files --others --exclude-standard -- '*.go'; }); \
	dirs=$$(sed '/^test\/chart\/alerts\//d' <<< "$$files" | xargs -r -n1 dirname | sort -u | sed 's#^#./#'); \
	if [ -n "$$dirs" ]; then $(MAKE) --no-print-directory $(TOOLS)/golangci-lint && $(TOOLS)/golangci-lint run $$dirs; fi

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## Format the code
	$(TOOLS)/golangci-lint fmt ./...

.PHONY: generate
generate: $(TOOLS)/controller-gen $(TOOLS)/helm ## Generate the copying of API objects, their definitions for clusters, and the table of the chart's values
	$(TOOLS)/controller-gen object crd paths=./api/... output:crd:dir=deploy/crds
	@printf '# Generated from the chart by "make generate".\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: brisk-system\n' >deploy/manifests/brisk.yaml
	$(TOOLS)/helm template brisk deploy/charts/brisk --skip-tests --namespace brisk-system >>deploy/manifests/brisk.yaml
	$(GO) run ./deploy/chartvalues -chart deploy/charts/brisk -page docs/chart.md

.PHONY: verify
verify: ## Check that go.mod is tidy, and that what is generated is up to date
	$(GO) mod tidy -diff
	$(GO) mod verify
	@sum() { cat api/*/zz_generated.* deploy/crds/* deploy/manifests/* docs/chart.md | sha256sum; }; was=$$(sum); $(MAKE) --no-print-directory generate; \
	if [ "$$was" != "$$(sum)" ]; then echo "generated files were not up to date; now they are"; exit 1; fi

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

.PHONY: bench
bench: deps ## Run the benchmarks and print their figures
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(GO) test -run '^$$' -bench . -benchmem -timeout 60m ./...

.PHONY: deps
deps: ## Install the Debian packages that tests need and that are missing; fsck.erofs into bin/
	@missing=; for dep in $(DEPS); do command -v "$${dep#*:}" >/dev/null || missing="$$missing $${dep%%:*}"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing$$missing (undo: apt-get remove$$missing)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@test/tools/erofs-utils.sh $(TOOLS)

.PHONY: clean
clean: ## Remove what the build made
	rm -rf $(BIN)

$(TOOLS)/golangci-lint: go.tools.mod go.tools.sum
	$(GO) build -modfile=go.tools.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(TOOLS)/controller-gen: go.tools.mod go.tools.sum
	$(GO) build -modfile=go.tools.mod -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen

PACKAGE_TOOLS := $(addprefix $(TOOLS)/,nfpm cyclonedx-gomod krew validate-krew-manifest)
$(PACKAGE_TOOLS): deploy/packages/go.mod deploy/packages/go.sum
	cd deploy/packages && $(GO) build -trimpath -o $(CURDIR)/$@ $$($(GO) list tool | grep '/$(@F)$$')

$(TOOLS)/crane: go.mod go.sum
	$(GO) build -trimpath -o $@ github.com/google/go-containerregistry/cmd/crane

$(TOOLS)/cosign: test/cosign/go.mod test/cosign/go.sum
	cd test/cosign && $(GO) build -trimpath -o $(CURDIR)/$@ github.com/sigstore/cosign/v2/cmd/cosign

$(TOOLS)/helm: deploy/tools/go.mod deploy/tools/go.sum
	cd deploy/tools && $(GO) build -trimpath -o $(CURDIR)/$@ \
	  -ldflags "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34" helm.sh/helm/v3/cmd/helm

KUBE_APISERVER := test/controlplane/tools
$(TOOLS)/kube-apiserver-1.36: $(KUBE_APISERVER)/build.sh $(KUBE_APISERVER)/kubernetes-1.36/go.mod $(KUBE_APISERVER)/kubernetes-1.36/go.sum
	$(KUBE_APISERVER)/build.sh 1.36 $@
