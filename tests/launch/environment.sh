#!/bin/bash
# Who says which rank a process is; what the command line may ask for; one rank without any MPI.
. "$(dirname "$0")/lib.sh"

says() # TEXT VARIABLE...: what a process with these variables takes itself for
{
    local want=$1 have
    shift
    have=$(env "$@" "$FAKE_RANK" 2>&1)
    [ "$have" = "$want" ] || { echo "said: $have"; echo "want: $want"; return 1; }
}
wrong() # CODE TEXT COMMAND...
{
    local code=$1 text=$2
    shift 2
    fails_with "$code" "$@" 2>err.log && grep -qF -- "$text" err.log && return
    cat err.log
    return 1
}

openmpi="OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=2"
pmi="PMI_RANK=3 PMI_SIZE=8 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=4"
slurm="SLURM_JOB_ID=7 SLURM_PROCID=5 SLURM_NTASKS=6 SLURM_LOCALID=1"
# shellcheck disable=SC2086 # words
{
    check "nobody" says "rank 0 of 1, local 0 of 0, nobody, no rank"
    check "Open MPI" says "rank 2 of 4, local 0 of 2, OMPI_COMM_WORLD_RANK" $openmpi PMIX_RANK=2
    check "PMI" says "rank 3 of 8, local 1 of 4, PMI_RANK" $pmi
    check "srun" says "rank 5 of 6, local 1 of 0, SLURM_PROCID" $slurm SLURM_STEP_ID=0
    check "srun with PMIx" says "rank 5 of 6, local 1 of 0, SLURM_PROCID" $slurm PMIX_RANK=5
    check "a batch script's shell is no rank" says "rank 0 of 1, local 0 of 0, nobody, no rank" $slurm
    check "one rank of one" says "rank 0 of 1, local 0 of 0, PMI_RANK, no rank" PMI_RANK=0 PMI_SIZE=1
    check "Open MPI inside Slurm" says "rank 2 of 4, local 0 of 2, OMPI_COMM_WORLD_RANK" $openmpi $slurm SLURM_STEP_ID=0 $pmi
    check "the same twice" says "rank 2 of 4, local 0 of 2, OMPI_COMM_WORLD_RANK" $openmpi PMI_RANK=2 PMI_SIZE=4
    check "a contradiction" wrong 2 "rank 2 of 4 (OMPI_COMM_WORLD_RANK) and rank 3 of 8 (PMI_RANK)" \
        env $openmpi $pmi $PTC "$model" --max-steps=1
    check "half of it" wrong 2 "PMI_RANK is set, but PMI_SIZE is not" env PMI_RANK=1 $PTC "$model"
    check "no number" wrong 2 "PMI_SIZE is 'x'" env PMI_RANK=1 PMI_SIZE=x $PTC "$model"
    check "no rank of the job" wrong 2 "PMI_RANK=4 is not a rank of PMI_SIZE=4" env PMI_RANK=4 PMI_SIZE=4 $PTC "$model"
    check "-n inside another job" wrong 2 "-n 2, but this is rank 2 of 4" env $openmpi $PTC -n 2 "$model"
    check "-n inside mpirun -n 1" wrong 2 "leave out one of the two" env PMI_RANK=0 PMI_SIZE=1 $PTC -n 2 "$model"
}

check "-n 0" wrong 2 "--ranks wants at least 1" $PTC -n 0 "$model"
check "-n of a command that has none" wrong 2 "ptc check does not know '-n'" $PTC check -n 2 "$model"
check "--max-restarts of eval" wrong 2 "does not know '--max-restarts=1'" $PTC eval --max-restarts=1 "$model"
check "--comm-timeout=0" wrong 2 "--comm-timeout wants at least 1" $PTC --comm-timeout=0 "$model"
check "the model on standard input" wrong 2 "give a file" $PTC -n 2 -
check "-n 1 starts no mpirun" env PTC_MPIRUN=/bin/false $PTC -n 1 "$model" --max-steps=1
check "--emit starts no mpirun" env PTC_MPIRUN=/bin/false $PTC -n 2 "$model" --emit=ir
check "no mpirun in PATH" wrong 3 "install openmpi-bin" env PATH=/nowhere $PTC -n 2 "$model"
check "PTC_MPIRUN is nothing" wrong 3 "PTC_MPIRUN is '/nowhere'" env PTC_MPIRUN=/nowhere $PTC -n 2 "$model"
check "an mpirun that starts nothing" wrong 3 "started no rank" env PTC_MPIRUN=/bin/false $PTC -n 2 "$model"

needs_mpirun

arguments() # WANT COMMAND FLAG...: what rank 1 of 2 is started with
{
    local want=$1
    shift
    FAKE='' fake "$@" && sort ranks.log >sorted.log &&
        diff <(printf 'rank %s of 2: %s\n' 0 "$want $model" 1 "$want $model") sorted.log
}
check "arguments" arguments "run --threads=3 --out=o --threads=2 --pin" \
    run --threads=3 -n 1 --out o -n2 --threads=2 --max-restarts 3 --pi
check "arguments of the default command" arguments "--comm-timeout=5" --ranks=2 --comm-timeout 5
by_hand() # mpirun without the launcher
{
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
        mpirun -n 3 "$FAKE_RANK" >out.log 2>&1
    cat out.log
    [ "$(grep -c '^rank [012] of 3, ' out.log)" = 3 ]
}
check "mpirun by hand" by_hand
finish
