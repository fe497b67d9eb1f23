# Kedge's build. `make help` lists what to type.
# Versions come from go.mod; only Kedge's own release number stands here.
SHELL := /bin/sh
.DELETE_ON_ERROR:
.SUFFIXES:

RELEASE := 1
NATIVE := $(shell dpkg --print-architecture 2>/dev/null || go env GOARCH)
ARCH ?= $(NATIVE)
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
	$(call stamp,github.com/kedge-k8s/kedge/pkg/version.TreeState,$(TREE))

# What Go, Debian and its compilers call ARCH; DEB_ARCH is also how a release's
# files are named.
NAMES := $(shell ARCH='$(ARCH)'; . scripts/arch.sh && echo $$ARCH $$GOARCH $$DEB_ARCH $$TRIPLET $${GOARM:-})
$(if $(NAMES),,$(error no such architecture: $(ARCH)))
override ARCH := $(word 1,$(NAMES))
DEB_ARCH := $(word 3,$(NAMES))
CROSS := $(filter-out $(NATIVE),$(DEB_ARCH))
# Go for ARCH. The machine's own needs nothing said, and shares the build cache
# with the tests.
TARGET := $(if $(CROSS),GOOS=linux GOARCH=$(word 2,$(NAMES)) GOARM=$(word 5,$(NAMES)) CC=$(word 4,$(NAMES))-gcc)

# In a program this large the usual linker of 32-bit ARM calls the C library's
# functions that choose another by the processor in the wrong instruction set.
LDFLAGS += -linkmode external -extldflags "-static$(if $(filter armhf,$(DEB_ARCH)), -fuse-ld=gold)"

# Another architecture is built in a directory of its own. TOOLS run here.
BUILD ?= build$(CROSS:%=/%)
FILE ?= dist/kedge$(CROSS:%=-%)
BIN := $(BUILD)/bin
TOOLS := build/bin
# How much time is spent on making dist/kedge small: fast, best or max.
PACK ?= fast
ZSTD := $(if $(filter fast,$(PACK)),9,19)

BUILD_PACKAGES := ca-certificates gcc git libc6-dev libseccomp-dev pkg-config zstd
TEST_PACKAGES := busybox-static iproute2 nftables procps shellcheck util-linux
RELEASE_PACKAGES := gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf libc6-dev-arm64-cross libc6-dev-armhf-cross qemu-user-static
IMAGE_PACKAGES := buildah
VM_PACKAGES := debootstrap e2fsprogs qemu-system-x86 qemu-utils
BROWSER_PACKAGES := chromium fonts-dejavu-core
DATASTORE_PACKAGES := mariadb-server nats-server postgresql
ROBUSTNESS_PACKAGES := btrfs-progs e2fsprogs
LAB_PACKAGES := curl debootstrap openssl tar

.PHONY: help build run test unit e2e datastores robustness robustness-short vm labs bench lint release release-check artifacts image clean deps release-deps image-deps test-deps images dashboard-test docs FORCE

help: ## list the targets
	@echo "Kedge $(VERSION) ($(COMMIT), $(TREE))"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(FILE) ## build dist/kedge: the one file

run: deps build ## build, and start a single-node server here; Ctrl-C stops it (as root)
	exec dist/kedge server

test: deps test-deps build lint unit e2e robustness-short ## lint, unit tests, and tests of behaviour against dist/kedge (as root)

RELEASE_ARCHS := amd64 arm64 armhf

release: release-deps ## build the files of a release into dist: amd64, arm64 and armv7, as small as they get
	@for arch in $(RELEASE_ARCHS); do \
		$(MAKE) --no-print-directory ARCH=$$arch BUILD=build/release/$$arch FILE=dist/kedge-$$arch PACK=max artifacts || exit; \
	done
	@ln -f dist/kedge-$(NATIVE) dist/kedge
	@cp install.sh dist/

