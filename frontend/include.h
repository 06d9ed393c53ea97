/* xi:include: libraries of blocks taken into a model. */
#ifndef PTC_FRONTEND_INCLUDE_H
#define PTC_FRONTEND_INCLUDE_H

#include "frontend/frontend.h"
#include "frontend/xml.h"

/* Replaces every xi:include below root by the declarations of its file. A file is looked for beside the file that
 * names it, then in lib_dir (NULL: none); symbolic links resolved, it must lie under the model's folder or lib_dir. A
 * file taken in twice counts once; a cycle is an error. */
bool include_all(Arena *arena, Diag *diag, XmlElem *root, const char *lib_dir, uint64_t max_bytes);

#endif
