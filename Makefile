# overnfsd: make help lists what can be made.
BUILD ?= build
CC ?= gcc
PREFIX ?= /usr/local
PKGS = libtirpc lmdb libsodium
VERSION = 0.1.0
V ?= @
# make V= shows the commands
CPPFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DOVERNFSD_VERSION='"$(VERSION)"' -I$(BUILD)/gen -Irpc -Ioverlay -Infs3 $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Werror -pthread -MMD -MP $(CFLAGS)
LDLIBS += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -pthread

RPC_SRC = $(wildcard rpc/*.c)
OVERLAY_SRC = $(wildcard overlay/*.c)
NFS3_SRC = $(filter-out nfs3/main.c nfs3/overnfsctl.c,$(wildcard nfs3/*.c))
GEN = $(BUILD)/gen/nfs3.h $(BUILD)/gen/mount3.h
GEN_SRC = $(BUILD)/gen/nfs3_xdr.c $(BUILD)/gen/mount3_xdr.c
objects = $(patsubst %.c,$(BUILD)/%.o,$(1))
LIB_OBJ = $(call objects,$(RPC_SRC) $(OVERLAY_SRC) $(NFS3_SRC)) $(patsubst $(BUILD)/gen/%.c,$(BUILD)/gen/%.o,$(GEN_SRC))
# tests/AREA/test_*.c is a program each. Unit tests link the server's own objects, the others a client of the wire (tests/e2e/client.c),
# and all what else their area holds.
UNIT = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/test_*.c))
AREAS = $(filter-out unit,$(notdir $(patsubst %/,%,$(wildcard tests/*/))))
WIRE = $(foreach a,$(AREAS),$(patsubst %.c,$(BUILD)/%,$(wildcard tests/$(a)/test_*.c)))

.PHONY: all help run check deps oracle crash guest-check image-check asan tsan lint install clean bench
all: $(BUILD)/overnfsd $(BUILD)/overnfsctl ## build the daemon and overnfsctl, in build/

$(BUILD)/overnfsd: $(BUILD)/nfs3/main.o $(LIB_OBJ)
	@echo "  link $@"
	$(V)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/overnfsctl: $(BUILD)/nfs3/overnfsctl.o $(LIB_OBJ)
	@echo "  link $@"
	$(V)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.c $(GEN)
	@mkdir -p $(@D)
	@echo "  cc   $<"
	$(V)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c -o $@ $<

# rpcgen's code is not ours to warn about
$(BUILD)/gen/%_xdr.o: $(BUILD)/gen/%_xdr.c
	@echo "  cc   $<"
	$(V)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -w -c -o $@ $<
# rpcgen makes the include guard from the output's name, and refuses to overwrite: hence the directory of its own
$(BUILD)/gen/%.h: nfs3/%.x
	@mkdir -p $(@D)/new && rm -f $(@D)/new/$*.h
	$(V)cd nfs3 && rpcgen -h -o $(abspath $(@D))/new/$*.h $*.x && mv $(abspath $(@D))/new/$*.h $(abspath $@)
$(BUILD)/gen/%_xdr.c: nfs3/%.x $(BUILD)/gen/%.h
	@mkdir -p $(@D)/new && rm -f $(@D)/new/$*_xdr.c
	$(V)cd nfs3 && rpcgen -c -o $(abspath $(@D))/new/$*_xdr.c $*.x && mv $(abspath $(@D))/new/$*_xdr.c $(abspath $@)

