/* What the plug-in libptc_mpi.so offers: the few calls of MPI that communicators stand on, in a form that does not
 * depend on whose MPI it is. The program never links MPI; it loads the plug-in when a job has several ranks.
 *
 * Calls return 0, or MPI's error code. Only init and finalize may wait for other ranks. Requests stay valid, and their
 * memory must, until test has said done. One thread. */
#ifndef PTC_RUNTIME_COMM_LINK_H
#define PTC_RUNTIME_COMM_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum
{
    COMM_LINK_ABI = 1, /* raised with every change of this file */
    COMM_LINK_ANY = -1,
    COMM_LINK_MAX_BYTES = 1 << 30 /* of one message */
};
#define COMM_LINK_SYMBOL "ptc_comm_link"

/* Large enough for every MPI's request. */
typedef struct
{
    uint64_t bits;
} CommLinkRequest;

typedef struct
{
    uint32_t abi; /* first in every version */
    int (*init)(uint32_t *out_rank, uint32_t *out_size);
    int (*finalize)(void);
    void (*error_text)(int code, char *out_text, size_t n_bytes);
    int (*send)(const void *data, size_t size_bytes, uint32_t to, int tag, CommLinkRequest *out_request);
    /* from may be COMM_LINK_ANY. Receives at most size_bytes. */
    int (*recv)(void *data, size_t size_bytes, int from, int tag, CommLinkRequest *out_request);
    /* all: blocks of size_bytes in rank order. Collective. */
    int (*gather)(const void *mine, size_t size_bytes, void *all, CommLinkRequest *out_request);
    /* out_from and out_size_bytes: of a finished recv; may be NULL. */
    int (*test)(CommLinkRequest *request, bool *out_done, uint32_t *out_from, size_t *out_size_bytes);
    /* Of a recv that nothing was sent for. */
    int (*cancel)(CommLinkRequest *request);
} CommLink;

typedef const CommLink *CommLinkFn(void);

#endif
