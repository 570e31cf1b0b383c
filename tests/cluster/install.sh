#!/usr/bin/env bash
# Install SLURM where apt can, within five minutes; its tests say by name that they are skipped where it cannot.
for tool in slurmctld slurmd squeue munged; do
  PATH=$PATH:/usr/sbin command -v $tool > /dev/null || missing=1
done
[ -n "${missing:-}" ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || { echo "SLURM is not installed: that needs root, and apt"; exit 0; }
export DEBIAN_FRONTEND=noninteractive
apt() { timeout --kill-after=10 "$1" apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::Retries=1 -o Acquire::http::Timeout=20 "${@:2}" < /dev/null; }
apt 100 update && apt 200 install -y --no-install-recommends slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins \
  > /dev/null || echo "SLURM is not installed: apt could not"
exit 0