WIRE_OBJ = $(BUILD)/tests/e2e/client.o $(BUILD)/gen/nfs3_xdr.o $(BUILD)/gen/mount3_xdr.o
area_objects = $(call objects,$(filter-out $(wildcard tests/$(1)/test_*.c) tests/e2e/client.c,$(wildcard tests/$(1)/*.c)))
UNIT_OBJ = $(LIB_OBJ) $(call area_objects,unit)
$(UNIT): $(BUILD)/%: %.c $(UNIT_OBJ)
	@mkdir -p $(@D)
	@echo "  cc   $<"
	$(V)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(UNIT_OBJ) -lcmocka $(LDLIBS)
define wire_rule
$(1): $(patsubst $(BUILD)/%,%,$(1)).c $(WIRE_OBJ) $(call area_objects,$(notdir $(patsubst %/,%,$(dir $(1)))))
	@mkdir -p $$(@D)
	@echo "  cc   $$<"
	$$(V)$$(CC) $$(CPPFLAGS) -Itests/e2e $$(ALL_CFLAGS) $$(LDFLAGS) -o $$@ $$(filter %.c %.o,$$^) -lnfs -lcmocka $$(LDLIBS)
endef
$(foreach t,$(WIRE),$(eval $(call wire_rule,$(t))))
$(BUILD)/tests/%.o: CPPFLAGS += -Itests/e2e

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

deps: ## install the missing Debian packages (needs root)
	@tests/install-deps
run: deps ## serve a small sample stack and print the mount line; ARGS='--listen ...' for more options
	@$(MAKE) --no-print-directory all
	@tests/run-sample $(BUILD)/overnfsd $(ARGS)
check: ## all tests
	@tests/install-deps check
	@$(MAKE) --no-print-directory all tests-built
	@tests/run-tests $(BUILD)
.PHONY: tests-built
tests-built: all $(UNIT) $(WIRE)

guest-check: ## the tests of a kernel's client and of big trees in full size: some 20 minutes
	@tests/install-deps guest
	@$(MAKE) --no-print-directory all tests-built
	@FILES=20000 MAKE_TARGETS=all GUEST_SECONDS=200 OPS=20000 ENTRIES=100000 MORE_OPTS="noac nordirplus,rsize=32768" BIG=1 HANGS_AFTER=0 tests/run-tests $(BUILD) mount/ big/ libnfs/

crash: tests-built ## the server killed behind every system call of each kind of change, and each call failing with every error (long)
	@for how in --sync --async; do CRASH_ARGS=$$how EVERY=1 ALL=1 HANGS_AFTER=0 tests/run-tests $(BUILD) crash/test_kill || exit 1; done
	@EVERY=1 ERRORS=all HANGS_AFTER=0 tests/run-tests $(BUILD) crash/test_faults
# gcc 12 warns of buffers and pointers that are well where the sanitizers' code is in between
asan: ## build with AddressSanitizer and UBSan, in build/asan, and run all tests
	@$(MAKE) --no-print-directory BUILD=build/asan CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -Wno-format-truncation" check
tsan: ## build with ThreadSanitizer, in build/tsan, and run all tests
	@$(MAKE) --no-print-directory BUILD=build/tsan CFLAGS="-O1 -g -fsanitize=thread -Wno-format-truncation -Wno-dangling-pointer" check
image-check: all ## a Debian image in three layers, used over NFS in a guest, then compared with Linux overlayfs (minutes; needs root and a mirror)
	@OVERNFSD=$(BUILD)/overnfsd tests/format/image-check.sh
lint: deps ## clang-tidy and cppcheck
	@$(MAKE) --no-print-directory $(GEN)
	@tests/lint $(BUILD)
BENCH_TOOLS = $(addprefix $(BUILD)/tests/bench/,nfsload echo sendfile local)
$(BENCH_TOOLS): $(BUILD)/tests/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	@echo "  cc   $<"
	$(V)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $<
.PHONY: bench-tools
oracle: ## the same random operations on overnfsd and Linux overlayfs: SEED=n or SEEDS=1-200, OPS=5000, JOBS=2, FS=tmpfs|ext4|xfs|btrfs (root)
	@$(MAKE) --no-print-directory all tests-built
	@SEEDS=$(or $(SEEDS),$(or $(SEED),1-200)) OPS=$(or $(OPS),5000) JOBS=$(or $(JOBS),2) FS=$(or $(FS),tmpfs) OVERNFSD=$(BUILD)/overnfsd BUILD=$(BUILD) \
		$(BUILD)/tests/oracle/test_oracle
bench-tools: $(BENCH_TOOLS)
bench: all bench-tools ## measure against the bare echo server and, where installed, the rivals
	@tests/bench/run $(BUILD)

install: all ## install below $(DESTDIR)$(PREFIX)
	install -D -m 755 $(BUILD)/overnfsd $(DESTDIR)$(PREFIX)/sbin/overnfsd
	install -D -m 755 $(BUILD)/overnfsctl $(DESTDIR)$(PREFIX)/sbin/overnfsctl
	for page in etc/*.[1-8]; do install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit 1; done
	install -D -m 644 etc/overnfsd.conf $(DESTDIR)$(PREFIX)/share/doc/overnfsd/overnfsd.conf
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's,/usr/local/sbin,$(PREFIX)/sbin,' etc/overnfsd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/overnfsd.service
clean: ## remove what was built, in build/
	rm -rf "$(BUILD)"
.SECONDARY:
-include $(shell find $(BUILD) -name qemu-guest -prune -o -type f -name '*.d' -print 2>/dev/null)
