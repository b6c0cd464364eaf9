#!/usr/bin/env bash
# A Ray node without processors, for the driver, and `mergeopt serve` on it: where one ends, so does the other.
# usage: mergeopt-controller HOST:PORT [what `mergeopt serve` takes]
set -uo pipefail
address=${1:?the address of the head is missing, such as head:6379}
shift

stop() {  # `serve` goes first: it needs the node to put its job in order
    kill -TERM "${serve:-$node}" 2>/dev/null
}
trap stop TERM INT

# A driver needs a node on its own machine. No job is taken before that node is up.
coproc RAY { exec ray start --address="$address" --num-cpus=0 --num-gpus=0 --block 2>&1; }
node=$RAY_PID
exec 3<&"${RAY[0]}"
up=no
while [[ $up == no ]] && IFS= read -r line <&3; do
    printf '%s\n' "$line"
    [[ $line == *"Ray runtime started"* ]] && up=yes
done
if [[ $up == no ]]; then
    wait "$node"
    exit 1
fi
cat <&3 &

mergeopt serve --address="$address" "$@" &
serve=$!
wait -n "$node" "$serve"  # comes back at a signal, too
ended=$?

stop
wait "$serve"
code=$?
kill -TERM "$node" 2>/dev/null
wait "$node"
[[ $ended -gt 128 ]] || code=1  # nobody asked for it to end
exit "$code"
