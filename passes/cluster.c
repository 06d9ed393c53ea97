#include "passes/cluster.h"

/* Seconds for each byte of a ring of n that sums it. */
static double ring_s(uint32_t n, double bytes_per_s)
{
    return n > 1 ? 2.0 * (n - 1) / n / bytes_per_s : 0;
}

CostMachine cluster_machine(const Cluster *cluster, uint32_t n_stages, uint32_t n_replicas)
{
    const bool inside = cluster->n_nodes == 1 || (n_stages <= cluster->n_devices && cluster->n_devices % n_stages == 0);
    const uint32_t room = inside && n_stages <= cluster->n_devices ? cluster->n_devices / n_stages : 1;
    const uint32_t n_here = n_replicas < room ? n_replicas : room, n_nodes = (n_replicas + n_here - 1) / n_here;
    const uint32_t n_sharing = n_stages < cluster->n_devices ? n_stages : cluster->n_devices;
    const double byte_s =
        ring_s(n_here, cluster->link_bytes_per_s) + ring_s(n_nodes, cluster->node_bytes_per_s / n_sharing);
    return (CostMachine){.flops_per_s = cluster->flops_per_s,
                         .bf16_flops_per_s = cluster->flops_per_s, /* described for what it runs */
                         .bytes_per_s = cluster->bytes_per_s,
                         .op_s = cluster->op_s,
                         .link_bytes_per_s = inside ? cluster->link_bytes_per_s : cluster->node_bytes_per_s,
                         .link_s = inside ? cluster->link_s : cluster->node_s,
                         .sum_bytes_per_s = byte_s > 0 ? 1 / byte_s : cluster->link_bytes_per_s};
}
