/* ptc diagnose: what the ranks of a failed job were doing, from the files that they left. */
#include "base/strbuf.h"
#include "driver/driver.h"
#include "runtime/diagnose.h"

Status cmd_diagnose(Arena *arena, const Options *options)
{
    StrBuf report = strbuf_make(arena);
    TRY(diagnose_folder(arena, options->operand, &report));
    fputs(strbuf_text(&report), stdout);
    return fflush(stdout) == 0 ? STATUS_OK : status_fail(STATUS_IO, "cannot write the report");
}
