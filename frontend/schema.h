/* The XML Schema of the model language, generated from elements.def, and the check of a file against it. */
#ifndef PTC_FRONTEND_SCHEMA_H
#define PTC_FRONTEND_SCHEMA_H

#include "frontend/frontend.h"
#include "frontend/source.h"

/* The second net under elements_check: what the grammar refuses is refused, with the line. Run it on files that
 * elements_check has accepted. */
bool schema_check(Arena *arena, Diag *diag, const Source *source);

#endif
