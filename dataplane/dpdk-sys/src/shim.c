/* DPDK's static inline functions as symbols. One call a burst. */

#include "dpdk.h"

#include <rte_ether.h>

uint16_t turnpike_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t turnpike_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

struct rte_mbuf *turnpike_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void turnpike_pktmbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

int turnpike_pktmbuf_linearize(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf);
}

int turnpike_vlan_insert(struct rte_mbuf **mbuf)
{
	return rte_vlan_insert(mbuf);
}

int turnpike_errno(void)
{
	return rte_errno;
}

uint64_t turnpike_rdtsc(void)
{
	return rte_rdtsc();
}
