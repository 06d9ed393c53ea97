/* Reads PTC_FAULT and does what it says. */
#include "runtime/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct
{
    char kind[16];
    unsigned rank;
    unsigned long long step;
} Fault;

/* False when there is none. */
static bool read_fault(Fault *out_fault, Status *out_status)
{
    const char *text = getenv("PTC_FAULT");
    int n = 0;
    *out_status = STATUS_OK;
    if (!text || !*text)
        return false;
    if (sscanf(text, "%15[a-z_]:%u:%llu%n", out_fault->kind, &out_fault->rank, &out_fault->step, &n) == 3 && !text[n])
        return true;
    *out_status = status_fail(STATUS_USAGE, "PTC_FAULT is '%s': expected KIND:RANK:STEP", text);
    return false;
}

Status fault_at_step(uint32_t rank, uint64_t step)
{
    Fault fault;
    Status status;
    if (!read_fault(&fault, &status) || rank != fault.rank || step != fault.step)
        return status;
    if (strcmp(fault.kind, "sleep") == 0)
        for (;;)
            pause();
    if (strcmp(fault.kind, "exit") == 0)
        _exit(9);
    if (strcmp(fault.kind, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(fault.kind, "stop") == 0)
        raise(SIGSTOP);
    else if (strcmp(fault.kind, "transition") != 0 && strcmp(fault.kind, "skip_reduce") != 0 &&
             strcmp(fault.kind, "version") != 0)
        return status_fail(STATUS_USAGE, "PTC_FAULT: no fault is called '%s'", fault.kind);
    return STATUS_OK;
}

void fault_in_transition(uint32_t rank, uint64_t step)
{
    Fault fault;
    Status status;
    if (read_fault(&fault, &status) && rank == fault.rank && step == fault.step &&
        strcmp(fault.kind, "transition") == 0)
        raise(SIGKILL);
}

bool fault_skips_sum(uint32_t rank, uint64_t step)
{
    Fault fault;
    Status status;
    return read_fault(&fault, &status) && rank == fault.rank && step >= fault.step &&
           strcmp(fault.kind, "skip_reduce") == 0;
}

const char *fault_version(uint32_t rank)
{
    Fault fault;
    Status status;
    return read_fault(&fault, &status) && rank == fault.rank && strcmp(fault.kind, "version") == 0 ? "+fault" : "";
}
