/* Reader of IDX files. The bytes come from a mapping or from the caller; gzip is inflated into memory of our own, as
 * are elements of more than one byte (the file is big-endian). */
#include "runtime/idx.h"

#include "runtime/mapped_file.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum
{
    MAX_HEADER_BYTES = 4 + 4 * TENSOR_MAX_RANK,
    MAX_INFLATE_RATIO = 1032 /* of deflate: RFC 1951 cannot do better, so a larger claim is a lie */
};

typedef struct
{
    Elem elem;
    uint32_t rank;
    int64_t dims[TENSOR_MAX_RANK];
    uint64_t size_bytes;   /* of the elements */
    uint32_t header_bytes; /* they start here */
} IdxHeader;

/* bytes: the first n_bytes of the (inflated) file, at least MAX_HEADER_BYTES of them if the file has so many. */
static Status parse_header(const char *name, const uint8_t *bytes, size_t n_bytes, IdxHeader *out_header)
{
    IdxHeader header = {0};
    if (n_bytes < 4)
        return status_fail(STATUS_BAD_INPUT, "%s: not an IDX file: %zu bytes, the header alone has 4", name, n_bytes);
    if (bytes[0] != 0 || bytes[1] != 0)
        return status_fail(STATUS_BAD_INPUT, "%s: not an IDX file: byte 0 and 1 are %02x %02x instead of 00 00", name,
                           bytes[0], bytes[1]);
    if (!elem_by_idx_code(bytes[2], &header.elem))
        return status_fail(STATUS_BAD_INPUT, "%s: not an IDX file: unknown element type 0x%02x at byte 2", name,
                           bytes[2]);
    header.rank = bytes[3];
    if (header.rank < 1 || header.rank > TENSOR_MAX_RANK)
        return status_fail(STATUS_BAD_INPUT, "%s: %u dimensions at byte 3; 1 to %d are supported", name, header.rank,
                           TENSOR_MAX_RANK);
    header.header_bytes = 4 + 4 * header.rank;
    if (n_bytes < header.header_bytes)
        return status_fail(STATUS_BAD_INPUT, "%s: truncated at byte %zu, inside the header of %u bytes", name, n_bytes,
                           header.header_bytes);
    for (uint32_t i = 0; i < header.rank; i++)
    {
        const uint8_t *at = bytes + 4 + 4 * i;
        header.dims[i] = (int64_t)at[0] << 24 | (int64_t)at[1] << 16 | (int64_t)at[2] << 8 | (int64_t)at[3];
        if (header.dims[i] == 0)
            return status_fail(STATUS_BAD_INPUT, "%s: dimension %u (at byte %u) is 0", name, i + 1, 4 + 4 * i);
    }
    if (!elem_tensor_size_bytes(header.elem, header.rank, header.dims, &header.size_bytes))
        return status_fail(STATUS_BAD_INPUT, "%s: the dimensions at byte 4 multiply to more than 2^63 bytes", name);
    *out_header = header;
    return STATUS_OK;
}

static Status out_of_memory(const char *name, uint64_t size_bytes)
{
    return status_fail(STATUS_OUT_OF_MEMORY, "%s: no memory for %" PRIu64 " bytes of data", name, size_bytes);
}

/* ---- gzip */

typedef struct
{
    const char *name;
    z_stream zlib;
    size_t in_left; /* not yet given to zlib */
    const uint8_t *in_next;
    const uint8_t *start;
    uint64_t out_bytes;
    bool at_end; /* of the last member */
} Inflater;

/* Inflates up to n_bytes; less only at the end of the file. */
static Status inflate_some(Inflater *inflater, uint8_t *out, size_t n_bytes, size_t *out_got)
{
    z_stream *zlib = &inflater->zlib;
    size_t got = 0;
    while (got < n_bytes && !inflater->at_end)
    {
        if (zlib->avail_in == 0 && inflater->in_left > 0)
        {
            size_t step = inflater->in_left < UINT_MAX ? inflater->in_left : UINT_MAX;
            zlib->next_in = (Bytef *)(uintptr_t)inflater->in_next; /* zlib does not write there */
            zlib->avail_in = (uInt)step;
            inflater->in_next += step;
            inflater->in_left -= step;
        }
        size_t want = n_bytes - got < UINT_MAX ? n_bytes - got : UINT_MAX;
        zlib->next_out = out + got;
        zlib->avail_out = (uInt)want;
        int result = inflate(zlib, Z_NO_FLUSH);
        size_t produced = want - zlib->avail_out;
        got += produced;
        inflater->out_bytes += produced;
        if (result == Z_STREAM_END)
        {
            if (zlib->avail_in == 0 && inflater->in_left == 0)
                inflater->at_end = true;
            else
                inflateReset(zlib); /* the next member; garbage fails as a bad gzip header */
        }
        else if (result == Z_MEM_ERROR)
            return out_of_memory(inflater->name, n_bytes);
        else if (result == Z_BUF_ERROR && zlib->avail_in == 0 && inflater->in_left == 0)
            return status_fail(STATUS_BAD_INPUT, "%s: truncated gzip file, after %" PRIu64 " inflated bytes",
                               inflater->name, inflater->out_bytes);
        else if (result != Z_OK && result != Z_BUF_ERROR)
            return status_fail(STATUS_BAD_INPUT,
                               "%s: damaged gzip data (%s) near byte %zu, after %" PRIu64 " inflated bytes",
                               inflater->name, zlib->msg ? zlib->msg : "wrong format",
                               (size_t)(zlib->next_in - inflater->start), inflater->out_bytes);
    }
    *out_got = got;
    return STATUS_OK;
}

