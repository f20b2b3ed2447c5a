#!/bin/sh
# Prints how many compilers may run at once: one a core, each with about 2 GB of memory.
set -eu
cores=$(nproc)
memory=$(awk '/^MemAvailable:/ { print int($2 / 2097152) }' /proc/meminfo)
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
if [ "$limit" != max ] && [ $((limit / 2147483648)) -lt "$memory" ]; then
  memory=$((limit / 2147483648))
fi
jobs=$((cores < memory ? cores : memory))
echo $((jobs > 1 ? jobs : 1))
