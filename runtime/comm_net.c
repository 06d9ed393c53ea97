/* Messages over MPI, between hosts. A message is a header, with the bytes behind it when they are few, and otherwise
 * the bytes as messages of their own, in the order of the headers. So one MPI tag serves all headers and another all
 * bytes, however many tags and communicators there are.
 *
 * The receiver sees the header whenever it makes progress, and asks for the bytes at once: straight into the memory of
 * a receive that already waits, else into a buffer. It says when it has taken a message, which is what the sender
 * counts in flight. */
#include "runtime/comm_mpi.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum
{
    TAG_HEADER = 1,
    TAG_BYTES = 2,
    PACKET_BYTES = 4096,
    N_POSTED = 16, /* receives for headers, in order */
    N_SIZE_CLASSES = 64
};

typedef enum
{
    PACKET_MESSAGE,
    PACKET_TAKEN,
    PACKET_FAILED, /* a CommOrigin */
    PACKET_BYE,    /* nothing comes after it */
    PACKET_WHOM,   /* whom do you wait for? */
    PACKET_WHOM_ANSWER
} PacketKind;

typedef struct
{
    uint32_t kind, comm_id, tag, bucket;
    uint64_t size_bytes;
} Header;

enum
{
    INLINE_BYTES = PACKET_BYTES - sizeof(Header)
};

typedef struct
{
    Header header;
    uint8_t bytes[INLINE_BYTES];
} Packet;

_Static_assert(sizeof(CommOrigin) <= INLINE_BYTES, "a failure does not fit into a packet");

/* Reused, by powers of two. */
typedef struct Buffer
{
    struct Buffer *next;
    uint32_t size_class;
    _Alignas(64) uint8_t bytes[];
} Buffer;

/* A message on its way, in either direction. */
typedef struct Transfer
{
    struct Transfer *next;
    Packet packet;     /* sent */
    Buffer *buffer;    /* of the bytes, or NULL */
    uint8_t *bytes;    /* received to, in parts */
    size_t size_bytes; /* that do not come with the header */
    CommLinkRequest *requests;
    uint32_t n_requests, n_finished, cap_requests;
} Transfer;

struct CommNet
{
    Packet posted[N_POSTED];
    CommLinkRequest requests[N_POSTED];
    uint32_t next_posted;
    uint32_t n_byes;
    uint32_t answer_from, answer; /* to the last question */
    Transfer *sends, *receives;   /* under way */
    Transfer *free_transfers;
    Buffer *free_buffers[N_SIZE_CLASSES];
    CommChannel *direct; /* where a receive waits for a message that has not come */
    void *direct_data;
    size_t direct_bytes;
};

static Status check(const CommMpi *mpi, int code, const char *what)
{
    if (code == 0)
        return STATUS_OK;
    char text[512], me[128];
    mpi->link->error_text(code, text, sizeof text);
    return status_fail(STATUS_PEER_LOST, "%s: MPI cannot %s: %s", comm_mpi_rank_text(mpi, mpi->world->rank, me), what,
                       text);
}

/* ---- memory */

static Status get_buffer(CommNet *net, size_t size_bytes, Buffer **out_buffer)
{
    uint32_t size_class = size_bytes > 1 ? 64 - (uint32_t)__builtin_clzll(size_bytes - 1) : 0;
    Buffer *buffer = net->free_buffers[size_class];
    if (buffer)
        net->free_buffers[size_class] = buffer->next;
    else if (posix_memalign((void **)&buffer, 64, sizeof *buffer + ((size_t)1 << size_class)) != 0)
        return status_fail(STATUS_OUT_OF_MEMORY, "no memory for a message of %zu bytes", size_bytes);
    buffer->size_class = size_class;
    *out_buffer = buffer;
    return STATUS_OK;
}

static Transfer *get_transfer(CommNet *net)
{
    Transfer *transfer = net->free_transfers;
    if (transfer)
        net->free_transfers = transfer->next;
    else
        transfer = comm_alloc(sizeof *transfer);
    transfer->next = NULL;
    transfer->buffer = NULL;
    transfer->bytes = NULL;
    transfer->size_bytes = 0;
    transfer->n_requests = transfer->n_finished = 0;
    return transfer;
}

