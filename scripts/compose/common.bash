# What the scripts of this folder share. Sourced, not run.
# shellcheck shell=bash disable=SC2034

# Everything that these scripts make lies here, inside the clone.
COMPOSE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/target/compose
PROXY_VARIABLES=(http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

# `docker info` of some clients succeeds without an engine; this does not.
engine_answers() {
  timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# Prints sources(5) of Debian trixie, on the mirror that this machine's apt uses, signed by Debian's own keys.
trixie_sources() {
  local repository suites
  debian_repository Debian >/dev/null || die "apt knows no mirror of Debian; run apt-get update"
  for suites in 'Debian|trixie trixie-updates' 'Debian-Security|trixie-security'; do
    repository=$(debian_repository "${suites%|*}") || continue
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$repository" "${suites#*|}"
    printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n'
  done
}

debian_repository() {
  local found
  # shellcheck disable=SC2016 # apt's variables
  mapfile -t found < <(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
    sed -n "s/^Debian|$1|//p")
  [[ ${#found[@]} -gt 0 ]] && printf '%s\n' "${found[0]}"
}
