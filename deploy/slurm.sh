#!/usr/bin/env bash
# A search in one Slurm allocation: Ray's head on the first node, workers on the others, the driver next
# to the head. Submit it from the checkout, with options of tune.py:
#
#   sbatch --nodes=4 --gpus-per-node=8 deploy/slurm.sh --storage /shared/runs --workers-per-trial 8
#
# Before the time limit the search stops at a safe point and the job is put back into the queue, where the
# same command resumes it; also after a lost head. `scancel --batch --signal=TERM JOB` stops it at a safe
# point for good; plain `scancel JOB` loses the work since the last rung of each running trial.
#
# Environment: MEANFLOW_TUNE_HOME, the checkout with its .venv (default: where sbatch was called);
# MEANFLOW_TUNE_PRIVATE, a folder that only you can read and all nodes see, for the cluster's token
# (default: ~/.meanflow-tune); MEANFLOW_TUNE_REQUEUES, how often a lost cluster is started again (default: 10).
#SBATCH --job-name=meanflow-tune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=meanflow-tune-%j.log
#SBATCH --signal=B:USR1@600
set -euo pipefail

: "${SLURM_JOB_ID:?start this script with sbatch}"
home=${MEANFLOW_TUNE_HOME:-${SLURM_SUBMIT_DIR:-$PWD}}
private=${MEANFLOW_TUNE_PRIVATE:-$HOME/.meanflow-tune}
bin=$home/.venv/bin
if [ ! -x "$bin/ray" ]; then
    echo "slurm.sh: $bin/ray is missing; run 'make setup' in the checkout, or set MEANFLOW_TUNE_HOME." >&2
    exit 2
fi

# Only this user's processes can join, or run anything on, the cluster.
[ -d "$private" ] || { mkdir -p "$private" && chmod 700 "$private"; }
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$private/token-$SLURM_JOB_ID
unset RAY_AUTH_TOKEN RAY_ADDRESS
(umask 077 && "$bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
export RAY_USAGE_STATS_ENABLED=0
# A node that is lost is noticed after about 10 s, not after a minute.
export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs of others may share the node
# Not the first address of `hostname --ip-address`, which is 127.0.1.1 on Debian.
address=$(srun --nodes=1 --ntasks=1 --overlap --nodelist="${nodes[0]}" hostname --all-ip-addresses | awk '{print $1}')
temp=/tmp/mft-ray-$SLURM_JOB_ID # short: a socket's path has at most 107 characters
# Ray would set aside a third of the memory; a search keeps little in it.
common=(--block --disable-usage-stats --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --object-store-memory=1000000000)

started=()
stop_cluster() {
    [ "${#started[@]}" -eq 0 ] || kill -TERM "${started[@]}" 2> /dev/null || true
    wait || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap stop_cluster EXIT

srun --nodes=1 --ntasks=1 --overlap --nodelist="${nodes[0]}" "$bin/ray" start --head "${common[@]}" \
    --node-ip-address="$address" --port="$port" --include-dashboard=false --temp-dir="$temp" &
started+=($!)
for ((waited = 0; ; waited++)); do
    (exec 3<> "/dev/tcp/$address/$port") 2> /dev/null && break
    if [ "$waited" -ge 120 ] || ! kill -0 "${started[0]}" 2> /dev/null; then
        echo "slurm.sh: Ray's head does not answer at $address:$port on ${nodes[0]}; its messages are above." >&2
        exit 5
    fi
    sleep 1
done
if [ "${#nodes[@]}" -gt 1 ]; then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --overlap \
        --kill-on-bad-exit=0 --nodelist="$others" "$bin/ray" start "${common[@]}" --address="$address:$port" &
    started+=($!)
fi

requeue=no
"$bin/python" "$home/scripts/tune.py" --cluster "$address:$port" --require-token --wait-for-cluster 2m "$@" &
driver=$!
# The time limit comes near: stop at a safe point, continue in the next job.
trap 'requeue=yes; kill -TERM "$driver" 2> /dev/null || true' USR1
# scancel --batch --signal=TERM: stop at a safe point.
trap 'kill -TERM "$driver" 2> /dev/null || true' TERM INT
status=0
while true; do # a trapped signal ends `wait` early
    wait "$driver" && status=0 || status=$?
    kill -0 "$driver" 2> /dev/null || break
done
if [ "$status" -eq 5 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MEANFLOW_TUNE_REQUEUES:-10}" ]; then
    requeue=yes
fi
if [ "$requeue" = yes ] && [ "$status" -ne 0 ]; then
    echo "slurm.sh: the search ended with status $status and is resumed by job $SLURM_JOB_ID when it starts again." >&2
    stop_cluster
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
