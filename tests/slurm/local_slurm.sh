#!/usr/bin/env bash
# A real one-node Slurm for trying the workflow's Slurm profile without a cluster.
#
#   tests/slurm/local_slurm.sh start          [FOLDER]
#   tests/slurm/local_slurm.sh stop           [FOLDER]
#   tests/slurm/local_slurm.sh kill-node      [FOLDER]
#   tests/slurm/local_slurm.sh restart-slurmd [FOLDER]
#
# FOLDER (default: .slurm in the repository's root) holds all of it: conf, key,
# sockets, state, spool and logs. No service and no file of the system is touched,
# root is not needed, and two FOLDERs can run side by side.
#
#   start           brings up munged, slurmctld and slurmd, and prints the line that
#                   makes the Slurm commands use them:
#                       eval "$(tests/slurm/local_slurm.sh start)"
#   stop            ends the jobs and the daemons, and removes FOLDER.
#   kill-node       kills slurmd and all jobs at once, as a node's failure would.
#   restart-slurmd  starts slurmd anew, after which a failed node is back in service.
#
# The node offers 2 CPUs (whatever the machine has), the machine's memory, and 2
# pretended GPUs: a job gets CUDA_VISIBLE_DEVICES=0 or 1, no device. A job that
# uses more memory than it asked for is killed. There is no accounting database,
# so sacct has nothing to tell; ended jobs stay visible to squeue for an hour.
set -euo pipefail
umask 077

readonly NODE=local CPUS=2 GPUS=2 READY_SECONDS=30
readonly USAGE="usage: local_slurm.sh start|stop|kill-node|restart-slurmd [FOLDER]"
# A Unix socket's path holds 107 characters; the longest one here is a job step's,
# "/spool/local_<job id of 6 digits>.<step id of 10 digits>".
readonly MAX_PATH=$((107 - 30))
readonly MARK='# Written by local_slurm.sh, which removes this folder on "stop".'

# Debian keeps the daemons where an ordinary user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

say() { echo "local_slurm: $*" >&2; }
die() { say "$@"; exit 1; }

