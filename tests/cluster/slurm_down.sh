#!/usr/bin/env bash
# Stop the jobs and the daemons that slurm_up.sh DIR started, and no other.
cd "$1" && . ./env.sh || exit 1
[ -s pids ] || exit 0
pids=$(tac pids | tr '\n' ' ')
timeout 10 scancel --user="$(id -un)" 2> /dev/null
alive() { for pid in $pids; do kill -0 "$pid" 2> /dev/null && return; done; return 1; }
jobs_left() { [ -n "$(timeout 5 squeue --noheader 2> /dev/null)" ]; }
for _ in $(seq 100); do jobs_left || break; sleep 0.1; done
kill $pids 2> /dev/null
for _ in $(seq 50); do alive || break; sleep 0.1; done
alive && kill -KILL $pids 2> /dev/null
: > pids
