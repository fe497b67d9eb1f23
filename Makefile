# Kedge's build. `make help` lists what to type.
# Versions come from go.mod; only Kedge's own release number stands here.
SHELL := /bin/sh
.DELETE_ON_ERROR:
.SUFFIXES:

RELEASE := 1
ARCH ?= $(shell dpkg --print-architecture 2>/dev/null || go env GOARCH)
# sudo drops Go's usual place from PATH.
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go/bin
export GOFLAGS := -buildvcs=false -trimpath
export CGO_ENABLED := 1

# sudo: the checkout may belong to somebody else.
GIT := git -c safe.directory=*
module_version = $(shell awk '$$1 == "$(1)" { print $$2; exit }' go.mod)
KUBERNETES := $(call module_version,k8s.io/kubernetes)
CONTAINERD := $(call module_version,github.com/containerd/containerd/v2)
VERSION := $(KUBERNETES)+kedge$(RELEASE)
COMMIT := $(shell $(GIT) rev-parse --short=8 HEAD 2>/dev/null || echo unknown)
TREE := $(shell test -z "$$($(GIT) status --porcelain 2>/dev/null)" && echo clean || echo dirty)
KUBE_NUMBERS := $(subst ., ,$(patsubst v%,%,$(KUBERNETES)))

TAGS := sqlite_omit_load_extension netgo osusergo providerless no_btrfs no_devmapper no_zfs kustomize_disable_go_plugin_support
stamp = -X $(1)=$(2)
KUBE_STAMP := k8s.io/component-base/version
LDFLAGS := -s -w \
	$(call stamp,$(KUBE_STAMP).gitVersion,$(VERSION)) \
	$(call stamp,$(KUBE_STAMP).gitMajor,$(word 1,$(KUBE_NUMBERS))) \
	$(call stamp,$(KUBE_STAMP).gitMinor,$(word 2,$(KUBE_NUMBERS))) \
	$(call stamp,$(KUBE_STAMP).gitCommit,$(COMMIT)) \
	$(call stamp,$(KUBE_STAMP).gitTreeState,$(TREE)) \
	$(call stamp,github.com/containerd/containerd/v2/version.Version,$(CONTAINERD)) \
	$(call stamp,github.com/kedge-k8s/kedge/pkg/version.Version,$(VERSION)) \
	$(call stamp,github.com/kedge-k8s/kedge/pkg/version.Commit,$(COMMIT)) \
	$(call stamp,github.com/kedge-k8s/kedge/pkg/version.TreeState,$(TREE)) \
	-linkmode external -extldflags -static

BIN := build/bin
# How much time is spent on making dist/kedge small: fast, best or max.
PACK ?= fast
ZSTD := $(if $(filter fast,$(PACK)),3,19)

BUILD_PACKAGES := ca-certificates gcc git libc6-dev libseccomp-dev pkg-config zstd
TEST_PACKAGES := busybox-static iproute2 nftables procps shellcheck util-linux
VM_PACKAGES := debootstrap e2fsprogs qemu-system-x86 qemu-utils
DATASTORE_PACKAGES := mariadb-server nats-server postgresql
LAB_PACKAGES := curl debootstrap openssl tar

.PHONY: help build run test unit e2e datastores vm labs bench lint release clean deps test-deps images FORCE

help: ## list the targets
	@echo "Kedge $(VERSION) ($(COMMIT), $(TREE))"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: dist/kedge ## build dist/kedge: the one file

run: deps build ## build, and start a single-node server here; Ctrl-C stops it (as root)
	exec dist/kedge server

test: deps test-deps build lint unit e2e ## lint, unit tests, and tests of behaviour against dist/kedge (as root)

release: ## build dist/kedge as small as it gets
	$(MAKE) build PACK=max

clean: ## remove everything that was built
	rm -rf build dist

# What the build and the tests take from Debian. Nothing to do is done fast.
define install
missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
if [ -n "$$missing" ]; then \
	echo "installing $$missing" | tr '\n' ' '; echo; \
	apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing >/dev/null; \
fi
endef

deps:
	@$(call install,$(BUILD_PACKAGES))

test-deps:
	@$(call install,$(TEST_PACKAGES))

# ---- the programs ----------------------------------------------------------
# Go knows best what has changed: it is always asked, and a program that stays
# the same keeps its time, so that nothing after it is made again.
keep = if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BIN)/kedge: FORCE
	@mkdir -p $(@D)
	@go build -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $@.new ./cmd/kedge && $(keep)

$(BIN)/launcher: FORCE
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go build -ldflags '-s -w' -o $@.new ./cmd/launcher && $(keep)

$(BIN)/addons: FORCE
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go -C cmd/addons build -ldflags '-s -w' -o $(abspath $@).new . && $(keep)

$(BIN)/pack $(BIN)/ocilayout: FORCE
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go build -o $@.new ./scripts/$(@F) && $(keep)

