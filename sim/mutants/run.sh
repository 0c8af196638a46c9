#!/usr/bin/env bash
# Plants one bug at a time in a copy of the tree and asks the soak to find it.
#
#   sim/mutants/run.sh [NAME]...
#
# Each NAME.patch beside this script says in its first line what it breaks. A bug that is not found within SEEDS (200)
# seeds, counted from FIRST (0), is a failure of the soak. Prints how many seeds each took and which invariant broke.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
seeds=${SEEDS:-200}
first=${FIRST:-0}

names=("$@")
if ((!$#)); then
    for patch in "$here"/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$repository" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -c) | tar -x -m -C "$work"
# Cargo tells sources apart by their place in the workspace and their time: those of an earlier copy must look older.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target}/mutants

missed=0
for name in "${names[@]}"; do
    patch=$here/$name.patch
    [[ -f $patch ]] || { echo "no $patch" >&2; exit 2; }
    (cd "$work" && git apply "$patch")
    (cd "$work" && cargo build --quiet --locked --profile sim -p nitrotap-sim 2>"$work/build.log") ||
        { cat "$work/build.log" >&2; exit 1; }
    status=0
    "$CARGO_TARGET_DIR/sim/nitrotap-sim" soak --first "$first" --seeds "$seeds" --jobs 1 --keep "$work/kept" \
        >"$work/soak.log" 2>/dev/null || status=$?
    (cd "$work" && git apply -R "$patch")
    if ((status == 0)); then
        printf '%-16s NOT FOUND in %s seeds\n' "$name" "$seeds"
        missed=1
    else
        printf '%-16s found after %s seeds: %s\n' "$name" "$(awk '/ seeds from / { print $1 }' "$work/soak.log")" \
            "$(awk '/broken: / { sub(/^.*broken: /, ""); print; exit }' "$work/soak.log" | cut -c1-120)"
    fi
done
exit "$missed"
