/* Where the outputs of frozen layers are kept, and what they are outputs of. */
#include "base/bug.h"
#include "driver/elastic.h"
#include "driver/session.h"
#include "ir/text.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum
{
    MOST_WINDOW_BYTES = 64 << 20,
    WINDOW_SHARE = 16 /* of the memory, at most, for one rank's rows read ahead */
};

/* ---- the key: rows of an earlier run are the same when this is */

typedef struct
{
    char text[256];
} Key;

/* The program as the model has it, whatever the layout; its first line has attributes of this moment. */
static Status digest_program(Session *s, uint64_t *out_digest)
{
    Job *job;
    StrBuf text = strbuf_make(s->arena);
    TRY(session_load_length(s, 1, 0, diag_create(s->arena), &job));
    const IrFunc train = ir_func_find(job->module, "train");
    const char *precision = ir_attrs_str(&ir_func(job->module, train)->attrs, IR_ATTR_precision);
    ir_print_func(&text, job->module, train);
    const char *body = strchr(strbuf_text(&text), '\n');
    ENSURE(body);
    *out_digest = XXH3_64bits_withSeed(body, strlen(body), precision ? XXH3_64bits(precision, strlen(precision)) : 0);
    return STATUS_OK;
}

static bool prefix_gets(const IrModule *m, const char *global)
{
    IR_FOR_OPS(m, ir_func_find(m, "prefix"), op)
    {
        const IrOpData *data = ir_op(m, op);
        if (data->code == IR_get && strcmp(ir_attrs_str(&data->attrs, IR_ATTR_global), global) == 0)
            return true;
    }
    return false;
}

/* A param also by way of its copy. */
static bool prefix_reads(const IrModule *m, const char *global)
{
    bool reads = prefix_gets(m, global);
    for (IrGlobal g = 1; g < m->globals.len && !reads; g++)
    {
        const IrGlobalData *copy = ir_global(m, g);
        const char *of = ir_attrs_str(&copy->attrs, IR_ATTR_of), *within = ir_attrs_str(&copy->attrs, IR_ATTR_within);
        reads = copy->kind == IR_GLOBAL_COPY && of && strcmp(of, global) == 0 &&
                prefix_gets(m, within ? within : copy->name);
    }
    return reads;
}

/* Of all that @prefix reads and that training could have changed; the order of globals does not matter. */
static Status digest_weights(const Session *s, uint64_t *out_digest)
{
    *out_digest = 0;
    for (IrGlobal g = 1; g < s->m->globals.len; g++)
    {
        const IrGlobalData *global = ir_global(s->m, g);
        const bool is_kept = global->kind == IR_GLOBAL_PARAM || global->kind == IR_GLOBAL_STATE;
        if (!is_kept || !prefix_reads(s->m, global->name))
            continue;
        const size_t size_bytes = (size_t)ir_type_size_bytes(&global->type);
        void *values = malloc(size_bytes);
        if (!values)
            base_out_of_memory(size_bytes);
        const Status status = executor_read_global(s->executor, global->name, values);
        *out_digest += XXH3_64bits_withSeed(values, size_bytes, XXH3_64bits(global->name, strlen(global->name)));
        free(values);
        TRY(status);
    }
    return STATUS_OK;
}

/* Of all fields: what else is in the file of one that the prefix reads costs little to read. */
static Status digest_inputs(Session *s)
{
    uint64_t digest = 1;
    for (int test = 0; test < 2 && !s->elastic.inputs; test++)
    {
        const Dataset *dataset = test ? s->test : s->train;
        for (uint32_t i = 0; dataset && i < dataset_n_fields(dataset); i++)
        {
            uint64_t of_field;
            TRY(dataset_digest(dataset, i, &of_field));
            digest = XXH3_64bits_withSeed(&of_field, sizeof of_field, digest);
        }
    }
    s->elastic.inputs = s->elastic.inputs ? s->elastic.inputs : digest;
    return STATUS_OK;
}

/* The arithmetic of a row may depend on how many are made together; only deterministic runs ask for the same bits. */
static Status make_key(Session *s, Key *out_key)
{
    uint64_t program, weights;
    TRY(digest_program(s, &program));
    TRY(digest_weights(s, &weights));
    TRY(digest_inputs(s));
    snprintf(out_key->text, sizeof out_key->text,
             "ptc %s, %s; units 1-%u of %016llx, rows %lld; weights %016llx; inputs %016llx", PTC_VERSION,
             s->options->device, elastic_frozen_unit(s), (unsigned long long)program,
             s->ranks.request.deterministic ? (long long)s->job->train.rows : 0LL, (unsigned long long)weights,
             (unsigned long long)s->elastic.inputs);
    return STATUS_OK;
}

/* Rank 0 is in a first stage, so it has the prefix. Nothing is kept beyond this process without a disk level. */
static Status agree_on_key(Session *s, bool disk, Key *out_key)
{
    Comm *world = s->ranks.comm.world;
    Status status = STATUS_OK;
    *out_key = (Key){0};
    if (!disk)
        snprintf(out_key->text, sizeof out_key->text, "units 1-%u", elastic_frozen_unit(s));
    else if (!world || comm_rank(world) == 0)
        status = make_key(s, out_key);
    if (disk && world)
        TRY(comm_broadcast(world, 0, out_key, sizeof *out_key));
    TRY(status);
    return *out_key->text ? STATUS_OK : status_fail(STATUS_IO, "rank 0 cannot say what the cache is of");
}