static void put_transfer(CommNet *net, Transfer *transfer)
{
    if (transfer->buffer)
    {
        transfer->buffer->next = net->free_buffers[transfer->buffer->size_class];
        net->free_buffers[transfer->buffer->size_class] = transfer->buffer;
        transfer->buffer = NULL;
    }
    transfer->next = net->free_transfers;
    net->free_transfers = transfer;
}

static CommLinkRequest *add_request(Transfer *transfer)
{
    if (transfer->n_requests == transfer->cap_requests)
    {
        uint32_t cap = transfer->cap_requests ? 2 * transfer->cap_requests : 4;
        CommLinkRequest *requests = comm_alloc(cap * sizeof *requests);
        if (transfer->n_requests > 0)
            memcpy(requests, transfer->requests, transfer->n_requests * sizeof *requests);
        free(transfer->requests);
        transfer->requests = requests;
        transfer->cap_requests = cap;
    }
    return &transfer->requests[transfer->n_requests++];
}

static void append(Transfer **list, Transfer *transfer)
{
    while (*list)
        list = &(*list)->next;
    *list = transfer;
}

/* ---- sending */

static Status post(CommMpi *mpi, PacketKind kind, uint32_t comm_id, uint32_t to, uint32_t tag, uint32_t bucket,
                   const void *data, size_t size_bytes)
{
    CommNet *net = mpi->net;
    Transfer *send = get_transfer(net);
    send->packet.header = (Header){kind, comm_id, tag, bucket, size_bytes};
    bool is_inline = size_bytes <= INLINE_BYTES;
    if (is_inline && size_bytes > 0)
        memcpy(send->packet.bytes, data, size_bytes);
    append(&net->sends, send);
    TRY(check(mpi,
              mpi->link->send(&send->packet, sizeof send->packet.header + (is_inline ? size_bytes : 0), to, TAG_HEADER,
                              add_request(send)),
              "send"));
    if (is_inline)
        return STATUS_OK;
    TRY(get_buffer(net, size_bytes, &send->buffer));
    memcpy(send->buffer->bytes, data, size_bytes);
    for (size_t at = 0; at < size_bytes; at += COMM_LINK_MAX_BYTES)
    {
        size_t n = size_bytes - at < COMM_LINK_MAX_BYTES ? size_bytes - at : COMM_LINK_MAX_BYTES;
        TRY(check(mpi, mpi->link->send(send->buffer->bytes + at, n, to, TAG_BYTES, add_request(send)), "send"));
    }
    return STATUS_OK;
}

Status comm_net_post(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, uint32_t bucket, const void *data,
                     size_t size_bytes)
{
    return post(mpi, PACKET_MESSAGE, comm_id, to, tag, bucket, data, size_bytes);
}

static Status channel_has_space(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const CommChannel *channel = context;
    *out_peer = channel->peer;
    *out_done = channel->n_in_flight < COMM_MAX_IN_FLIGHT;
    return STATUS_OK;
}

Status comm_net_send(CommMpi *mpi, uint32_t comm_id, uint32_t to, uint32_t tag, const void *data, size_t size_bytes)
{
    CommChannel *channel = comm_channel(mpi->world, comm_id, to, tag, true);
    TRY(comm_mpi_wait(mpi, channel_has_space, channel));
    channel->n_in_flight++;
    return post(mpi, PACKET_MESSAGE, comm_id, to, tag, 0, data, size_bytes);
}

/* ---- receiving */

/* A message whose header has come: finds memory for its bytes and asks for them. */
static Status message_came(CommMpi *mpi, uint32_t from, const Packet *packet)
{
    CommNet *net = mpi->net;
    const Header *header = &packet->header;
    CommChannel *channel = comm_channel(mpi->world, header->comm_id, from, header->tag, false);
    bool is_direct = net->direct == channel && !channel->first && net->direct_bytes == header->size_bytes;
    bool is_inline = header->size_bytes <= INLINE_BYTES;
    Transfer *receive = get_transfer(net);
    CommArrival *arrival = comm_channel_append(mpi->world, channel);
    arrival->bucket = header->bucket;
    arrival->size_bytes = header->size_bytes;
    arrival->source = receive;
    arrival->is_message = true;
    if (!is_direct)
        TRY(get_buffer(net, header->size_bytes, &receive->buffer));
    receive->bytes = is_direct ? net->direct_data : receive->buffer->bytes;
    arrival->data = receive->bytes;
    if (is_inline)
    {
        if (header->size_bytes > 0)
            memcpy(receive->bytes, packet->bytes, header->size_bytes);
        return STATUS_OK;
    }
    append(&net->receives, receive);
    for (size_t at = 0; at < header->size_bytes; at += COMM_LINK_MAX_BYTES)
    {
        size_t left = header->size_bytes - at;
        TRY(check(mpi,
                  mpi->link->recv(receive->bytes + at, left < COMM_LINK_MAX_BYTES ? left : COMM_LINK_MAX_BYTES,
                                  (int)from, TAG_BYTES, add_request(receive)),
                  "receive"));
    }
    return STATUS_OK;
}