static Status inflate_array(Inflater *inflater, size_t packed_bytes, IdxHeader *out_header, uint8_t **out_data)
{
    const char *name = inflater->name;
    uint8_t head[MAX_HEADER_BYTES];
    size_t n_head;
    TRY(inflate_some(inflater, head, sizeof head, &n_head));
    TRY(parse_header(name, head, n_head, out_header));
    uint64_t size_bytes = out_header->size_bytes;
    if (size_bytes / MAX_INFLATE_RATIO > packed_bytes)
        return status_fail(STATUS_BAD_INPUT,
                           "%s: truncated: the header promises %" PRIu64
                           " bytes of data, %zu gzip bytes cannot hold them",
                           name, size_bytes, packed_bytes);

    uint8_t *data = malloc(size_bytes);
    if (!data)
        return out_of_memory(name, size_bytes);
    size_t have = n_head - out_header->header_bytes;
    uint64_t excess = have > size_bytes ? have - size_bytes : 0;
    have -= excess;
    memcpy(data, head + out_header->header_bytes, have);
    size_t got = 0;
    Status status = inflate_some(inflater, data + have, size_bytes - have, &got);
    if (status == STATUS_OK && have + got < size_bytes)
        status = status_fail(STATUS_BAD_INPUT,
                             "%s: truncated: the header promises %" PRIu64 " bytes of data from (inflated) byte %u on, "
                             "%zu are there",
                             name, size_bytes, out_header->header_bytes, have + got);
    uint8_t extra;
    size_t n_extra = 0;
    if (status == STATUS_OK)
        status = inflate_some(inflater, &extra, 1, &n_extra);
    if (status == STATUS_OK && (n_extra || excess))
        status = status_fail(STATUS_BAD_INPUT, "%s: bytes after the end of the data, at (inflated) byte %" PRIu64, name,
                             out_header->header_bytes + size_bytes);
    if (status != STATUS_OK)
    {
        free(data);
        return status;
    }
    *out_data = data;
    return STATUS_OK;
}

static Status open_gzip(const char *name, const uint8_t *bytes, size_t n_bytes, IdxHeader *out_header,
                        uint8_t **out_data)
{
    Inflater inflater = {.name = name, .start = bytes, .in_next = bytes, .in_left = n_bytes};
    enum
    {
        WINDOW_BITS = 15,
        GZIP_ONLY = 16
    };
    if (inflateInit2(&inflater.zlib, WINDOW_BITS + GZIP_ONLY) != Z_OK)
        return out_of_memory(name, n_bytes);
    Status status = inflate_array(&inflater, n_bytes, out_header, out_data);
    inflateEnd(&inflater.zlib);
    return status;
}

/* ---- plain */

static Status check_plain_size(const char *name, size_t n_bytes, const IdxHeader *header)
{
    uint64_t have = n_bytes - header->header_bytes;
    if (have < header->size_bytes)
        return status_fail(STATUS_BAD_INPUT,
                           "%s: truncated at byte %zu: the header promises %" PRIu64
                           " bytes of data from byte %u on, %" PRIu64 " are there",
                           name, n_bytes, header->size_bytes, header->header_bytes, have);
    if (have > header->size_bytes)
        return status_fail(STATUS_BAD_INPUT, "%s: %" PRIu64 " bytes after the end of the data, at byte %" PRIu64, name,
                           have - header->size_bytes, header->header_bytes + header->size_bytes);
    return STATUS_OK;
}

/* Reverses the bytes of each element. */
static void swap_elements(uint8_t *dst, const uint8_t *src, uint64_t size_bytes, size_t elem_bytes)
{
    for (uint64_t at = 0; at < size_bytes; at += elem_bytes)
    {
        uint8_t swapped[8];
        for (size_t i = 0; i < elem_bytes; i++)
            swapped[i] = src[at + elem_bytes - 1 - i];
        memcpy(dst + at, swapped, elem_bytes);
    }
}

Status idx_open_memory(const char *name, const void *bytes, size_t n_bytes, IdxArray *out_array)
{
    const uint8_t *input = bytes;
    IdxHeader header;
    uint8_t *owned = NULL;
    const uint8_t *data;
    if (n_bytes >= 2 && input[0] == 0x1f && input[1] == 0x8b)
    {
        TRY(open_gzip(name, input, n_bytes, &header, &owned));
        data = owned;
    }
    else
    {
        TRY(parse_header(name, input, n_bytes, &header));
        TRY(check_plain_size(name, n_bytes, &header));
        data = input + header.header_bytes;
    }
    size_t elem_bytes = elem_size_bytes(header.elem);
    if (elem_bytes > 1)
    {
        if (!owned && !(owned = malloc(header.size_bytes)))
            return out_of_memory(name, header.size_bytes);
        swap_elements(owned, data, header.size_bytes, elem_bytes);
        data = owned;
    }
    *out_array = (IdxArray){
        .elem = header.elem, .rank = header.rank, .size_bytes = header.size_bytes, .data = data, .owned = owned};
    memcpy(out_array->dims, header.dims, sizeof header.dims);
    return STATUS_OK;
}

Status idx_open(const char *path, IdxArray *out_array)
{
    MappedFile file;
    TRY(mapped_file_open(path, &file));
    Status status = idx_open_memory(path, file.data, file.size_bytes, out_array);
    if (status != STATUS_OK || out_array->owned)
    {
        mapped_file_close(&file);
        return status;
    }
    out_array->mapped = file.data;
    out_array->mapped_bytes = file.size_bytes;
    return STATUS_OK;
}

void idx_close(IdxArray *array)
{
    MappedFile file = {.data = array->mapped, .size_bytes = array->mapped_bytes};
    mapped_file_close(&file);
    free(array->owned);
    *array = (IdxArray){0};
}
