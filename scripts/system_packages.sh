#!/usr/bin/env bash
# Install what the tests need from the distribution, where that is possible: as root, with apt-get.
# Takes milliseconds when nothing is missing. Where it cannot, it says loudly which tests will be
# skipped, and leaves the rest to them.
set -uo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

# command, package, tests
needs=(
    "slurmctld slurm-wlm   the tests of executor=slurm"
    "munged    munge       the tests of executor=slurm"
    "faketime  faketime    the test of clocks that differ"
    "chromium  chromium    the tests of the site in a browser"
    "cc        gcc         the tests of steps on a GPU that is not there"
)

packages=() skipped=()
look() {
    packages=() skipped=()
    for need in "${needs[@]}"; do
        read -r command package tests <<<"$need"
        command -v "$command" >/dev/null && continue
        packages+=("$package")
        skipped+=("  $tests, for lack of $package")
    done
}

install_missing() {
    [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null || return
    echo "installing ${packages[*]} (once) ..." >&2
    local options=(-qq -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120)
    install=(apt-get "${options[@]}" install -y --no-install-recommends "${packages[@]}")
    # Lists that are there may be too old to find packages by; a fresh container has none.
    "${install[@]}" >/dev/null 2>&1 || { apt-get "${options[@]}" update && "${install[@]}"; } >/dev/null
}

look
((${#packages[@]} == 0)) && exit 0
install_missing
look
((${#packages[@]} == 0)) && exit 0
{
    echo "**********************************************************************"
    echo "WARNING: what these tests need could not be installed; they are skipped:"
    printf '%s\n' "${skipped[@]}"
    echo "As root on Debian or Ubuntu: apt-get install ${packages[*]}"
    echo "**********************************************************************"
} >&2
