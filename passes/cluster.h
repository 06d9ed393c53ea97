/* A described cluster: what its devices do and how they are tied together. */
#ifndef PTC_PASSES_CLUSTER_H
#define PTC_PASSES_CLUSTER_H

#include "passes/cost.h"

typedef struct
{
    uint32_t n_nodes, n_devices;     /* devices of one node */
    double flops_per_s, bytes_per_s; /* of a device: contractions, its memory */
    double op_s;                     /* to start an op */
    double link_bytes_per_s, link_s; /* between devices of a node; latency */
    double host_bytes_per_s;         /* of a device from the node's memory */
    double node_bytes_per_s, node_s; /* of a node to the others, all its devices together */
    int64_t device_bytes;            /* memory of a device; 0: no cap */
    int64_t host_bytes;              /* of a node, for cached outputs */
    double switch_s;                 /* a transition, without what is copied */
} Cluster;

/* One rank of K stages x R replicas, laid out rank by rank, node by node. The link is the slowest that a pipeline uses:
 * inside a node when K divides its devices. Sums go over the devices of a node first, then over the nodes (each way a
 * ring), and the stages of a node share its link. */
CostMachine cluster_machine(const Cluster *cluster, uint32_t n_stages, uint32_t n_replicas);

#endif
