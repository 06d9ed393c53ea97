/* The file that the ranks of a communicator share: $TMPDIR/ptc-mock-nccl-KEY. Whoever leaves
 * removes its name: all have come then. */
#include "mock_nccl.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static void path_of(const struct ncclComm *comm, char path[512])
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, 512, "%.300s/ptc-mock-nccl-%.127s", folder && *folder ? folder : "/tmp", comm->key);
}

int nccl_map(struct ncclComm *comm)
{
    char path[512];
    path_of(comm, path);
    const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return 0;
    void *memory = ftruncate(file, sizeof(Shared)) == 0
                       ? mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                       : MAP_FAILED;
    close(file);
    if (memory == MAP_FAILED)
        return 0;
    comm->shared = memory;
    return 1;
}

void nccl_unmap(struct ncclComm *comm)
{
    char path[512];
    path_of(comm, path);
    unlink(path);
    munmap(comm->shared, sizeof(Shared));
}