static Status packet_came(CommMpi *mpi, uint32_t from, const Packet *packet)
{
    const Header *header = &packet->header;
    switch (header->kind)
    {
    case PACKET_MESSAGE:
        return message_came(mpi, from, packet);
    case PACKET_TAKEN:
        comm_channel(mpi->world, header->comm_id, from, header->tag, true)->n_in_flight--;
        return STATUS_OK;
    case PACKET_FAILED:
        if (mpi->told.rank == COMM_NO_RANK)
            memcpy(&mpi->told, packet->bytes, sizeof mpi->told);
        return STATUS_OK;
    case PACKET_BYE:
        mpi->net->n_byes++;
        return STATUS_OK;
    case PACKET_WHOM:
        return post(mpi, PACKET_WHOM_ANSWER, 0, from, 0, mpi->waits_for, NULL, 0);
    case PACKET_WHOM_ANSWER:
        mpi->net->answer_from = from;
        mpi->net->answer = header->bucket;
        return STATUS_OK;
    default:
        return status_fail(STATUS_IO, "rank %u sent a message that is none of ptc's", from);
    }
}

static Status post_receive(CommMpi *mpi, uint32_t i)
{
    CommNet *net = mpi->net;
    return check(mpi,
                 mpi->link->recv(&net->posted[i], sizeof net->posted[i], COMM_LINK_ANY, TAG_HEADER, &net->requests[i]),
                 "receive");
}

/* Finishes what can be finished on a list; frees only what was sent, as arrivals refer to what was received. */
static Status test_transfers(CommMpi *mpi, Transfer **list, bool is_send)
{
    while (*list)
    {
        Transfer *transfer = *list;
        bool done = true;
        while (transfer->n_finished < transfer->n_requests)
        {
            CommLinkRequest *request = &transfer->requests[transfer->n_finished];
            TRY(check(mpi, mpi->link->test(request, &done, NULL, NULL), "send or receive"));
            if (!done)
                break;
            transfer->n_finished++;
        }
        if (!done)
        {
            list = &transfer->next;
            continue;
        }
        *list = transfer->next;
        transfer->next = NULL;
        if (is_send)
            put_transfer(mpi->net, transfer);
    }
    return STATUS_OK;
}

Status comm_net_progress(CommMpi *mpi)
{
    CommNet *net = mpi->net;
    for (;;)
    {
        uint32_t i = net->next_posted, from;
        bool done;
        TRY(check(mpi, mpi->link->test(&net->requests[i], &done, &from, NULL), "receive"));
        if (!done)
            break;
        TRY(packet_came(mpi, from, &net->posted[i]));
        TRY(post_receive(mpi, i));
        net->next_posted = (i + 1) % N_POSTED;
    }
    TRY(test_transfers(mpi, &net->receives, false));
    return test_transfers(mpi, &net->sends, true);
}

bool comm_net_arrived(const CommArrival *arrival)
{
    const Transfer *receive = arrival->source;
    return receive->n_finished == receive->n_requests;
}

void comm_net_take(CommMpi *mpi, CommChannel *channel)
{
    put_transfer(mpi->net, channel->first->source);
    comm_channel_pop(mpi->world, channel);
}

static Status message_is_here(CommMpi *mpi, void *context, bool *out_done, uint32_t *out_peer)
{
    (void)mpi;
    const CommChannel *channel = context;
    *out_peer = channel->peer;
    *out_done = channel->first && comm_net_arrived(channel->first);
    return STATUS_OK;
}

