/* libnvtx3interop: ranges are only recorded. */
#include "mock.h"

EXPORT int nvtxRangePushA(const char *name)
{
    MOCK("nvtxRangePushA", "%s", name);
    return 0;
}

EXPORT int nvtxRangePop(void)
{
    MOCK("nvtxRangePop", " ");
    return 0;
}
