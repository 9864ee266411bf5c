# Reservation of 2 MB hugepages. Sourced after say.sh.
# shellcheck shell=bash

hugepages=/sys/kernel/mm/hugepages/hugepages-2048kB

# hugepages_reserve COUNT LEDGER: makes COUNT free pages available; writes how many it had to add into LEDGER.
hugepages_reserve() {
    local want=$1 ledger=$2 free total missing
    [[ -r $hugepages/nr_hugepages ]] || die "this kernel has no 2 MB hugepages; use --no-huge"
    free=$(<"$hugepages/free_hugepages")
    total=$(<"$hugepages/nr_hugepages")
    missing=$((want - free))
    if ((missing <= 0)); then
        return
    fi
    note "reserving $missing hugepages of 2 MB (given back at the end)"
    # The ledger first: a run that is killed between the two gives back too little, never another's pages.
    echo "$missing" >"$ledger"
    echo $((total + missing)) >"$hugepages/nr_hugepages"
    if (($(<"$hugepages/nr_hugepages") < total + missing)); then
        # Fragmented memory: page cache and compaction can often make room.
        echo 3 >/proc/sys/vm/drop_caches
        echo 1 >/proc/sys/vm/compact_memory 2>/dev/null || true
        echo $((total + missing)) >"$hugepages/nr_hugepages"
    fi
    local got=$(($(<"$hugepages/nr_hugepages") - total))
    echo "$got" >"$ledger"
    ((got >= missing)) ||
        die "only $got of $missing hugepages could be reserved: free memory, or use --no-huge"
}

# hugepages_release LEDGER: gives back what hugepages_reserve added.
hugepages_release() {
    local ledger=$1 added total
    [[ -s $ledger ]] || return 0
    added=$(<"$ledger")
    total=$(<"$hugepages/nr_hugepages")
    echo $((total > added ? total - added : 0)) >"$hugepages/nr_hugepages"
    rm -f "$ledger"
}
