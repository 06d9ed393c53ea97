/* <cluster>: the layout that a model wishes for, and the machines of a described cluster, in a file of its own too. */
#include "frontend/expand.h"

#include "frontend/schema.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MAX_STAGES = 64,
    MAX_NODES = 65536,
    MAX_DEVICES = 1024,
    MAX_FILE_BYTES = 1 << 20
};

/* "4 8": the first units of the stages after the first. */
static bool read_cuts(Expander *x, const XmlElem *e, ClusterSpec *cluster)
{
    const char *text = NULL;
    if (!attr_text(x, e, "cuts", &text))
        return false;
    int64_t *cuts = ARENA_ARRAY(x->arena, int64_t, MAX_STAGES);
    uint32_t n = 0;
    for (const char *at = text ? text : ""; *at;)
    {
        char *end;
        long long unit = strtoll(at, &end, 10);
        bool ok = end != at && (!*end || *end == ' ') && n + 1 < MAX_STAGES && unit > (n ? cuts[n - 1] : 1);
        if (!ok)
        {
            expand_error(x, attr_or_elem_span(e, "cuts"), NULL,
                         "cuts is '%s': expected the first unit of every stage but the first, ascending, as in '4 8'",
                         text);
            return false;
        }
        cuts[n++] = unit;
        at = end + strspn(end, " ");
    }
    cluster->cuts = cuts;
    cluster->n_cuts = n;
    return true;
}

static bool read_machines(Expander *x, const XmlElem *e, ClusterSpec *c)
{
    bool ok = attr_int(x, e, "nodes", 0, MAX_NODES, &c->nodes);
    ok = attr_int(x, e, "devices", 1, MAX_DEVICES, &c->devices) && ok;
    ok = attr_float(x, e, "memory", 0, 1e6, &c->memory_gib) && ok;
    ok = attr_float(x, e, "flops", 1e-3, 1e9, &c->tflops) && ok;
    ok = attr_float(x, e, "memory_rate", 1e-3, 1e9, &c->memory_gb_s) && ok;
    ok = attr_float(x, e, "op", 0, 1e6, &c->op_us) && ok;
    ok = attr_float(x, e, "link", 1e-3, 1e9, &c->link_gb_s) && ok;
    ok = attr_float(x, e, "host_link", 1e-3, 1e9, &c->host_link_gb_s) && ok;
    ok = attr_float(x, e, "node_link", 1e-3, 1e9, &c->node_link_gb_s) && ok;
    ok = attr_float(x, e, "host_memory", 0, 1e9, &c->host_gib) && ok;
    return attr_float(x, e, "switch", 0, 1e6, &c->switch_s) && ok;
}

void job_cluster(Expander *x, const XmlElem *root)
{
    const XmlElem *e = job_sole_child(x, root, EL_cluster);
    ClusterSpec *c = &x->job->cluster;
    *c = (ClusterSpec){.schedule = "auto"};
    if (!e)
        return;
    const char *planner = "time";
    c->span = xml_elem_span(e);
    bool ok = attr_int(x, e, "stages", 0, MAX_STAGES, &c->stages);
    ok = attr_int(x, e, "replicas", 0, 4096, &c->replicas) && ok;
    ok = attr_int(x, e, "micro_batches", 0, 4096, &c->micro_batches) && ok;
    ok = attr_text(x, e, "schedule", &c->schedule) && ok;
    ok = attr_text(x, e, "planner", &planner) && ok;
    ok = attr_bool(x, e, "deterministic", &c->deterministic) && ok;
    ok = read_machines(x, e, c) && ok;
    ok = read_cuts(x, e, c) && ok;
    c->paper = strcmp(planner, "paper") == 0;
    if (ok && c->n_cuts && c->stages && c->stages != c->n_cuts + 1)
        expand_error(x, attr_or_elem_span(e, "cuts"), NULL, "%u cuts make %u stages, not %lld", c->n_cuts,
                     c->n_cuts + 1, (long long)c->stages);
}

void expand_cluster(Expander *x, const XmlElem *e)
{
    (void)x, (void)e; /* job_cluster has read it */
}

Status frontend_load_cluster(Arena *arena, Diag *diag, const char *path, ClusterSpec *cluster)
{
    static const char *const wishes[] = {"stages",  "replicas", "micro_batches", "schedule",
                                         "planner", "cuts",     "deterministic"};
    const uint32_t errors = diag_error_count(diag);
    const Source *source = source_read(arena, diag, (Span){0}, path, MAX_FILE_BYTES);
    XmlElem *root = source ? xml_parse(arena, diag, source) : NULL;
    if (!root || !elements_check(arena, diag, root, EL_cluster) || !schema_check(arena, diag, source))
        return STATUS_BAD_INPUT;
    Expander *x = ARENA_NEW(arena, Expander);
    x->arena = arena;
    x->diag = diag;
    x->root = x->frame = frame_open(x, NULL, false, "", "");
    cluster->span = xml_elem_span(root);
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
        if (xml_attr(root, wishes[i]))
            expand_error(x, xml_attr_name_span(xml_attr(root, wishes[i])), NULL,
                         "'%s' is for the <cluster> of a model: a file of its own describes machines", wishes[i]);
    read_machines(x, root, cluster);
    if (diag_error_count(diag) == errors && !cluster->nodes)
        expand_error(x, cluster->span, NULL, "a described cluster wants nodes=");
    return diag_error_count(diag) == errors ? STATUS_OK : STATUS_BAD_INPUT;
}