Status comm_net_recv(CommMpi *mpi, CommChannel *channel, void *data, size_t size_bytes)
{
    CommNet *net = mpi->net;
    net->direct = channel;
    net->direct_data = data;
    net->direct_bytes = size_bytes;
    Status status = comm_mpi_wait(mpi, message_is_here, channel);
    net->direct = NULL;
    TRY(status);
    const CommArrival *arrival = channel->first;
    if (arrival->size_bytes != size_bytes)
        return comm_mpi_mismatch(mpi, channel->peer, arrival->size_bytes, size_bytes);
    if (arrival->data != data && size_bytes > 0)
        memcpy(data, arrival->data, size_bytes);
    comm_net_take(mpi, channel);
    return post(mpi, PACKET_TAKEN, channel->comm_id, channel->peer, channel->tag, 0, NULL, 0);
}

/* ---- start and end */

Status comm_net_create(CommMpi *mpi)
{
    mpi->net = comm_alloc(sizeof *mpi->net);
    for (uint32_t i = 0; i < N_POSTED; i++)
        TRY(post_receive(mpi, i));
    return STATUS_OK;
}

/* Gets rid of what was sent last, for a limited time: others may not take it. */
static void flush(CommMpi *mpi, double seconds)
{
    double end_s = comm_now_s() + seconds;
    while (mpi->net->sends && comm_now_s() < end_s && test_transfers(mpi, &mpi->net->sends, true) == STATUS_OK)
        continue;
}

void comm_net_tell_failure(CommMpi *mpi)
{
    const CommWorld *world = mpi->world;
    for (uint32_t r = 0; r < world->size; r++)
        if (!mpi->peers[r].is_shared && r != world->rank && r != world->origin.rank &&
            post(mpi, PACKET_FAILED, 0, r, 0, 0, &world->origin, sizeof world->origin) != STATUS_OK)
            break;
    flush(mpi, 0.2);
}

bool comm_net_waits_for(CommMpi *mpi, uint32_t rank, uint32_t *out_rank)
{
    CommNet *net = mpi->net;
    double end_s = comm_now_s() + 0.3;
    net->answer_from = COMM_NO_RANK;
    if (post(mpi, PACKET_WHOM, 0, rank, 0, 0, NULL, 0) != STATUS_OK)
        return false;
    while (comm_now_s() < end_s && mpi->told.rank == COMM_NO_RANK && comm_net_progress(mpi) == STATUS_OK)
    {
        if (net->answer_from == rank)
        {
            *out_rank = net->answer;
            return true;
        }
        sched_yield();
    }
    return false;
}

static void free_transfers(Transfer *list)
{
    for (Transfer *next; list; list = next)
    {
        next = list->next;
        free(list->requests);
        free(list);
    }
}

/* MPI is not left with messages that nobody received: each rank says to each that it has sent its last. */
static void say_bye(CommMpi *mpi, double seconds)
{
    double end_s = comm_now_s() + seconds;
    uint32_t n_peers = mpi->world->size - mpi->n_shared;
    for (uint32_t r = 0; r < mpi->world->size; r++)
        if (!mpi->peers[r].is_shared && post(mpi, PACKET_BYE, 0, r, 0, 0, NULL, 0) != STATUS_OK)
            return;
    while ((mpi->net->n_byes < n_peers || mpi->net->sends) && comm_now_s() < end_s)
    {
        if (comm_net_progress(mpi) != STATUS_OK)
            return;
        sched_yield();
    }
}

/* After a failure MPI may still write to memory that it was given: then that memory is left to it. */
void comm_net_destroy(CommMpi *mpi)
{
    CommNet *net = mpi->net;
    if (!net || mpi->world->failed)
        return;
    say_bye(mpi, 10);
    for (uint32_t i = 0; i < N_POSTED; i++)
        mpi->link->cancel(&net->requests[i]);
    for (uint32_t i = 0; i < COMM_CHANNEL_LISTS; i++)
        for (CommChannel *channel = mpi->world->channels[i]; channel; channel = channel->next)
            while (channel->first && channel->first->is_message)
                comm_net_take(mpi, channel); /* nobody wanted it */
    free_transfers(net->free_transfers);
    for (uint32_t i = 0; i < N_SIZE_CLASSES; i++)
        for (Buffer *buffer = net->free_buffers[i], *next; buffer; buffer = next)
        {
            next = buffer->next;
            free(buffer);
        }
    free(net);
    mpi->net = NULL;
}
