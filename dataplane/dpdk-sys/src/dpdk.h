/* What Turnpike uses of DPDK, as bindgen reads it and shim.c implements it. */

#ifndef TURNPIKE_DPDK_H
#define TURNPIKE_DPDK_H

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_dev.h>
#include <rte_cycles.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_ethdev.h>
#include <rte_eth_ring.h>
#include <rte_flow.h>
#include <rte_ring.h>
#include <rte_version.h>

/* Constants that DPDK defines as macros bindgen cannot evaluate. */
static const uint64_t TURNPIKE_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t TURNPIKE_TX_OFFLOAD_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t TURNPIKE_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t TURNPIKE_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t TURNPIKE_RSS_IPV4_L4 =
	RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t TURNPIKE_RSS_L4 =
	RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP |
	RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP;
static const uint64_t TURNPIKE_RSS_IPV6 =
	RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_TCP |
	RTE_ETH_RSS_NONFRAG_IPV6_UDP | RTE_ETH_RSS_NONFRAG_IPV6_OTHER;
static const uint64_t TURNPIKE_RSS_SOURCE_ONLY = RTE_ETH_RSS_L3_SRC_ONLY;
static const uint64_t TURNPIKE_RSS_DESTINATION_ONLY = RTE_ETH_RSS_L3_DST_ONLY;
static const uint64_t TURNPIKE_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint32_t TURNPIKE_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t TURNPIKE_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint32_t TURNPIKE_MTU_UNKNOWN = UINT16_MAX;
static const int32_t TURNPIKE_SOCKET_ANY = SOCKET_ID_ANY;
static const uint16_t TURNPIKE_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* Takes up to `count` packets from a started RX queue into `mbufs`. */
uint16_t turnpike_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Offers `count` packets to a started TX queue; the first so many as it returns are the queue's now. */
uint16_t turnpike_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* One buffer of the pool, or NULL. */
struct rte_mbuf *turnpike_pktmbuf_alloc(struct rte_mempool *pool);

/* Gives one packet with all its segments back. */
void turnpike_pktmbuf_free(struct rte_mbuf *mbuf);

/* Moves all segments into the first one; 0, or -1 if they do not fit. */
int turnpike_pktmbuf_linearize(struct rte_mbuf *mbuf);

/* Puts a VLAN tag that the device took off back into the frame. 0, or a negative errno; the packet may move. */
int turnpike_vlan_insert(struct rte_mbuf **mbuf);

/* DPDK's own software Toeplitz over `words` words of 32 bits in host byte order. */
uint32_t turnpike_softrss(uint32_t *tuple, uint32_t words, const uint8_t *key);

/* What a flow rule matches: `mask` bits of one byte or port of the packet, in host byte order. */
struct turnpike_match {
	uint8_t version;	/* 4 or 6 */
	uint8_t protocol;	/* IPPROTO_TCP or IPPROTO_UDP: the destination port; 0: an address */
	uint8_t destination;	/* of the addresses, 1: the destination's, 0: the source's */
	uint8_t byte;		/* which byte of the address, from its first */
	uint16_t value;
	uint16_t mask;
};

/* Sends what matches to an RX queue of a started port. NULL and rte_errno if the device cannot. */
struct rte_flow *turnpike_flow_to_queue(uint16_t port, const struct turnpike_match *match, uint16_t queue);

/* Spreads IPv6 over `count` entries of `queues` by a hash with a key of its own over fields of `types`. */
struct rte_flow *turnpike_flow_spread_v6(uint16_t port, uint64_t types, const uint8_t *key, uint32_t length,
	const uint16_t *queues, uint32_t count);

/* Takes a rule back. 0, or a negative errno. */
int turnpike_flow_destroy(uint16_t port, struct rte_flow *flow);

/* rte_errno of this thread. */
int turnpike_errno(void);

/* The time stamp counter. */
uint64_t turnpike_rdtsc(void);

#endif
