#!/bin/sh
# Build Linux 6.1's own entry code from Debian's linux-source-6.1, for `fullframe entry prove`.
#
#   scripts/linux-objects.sh [DIRECTORY [vmlinux]]
#
# Leaves in DIRECTORY (build/linux by default), for each of two configurations:
#   CONFIG/entry.o     entry_64.o and entry_64_compat.o, linked into one relocatable object,
#                      because the ways out of one are in the other
#   CONFIG/vmlinux     with the second argument: the whole kernel (some minutes)
# CONFIG is `plain` (tinyconfig, 64BIT, IA32_EMULATION, X86_X32_ABI) or `mitigated` (besides: SMP,
# page-table isolation, retpolines and what the configuration then turns on by default).
# Nothing of it is ever committed.
set -eu

directory=${1:-build/linux}
whole=${2:-}
archive=/usr/src/linux-source-6.1.tar.xz
tools="bc bison flex gcc ld make xz"

fail() {
	echo "linux-objects: $1" >&2
	echo "  next: $2" >&2
	exit "$3"
}

missing() {
	[ -f "$archive" ] || return 0
	for tool in $tools; do
		command -v "$tool" >/dev/null || return 0
	done
	[ -f /usr/include/libelf.h ] || [ -f /usr/include/x86_64-linux-gnu/libelf.h ] || return 0
	return 1
}

if missing; then
	packages="linux-source-6.1 bc bison flex gcc binutils make xz-utils libelf-dev"
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
		fail "the kernel's source or its build tools are missing" \
			"apt-get install $packages (Debian 12), as root" 4
	# shellcheck disable=SC2086 # the list is meant to be split
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages >&2 ||
		fail "apt-get failed" "apt-get update, and look at its messages above" 4
fi

mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
source=$directory/linux-source-6.1
if [ ! -f "$source/.extracted" ]; then
	echo "linux-objects: extracting $archive" >&2
	rm -rf "$source"
	tar -xf "$archive" -C "$directory"
	touch "$source/.extracted"
fi

configure() {
	output=$directory/$1
	shift
	mkdir -p "$output"
	make -s -C "$source" O="$output" tinyconfig >/dev/null 2>&1
	set_options=
	for option in 64BIT IA32_EMULATION X86_X32_ABI "$@"; do
		set_options="$set_options -e $option"
	done
	# shellcheck disable=SC2086 # the list is meant to be split
	"$source/scripts/config" --file "$output/.config" $set_options
	make -s -C "$source" O="$output" olddefconfig
	for option in 64BIT IA32_EMULATION X86_X32_ABI "$@"; do
		grep -q "^CONFIG_$option=y" "$output/.config" ||
			fail "$output/.config has no CONFIG_$option" "look at what it depends on" 1
	done
}

build() {
	output=$directory/$1
	echo "linux-objects: building $output/entry.o" >&2
	make -s -C "$source" O="$output" \
		arch/x86/entry/entry_64.o arch/x86/entry/entry_64_compat.o >&2
	ld -r -o "$output/entry.o" \
		"$output/arch/x86/entry/entry_64.o" "$output/arch/x86/entry/entry_64_compat.o"
	if [ -n "$whole" ]; then
		echo "linux-objects: building $output/vmlinux (some minutes)" >&2
		make -s -C "$source" O="$output" vmlinux >&2
	fi
}

configure plain
configure mitigated SMP CPU_MITIGATIONS PAGE_TABLE_ISOLATION RETPOLINE
build plain
build mitigated
