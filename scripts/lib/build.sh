# The release build. Sourced after say.sh, with $scripts set.
# shellcheck shell=bash

target_dir=${CARGO_TARGET_DIR:-$(cd "${scripts:?}/.." && pwd)/target}
# shellcheck disable=SC2034  # for the scripts that source this
release_dir=$target_dir/release

# Debian's toolchain or rustup's, also under sudo, which drops ~/.cargo/bin from PATH.
find_cargo() {
    local home
    if command -v cargo >/dev/null; then return 0; fi
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        if [[ -x $home/.cargo/bin/cargo ]]; then
            export PATH=$home/.cargo/bin:$PATH
            return 0
        fi
    done
}

# Cargo's own progress bar is shown where there is a terminal.
build_release() {
    find_cargo
    say "building in release mode"
    cargo build --release --locked --manifest-path "$scripts/../Cargo.toml" \
        -p turnpike-dataplane -p turnpike-controlplane -p turnpike-cli
}
