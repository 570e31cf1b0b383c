#!/usr/bin/env bash
# Install what the tests of the page and of LaTeX drive, where that can be: Chromium, TeX and pdftotext by apt, axe by npm.
# Bounded, never fails, and does nothing where all is there; tests say by name that they are skipped where it is not.
cd "$(dirname "$0")/.." || exit 0
there() { command -v "$1" > /dev/null; }
style() { there kpsewhich && [ -n "$(kpsewhich "$1")" ]; }

packages() {
  there chromium || echo chromium
  there pdflatex || echo texlive-latex-base
  style booktabs.sty || echo texlive-latex-recommended
  style phvr8t.tfm || echo texlive-fonts-recommended
  style lmodern.sty || echo lmodern
  there pdftotext || echo poppler-utils
}

from_apt() {
  local root=()
  there apt-get || { echo "not installed, for want of apt: $*"; return; }
  if [ "$(id -u)" != 0 ]; then
    there sudo && sudo -n true 2> /dev/null || { echo "not installed, for want of root: $*"; return; }
    root=(sudo -n)
  fi
  apt() {
    timeout --kill-after=10 "$1" "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60 \
      -o Acquire::Retries=1 -o Acquire::http::Timeout=20 "${@:2}" < /dev/null
  }
  apt 100 update && apt 500 install -y --no-install-recommends "$@" > /dev/null || echo "not installed, apt could not: $*"
}

from_npm() {
  cmp -s package-lock.json node_modules/.lock && return
  there npm || { echo "not installed, for want of npm: axe-core"; return; }
  timeout --kill-after=10 120 npm ci --silent --no-audit --no-fund --ignore-scripts < /dev/null \
    && cp package-lock.json node_modules/.lock || echo "not installed, npm could not: axe-core"
}

missing=$(packages)
[ -z "$missing" ] || from_apt $missing
(cd tests/browser && from_npm)
exit 0
