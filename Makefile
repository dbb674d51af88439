# What people and CI type. The targets say what they do: `make help`.
.PHONY: help run test test-compose check-api bench lint deb
.DEFAULT_GOAL := help

SCRIPTS := scripts/install-deps scripts/install-verifier scripts/check-api scripts/build-deb scripts/test-compose $(wildcard scripts/compose/*) .ci/run
# The private mail servers start as root only: `sudo` where this is not root, for them alone and not for the build.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
SUDO_RUNNER = --config 'target."cfg(unix)".runner = ["sudo", "-E"]'

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

run: ## install what is missing, build, and start inboxd with a private Dovecot and Postfix
	@scripts/install-deps run
	cargo build --release --locked
	exec $(AS_ROOT) target/release/inboxd dev

test: ## install what is missing and run every test
	@scripts/install-deps test
	@scripts/install-verifier
	cargo test --locked $(if $(AS_ROOT),$(SUDO_RUNNER))

test-compose: ## build the images, start the stack with docker compose, and test it from outside
	@scripts/test-compose

check-api: ## hold every answer against the OpenAPI document, with a key of each kind (EXAMPLES=8)
	@scripts/install-deps run
	@scripts/check-api

bench: ## measure the speed (SCALE=quick, normal or full): a table, and target/bench.json
	@scripts/install-deps run
	cargo bench --locked --bench speed $(if $(AS_ROOT),$(SUDO_RUNNER))

lint: ## formatting, clippy, and the scripts
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test compose -- -D warnings
	@for script in $(SCRIPTS); do bash -n $$script || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck -x $(SCRIPTS); else echo "shellcheck is not installed: scripts are checked for syntax only"; fi

deb: ## build the Debian package into target/debian
	@scripts/build-deb
