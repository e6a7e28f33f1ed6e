#!/usr/bin/env bash
# Install Debian's SLURM and munge for tests/slurm, which start and stop the daemons themselves. Does nothing where
# they are installed.
set -euo pipefail
packages="slurm-wlm munge"
PATH=$PATH:/usr/sbin
if command -v munged >/dev/null && command -v slurmctld >/dev/null && command -v slurmd >/dev/null; then exit 0; fi
sudo=
if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
echo "== installing system packages: $packages"
$sudo apt-get update -qq >/dev/null
# shellcheck disable=SC2086 -- the words are several
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