/* ---- options */

static const double gib = 1073741824.0;

static void warn(void *context, const char *sentence)
{
    (void)context;
    fprintf(stderr, "ptc: warning: %s\n", sentence);
}

uint64_t elastic_cache_memory(const CacheSpec *spec)
{
    const uint64_t host_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return spec->memory_gib > 0 ? (uint64_t)(spec->memory_gib * gib) : host_bytes / 4;
}

static FeatureCacheOptions options_of(const Session *s)
{
    const CacheSpec *spec = &s->job->cache;
    const bool disk = spec->disk_gib > 0 && s->options->out_dir;
    const uint64_t memory_bytes = elastic_cache_memory(spec);
    const uint64_t share = memory_bytes / WINDOW_SHARE;
    const uint64_t window_bytes = share < MOST_WINDOW_BYTES ? share : MOST_WINDOW_BYTES;
    return (FeatureCacheOptions){.n_samples = {dataset_n_samples(s->train), s->test ? dataset_n_samples(s->test) : 0},
                                 .precision = spec->bf16 ? FEATURE_BF16 : FEATURE_F32,
                                 .memory_bytes = memory_bytes,
                                 .disk_bytes = disk ? (uint64_t)(spec->disk_gib * gib) : 0,
                                 .folder = disk ? arena_printf(s->arena, "%s/cache", s->options->out_dir) : NULL,
                                 .window_bytes = disk ? window_bytes : 0,
                                 .warn = warn};
}

/* A store for each length. Collective: only first stages know how long rows are. */
static Status make_specs(Session *s, const Key *key, FeatureStoreSpec *specs, uint32_t n)
{
    double *elems = ARENA_ARRAY(s->arena, double, n);
    for (uint32_t i = 0; i < n; i++)
        elems[i] = (double)trainer_border_elems(variants_module(s, i));
    if (s->ranks.comm.world)
        TRY(comm_all_reduce_f64(s->ranks.comm.world, elems, n, COMM_MAX));
    for (uint32_t i = 0; i < n; i++)
        specs[i] =
            (FeatureStoreSpec){.key = n > 1 ? arena_printf(s->arena, "%s; %s %lld", key->text, s->job->data.bucket_dim,
                                                           (long long)s->job->data.buckets[i])
                                            : key->text,
                               .row_elems = (uint64_t)elems[i]};
    return STATUS_OK;
}

/* ---- opening */

/* What the first rank of a host tells the others of the host. */
typedef struct
{
    char host[64];
    char addresses[][FEATURE_CACHE_ADDRESS_BYTES];
} Meeting;

static Status open_shared(Session *s, const FeatureCacheOptions *options, const FeatureStoreSpec *specs, uint32_t n)
{
    Comm *world = s->ranks.comm.world;
    Elastic *e = &s->elastic;
    const size_t bytes = sizeof(Meeting) + n * FEATURE_CACHE_ADDRESS_BYTES;
    Meeting *mine = arena_alloc(s->arena, bytes), *all = arena_alloc(s->arena, bytes * comm_size(world));
    Status status = STATUS_OK;
    memset(mine, 0, bytes);
    snprintf(mine->host, sizeof mine->host, "%s", comm_host(world, comm_rank(world)));
    if (comm_local_rank(world) == 0)
        status = feature_stores_create(options, specs, n, e->cache_before, &e->cache);
    if (comm_local_rank(world) == 0 && status == STATUS_OK)
        feature_stores_addresses(e->cache, mine->addresses);
    TRY(comm_all_gather(world, mine, bytes, all));
    TRY(status);
    if (comm_local_rank(world) == 0)
        return STATUS_OK;
    for (uint32_t r = 0; r < comm_size(world); r++)
    {
        Meeting *other = (Meeting *)((char *)all + r * bytes);
        if (strcmp(other->host, mine->host) == 0 && *other->addresses[0])
            return feature_stores_join(options, specs, n, other->addresses, &e->cache);
    }
    return status_fail(STATUS_IO, "no rank of host %s has opened the cache", mine->host);
}

Status elastic_open_cache(Session *s, Trainer *trainer)
{
    Elastic *e = &s->elastic;
    Key key;
    if (!e->cached)
        return STATUS_OK;
    const FeatureCacheOptions options = options_of(s);
    const uint32_t n = s->variants.n_shorter + 1;
    FeatureStoreSpec *specs = ARENA_ARRAY(s->arena, FeatureStoreSpec, n);
    TRY(agree_on_key(s, options.folder != NULL, &key));
    TRY(make_specs(s, &key, specs, n));
    if (s->ranks.comm.world)
        TRY(open_shared(s, &options, specs, n));
    else
        TRY(feature_stores_create(&options, specs, n, e->cache_before, &e->cache));
    e->cached_unit = elastic_frozen_unit(s);
    return trainer_set_cache(trainer, e->cache, e->cache_before);
}

/* ---- closing */

void elastic_remove_cache(Session *s)
{
    Elastic *e = &s->elastic;
    feature_stores_remove(e->cache_before);
    feature_stores_remove(e->cache);
    e->cache = e->cache_before = NULL;
}

void elastic_close(Session *s)
{
    Elastic *e = &s->elastic;
    if (e->is_over)
        elastic_remove_cache(s);
    feature_stores_remove(e->cache_before);
    feature_stores_close(e->cache);
    e->cache = e->cache_before = NULL;
}