release-check: release-deps ## check the files of a release, and run each, under qemu-user where it is for others
	scripts/releasecheck.sh dist '$(VERSION)' $(RELEASE_ARCHS)

clean: ## remove everything that was built
	rm -rf build dist
	find $(PAGE) -mindepth 1 ! -name .gitignore -delete

# What the build and the tests take from Debian. Nothing to do is done fast.
define install
missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
if [ -n "$$missing" ]; then \
	echo "installing $$missing" | tr '\n' ' '; echo; \
	apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing >/dev/null; \
fi
endef

# Any Node.js from 18 on will do, wherever it came from.
node = command -v npm >/dev/null || { $(call install,nodejs npm); }

deps:
	@$(call install,$(BUILD_PACKAGES))
	@$(node)

release-deps: deps
	@$(call install,$(RELEASE_PACKAGES))

image-deps:
	@$(call install,$(IMAGE_PACKAGES))

test-deps:
	@$(call install,$(TEST_PACKAGES))

# ---- the programs ----------------------------------------------------------
# Go knows best what has changed: it is always asked, and a program that stays
# the same keeps its time, so that nothing after it is made again.
keep = if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BIN)/kedge: FORCE
	@mkdir -p $(@D)
	@$(TARGET) go build -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $@.new ./cmd/kedge && $(keep)

$(BIN)/launcher: FORCE
	@mkdir -p $(@D)
	@$(TARGET) CGO_ENABLED=0 go build -ldflags '-s -w' -o $@.new ./cmd/launcher && $(keep)

# The dashboard's page is built beside its sources' copy: npm's packages may hold Go
# files, and Go looks into no directory that begins with an underscore.
WEB := pkg/dashboard/web
WEB_SOURCES := $(shell find $(WEB) -name node_modules -prune -o -name dist -prune -o -type f -print)
PAGE := cmd/addons/dashboard/page

build/_dashboard/packages: $(WEB)/package.json $(WEB)/package-lock.json $(WEB)/.npmrc
	@$(node)
	@mkdir -p $(@D) && cp $^ $(@D)/
	cd $(@D) && npm ci --no-progress && touch $(@F)

$(PAGE)/index.html.gz: build/_dashboard/packages $(WEB_SOURCES)
	@cd build/_dashboard && rm -rf src public scripts test dist dist-test
	@cp -R $(WEB)/. build/_dashboard/
	cd build/_dashboard && npm run build --silent -- --logLevel warn && node scripts/pack.mjs dist $(abspath $(PAGE))

$(BIN)/addons: $(PAGE)/index.html.gz FORCE
	@mkdir -p $(@D)
	@$(TARGET) CGO_ENABLED=0 go -C cmd/addons build -ldflags '-s -w' -o $(abspath $@).new . && $(keep)

$(TOOLS)/pack $(TOOLS)/ocilayout $(TOOLS)/sbom: FORCE
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go build -o $@.new ./scripts/$(@F) && $(keep)

$(BIN)/runc: go.mod scripts/runc.sh scripts/arch.sh scripts/deb.sh
	ARCH=$(ARCH) scripts/runc.sh $@ && touch $@

$(BIN)/containerd-shim-runc-v2: go.mod scripts/shim.sh scripts/arch.sh
	ARCH=$(ARCH) scripts/shim.sh $@ && touch $@

build/_cni/main.go: go.mod scripts/cni/main.go
	go run ./scripts/cni -out build/_cni && touch $@

