/* What went wrong between ranks, told from the files that they left (comm_dump, runtime/comm_record.h): which ranks
 * left none, what each one did last and what it was in, and the first point at which their programs part. */
#ifndef PTC_RUNTIME_DIAGNOSE_H
#define PTC_RUNTIME_DIAGNOSE_H

#include "base/status.h"
#include "base/strbuf.h"
#include "runtime/comm_record.h"

/* Reads folder/rank-*.json and appends the report. STATUS_BAD_INPUT, with the file's name, when one of them is not such
 * a file, or when there is none. */
Status diagnose_folder(Arena *arena, const char *folder, StrBuf *out_report);

/* ---- the files, read */

typedef struct
{
    const char *name;
    const uint32_t *ranks;
    uint32_t n_ranks;
} DiagnoseComm;

typedef struct
{
    const char *path;
    uint32_t rank, size;
    const char *host;
    int64_t pid;
    const char *status; /* "" when what failed was not a communicator */
    const char *reason;
    uint64_t waiting; /* seq of an entry, or 0 */
    const DiagnoseComm *comms;
    uint32_t n_comms;
    const CommRecord *entries; /* by ascending seq */
    uint32_t n_entries;
} DiagnoseFile;

typedef struct
{
    uint32_t size;                    /* ranks of the job */
    const DiagnoseFile *const *files; /* by rank; NULL where there is none */
    uint32_t n_files;
} Diagnosis;

/* Texts are copied into the arena, without control characters. */
Status diagnose_read(Arena *arena, const char *folder, Diagnosis *out_diagnosis);

#endif
