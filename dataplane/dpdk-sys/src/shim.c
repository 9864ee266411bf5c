/* DPDK's static inline functions as symbols. One call a burst. */

#include "dpdk.h"

#include <netinet/in.h>

#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_thash.h>

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

uint32_t turnpike_softrss(uint32_t *tuple, uint32_t words, const uint8_t *key)
{
	return rte_softrss(tuple, words, key);
}

static struct rte_flow *create(uint16_t port, const struct rte_flow_item *pattern,
	const struct rte_flow_action *actions)
{
	const struct rte_flow_attr attributes = { .ingress = 1 };
	struct rte_flow_error error = { 0 };

	return rte_flow_create(port, &attributes, pattern, actions, &error);
}

struct rte_flow *turnpike_flow_to_queue(uint16_t port, const struct turnpike_match *match, uint16_t queue)
{
	struct rte_flow_item_ipv4 v4 = { 0 }, v4_mask = { 0 };
	struct rte_flow_item_ipv6 v6 = { 0 }, v6_mask = { 0 };
	struct rte_flow_item_tcp tcp = { 0 }, tcp_mask = { 0 };
	struct rte_flow_item_udp udp = { 0 }, udp_mask = { 0 };
	struct rte_flow_item pattern[4] = { { .type = RTE_FLOW_ITEM_TYPE_ETH } };
	const struct rte_flow_action_queue to = { .index = queue };
	const struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	const rte_be16_t value = rte_cpu_to_be_16(match->value), mask = rte_cpu_to_be_16(match->mask);
	uint8_t *place, *place_mask;

	if (match->version == 4) {
		pattern[1] = (struct rte_flow_item){ .type = RTE_FLOW_ITEM_TYPE_IPV4 };
		place = (uint8_t *)(match->destination ? &v4.hdr.dst_addr : &v4.hdr.src_addr);
		place_mask = (uint8_t *)(match->destination ? &v4_mask.hdr.dst_addr : &v4_mask.hdr.src_addr);
	} else {
		pattern[1] = (struct rte_flow_item){ .type = RTE_FLOW_ITEM_TYPE_IPV6 };
		place = match->destination ? v6.hdr.dst_addr : v6.hdr.src_addr;
		place_mask = match->destination ? v6_mask.hdr.dst_addr : v6_mask.hdr.src_addr;
	}
	pattern[2] = (struct rte_flow_item){ .type = RTE_FLOW_ITEM_TYPE_END };
	pattern[3] = (struct rte_flow_item){ .type = RTE_FLOW_ITEM_TYPE_END };
	if (match->protocol == IPPROTO_TCP) {
		tcp.hdr.dst_port = value;
		tcp_mask.hdr.dst_port = mask;
		pattern[2] = (struct rte_flow_item){ .type = RTE_FLOW_ITEM_TYPE_TCP, .spec = &tcp, .mask = &tcp_mask };
	} else if (match->protocol == IPPROTO_UDP) {
		udp.hdr.dst_port = value;
		udp_mask.hdr.dst_port = mask;
		pattern[2] = (struct rte_flow_item){ .type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &udp, .mask = &udp_mask };
	} else {
		place[match->byte % (match->version == 4 ? 4 : 16)] = (uint8_t)match->value;
		place_mask[match->byte % (match->version == 4 ? 4 : 16)] = (uint8_t)match->mask;
		pattern[1].spec = match->version == 4 ? (const void *)&v4 : (const void *)&v6;
		pattern[1].mask = match->version == 4 ? (const void *)&v4_mask : (const void *)&v6_mask;
	}
	return create(port, pattern, actions);
}

struct rte_flow *turnpike_flow_spread_v6(uint16_t port, uint64_t types, const uint8_t *key, uint32_t length,
	const uint16_t *queues, uint32_t count)
{
	const struct rte_flow_item pattern[] = {
		{ .type = RTE_FLOW_ITEM_TYPE_ETH },
		{ .type = RTE_FLOW_ITEM_TYPE_IPV6 },
		{ .type = RTE_FLOW_ITEM_TYPE_END },
	};
	const struct rte_flow_action_rss spread = {
		.func = RTE_ETH_HASH_FUNCTION_TOEPLITZ,
		.types = types,
		.key_len = length,
		.queue_num = count,
		.key = key,
		.queue = queues,
	};
	const struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_RSS, .conf = &spread },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};

	return create(port, pattern, actions);
}

int turnpike_flow_destroy(uint16_t port, struct rte_flow *flow)
{
	struct rte_flow_error error = { 0 };

	return rte_flow_destroy(port, flow, &error);
}

int turnpike_errno(void)
{
	return rte_errno;
}

uint64_t turnpike_rdtsc(void)
{
	return rte_rdtsc();
}
