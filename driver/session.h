/* A session: one model file loaded, compiled and ready on a device. What run, eval and bench start from. */
#ifndef PTC_DRIVER_SESSION_H
#define PTC_DRIVER_SESSION_H

#include "driver/driver.h"
#include "driver/elastic.h"
#include "driver/prebuild.h"
#include "driver/ranks.h"
#include "driver/variants.h"
#include "frontend/frontend.h"
#include "runtime/trainer.h"

struct Session
{
    Arena *arena; /* of the job: lent */
    const Options *options;
    Diag *diag;
    Job *job;
    Arena *module_arena;
    IrModule *m;        /* after the passes */
    Arena *ahead_arena; /* of a program that was compiled ahead (prebuild.h), besides its modules'; NULL: none */
    HalDevice *device;
    Variants variants;      /* shorter programs */
    HalKernelFile *kernels; /* of all programs, the longest last; NULL: not made yet */
    Executor *executor;
    ExecutorTensors *tensors;   /* of the executor before, for the next; NULL: none are kept */
    const MetricSpec *metrics;  /* of the job */
    const char *const *results; /* what is reported of them and the loss */
    uint32_t n_results;
    Dataset *labels;                    /* of session_labels; NULL: none */
    Dataset *train, *test;              /* NULL: no such split */
    uint64_t n_params;                  /* numbers in params */
    uint64_t n_frozen;                  /* of them, in params that are never updated */
    double load_s, passes_s, kernels_s; /* compile times: XML to IR, passes, kernels and executor */
    bool kernels_cached;
    int64_t held_before_bytes; /* by the process, before the executor was made */
    Ranks ranks;
    Elastic elastic;
    Prebuild *prebuild; /* for the next plan; NULL: nothing */
};

/* Loads the model, meets the other ranks and agrees on a plan; diagnostics are printed. After a failure, too, it is to
 * be closed. */
Status session_load(Arena *arena, const Options *options, Session *out_session);
/* Prints the diagnostics; with errors among them *status becomes BAD_INPUT, without a detail. */
void session_print_diag(Session *s, Status *status);
/* Loads the model (again), its batch cut into micro-batches; 0: as the model says. */
Status session_load_job(Session *s, int64_t micro_batches);
/* The job for one of the lengths of its buckets (0: the longest); what is wrong is in the diag. */
Status session_load_length(const Session *s, int64_t micro_batches, int64_t length, Diag *diag, Job **out_job);
/* Opens its data and checks it (label ranges). A fault in a file is reported at the <field> that names it. */
Status session_open_data(Session *s);
/* The classes of a field of labels or of folders, as its training split has them: of the open data, else of that column
 * alone. NULL for another format. */
Status session_labels(Session *s, const char *field, const DatasetLabels **out_labels);
/* Looks at the header of every file that is a sample. Told like the faults above. */
Status session_verify_data(Session *s);
/* status: of training or evaluation. A sample that could not be read is told at its <field>, too; on several ranks the
 * launcher tells it. */
Status session_tell_sample(Session *s, Status status);
/* Runs the passes; of every length. */
Status session_compile(Session *s);
/* Of the longest only, to show it. */
Status session_compile_longest(Session *s);
/* Generates kernels and compiles them into the cache of kernels; so many compilers at a time. */
Status session_build_kernels(Session *s, uint32_t n_compilers);
/* For this rank's device. */
HalOptions session_hal_options(const Session *s);
/* It, unless it is there, and the way that it exchanges by with those of other ranks. Collective. */
Status session_make_device(Session *s);
/* Generates kernels, unless they are there, and makes the executor. */
Status session_build(Session *s);
/* status: how the session went. Returns it. */
Status session_close(Session *s, Status status);

/* Gives back what session_compile and session_build have made, but for the device: they can be called again. Params and
 * states are kept in s->tensors where there is one. */
Status session_unbuild(Session *s);

/* A trainer for it; observer, of this rank, may be NULL; from: TrainerOptions. */
Status session_trainer(Session *s, const TrainerObserver *observer, bool with_out_dir,
                       const volatile sig_atomic_t *stop_flag, const TrainerPosition *from, Trainer **out_trainer);

/* Writes the traced steps to the file of --trace; nothing without it. Collective. */
Status session_write_trace(Session *s);

/* Bytes planned on the device, and bytes the process has really had at its peak since session_reset_peak, beyond those
 * before the executor was made. Pages of files (programs, libraries, mapped data) do not count: they can be dropped. Of
 * a device with memory of its own: what it has had there. */
int64_t session_predicted_bytes(const Session *s);
void session_reset_peak(const Session *s);
int64_t session_real_bytes(const Session *s);

/* The same of every rank, in the session's arena. */
typedef struct
{
    uint32_t n_ranks;
    const double *planned, *real; /* bytes; real NAN: not measured */
} SessionMemory;
/* real_bytes: this rank's; 0: not measured. Collective. */
Status session_gather_memory(Session *s, int64_t real_bytes, SessionMemory *out);

/* The executor's profile as a table on stdout. */
void session_print_profile(Session *s);

#endif