require_packages() {
    local tool missing=()
    for tool in munged slurmctld slurmd sbatch squeue scontrol; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [[ ${#missing[@]} -eq 0 ]] || die "missing ${missing[*]}; remedy:" \
        "apt-get install --no-install-recommends slurm-wlm munge"
}

require_usable_path() {
    [[ $dir =~ ^/[A-Za-z0-9/._+@~-]+$ ]] ||
        die "slurm.conf cannot hold this folder's path, use plain characters: $dir"
    [[ ${#dir} -le $MAX_PATH ]] ||
        die "the folder's path has ${#dir} characters, its sockets allow $MAX_PATH: $dir"
}

is_ours() { [[ -f $conf ]] && [[ $(head -n 1 "$conf") == "$MARK" ]]; }

# Process ids are used again, so an old pid file may name a stranger.
pid_of() {
    local pid
    read -r pid 2>/dev/null <"$dir/$1.pid" || return 1
    [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *"$1 "*"$dir/"* ]] || return 1
    echo "$pid"
}

free_port() {
    local port
    while :; do
        # Below the range that the kernel hands out to outgoing connections.
        port=$((20000 + RANDOM % 12000))
        [[ $port != "${1:-}" ]] || continue
        grep -qsi ":$(printf %04x "$port") " /proc/net/tcp /proc/net/tcp6 || break
    done
    echo "$port"
}

conf_of_daemons() {
    local host user ctld_port
    host=$(uname -n) host=${host%%.*} user=$(id -un) ctld_port=$(free_port)
    cat <<CONF
$MARK
ClusterName=$NODE
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$(free_port "$ctld_port")
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits for its credential to expire, two minutes unless told.
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
TaskProlog=$dir/task_prolog
MailProg=/bin/true
# Enough for a busy machine's slurmd to answer, and short for one that was killed.
SlurmdTimeout=20
BatchStartTimeout=5
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$NODE NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$CPUS Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$1 Gres=gpu:$GPUS
PartitionName=$NODE Nodes=$NODE Default=YES MaxTime=UNLIMITED
CONF
}

conf_of_jobs() {
    cat <<CONF
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
PropagateResourceLimits=NONE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
SchedulerType=sched/backfill
# Jobs are few here, and what waits for them is a person or a test.
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Without a default, a job that names no memory takes all of the node's.
DefMemPerCPU=1000
# A job that can never start is refused at once rather than left pending.
EnforcePartLimits=ALL
KillWait=2
# snakemake's status checks by squeue need to find the jobs that have ended.
MinJobAge=3600
# Six digits keep the job steps' sockets within the limit on paths.
MaxJobId=999999
JobRequeue=1
CONF
}

write_conf() {
    local memory
    memory=$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo)
    { conf_of_daemons "$memory" && conf_of_jobs; } >"$conf"
    mkdir "$dir/state" "$dir/spool"
    # Keeps the folder out of the repository's status, wherever in it that is.
    echo '*' >"$dir/.gitignore"
}

# Slurm sets CUDA_VISIBLE_DEVICES only for GPUs that have a device file each.
write_gpus() {
    local i
    for ((i = 0; i < GPUS; i++)); do ln -s /dev/null "$dir/gpu$i"; done
    echo "NodeName=$NODE Name=gpu File=$dir/gpu[0-$((GPUS - 1))]" >"$dir/gres.conf"
}

# snakemake's executors drop every SLURM_ variable before they call Slurm from within
# a job, SLURM_CONF with them, which a Slurm configured outside /etc cannot do without.
write_job_tools() {
    local tool path
    mkdir "$dir/bin"
    for tool in sbatch scancel scontrol sinfo squeue srun; do
        path=$(command -v "$tool")
        printf '#!/bin/sh\nSLURM_CONF=%s\nexport SLURM_CONF\nexec %s "$@"\n' \
            "$conf" "$path" >"$dir/bin/$tool"
    done
    cat >"$dir/task_prolog" <<PROLOG
#!/bin/sh
echo "export PATH=$dir/bin:\$PATH"
echo "export LOCAL_SLURM=$dir"
PROLOG
    chmod +x "$dir"/bin/* "$dir/task_prolog"
}

# --force: munged refuses a folder below one that others may write to, and wants its
# socket open to other users; this one is for its owner alone.
start_munged() {
    head -c 128 /dev/urandom >"$dir/munge.key"
    munged --force --num-threads=2 --origin=127.0.0.1 \
        --socket="$dir/munge.socket" --key-file="$dir/munge.key" \
        --pid-file="$dir/munged.pid" --seed-file="$dir/munged.seed" \
        --log-file="$dir/munged.log" </dev/null >>"$dir/munged.out" 2>&1
}

start_daemon() { "$1" -f "$conf" </dev/null >>"$dir/$1.out" 2>&1; }

show_logs() {
    local log
    for log in "$dir"/*.out "$dir"/*.log; do
        [[ -s $log ]] || continue
        say "last lines of $log:"
        tail -n 15 "$log" >&2
    done
}

node_is_up() {
    local node
    node=$(timeout 5 scontrol show node "$NODE" 2>/dev/null) || return 1
    # The state alone may be of the slurmd before this one.
    [[ $node =~ SlurmdStartTime=([0-9T:-]+) && ! ${BASH_REMATCH[1]} < $1 ]] || return 1
    [[ $node =~ State=(IDLE|MIXED|ALLOCATED)(\+COMPLETING)?[[:space:]] ]]
}

wait_for_node() {
    local since=$1 deadline=$((SECONDS + READY_SECONDS))
    until node_is_up "$since"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.3
    done
}

start_slurmd() {
    local since
    since=$(date +%Y-%m-%dT%H:%M:%S)
    start_daemon slurmd && wait_for_node "$since"
}

end_daemon() {
    local pid deadline=$((SECONDS + 10))
    pid=$(pid_of "$1") || return 0
    kill "$pid" 2>/dev/null || true
    while pid_of "$1" >/dev/null; do
        ((SECONDS < deadline)) || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.1
    done
}

end_jobs() {
    local deadline=$((SECONDS + 10))
    pid_of slurmctld >/dev/null && pid_of slurmd >/dev/null || return 0
    timeout 5 scancel --partition="$NODE" 2>/dev/null || return 0
    while ((SECONDS < deadline)); do
        [[ -n $(timeout 5 squeue --noheader 2>/dev/null) ]] || return 0
        sleep 0.3
    done
}

# The processes of this folder's jobs, and the daemons whose name matches $1, which
# hold a file of the folder open; children first. Pid files would miss what a killed
# daemon left.
processes() {
    local file
    {
        grep -lszxF "LOCAL_SLURM=$dir" /proc/[0-9]*/environ || true
        for file in $(grep -lsxE "$1" /proc/[0-9]*/comm || true); do
            [[ $(readlink "${file%/comm}"/fd/* 2>/dev/null) != *"$dir/"* ]] || echo "$file"
        done
    } | cut -d / -f 3 | grep -vx "$$" | sort -rnu
}

end_leftovers() {
    local round pids
    for round in 1 2 3 4 5; do
        mapfile -t pids < <(processes 'slurm.*')
        [[ ${#pids[@]} -gt 0 ]] || return 0
        kill -KILL "${pids[@]}" 2>/dev/null || true
        sleep 0.2
    done
    die "could not end, after $round rounds: ${pids[*]}"
}

end_all() {
    end_jobs
    end_daemon slurmd
    end_daemon slurmctld
    end_leftovers
    end_daemon munged
}

is_running() {
    local daemon
    for daemon in munged slurmctld slurmd; do pid_of "$daemon" >/dev/null || return 1; done
}

usage_line() { echo "export SLURM_CONF=$conf"; }

prepare_folder() {
    if is_ours; then
        pid_of slurmctld >/dev/null && die "running without all of its daemons:" \
            "use restart-slurmd, or stop, with $dir"
        end_all
        rm -rf "$dir"
    fi
    mkdir -p "$dir"
    [[ -z $(ls -A "$dir") ]] || die "not empty and not a folder of this script: $dir"
}

start() {
    require_packages
    require_usable_path
    if is_ours && is_running; then
        say "started already, in $dir"
    else
        prepare_folder
        write_conf
        write_gpus
        write_job_tools
        if ! { start_munged && start_daemon slurmctld && start_slurmd; }; then
            show_logs
            end_all
            die "the node did not get ready (limit $READY_SECONDS s), the logs stay in $dir"
        fi
        say "started, in $dir"
    fi
    usage_line
}

stop() {
    if [[ ! -e $dir ]]; then
        say "nothing to stop, there is no $dir"
        return
    fi
    is_ours || die "not a folder of this script, left as it is: $dir"
    end_all
    rm -rf "$dir"
    say "stopped, and removed $dir"
}

restart_slurmd() {
    if ! is_ours || ! pid_of slurmctld >/dev/null; then
        die "nothing runs in $dir, use start"
    fi
    end_daemon slurmd
    if ! start_slurmd; then
        show_logs
        die "slurmd did not come back within $READY_SECONDS s"
    fi
    say "slurmd runs again, in $dir"
}

# As in a power cut, none of them may live to see another one's end and report it:
# Slurm would see a failed job instead of a failed node. So all are stopped first
# (twice, for what one of them started meanwhile), and children are killed before
# their parents, whose end would wake them.
kill_node() {
    local signal pids
    is_ours || die "nothing runs in $dir"
    for signal in STOP STOP KILL; do
        mapfile -t pids < <(processes 'slurmd|slurmstepd')
        [[ ${#pids[@]} -gt 0 ]] || die "no slurmd and no job to kill in $dir"
        kill "-$signal" "${pids[@]}" 2>/dev/null || true
        sleep 0.3
    done
    # What Slurm would notice by itself after SlurmdTimeout.
    timeout 10 scontrol update NodeName="$NODE" State=DOWN Reason=kill-node ||
        die "killed slurmd and its jobs, but slurmctld does not answer"
    say "killed slurmd and its jobs, restart-slurmd brings the node back"
}

main() {
    dir=$(realpath -m "${2:-$(dirname "${BASH_SOURCE[0]}")/../../.slurm}")
    conf=$dir/slurm.conf
    export SLURM_CONF=$conf
    case ${1:-} in
        start) start ;;
        stop) stop ;;
        restart-slurmd) restart_slurmd ;;
        kill-node) kill_node ;;
        *) die "$USAGE" ;;
    esac
}

[[ $# -le 2 ]] || die "$USAGE"
main "$@"
