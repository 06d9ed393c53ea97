/* The plug-in: runtime/comm_link.h on top of MPI (3.0 or later). Errors are returned, never fatal. */
#include "runtime/comm_link.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(MPI_Request) <= sizeof(CommLinkRequest), "a request does not fit");

static MPI_Comm link_comm;

#define CHECK(call)                                                                                                    \
    do                                                                                                                 \
    {                                                                                                                  \
        int code_ = (call);                                                                                            \
        if (code_ != MPI_SUCCESS)                                                                                      \
            return code_;                                                                                              \
    } while (0)

static MPI_Request to_mpi(const CommLinkRequest *request)
{
    MPI_Request mpi;
    memcpy(&mpi, request, sizeof mpi);
    return mpi;
}

static void from_mpi(MPI_Request mpi, CommLinkRequest *out_request)
{
    *out_request = (CommLinkRequest){0};
    memcpy(out_request, &mpi, sizeof mpi);
}

static int link_init(uint32_t *out_rank, uint32_t *out_size)
{
    int is_initialized, provided, rank, size;
    CHECK(MPI_Initialized(&is_initialized));
    if (!is_initialized)
        CHECK(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
    CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &link_comm));
    CHECK(MPI_Comm_set_errhandler(link_comm, MPI_ERRORS_RETURN));
    CHECK(MPI_Comm_rank(link_comm, &rank));
    CHECK(MPI_Comm_size(link_comm, &size));
    *out_rank = (uint32_t)rank;
    *out_size = (uint32_t)size;
    return MPI_SUCCESS;
}

static int link_finalize(void)
{
    CHECK(MPI_Comm_free(&link_comm));
    return MPI_Finalize();
}

static void link_error_text(int code, char *out_text, size_t n_bytes)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS)
        snprintf(text, sizeof text, "MPI error %d", code);
    snprintf(out_text, n_bytes, "%s", text);
}

static int link_send(const void *data, size_t size_bytes, uint32_t to, int tag, CommLinkRequest *out_request)
{
    MPI_Request request;
    CHECK(MPI_Isend(data, (int)size_bytes, MPI_BYTE, (int)to, tag, link_comm, &request));
    from_mpi(request, out_request);
    return MPI_SUCCESS;
}

static int link_recv(void *data, size_t size_bytes, int from, int tag, CommLinkRequest *out_request)
{
    MPI_Request request;
    CHECK(MPI_Irecv(data, (int)size_bytes, MPI_BYTE, from == COMM_LINK_ANY ? MPI_ANY_SOURCE : from, tag, link_comm,
                    &request));
    from_mpi(request, out_request);
    return MPI_SUCCESS;
}

static int link_gather(const void *mine, size_t size_bytes, void *all, CommLinkRequest *out_request)
{
    MPI_Request request;
    CHECK(MPI_Iallgather(mine, (int)size_bytes, MPI_BYTE, all, (int)size_bytes, MPI_BYTE, link_comm, &request));
    from_mpi(request, out_request);
    return MPI_SUCCESS;
}

static int link_test(CommLinkRequest *request, bool *out_done, uint32_t *out_from, size_t *out_size_bytes)
{
    MPI_Request mpi = to_mpi(request);
    MPI_Status status;
    int done = 0, n_bytes = 0;
    CHECK(MPI_Test(&mpi, &done, &status));
    from_mpi(mpi, request);
    *out_done = done;
    if (done && out_from)
        *out_from = (uint32_t)status.MPI_SOURCE;
    if (done && out_size_bytes)
    {
        CHECK(MPI_Get_count(&status, MPI_BYTE, &n_bytes));
        *out_size_bytes = (size_t)n_bytes;
    }
    return MPI_SUCCESS;
}

static int link_cancel(CommLinkRequest *request)
{
    MPI_Request mpi = to_mpi(request);
    CHECK(MPI_Cancel(&mpi));
    CHECK(MPI_Wait(&mpi, MPI_STATUS_IGNORE));
    from_mpi(mpi, request);
    return MPI_SUCCESS;
}

__attribute__((visibility("default"))) const CommLink *ptc_comm_link(void);

const CommLink *ptc_comm_link(void)
{
    static const CommLink link = {.abi = COMM_LINK_ABI,
                                  .init = link_init,
                                  .finalize = link_finalize,
                                  .error_text = link_error_text,
                                  .send = link_send,
                                  .recv = link_recv,
                                  .gather = link_gather,
                                  .test = link_test,
                                  .cancel = link_cancel};
    return &link;
}