$(BIN)/cni: build/_cni/main.go $(wildcard pkg/podgate/*.go)
	$(TARGET) CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ ./build/_cni && touch $@

$(BIN)/pause: cmd/pause/pause.c cmd/include/sys.h scripts/freestanding.sh
	ARCH=$(ARCH) scripts/freestanding.sh $< $@

$(BIN)/nft: cmd/nftbox/nftbox.c cmd/include/sys.h scripts/freestanding.sh
	ARCH=$(ARCH) scripts/freestanding.sh $< $@

$(BUILD)/nft/packages: scripts/nftbox.sh scripts/arch.sh scripts/deb.sh
	ARCH=$(ARCH) scripts/nftbox.sh $(BUILD)/nft && touch $@

# ---- the file --------------------------------------------------------------
$(BUILD)/images/index.json: $(BIN)/pause $(BIN)/addons $(TOOLS)/ocilayout $(BUILD)/pack-$(PACK) $(BUILD)/version
	$(TOOLS)/ocilayout -out $(BUILD)/images -pause $(BIN)/pause -addons $(BIN)/addons -version '$(VERSION)' -arch $(ARCH) -zstd $(ZSTD)

$(BUILD)/version: FORCE
	@mkdir -p $(BUILD) && echo '$(VERSION)' >$@.new && $(keep)

CNI_LINKS := bandwidth bridge host-local kedge-gate loopback portmap
PAYLOAD_PROGRAMS := kedge runc containerd-shim-runc-v2 cni nft

$(BUILD)/payload.stamp: $(PAYLOAD_PROGRAMS:%=$(BIN)/%) $(BUILD)/images/index.json $(BUILD)/nft/packages Makefile
	@rm -rf $(BUILD)/payload && mkdir -p $(BUILD)/payload/bin
	@cp -a $(PAYLOAD_PROGRAMS:%=$(BIN)/%) $(BUILD)/payload/bin/
	@for link in $(CNI_LINKS); do ln -s cni $(BUILD)/payload/bin/$$link; done
	@cp -a $(BUILD)/images $(BUILD)/nft $(BUILD)/payload/
	@touch $@

$(FILE): $(BUILD)/payload.stamp $(BIN)/launcher $(TOOLS)/pack $(BUILD)/pack-$(PACK)
	@mkdir -p $(@D)
	@$(TOOLS)/pack -launcher $(BIN)/launcher -root $(BUILD)/payload -out $@ -level $(PACK)

# Another PACK packs again.
$(BUILD)/pack-$(PACK):
	@mkdir -p $(BUILD) && rm -f $(BUILD)/pack-* && touch $@

# ---- the release -----------------------------------------------------------
SUMS := dist/sha256sum-$(DEB_ARCH).txt

artifacts: $(SUMS)

$(SUMS): $(FILE) $(FILE).cdx.json
	@cd dist && sha256sum $(^F) >$(@F)

$(FILE).cdx.json: $(FILE) $(TOOLS)/sbom $(BUILD)/packages
	@$(TOOLS)/sbom -file $(FILE) -version '$(VERSION)' -arch $(DEB_ARCH) -out $@ \
		-packages $(BUILD)/packages -packages $(BUILD)/nft/packages -packages $(BIN)/runc.packages \
		$(BIN)/launcher $(BIN)/addons $(BIN)/pause $(PAYLOAD_PROGRAMS:%=$(BIN)/%)

# What ocilayout takes from the machine.
$(BUILD)/packages: FORCE
	@mkdir -p $(@D) && dpkg-query -W -f '$${Package} $${Version} $${Architecture}\n' ca-certificates >$@.new && $(keep)

# A root file system for each architecture, by the name that the Dockerfile knows.
IMAGE ?= dist/kedge-image-$(DEB_ARCH).tar
IMAGE_ROOT := build/container/$(word 2,$(NAMES))

image: deps image-deps $(IMAGE) ## build the container image of dist/kedge, with Buildah (as root)

$(IMAGE_ROOT)/bin/kedge: $(FILE) scripts/imageroot.sh scripts/arch.sh scripts/deb.sh
	ARCH=$(ARCH) scripts/imageroot.sh $(FILE) '$(VERSION)' $(IMAGE_ROOT) && touch $@

$(IMAGE): $(IMAGE_ROOT)/bin/kedge Dockerfile scripts/image.sh
	SOURCE_DATE_EPOCH=$$($(GIT) log -1 --format=%ct) ARCH=$(ARCH) scripts/image.sh build/container \
		'kedge.io/kedge:$(subst +,-,$(VERSION))' $@

# ---- the tests -------------------------------------------------------------
LINT := $(TOOLS)/golangci-lint

$(LINT): tools/go.mod
	@mkdir -p $(@D)
	CGO_ENABLED=0 go -C tools build -o $(abspath $@) github.com/golangci/golangci-lint/v2/cmd/golangci-lint && touch $@

lint: $(LINT) test-deps ## look at the code: golangci-lint, shellcheck
	$(LINT) run --build-tags '$(TAGS) e2e vm labs datastores dashboard robustness' ./...
	cd cmd/addons && $(abspath $(LINT)) run ./...
	shellcheck -x -P SCRIPTDIR install.sh scripts/*.sh tests/vm/*.sh tests/images/debian/*.sh tests/images/debian/files/*.sh .ci/run

# Packages with unit tests import nothing heavy: -race builds them in seconds.
UNIT = $$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./cmd/... ./pkg/... ./scripts/... ./tests/bench/... ./tests/images/... ./tests/robustness/... ./tests/testbed/... ./tests/vm/...)

unit: $(BIN)/pause $(BIN)/nft $(BIN)/cni build/nft/packages $(PAGE)/index.html.gz ## unit tests, with the race detector
	go test -race -count=1 $(UNIT)
	go test -count=1 -run 'TestReset$$' ./pkg/datastore
	go -C cmd/addons test -race -count=1 ./...
	cd build/_dashboard && npm test --silent

docs: ## write docs/options.md from the table of options
	go run ./scripts/options

images: ## the tests' own container images
	@go run ./tests/images/make

e2e: build images ## tests of behaviour: dist/kedge on hosts in namespaces (as root)
	go test -tags e2e -count=1 -timeout 50m -parallel 4 ./tests/e2e

datastores: build test-deps ## databases outside of Kedge, real ones, stopped and started under load (as root)
	@$(call install,$(DATASTORE_PACKAGES))
	go test -tags 'e2e datastores' -count=1 -timeout 30m -run 'TestExternalDatastore$$' ./tests/e2e

robustness-short: build test-deps
	@$(call install,$(ROBUSTNESS_PACKAGES))
	go test -tags robustness -count=1 -timeout 10m ./tests/robustness

# How much of the long form: percent of its faults. SEED repeats their choice.
PERCENT ?= 100

robustness: build test-deps ## servers injured under load, and what their clients saw checked; half an hour, or PERCENT of it (as root)
	@$(call install,$(ROBUSTNESS_PACKAGES))
	go test -tags robustness -count=1 -timeout 3h -v ./tests/robustness -percent $(PERCENT) $(SEED:%=-seed %)

vm: build images test-deps ## tests of behaviour in virtual machines with systemd; a quarter of an hour (as root)
	@$(call install,$(VM_PACKAGES))
	go test -tags vm -count=1 -timeout 60m ./tests/vm

labs: build images test-deps ## courses and tutorials, command for command, against dist/kedge (as root)
	@$(call install,$(LAB_PACKAGES))
	@go run ./tests/images/debian/make
	go test -tags labs -count=1 -timeout 30m -parallel 2 ./tests/labs

build/_dashboard-test/packages: tests/dashboard/package.json tests/dashboard/package-lock.json tests/dashboard/.npmrc
	@mkdir -p $(@D) && cp $^ $(@D)/
	cd $(@D) && npm ci --no-progress && touch $(@F)

dashboard-test: build images test-deps build/_dashboard-test/packages ## use the dashboard in a browser; pictures go to build/dashboard-shots (as root)
	@$(call install,$(BROWSER_PACKAGES))
	@cp tests/dashboard/*.mjs build/_dashboard-test/
	go test -tags 'e2e dashboard' -count=1 -timeout 15m -run 'TestBrowser$$' ./tests/e2e -v

bench: build images test-deps ## measure Kedge beside the stock components (as root)
	go run ./tests/bench
