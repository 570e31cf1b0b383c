#!/usr/bin/env bash
# A real SLURM of one node, as root, on loopback: no systemd, no cgroups, no accounting; two GPUs that are none.
# usage: slurm_up.sh DIR [PID]    then `. DIR/env.sh`; slurm_down.sh DIR stops it, or the end of process PID does
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"/{state,spool,log}
cd "$1"
dir=$PWD
: > pids
host=$(hostname -s)
ports=($(python3 -c 'import socket; s = [socket.create_server(("127.0.0.1", 0)) for _ in "ab"]
print(*(x.getsockname()[1] for x in s))'))

start() { # the caller would wait for a daemon that kept its output
  setsid "$@" < /dev/null > "log/$1.out" 2>&1 &
  echo $! >> pids
}

until_true() { # seconds, command
  for _ in $(seq $((10 * $1))); do "${@:2}" && return; sleep 0.1; done
  echo "slurm_up.sh: not within $1 s: ${*:2}" >&2
  tail -n 20 log/* >&2
  "$here/slurm_down.sh" "$dir"
  exit 1
}

idle() { [ "$(sinfo --noheader --format %T 2> /dev/null)" = idle ]; }

(umask 077 && head -c 128 /dev/urandom > key)
start munged --foreground --force --key-file="$dir/key" --socket="$dir/munge" --pid-file="$dir/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/seed" --num-threads=2
until_true 10 test -S munge

# cred_expire: else a job that is requeued waits two minutes. CPUs are more than there may be, so that tasks run at once
cat > slurm.conf << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthInfo=socket=$dir/munge,cred_expire=5
SlurmUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
MinJobAge=300
SchedulerParameters=sched_interval=2,bf_interval=2
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=$(slurmd -C | sed -n 's/.*RealMemory=\([0-9]*\).*/\1/p') Gres=gpu:2
PartitionName=main Nodes=$host Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=${GRACE:-3}
PartitionName=urgent Nodes=$host MaxTime=60 PriorityTier=10 PreemptMode=OFF
CONF
for file in /dev/null /dev/zero; do echo "NodeName=$host Name=gpu File=$file"; done > gres.conf
cat > env.sh << ENV
export SLURM_CONF=$dir/slurm.conf PATH=$here/bin:\$PATH
ENV
. ./env.sh
start slurmctld -D
start slurmd -D
until_true 30 idle
if [ -n "${2:-}" ]; then
  setsid bash -c 'while kill -0 "$2" && [ -s "$1/pids" ]; do sleep 1; done; "$0/slurm_down.sh" "$1"' \
    "$here" "$dir" "$2" < /dev/null > /dev/null 2>&1 &
fi
