# Sourced by batch scripts: requeues an interrupted job, and knows when to give up.
#
#   fgvc_begin FOLDER MAX_RESTARTS   before srun. FOLDER/runs lists the run folders, one line per array task.
#   fgvc_record RUN                  before fgvc_begin, in a batch script of your own
#   fgvc_end CODE                    after srun, with its exit code; ends the script.
#
# A job that fails is requeued, unless the failure is the user's mistake (exit code 2) or MAX_RESTARTS restarts in a row
# brought no new checkpoint. After a node failure or a preemption Slurm requeues by itself.

fgvc_begin() {
    fgvc_folder=$1 fgvc_max=$2
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        fgvc_id=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
    else
        fgvc_id=$SLURM_JOB_ID
    fi
    fgvc_run=$(sed -n "$((${SLURM_ARRAY_TASK_ID:-0} + 1))p" "$fgvc_folder/runs")
    export FGVC_MISTAKE=$fgvc_folder/$fgvc_id.mistake
    rm -f "$FGVC_MISTAKE" # left by a job that was requeued by hand after a fix
    # Where ranks meet: the first node, on a free port below Linux's ephemeral ones.
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_PORT=$((20000 + RANDOM % 12000))
    while (: < "/dev/tcp/127.0.0.1/$MASTER_PORT") 2> /dev/null; do MASTER_PORT=$((20000 + RANDOM % 12000)); done
    export MASTER_ADDR MASTER_PORT

    local count=0 before=- newest
    newest=$(fgvc_newest)
    if [ -e "$fgvc_folder/$fgvc_id.starts" ]; then
        read -r count before < "$fgvc_folder/$fgvc_id.starts"
        echo "fgvc: job $fgvc_id restarts (Slurm's count: ${SLURM_RESTART_COUNT:-0}) from ${newest}"
    fi
    if [ "$newest" != "$before" ]; then count=0; fi
    echo "$((count + 1)) $newest" > "$fgvc_folder/$fgvc_id.starts"
    fgvc_stop_if_stuck "$count" "$newest"

    if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
        srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 test -d "$fgvc_folder"
        if [ $? -eq 1 ]; then
            echo "fgvc: $fgvc_folder is missing on some nodes; set runs_dir= to a folder that all nodes share" >&2
            exit 2
        fi
    fi
}

fgvc_end() {
    if [ "$1" -eq 0 ]; then exit 0; fi
    if [ -e "$FGVC_MISTAKE" ]; then exit 2; fi
    local count before newest
    read -r count before < "$fgvc_folder/$fgvc_id.starts"
    newest=$(fgvc_newest)
    if [ "$newest" = "$before" ]; then fgvc_stop_if_stuck "$count" "$newest"; fi
    echo "fgvc: job $fgvc_id ended with exit code $1; asking Slurm to requeue it"
    # The controller may be down: wait for it rather than give up.
    for _ in $(seq 60); do
        if scontrol requeue "$SLURM_JOB_ID"; then exit "$1"; fi
        sleep 10
    done
    exit "$1"
}

# Record in a run folder which job writes there, for fgvc status and fgvc cancel; `--on` does so when it submits.
fgvc_record() {
    local log escape='s/[\\"]/\\&/g'
    log=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *StdOut=//p')
    printf '{"job": "%s", "name": "%s", "log": "%s", "submitted": %s}\n' "$SLURM_JOB_ID" \
        "$(sed "$escape" <<< "$SLURM_JOB_NAME")" "$(sed "$escape" <<< "$log")" "$(date +%s)" > "$1/slurm.json"
}

# The name of the run's newest checkpoint, or none; of a run that trains detectors, of what they left last.
fgvc_newest() {
    local newest
    newest=$(ls "$fgvc_run/checkpoints" 2> /dev/null | grep '^step-' | sort | tail -n 1)
    if [ -z "$newest" ] && [ -d "$fgvc_run/detect" ]; then
        newest=$(cd "$fgvc_run/detect" && ls -dt */checkpoints/step-* */result.json 2> /dev/null | head -n 1)
    fi
    echo "${newest:-none}"
}

fgvc_stop_if_stuck() {
    if [ "$1" -gt "$fgvc_max" ]; then
        echo "fgvc: job $fgvc_id was started $1 times without a new checkpoint (latest: $2): giving up;" \
            "find the cause above, then submit the same command to resume" >&2
        exit 1
    fi
}
