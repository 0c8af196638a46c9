#!/usr/bin/env bash
# Counts the instructions of the hot loops and holds them against the committed baseline.
#
#   core/benches/instructions.sh            fails if one takes over 3 % more than instructions.tsv says
#   core/benches/instructions.sh --update   takes the counts as the new baseline; the review is of the difference
#
# Needs valgrind, and gungraun-runner on the PATH in the version that Cargo.toml names. Counts hold for the compiler that the
# baseline names: with another one nothing is compared, which is a failure where CI is set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

baseline=core/benches/instructions.tsv
tolerance=3 # percent

main() {
    local update=
    case "${1:-}" in
        "") ;;
        --update) update=yes ;;
        *) fail "usage: core/benches/instructions.sh [--update]" ;;
    esac
    command -v valgrind >/dev/null || fail "valgrind is missing"
    command -v gungraun-runner >/dev/null || fail "gungraun-runner is missing: .ci/run peers builds it into target/peers/cargo/bin"
    local compiler counts
    compiler=$(rustc --version)
    counts=$(count)
    [[ -n $counts ]] || fail "nothing was counted"
    if [[ $update ]]; then
        printf '# Instructions per call, by core/benches/instructions.sh --update. Compiler: %s\n%s\n' "$compiler" "$counts" >"$baseline"
        echo "$baseline is written"
    elif ! grep -qF "Compiler: $compiler" "$baseline"; then
        head -n 1 "$baseline"
        [[ -z ${CI:-} ]] || fail "this compiler is $compiler: take a new baseline with --update"
        echo "SKIPPED: this compiler is $compiler"
    else
        compare <<<"$counts"
    fi
}

# Lines of name and count.
count() {
    cargo bench --locked --quiet -p nitrotap-core --bench instructions -- --nocapture=false --color=never 2>&1 | awk '
        /^instructions::/ { split($1, path, "::"); name = path[3]; id = $2; sub(/:.*/, "", id) }
        /^ *Instructions:/ { split($2, counts, "|"); print name "/" id "\t" counts[1]; next }
        !/^ / && !/^instructions::/ { print > "/dev/stderr" }'
}

compare() {
    awk -F '\t' -v tolerance="$tolerance" '
        NR == FNR { if (!/^#/) before[$1] = $2; next }
        !($1 in before) { printf "%-36s %10d  not in the baseline\n", $1, $2; bad = 1; next }
        {
            change = ($2 / before[$1] - 1) * 100
            note = ""
            if (change > tolerance) { note = "  TOO MANY"; bad = 1 }
            if (change < -tolerance) note = "  fewer: worth a new baseline"
            printf "%-36s %10d %10d %+7.2f %%%s\n", $1, before[$1], $2, change, note
            delete before[$1]
        }
        END {
            for (name in before) { printf "%-36s is in the baseline and was not counted\n", name; bad = 1 }
            exit bad
        }' "$baseline" - || fail "see above; a change that is worth it takes a new baseline with --update"
}

fail() {
    echo "instructions: $*" >&2
    exit 1
}

main "$@"
