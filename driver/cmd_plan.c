/* ptc plan: how a job would be laid out on ranks. */
#include "driver/session.h"

static Status plan(Session *s)
{
    printf("%u ranks: %u stages x %u replicas, %u micro-batches, %s\n", s->ranks.size,
           s->ranks.choice.chosen->plan.n_stages, s->ranks.choice.chosen->plan.n_replicas,
           s->ranks.choice.chosen->plan.n_micro, pipeline_name(s->ranks.choice.chosen->plan.schedule));
    return STATUS_OK;
}

Status cmd_plan(Arena *arena, const Options *options)
{
    Options always = *options;
    always.plan_always = true;
    Session session;
    Status status = session_load(arena, &always, &session);
    if (status == STATUS_OK)
        status = plan(&session);
    return session_close(&session, status);
}
