#!/usr/bin/env bash
# Plants bugs in a copy of the tree and asks the soak to find each.
#
#   sim/mutants/run.sh [NAME]...
#
# Each NAME.patch beside this script says in its first line what it breaks, and breaks it only if planted("NAME") is true:
# so all of them are built once, and $NITROTAP_PLANTED says which one acts. A bug that is not found within SEEDS (200)
# seeds, counted from FIRST (0), is a failure of the soak. Prints how many seeds each took and which invariant broke.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
export SEEDS=${SEEDS:-200} FIRST=${FIRST:-0}

names=("$@")
if ((!$#)); then
    for patch in "$here"/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export work
(cd "$repository" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -c) | tar -x -m -C "$work"

cat >>"$work/core/src/lib.rs" <<'RUST'

/// Whether a bug of `sim/mutants` is to act.
#[doc(hidden)]
#[allow(missing_docs, clippy::all)]
pub fn planted(name: &str) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("NITROTAP_PLANTED").ok()).as_deref() == Some(name)
}
RUST
for name in "${names[@]}"; do
    patch=$here/$name.patch
    [[ -f $patch ]] || { echo "no $patch" >&2; exit 2; }
    grep -q "planted(\"$name\")" "$patch" || { echo "$patch does not ask planted(\"$name\")" >&2; exit 2; }
    (cd "$work" && git apply "$patch")
done
# The copy lies elsewhere, so that cargo takes its crates for others; what they depend on is there already.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target}
(cd "$work" && cargo build --quiet --locked --profile sim -p nitrotap-sim --bin nitrotap-sim 2>"$work/build.log") ||
    { cat "$work/build.log" >&2; exit 1; }
mv "$CARGO_TARGET_DIR/sim/nitrotap-sim" "$work/nitrotap-sim"

find_one() {
    local name=$1 status=0
    NITROTAP_PLANTED=$name "$work/nitrotap-sim" soak --first "$FIRST" --seeds "$SEEDS" --jobs 1 --keep "$work/kept/$name" \
        >"$work/$name.log" 2>/dev/null || status=$?
    if ((status == 0)); then
        printf '%-19s NOT FOUND in %s seeds\n' "$name" "$SEEDS"
        return 1
    fi
    printf '%-19s found after %s seeds: %s\n' "$name" "$(awk '/ seeds from / { print $1 }' "$work/$name.log")" \
        "$(awk '/broken: / { sub(/^.*broken: /, ""); print; exit }' "$work/$name.log" | cut -c1-120)"
}
export -f find_one
# Without any of them nothing may be found: it would pass for each.
if ! "$work/nitrotap-sim" soak --first "$FIRST" --seeds 20 --keep "$work/kept" >"$work/none.log" 2>/dev/null; then
    cat "$work/none.log" >&2
    echo "the soak fails without a planted bug" >&2
    exit 1
fi
printf '%s\0' "${names[@]}" | xargs -0 -P "$(nproc)" -I '{}' bash -euo pipefail -c 'find_one "$1"' find '{}'
