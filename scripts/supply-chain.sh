#!/usr/bin/env bash
# What the project is made of: licences, sources and banned crates (deny.toml), known
# vulnerabilities, and a list of everything in the release build (CycloneDX):
#
#   bash scripts/supply-chain.sh
#
# The two tools are built once, into target/tools. Vulnerabilities are looked up in RustSec's
# database, which must be fetched; where it cannot be, that is said, and the rest is checked.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
tools=$target/tools
for tool in cargo-deny@0.20.2 cargo-cyclonedx@0.5.9; do
  [ -x "$tools/bin/${tool%@*}" ] || cargo install --quiet --locked --debug --root "$tools" "$tool"
done
export PATH="$PWD/$tools/bin:$tools/bin:$PATH"

cargo deny --log-level error --all-features --locked check licenses bans sources
if cargo deny --log-level off fetch db 2>"$tools/fetch.log"; then
  cargo deny --log-level error --all-features --locked check --disable-fetch advisories
else
  echo "advisories NOT CHECKED: RustSec's database cannot be fetched from here"
fi

# Of what `cargo install` builds: default features, without what only builds or tests it.
made=$target/sbom
mkdir -p "$made"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0) cargo cyclonedx --quiet \
  --no-build-deps --format json --spec-version 1.5 --override-filename lenaware.cdx
mv lenaware.cdx.json "$made/"
rm -f tests/fuzz/lenaware.cdx.json
count=$(grep -c '"bom-ref": "registry+' "$made/lenaware.cdx.json")
echo "$made/lenaware.cdx.json: $count crates"
