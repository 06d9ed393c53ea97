/* Loads the plug-in: $PTC_COMM_MPI, or ../lib/ptc/libptc_mpi.so beside the program. It is never unloaded, because MPI
 * libraries do not survive that; and its symbols are global, because Open MPI's own plug-ins look for libmpi's there.
 */
#include "runtime/comm_mpi.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Status plug_in_path(char out_path[PATH_MAX])
{
    const char *named = getenv("PTC_COMM_MPI");
    if (named && *named)
    {
        snprintf(out_path, PATH_MAX, "%s", named);
        return STATUS_OK;
    }
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0)
        return status_fail(STATUS_UNSUPPORTED, "cannot tell where this program is, to find libptc_mpi.so");
    program[n] = 0;
    for (int up = 0; up < 2; up++)
    {
        char *slash = strrchr(program, '/');
        if (slash)
            *slash = 0;
    }
    if (snprintf(out_path, PATH_MAX, "%s/lib/ptc/libptc_mpi.so", program) >= PATH_MAX)
        return status_fail(STATUS_UNSUPPORTED, "the path of libptc_mpi.so is too long");
    return STATUS_OK;
}

Status comm_link_load(const CommLink **out_link)
{
    char path[PATH_MAX];
    TRY(plug_in_path(path));
    if (access(path, R_OK) != 0)
        return status_fail(STATUS_UNSUPPORTED,
                           "several ranks need MPI, and this ptc was built without it: '%s' is not there", path);
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        return status_fail(STATUS_UNSUPPORTED, "several ranks need MPI, which cannot be loaded: %s", dlerror());
    CommLinkFn *link_fn;
    *(void **)&link_fn = dlsym(library, COMM_LINK_SYMBOL);
    if (!link_fn)
        return status_fail(STATUS_UNSUPPORTED, "'%s' is not a plug-in of ptc: it lacks %s", path, COMM_LINK_SYMBOL);
    const CommLink *link = link_fn();
    if (link->abi != COMM_LINK_ABI)
        return status_fail(STATUS_UNSUPPORTED, "'%s' is of another version of ptc (interface %u, not %d)", path,
                           link->abi, COMM_LINK_ABI);
    *out_link = link;
    return STATUS_OK;
}