$(BIN)/runc: go.mod scripts/runc.sh scripts/arch.sh scripts/deb.sh
	ARCH=$(ARCH) scripts/runc.sh $@ && touch $@

$(BIN)/containerd-shim-runc-v2: go.mod scripts/shim.sh scripts/arch.sh
	ARCH=$(ARCH) scripts/shim.sh $@ && touch $@

build/_cni/main.go: go.mod scripts/cni/main.go
	go run ./scripts/cni -out build/_cni && touch $@

$(BIN)/cni: build/_cni/main.go $(wildcard pkg/podgate/*.go)
	CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ ./build/_cni && touch $@

$(BIN)/pause: cmd/pause/pause.c cmd/include/sys.h scripts/freestanding.sh
	ARCH=$(ARCH) scripts/freestanding.sh $< $@

$(BIN)/nft: cmd/nftbox/nftbox.c cmd/include/sys.h scripts/freestanding.sh
	ARCH=$(ARCH) scripts/freestanding.sh $< $@

build/nft/packages: scripts/nftbox.sh scripts/arch.sh scripts/deb.sh
	ARCH=$(ARCH) scripts/nftbox.sh build/nft && touch $@

# ---- the file --------------------------------------------------------------
build/images/index.json: $(BIN)/pause $(BIN)/addons $(BIN)/ocilayout build/pack-$(PACK) build/version
	$(BIN)/ocilayout -out build/images -pause $(BIN)/pause -addons $(BIN)/addons -version '$(VERSION)' -arch $(ARCH) -zstd $(ZSTD)

build/version: FORCE
	@mkdir -p build && echo '$(VERSION)' >$@.new && $(keep)

CNI_LINKS := bandwidth bridge host-local kedge-gate loopback portmap
PAYLOAD_PROGRAMS := kedge runc containerd-shim-runc-v2 cni nft

build/payload.stamp: $(PAYLOAD_PROGRAMS:%=$(BIN)/%) build/images/index.json build/nft/packages Makefile
	@rm -rf build/payload && mkdir -p build/payload/bin
	@cp -a $(PAYLOAD_PROGRAMS:%=$(BIN)/%) build/payload/bin/
	@for link in $(CNI_LINKS); do ln -s cni build/payload/bin/$$link; done
	@cp -a build/images build/nft build/payload/
	@touch $@

dist/kedge: build/payload.stamp $(BIN)/launcher $(BIN)/pack build/pack-$(PACK)
	@mkdir -p dist
	@$(BIN)/pack -launcher $(BIN)/launcher -root build/payload -out $@ -level $(PACK)

# Another PACK packs again.
build/pack-$(PACK):
	@mkdir -p build && rm -f build/pack-* && touch $@

# ---- the tests -------------------------------------------------------------
LINT := $(BIN)/golangci-lint

$(LINT): tools/go.mod
	@mkdir -p $(@D)
	CGO_ENABLED=0 go -C tools build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint && touch $@

lint: $(LINT) test-deps ## look at the code: golangci-lint, shellcheck
	$(LINT) run --build-tags '$(TAGS) e2e vm labs datastores' ./...
	cd cmd/addons && $(abspath $(LINT)) run ./...
	shellcheck -x -P SCRIPTDIR scripts/*.sh tests/vm/*.sh tests/images/debian/*.sh tests/images/debian/files/*.sh .ci/run

# Packages with unit tests import nothing heavy: -race builds them in seconds.
UNIT = $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./cmd/... ./pkg/... ./scripts/... ./tests/bench/... ./tests/images/... ./tests/testbed/... ./tests/vm/...)

unit: $(BIN)/pause $(BIN)/nft $(BIN)/cni build/nft/packages ## unit tests, with the race detector
	go test -race -count=1 $(UNIT)
	go -C cmd/addons test -count=1 ./...

images: ## the tests' own container images
	@go run ./tests/images/make

e2e: build images ## tests of behaviour: dist/kedge on hosts in namespaces (as root)
	go test -tags e2e -count=1 -timeout 30m -parallel 4 ./tests/e2e

datastores: build test-deps ## databases outside of Kedge, real ones, stopped and started under load (as root)
	@$(call install,$(DATASTORE_PACKAGES))
	go test -tags 'e2e datastores' -count=1 -timeout 30m -run 'TestExternalDatastore$$' ./tests/e2e

vm: build images test-deps ## tests of behaviour in virtual machines with systemd; a quarter of an hour (as root)
	@$(call install,$(VM_PACKAGES))
	go test -tags vm -count=1 -timeout 60m ./tests/vm

labs: build images test-deps ## courses and tutorials, command for command, against dist/kedge (as root)
	@$(call install,$(LAB_PACKAGES))
	@go run ./tests/images/debian/make
	go test -tags labs -count=1 -timeout 30m -parallel 2 ./tests/labs

bench: build images test-deps ## measure Kedge beside the stock components (as root)
	go run ./tests/bench
