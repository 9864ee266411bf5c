# Messages of the scripts. Sourced.
# shellcheck shell=bash

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' red='' plain=''
fi

# A step that begins.
say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }

# More about the step above.
note() { printf '    %s\n' "$*"; }

warn() { printf '%swarning:%s %s\n' "$red" "$plain" "$*" >&2; }

die() {
    printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2
    exit 1
}

need_root() {
    [[ $EUID -eq 0 ]] || die "$(basename "$0") needs root (namespaces, hugepages, packages): run it with sudo"
}

# The first lines of a script, behind its shebang, are its help.
show_help() { sed -n '2,/^[^#]/{ /^#/!d; s/^# \{0,1\}//; p; }' "$0"; }
