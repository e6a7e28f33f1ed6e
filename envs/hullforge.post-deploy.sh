#!/usr/bin/env bash
# Snakemake runs this from the working directory once the environment is made.
set -euo pipefail
pip install --no-deps "${PWD}"
